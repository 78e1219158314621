"""A recurrent network that reads a digit row by row, with one dropout mask for all its steps."""

from torch import Tensor, nn

from mcdropout.layers import VariationalLSTM


class Network(nn.Module):
    """Digits `[rows, 1, 28, 28]`, in 0..1, to logits `[rows, 10]`; a digit is 28 steps of 28 pixels, top to bottom."""

    def __init__(self, hidden: int = 96, layers: int = 2, dropout: float = 0.15) -> None:
        super().__init__()
        self.lstm = VariationalLSTM(28, hidden, layers, dropout)
        self.head = nn.Linear(hidden, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x.squeeze(1))[:, -1])
