"""Functions: a function or a class of the user's own that makes a network, in a module or a file."""

import importlib
import inspect
import os
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from mcdropout.catalogue.making.asking import Ask
from mcdropout.catalogue.making.checkpoints import check_shapes, fitted, read_checkpoint, weights_in
from mcdropout.catalogue.making.draft import Draft, Write
from mcdropout.catalogue.making.networks import NETWORK, Network, draft_of
from mcdropout.catalogue.making.probing import Examples
from mcdropout.catalogue.making.source import Source, SourceError
from mcdropout.engine.faults import refusing

_CODE = "code"
_GENERAL = {
    "network",
    "model",
    "net",
    "make",
    "make_model",
    "make_network",
    "build",
    "build_model",
    "create",
    "create_model",
    "get_model",
    "main",
}
_INSTALLED = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib"))
_HERE = Path(__file__).resolve().parents[2]
_RETURNS = "a torch.nn.Module, or (network, example_inputs), is accepted"


def draft(source: Source, ask: Ask) -> Draft:
    with importing(source.text) as found:
        function, module = found
        made = called(function, source.text, source.arguments)
        network, examples = unpacked(made, source.text)
        source = _with_options(source, made)
        notes: tuple[str, ...] = ()
        if source.weights is not None:
            load_weights(network, source.weights)
        else:
            notes = (f"its weights are those that {source.text} made; --weights FILE loads yours",)
        return draft_of(
            Network(
                network,
                name_of(source.text),
                *code_of(source.text, module, is_tuple=examples is not None),
                source.arguments,
                examples=examples,
                notes=notes,
            ),
            source,
            ask,
        )


@contextmanager
def importing(text: str) -> Iterator[tuple[Callable[..., Any], ModuleType]]:
    """A function or class, `module:name` or `path/to/file.py:name`, and its module, while their folders are searched.

    Raises:
        SourceError: there is no such thing, or its code fails.
    """
    place, _, name = text.rpartition(":")
    path = Path(place)
    is_file = place.endswith(".py")
    if is_file and not path.is_file():
        raise SourceError(f"{place} is no file; path/to/file.py:function, or module:function, is accepted")
    before = list(sys.path)
    sys.path[:0] = [str(path.resolve().parent)] if is_file else [str(Path.cwd())]
    try:
        accepted = "a file of a package is accepted as package.module:function" if is_file else ""
        with refusing(f"{text!r} cannot be imported", accepted, SourceError):
            module = importlib.import_module(path.stem if is_file else place)
        if not callable(function := getattr(module, name, None)):
            defined = [key for key, value in vars(module).items() if _makes(value, module)]
            raise SourceError(f"{place} defines no {name!r}; one of {', '.join(defined) or 'none'} is accepted")
        yield function, module
    finally:
        sys.path[:] = before


def _makes(value: Any, module: ModuleType) -> bool:
    own = getattr(value, "__module__", None) == module.__name__
    return own and (inspect.isfunction(value) or (inspect.isclass(value) and issubclass(value, nn.Module)))


def called(function: Callable[..., Any], text: str, arguments: Mapping[str, Any]) -> Any:
    """What a function makes.

    Raises:
        SourceError: it fails.
    """
    needs = [each.name for each in _parameters(function) if each.default is each.empty and each.name not in arguments]
    if needs:
        raise SourceError(f"{text} takes {', '.join(needs)}; --argument {needs[0]}=VALUE, for each one, gives it")
    with refusing(f"{text} fails with the arguments {dict(arguments)}", kind=SourceError):
        return function(**arguments)


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        every = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    return [each for each in every if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]


def unpacked(made: Any, text: str) -> tuple[nn.Module, Examples | None]:
    """The network that a function has returned, and the example rows beside it, where there are any."""
    if isinstance(made, nn.Module):
        return made, None
    if not isinstance(made, tuple) or len(made) not in (2, 3) or not isinstance(made[0], nn.Module):
        raise SourceError(f"{text} returns {type(made).__name__}; {_RETURNS}")
    examples = dict(made[1]) if isinstance(made[1], dict) else made[1]
    rows = examples if isinstance(examples, tuple | dict) else (examples,)
    values = list(rows.values()) if isinstance(rows, dict) else list(rows)
    if not values or not all(isinstance(value, Tensor) and value.dim() for value in values):
        raise SourceError(f"{text} returns example inputs that are no tensors [rows, ...]; {_RETURNS}")
    return made[0], rows


