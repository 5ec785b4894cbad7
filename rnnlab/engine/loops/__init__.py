"""A step as loops over the rows and columns of a batch, which `cpu` prints as C and `gpu` as Triton."""
