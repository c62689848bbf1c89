"""From text to batches of token ids: corpora, tokenizers, vocabularies, batching. NumPy only; no
module of this folder imports JAX.
"""
