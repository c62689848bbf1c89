"""Recurrent language models: a cell run over time, in layers."""
