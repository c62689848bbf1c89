"""Runs as folders that Hugging Face's transformers reads.

`assets/modeling_jaxlm.py` is copied into each folder. jaxlm does not import this file, so it needs
no PyTorch.
"""
