"""The loops of a step as Triton kernels; a step without kernels is compiled by ``torch.compile`` and recorded."""
