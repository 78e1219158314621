"""Compiled engines: a prepared network on disk, to be loaded without what it was prepared from.

A folder holds the graphs as ONNX, what there is to know of them as JSON, and what the network itself answered to some
rows, so that the program passes the same checks again wherever it is loaded.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError

from mcdropout.digest import digest_of
from mcdropout.engine.arrays import Array
from mcdropout.engine.chain import Chain, Layer
from mcdropout.engine.checks import Check
from mcdropout.engine.errors import CompiledError, UnsupportedModelError
from mcdropout.engine.inputs import InputSpec
from mcdropout.engine.masks import MAPPING, MaskSource, same_masks
from mcdropout.engine.preparation import Prepared, Sized, choose
from mcdropout.engine.program import Graph, Graphs, Outline, Program
from mcdropout.engine.reading import Reading
from mcdropout.engine.runtimes import Form, Refusal, Runnable, Target
from mcdropout.engine.sites import Site, SiteOff
from mcdropout.engine.sizes import Dimension, Sizing
from mcdropout.engine.verify import Reference

FORMAT: Final = 3
"""Changes whenever what an older version wrote would be read otherwise, or answer otherwise."""
_RECORD, _REFERENCE, _BASELINE = "program.json", "reference.npz", "baseline"
_OTHER = "other_"  # how the names of arrays begin that are of other sizes
_PREFIX, _SUFFIX = "prefix.onnx", "suffix.onnx"
_PACKAGES = ("mcdropout", "onnx", "onnxruntime", "torch")


@dataclass(frozen=True)
class _Input:
    shape: tuple[Dimension, ...]
    dtype: str
    name: str | None
    row_axis: int
    missing: bool = False
    lowest: int | None = None
    highest: int | None = None


@dataclass(frozen=True)
class _TensorLocation:
    """Where a tensor's numbers lie in the file beside the suffix: the first byte, and the shape; they are float32."""

    name: str
    offset: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class _Layer:
    weight: _TensorLocation
    bias: _TensorLocation | None
    transposed: bool
    relu: bool
    mask: int | None
    density: float


@dataclass(frozen=True)
class _Chain:
    layers: tuple[_Layer, ...]
    input: int | None


@dataclass(frozen=True)
class _Graphs:
    prefix: tuple[str, ...] | None
    suffix: tuple[str, ...]
    outline: Outline
    chain: _Chain | None


@dataclass(frozen=True)
class _Reference:
    passes: tuple[int, ...]
    keeps: bool
    tolerance: float


@dataclass(frozen=True)
class _Other:
    sizes: dict[str, int]
    reference: _Reference


@dataclass(frozen=True)
class _Record:
    format: Literal[3]
    reading: Reading
    sites: tuple[Site, ...]
    off: tuple[SiteOff, ...]
    inputs: tuple[_Input, ...]
    program: Program
    network_checks: tuple[Check, ...]
    graphs: _Graphs
    baseline: _Graphs | None
    reference: _Reference
    sizing: Sizing | None
    others: tuple[_Other, ...]
    files: dict[str, str]
    mapping: int = 1  # records that name none are of the first
    made_with: dict[str, str] = field(default_factory=dict)


_record: TypeAdapter[_Record] = TypeAdapter(_Record)


def write_compiled(prepared: Prepared, folder: Path) -> None:
    """Write a prepared network to a folder.

    Raises:
        UnsupportedModelError: it runs on PyTorch.
    """
    graphs = _required(prepared.graphs, prepared.program)
    baseline = None
    folder.mkdir(parents=True, exist_ok=True)
    for old in _files_of(folder):
        old.unlink()
    if prepared.baseline is not prepared.runtime:
        baseline = _copied(_required(prepared.baseline_graphs, prepared.program), folder / _BASELINE)
    copied = _copied(graphs, folder)
    reference = prepared.reference
    arrays = dict(_arrays_of(reference))
    for index, other in enumerate(prepared.others):
        arrays |= {f"{_OTHER}{index}_{name}": values for name, values in _arrays_of(other.reference)}
    np.savez(folder / _REFERENCE, **arrays)
    record = _Record(
        format=FORMAT,
        reading=prepared.reading,
        sites=prepared.source.sites,
        off=prepared.off,
        inputs=tuple(
            _Input(x.shape, x.dtype.name, x.name, x.row_axis, x.missing, x.lowest, x.highest) for x in prepared.inputs
        ),
        program=replace(prepared.program, checks=()),
        network_checks=prepared.network_checks,
        graphs=copied,
        baseline=baseline,
        reference=_recorded_reference(reference),
        sizing=prepared.sizing,
        others=tuple(_Other(other.sizes, _recorded_reference(other.reference)) for other in prepared.others),
        files={path.relative_to(folder).as_posix(): digest_of(path) for path in _files_of(folder)},
        mapping=MAPPING,
        made_with=dict(_versions()),
    )
    (folder / _RECORD).write_bytes(_record.dump_json(record, indent=1) + b"\n")


