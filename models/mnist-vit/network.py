"""A small vision transformer, of PyTorch's own encoder layers.

A. Dosovitskiy et al., "An image is worth 16x16 words: transformers for image recognition at scale", ICLR 2021.
"""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    """Digits `[rows, 1, 28, 28]`, in 0..1, to logits `[rows, 10]`; 16 patches of 7x7 pixels and a class token.

    Every layer drops attention weights, the outputs of attention and of the feed-forward part, and its hidden units.
    """

    def __init__(self, width: int = 64, depth: int = 4, heads: int = 4, dropout: float = 0.1) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 7, stride=7)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, 1 + 4 * 4, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, heads, 2 * width, dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, depth, norm=nn.LayerNorm(width), enable_nested_tensor=False)
        # The encoder copies its first layer, weights and all; training should not start from equal layers.
        for weight in self.encoder.parameters():
            if weight.dim() == 2:
                nn.init.xavier_uniform_(weight)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), patches], 1) + self.positions
        return self.head(self.encoder(tokens)[:, 0])
