"""Narrow convolution blocks with batch norm, each with a dropout of whole channels."""

from torch import Tensor, nn


def block(inputs: int, outputs: int, dropout: float) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.Dropout2d(dropout),
    ]


class Network(nn.Module):
    """Digits `[rows, 1, 28, 28]`, in 0..1, to logits `[rows, 10]`.

    Pixels of a channel say much the same, so that dropping single ones takes little away. Dropping channels does: J.
    Tompson et al., "Efficient object localization using convolutional networks", CVPR 2015.
    """

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *block(1, 12, dropout),
            *block(12, 12, dropout),
            nn.MaxPool2d(2),
            *block(12, 32, dropout),
            nn.MaxPool2d(2),
            *block(32, 64, dropout),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * 3 * 3, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)
