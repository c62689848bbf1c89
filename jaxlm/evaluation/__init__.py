"""Scores, perplexity, mixtures, generation and adaptation of a run."""
