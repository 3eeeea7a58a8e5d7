"""The second stage of a cascade: a pair of image and layout is generated given a smaller one.

That is enlarged to the new size first, and noised a little, so that the network learns to mistrust it; how much is told. In
training any noise is met, in sampling that of config.sample.small_noise.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from semdiff.config import ConfigError
from semdiff.data import augment
from semdiff.diffusion import joint, schedules
from semdiff.diffusion.joint import ByHalf, State
from semdiff.methods.given import Condition, Given, Several, TextGiven
from semdiff.methods.space import to_unit

WORDS, SMALL = "words", "small"  # what a second stage is given


@dataclass(frozen=True)
class SmallGiven:
    """image [B, H, W, 3] and layout [B, H, W], enlarged and noised by `process`, and at which log SNR."""

    process: joint.Process
    factor: int

    reads: ClassVar = ("image", "layout")
    changes: ClassVar = False
    nulls_alike: ClassVar = False

    def condition(self, batch: Mapping[str, Any]) -> Condition:
        """The batch itself, reduced and enlarged again; clean."""
        f = self.factor
        b, h, w, c = batch["image"].shape
        image = to_unit(batch["image"]).reshape(b, h // f, f, w // f, f, c).mean((2, 4))
        return self._enlarged(image, jnp.asarray(batch["layout"])[:, f // 2 :: f, f // 2 :: f])

    def read(self, example: Mapping[str, Any]) -> Condition:
        """An example has the small pair, ready, as `small`; else its own image and layout are reduced."""
        if SMALL in example:
            return example[SMALL]
        if "image" not in example or "layout" not in example:
            raise ConfigError(
                f"{example.get('name', 'an example')}: this model enlarges pairs and was given none. Sample from the model "
                "of the first stage, with config.sample.upscale naming this one"
            )
        one = self.condition({"image": example["image"][None], "layout": example["layout"][None]})
        return jax.tree.map(lambda a: np.asarray(a)[0], one)

    def made_small(self, made: ByHalf, key: Any, level: float) -> Condition:
        """What a first stage has made, 8-bit pixels and ids, noised up to the time level x T."""
        clean = self._enlarged(to_unit(made.image[None]), jnp.asarray(made.layout)[None])
        if level > 0:
            t = jnp.full((1,), level * self.process.num_steps)
            t = t if self.process.continuous else jnp.ceil(t).astype(jnp.int32)
            clean = self._noised(clean, t, joint.noise(self.process, _state(clean), key[None]))
        return jax.tree.map(lambda a: np.asarray(a)[0], clean)

    def pad(self, condition: Condition, multiple: int) -> Condition:
        maps = {name: augment.padded(condition[name], multiple) for name in ("image", "layout")}
        return condition | maps

    def empty(self, size: tuple[int, int]) -> Condition:
        return self.condition(
            {"image": jnp.zeros((1, *size, 3), jnp.uint8), "layout": jnp.zeros((1, *size), jnp.int32)}
        )

    def layout(self, condition: Condition):
        return None  # of another size than the one that is made

    def null(self, condition: Condition) -> Condition:
        return condition

    def drop(self, condition: Condition, keys) -> Condition:
        return condition

    def noise(self, condition: Condition, keys):
        """A time of its own for each, and the noise."""
        t = (
            jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, 2)))(keys)
            * self.process.num_steps
        )
        t = t if self.process.continuous else jnp.ceil(t).astype(jnp.int32)
        return t, joint.noise(self.process, _state(condition), keys)

    def at(self, condition: Condition, t, noise) -> Condition:
        return self._noised(condition, *noise)

    def _noised(self, condition: Condition, t, noise) -> Condition:
        state = joint.diffuse(self.process, _state(condition), t, noise)
        return {"image": state.image, "layout": state.layout, "log_snr": self._clock(t)}

    def _enlarged(self, image, layout) -> Condition:
        wide = lambda a: jnp.repeat(jnp.repeat(a, self.factor, 1), self.factor, 2)  # noqa: E731
        return {
            "image": wide(image),
            "layout": wide(layout.astype(jnp.int32)),
            "log_snr": self._clock(jnp.zeros(len(image), jnp.int32)),
        }

    def _clock(self, t):
        """Log SNR of the image at t; what is clean is told as the first step."""
        assert self.process.image is not None
        return schedules.log_snr(self.process.image.schedule, jnp.maximum(t, 1)).astype(jnp.float32)


def text_of(given: Given) -> TextGiven:
    """What a method of pairs is told in words, in whichever stage."""
    words = given.parts[WORDS] if isinstance(given, Several) else given
    assert isinstance(words, TextGiven)
    return words


def _state(condition: Condition) -> State:
    return State(condition["image"], condition["layout"])
