"""Torch: PyTorch, which runs the split graph on the CPU or CUDA. It is imported where it is used."""

from mcdropout.engine.runtimes.forms import Form, Runnable
from mcdropout.engine.runtimes.protocol import Runtime
from mcdropout.engine.runtimes.table import RuntimeKind, Target, register


def _build(program: Runnable, target: Target) -> Runtime:
    from mcdropout.engine.runtimes.tensors import TorchRuntime

    return TorchRuntime(program.modules(), target.device)


register(RuntimeKind(name="torch", rank=30, takes=Form.MODULES, build=_build))
