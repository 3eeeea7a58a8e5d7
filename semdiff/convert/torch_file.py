"""Tensors out of PyTorch's files and safetensors, without PyTorch, running nothing of the file.

Formats: the zip archive of PyTorch >= 1.6, the older stream (magic number, pickles, raw storages)
and safetensors. A file is taken for hostile: only plain containers and tensors are rebuilt, and
every size is compared with the bytes that are there.
"""

import mmap
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from semdiff.convert import safetensors_file, torch_pickle
from semdiff.convert.plain_pickle import Damaged, Refused, shown
from semdiff.convert.torch_pickle import Storage, View

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
LEGACY_START = b"\x80\x02\x8a\x0a" + LEGACY_MAGIC.to_bytes(10, "little") + b"."
MAX_PICKLE_BYTES = 64 << 20
MAX_ENTRIES = 1_000_000
MAX_DEPTH = 64
TENSOR_ROOM = 64  # bytes that a tensor takes in a file at least, beside its name
SPARE_ROOM = 1 << 16
# What the zip library lets through when an archive's own records are garbled.
UNZIP_ERRORS = (
    *(zipfile.BadZipFile, EOFError, RuntimeError),
    *(ValueError, OverflowError, OSError, struct.error),
)

Fetch = Callable[[Any], np.ndarray]  # from a leaf of a parsed tree to its tensor


def load(path: str | Path, key: str | None = None, flatten: bool = False) -> dict[str, np.ndarray]:
    """The tensors of a file by name, as read-only arrays; values that are no tensors are left out.

    key: the entry that holds them, where a file nests its tensors ("state_dict", "model", "ema").
    flatten: tensors at any depth, their names joined by dots.
    """
    path = Path(path)
    with ExitStack() as stack:
        try:
            tree, fetch = _parse(path, stack)
            return _named(path, tree, fetch, key, flatten)
        except Refused as error:
            raise ValueError(
                f"{path}: {error}. Only tensors in plain containers are read: unpickling anything "
                "else could run code hidden in the file. If you trust it, load it with PyTorch and "
                "save its state_dict alone"
            ) from None
        except Damaged as error:
            raise ValueError(f"{path}: {error}; download or copy the file again") from None


def _named(path: Path, tree: Any, fetch: Fetch, key: str | None, flatten: bool):
    if key is not None:
        if not isinstance(tree, dict) or key not in tree:
            raise ValueError(f"{path}: no entry {key!r}; {_describe(tree)}")
        tree = tree[key]
    if not isinstance(tree, dict):
        raise ValueError(f"{path}: expected tensors by name; {_describe(tree)}")
    tensors = {}
    room = path.stat().st_size + SPARE_ROOM
    for names, leaf in _leaves(tree):
        if len(names) > 1 and not flatten:
            raise ValueError(
                f"{path}: its tensors are nested ({_describe(tree)}); name the entry to read "
                "(key=...) or ask for all of them (flatten=True)"
            )
        room -= sum(map(len, names)) + TENSOR_ROOM
        if room < 0:
            raise Refused(
                "refused tensors whose names take more room than the file, which lists them many times"
            )
        name = ".".join(names)
        if name in tensors:
            raise ValueError(f"{path}: two tensors are called {name!r} once their names are joined")
        try:
            tensors[name] = fetch(leaf)
        except (Refused, Damaged) as error:
            raise type(error)(f"tensor {name!r}: {error}") from None
    if not tensors:
        raise ValueError(f"{path}: no tensors to be found; {_describe(tree)}")
    return tensors


def _parse(path: Path, stack: ExitStack) -> tuple[Any, Fetch]:
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; expected a .pt, .pth or .safetensors file")
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        raise Damaged("the file is empty")
    if start.startswith(b"PK"):
        return _parse_zip(path, stack)
    if start.startswith(LEGACY_START):
        return _parse_legacy(path)
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        return _parse_safetensors(path)
    raise ValueError(
        f"{path}: not a PyTorch or safetensors file (it begins with {start[:24]!r}){_hint(start)}"
    )


def _hint(start: bytes) -> str:
    if start.lstrip().startswith(b"<"):
        return ": this is a web page, the download gave a page instead of the file"
    if start.startswith(b"version https://git-lfs"):
        return ": this is a Git LFS pointer, fetch the file itself with `git lfs pull`"
    if start.startswith(b"\x80"):
        return ": a pickle, but not one that PyTorch's save wrote, or one cut short"
    return ""


def _parse_safetensors(path: Path) -> tuple[Any, Fetch]:
    tensors, _ = safetensors_file.load(path)
    return tensors, lambda leaf: leaf


