"""Pure functions of tensors; every formula with its paper and equation."""
