"""Steps on a GPU: as Triton kernels, and where there are none as recorded operations of PyTorch."""
