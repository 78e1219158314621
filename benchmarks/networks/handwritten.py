"""Networks written as people write them in repositories, tutorials and papers' code: dropout in many shapes."""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.networks.case import Case, Given

CLASSES = 5


def _numbers(*shape: int) -> "partial[Given]":
    return partial(_normal, shape)


def _normal(shape: tuple[int, ...], rows: int) -> Tensor:
    return torch.randn(rows, *shape)


class UNet(nn.Module):
    """Two levels, spatial dropout after each block, as of Bayesian segmentation repositories."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.bottom = self._block(1, 8), self._block(8, 16), self._block(16, 32)
        self.up2, self.merge2 = nn.ConvTranspose2d(32, 16, 2, stride=2), self._block(32, 16)
        self.up1, self.merge1 = nn.ConvTranspose2d(16, 8, 2, stride=2), self._block(16, 8)
        self.head = nn.Conv2d(8, CLASSES, 1)

    @staticmethod
    def _block(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Dropout2d(0.2),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(F.max_pool2d(first, 2))
        low = self.bottom(F.max_pool2d(second, 2))
        second = self.merge2(torch.cat([second, self.up2(low)], 1))
        return self.head(self.merge1(torch.cat([first, self.up1(second)], 1)))


class Forecaster(nn.Module):
    """An LSTM regressor of Uber's kind: functional dropout that is always on, whatever the mode."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(4, 32, num_layers=2, dropout=0.2, batch_first=True)
        self.hidden, self.head = nn.Linear(32, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        steps, _ = self.rnn(x)
        last = F.dropout(steps[:, -1], p=0.1, training=self.training)
        return self.head(F.dropout(F.relu(self.hidden(last)), 0.3, self.training))


class Chomp(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, : -self.size].contiguous()


class TemporalBlock(nn.Module):
    """Of locuslab/TCN: weight-normed causal convolutions."""

    def __init__(self, inputs: int, outputs: int, dilation: int) -> None:
        super().__init__()
        padding = 2 * dilation
        self.net = nn.Sequential(
            nn.utils.parametrizations.weight_norm(nn.Conv1d(inputs, outputs, 3, padding=padding, dilation=dilation)),
            Chomp(padding),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.utils.parametrizations.weight_norm(nn.Conv1d(outputs, outputs, 3, padding=padding, dilation=dilation)),
            Chomp(padding),
            nn.ReLU(),
            nn.Dropout(0.2),
        )
        self.short = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.net(x) + (x if self.short is None else self.short(x)))


class TCN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(TemporalBlock(3, 16, 1), TemporalBlock(16, 16, 2), TemporalBlock(16, 16, 4))
        self.head = nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.net(x)[:, :, -1]).squeeze(-1)


class StochasticBlock(nn.Module):
    """A residual block that is left out by a coin that the whole batch shares, as in the paper's own code."""

    def __init__(self, width: int, survival: float) -> None:
        super().__init__()
        self.conv, self.norm, self.survival = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), survival

    def forward(self, x: Tensor) -> Tensor:
        branch = self.norm(self.conv(x))
        coin = torch.bernoulli(torch.tensor(self.survival)) if self.training else self.survival
        return F.relu(x + coin * branch)


class DropPathBlock(StochasticBlock):
    """A coin for each row, by `torch.rand(...) + keep` and `floor_`, as in timm's first version."""

    def forward(self, x: Tensor) -> Tensor:
        branch = self.norm(self.conv(x))
        if self.training:
            coin = self.survival + torch.rand((x.shape[0], 1, 1, 1), dtype=x.dtype, device=x.device)
            branch = branch.div(self.survival) * coin.floor_()
        return F.relu(x + branch)


class StochasticResNet(nn.Module):
    def __init__(self, block: type[StochasticBlock]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.blocks = nn.Sequential(*(block(16, 1 - 0.15 * (depth + 1)) for depth in range(3)))
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(F.relu(self.stem(x))).mean((2, 3)))


