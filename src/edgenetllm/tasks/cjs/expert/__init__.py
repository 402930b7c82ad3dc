"""Search for an expert rule by evolution, from which the language model then learns."""
