"""Pure array functions: no parameters, no modules."""
