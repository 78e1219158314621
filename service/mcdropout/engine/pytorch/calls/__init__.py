"""Random calls: every function of PyTorch that draws, seen while a network runs, and what a mask does in its place."""

from mcdropout.engine.pytorch.calls import derived, fixed, numbers, recurrent
from mcdropout.engine.pytorch.calls.dropout import apply_mask as apply_mask
from mcdropout.engine.pytorch.calls.mode import RandomCalls as RandomCalls
from mcdropout.engine.pytorch.calls.mode import handles as handles

__all__ = ["RandomCalls", "apply_mask", "handles"]
# Imported for the functions that they handle.
_HANDLED = (derived, fixed, numbers, recurrent)
