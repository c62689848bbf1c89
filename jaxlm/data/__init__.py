"""Text in, token ids out: tokenizers, vocabularies, corpora and batches. NumPy only; nothing here
imports JAX.
"""