class ConcreteDropout(nn.Module):
    """Gal's concrete dropout, as in its PyTorch ports: relaxed, with a rate that is learnt, and on in eval mode too."""

    def __init__(self, layer: nn.Module, rate: float, always: bool = False) -> None:
        super().__init__()
        self.layer, self.logit = layer, nn.Parameter(torch.logit(torch.tensor(rate)))
        self.always = always

    def forward(self, x: Tensor) -> Tensor:
        if not self.training and not self.always:
            return self.layer(x)
        eps, temperature, p = 1e-7, 0.1, torch.sigmoid(self.logit)
        noise = torch.rand_like(x)
        drop = torch.log(p + eps) - torch.log(1 - p + eps) + torch.log(noise + eps) - torch.log(1 - noise + eps)
        keep = 1 - torch.sigmoid(drop / temperature)
        return self.layer(x * keep / (1 - p))


class ConcreteNet(nn.Module):
    """With mean and log variance, as the paper's regression."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = ConcreteDropout(nn.Linear(6, 64), 0.1), ConcreteDropout(nn.Linear(64, 64), 0.2)
        self.mean, self.log_variance = ConcreteDropout(nn.Linear(64, 1), 0.1), ConcreteDropout(nn.Linear(64, 1), 0.1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.second(F.relu(self.first(x))))
        return self.mean(x), self.log_variance(x)


class DropBlock(nn.Module):
    """Of miguelvr/dropblock: the mask is scaled by its own sum over the whole batch."""

    def __init__(self, rate: float, size: int, each: bool) -> None:
        super().__init__()
        self.rate, self.size, self.each = rate, size, each

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        mask = (torch.rand(x.shape[0], *x.shape[2:]) < self.rate / self.size**2).float().to(x.device)
        block = 1 - F.max_pool2d(mask[:, None], self.size, stride=1, padding=self.size // 2)
        scale = block[0].numel() / block.sum((1, 2, 3), keepdim=True) if self.each else block.numel() / block.sum()
        return x * block * scale


class DropBlockNet(nn.Module):
    def __init__(self, each: bool) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            DropBlock(0.2, 3, each),
            nn.Conv2d(16, 16, 3, stride=2, padding=1),
            nn.ReLU(),
        )
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


class GaussianDropout(nn.Module):
    """Multiplies by `torch.randn(x.size()) * alpha + 1`."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.alpha = math.sqrt(rate / (1 - rate))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return x * (torch.randn(x.size()) * self.alpha + 1)
        return x


class LockedDropout(nn.Module):
    """Of salesforce/awd-lstm-lm: `x.new_empty(...).bernoulli_`, one mask for all steps."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.rate:
            return x
        mask = x.data.new(x.size(0), 1, x.size(2)).bernoulli_(1 - self.rate)
        return mask.div_(1 - self.rate).expand_as(x) * x


class LockedTagger(nn.Module):
    """A tagger of every word: logits `[rows, steps, classes]`."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(60, 16)
        self.drop, self.rnn = LockedDropout(0.3), nn.GRU(16, 16, batch_first=True, bidirectional=True)
        self.out, self.head = LockedDropout(0.4), nn.Linear(32, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.out(self.rnn(self.drop(self.words(ids)))[0]))


class SpatialTextCNN(nn.Module):
    """Kim's CNN of texts, with Keras's SpatialDropout1D: `Dropout2d` of a permuted tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.spatial = nn.Embedding(60, 16), nn.Dropout2d(0.3)
        self.convs = nn.ModuleList(nn.Conv1d(16, 8, size) for size in (2, 3, 4))
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(24, 3)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids).permute(0, 2, 1).unsqueeze(3)
        x = self.spatial(x).squeeze(3)
        return self.head(self.drop(torch.cat([F.relu(conv(x)).amax(2) for conv in self.convs], 1)))


class Positions(nn.Module):
    """Of PyTorch's tutorial."""

    def __init__(self, width: int, steps: int) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.1)
        place = torch.arange(steps)[:, None] * torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
        table = torch.zeros(1, steps, width)
        table[0, :, 0::2], table[0, :, 1::2] = place.sin(), place.cos()
        self.register_buffer("table", table)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(x + self.table[:, : x.shape[1]])


