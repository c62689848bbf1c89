"""A run's folder: the run, its settings, log, checkpoints and plots."""