def read_compiled(folder: Path, target: Target) -> Prepared:
    """What `write_compiled` wrote, loaded and checked again.

    Args:
        folder: where it lies.
        target: where to run it.

    Raises:
        CompiledError: it is missing, damaged, or of another version.
        VerificationError: it failed a check.
    """
    record = _read_record(folder)
    source = MaskSource(record.sites)
    reference, others = _read_references(folder, record)
    programs: list[Runnable | Refusal] = [Refusal(record.program.reason)] if record.program.reason else []
    programs.append(_runnable(record, _loaded(record.graphs, folder)))
    plain = None
    if record.baseline is not None:
        plain = [_runnable(record, _loaded(record.baseline, folder / _BASELINE))]
    chosen, baseline = choose(programs, plain, target, source, reference, (), record.sizing, others)
    program = replace(
        record.program,
        runtime=chosen.candidate.kind.name,
        device=chosen.runtime.device,
        reason=chosen.reason,
        checks=(*record.network_checks, *chosen.checks),
    )
    return Prepared(
        reading=record.reading,
        source=source,
        off=record.off,
        inputs=tuple(
            InputSpec(x.shape, np.dtype(x.dtype), x.name, x.row_axis, x.missing, x.lowest, x.highest)
            for x in record.inputs
        ),
        runtime=chosen.runtime,
        baseline=baseline.runtime,
        graphs=chosen.candidate.graphs,
        baseline_graphs=baseline.candidate.graphs,
        program=program,
        outline=record.graphs.outline,
        reference=reference,
        network_checks=record.network_checks,
        sizing=record.sizing,
        others=others,
    )


@dataclass(frozen=True)
class Summary:
    """What a folder says of the engine that it holds, which is neither loaded nor checked for it."""

    sites: tuple[Site, ...]
    sites_off: tuple[SiteOff, ...]
    program: Program
    reading: Reading
    sizing: Sizing | None

    @property
    def site_shapes(self) -> list[list[int | str]]:
        """The shape of each site's mask for people, as `Engine` has it."""
        return [list(site.shape) for site in self.sites] if self.sizing is None else self.sizing.told_shapes()


def read_summary(folder: Path) -> Summary:
    """What `write_compiled` has recorded.

    Raises:
        CompiledError: it is missing, damaged, or of another version.
    """
    record = _read_record(folder)
    return Summary(record.sites, record.off, record.program, record.reading, record.sizing)


def _recorded_reference(reference: Reference) -> _Reference:
    return _Reference(reference.passes, reference.keeps, reference.tolerance)


def _runnable(record: _Record, graphs: Graphs) -> Runnable:
    """A program that was read, which has no form but ONNX."""
    return Runnable(record.program.strategy, graphs.outline, lambda: record.program.cost, {Form.GRAPHS: lambda: graphs})


def _required(graphs: Graphs | None, program: Program) -> Graphs:
    if graphs is None:
        raise UnsupportedModelError(
            f"the network runs on {program.runtime} and cannot be compiled, which takes a program in ONNX: "
            f"{program.reason}"
        )
    return graphs


def _copied(graphs: Graphs, folder: Path) -> _Graphs:
    """Copy the files of graphs to a folder."""
    folder.mkdir(exist_ok=True)
    for name, graph in ((_PREFIX, graphs.prefix), (_SUFFIX, graphs.suffix)):
        if graph is None:
            continue
        shutil.copyfile(graph.path, folder / name)
        data = _data_of(graph.path)
        if data.exists():
            shutil.copyfile(data, folder / _data_of(folder / name).name)
    prefix = None if graphs.prefix is None else graphs.prefix.inputs
    chain = None if graphs.chain is None else _recorded(graphs.chain, folder / _SUFFIX)
    return _Graphs(prefix, graphs.suffix.inputs, graphs.outline, chain)


def _files_of(folder: Path) -> list[Path]:
    """The files that are there of those that are written, but for the record, which names them."""
    halves = [place / name for place in (folder, folder / _BASELINE) for name in (_PREFIX, _SUFFIX)]
    written = [*halves, *map(_data_of, halves), folder / _REFERENCE]
    return sorted(path for path in written if path.is_file())


def _data_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.data")