def _with_options(source: Source, made: Any) -> Source:
    """A source, and what a function says as the third thing that it returns, as for `mcdropout inspect`."""
    options = made[2] if isinstance(made, tuple) and len(made) == 3 else {}
    if not isinstance(options, dict) or not set(options) <= {"task"}:
        raise SourceError(
            f"{source.text} returns the options {list(options)}; {{'task': ...}} is accepted, and --output, --shape, "
            "--sizes or model.yaml say the rest"
        )
    return source if source.task is not None else replace(source, task=options.get("task"))


def load_weights(network: nn.Module, path: Path) -> None:
    """Put a checkpoint's weights into a network."""
    state = weights_in(read_checkpoint(path), path)
    wanted = network.state_dict()
    found = fitted(state, wanted, path)
    check_shapes(
        found, wanted, path, "the same network is accepted: --argument NAME=VALUE gives what makes it an argument"
    )
    with refusing(f"{path} does not fit the network", kind=SourceError):
        network.load_state_dict(found)


def name_of(text: str) -> str:
    """What a bundle of a function's network may be called."""
    place, _, name = text.rpartition(":")
    module = Path(place).stem if place.endswith(".py") else place.rpartition(".")[2]
    return module if name.lower() in _GENERAL else f"{module}-{name}"


def code_of(text: str, module: ModuleType, *, is_tuple: bool) -> tuple[str, dict[str, Write]]:
    """The function in `network.py` that makes the network, and the files of that code.

    A file that imports no other of its user is copied as it is; of others, all that were imported lie in `code/`.
    What is installed is imported from there.
    """
    name = text.rpartition(":")[2]
    own = _own_modules()
    file = own.get(module.__name__)
    if file is not None and len(own) == 1 and "." not in module.__name__:
        if not is_tuple:
            return name, {NETWORK: partial(_copy, file)}
        content = _OF_FILE.format(text=text, name=name)
        return "network", {NETWORK: partial(_write, content), "source.py": partial(_copy, file)}
    made = f'import_module("{module.__name__}").{name}(**arguments)' + ("[0]" if is_tuple else "")
    if file is None:
        return "network", {NETWORK: partial(_write, _OF_INSTALLED.format(text=text, made=made))}
    files: dict[str, Write] = {}
    for called, path in own.items():
        inner = called.replace(".", "/")
        files[f"{_CODE}/{inner}/__init__.py" if path.name == "__init__.py" else f"{_CODE}/{inner}.py"] = partial(
            _copy, path
        )
    content = _OF_MODULES.format(text=text, made=made, tops=sorted({called.partition(".")[0] for called in own}))
    return "network", {NETWORK: partial(_write, content), **files}


def _own_modules() -> dict[str, Path]:
    """The files of the user's own code that were imported, by the names of their modules."""
    root = Path(sys.path[0]).resolve()
    found: dict[str, Path] = {}
    for name, each in list(sys.modules.items()):
        file = getattr(each, "__file__", None)
        if not isinstance(file, str) or not os.path.isabs(file) or not file.endswith(".py") or name == "__main__":
            continue
        path = Path(file).resolve()
        if path.is_relative_to(root) and not any(map(path.is_relative_to, (*_INSTALLED, _HERE))):
            found[name] = path
    return found


def _copy(source: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, place)


def _write(content: str, place: Path) -> None:
    place.write_text(content)


_OF_FILE = '''"""The network of {text}, whose file lies beside this one. Made by `mcdropout init`."""

from typing import Any

from .source import {name}


def network(**arguments: Any) -> Any:
    return {name}(**arguments)[0]
'''
_OF_INSTALLED = '''"""The network of {text}, which is installed. Made by `mcdropout init`."""

from importlib import import_module
from typing import Any


def network(**arguments: Any) -> Any:
    return {made}
'''
_OF_MODULES = '''"""The network of {text}, whose modules lie in code/. Made by `mcdropout init`."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

_CODE = str(Path(__file__).resolve().parent / "code")
_TOPS = {tops}  # others of these names, of another bundle, are not meant


def network(**arguments: Any) -> Any:
    for name in [name for name in sys.modules if name.partition(".")[0] in _TOPS]:
        del sys.modules[name]
    sys.path.insert(0, _CODE)
    try:
        return {made}
    finally:
        sys.path.remove(_CODE)
'''