class SeriesTransformer(nn.Module):
    """A regressor of series of different lengths, with `src_key_padding_mask` and a mean over what is there."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs, self.positions = nn.Linear(4, 16), Positions(16, 32)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True, norm_first=False)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(16, 1)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        padding = torch.arange(x.shape[1])[None] >= lengths[:, None]
        x = self.encoder(self.positions(self.inputs(x)), src_key_padding_mask=padding)
        there = (~padding).unsqueeze(-1)
        return self.head((x * there).sum(1) / there.sum(1)).squeeze(-1)


def _series(rows: int) -> tuple[Tensor, ...]:
    return torch.randn(rows, 10, 4), torch.tensor([10, 7, 4, 9] * rows)[:rows]


class GCN(nn.Module):
    """Kipf's, over a dense adjacency matrix that comes with each graph."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        adjacency = adjacency + torch.eye(adjacency.shape[-1])
        degree = adjacency.sum(-1).rsqrt()
        adjacency = degree[..., :, None] * adjacency * degree[..., None, :]
        x = F.dropout(F.relu(adjacency @ self.first(x)), 0.5, training=self.training)
        x = F.dropout(F.relu(adjacency @ self.second(x)), 0.5, training=self.training)
        return self.head(x.mean(1))


def _graphs(rows: int) -> dict[str, Tensor]:
    edges = (torch.rand(rows, 9, 9) < 0.3).float()
    return {"x": torch.randn(rows, 9, 6), "adjacency": torch.maximum(edges, edges.transpose(1, 2))}


class NeRF(nn.Module):
    """Points and directions to density and colour, with dropout between its layers and a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(39, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 64), nn.ReLU())
        self.second = nn.Sequential(nn.Linear(64 + 39, 64), nn.ReLU(), nn.Dropout(0.1))
        self.density, self.color = nn.Linear(64, 1), nn.Sequential(nn.Linear(67, 32), nn.ReLU(), nn.Linear(32, 3))

    @staticmethod
    def _encoded(x: Tensor) -> Tensor:
        return torch.cat([x, *(wave(2.0**level * x) for level in range(6) for wave in (torch.sin, torch.cos))], -1)

    def forward(self, points: Tensor, directions: Tensor) -> Tensor:
        encoded = self._encoded(points)
        x = self.second(torch.cat([self.first(encoded), encoded], -1))
        return torch.cat([self.color(torch.cat([x, directions], -1)).sigmoid(), F.softplus(self.density(x))], -1)


def _rays(rows: int) -> tuple[Tensor, ...]:
    return torch.rand(rows, 3), F.normalize(torch.randn(rows, 3), dim=-1)


class Siren(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, 64), nn.Linear(64, 64), nn.Linear(64, 64)])
        self.drop, self.head = nn.Dropout(0.05), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = self.drop(torch.sin(30.0 * layer(x) / 5))
        return self.head(x)


class DeepSets(nn.Module):
    """Sets with absent members: the largest of what is there."""

    def __init__(self) -> None:
        super().__init__()
        self.phi = nn.Sequential(nn.Linear(3, 32), nn.ELU(), nn.Dropout(0.2), nn.Linear(32, 32))
        self.rho = nn.Sequential(
            nn.AlphaDropout(0.1), nn.Linear(32, 16), nn.SELU(), nn.AlphaDropout(0.1), nn.Linear(16, 4)
        )

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        return self.rho(self.phi(x).masked_fill(~present[..., None], float("-inf")).amax(1))


def _sets(rows: int) -> tuple[Tensor, ...]:
    present = torch.rand(rows, 12) < 0.7
    present[:, 0] = True
    return torch.randn(rows, 12, 3), present


class MixtureDensity(nn.Module):
    """Bishop's head, of which the mixture's mean and variance are returned."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(5, 48), nn.Tanh(), nn.Dropout(0.2), nn.Linear(48, 48), nn.Tanh(), nn.Dropout(0.2)
        )
        self.weights, self.means, self.deviations = nn.Linear(48, 3), nn.Linear(48, 3), nn.Linear(48, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.body(x)
        weights, means = self.weights(h).softmax(-1), self.means(h)
        mean = (weights * means).sum(-1)
        spread = (weights * (self.deviations(h).exp() ** 2 + means**2)).sum(-1) - mean**2
        return {"mean": mean, "variance": spread, "weights": weights}


class AttentionPooling(nn.Module):
    """A learnt query over a bag of instances, by `nn.MultiheadAttention` with dropout: multiple-instance learning."""

    def __init__(self) -> None:
        super().__init__()
        self.instances, self.query = nn.Linear(8, 16), nn.Parameter(torch.randn(1, 1, 16))
        self.attention, self.norm = nn.MultiheadAttention(16, 4, dropout=0.2, batch_first=True), nn.LayerNorm(16)
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(16, 1))

    def forward(self, bag: Tensor) -> Tensor:
        x = self.instances(bag)
        pooled, _ = self.attention(self.query.expand(len(x), -1, -1), x, x)
        return self.head(self.norm(pooled[:, 0]))


