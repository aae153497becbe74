"""Searches a corpus on disk with an embedder, and mines hard negatives from one.

`documents` reads a corpus and queries with their ids, `index` keeps the vectors of a corpus in a file, `ranked` finds,
writes and scores the nearest documents of queries, and `mining` finds hard negatives for pairs.
"""
