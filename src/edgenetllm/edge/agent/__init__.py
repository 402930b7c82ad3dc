"""The agent: sessions of a bundle's policies over HTTP, with limits, counts and a log, without torch."""