class Seq2Seq(nn.Module):
    """An encoder and a decoder that reads its own answers, teacher forcing off."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.cell = nn.GRU(3, 24, batch_first=True), nn.GRUCell(1, 24)
        self.drop, self.head = nn.Dropout(0.25), nn.Linear(24, 1)

    def forward(self, x: Tensor, teacher: Tensor | None = None) -> Tensor:
        _, state = self.encoder(x)
        state, value, found = state[-1], x[:, -1, :1], []
        for step in range(5):
            state = self.cell(value, self.drop(state))
            value = self.head(self.drop(state))
            found.append(value)
            if teacher is not None and self.training:
                value = teacher[:, step : step + 1]
        return torch.cat(found, 1)


class SegNet(nn.Module):
    """Bayesian SegNet: pooling indices, dropout in the middle of encoder and decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.enc1 = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.enc2 = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.dec2 = nn.Sequential(nn.Conv2d(16, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.dec1, self.drop = nn.Conv2d(8, CLASSES, 3, padding=1), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x, first = F.max_pool2d(self.enc1(x), 2, return_indices=True)
        x, second = F.max_pool2d(self.enc2(x), 2, return_indices=True)
        x = self.dec2(F.max_unpool2d(self.drop(self.drop(x)), second, 2))
        return self.dec1(F.max_unpool2d(self.drop(x), first, 2))


class Tabular(nn.Module):
    """fastai's: embeddings of categories with dropout, batch norm of numbers, several labels."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(size, 4) for size in (7, 11))
        self.embedding_drop, self.norm = nn.Dropout(0.1), nn.BatchNorm1d(5)
        self.layers = nn.Sequential(
            nn.Linear(13, 32), nn.ReLU(True), nn.BatchNorm1d(32), nn.Dropout(0.2), nn.Linear(32, 4)
        )

    def forward(self, categories: Tensor, numbers: Tensor) -> Tensor:
        x = torch.cat([table(categories[:, i]) for i, table in enumerate(self.tables)], 1)
        return self.layers(torch.cat([self.embedding_drop(x), self.norm(numbers)], 1))


def _records(rows: int) -> tuple[Tensor, ...]:
    return torch.stack([torch.randint(0, 7, (rows,)), torch.randint(0, 11, (rows,))], 1), torch.randn(rows, 5)


class WordDropout(nn.Module):
    """Whole words are dropped by `torch.rand(...) < p` and `masked_fill`, then an average: a deep averaging network."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.body = nn.Embedding(60, 16), nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 3))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids)
        if self.training:
            x = x.masked_fill((torch.rand(ids.shape) < 0.3).unsqueeze(-1), 0.0)
        return F.log_softmax(self.body(x.mean(1)), dim=-1)


class Autoencoder(nn.Module):
    """A denoising autoencoder whose reconstruction is what it predicts, `Dropout3d` within volumes."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv3d(1, 4, 3, 2, 1), nn.PReLU(), nn.Dropout3d(0.3), nn.Conv3d(4, 8, 3, 2, 1))
        self.decoder = nn.Sequential(
            nn.ConvTranspose3d(8, 4, 2, 2), nn.PReLU(), nn.Dropout3d(0.3), nn.ConvTranspose3d(4, 1, 2, 2)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


class Detector(nn.Module):
    """Boxes and classes of each cell in a dict, as single-shot detectors return them."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.SiLU(), nn.Dropout2d(0.1), nn.Conv2d(16, 16, 3, 2, 1), nn.SiLU()
        )
        self.boxes, self.classes = nn.Conv2d(16, 4, 1), nn.Conv2d(16, CLASSES, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.body(x)
        return {"boxes": self.boxes(h).flatten(2).transpose(1, 2), "scores": self.classes(h).flatten(2).transpose(1, 2)}


class NoisyLinear(nn.Module):
    """Of noisy networks for exploration: factorized noise, which each pass writes into buffers."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.mean, self.scale = nn.Linear(inputs, outputs), nn.Linear(inputs, outputs)
        nn.init.constant_(self.scale.weight, 0.1)
        self.register_buffer("noise_in", torch.zeros(inputs))
        self.register_buffer("noise_out", torch.zeros(outputs))

    @staticmethod
    def _factor(size: int) -> Tensor:
        x = torch.randn(size)
        return x.sign() * x.abs().sqrt()

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return self.mean(x)
        self.noise_in.copy_(self._factor(self.noise_in.shape[0]))
        self.noise_out.copy_(self._factor(self.noise_out.shape[0]))
        weight = self.mean.weight + self.scale.weight * self.noise_out.outer(self.noise_in)
        return F.linear(x, weight, self.mean.bias + self.scale.bias * self.noise_out)


class LayerDropList(nn.ModuleList):
    """Leaves some of its layers out, in train mode; it draws in each mode."""

    def __iter__(self):
        for layer, number in zip(super().__iter__(), torch.empty(len(self)).uniform_(), strict=True):
            if not self.training or number > 0.3:
                yield layer


class LayerDropEncoder(nn.Module):
    """A transformer whose layers lie in such a list."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(60, 16)
        self.layers = LayerDropList(
            nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True) for _ in range(3)
        )
        self.head = nn.Linear(16, 3)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(1))


