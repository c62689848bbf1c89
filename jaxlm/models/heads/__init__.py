"""Output layers: from features to the distribution of the next token."""
