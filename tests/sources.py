"""What people have of a network, small: for the tests of `mcdropout init`."""

import sys
import types
from pathlib import Path
from textwrap import dedent

import numpy as np
import onnx
import torch
from torch import nn

NETS = """
    import torch
    from torch import nn

    from shapes import CLASSES


    class Net(nn.Module):
        def __init__(self, width=8, p=0.5):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Dropout(p), nn.Linear(width, CLASSES))

        def forward(self, flower):
            return self.layers(flower)


    class Sure(Net):
        def __init__(self):
            super().__init__(p=0.0)


    class One(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))


    def with_rows():
        return Net(), torch.rand(3, 4)


    def number():
        return 3
"""
ALONE = """
    import torch
    from torch import nn


    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.dropout, self.head = nn.Embedding(30, 8), nn.Dropout(0.2), nn.Linear(8, 2)

        def forward(self, words):
            return self.head(self.dropout(self.embedding(words)).mean(1))
"""


def network(classes: int = 3) -> nn.Sequential:
    """The network of `shop.nets:Net`, with other weights than that begins with."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, classes)).eval()


def write_code(folder: Path) -> None:
    """A package `shop` that imports a module beside it, and a file that imports nothing of its user's."""
    (folder / "shop").mkdir(parents=True)
    (folder / "shop" / "__init__.py").touch()
    (folder / "shop" / "nets.py").write_text(dedent(NETS))
    (folder / "shapes.py").write_text("CLASSES = 3\n")
    (folder / "alone.py").write_text(dedent(ALONE))


def write_onnx(path: Path, classes: int = 3) -> None:
    """An ONNX model with its dropout in it."""
    made = network(classes)
    made[2].train()
    torch.onnx.export(
        made,
        (torch.rand(2, 4),),
        path,
        dynamic_axes={"flower": {0: "rows"}},
        input_names=["flower"],
        dynamo=False,
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
    )


def write_of_scikit_learn(path: Path, *, hidden: bool = True, maps: bool = False) -> None:
    """A classifier as skl2onnx writes it, without dropout: the labels, and probabilities or mappings of them.

    Args:
        path: where to.
        hidden: whether it is a perceptron with a hidden layer, or linear.
        maps: whether each row's probabilities are a mapping, as they are by default.
    """
    node, numbers = onnx.helper.make_node, np.random.default_rng(4).standard_normal
    weights = {"first": numbers((4, 8)), "last": numbers((8 if hidden else 4, 3))}
    nodes = (
        [node("MatMul", ["X", "first"], ["sums"]), node("Relu", ["sums"], ["hidden"], name="Relu")] if hidden else []
    )
    nodes += [
        node("MatMul", ["hidden" if hidden else "X", "last"], ["logits"]),
        node("Softmax", ["logits"], ["probabilities"], axis=1),
        node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0),
    ]
    made, of = onnx.helper.make_tensor_value_info, onnx.TensorProto
    outputs = [made("label", of.INT64, ["n"]), made("probabilities", of.FLOAT, ["n", 3])]
    if maps:
        nodes.append(
            node("ZipMap", ["probabilities"], ["output_probability"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2])
        )
        number = onnx.helper.make_tensor_type_proto(of.FLOAT, [])
        mapping = onnx.helper.make_map_type_proto(of.INT64, number)
        outputs[1] = onnx.helper.make_value_info("output_probability", onnx.helper.make_sequence_type_proto(mapping))
    used = {name: value for name, value in weights.items() if any(name in each.input for each in nodes)}
    graph = onnx.helper.make_graph(
        nodes,
        "graph",
        [made("X", of.FLOAT, ["n", 4])],
        outputs,
        [onnx.numpy_helper.from_array(value.astype(np.float32), name) for name, value in used.items()],
    )
    versions = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("ai.onnx.ml", 1)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=versions, ir_version=8), path)


def write_exported(path: Path) -> None:
    """A `torch.export` archive."""
    rows = ({0: torch.export.Dim("rows")},)
    torch.export.save(torch.export.export(network(), (torch.rand(3, 4),), dynamic_shapes=rows), path)


def write_traced(path: Path) -> None:
    """A TorchScript file."""
    torch.jit.save(torch.jit.trace(network(), torch.rand(3, 4)), path)


def write_lightning(path: Path) -> None:
    """What Lightning's Trainer writes of a module that holds `shop.nets:Net` as `net`, and objects of its own."""
    made = nn.ModuleDict({"net": nn.ModuleDict({"layers": network()})})
    module = types.ModuleType("not_installed_here")
    tool = type("Tool", (), {"__module__": module.__name__})
    module.Tool = tool  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    try:
        torch.save(
            {
                "pytorch-lightning_version": "2.5.0",
                "state_dict": {**made.state_dict(), "loss.weight": torch.ones(3)},
                "hyper_parameters": {"width": 8, "learning_rate": 0.1, "logger": tool()},
                "callbacks": {"checkpoint": tool()},
            },
            path,
        )
    finally:
        del sys.modules[module.__name__]


def write_texts(folder: Path, **changes: object) -> None:
    """What save_pretrained writes of a small BERT and its tokenizer."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "it", "works", "nobody", "knows", "!"]
    numbered = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(numbered, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        model_max_length=8,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    ).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=8,
        id2label={0: "bad", 1: "good", 2: "neither"},
    )
    config.update(changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = transformers.BertForSequenceClassification(config)
    for parameter in model.parameters():  # weights as small as they begin hardly let the words count
        parameter.data.mul_(8.0)
    model.save_pretrained(folder)


def write_images(folder: Path) -> None:
    """What save_pretrained writes of a small ViT and its image processor."""
    import transformers

    config = transformers.ViTConfig(
        image_size=16,
        patch_size=8,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        hidden_dropout_prob=0.2,
        num_labels=2,
    )
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        '{"image_processor_type": "ViTImageProcessor", "do_resize": true, "size": {"height": 16, "width": 16}, '
        '"do_rescale": true, "rescale_factor": 0.00392156862745098, "do_normalize": true, '
        '"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.5, 0.25], "resample": 2}'
    )
