"""Eager: the network itself, with masks in the place of its dropout. Its source knows how that runs."""

from mcdropout.engine.runtimes.forms import Form, Runnable
from mcdropout.engine.runtimes.protocol import Runtime
from mcdropout.engine.runtimes.table import RuntimeKind, Target, register


def _build(program: Runnable, target: Target) -> Runtime:
    return program.eager(target.device)


register(RuntimeKind(name="eager", rank=40, takes=Form.EAGER, build=_build, note="the module itself"))
