"""Networks as a method uses them: whatever they are made of, they take a state and a condition.

A network has
    size_multiple                                          height and width are multiples of this
    init(key, like, condition)                          -> fresh parameters, a nested dict
    apply(params, state, time, condition, dropout_keys) -> by halves: channels of the image, logits of y_0; time: 0..999
    cache(params, condition)                            -> what to give in its place at every step of a chain, computed once;
                                                           None where there is no such thing or it takes too much memory
    compute_dtypes(params)                              -> the type that each parameter is used in, as a tree
    clock                                                  what `time` is: "steps", 0..999, or "log_snr", of the image half
    two_clocks                                             whether the halves may be at different times, in `ByHalf`
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import jax
import jax.numpy as jnp

from semdiff.diffusion.joint import ByHalf, State, by_half
from semdiff.methods.given import Condition
from semdiff.models import initial
from semdiff.models.joint_unet import JointUNet
from semdiff.models.latent.unet import ControlUNet
from semdiff.models.spade_unet import SpadeUNet

CACHE_LIMIT = 2 * 2**30  # bytes that may be kept of a batch's condition


Clock = Literal["steps", "log_snr"]


class Network(Protocol):
    @property
    def clock(self) -> Clock: ...

    @property
    def two_clocks(self) -> bool: ...

    @property
    def size_multiple(self) -> int: ...

    def init(self, key, like: State, condition: Condition) -> dict: ...

    def apply(self, params, state: State, time, condition: Condition, dropout_keys=None) -> ByHalf: ...

    def cache(self, params, condition: Condition) -> Condition | None: ...

    def compute_dtypes(self, params: dict) -> dict: ...


@dataclass(frozen=True)
class LayoutToImage:
    """The UNet of SDM: of the image alone, given the layout. What the layout does to its norms is what can be kept."""

    unet: SpadeUNet
    clock: Clock = "steps"

    two_clocks: ClassVar = False

    @property
    def size_multiple(self) -> int:
        return self.unet.size_multiple

    def init(self, key, like: State, condition: Condition) -> dict:
        return initial.fresh(self.unet.init, key, like.image, jnp.zeros((1,)), **condition)["params"]

    def apply(self, params, state: State, time, condition: Condition, dropout_keys=None) -> ByHalf:
        return ByHalf(
            image=self.unet.apply(
                {"params": params}, state.image, time, **condition, dropout_keys=dropout_keys
            )
        )

    def cache(self, params, condition: Condition) -> Condition | None:
        if self.unet.conditioning != "spade":
            return None
        modulation = self.unet.apply({"params": params}, **condition, method="modulation")
        return {"modulation": modulation} if size_of(modulation) <= CACHE_LIMIT else None

    def compute_dtypes(self, params: dict) -> dict:
        return self.unet.compute_dtypes(params)


@dataclass(frozen=True)
class PairOfText:
    """The UNet of GCDP: of image and layout, told of words. What can be kept is what the words do to it."""

    unet: JointUNet
    clock: Clock = "log_snr"

    @property
    def two_clocks(self) -> bool:
        return self.unet.layout_clock

    @property
    def size_multiple(self) -> int:
        return self.unet.size_multiple

    def init(self, key, like: State, condition: Condition) -> dict:
        given = self.given(condition)
        return initial.fresh(self.unet.init, key, like.image, like.layout, jnp.zeros((1,)), **given)["params"]

    def apply(self, params, state: State, time, condition: Condition, dropout_keys=None) -> ByHalf:
        at, given = by_half(time), self.given(condition)
        more = {"layout_log_snr": at.layout} if self.two_clocks else {}
        return ByHalf(
            *self.unet.apply({"params": params}, state.image, state.layout, at.image, **given, **more)
        )

    def given(self, condition: Condition) -> dict:
        """What the network is called with."""
        return condition

    def cache(self, params, condition: Condition) -> Condition | None:
        return {"told": self.unet.apply({"params": params}, **condition, method="tell")}

    def compute_dtypes(self, params: dict) -> dict:
        return self.unet.compute_dtypes(params)


@dataclass(frozen=True)
class PairOfSmaller(PairOfText):
    """The same of a second stage: given a smaller pair too."""

    def given(self, condition: Condition) -> dict:
        return {**condition["words"], "low": condition["small"]}

    def cache(self, params, condition: Condition) -> Condition | None:
        return condition | {"words": super().cache(params, condition["words"])}


@dataclass(frozen=True)
class LayoutAndWords:
    """A UNet that is told of words, with a ControlNet that is given the layout. What the layout is to it can be kept.

    strength: what the ControlNet adds is multiplied by this.
    """

    unet: ControlUNet
    strength: float = 1.0
    clock: Clock = "steps"

    two_clocks: ClassVar = False

    @property
    def size_multiple(self) -> int:
        return self.unet.size_multiple

    def init(self, key, like: State, condition: Condition) -> dict:
        given = {**condition["layout"], **condition["words"]}
        return initial.fresh(self.unet.init, key, like.image, jnp.zeros((1,)), **given)["params"]

    def apply(self, params, state: State, time, condition: Condition, dropout_keys=None) -> ByHalf:
        given = {**condition["layout"], **condition["words"]}
        made = self.unet.apply({"params": params}, state.image, time, **given, strength=self.strength)
        return ByHalf(image=made)

    def cache(self, params, condition: Condition) -> Condition | None:
        hint = self.unet.apply({"params": params}, **condition["layout"], method="hinted")
        return condition | {"layout": {"hint": hint}} if size_of(hint) <= CACHE_LIMIT else None

    def compute_dtypes(self, params: dict) -> dict:
        return self.unet.compute_dtypes(params)


def size_of(tree: Any) -> int:
    """Bytes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
