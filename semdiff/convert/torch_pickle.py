"""What a PyTorch pickle may build: plain containers, and tensors as claims on raw bytes."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from semdiff.convert import plain_pickle
from semdiff.convert.plain_pickle import Damaged, Global, Refused, shown

MAX_RANK = 32

STORAGES = {
    "torch.FloatStorage": np.dtype(np.float32),
    "torch.DoubleStorage": np.dtype(np.float64),
    "torch.HalfStorage": np.dtype(np.float16),
    "torch.BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch.LongStorage": np.dtype(np.int64),
    "torch.IntStorage": np.dtype(np.int32),
    "torch.ShortStorage": np.dtype(np.int16),
    "torch.CharStorage": np.dtype(np.int8),
    "torch.ByteStorage": np.dtype(np.uint8),
    "torch.BoolStorage": np.dtype(np.bool_),
    "torch.ComplexFloatStorage": np.dtype(np.complex64),
    "torch.ComplexDoubleStorage": np.dtype(np.complex128),
    "torch.storage.UntypedStorage": np.dtype(np.uint8),
}
DTYPES = {f"torch.{dtype}": dtype for dtype in STORAGES.values()} | {
    "torch.uint16": np.dtype(np.uint16),
    "torch.uint32": np.dtype(np.uint32),
    "torch.uint64": np.dtype(np.uint64),
}


@dataclass(frozen=True, slots=True)
class Storage:
    """A claim on raw bytes: elements [start, start + count) of the storage `key`."""

    key: str
    dtype: np.dtype
    count: int
    start: int = 0


@dataclass(frozen=True, slots=True)
class View:
    """A tensor not yet read: a strided window on a storage, counted in elements of `dtype`."""

    storage: Storage
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def load(stream: Any, claimed: Callable[[Storage], None] = lambda storage: None) -> Any:
    """One pickle from a stream, tensors as `View`s; `claimed` is told every storage it mentions."""

    def persistent(claim: Any) -> Storage:
        storage = _storage(claim)
        claimed(storage)
        return storage

    return plain_pickle.load(stream, CALLS, NAMES, persistent)


def array(view: View, content: bytes, swap: bool) -> np.ndarray:
    """The tensor, as a read-only window on the bytes of its storage (a copy where bytes swap)."""
    width = view.dtype.itemsize
    per_element = view.storage.dtype.itemsize
    start, extent = view.storage.start * per_element, view.storage.count * per_element
    if start + extent > len(content):
        raise Damaged(f"its storage claims {start + extent} bytes, the file holds {len(content)}")
    elements = math.prod(view.shape)
    last = view.offset + sum((n - 1) * stride for n, stride in zip(view.shape, view.strides))
    if elements and ((last + 1) * width > extent or elements * width > extent):
        raise Refused(
            f"shape {view.shape}, strides {view.strides} and offset {view.offset} reach beyond "
            f"its storage of {extent // width} elements"
        )
    if elements == 0:
        if math.prod(max(n, 1) for n in view.shape) > 1 << 40:
            raise Refused(f"an empty tensor of the absurd shape {view.shape}")
        return np.zeros(view.shape, view.dtype)
    strides = [stride * width for stride in view.strides]
    offset = start + view.offset * width
    window = np.ndarray(view.shape, view.dtype, buffer=content, offset=offset, strides=strides)
    return window.byteswap() if swap else window


def _storage(claim: Any) -> Storage:
    """From ("storage", type, key, place, count[, (view key, start, count)]), as PyTorch has it."""
    if not isinstance(claim, tuple) or len(claim) not in (5, 6) or claim[0] != "storage":
        raise Refused("refused a persistent object that is not a storage")
    _, kind, key, _, count, *window = claim
    if not isinstance(kind, Global) or kind not in STORAGES:
        raise Refused(f"refused a storage of type {shown(kind)}")
    if not isinstance(key, str):
        raise Damaged(f"a storage called {shown(key)} where a string was expected")
    start = 0
    if window and window[0] is not None:
        if not isinstance(window[0], tuple) or len(window[0]) != 3:
            raise Damaged(f"a window on storage {shown(key)} that is {shown(window[0])}")
        _, start, count = window[0]
    return Storage(key, STORAGES[kind], _whole(count), _whole(start))


def _whole(number: Any) -> int:
    if not isinstance(number, int) or not 0 <= number < 1 << 62:
        raise Damaged(f"expected a size, an offset or a stride, found {shown(number)}")
    return int(number)


def _rebuild_tensor(storage, offset, shape, strides, *_ignored, dtype=None) -> View:
    if not isinstance(storage, Storage):
        raise Damaged("a tensor without a storage")
    if not isinstance(shape, tuple) or not isinstance(strides, tuple) or len(shape) != len(strides):
        raise Damaged("a tensor whose shape and strides do not belong together")
    if len(shape) > MAX_RANK:
        raise Damaged(f"a tensor of {len(shape)} dimensions (at most {MAX_RANK})")
    shape, strides = tuple(map(_whole, shape)), tuple(map(_whole, strides))
    return View(storage, dtype or storage.dtype, _whole(offset), shape, strides)


def _rebuild_typed(storage, offset, shape, strides, _grad, _hooks, dtype, _metadata=None) -> View:
    if not isinstance(dtype, Global) or dtype not in DTYPES:
        raise Damaged(f"a tensor of the unknown type {shown(dtype)}")
    return _rebuild_tensor(storage, offset, shape, strides, dtype=DTYPES[dtype])


def _rebuild_parameter(tensor, _grad=False, _hooks=None) -> View:
    if not isinstance(tensor, View):
        raise Damaged("a parameter without a tensor")
    return tensor


def _ordered_dict(pairs=()) -> dict:
    for pair in pairs:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise Damaged("an ordered dictionary with entries that are not (name, value)")
        plain_pickle.check_key(pair[0])
    return dict(pairs)


def _size(sizes=()) -> tuple[int, ...]:
    return tuple(map(_whole, sizes))


def _device(kind, index=None) -> str:
    return shown(kind) if index is None else f"{shown(kind)}:{shown(index)}"


CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuild_typed,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch.Size": _size,
    "torch.device": _device,
}
# Keys under which a trainer's files keep what it says of itself.
CALLBACKS = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint",
)
NAMES = frozenset(STORAGES) | frozenset(DTYPES) | frozenset(CALLBACKS)
