"""Networks of segmentation-models-pytorch, over small encoders: a class for each pixel."""

from functools import partial

import segmentation_models_pytorch as smp
import torch
from torch import Tensor

from benchmarks.networks.case import Case

CLASSES = 3


def _pictures(rows: int) -> Tensor:
    return torch.randn(rows, 3, 64, 64)


_SMALL = {"encoder_name": "timm-mobilenetv3_small_minimal_100", "encoder_weights": None, "classes": CLASSES}

CASES = [
    Case(
        "smp/fpn",
        partial(smp.FPN, **_SMALL, decoder_pyramid_channels=32, decoder_segmentation_channels=32, decoder_dropout=0.2),
        _pictures,
    ),
    Case("smp/pspnet", partial(smp.PSPNet, **_SMALL, psp_out_channels=32, psp_dropout=0.2), _pictures),
    Case(
        "smp/deeplab-v3-plus",
        partial(
            smp.DeepLabV3Plus,
            encoder_name="mobilenet_v2",
            encoder_weights=None,
            classes=CLASSES,
            decoder_channels=32,
            decoder_aspp_dropout=0.5,
        ),
        _pictures,
    ),
    Case(
        "smp/unet-label",
        partial(
            smp.Unet, **_SMALL, decoder_channels=(32, 16, 16, 8, 8), aux_params={"classes": CLASSES, "dropout": 0.3}
        ),
        _pictures,
        outputs=1,
    ),
]
