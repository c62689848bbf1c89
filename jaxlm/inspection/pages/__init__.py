"""Pages that show what a model does: one file, without network, in English and Chinese."""
