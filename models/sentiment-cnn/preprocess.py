"""Texts to what the network takes: each word, `!` and `?` as a number."""

import re
import zlib

NUMBERS = 4095
LONGEST = 128


def tokens_of(text: str) -> list[int]:
    """A text as the network takes it: each word, `!` and `?` as a number from 1 to 4095, by its CRC-32."""
    found = re.findall(r"[a-z']+|[!?]", text.lower())
    return [1 + zlib.crc32(word.encode()) % NUMBERS for word in found]


def rows(texts: list[str]) -> list[list[int]]:
    """The first 128 words of each text; it has at least one."""
    found = []
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"a text is {type(text).__name__}; a string is accepted")
        tokens = tokens_of(text)[:LONGEST]
        if not tokens:
            raise ValueError(f"{text[:50]!r} has no word; a text with one is accepted")
        found.append(tokens)
    return found
