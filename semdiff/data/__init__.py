"""Where (image, layout, instance, caption) comes from: sources by name, and their batches.

No jax: reading files starts fast without it, in many processes. What is done with the data is not known here.
"""

from __future__ import annotations

import importlib
import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

from semdiff.data import classes
from semdiff.data.source import Info, Source

# Name -> where the class is. Imported on demand, so that naming one source does not load them all.
SOURCES = {
    "scenes": ("semdiff.data.scenes", "Scenes"),
    "folder": ("semdiff.data.readers.folder", "Folder"),
    "ade20k": ("semdiff.data.readers.official", "ADE20K"),
    "cityscapes": ("semdiff.data.readers.official", "Cityscapes"),
    "celebamask_hq": ("semdiff.data.readers.official", "CelebAMaskHQ"),
    "coco_stuff": ("semdiff.data.readers.official", "COCOStuff"),
}


def known_classes(name: str, num_classes: int | None = None) -> Info | None:
    """The classes of a source that are the same wherever its files lie, with none of them opened; None for folders.

    Of COCO-Stuff with the instance maps that released networks were trained with.
    """
    if name == "scenes":
        return importlib.import_module("semdiff.data.scenes").Scenes.info
    if name == "cityscapes" and num_classes == 35:
        return classes.CITYSCAPES_35
    return {
        "ade20k": classes.ADE20K,
        "cityscapes": classes.CITYSCAPES,
        "celebamask_hq": classes.CELEBAMASK_HQ,
        "coco_stuff": replace(classes.COCO_STUFF, has_instances=True),
    }.get(name)


def make_source(
    name: str,
    *,
    root: str | Path | None = None,
    split: str | None = None,
    size: tuple[int, int] | None = None,
    length: int | None = None,
    seed: int | None = None,
    num_classes: int | None = None,
    void_id: int | None = None,
    mismatch: str | None = None,
) -> Source:
    """The source `name` with the options that are not None; one that it does not have is an error.

    Which options a source has, and what they mean, its class says.
    """
    if name not in SOURCES:
        raise ValueError(f"no source {name!r}. Expected one of {', '.join(SOURCES)}.")
    options: dict[str, Any] = {
        "root": root,
        "split": split,
        "size": size,
        "length": length,
        "seed": seed,
        "num_classes": num_classes,
        "void_id": void_id,
        "mismatch": mismatch,
    }
    given = {key: value for key, value in options.items() if value is not None}
    module, class_name = SOURCES[name]
    source = getattr(importlib.import_module(module), class_name)
    known = inspect.signature(source).parameters
    unused = [f"{key}={value!r}" for key, value in given.items() if key not in known]
    missing = [
        key
        for key, parameter in known.items()
        if parameter.default is inspect.Parameter.empty and key not in given
    ]
    if unused or missing:
        complaints = [f"cannot use {', '.join(unused)}"] * bool(unused)
        complaints += [f"needs {' and '.join(missing)}"] * bool(missing)
        raise ValueError(
            f"the source {name!r} {' and '.join(complaints)}. Its options are {', '.join(known)}."
        )
    return source(**given)
