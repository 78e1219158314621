"""Runtimes: what runs a program. `table` holds which there are; each registers itself in a file of its own.

`sparse` runs chains of masked linear layers on the CPU, `onnx` any program there, `torch` any on the CPU or CUDA, and
`eager` the network itself, as its own framework does: slow, and the reference against which the others are checked.
"""

from mcdropout.engine.runtimes import eager as eager
from mcdropout.engine.runtimes import onnx as onnx
from mcdropout.engine.runtimes import sparse as sparse
from mcdropout.engine.runtimes import torch as torch
from mcdropout.engine.runtimes.forms import Form as Form
from mcdropout.engine.runtimes.forms import FormError as FormError
from mcdropout.engine.runtimes.forms import Modules as Modules
from mcdropout.engine.runtimes.forms import Runnable as Runnable
from mcdropout.engine.runtimes.protocol import Runtime as Runtime
from mcdropout.engine.runtimes.protocol import drawing_of as drawing_of
from mcdropout.engine.runtimes.table import TABLE as TABLE
from mcdropout.engine.runtimes.table import Refusal as Refusal
from mcdropout.engine.runtimes.table import RuntimeKind as RuntimeKind
from mcdropout.engine.runtimes.table import Target as Target
from mcdropout.engine.runtimes.table import described as described
from mcdropout.engine.runtimes.table import names as names
from mcdropout.engine.runtimes.table import register as register
