"""Networks of transformers that read text, two layers each, with the heads that users ask."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import transformers
from torch import Tensor

from benchmarks.networks.case import Case, Given

LABELS, STEPS, WORDS = 3, 8, 60
_TEXT = {"vocab_size": WORDS, "max_position_embeddings": 32, "num_labels": LABELS, "pad_token_id": 0}
_LAYERS = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
_BERT = {**_TEXT, **_LAYERS}


def words(rows: int) -> dict[str, Tensor]:
    """Token ids with a mask; every third text is shorter, padded behind."""
    attended = torch.ones(rows, STEPS, dtype=torch.long)
    attended[2::3, -3:] = 0
    return {"input_ids": torch.randint(5, WORDS - 5, (rows, STEPS)) * attended, "attention_mask": attended}


def _choices(rows: int) -> dict[str, Tensor]:
    return {name: x.unflatten(0, (rows, 2)) for name, x in words(2 * rows).items()}


def _pages(rows: int) -> dict[str, Tensor]:
    corners = torch.randint(0, 400, (rows, STEPS, 2))
    return {**words(rows), "bbox": torch.cat([corners, corners + 100], -1)}


def _pairs(rows: int) -> dict[str, Tensor]:
    return {**words(rows), "decoder_input_ids": torch.randint(5, WORDS - 5, (rows, 5))}


def _seen(rows: int) -> dict[str, Tensor]:
    return {**words(rows), "pixel_values": torch.randn(rows, 3, 32, 32)}


def _ended(rows: int) -> dict[str, Tensor]:
    """Texts whose last word is the end, which is where BART's heads look."""
    given = {"input_ids": torch.randint(5, WORDS - 5, (rows, STEPS))}
    given["input_ids"][:, -1] = 2
    return given


def _bytes(rows: int) -> dict[str, Tensor]:
    return {"input_ids": torch.randint(5, 100, (rows, 64)), "attention_mask": torch.ones(rows, 64, dtype=torch.long)}


def _case(
    name: str,
    config: str,
    network: str,
    sizes: dict[str, Any],
    inputs: Callable[[int], Given] = words,
    outputs: str = "logits",
    **told: Any,
) -> Case:
    return Case(f"transformers/{name}", partial(_build, config, network, sizes), inputs, outputs=outputs, **told)


def _build(config: str, network: str, sizes: dict[str, Any]) -> torch.nn.Module:
    return getattr(transformers, network)(getattr(transformers, config)(**sizes))


_SEQ2SEQ = {
    "vocab_size": WORDS,
    "max_position_embeddings": 32,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
    "num_labels": LABELS,
    "attention_dropout": 0.1,
    "activation_dropout": 0.1,
}
_EAGER = {"attn_implementation": "eager"}

