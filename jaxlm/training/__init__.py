"""Training: optimizers, the jit-compiled step, the loop, its log, its checkpoints and its runs."""
