"""A small pre-activation residual network with stochastic depth and DropBlock.

K. He et al., "Identity mappings in deep residual networks", ECCV 2016.
"""

from torch import Tensor, nn

from mcdropout.layers import DropBlock2d, StochasticDepth


class Residual(nn.Module):
    """`[rows, inputs, height, width]` to `[rows, outputs, height / stride, width / stride]`, rounded up."""

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.ReLU(),
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            StochasticDepth(dropout),
        )
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.branch(x)


class Network(nn.Module):
    """Digits `[rows, 1, 28, 28]`, in 0..1, to logits `[rows, 10]`; three groups of two residual blocks.

    The probability that a branch is dropped grows linearly with its depth, as in Huang et al. 2016. The last group has
    no DropBlock: a block of 3x3 would be most of its maps of 4x4.
    """

    def __init__(self, depth_dropout: float = 0.2, block_dropout: float = 0.1) -> None:
        super().__init__()
        rates = [depth_dropout * (branch + 1) / 6 for branch in range(6)]
        self.layers = nn.Sequential(
            nn.Conv2d(1, 12, 3, padding=1, bias=False),
            nn.MaxPool2d(2),
            Residual(12, 12, 1, rates[0]),
            Residual(12, 12, 1, rates[1]),
            DropBlock2d(block_dropout, block_size=3),
            Residual(12, 24, 2, rates[2]),
            Residual(24, 24, 1, rates[3]),
            DropBlock2d(block_dropout, block_size=3),
            Residual(24, 48, 2, rates[4]),
            Residual(48, 48, 1, rates[5]),
            nn.BatchNorm2d(48),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(48, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)
