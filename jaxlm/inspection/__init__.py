"""What a model and a compiled program do inside."""