def _recorded(chain: Chain, suffix: Path) -> _Chain:
    """A chain, with where in the suffix's file its numbers are."""
    from mcdropout.engine.onnx.write import tensor_offsets

    offsets = tensor_offsets(suffix)

    def located(name: str, values: npt.NDArray[np.float32], transposed: bool) -> _TensorLocation:
        return _TensorLocation(name, offsets[name], (values.T if transposed else values).shape)

    return _Chain(
        tuple(
            _Layer(
                weight=located(layer.weight_name, layer.weight, layer.transposed),
                bias=None
                if layer.bias is None or layer.bias_name is None
                else located(layer.bias_name, layer.bias, False),
                transposed=layer.transposed,
                relu=layer.relu,
                mask=layer.mask,
                density=layer.density,
            )
            for layer in chain.layers
        ),
        chain.input,
    )


def _loaded(graphs: _Graphs, folder: Path) -> Graphs:
    chain = None if graphs.chain is None else _read_chain(graphs.chain, _data_of(folder / _SUFFIX))
    prefix = None if graphs.prefix is None else Graph(folder / _PREFIX, graphs.prefix)
    return Graphs(prefix, Graph(folder / _SUFFIX, graphs.suffix), graphs.outline, chain)


def _read_chain(chain: _Chain, data: Path) -> Chain:
    def values(tensor: _TensorLocation) -> npt.NDArray[np.float32]:
        return np.memmap(data, np.dtype("<f4"), "r", tensor.offset, tensor.shape)

    return Chain(
        tuple(
            Layer(
                weight=values(layer.weight).T if layer.transposed else values(layer.weight),
                bias=None if layer.bias is None else values(layer.bias),
                relu=layer.relu,
                mask=layer.mask,
                density=layer.density,
                weight_name=layer.weight.name,
                bias_name=None if layer.bias is None else layer.bias.name,
                transposed=layer.transposed,
            )
            for layer in chain.layers
        ),
        chain.input,
    )


def _read_record(folder: Path) -> _Record:
    path = folder / _RECORD
    try:
        record = _record.validate_json(path.read_bytes())
    except OSError as error:
        raise CompiledError(
            f"{path} cannot be read: {error.strerror}; a folder that compiling wrote is accepted"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise CompiledError(
            f"{path}: {where} is not what this version ({version('mcdropout')}, format {FORMAT}) writes: {first['msg']}"
        ) from error
    if not same_masks(record.mapping, record.sites):
        raise CompiledError(
            f"{path}: its masks are of version {record.mapping} of the mapping; what was compiled with version "
            f"{MAPPING}, which is drawn here, is accepted"
        )
    for name, digest in record.files.items():
        file = folder / name
        if not file.resolve().is_relative_to(folder.resolve()) or not file.is_file():
            raise CompiledError(f"{file} is missing; all files that compiling wrote are needed")
        if digest_of(file) != digest:
            raise CompiledError(f"{file} is damaged: it is not what compiling wrote")
    return record


def _arrays_of(reference: Reference) -> Iterator[tuple[str, Any]]:
    for index, values in enumerate(reference.inputs):
        yield f"input_{index}", values
    for index, values in enumerate(reference.deterministic):
        yield f"deterministic_{index}", values
    for number, outputs in zip(reference.passes, reference.under_masks, strict=True):
        for index, values in enumerate(outputs):
            yield f"pass_{number}_{index}", values
    for index, values in enumerate(reference.mixed):
        yield f"mixed_{index}", values


def _read_references(folder: Path, record: _Record) -> tuple[Reference, tuple[Sized, ...]]:
    """What the network answered to its examples, and at other sizes."""
    path = folder / _REFERENCE
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays: dict[str, Array] = dict(file)
        others = tuple(
            Sized(other.sizes, _reference(arrays, other.reference, f"{_OTHER}{index}_"))
            for index, other in enumerate(record.others)
        )
        return _reference(arrays, record.reference), others
    except (OSError, ValueError, KeyError) as error:
        raise CompiledError(f"{path} cannot be read: {error}") from error


def _reference(arrays: dict[str, Array], record: _Reference, start: str = "") -> Reference:
    return Reference(
        inputs=_numbered(arrays, f"{start}input"),
        deterministic=_numbered(arrays, f"{start}deterministic"),
        passes=record.passes,
        under_masks=tuple(_numbered(arrays, f"{start}pass_{number}") for number in record.passes),
        mixed=_numbered(arrays, f"{start}mixed"),
        keeps=record.keeps,
        tolerance=record.tolerance,
    )


def _numbered(arrays: dict[str, Array], name: str) -> tuple[Array, ...]:
    count = sum(key.rpartition("_")[0] == name for key in arrays)
    return tuple(arrays[f"{name}_{index}"] for index in range(count))


def _versions() -> Iterator[tuple[str, str]]:
    for name in _PACKAGES:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue
