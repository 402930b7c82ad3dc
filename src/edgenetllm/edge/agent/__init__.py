"""The agent: sessions of a bundle with a deadline, a guard and a fall-back policy, over HTTP or in process, without torch."""
