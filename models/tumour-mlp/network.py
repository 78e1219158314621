"""Two hidden layers with dropout, and one logit."""

from torch import Tensor, nn


class Network(nn.Module):
    """Standardized measurements `[rows, 30]` to the logit of malignant, `[rows, 1]`."""

    def __init__(self, hidden: int = 32, dropout: float = 0.3) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(30, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)
