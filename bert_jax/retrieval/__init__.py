"""Searches a corpus on disk with an embedder, and mines hard negatives from one.

`documents` reads a corpus and queries with their ids, `index` keeps the vectors of a corpus in a file and `quantised`
copies of them in fewer bits, `ranked` finds, reranks, writes and scores the nearest documents of queries, `searching`
is all of that in one call, `mining` finds hard negatives for pairs, and `rescoring` scores these with a cross-encoder.
"""
