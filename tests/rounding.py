"""Products of factors that are rounded to bfloat16, as compiled steps compute them, written out with autograd."""

import torch


def rounded(tensor):
    """The nearest bfloat16 numbers, in the dtype of the tensor."""
    return tensor.to(torch.bfloat16).to(tensor.dtype)


class RoundedProduct(torch.autograd.Function):
    """``rows @ weight.t()`` of rounded factors; likewise the rows' gradient, but not the weight's."""

    @staticmethod
    def forward(ctx, rows, weight):
        ctx.save_for_backward(rows, weight)
        return rounded(rows) @ rounded(weight).t()

    @staticmethod
    def backward(ctx, gradient):
        rows, weight = ctx.saved_tensors
        return rounded(gradient) @ rounded(weight), gradient.t() @ rows
