"""What the commands share: flags from settings, one-line errors, tables."""
