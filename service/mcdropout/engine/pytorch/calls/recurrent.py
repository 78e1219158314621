"""Recurrent layers, which drop between their layers, of padded and of packed sequences."""

from typing import Any

import torch
from torch import Tensor

from mcdropout.engine.errors import UnsupportedModelError
from mcdropout.engine.kinds import ELEMENT
from mcdropout.engine.pytorch.calls.dropout import apply_mask
from mcdropout.engine.pytorch.calls.mode import RandomCalls, handles
from mcdropout.engine.pytorch.mapping import is_mapped


@handles(torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu)
def _recurrent(mode: RandomCalls, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A recurrent layer, layer by layer, with a mask between each and the next."""
    is_packed = not isinstance(args[3], bool)
    first = 3 if is_packed else 2
    data, batch_sizes = args[0], args[1] if is_packed else None
    state, weights, biases, layers, p, training, both_ways = args[first - 1 : first + 6]
    batch_first = () if is_packed else (args[8],)
    if batch_sizes is None or not (torch.compiler.is_exporting() or is_mapped(batch_sizes)):
        rows = data.shape[0 if args[8] else 1] if batch_sizes is None else int(batch_sizes[0])
        _check_rows_of_state(state[0] if isinstance(state, tuple | list) else state, rows)
    if layers == 1 or p == 0.0:
        return func(*args, **kwargs)
    directions, each = (2 if both_ways else 1), len(weights) // layers
    ends: list[tuple[Tensor, ...]] = []
    for layer in range(layers):
        part = slice(layer * directions, (layer + 1) * directions)
        start = tuple(x[part] for x in state) if isinstance(state, tuple | list) else state[part]
        own = weights[layer * each : (layer + 1) * each]
        sizes = () if batch_sizes is None else (batch_sizes,)
        data, *end = func(data, *sizes, start, own, biases, 1, 0.0, False, both_ways, *batch_first)
        ends.append(tuple(end))
        if layer < layers - 1:
            data = _between_layers(mode, data, batch_sizes, float(p), training)
    return (data, *(torch.cat(parts) for parts in zip(*ends, strict=True)))


def _check_rows_of_state(state: Tensor, rows: Any) -> None:
    """Refuse a state `[layers, rows, units]` of other rows than the input, outside of which PyTorch reads memory.

    The modules check that, but not the functions, which a traced network calls.
    """
    held = state.shape[1]
    if type(held) is int and type(rows) is int and held != rows:
        raise UnsupportedModelError(
            f"a recurrent layer begins in a state of {held} row{'' if held == 1 else 's'} and is given {rows}; a state "
            "of as many rows as the input has, as torch.zeros(layers, x.shape[0], units) makes it, is accepted"
        )


def _between_layers(mode: RandomCalls, data: Tensor, batch_sizes: Tensor | None, p: float, training: bool) -> Tensor:
    if batch_sizes is None:
        return apply_mask(data, mode.ask(ELEMENT, p, training, data.shape, data))
    steps, rows = max(len(batch_sizes), mode.padded_steps), int(batch_sizes[0])
    mask = mode.ask(ELEMENT, p, training, (steps, rows, data.shape[-1]))
    if mask is None:
        return data
    assert isinstance(mask, Tensor)
    packed = mode.packed()
    if packed is None:
        raise UnsupportedModelError(
            "a recurrent layer with dropout between its layers gets sequences packed in an order that is not known; "
            "a layer that is called with a PackedSequence, as layer(packed), is accepted"
        )
    if packed.sorted_indices is not None:
        mask = mask.index_select(1, packed.sorted_indices)
    return data * torch.cat([mask[step, :size] for step, size in enumerate(batch_sizes.tolist())]).to(data.dtype)


@handles(torch._pack_padded_sequence)
def _pack(mode: RandomCalls, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Packing forgets how many steps there could be; masks are drawn for all of them."""
    padded, batch_first = args[0], args[2]
    mode.padded_steps = max(mode.padded_steps, padded.shape[1 if batch_first else 0])
    return func(*args, **kwargs)
