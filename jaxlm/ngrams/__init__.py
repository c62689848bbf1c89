"""N-gram models: counting, smoothing, and the tables of a back-off model. NumPy only; no module
of this folder imports JAX.

The order of an n-gram is its number of words. The id of a single word is the word id. The id of a
longer n-gram is its place among the sorted keys of its order:

    key(h w) = id(h) · (V + 1) + w        h: the n-gram without its last word w

Word ids are 0 ... V - 1. V stands for the start of a line, and occurs only as the first word of an
n-gram. All n-grams with the same prefix h are neighbours, because keys are sorted. One binary
search finds an n-gram from the id of its prefix.
"""