CASES = [
    _case("roberta-tokens", "RobertaConfig", "RobertaForTokenClassification", _BERT, axis=-1),
    _case("electra", "ElectraConfig", "ElectraForSequenceClassification", {**_BERT, "embedding_size": 8}),
    _case("electra-replaced", "ElectraConfig", "ElectraForPreTraining", _BERT, task="multilabel"),
    _case("camembert-choices", "CamembertConfig", "CamembertForMultipleChoice", {**_BERT, "num_labels": 1}, _choices),
    _case(
        "xlm-roberta-answers",
        "XLMRobertaConfig",
        "XLMRobertaForQuestionAnswering",
        {**_BERT, "num_labels": 2},
        outputs="start_logits",
    ),
    _case("mpnet", "MPNetConfig", "MPNetForSequenceClassification", _BERT),
    _case("megatron-bert", "MegatronBertConfig", "MegatronBertForSequenceClassification", _BERT),
    _case(
        "bert-regression", "BertConfig", "BertForSequenceClassification", {**_BERT, "num_labels": 1}, task="regression"
    ),
    _case("bert-masked", "BertConfig", "BertForMaskedLM", _BERT, axis=-1),
    _case(
        "deberta",
        "DebertaConfig",
        "DebertaForSequenceClassification",
        {**_BERT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "type_vocab_size": 0},
    ),
    _case(
        "deberta-v2-tokens",
        "DebertaV2Config",
        "DebertaV2ForTokenClassification",
        {
            **_BERT,
            "relative_attention": True,
            "position_buckets": 4,
            "pos_att_type": ["c2p", "p2c"],
            "conv_kernel_size": 3,
            "conv_act": "gelu",
        },
        axis=-1,
    ),
    _case("roformer", "RoFormerConfig", "RoFormerForSequenceClassification", _BERT),
    _case(
        "nystromformer",
        "NystromformerConfig",
        "NystromformerForSequenceClassification",
        {**_BERT, "num_landmarks": 4, "segment_means_seq_len": STEPS, "conv_kernel_size": 3},
        lambda rows: {"input_ids": words(rows)["input_ids"]},
        alone=True,  # its inverses begin at the largest number of all rows
    ),
    _case(
        "fnet",
        "FNetConfig",
        "FNetForSequenceClassification",
        _BERT,
        lambda rows: {"input_ids": words(rows)["input_ids"]},
    ),
    _case(
        "convbert",
        "ConvBertConfig",
        "ConvBertForSequenceClassification",
        {**_BERT, "conv_kernel_size": 3, "head_ratio": 1},
    ),
    _case(
        "squeezebert",
        "SqueezeBertConfig",
        "SqueezeBertForSequenceClassification",
        {
            **_BERT,
            "embedding_size": 16,
            "q_groups": 2,
            "k_groups": 2,
            "v_groups": 2,
            "post_attention_groups": 1,
            "intermediate_groups": 2,
            "output_groups": 2,
        },
    ),
    _case(
        "mobilebert",
        "MobileBertConfig",
        "MobileBertForSequenceClassification",
        {
            **_BERT,
            "embedding_size": 16,
            "intra_bottleneck_size": 16,
            "num_feedforward_networks": 2,
            "hidden_dropout_prob": 0.1,
        },
    ),
    _case(
        "longformer",
        "LongformerConfig",
        "LongformerForSequenceClassification",
        {**_BERT, "attention_window": 4, "sep_token_id": 2},
    ),
    _case("bigbird", "BigBirdConfig", "BigBirdForSequenceClassification", {**_BERT, "attention_type": "original_full"}),
    _case(
        "layoutlm-tokens",
        "LayoutLMConfig",
        "LayoutLMForTokenClassification",
        {**_BERT, "max_2d_position_embeddings": 512},
        _pages,
        axis=-1,
    ),
    _case(
        "vilt",
        "ViltConfig",
        "ViltForQuestionAnswering",
        {**_BERT, "image_size": 32, "patch_size": 8, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1},
        _seen,
    ),
    _case(
        "canine",
        "CanineConfig",
        "CanineForSequenceClassification",
        {
            **_LAYERS,
            "max_position_embeddings": 128,
            "num_labels": LABELS,
            "num_hash_buckets": 128,
            "local_transformer_stride": 16,
            "downsampling_rate": 4,
        },
        _bytes,
    ),
    _case(
        "esm",
        "EsmConfig",
        "EsmForSequenceClassification",
        {
            **_BERT,
            "mask_token_id": 4,
            "hidden_dropout_prob": 0.1,
            "attention_probs_dropout_prob": 0.1,
            "token_dropout": True,
            "position_embedding_type": "rotary",
        },
    ),
    _case(
        "modernbert",
        "ModernBertConfig",
        "ModernBertForSequenceClassification",
        {
            **_BERT,
            "attention_dropout": 0.1,
            "mlp_dropout": 0.1,
            "embedding_dropout": 0.1,
            "classifier_dropout": 0.1,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "cls_token_id": 1,
            "sep_token_id": 2,
            "local_attention": 4,
        },
    ),
    _case(
        "funnel",
        "FunnelConfig",
        "FunnelForSequenceClassification",
        {
            "vocab_size": WORDS,
            "block_sizes": [1, 1],
            "num_decoder_layers": 1,
            "d_model": 16,
            "n_head": 2,
            "d_head": 8,
            "d_inner": 32,
            "num_labels": LABELS,
        },
    ),
    _case(
        "xlnet",
        "XLNetConfig",
        "XLNetForSequenceClassification",
        {
            "vocab_size": WORDS,
            "d_model": 16,
            "n_layer": 2,
            "n_head": 2,
            "d_inner": 32,
            "num_labels": LABELS,
            "pad_token_id": 0,
        },
    ),
    _case(
        "flaubert",
        "FlaubertConfig",
        "FlaubertForSequenceClassification",
        {
            "vocab_size": WORDS,
            "emb_dim": 16,
            "n_layers": 2,
            "n_heads": 2,
            "num_labels": LABELS,
            "layerdrop": 0.2,
            "pad_index": 0,
        },
    ),
    _case(
        "reformer",
        "ReformerConfig",
        "ReformerForSequenceClassification",
        {
            "vocab_size": WORDS,
            "hidden_size": 16,
            "num_attention_heads": 2,
            "attention_head_size": 8,
            "feed_forward_size": 32,
            "attn_layers": ["local", "lsh"],
            "axial_pos_shape": [4, 4],
            "axial_pos_embds_dim": [8, 8],
            "max_position_embeddings": 16,
            "local_attn_chunk_length": 4,
            "lsh_attn_chunk_length": 4,
            "num_hashes": 1,
            "num_buckets": 2,
            "is_decoder": False,
            "pad_token_id": 0,
            "num_labels": LABELS,
        },
        lambda rows: {"input_ids": torch.randint(5, 50, (rows, 16))},
    ),
    _case(
        "gpt-neo",
        "GPTNeoConfig",
        "GPTNeoForSequenceClassification",
        {
            **_TEXT,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "hidden_size": 16,
            "num_layers": 2,
            "num_heads": 2,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 4,
            "embed_dropout": 0.1,
            "attention_dropout": 0.1,
            "resid_dropout": 0.1,
        },
    ),
    _case(
        "gpt-neox-next-word",
        "GPTNeoXConfig",
        "GPTNeoXForCausalLM",
        {**_BERT, "hidden_dropout": 0.1, "attention_dropout": 0.1, "use_cache": False},
        axis=-1,
    ),
    _case(
        "opt",
        "OPTConfig",
        "OPTForSequenceClassification",
        {
            **_TEXT,
            "hidden_size": 16,
            "ffn_dim": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "word_embed_proj_dim": 16,
            "attention_dropout": 0.1,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    _case(
        "opt-layerdrop",
        "OPTConfig",
        "OPTForSequenceClassification",
        {
            **_TEXT,
            "hidden_size": 16,
            "ffn_dim": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "word_embed_proj_dim": 16,
            "layerdrop": 0.3,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    _case(
        "bloom",
        "BloomConfig",
        "BloomForSequenceClassification",
        {
            "vocab_size": WORDS,
            "hidden_size": 16,
            "n_layer": 2,
            "n_head": 2,
            "num_labels": LABELS,
            "pad_token_id": 0,
            "hidden_dropout": 0.1,
            "attention_dropout": 0.1,
        },
    ),
    _case(
        "falcon",
        "FalconConfig",
        "FalconForSequenceClassification",
        {
            **_BERT,
            "ffn_hidden_size": 32,
            "hidden_dropout": 0.1,
            "attention_dropout": 0.1,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    _case("marian", "MarianConfig", "MarianMTModel", _SEQ2SEQ, _pairs, axis=-1),
    _case(
        "mbart-answers",
        "MBartConfig",
        "MBartForQuestionAnswering",
        {**_SEQ2SEQ, "num_labels": 2},
        _ended,
        outputs="start_logits",
    ),
    _case("pegasus", "PegasusConfig", "PegasusForConditionalGeneration", _SEQ2SEQ, _pairs, axis=-1),
    _case(
        "blenderbot-layerdrop",
        "BlenderbotConfig",
        "BlenderbotForConditionalGeneration",
        {**_SEQ2SEQ, "encoder_layers": 2, "encoder_layerdrop": 0.3},
        _pairs,
        axis=-1,
    ),
    _case(
        "mt5-tokens",
        "MT5Config",
        "MT5ForTokenClassification",
        {
            "vocab_size": WORDS,
            "d_model": 16,
            "d_kv": 8,
            "d_ff": 32,
            "num_layers": 2,
            "num_heads": 2,
            "num_labels": LABELS,
            "pad_token_id": 0,
        },
        axis=-1,
    ),
    _case(
        "clip-text",
        "CLIPTextConfig",
        "CLIPTextModel",
        {**_BERT, "attention_dropout": 0.2, "eos_token_id": 2, "bos_token_id": 1},
        _ended,
        outputs="pooler_output",
        task="regression",
    ),
]
