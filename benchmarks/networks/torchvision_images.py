"""Networks of torchvision, with its own dropout and stochastic depth."""

from functools import partial

import torch
from torch import Tensor
from torchvision import models

from benchmarks.networks.case import Case

CLASSES = 5


def _pictures(side: int, rows: int) -> Tensor:
    return torch.randn(rows, 3, side, side)


CASES = [
    Case("torchvision/squeezenet", partial(models.squeezenet1_1, num_classes=CLASSES), partial(_pictures, 64)),
    Case(
        "torchvision/mobilenet-v2",
        partial(models.mobilenet_v2, num_classes=CLASSES, width_mult=0.25),
        partial(_pictures, 32),
    ),
    Case("torchvision/mobilenet-v3", partial(models.mobilenet_v3_small, num_classes=CLASSES), partial(_pictures, 32)),
    Case(
        "torchvision/googlenet",
        partial(models.googlenet, num_classes=CLASSES, aux_logits=False, init_weights=False),
        partial(_pictures, 32),
    ),
    Case(
        "torchvision/vit",
        partial(models.VisionTransformer, 32, 8, 2, 2, 32, 64, dropout=0.1, attention_dropout=0.1, num_classes=CLASSES),
        partial(_pictures, 32),
    ),
    Case(
        "torchvision/swin",
        partial(
            models.SwinTransformer,
            [4, 4],
            16,
            [2, 2],
            [2, 2],
            [4, 4],
            dropout=0.1,
            attention_dropout=0.1,
            stochastic_depth_prob=0.3,
            num_classes=CLASSES,
        ),
        partial(_pictures, 32),
    ),
]
