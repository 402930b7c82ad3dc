"""Search for an expert policy in the simulator, from which the language model then learns."""
