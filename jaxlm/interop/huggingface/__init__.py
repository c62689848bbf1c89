"""Runs as folders that Hugging Face's transformers reads.

`modeling_jaxlm.py` is copied into each folder; jaxlm itself does not import it, so it needs no
PyTorch.
"""
