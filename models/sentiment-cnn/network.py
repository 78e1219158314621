"""A convolution over hashed words, with dropout on the words and behind the pooling, and two outputs."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WORDS = 4096


class Network(nn.Module):
    """Tokens `[rows, tokens]` of any number from 1 on to mean and log variance, `[rows]` each, of the rating."""

    def __init__(self, width: int = 16, channels: int = 32, dropout: float = 0.4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, width)
        nn.init.normal_(self.embedding.weight, std=0.1)  # a word that training never shows says little
        self.word_dropout = nn.Dropout(dropout)
        self.convolution = nn.Conv1d(width, channels, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(2 * channels, 2)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        words = self.word_dropout(self.embedding(tokens)).transpose(1, 2)
        hidden = F.relu(self.convolution(words))
        pooled = torch.cat([hidden.amax(2), hidden.mean(2)], 1)
        out = self.head(self.dropout(pooled))
        return out[:, 0], out[:, 1].clamp(-6, 4)
