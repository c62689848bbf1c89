"""A page to play with: small models that run, and learn, in the reader's browser."""