def _parse_zip(path: Path, stack: ExitStack) -> tuple[Any, Fetch]:
    try:
        archive = stack.enter_context(zipfile.ZipFile(path))
    except UNZIP_ERRORS as error:
        raise Damaged(f"a zip archive that is cut short or damaged ({error})") from None
    entries = {entry.filename: entry for entry in archive.infolist()}
    pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise Damaged(f"a zip archive with {len(pickles)} data.pkl; PyTorch's has exactly 1")
    root = pickles[0].removesuffix("data.pkl")
    if root + "constants.pkl" in entries:
        raise Refused("this is a TorchScript program, not a file of tensors")

    order = b"little"
    if root + "byteorder" in entries:
        order = _entry(archive, root + "byteorder", limit=16).strip()
    if order not in (b"little", b"big"):
        raise Damaged(f"unknown byte order {order!r} (expected little or big)")
    tree = torch_pickle.load(_entry(archive, pickles[0], limit=MAX_PICKLE_BYTES))
    left = path.stat().st_size
    storages: dict[str, bytes] = {}

    def fetch(view: View) -> np.ndarray:
        nonlocal left
        key = view.storage.key
        if key not in storages:
            storages[key] = _entry(archive, f"{root}data/{key}", limit=left)
            left -= len(storages[key])
        return torch_pickle.array(view, storages[key], swap=order == b"big")

    return tree, fetch


def _entry(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    try:
        entry = archive.getinfo(name)
    except KeyError:
        raise Damaged(f"the archive lacks {shown(name)}, which its tensors need") from None
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
        raise Refused(f"{shown(name)} is compressed or encrypted, which PyTorch never does")
    if entry.file_size > limit:
        raise Refused(f"{shown(name)} claims {entry.file_size} bytes where at most {limit} can be")
    try:
        content = archive.read(entry)
    except UNZIP_ERRORS as error:
        raise Damaged(f"{shown(name)} cannot be read ({error})") from None
    if len(content) != entry.file_size:
        raise Damaged(f"{shown(name)} has {len(content)} of its {entry.file_size} bytes")
    return content


def _parse_legacy(path: Path) -> tuple[Any, Fetch]:
    widths: dict[str, int] = {}

    def claimed(storage: Storage) -> None:
        width = storage.dtype.itemsize
        if widths.setdefault(storage.key, width) != width:
            raise Damaged(f"storage {shown(storage.key)} has two element types")

    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory:
        _, protocol, _ = (torch_pickle.load(memory) for _ in range(3))
        if protocol != LEGACY_PROTOCOL:
            raise Damaged(f"expected protocol {LEGACY_PROTOCOL}, found {shown(protocol)}")
        tree = torch_pickle.load(memory, claimed)
        keys = torch_pickle.load(memory)
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise Damaged("the list of storages is not a list of names")
        storages: dict[str, bytes] = {}
        for key in keys:
            if key not in widths or key in storages:
                raise Damaged(f"storage {shown(key)} belongs to no tensor, or is there twice")
            count = int.from_bytes(memory.read(8), "little", signed=True)
            left = len(memory) - memory.tell()
            if not 0 <= count * widths[key] <= left:
                claim = f"claims {count} x {widths[key]} bytes where {left} are left"
                raise Damaged(f"storage {shown(key)} {claim}")
            storages[key] = memory.read(count * widths[key])

    def fetch(view: View) -> np.ndarray:
        key = view.storage.key
        if key not in storages:
            raise Damaged(f"the file lacks storage {shown(key)}")
        return torch_pickle.array(view, storages[key], swap=False)  # little-endian on every machine

    return tree, fetch


def _leaves(tree: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every tensor with the names that lead to it.

    Bounded, since containers may share parts and even contain themselves.
    """
    above: list[str] = []
    opened = [_entries(tree)]
    visited = 0
    while opened:
        for name, node in opened[-1]:
            visited += 1
            if visited > MAX_ENTRIES or len(opened) > MAX_DEPTH:
                raise Refused(f"refused more than {MAX_ENTRIES} entries or {MAX_DEPTH} levels of nesting")
            if isinstance(node, (View, np.ndarray)):
                yield (*above, name), node
            elif isinstance(node, (dict, list, tuple)):
                above.append(name)
                opened.append(_entries(node))
                break
        else:
            opened.pop()
            del above[-1:]


def _entries(node: dict | list | tuple) -> Iterator[tuple[str, Any]]:
    return ((str(name), part) for name, part in (node.items() if isinstance(node, dict) else enumerate(node)))


def _kind(node: Any) -> str:
    return "tensor" if isinstance(node, (View, np.ndarray)) else type(node).__name__


def _describe(tree: Any) -> str:
    if not isinstance(tree, dict) or not tree:
        return f"it holds {'an empty' if tree == {} else 'a'} {_kind(tree)}"
    entries = [f"{shown(key)}: {_kind(value)}" for key, value in list(tree.items())[:10]]
    return f"it holds {', '.join(entries)}{', ...' if len(tree) > 10 else ''}"
