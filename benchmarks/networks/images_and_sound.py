"""Networks of transformers that see, hear or read series, small, with the heads that users ask."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import transformers

from benchmarks.networks.case import Case, Given

LABELS = 3
_LAYERS = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_labels": LABELS,
}
_DROPS = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
_PATCHES = {"image_size": 32, "patch_size": 8, **_DROPS}
_SOUND = {
    **_LAYERS,
    "conv_dim": (16, 16),
    "conv_stride": (5, 4),
    "conv_kernel": (10, 8),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 8,
    "feat_extract_norm": "layer",
    "apply_spec_augment": False,
    "mask_time_prob": 0.0,
    "vocab_size": 20,
}


def _pictures(rows: int, side: int = 32) -> Given:
    return {"pixel_values": torch.randn(rows, 3, side, side)}


def _films(rows: int) -> Given:
    return {"pixel_values": torch.randn(rows, 4, 3, 16, 16)}


def _waves(rows: int) -> Given:
    return {"input_values": torch.randn(rows, 400)}


def _series(rows: int) -> Given:
    return {"past_values": torch.randn(rows, 32, 2)}


def _case(
    name: str,
    config: str,
    network: str,
    sizes: dict[str, Any],
    inputs: Callable[[int], Given] = _pictures,
    outputs: str = "logits",
    **told: Any,
) -> Case:
    return Case(f"transformers/{name}", partial(_build, config, network, sizes), inputs, outputs=outputs, **told)


def _build(config: str, network: str, sizes: dict[str, Any]) -> torch.nn.Module:
    return getattr(transformers, network)(getattr(transformers, config)(**sizes))


def _detr() -> torch.nn.Module:
    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", out_features=["stage2"]
    )
    config = transformers.DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=backbone,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_queries=5,
        num_labels=LABELS,
        auxiliary_loss=False,
        attention_dropout=0.1,
    )
    return transformers.DetrForObjectDetection(config)


CASES = [
    _case("deit-teacher", "DeiTConfig", "DeiTForImageClassificationWithTeacher", {**_LAYERS, **_PATCHES}),
    _case(
        "beit",
        "BeitConfig",
        "BeitForImageClassification",
        {**_LAYERS, **_PATCHES, "drop_path_rate": 0.2, "vocab_size": 30, "use_relative_position_bias": True},
    ),
    _case("dinov2", "Dinov2Config", "Dinov2ForImageClassification", {**_LAYERS, **_PATCHES, "drop_path_rate": 0.2}),
    _case(
        "yolos",
        "YolosConfig",
        "YolosForObjectDetection",
        {**_LAYERS, "image_size": [32, 32], "patch_size": 8, **_DROPS, "num_detection_tokens": 5},
        axis=-1,
    ),
    _case(
        "swinv2",
        "Swinv2Config",
        "Swinv2ForImageClassification",
        {
            "image_size": 32,
            "patch_size": 4,
            "embed_dim": 8,
            "depths": [2, 2],
            "num_heads": [2, 2],
            "window_size": 4,
            "drop_path_rate": 0.2,
            **_DROPS,
            "num_labels": LABELS,
        },
    ),
    _case(
        "convnextv2",
        "ConvNextV2Config",
        "ConvNextV2ForImageClassification",
        {"num_stages": 2, "hidden_sizes": [8, 16], "depths": [2, 2], "drop_path_rate": 0.3, "num_labels": LABELS},
    ),
    _case(
        "segformer-pixels",
        "SegformerConfig",
        "SegformerForSemanticSegmentation",
        {
            "num_encoder_blocks": 2,
            "depths": [1, 1],
            "sr_ratios": [2, 1],
            "hidden_sizes": [8, 16],
            "patch_sizes": [7, 3],
            "strides": [4, 2],
            "num_attention_heads": [1, 2],
            "mlp_ratios": [2, 2],
            "decoder_hidden_size": 16,
            "drop_path_rate": 0.2,
            **_DROPS,
            "num_labels": LABELS,
        },
    ),
    Case("transformers/detr", _detr, partial(_pictures, side=64), outputs="logits", axis=-1),
    _case(
        "clip-vision",
        "CLIPVisionConfig",
        "CLIPVisionModel",
        {**_LAYERS, "image_size": 32, "patch_size": 8, "attention_dropout": 0.2},
        outputs="pooler_output",
        task="regression",
    ),
    _case(
        "dpt-pixels",
        "DPTConfig",
        "DPTForSemanticSegmentation",
        {
            **_LAYERS,
            **_PATCHES,
            "is_hybrid": False,
            "backbone_out_indices": [0, 1],
            "neck_hidden_sizes": [8, 8],
            "reassemble_factors": [1, 0.5],
            "fusion_hidden_size": 8,
        },
    ),
    _case(
        "mobilevit",
        "MobileViTConfig",
        "MobileViTForImageClassification",
        {
            "image_size": 32,
            "hidden_sizes": [8, 16, 16],
            "neck_hidden_sizes": [8, 8, 8, 8, 8, 8, 16],
            "num_attention_heads": 2,
            "num_labels": LABELS,
            **_DROPS,
        },
        partial(_pictures, side=64),
    ),
    _case(
        "efficientnet",
        "EfficientNetConfig",
        "EfficientNetForImageClassification",
        {
            "image_size": 32,
            "kernel_sizes": [3, 3],
            "in_channels": [32, 8],
            "out_channels": [8, 8],
            "depthwise_padding": [],
            "strides": [1, 1],
            "num_block_repeats": [1, 2],
            "expand_ratios": [1, 2],
            "hidden_dim": 1280,
            "width_coefficient": 1.0,
            "depth_coefficient": 1.0,
            "drop_connect_rate": 0.3,
            "dropout_rate": 0.3,
            "num_labels": LABELS,
        },
    ),
    _case(
        "pvt-v2",
        "PvtV2Config",
        "PvtV2ForImageClassification",
        {
            "image_size": 32,
            "num_encoder_blocks": 2,
            "depths": [1, 1],
            "sr_ratios": [2, 1],
            "hidden_sizes": [8, 16],
            "patch_sizes": [7, 3],
            "strides": [4, 2],
            "num_attention_heads": [1, 2],
            "mlp_ratios": [2, 2],
            "drop_path_rate": 0.3,
            **_DROPS,
            "num_labels": LABELS,
        },
    ),
    _case(
        "focalnet",
        "FocalNetConfig",
        "FocalNetForImageClassification",
        {
            "image_size": 32,
            "embed_dim": 8,
            "hidden_sizes": [8, 16],
            "depths": [1, 1],
            "focal_levels": [1, 1],
            "focal_windows": [3, 3],
            "drop_path_rate": 0.3,
            "hidden_dropout_prob": 0.1,
            "num_labels": LABELS,
        },
    ),
    _case(
        "videomae",
        "VideoMAEConfig",
        "VideoMAEForVideoClassification",
        {**_LAYERS, "image_size": 16, "patch_size": 8, "num_frames": 4, "tubelet_size": 2, **_DROPS},
        _films,
    ),
    _case(
        "timesformer",
        "TimesformerConfig",
        "TimesformerForVideoClassification",
        {**_LAYERS, "image_size": 16, "patch_size": 8, "num_frames": 4, **_DROPS},
        _films,
        alone=True,  # a row's class token is dropped by the mask of another row's frame
    ),
    _case(
        "ast",
        "ASTConfig",
        "ASTForAudioClassification",
        {
            **_LAYERS,
            "max_length": 32,
            "num_mel_bins": 16,
            "patch_size": 8,
            "frequency_stride": 8,
            "time_stride": 8,
            **_DROPS,
        },
        lambda rows: {"input_values": torch.randn(rows, 32, 16)},
    ),
    _case("hubert", "HubertConfig", "HubertForSequenceClassification", {**_SOUND, "layerdrop": 0.0}, _waves),
    _case("hubert-layerdrop", "HubertConfig", "HubertForSequenceClassification", {**_SOUND, "layerdrop": 0.3}, _waves),
    _case(
        "wavlm-frames", "WavLMConfig", "WavLMForAudioFrameClassification", {**_SOUND, "layerdrop": 0.0}, _waves, axis=-1
    ),
    _case(
        "unispeech-letters", "UniSpeechSatConfig", "UniSpeechSatForCTC", {**_SOUND, "layerdrop": 0.0}, _waves, axis=-1
    ),
    _case(
        "patchtst",
        "PatchTSTConfig",
        "PatchTSTForPrediction",
        {
            "num_input_channels": 2,
            "context_length": 32,
            "patch_length": 8,
            "patch_stride": 8,
            "num_hidden_layers": 2,
            "d_model": 16,
            "num_attention_heads": 2,
            "ffn_dim": 32,
            "prediction_length": 4,
            "dropout": 0.1,
            "head_dropout": 0.2,
            "attention_dropout": 0.1,
            "loss": "mse",
        },
        _series,
        outputs="prediction_outputs",
        task="regression",
    ),
    _case(
        "patchtsmixer",
        "PatchTSMixerConfig",
        "PatchTSMixerForTimeSeriesClassification",
        {
            "num_input_channels": 2,
            "context_length": 32,
            "patch_length": 8,
            "patch_stride": 8,
            "num_layers": 2,
            "d_model": 16,
            "num_targets": LABELS,
            "dropout": 0.2,
            "head_dropout": 0.2,
        },
        _series,
        outputs="prediction_outputs",
    ),
]
