"""The n-gram: counting, smoothing, and the tables it is asked from. NumPy only; nothing here
imports JAX.

An n-gram is known by a pair: the id of what comes before its last word (itself an n-gram, one
shorter) and that word. Packed into one integer, prefix · (V + 1) + word, the pairs of an order are
sorted; a pair's place is the id of its n-gram. So the words that follow a context lie side by side,
and an n-gram is found by one binary search from the id of its prefix. Word ids are 0 ... V - 1, and
V stands for a line's start, which is only ever the first word of an n-gram.
"""
