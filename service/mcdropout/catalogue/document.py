"""Documents: YAML as people write it by hand, read so that it means one thing, and is as large as it looks."""

from pathlib import Path
from typing import Any

import yaml

_MOST_BYTES = 2**22
_MOST_VALUES = 1_000_000
_MOST_QUOTED = 60  # characters of a value that is none
_TYPES = {"int": "an integer", "float": "a number", "bool": "true or false", "timestamp": "a date or a time"}


class DocumentError(Exception):
    """A file cannot be read as YAML; the message says why."""


def read_document(path: Path) -> Any:
    """What a YAML file says.

    Raises:
        FileNotFoundError: it is missing.
        DocumentError: it cannot be read, gives a key twice, or is larger than what anybody writes by hand.
    """
    try:
        return parse_document(_text(path))
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise DocumentError(f"cannot be read as YAML: {error}") from error


def parse_document(text: str) -> Any:
    """What YAML says.

    Raises:
        DocumentError: as `read_document` does.
    """
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check_size(node)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except RecursionError:
        raise DocumentError(
            "nests lists or mappings too deeply; the fields of a model, as the README has them, are accepted"
        ) from None
    except yaml.YAMLError as error:
        raise DocumentError(f"cannot be read as YAML: {error}") from error


def _text(path: Path) -> str:
    if path.exists() and not path.is_file():  # to open a pipe would be to wait for who writes to it
        raise DocumentError("is no regular file; one is accepted")
    size = path.stat().st_size
    if size > _MOST_BYTES:
        raise DocumentError(f"holds {size} bytes; {_MOST_BYTES} at most are accepted")
    return path.read_text()


def _check_size(root: yaml.Node) -> None:
    """Refuse what is immense written out: an alias is a few letters for all that its anchor holds, others among it."""
    sizes: dict[int, int | None] = {}  # by identity; None while it is counted

    def size_of(node: yaml.Node) -> int:
        if isinstance(node, yaml.ScalarNode):
            return 1
        if id(node) not in sizes:
            sizes[id(node)] = None
            held = node.value if isinstance(node, yaml.SequenceNode) else [x for pair in node.value for x in pair]
            sizes[id(node)] = 1 + sum(map(size_of, held))
        size = sizes[id(node)]
        if size is None:
            raise DocumentError(
                f"has a value in line {node.start_mark.line + 1} that holds itself; no such is accepted"
            )
        return size

    if (size := size_of(root)) > _MOST_VALUES:
        raise DocumentError(
            f"holds {size} values where its aliases (*name) are written out; {_MOST_VALUES} at most are accepted"
        )


class _Loader(yaml.SafeLoader):
    """Reads YAML in which each key of a mapping is given once, and text is of whole characters."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if not isinstance(node, yaml.ScalarNode):
            return super().construct_object(node, deep)
        line = node.start_mark.line + 1
        try:
            value = super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except Exception as error:  # what looks like a date, or an integer, and is none: of many kinds
            quoted = node.value if len(node.value) <= _MOST_QUOTED else f"{node.value[:_MOST_QUOTED]}..."
            kind = _TYPES.get(node.tag.rpartition(":")[2], "what its tag says")
            raise yaml.YAMLError(
                f"line {line} has {quoted!r}, which has the form of {kind} and cannot be read as one; in "
                "quotes, as text, it is accepted"
            ) from error
        if not isinstance(value, str):
            return value
        try:  # two halves in a row, as JSON writes what is beyond 16 bits, are one character
            return value.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise yaml.YAMLError(
                f"line {line} has text with half a character, {value!r}; whole ones are accepted"
            ) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            line, same = key.start_mark.line + 1, seen.get((key.tag, key.value))
            if same is not None:
                raise yaml.YAMLError(
                    f"{key.value} is given twice, in lines {same} and {line}; each field once is accepted"
                )
            seen[key.tag, key.value] = line
        return super().construct_mapping(node, deep)
