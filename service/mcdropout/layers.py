"""Dropout layers that PyTorch lacks, to build networks with. Each is the identity in eval mode.

Nothing in the engine knows them: like a layer of your own, they are found by running the network. All but
`GaussianDropout` draw by calling `F.dropout` on ones, so that what is dropped and what it is scaled by is PyTorch's own
inverted dropout, and the shape of the ones says what is dropped together.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class StochasticDepth(nn.Module):
    """Drops a whole residual branch, a row at a time: `x + StochasticDepth(p)(branch(x))`.

    G. Huang et al., "Deep networks with stochastic depth", ECCV 2016; a branch that is kept is scaled by `1 / (1 - p)`
    instead of scaling all of them at test time.
    """

    def __init__(self, p: float) -> None:
        """
        Args:
            p: the probability that a row's branch is dropped.
        """
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """`[rows, ...]` to the same shape."""
        return x * F.dropout(x.new_ones(x.shape[0], *[1] * (x.dim() - 1)), self.p, self.training)


class DropBlock2d(nn.Module):
    """Drops square regions of each channel, which hold what single dropped pixels would leave to their neighbours.

    G. Ghiasi, T.-Y. Lin, Q. V. Le, "DropBlock: a regularization method for convolutional networks", NeurIPS 2018. What
    is kept is scaled to keep the mean, over each row by itself: a row's answer has nothing to do with the others'.
    """

    def __init__(self, p: float, block_size: int) -> None:
        """
        Args:
            p: about the share of units that are dropped (blocks may overlap, so that it is a little less).
            block_size: the side of a block, in units; at most the height and width of the input.
        """
        super().__init__()
        self.p = p
        self.block_size = block_size

    def forward(self, x: Tensor) -> Tensor:
        """`[rows, channels, height, width]` to the same shape."""
        height, width = x.shape[2:]
        size = self.block_size
        corners = (height - size + 1, width - size + 1)
        gamma = self.p * height * width / (size**2 * corners[0] * corners[1])
        kept = F.dropout(x.new_ones(*x.shape[:2], *corners), gamma, self.training) > 0
        dropped = F.pad((~kept).to(x.dtype), [size - 1] * 4)
        mask = 1 - F.max_pool2d(dropped, size, stride=1)
        scale = mask[0].numel() / mask.sum((1, 2, 3), keepdim=True).clamp(min=1)
        return x * mask * scale


class VariationalDropout(nn.Module):
    """Dropout with one mask for all steps of a sequence.

    Y. Gal, Z. Ghahramani, "A theoretically grounded application of dropout in recurrent neural networks", NeurIPS 2016.
    """

    def __init__(self, p: float) -> None:
        """
        Args:
            p: the probability that a feature is dropped, in every step of a row's sequence.
        """
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """`[rows, steps, features]` to the same shape."""
        return x * F.dropout(x.new_ones(x.shape[0], 1, x.shape[2]), self.p, self.training)


class VariationalLSTM(nn.Module):
    """An LSTM whose inputs and whose recurrent state have one mask each for all steps of a sequence.

    Gal & Ghahramani 2016, as `VariationalDropout`. The gates of a step share a mask (their "tied weights").
    """

    def __init__(self, features: int, hidden: int, layers: int, p: float) -> None:
        """
        Args:
            features: how many features a step of the sequence has.
            hidden: how many units each layer has.
            layers: how many layers.
            p: the probability that a feature, or a unit of the state, is dropped.
        """
        super().__init__()
        self.cells = nn.ModuleList(nn.LSTMCell(hidden if layer else features, hidden) for layer in range(layers))
        self.hidden = hidden
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """`[rows, steps, features]` to the last layer's outputs, `[rows, steps, hidden]`."""
        ones = x.new_ones(x.shape[0], self.hidden)
        for cell in self.cells:
            x = x * F.dropout(x.new_ones(x.shape[0], 1, x.shape[2]), self.p, self.training)
            recurrent = F.dropout(ones, self.p, self.training)
            state, memory = torch.zeros_like(ones), torch.zeros_like(ones)
            steps: list[Tensor] = []
            for step in x.unbind(1):
                state, memory = cell(step, (state * recurrent, memory))
                steps.append(state)
            x = torch.stack(steps, 1)
        return x


class DropConnectLinear(nn.Linear):
    """A linear layer that drops weights instead of units. All rows of a pass share the weights that are left.

    L. Wan et al., "Regularization of neural networks using DropConnect", ICML 2013, with the mask of a pass drawn once
    instead of for every row, as implementations of it do, and its inference by sampling instead of a Gaussian.
    """

    def __init__(self, inputs: int, outputs: int, p: float = 0.5) -> None:
        """
        Args:
            inputs: features of a row.
            outputs: units of the layer.
            p: the probability that a weight is dropped.
        """
        super().__init__(inputs, outputs)
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """`[rows, inputs]` to `[rows, outputs]`."""
        weight = F.dropout(self.weight, self.p, self.training)
        return F.linear(x, weight, self.bias)


class GaussianDropout(nn.Module):
    """Multiplies every unit by noise of mean 1 and the variance of inverted dropout, `p / (1 - p)`.

    N. Srivastava et al., "Dropout", JMLR 15, 2014, section 10; as variational inference: D. P. Kingma, T. Salimans,
    M. Welling, "Variational dropout and the local reparameterization trick", NeurIPS 2015.
    """

    def __init__(self, p: float) -> None:
        """
        Args:
            p: the rate of the dropout that has the same variance.
        """
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same."""
        if not self.training or self.p == 0:
            return x
        deviation: float = (self.p / (1 - self.p)) ** 0.5
        return x * (1 + deviation * torch.randn_like(x))
