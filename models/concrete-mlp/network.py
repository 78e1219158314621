"""A regression network that predicts its noise, with dropout before every linear layer but the first."""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    """Standardized mixtures `[rows, 8]` to compressive strength: mean `[rows]`, MPa, and log variance `[rows]`.

    The log variance is that of the noise in MPa squared (Kendall & Gal, "What uncertainties do we need in Bayesian deep
    learning for computer vision?", NeurIPS 2017).
    """

    def __init__(self, hidden: int = 100, dropout: float = 0.1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(8, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, 2),
        )
        # Of the training targets, MPa: the layers work in standard units.
        self.register_buffer("target_mean", torch.tensor(0.0))
        self.register_buffer("target_std", torch.tensor(1.0))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.layers(x).unbind(-1)
        return mean * self.target_std + self.target_mean, log_variance + 2 * self.target_std.log()
