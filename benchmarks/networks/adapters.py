"""Networks of transformers with adapters of peft, whose own dropout is what is random."""

import peft
import torch
import transformers

from benchmarks.networks.case import Case
from benchmarks.networks.texts import LABELS, words

_SIZES = {
    "vocab_size": 60,
    "max_position_embeddings": 32,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_labels": LABELS,
    "pad_token_id": 0,
}


def _bert(dropout: float, merged: bool = False, **adapter: object) -> torch.nn.Module:
    config = transformers.BertConfig(**_SIZES, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    network = peft.get_peft_model(
        transformers.BertForSequenceClassification(config),
        peft.LoraConfig(
            task_type="SEQ_CLS",
            r=4,
            lora_dropout=0.2,
            target_modules=["query", "value"],
            init_lora_weights=False,
            **adapter,
        ),
    )
    return network


def _llama() -> torch.nn.Module:
    config = transformers.LlamaConfig(**{**_SIZES, "num_key_value_heads": 1})
    return peft.get_peft_model(
        transformers.LlamaForSequenceClassification(config),
        peft.LoraConfig(
            task_type="SEQ_CLS", r=4, lora_dropout=0.3, target_modules="all-linear", init_lora_weights=False
        ),
    )


CASES = [
    Case("peft/lora-bert", lambda: _bert(0.1), words, outputs="logits"),
    Case("peft/dora-bert", lambda: _bert(0.0, use_dora=True), words, outputs="logits"),
    Case("peft/lora-llama", _llama, words, outputs="logits"),
]
