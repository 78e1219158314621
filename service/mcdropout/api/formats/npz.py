"""NumPy's `.npz`: a zip of `.npy` files, as `numpy.savez` writes it. No more is read than headers declare."""

import io
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from mcdropout.api.formats.npy import MOST_HEADER_BYTES, arranged, parts_of, read_header
from mcdropout.catalogue.arrays import Declared, check_size, declared
from mcdropout.catalogue.checks import RowsError
from mcdropout.catalogue.inputs import Input
from mcdropout.engine.arrays import Array
from mcdropout.predictions import Pause

MOST_INFLATED_BYTES = 2**25
"""How large the arrays of a compressed archive may be together, where it is smaller itself."""

_SUFFIX = ".npy"
_END = struct.Struct("<4s4H2LH")  # of an archive; of its numbers the sixth is the size of the directory
_DIRECTORY_BYTES_EACH, _MOST_NAME_BYTES = 512, 100
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 1
_PART_BYTES = 2**18
_FIRST_DAY = (1980, 1, 1, 0, 0, 0)
# What an archive that is damaged raises.
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, ValueError, struct.error)


def read_archive(
    body: bytes, inputs: Sequence[Input], most: int | None, pause: Pause
) -> list[tuple[Declared, npt.NDArray[np.generic]]]:
    """The arrays of an archive that holds one for each input, by its name.

    Raises:
        RowsError: it holds something else, or is none.
    """
    _check_directory(body, len(inputs))
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            members = _members(archive, inputs)
            _check_sizes(members, len(body))
            return [
                _array(archive, info, f"inputs.{spec.name}", spec, most, pause)
                for info, spec in zip(members, inputs, strict=True)
            ]
    except RowsError:
        raise
    except _DAMAGED as error:
        raise RowsError(
            f"the content is a damaged .npz ({type(error).__name__}: {error}); what numpy.savez writes is accepted"
        ) from error


def _check_directory(body: bytes, inputs: int) -> None:
    """Refuse an archive of a large directory before it is read, which takes many times its size."""
    end = body[-_END.size :]
    if len(end) < _END.size or not end.startswith(b"PK\5\6") or not end.endswith(b"\0\0"):
        raise RowsError("the content does not end as a .npz does; what numpy.savez writes is accepted")
    if body[-_END.size - 20 :].startswith(b"PK\6\7"):
        raise RowsError("the content is a .npz of more than 4 GiB by its end; what numpy.savez writes is accepted")
    size = _END.unpack(end)[5]
    if size > _DIRECTORY_BYTES_EACH * inputs:
        raise RowsError(
            f"the content is a .npz with a directory of {size} bytes; {_DIRECTORY_BYTES_EACH * inputs}, for "
            f"{inputs} {'array' if inputs == 1 else 'arrays'}, are accepted"
        )


def _members(archive: zipfile.ZipFile, inputs: Sequence[Input]) -> list[zipfile.ZipInfo]:
    """The member of each input."""
    found = archive.infolist()
    names = [spec.name + _SUFFIX for spec in inputs]
    if sorted(info.filename for info in found) != sorted(names):
        held = [info.filename.removesuffix(_SUFFIX)[:_MOST_NAME_BYTES] for info in found]
        wanted = [spec.name for spec in inputs]
        lacks = [name for name in wanted if name not in held]
        raise RowsError(
            f"the content is a .npz that {f'lacks {lacks} and ' if lacks else ''}holds {held}; one array for each of "
            f"{wanted} is accepted"
        )
    by_name = {info.filename: info for info in found}
    return [by_name[name] for name in names]


def _check_sizes(members: Sequence[zipfile.ZipInfo], size: int) -> None:
    for info in members:
        if info.compress_type not in _METHODS or info.flag_bits & _ENCRYPTED:
            raise RowsError(
                f"{info.filename} is compressed by the method {info.compress_type}, or encrypted; what numpy.savez or "
                "numpy.savez_compressed writes is accepted"
            )
    total, accepted = sum(info.file_size for info in members), max(size, MOST_INFLATED_BYTES)
    if total > accepted:
        raise RowsError(
            f"the content is a .npz of {size} bytes, whose arrays have {total}; at most {accepted} are accepted"
        )


def _array(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, label: str, spec: Input, most: int | None, pause: Pause
) -> tuple[Declared, npt.NDArray[np.generic]]:
    with archive.open(info) as file:
        start = file.read(min(MOST_HEADER_BYTES, info.file_size))
        header = read_header(start, label)
        array = declared(label, spec, header.dtype, header.shape, most)
        check_size(array, info.file_size - header.end)
        content = np.empty(array.size, np.uint8)
        filled = len(start) - header.end
        content[:filled] = np.frombuffer(start, np.uint8, offset=header.end)
        while part := file.read(_PART_BYTES):
            content[filled : filled + len(part)] = np.frombuffer(part, np.uint8)
            filled += len(part)
            pause()
    if filled != array.size:
        raise RowsError(f"{label} ends after {filled} bytes of values; {array.size} are accepted")
    return array, arranged(content.view(array.dtype), header)


def archive_of(arrays: Mapping[str, Array], pause: Pause) -> bytes:
    """An archive of arrays by their names, not compressed; of the same arrays the same bytes."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(name + _SUFFIX, _FIRST_DAY), "w", force_zip64=True) as file:
                for part in parts_of(array):
                    file.write(part)
                    pause()
    return written.getvalue()
