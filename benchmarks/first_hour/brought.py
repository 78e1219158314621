"""What people bring, each made in a process of its own, as their training script has left it.

python benchmarks/first_hour/brought.py NAME, in the folder where it is wanted
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent


@dataclass(frozen=True)
class Brought:
    """A network that somebody brings.

    Attributes:
        name: of the kind.
        make: leaves its files in the working folder.
        source: what `mcdropout serve` is pointed at.
        options: what is said beside it.
    """

    name: str
    make: Callable[[], None]
    source: str
    options: tuple[str, ...] = ()


def _resnet() -> None:
    import timm
    import torch

    torch.save(timm.create_model("resnet18", drop_rate=0.2, num_classes=10).state_dict(), "resnet.pth")


def _vit() -> None:
    import timm
    import torch

    network = timm.create_model("vit_tiny_patch16_224", drop_rate=0.1, num_classes=10)
    torch.save(network.state_dict(), "vit.pth")


def _distilbert() -> None:
    from transformers import BertTokenizer, DistilBertConfig, DistilBertForSequenceClassification

    words = [*(f"word{number}" for number in range(2000)), "good", "bad"]
    Path("vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    config = DistilBertConfig(
        vocab_size=len(words) + 5, id2label={0: "negative", 1: "positive"}, label2id={"negative": 0, "positive": 1}
    )
    DistilBertForSequenceClassification(config).save_pretrained("distilbert")
    BertTokenizer("vocab.txt").save_pretrained("distilbert")


def _checkpoint_of(code: str, file: str) -> Callable[[], None]:
    """A script with a class `Net`, and a checkpoint of it."""

    def make() -> None:
        import torch

        Path(f"{file}.py").write_text(dedent(code))
        sys.path.insert(0, ".")
        torch.save(__import__(file).Net().state_dict(), f"{file}.pth")

    return make


_UNET = """
    import torch
    from torch import nn

    def block(taken, given):
        return nn.Sequential(
            nn.Conv2d(taken, given, 3, padding=1), nn.BatchNorm2d(given), nn.ReLU(),
            nn.Conv2d(given, given, 3, padding=1), nn.BatchNorm2d(given), nn.ReLU(),
        )

    class Net(nn.Module):
        def __init__(self, width=16):
            super().__init__()
            self.first, self.second, self.low = block(3, width), block(width, 2 * width), block(2 * width, 4 * width)
            self.pool, self.drop = nn.MaxPool2d(2), nn.Dropout2d(0.3)
            self.up1 = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
            self.up2 = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
            self.back1, self.back2 = block(4 * width, 2 * width), block(2 * width, width)
            self.head = nn.Conv2d(width, 4, 1)

        def forward(self, image):
            a = self.first(image)
            b = self.second(self.pool(a))
            c = self.drop(self.low(self.pool(b)))
            d = self.back1(torch.cat([self.up1(c), b], 1))
            return self.head(self.drop(self.back2(torch.cat([self.up2(d), a], 1))))
"""
_TABULAR = """
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.place = nn.Embedding(50, 8)
            self.body = nn.Sequential(
                nn.Linear(14, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 64), nn.ReLU(),
                nn.Dropout(0.2), nn.Linear(64, 1),
            )

        def forward(self, measurements, place):
            return self.body(torch.cat([measurements, self.place(place)], 1))
"""
_BINARY = """
    from torch import nn

    class Net(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Linear(30, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 1), nn.Sigmoid())
"""
_MULTILABEL = """
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(), nn.Dropout2d(0.1), nn.Conv2d(16, 32, 3, stride=2), nn.ReLU(),
                nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.4),
            )
            self.head = nn.Linear(32, 14)

        def forward(self, x):
            return self.head(self.body(x))
"""
_LIGHTNING = """
    import pytorch_lightning as lightning
    from torch import nn

    class Lit(lightning.LightningModule):
        def __init__(self, hidden=64, lr=1e-3):
            super().__init__()
            self.save_hyperparameters()
            self.net = nn.Sequential(nn.Linear(8, hidden), nn.ReLU(), nn.Dropout(0.2), nn.Linear(hidden, 3))

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, index):
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self):
            import torch
            return torch.optim.Adam(self.parameters(), self.hparams.lr)
