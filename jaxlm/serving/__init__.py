"""Answer requests over HTTP: the application, its limits, and the workers that own the models."""
