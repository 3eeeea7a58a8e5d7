"""Foreign tensors into ours and back, by a table with an entry for each of our parameters."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from semdiff.convert.weights import differences


@dataclass(frozen=True)
class Entry:
    """One of our parameters and the tensors it is made of.

    Each tensor has `shape`; reshaped to `core` and transposed by `axes` it is ours. Several (gamma
    and beta) are joined along the last axis.
    """

    name: str
    sources: tuple[str, ...]
    shape: tuple[int, ...]
    core: tuple[int, ...]
    axes: tuple[int, ...]

    @property
    def our_shape(self) -> tuple[int, ...]:
        *front, last = (self.core[axis] for axis in self.axes)
        return (*front, last * len(self.sources))

    def from_torch(self, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
        parts = [tensors[name].reshape(self.core).transpose(self.axes) for name in self.sources]
        return np.concatenate(parts, axis=-1)

    def to_torch(self, param: np.ndarray) -> dict[str, np.ndarray]:
        back = np.argsort(self.axes)
        parts = np.split(param, len(self.sources), axis=-1)
        return {
            name: np.ascontiguousarray(part.transpose(back)).reshape(self.shape)
            for name, part in zip(self.sources, parts)
        }


def norm(torch: str, ours: str, width: int) -> Iterator[Entry]:
    """Scale and bias of a norm."""
    for theirs, name in (("weight", "scale"), ("bias", "bias")):
        yield Entry(f"{ours}/{name}", (f"{torch}.{theirs}",), (width,), (width,), (0,))


# Of a kind of layer: what follows (outputs, inputs) in the shape of its weight, and whether ours has that too.
KINDS: dict[str, tuple[tuple[int, ...], bool]] = {
    "conv": ((3, 3), True),
    "1x1": ((1, 1), True),
    "dense": ((), False),
    "pointwise": ((1,), False),
    "pixelwise": ((1, 1), False),
}


def layer(
    kind: str, torch: str | tuple[str, ...], ours: str, inputs: int, outputs: int, bias: bool = True
) -> Iterator[Entry]:
    """Kernel and bias; several modules of theirs make one of ours, side by side."""
    tail, kept = KINDS[kind]
    shape = (outputs, inputs, *tail)
    core = shape if kept else (outputs, inputs)
    axes = (2, 3, 1, 0) if kept else (1, 0)
    modules = (torch,) if isinstance(torch, str) else torch
    yield Entry(f"{ours}/kernel", tuple(f"{m}.weight" for m in modules), shape, core, axes)
    if not bias:
        return
    biases = tuple(f"{m}.bias" for m in modules)
    yield Entry(f"{ours}/bias", biases, (outputs,), (outputs,), (0,))


def misfits(entries: Sequence[Entry], tensors: Mapping[str, Any]) -> str:
    """What sets these tensors apart from those that the table wants, in words; "" when nothing does."""
    wanted = {name: (entry.shape, None) for entry in entries for name in entry.sources}
    return differences({name: (t.shape, None) for name, t in tensors.items()}, wanted)


def check_floats(tensors: Mapping[str, np.ndarray], source: str | Path):
    for name, tensor in tensors.items():
        if not np.issubdtype(tensor.dtype, np.inexact) and "float" not in tensor.dtype.name:
            raise ValueError(f"{source}: tensor {name!r} is {tensor.dtype}, expected floating point")


def ours(entries: Sequence[Entry], tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Name -> parameter."""
    return {entry.name: at_least_float32(entry.from_torch(tensors)) for entry in entries}


def at_least_float32(param: np.ndarray) -> np.ndarray:
    """Half precision widened, which loses nothing."""
    return np.asarray(param, np.float32 if param.dtype.itemsize < 4 else param.dtype, order="C")


def bare(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Without the prefix that PyTorch's data-parallel wrapper puts before every name."""
    wrapped = tensors and all(name.startswith("module.") for name in tensors)
    return {name.removeprefix("module.") if wrapped else name: t for name, t in tensors.items()}
