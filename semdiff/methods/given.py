"""What a method is given: a layout here; words, a vector, or several of them.

A given has
    condition(batch)           -> what the network is given of a batch: a tree of arrays, one row per example
    read(example)              -> the same of one example, of arrays without that axis, in the order that image keys count
    pad(condition, multiple)   -> that, its maps extended to what the network needs
    empty(size)                -> one row, for shapes
    layout(condition)          -> the ids among it, None where there are none
    null(condition)            -> the absence of it, of the same shape: what guidance steers away from
    nulls_alike                   whether that is the same for all examples
    drop(condition, keys)      -> examples replaced by their null at random, for training
    noise(condition, keys), at(condition, t, noise)   -> how it looks at t, where it changes on the way
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from semdiff.data import augment
from semdiff.diffusion import categorical

Condition = dict[str, Any]


class Given(Protocol):
    @property
    def reads(self) -> tuple[str, ...]:
        """What of an example it needs."""

    @property
    def changes(self) -> bool:
        """Whether what the network sees of a condition depends on t and on chance."""

    def condition(self, batch: Mapping[str, Any]) -> Condition: ...

    def read(self, example: Mapping[str, Any]) -> Condition: ...

    def pad(self, condition: Condition, multiple: int) -> Condition: ...

    def empty(self, size: tuple[int, int]) -> Condition: ...

    def layout(self, condition: Condition) -> Any: ...

    def null(self, condition: Condition) -> Condition: ...

    @property
    def nulls_alike(self) -> bool: ...

    def drop(self, condition: Condition, keys: Any) -> Condition: ...

    def noise(self, condition: Condition, keys: Any) -> Any: ...

    def at(self, condition: Condition, t: Any, noise: Any) -> Condition: ...


def which_dropped(keys, rate: float):
    return jax.vmap(lambda key: jax.random.bernoulli(key, rate))(keys)


def dropped(condition: Condition, null: Condition, keys, rate: float) -> Condition:
    """Each example replaced by its null with probability `rate`."""
    gone = which_dropped(keys, rate)
    return jax.tree.map(
        lambda absent, given: jnp.where(gone.reshape(-1, *[1] * (given.ndim - 1)), absent, given),
        null,
        condition,
    )


@dataclass(frozen=True)
class LayoutGiven:
    """The layout, with the borders between its instances where the network has a channel for them.

    process: noises it on the way, to the image's t (SCDM); without one it is seen as it is (SDM). dropout: the share of
    examples that are trained without it.
    """

    num_classes: int
    edges: bool
    process: categorical.Categorical | None = None
    dropout: float = 0.0

    nulls_alike: ClassVar = True

    @property
    def reads(self) -> tuple[str, ...]:
        return ("layout", "edges") if self.edges else ("layout",)

    @property
    def changes(self) -> bool:
        return self.process is not None

    @property
    def null_id(self) -> int:
        """The id of a layout that is absent. K itself stays free for MASK, a state of a layout process."""
        return self.num_classes + 1

    def condition(self, batch: Mapping[str, Any]) -> Condition:
        return {"layout": batch["layout"], "edges": batch["edges"] if self.edges else None}

    def read(self, example: Mapping[str, Any]) -> Condition:
        """An example has `instance` or, as batches have it, `edges`."""
        edges = None
        if self.edges:
            edges = example["edges"] if "edges" in example else augment.edges(example["instance"])
        return {"layout": np.asarray(example["layout"], np.int32), "edges": edges}

    def pad(self, condition: Condition, multiple: int) -> Condition:
        return {name: augment.padded(array, multiple) for name, array in condition.items()}

    def empty(self, size: tuple[int, int]) -> Condition:
        return self.condition(
            {"layout": jnp.zeros((1, *size), jnp.int32), "edges": jnp.zeros((1, *size), jnp.uint8)}
        )

    def layout(self, condition: Condition):
        return condition["layout"]

    def null(self, condition: Condition) -> Condition:
        edges = condition["edges"]
        return {
            "layout": jnp.full_like(condition["layout"], self.null_id),
            "edges": None if edges is None else jnp.zeros_like(edges),
        }

    def drop(self, condition: Condition, keys) -> Condition:
        return dropped(condition, self.null(condition), keys, self.dropout) if self.dropout else condition

    def noise(self, condition: Condition, keys):
        """None where layouts stay clean."""
        if self.process is None:
            return None
        return categorical.noise(self.process, condition["layout"], keys)

    def at(self, condition: Condition, t, noise) -> Condition:
        """The condition with y_t ~ q(y_t | y_0) in the layout's place. Borders between instances are never masked."""
        if self.process is None:
            return condition
        return condition | {"layout": categorical.diffuse(self.process, condition["layout"], t, *noise)}


