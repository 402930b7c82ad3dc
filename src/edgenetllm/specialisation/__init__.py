"""Specialisation: encoder and head of a bundle learn another domain or task on its sparse backbone, which stays as it is."""
