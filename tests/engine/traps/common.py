"""What the tests of traps share: finding sites, running under masks, comparing."""

import numpy as np
import torch

from mcdropout.engine.masks import MaskSource
from mcdropout.engine.pytorch.find.discovery import discover


def find(module, *inputs):
    return discover(module, inputs).network


def ran(network, *inputs, masks):
    outputs = network.run(inputs, masks)
    return outputs[0] if len(outputs) == 1 else outputs


def drawn(network, rows, number=0):
    masks = MaskSource(network.sites).draw([1] * rows, range(rows), number, 1)
    return [torch.from_numpy(mask) for mask in masks]


def kept(network, rows):
    return [torch.from_numpy(mask) for mask in MaskSource(network.sites).keep_everything(rows)]


def looped(module, x, passes):
    """What a plain loop in train mode gives, a row at a time: `[passes, rows, ...]`."""
    module.train()
    with torch.no_grad():
        found = np.stack([torch.cat([module(x[i : i + 1]) for i in range(len(x))]).numpy() for _ in range(passes)])
    module.eval()
    return found.astype(np.float64)


def names(network):
    return [site.name for site in network.sites]


def same(found, wanted, tolerance=1e-6):
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


def has_eval_mode_and_every_site_has_an_effect(module, network, *inputs):
    rows = len(inputs[0])
    plain = ran(network, *inputs, masks=kept(network, rows))
    same(plain, module.eval()(*inputs), 1e-5)
    for index in range(len(network.sites)):
        one = kept(network, rows)
        one[index] = torch.zeros_like(one[index])
        assert not torch.allclose(ran(network, *inputs, masks=one), plain)
