"""Traces and videos: where they come from, how their files are read, how they are split.

Traces are of use to any task on a link: a data object such as `datasets.Synthetic`, `Public` or `Folder` has `splits()`, a
`splits.Splits` of `traces.Trace`, which `readers.read_folder` reads from files of all the formats of `data=folder`.
"""
