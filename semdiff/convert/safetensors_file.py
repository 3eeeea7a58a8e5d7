"""Safetensors files from strangers: every claim of the header is checked before a tensor is made.

Types that NumPy lacks (bfloat16, 8-bit floats) are those of ml_dtypes.
"""

import json
import math
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from semdiff.convert.plain_pickle import Damaged, Refused, shown

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E4M3FNUZ": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "F8_E5M2FNUZ": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
    "C64": np.dtype(np.complex64),
}
METADATA = "__metadata__"
MAX_HEADER_BYTES = 100_000_000  # the format's own limit
MAX_RANK = 32


@dataclass(frozen=True)
class Claim:
    """What a header says of one tensor: bytes [start, end) of what follows it."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    start: int
    end: int


def load(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """(the tensors by name, read-only; the metadata)."""
    with _told_with(path), path.open("rb") as file:
        header, left = _header(file)
        metadata = _metadata(header.pop(METADATA, {}))
        claims = list(_claims(header, left))
        content = file.read(left)
        return {claim.name: _tensor(claim, content) for claim in claims}, metadata


def read_metadata(path: Path) -> dict[str, str]:
    with _told_with(path), path.open("rb") as file:
        return _metadata(_header(file)[0].get(METADATA, {}))


@contextmanager
def _told_with(path: Path):
    """Errors that name the file."""
    try:
        yield
    except Refused as error:
        raise ValueError(f"{path}: {error}") from None
    except Damaged as error:
        raise ValueError(
            f"{path}: {error}; download or copy the file again (a .pt or .pth is brought in with"
            " `python -m semdiff.convert import`)"
        ) from None


def _header(file: BinaryIO) -> tuple[dict[str, Any], int]:
    """The header and how many bytes follow it."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or not 2 <= length <= size - 8:
        raise Damaged(f"not a whole safetensors file (a header of {length} bytes in a file of {size})")
    if length > MAX_HEADER_BYTES:
        raise Refused(f"refused a header of {length} bytes (at most {MAX_HEADER_BYTES})")
    try:
        header = json.loads(file.read(length), object_pairs_hook=_each_once)
    except (Damaged, Refused):
        raise
    except (ValueError, RecursionError) as error:
        raise Damaged(f"not a whole safetensors file (its header is not JSON: {str(error)[:80]})") from None
    if not isinstance(header, dict):
        raise Damaged(f"not a whole safetensors file (its header is {shown(header)})")
    return header, size - 8 - length


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        (name, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise Damaged(f"its header has {shown(name)} twice")
    return found


def _metadata(written: Any) -> dict[str, str]:
    if not isinstance(written, dict) or not all(isinstance(value, str) for value in written.values()):
        raise Damaged(f"its {METADATA} is not a table of texts")
    return written


def _claims(header: dict[str, Any], left: int) -> Iterator[Claim]:
    """The tensors in the order of their bytes, which they cover without a gap."""
    claims = sorted((_claim(name, entry) for name, entry in header.items()), key=lambda c: (c.start, c.end))
    end = 0
    for claim in claims:
        if claim.start != end:
            raise Damaged(
                f"tensor {shown(claim.name)} begins at byte {claim.start}, where {end} was expected"
            )
        end = claim.end
        yield claim
    if end != left:
        raise Damaged(f"not a whole safetensors file (its tensors are {end} bytes, {left} are there)")


def _claim(name: str, entry: Any) -> Claim:
    entry = entry if isinstance(entry, dict) else {}
    kind, shape, place = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(kind, str) or kind not in DTYPES:
        raise Refused(
            f"refused tensor {shown(name)} of the type {shown(kind)}; expected one of {', '.join(DTYPES)}."
            " Cast it where the file was made"
        )
    if not _whole_numbers(shape) or len(shape) > MAX_RANK or not _whole_numbers(place) or len(place) != 2:
        raise Damaged(f"tensor {shown(name)} has no shape of at most {MAX_RANK} numbers, or no two offsets")
    size = math.prod(shape) * DTYPES[kind].itemsize
    if size != place[1] - place[0]:
        raise Damaged(f"tensor {shown(name)} has {place[1] - place[0]} bytes, {shown(size)} by its shape")
    if math.prod(max(n, 1) for n in shape) > 1 << 40:
        raise Refused(f"refused tensor {shown(name)}: empty, and of an absurd shape")
    return Claim(name, DTYPES[kind], tuple(shape), *place)


def _whole_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 62 for n in value)


def _tensor(claim: Claim, content: bytes) -> np.ndarray:
    return np.ndarray(claim.shape, claim.dtype, buffer=content, offset=claim.start)
