"""Arrays that people pass as the examples that tasks are made of, and what is made as arrays."""

from collections.abc import Sequence

import numpy as np

from semdiff.config import ConfigError
from semdiff.data.readers.folder import listed
from semdiff.data.source import Info
from semdiff.data.text import Vocabulary
from semdiff.methods.upscaling import text_of
from semdiff.trained import Trained

Maps = np.ndarray | Sequence[np.ndarray]


def examples_of(model: Trained, layouts: Maps, instances: Maps | None = None) -> list[dict]:
    """Layouts as examples, each checked; a model of borders between instances wants maps of these too."""
    ids = [checked(layout, model.info) for layout in several(layouts, 2)]
    examples = [{"name": f"layout {i}", "layout": layout} for i, layout in enumerate(ids)]
    if model.edges:
        if instances is None:
            raise ConfigError(
                "this model was trained with borders between instances: give instances, maps of the layouts' sizes, 0 "
                "where there is no instance (the layouts themselves draw borders between classes)"
            )
        examples = [
            e | {"instance": np.asarray(i)} for e, i in zip(examples, several(instances, 2), strict=True)
        ]
    return examples


Said = Sequence[str] | np.ndarray  # captions, or states of them [N, L, W]


def told(model: Trained, examples: list[dict], captions: Said | None) -> list[dict]:
    """With captions as the model reads them."""
    if captions is None:
        return examples
    if model.language is None:
        raise ConfigError("captions were given, but this model is not told of words")
    length, *width = text_of(model.method.given).empty((1, 1))["text"].shape[1:]
    if isinstance(model.language, Vocabulary):
        if not all(isinstance(text, str) for text in captions):
            raise ConfigError("captions are arrays, but this model reads words: give texts")
        words = model.language
        said = [{"caption": text, "texts": words.encode(text, length)[None]} for text in captions]
    else:
        states = np.asarray(captions)
        if (
            states.dtype.kind != "f"
            or states.ndim != 3
            or states.shape[1] > length
            or [states.shape[2]] != width
        ):
            raise ConfigError(
                f"this model reads captions as states of {model.language}: give these, float [N, up to {length}, "
                f"{width[0]}], as semdiff.prompts.opened(DIRECTORY) makes them of texts; got {states.dtype} "
                f"{list(states.shape)}"
            )
        said = [{"states": np.pad(own, ((0, length - len(own)), (0, 0)))[None]} for own in states]
    return [example | what for example, what in zip(examples, said, strict=True)]


def checked(layout: np.ndarray, info: Info) -> np.ndarray:
    """A layout of class ids, or of K where there is no label."""
    known = info.num_classes
    if not np.issubdtype(layout.dtype, np.integer):
        raise ConfigError(f"a layout is of {layout.dtype}; expected class ids, integers [H, W]")
    if layout.min() < 0 or layout.max() > known:
        wrong = layout[(layout < 0) | (layout > known)].flat[0]
        raise ConfigError(
            f"a layout holds {wrong}, which is no class. Expected 0..{known - 1}, or {known} for pixels without a "
            f"label: {listed(info)}"
        )
    return layout.astype(np.int32)


def shaped(arrays: list[np.ndarray], each: int) -> np.ndarray | list[np.ndarray]:
    """[N, ...], or [N, each, ...]; a list where shapes differ."""
    if len({array.shape for array in arrays}) > 1:
        return arrays
    stacked = np.stack(arrays)
    return stacked if each == 1 else stacked.reshape(-1, each, *stacked.shape[1:])


def several(arrays: Maps, rank: int) -> list[np.ndarray]:
    """A list of arrays of this rank, of one, of several stacked, or of a list of them."""
    if isinstance(arrays, np.ndarray) and arrays.ndim == rank:
        return [arrays]
    found = [np.asarray(array) for array in arrays]
    if any(array.ndim != rank for array in found):
        shapes = sorted({array.shape for array in found})
        what = "layouts or masks [H, W]" if rank == 2 else "images [H, W, 3]"
        raise ConfigError(
            f"got arrays of shape {', '.join(map(str, shapes[:3]))}; expected {what}, one or several"
        )
    return found


def most_frequent(layouts: list[np.ndarray]) -> np.ndarray:
    """Of each pixel the class that most of the layouts show."""
    stack = np.stack(layouts)
    counts = np.stack([(stack == c).sum(0) for c in range(stack.max() + 1)])
    return counts.argmax(0)
