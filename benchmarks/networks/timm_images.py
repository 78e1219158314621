"""Networks of timm, small ones of its own and those of its classes: dropout, stochastic depth, attention dropout."""

from collections.abc import Callable
from functools import partial
from typing import Any

import timm
import torch
from timm.models.mlp_mixer import MlpMixer
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from benchmarks.networks.case import Case

CLASSES = 5


def _pictures(side: int, rows: int) -> Tensor:
    return torch.randn(rows, 3, side, side)


def _case(
    name: str, model: str | Callable[..., nn.Module], side: int = 32, alone: bool = False, **options: Any
) -> Case:
    build = partial(timm.create_model, model) if isinstance(model, str) else model
    return Case(f"timm/{name}", partial(build, num_classes=CLASSES, **options), partial(_pictures, side), alone=alone)


_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}

CASES = [
    _case("resnet", "test_resnet", drop_rate=0.2, drop_path_rate=0.2),
    _case("resnet-dropblock", "test_resnet", 64, alone=True, drop_block_rate=0.1),
    _case("convnext", "test_convnext", drop_rate=0.2, drop_path_rate=0.3),
    _case("convnext-v2", "test_convnext2", drop_path_rate=0.3),
    _case("efficientnet", "test_efficientnet", drop_rate=0.2, drop_path_rate=0.3),
    _case("nfnet", "test_nfnet", drop_rate=0.2, drop_path_rate=0.3),
    _case("byobnet", "test_byobnet", drop_rate=0.2, drop_path_rate=0.3),
    _case("mambaout", "test_mambaout", drop_rate=0.2, drop_path_rate=0.3),
    _case("regnet", "regnetx_002", drop_rate=0.3),
    _case("densenet", "densenet121", drop_rate=0.2, growth_rate=8, block_config=(2, 2, 2)),
    _case("mobilenet-v3", "mobilenetv3_small_050", drop_rate=0.3, drop_path_rate=0.2),
    _case(
        "vit",
        VisionTransformer,
        **_VIT,
        drop_rate=0.1,
        pos_drop_rate=0.1,
        attn_drop_rate=0.1,
        proj_drop_rate=0.1,
        drop_path_rate=0.2,
    ),
    _case("vit-patch-dropout", VisionTransformer, **_VIT, patch_drop_rate=0.5),
    _case(
        "deit-scaled",
        VisionTransformer,
        **_VIT,
        init_values=0.1,
        class_token=True,
        global_pool="avg",
        qk_norm=True,
        drop_path_rate=0.3,
    ),
    _case(
        "swin",
        SwinTransformer,
        img_size=32,
        patch_size=4,
        window_size=4,
        embed_dim=16,
        depths=(2, 2),
        num_heads=(2, 2),
        drop_rate=0.1,
        proj_drop_rate=0.1,
        attn_drop_rate=0.1,
        drop_path_rate=0.2,
    ),
    _case(
        "mixer",
        MlpMixer,
        img_size=32,
        patch_size=8,
        num_blocks=2,
        embed_dim=32,
        drop_rate=0.1,
        proj_drop_rate=0.1,
        drop_path_rate=0.2,
    ),
]
