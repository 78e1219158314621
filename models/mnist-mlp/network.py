"""The three-layer rectified network of Srivastava et al., "Dropout", JMLR 15 (2014), Table 2."""

from torch import Tensor, nn


class Network(nn.Module):
    """Digits `[rows, 1, 28, 28]`, in 0..1, to logits `[rows, 10]`; dropout on the input and on every hidden layer."""

    def __init__(self, input_dropout: float = 0.2, hidden_dropout: float = 0.5) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(input_dropout),
            nn.Linear(784, 1024),
            nn.ReLU(),
            nn.Dropout(hidden_dropout),
            nn.Linear(1024, 1024),
            nn.ReLU(),
            nn.Dropout(hidden_dropout),
            nn.Linear(1024, 1024),
            nn.ReLU(),
            nn.Dropout(hidden_dropout),
            nn.Linear(1024, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)
