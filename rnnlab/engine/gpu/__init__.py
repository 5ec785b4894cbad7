"""One time step on a GPU: compiled by ``torch.compile`` and recorded as a CUDA graph."""
