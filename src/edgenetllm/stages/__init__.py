"""One file per command, and the steps that they share."""