class ShakeDrop(nn.Module):
    """Scales a branch at random where a coin, one for all rows, says so."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x * (1 - self.p)
        gate = torch.empty(1).bernoulli_(1 - self.p)
        if gate.item() == 0:
            return x * torch.empty(x.shape[0], 1, 1, 1).uniform_(-1, 1)
        return x


class ShakeDropNet(nn.Module):
    """Residual blocks with a ShakeDrop each, more likely in deeper ones."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), ShakeDrop(0.15 * (block + 1)))
            for block in range(3)
        )
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x.mean((2, 3)))


class PatchDropout(nn.Module):
    """A transformer over patches, of which train mode keeps a part, another for each row (Liu et al. 2022)."""

    def __init__(self, kept: int = 6) -> None:
        super().__init__()
        self.kept = kept
        self.embed = nn.Conv2d(3, 16, 4, stride=4)
        self.places = nn.Parameter(torch.randn(16, 16) * 0.1)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.embed(x).flatten(2).transpose(1, 2) + self.places
        if self.training:
            weights = torch.ones(patches.shape[:2])
            kept = torch.multinomial(weights, self.kept)
            patches = patches.gather(1, kept[..., None].expand(-1, -1, patches.shape[-1]))
        return self.head(self.encoder(patches).mean(1))