@dataclass(frozen=True)
class Several:
    """Several things given, each by its name; each is dropped by itself.

    guided: the names of those whose absence guidance steers away from; empty: of all.
    """

    parts: Mapping[str, Given] = field(hash=False)
    guided: tuple[str, ...] = ()

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for part in self.parts.values() for name in part.reads))

    @property
    def changes(self) -> bool:
        return any(part.changes for part in self.parts.values())

    def condition(self, batch: Mapping[str, Any]) -> Condition:
        return {name: part.condition(batch) for name, part in self.parts.items()}

    def read(self, example: Mapping[str, Any]) -> Condition:
        return {name: part.read(example) for name, part in self.parts.items()}

    def pad(self, condition: Condition, multiple: int) -> Condition:
        return {name: part.pad(condition[name], multiple) for name, part in self.parts.items()}

    def empty(self, size: tuple[int, int]) -> Condition:
        return {name: part.empty(size) for name, part in self.parts.items()}

    def layout(self, condition: Condition):
        found = (part.layout(condition[name]) for name, part in self.parts.items())
        return next((layout for layout in found if layout is not None), None)

    def null(self, condition: Condition) -> Condition:
        guided = self.guided or tuple(self.parts)
        return {
            name: part.null(condition[name]) if name in guided else condition[name]
            for name, part in self.parts.items()
        }

    @property
    def nulls_alike(self) -> bool:
        return set(self.guided or self.parts) == set(self.parts) and all(
            part.nulls_alike for part in self.parts.values()
        )

    def drop(self, condition: Condition, keys) -> Condition:
        own = self._keys(keys)
        return {name: part.drop(condition[name], own[name]) for name, part in self.parts.items()}

    def noise(self, condition: Condition, keys):
        own = self._keys(keys)
        return {name: part.noise(condition[name], own[name]) for name, part in self.parts.items()}

    def at(self, condition: Condition, t, noise) -> Condition:
        return {name: part.at(condition[name], t, noise[name]) for name, part in self.parts.items()}

    def _keys(self, keys) -> dict[str, Any]:
        """Keys of its own for each part."""
        fold = jax.vmap(jax.random.fold_in, (0, None))
        return {name: fold(keys, i) for i, name in enumerate(self.parts)}


class Words:
    """What all that is said has in common: it has no place and is the same at any t, and its absence is zeros."""

    changes = False
    nulls_alike = True
    dropout: float

    def pad(self, condition: Condition, multiple: int) -> Condition:
        return condition

    def layout(self, condition: Condition):
        return None

    def null(self, condition: Condition) -> Condition:
        return jax.tree.map(jnp.zeros_like, condition)

    def drop(self, condition: Condition, keys) -> Condition:
        return dropped(condition, self.null(condition), keys, self.dropout) if self.dropout else condition

    def noise(self, condition: Condition, keys):
        return None

    def at(self, condition: Condition, t, noise) -> Condition:
        return condition


@dataclass(frozen=True)
class TextGiven(Words):
    """Words: ids [B, L], 0 where a text has ended. No words at all is the absence of a text.

    dropout: the share of examples that are trained without theirs. states: > 0 for a network that reads states of so many
    numbers from an encoder that is not here, [B, L, states], zeros where a text has ended.
    """

    length: int
    dropout: float = 0.0
    states: int = 0

    @property
    def reads(self) -> tuple[str, ...]:
        return ("state",) if self.states else ("text",)

    def condition(self, batch: Mapping[str, Any]) -> Condition:
        if self.states:
            states = jnp.asarray(batch["state"], jnp.float32)
            return {"text": states, "mask": (states != 0).any(-1)}
        return {"text": batch["text"], "mask": batch["text"] > 0}

    def read(self, example: Mapping[str, Any]) -> Condition:
        """An example has `texts` (`states`) or, as batches have it, `text` (`state`); one without is told nothing."""
        if self.states:
            states = np.asarray(said(example, "state", np.zeros((self.length, self.states))), np.float32)
            return {"text": states, "mask": (states != 0).any(-1)}
        text = said(example, "text", np.zeros(self.length, np.int32))
        return {"text": text, "mask": text > 0}

    def empty(self, size: tuple[int, int]) -> Condition:
        if self.states:
            return self.condition({"state": jnp.zeros((1, self.length, self.states))})
        return self.condition({"text": jnp.zeros((1, self.length), jnp.int32)})


def said(example: Mapping[str, Any], name: str, nothing: np.ndarray) -> np.ndarray:
    """What a batch's example has by this name, or the first of those that a source's has in the plural."""
    return example[name] if name in example else example.get(f"{name}s", nothing[None])[0]


NOTHING, OF_ALL, OWN = 0, 1, 2  # what is said of an image


@dataclass(frozen=True)
class PromptGiven(Words):
    """What a network with prompts of its own is told of an image: `said`, NOTHING, the prompt OF_ALL, or its OWN, in states.

    states: (length, width) of a prompt's; () where images have none of their own. dropout: the share of examples that are
    trained with nothing said.
    """

    states: tuple[int, ...] = ()
    dropout: float = 0.0

    @property
    def reads(self) -> tuple[str, ...]:
        return ("state",) if self.states else ()

    def condition(self, batch: Mapping[str, Any]) -> Condition:
        if not self.states:
            return {"said": jnp.full(len(batch["layout"]), OF_ALL), "states": None}
        own = (batch["state"] != 0).any((1, 2))
        return {"said": jnp.where(own, OWN, OF_ALL), "states": batch["state"]}

    def read(self, example: Mapping[str, Any]) -> Condition:
        """One without states of its own is told what is said of all."""
        if not self.states:
            return {"said": np.int32(OF_ALL), "states": None}
        states = said(example, "state", np.zeros(self.states, np.float16))
        return {"said": np.int32(OWN if states.any() else OF_ALL), "states": states}

    def empty(self, size: tuple[int, int]) -> Condition:
        states = jnp.zeros((1, *self.states), jnp.float16) if self.states else None
        return {"said": jnp.ones(1, jnp.int32), "states": states}
