"""A small U-Net whose inner layers drop channels."""

import torch
from torch import Tensor, nn


def block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class Network(nn.Module):
    """Canvases `[rows, 1, height, width]`, in 0..1, to logits `[rows, 11, height, width]`: no ink, or a digit's.

    Height and width are multiples of 4. O. Ronneberger et al., "U-Net", MICCAI 2015, in small. Dropout is in the
    innermost layers alone, as A. Kendall et al. found best: "Bayesian SegNet", BMVC 2017. What is before it runs once a
    row.
    """

    def __init__(self, classes: int = 11, dropout: float = 0.2) -> None:
        super().__init__()
        self.outer = block(1, 12)
        self.middle = nn.Sequential(nn.MaxPool2d(2), block(12, 24))
        self.inner = nn.Sequential(
            nn.MaxPool2d(2),
            block(24, 48),
            nn.Dropout2d(dropout),
            block(48, 48),
            block(48, 48),
            nn.Dropout2d(dropout),
            nn.Conv2d(48, 24, 1),
            nn.Upsample(scale_factor=2),
        )
        self.widened = nn.Sequential(
            block(48, 24), nn.Dropout2d(dropout), nn.Conv2d(24, 12, 1), nn.Upsample(scale_factor=2)
        )
        self.out = nn.Sequential(block(24, 12), nn.Conv2d(12, classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        outer = self.outer(x)
        middle = self.middle(outer)
        widened = self.widened(torch.cat([self.inner(middle), middle], 1))
        return self.out(torch.cat([widened, outer], 1))