"""


def _lightning() -> None:
    Path("lit.py").write_text(dedent(_LIGHTNING))
    sys.path.insert(0, ".")
    import pytorch_lightning as lightning
    import torch
    from lit import Lit  # type: ignore[import-not-found]

    rows = torch.utils.data.TensorDataset(torch.randn(64, 8), torch.randint(0, 3, (64,)))
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False
    )
    trainer.fit(Lit(), torch.utils.data.DataLoader(rows, 16))
    trainer.save_checkpoint("lit.ckpt")


def _keras() -> None:
    import keras
    import numpy as np

    layers = keras.layers
    image = keras.Input((28, 28, 1), name="image")
    hidden = layers.BatchNormalization()(layers.Conv2D(16, 3, activation="relu")(image))
    hidden = layers.Dropout(0.25)(layers.Flatten()(layers.MaxPooling2D()(hidden)))
    hidden = layers.Dropout(0.5)(layers.Dense(64, activation="relu")(hidden))
    model = keras.Model(image, layers.Dense(10, activation="softmax")(hidden))

    def call(layer: object, *inputs: object, **others: object) -> object:
        if isinstance(layer, layers.Dropout):
            others["training"] = True
        return layer(*inputs, **others)  # type: ignore[operator]

    dropping = keras.models.clone_model(model, call_function=call)
    dropping.set_weights(model.get_weights())
    dropping(np.zeros((2, 28, 28, 1), np.float32))
    dropping.export("keras.onnx", format="onnx", verbose=False)


def _scikit_learn() -> None:
    from skl2onnx import to_onnx
    from sklearn.datasets import load_breast_cancer
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = load_breast_cancer(return_X_y=True)
    x = x.astype("float32")
    model = make_pipeline(StandardScaler(), MLPClassifier((32, 16), max_iter=300, random_state=0)).fit(x, y)
    Path("scikit.onnx").write_bytes(to_onnx(model, x[:1], options={"zipmap": False}).SerializeToString())


BROUGHT = (
    Brought(
        "resnet",
        _resnet,
        "timm:resnet18",
        ("--weights=resnet.pth", "--argument=drop_rate=0.2", "--argument=num_classes=10"),
    ),
    Brought("distilbert", _distilbert, "distilbert"),
    Brought("u-net", _checkpoint_of(_UNET, "unet"), "unet.py:Net", ("--weights=unet.pth", "--shape=3,128,128")),
    Brought(
        "tabular, named inputs",
        _checkpoint_of(_TABULAR, "tabular"),
        "tabular.py:Net",
        ("--weights=tabular.pth", "--shape=measurements=6", "--shape=place=:int64", "--task=regression"),
    ),
    Brought(
        "binary",
        _checkpoint_of(_BINARY, "binary"),
        "binary.py:Net",
        ("--weights=binary.pth", "--shape=30", "--task=binary"),
    ),
    Brought(
        "multi-label",
        _checkpoint_of(_MULTILABEL, "multilabel"),
        "multilabel.py:Net",
        ("--weights=multilabel.pth", "--shape=3,64,64", "--task=multilabel"),
    ),
    Brought(
        "vit of timm",
        _vit,
        "timm:vit_tiny_patch16_224",
        ("--weights=vit.pth", "--argument=drop_rate=0.1", "--argument=num_classes=10"),
    ),
    Brought("keras, by ONNX", _keras, "keras.onnx"),
    Brought("scikit-learn, by ONNX", _scikit_learn, "scikit.onnx", ("--inject=0.2",)),
    Brought("lightning", _lightning, "lit.ckpt", ("--module=lit:Lit", "--shape=8")),
)
"""In the order in which they are shown."""


if __name__ == "__main__":
    next(each for each in BROUGHT if each.name == sys.argv[1]).make()
