"""From what is written to an `Experiment`, and back: an unknown key or a value of the wrong type is an error in words."""

import dataclasses
import difflib
import hashlib
import json
import typing
from collections.abc import Sequence
from typing import Any, Literal

import ml_collections

from semdiff.config import ConfigError, Experiment

# Keys that had another name once: what was written then is still read.
RENAMED = {"evaluate.noise": "evaluate.corruptions", "sample.cache_modulation": "sample.cache_condition"}


def default() -> ml_collections.ConfigDict:
    """Every key at its default."""
    return as_config_dict(Experiment())


def as_config_dict(config: Any) -> ml_collections.ConfigDict:
    """As files of configs/ return it, or a part of it, to be changed from the command line."""
    return ml_collections.ConfigDict(dataclasses.asdict(config), convert_dict=True)


def parse(config: ml_collections.ConfigDict) -> Experiment:
    return _parse(Experiment, config, "config")


def from_dict(written: dict) -> Experiment:
    """What `as_dict` made, today or earlier; keys that were not there yet are at their defaults."""
    whole = {part: dict(keys) if isinstance(keys, dict) else keys for part, keys in written.items()}
    for old, now in RENAMED.items():
        (part, key), (_, new) = old.split("."), now.split(".")
        if key in whole.get(part, {}):
            whole[part][new] = whole[part].pop(key)
    return _parse(Experiment, whole, "config")


def check_key(key: str):
    """An error where `key`, a.b, is no key of the configuration."""
    cls: object = Experiment
    path = "config"
    for name in key.split("."):
        fields = {f.name: f.type for c in _dataclasses(cls) for f in dataclasses.fields(c)}
        if name not in fields:
            raise _unknown(path, name, fields)
        cls, path = fields[name], f"{path}.{name}"


def _dataclasses(kind: Any) -> list[type]:
    """A dataclass, or each of a choice of them."""
    return [
        k for k in (typing.get_args(kind) or (kind,)) if dataclasses.is_dataclass(k) and isinstance(k, type)
    ]


def _unknown(path: str, key: str, known) -> ConfigError:
    if now := RENAMED.get(f"{path}.{key}".removeprefix("config.")):
        return ConfigError(f"{path}.{key} is called config.{now} now")
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {path}.{near[0]}?" if near else f"known keys: {', '.join(known) or 'none'}"
    return ConfigError(f"unknown key {path}.{key}; {hint}")


def _parse(cls, config, path: str):
    kinds = typing.get_type_hints(cls)
    for key in config:
        if key not in kinds:
            raise _unknown(path, key, kinds)
    return cls(**{key: _value(config[key], kinds[key], f"{path}.{key}") for key in config})


def _value(value: Any, kind: Any, path: str):
    """The value as one of its key's kind: ints pass as floats, lists as tuples; nothing else is bent."""
    if kinds := _dataclasses(kind):
        named = {typing.get_args(typing.get_type_hints(k)["kind"])[0]: k for k in kinds if len(kinds) > 1}
        if named and "kind" in value:
            return _parse(named[choose(tuple(named), value["kind"], f"{path}.kind")], value, path)
        return _parse(kinds[0], value, path)
    if typing.get_origin(kind) is Literal:
        return choose(typing.get_args(kind), value, path)
    if typing.get_origin(kind) is tuple:
        return _tuple(value, typing.get_args(kind), path)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise ConfigError(f"{path} is {value!r}, {_article(type(value))}; expected {_article(kind)}")
    return value


def _tuple(value: Any, kinds: tuple, path: str) -> tuple:
    if not isinstance(value, list | tuple):
        raise ConfigError(
            f"{path} is {value!r}, {_article(type(value))}; expected several of {kinds[0].__name__}"
        )
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(value)
    if len(value) != len(kinds):
        raise ConfigError(f"{path} is {tuple(value)!r}; expected {len(kinds)} of {kinds[0].__name__}")
    return tuple(_value(v, kind, f"{path}[{i}]") for i, (v, kind) in enumerate(zip(value, kinds)))


def _article(kind: type) -> str:
    return f"{'an' if kind is int else 'a'} {kind.__name__}"


def choose(known: Sequence[str], name: str, path: str) -> str:
    """The name, or an error that lists the choices."""
    if name not in known:
        raise ConfigError(f"{path} is {name!r}; choose one of {', '.join(sorted(known))}")
    return name


def as_dict(config: Any) -> dict:
    """A configuration as JSON would give it back."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def fingerprint(values: dict) -> str:
    """A short hash of plain values, for manifests."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def differences(old: dict, new: dict, path: str = "config") -> list[str]:
    """Lines naming each key whose value differs."""
    lines = []
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            lines += differences(a, b, f"{path}.{key}")
        elif a != b:
            lines.append(f"{path}.{key}: {a!r} there, {b!r} here")
    return lines
