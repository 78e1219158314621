"""Silent layers: those of PyTorch's own that draw nothing, so that a random call is never made in them."""

from torch import nn

_FAMILIES = ("linear", "conv", "batchnorm", "instancenorm", "normalization", "sparse", "flatten", "padding")
_SILENT = frozenset(f"torch.nn.modules.{family}" for family in _FAMILIES)
_ACTIVATIONS = "torch.nn.modules.activation"
_THAT_DRAW = (nn.RReLU, nn.MultiheadAttention)


def never_draws(part: nn.Module) -> bool:
    """Whether it is such a layer as PyTorch has it, with nothing hooked to it; what is in it may draw."""
    if part._forward_hooks or part._forward_pre_hooks or "forward" in vars(part):
        return False
    kind = type(part)
    if kind.__module__ == _ACTIVATIONS:
        return kind not in _THAT_DRAW
    return kind is nn.Sequential or kind.__module__ in _SILENT
