"""Texts: what a language model of Hugging Face takes, and a tokenizer's hook, so that clients send text.

The hook takes the package `tokenizers` alone: a server of a compiled bundle imports neither transformers nor PyTorch.
"""

import importlib
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mcdropout.catalogue.making.draft import DraftInput, Write
from mcdropout.catalogue.making.source import Source, SourceError
from mcdropout.engine.faults import refusing

TOKENIZER = "tokenizer.json"
_HOOK = "preprocess.py"
_SIZE = "tokens"
_MOST_TOKENS = 512
_TEXTS = ("It works, and it says how sure it is.", "Nobody knows what this one means!")
_EXAMPLE_INPUTS = ("input_ids", "token_type_ids")


def taken(source: Source, network: Any) -> Any:
    """Inputs, sizes, files, hook and example of a model of texts."""
    tokenizer = _tokenizer(source.path)
    names = [name for name in _EXAMPLE_INPUTS if name == "input_ids" or name in tokenizer.model_input_names]
    least = max(1, tokenizer.num_special_tokens_to_add())
    most = _most_tokens(network, tokenizer, names)
    if source.sizes:
        least, most = _given(source, most)
    words = network.get_input_embeddings().num_embeddings
    types = getattr(network.config, "type_vocab_size", 2) or 1
    inputs = [DraftInput("input_ids", (_SIZE,), "int64", 0, words - 1)]
    if "token_type_ids" in names:
        inputs.append(DraftInput("token_type_ids", (_SIZE,), "int64", 0, types - 1))
    else:
        names = ["input_ids"]
    files: dict[str, Write] = {
        TOKENIZER: partial(_save, tokenizer.backend_tokenizer),
        _HOOK: partial(_write_hook, names, most),
    }
    return tuple(inputs), {_SIZE: (least, most)}, files, f"{_HOOK}:rows", list(_TEXTS)


def _given(source: Source, most: int) -> tuple[int, int]:
    """The sizes that are asked for, where the network takes them."""
    least, given = source.sizes.get(_SIZE, (0, 0))
    if set(source.sizes) != {_SIZE} or not 0 < least <= given <= most:
        raise SourceError(f"--sizes is {dict(source.sizes)}; {_SIZE}=1:{most}, or within that, is accepted")
    return least, given


def _tokenizer(folder: Path) -> Any:
    transformers = importlib.import_module("transformers")
    with refusing(f"{folder} holds no tokenizer that can be loaded", _ACCEPTED, SourceError):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise SourceError(f"{folder} has a {type(tokenizer).__name__}, which no {TOKENIZER} can hold; {_ACCEPTED}")
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    for text in _TEXTS:
        if backend.encode(text).ids != list(tokenizer(text)["input_ids"]):
            raise SourceError(f"{folder}: its {type(tokenizer).__name__} adds to what {TOKENIZER} says; {_ACCEPTED}")
    return tokenizer


_ACCEPTED = "a tokenizer that tokenizer.save_pretrained(folder) wrote into it is accepted, of the kind called fast"


def _most_tokens(network: Any, tokenizer: Any, names: list[str]) -> int:
    """The most tokens that both take, 512 at most; positions that a model does not use are found by running it."""
    config = network.config
    known = [getattr(config, name, None) for name in ("max_position_embeddings", "n_positions")]
    most = min(
        [size for size in (*known, tokenizer.model_max_length) if isinstance(size, int) and size > 0] + [_MOST_TOKENS]
    )
    padding = getattr(config, "pad_token_id", None) or 0
    for tokens in (most, most - padding - 1):
        rows = {name: torch.zeros(1, max(1, tokens), dtype=torch.int64) for name in names}
        rows["input_ids"] += padding + 1 if network.get_input_embeddings().num_embeddings > padding + 1 else 0
        try:
            with torch.no_grad():
                network(**rows)
        except (IndexError, RuntimeError):
            continue
        return tokens
    raise SourceError(f"the network takes no text of {most} tokens; one that does is accepted")


def _save(backend: Any, place: Path) -> None:
    backend.save(str(place))


def _write_hook(names: list[str], most: int, place: Path) -> None:
    place.write_text(_PAIRS.format(most=most) if len(names) > 1 else _IDS.format(most=most))


_HEAD = '''"""Preprocessing: texts become tokens, by tokenizer.json beside this file. Made by `mcdropout init`."""

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

TOKENIZER = Tokenizer.from_file(str(Path(__file__).with_name("tokenizer.json")))
TOKENIZER.no_padding()
TOKENIZER.enable_truncation({most})  # what is longer is cut off; model.yaml has the same number in `sizes`


def text_of(row: Any) -> Any:
    """What a client sent: a text, or two that belong together, {{"text": ..., "text_pair": ...}}."""
    if isinstance(row, str):
        return row
    if isinstance(row, dict) and set(row) == {{"text", "text_pair"}} and all(isinstance(x, str) for x in row.values()):
        return row["text"], row["text_pair"]
    raise ValueError('a text, or {{"text": ..., "text_pair": ...}}, is accepted')

'''
_IDS = (
    _HEAD
    + """
def rows(texts: list[Any]) -> list[list[int]]:
    return [encoding.ids for encoding in TOKENIZER.encode_batch([text_of(text) for text in texts])]
"""
)
_PAIRS = (
    _HEAD
    + """
def rows(texts: list[Any]) -> dict[str, list[list[int]]]:
    encodings = TOKENIZER.encode_batch([text_of(text) for text in texts])
    return {{
        "input_ids": [encoding.ids for encoding in encodings],
        "token_type_ids": [encoding.type_ids for encoding in encodings],
    }}
"""
)