class GumbelGates(nn.Module):
    """Experts, one of which a hard Gumbel-softmax takes for each row in train mode; eval mode takes the likeliest."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(6, 4)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 3)) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        scores = self.gate(x)
        if self.training:
            gates = F.gumbel_softmax(scores, tau=0.5, hard=True)
        else:
            gates = F.one_hot(scores.argmax(-1), 4).to(x.dtype)
        answers = torch.stack([expert(x) for expert in self.experts], 1)
        return (gates[..., None] * answers).sum(1)


class RandomCutout(nn.Module):
    """A square of the features, drawn for each row, is left out in train mode."""

    def __init__(self, size: int = 4) -> None:
        super().__init__()
        self.size = size
        self.first, self.last = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        if self.training:
            top = torch.randint(0, x.shape[2] - self.size + 1, (x.shape[0], 1, 1))
            left = torch.randint(0, x.shape[3] - self.size + 1, (x.shape[0], 1, 1))
            rows, columns = torch.arange(x.shape[2])[None, :, None], torch.arange(x.shape[3])[None, None]
            inside = (rows >= top) & (rows < top + self.size) & (columns >= left) & (columns < left + self.size)
            x = x * ~inside[:, None]
        return self.last(x.mean((2, 3)))


def _ids(rows: int) -> Tensor:
    return torch.randint(1, 60, (rows, 9))


CASES = [
    Case("handwritten/unet", UNet, _numbers(1, 32, 32)),
    Case("handwritten/bayesian-segnet", SegNet, _numbers(3, 32, 32)),
    Case("handwritten/lstm-forecaster", Forecaster, _numbers(12, 4), "regression"),
    Case("handwritten/tcn", TCN, _numbers(3, 20), "regression"),
    Case("handwritten/stochastic-depth", lambda: StochasticResNet(DropPathBlock), _numbers(3, 16, 16)),
    Case("handwritten/stochastic-depth-batch", lambda: StochasticResNet(StochasticBlock), _numbers(3, 16, 16)),
    Case(
        "handwritten/concrete-dropout",
        ConcreteNet,
        _numbers(6),
        "regression",
        0,
        options={"output": {"mean": 0, "log_variance": 1}},
    ),
    Case("handwritten/dropblock", lambda: DropBlockNet(True), _numbers(3, 16, 16)),
    Case("handwritten/dropblock-batch", lambda: DropBlockNet(False), _numbers(3, 16, 16), alone=True),
    Case(
        "handwritten/gaussian-dropout",
        lambda: nn.Sequential(nn.Linear(8, 64), nn.ReLU(), GaussianDropout(0.3), nn.Linear(64, 3)),
        _numbers(8),
    ),
    Case("handwritten/locked-dropout-tagger", LockedTagger, _ids, axis=-1),
    Case("handwritten/spatial-text-cnn", SpatialTextCNN, _ids),
    Case("handwritten/series-transformer", SeriesTransformer, _series, "regression"),
    Case("handwritten/gcn", GCN, _graphs),
    Case("handwritten/nerf", NeRF, _rays, "regression"),
    Case("handwritten/siren", Siren, _numbers(2), "regression"),
    Case("handwritten/deep-sets", DeepSets, _sets, "regression"),
    Case(
        "handwritten/mixture-density",
        MixtureDensity,
        _numbers(5),
        "regression",
        "mean",
        options={"output": {"mean": "mean", "variance": "variance"}},
    ),
    Case("handwritten/attention-pooling", AttentionPooling, _numbers(7, 8), "binary"),
    Case("handwritten/seq2seq", Seq2Seq, _numbers(8, 3), "regression"),
    Case("handwritten/tabular", Tabular, _records, "multilabel"),
    Case("handwritten/word-dropout", WordDropout, _ids),
    Case(
        "handwritten/noisy-linear",
        lambda: nn.Sequential(NoisyLinear(6, 32), nn.ReLU(), NoisyLinear(32, 2)),
        _numbers(6),
        "regression",
    ),
    Case("handwritten/layerdrop-list", LayerDropEncoder, _ids),
    Case("handwritten/shake-drop", ShakeDropNet, _numbers(3, 8, 8)),
    Case("handwritten/patch-dropout", PatchDropout, _numbers(3, 16, 16)),
    Case("handwritten/gumbel-gates", GumbelGates, _numbers(6)),
    Case("handwritten/random-cutout", RandomCutout, _numbers(1, 12, 12)),
    Case("handwritten/autoencoder-3d", Autoencoder, _numbers(1, 8, 8, 8), "regression"),
    Case("handwritten/single-shot-detector", Detector, _numbers(3, 32, 32), outputs="scores", axis=-1),
]
