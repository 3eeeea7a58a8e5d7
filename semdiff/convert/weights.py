"""Weights as one safetensors file: a parameter tree whose names are joined by slashes."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from semdiff.convert import safetensors_file

FORMAT = "semdiff.weights.1"
MARK = "semdiff"  # the file's one metadata entry: JSON of {"format": FORMAT, "metadata": ...}
LISTED = 10


def save_weights(
    path: str | Path, params: Mapping[str, Any], metadata: Mapping[str, Any] | None = None
) -> None:
    """Writes a nested parameter tree and metadata (anything JSON has) whole or not at all."""
    header = {"format": FORMAT, "metadata": dict(metadata or {})}
    write_safetensors(path, flatten(params), {MARK: json.dumps(header, sort_keys=True)})


def load_weights(path: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(nested parameters as numpy arrays, metadata) of a file that `save_weights` wrote."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected weights (.safetensors) saved by semdiff")
    tensors, written = safetensors_file.load(path)
    try:
        header = json.loads(written.get(MARK, "null"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: its metadata are damaged ({str(error)[:80]}); expected weights saved by semdiff. Copy it again"
        ) from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError(
            f"{path}: a safetensors file, but not semdiff's weights ({FORMAT} is not in its "
            f"metadata); bring it in with `python -m semdiff.convert import {path} OUTPUT`"
        )
    if not isinstance(header.get("metadata"), dict):
        raise ValueError(
            f"{path}: its metadata lack an entry of that name; expected weights saved by semdiff"
        )
    try:
        return unflatten(tensors), header["metadata"]
    except ValueError as error:
        raise ValueError(f"{path}: {error}; expected weights saved by semdiff. Copy it again") from None


def write_safetensors(
    path: str | Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Atomic: a reader sees the old file or the new one, also after a crash."""
    path = Path(path)
    # The library takes the memory of an array as it lies, whatever its strides.
    dense = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(safetensors.numpy.save(dense, metadata=dict(metadata or {})))
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def flatten(tree: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """{"a": {"b": x}} -> {"a/b": x}."""
    flat: dict[str, np.ndarray] = {}
    for name, value in tree.items():
        if not isinstance(name, str) or not name or "/" in name:
            raise ValueError(f"parameter name {name!r}: expected a non-empty string without '/'")
        if isinstance(value, Mapping):
            flat |= {f"{name}/{below}": leaf for below, leaf in flatten(value).items()}
        else:
            flat[name] = np.asarray(value)
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for name, leaf in flat.items():
        *above, last = name.split("/")
        node = tree
        for part in above:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise ValueError(f"parameter {name!r}: {part!r} is both a tensor and a group")
        if last in node:
            raise ValueError(f"parameter {name!r} is both a tensor and a group")
        node[last] = leaf
    return tree


def check_tree(params: Mapping[str, Any], expected: Mapping[str, Any], path: str | Path) -> None:
    """Names, shapes and types of `params` must be those of `expected` (arrays or their shapes).

    path: where `params` came from, for the error.
    """
    found = {name: (leaf.shape, leaf.dtype) for name, leaf in _walk(params)}
    wanted = {name: (leaf.shape, leaf.dtype) for name, leaf in _walk(expected)}
    problems = differences(found, wanted)
    if problems:
        raise ValueError(
            f"{path}: the weights do not fit the network: {problems}. Set the configuration's network "
            f"to what `python -m semdiff.convert inspect {path}` shows, or choose other weights"
        )


def differences(found: Mapping[str, tuple[Any, Any]], expected: Mapping[str, tuple[Any, Any]]) -> str:
    """What sets two tables of name -> (shape, type) apart, in words; "" when nothing does."""
    missing = [f"{name} {_shown(*expected[name])}" for name in expected if name not in found]
    unexpected = [f"{name} {_shown(*found[name])}" for name in found if name not in expected]
    other = [
        f"{name} is {_shown(*found[name])}, expected {_shown(*expected[name])}"
        for name in expected
        if name in found and (tuple(found[name][0]), found[name][1]) != tuple(expected[name])
    ]
    lists = {"missing": missing, "unexpected": unexpected, "of another shape or type": other}
    return "; ".join(
        f"{len(lines)} {kind}: {', '.join(lines[:LISTED])}{', ...' if len(lines) > LISTED else ''}"
        for kind, lines in lists.items()
        if lines
    )


def _walk(tree: Mapping[str, Any], above: str = ""):
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _walk(value, f"{above}{name}/")
        else:
            yield f"{above}{name}", value


def _shown(shape: Any, dtype: Any) -> str:
    return f"{'' if dtype is None else np.dtype(dtype).name}[{','.join(map(str, shape))}]"
