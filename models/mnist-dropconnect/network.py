"""Layers of rectified units that drop weights instead of units."""

from torch import Tensor, nn

from mcdropout.layers import DropConnectLinear


class Network(nn.Module):
    """Digits `[rows, 1, 28, 28]`, in 0..1, to logits `[rows, 10]`; DropConnect on both hidden layers."""

    def __init__(self, first_dropout: float = 0.2, dropout: float = 0.5) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            DropConnectLinear(784, 256, first_dropout),
            nn.ReLU(),
            DropConnectLinear(256, 128, dropout),
            nn.ReLU(),
            nn.Linear(128, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)
