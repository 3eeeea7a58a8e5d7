"""What a paper is made of: a process, a network, and what is given.

A `Method` gives train.py a loss and chains.py a denoise_fn; neither knows which paper it runs. `build.py` spells the papers.
"""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from semdiff.diffusion import (
    categorical,
    gaussian,
    guidance,
    joint,
    losses,
    samplers,
)

MODULATION_LIMIT = 2 * 2**30  # bytes of cached modulation for a batch


@dataclass(frozen=True)
class LayoutGiven:
    """The layout is given, with the borders between its instances where the network has a channel for them.

    process: noises it on the way, to the image's t (SCDM); without one it is seen as it is (SDM).
    """

    num_classes: int
    edges: bool
    process: categorical.Categorical | None = None

    @property
    def changes(self) -> bool:
        """Whether what the network sees of a condition depends on t and on chance."""
        return self.process is not None

    @property
    def null_id(self) -> int:
        """The id of a layout that is absent. K itself stays free for MASK, a state of a layout process."""
        return self.num_classes + 1

    def condition(self, batch: dict) -> dict:
        """What the network is given of a batch (or of a folder of layouts)."""
        return {"layout": batch["layout"], "edges": batch["edges"] if self.edges else None}

    def null(self, condition: dict) -> dict:
        """The absence of a condition, of the same shape: what guidance steers away from."""
        edges = condition["edges"]
        return {
            "layout": jnp.full_like(condition["layout"], self.null_id),
            "edges": None if edges is None else jnp.zeros_like(edges),
        }

    def noise(self, condition: dict, keys):
        """What `at` needs of chance; None where layouts stay clean."""
        if self.process is None:
            return None
        return categorical.noise(self.process, condition["layout"], keys)

    def at(self, condition: dict, t, noise) -> dict:
        """The condition with y_t ~ q(y_t | y_0) in the layout's place. Borders between instances are never masked."""
        if self.process is None:
            return condition
        return condition | {"layout": categorical.diffuse(self.process, condition["layout"], t, *noise)}


@dataclass(frozen=True)
class Method:
    """p(image | what is given)."""

    process: gaussian.Gaussian
    network: nn.Module
    given: LayoutGiven
    image_channels: int = 3
    weighting: losses.Weighting = losses.UNIFORM
    vlb_weight: float = 1.0
    condition_dropout: float = 0.0

    def init(self, key, size: tuple[int, int]):
        """Fresh parameters."""
        batch = {"layout": jnp.zeros((1, *size), jnp.int32), "edges": jnp.zeros((1, *size), jnp.uint8)}
        x = jnp.zeros((1, *size, self.image_channels))
        return self.network.init(key, x, jnp.zeros((1,)), **self.given.condition(batch))["params"]

    def network_time(self, t):
        """The network's clock: 0..999, whatever T (released networks were trained on i = t - 1)."""
        return (t - 1) * (1000 / self.process.num_steps)

    def loss(self, params, batch: dict, keys, time_sampler: losses.TimeSampler, train: bool = True):
        """Per-example losses and the times drawn: everything random comes from the example's key."""
        t_keys, noise_keys, drop_keys, dropout_keys, layout_keys = (
            samplers.fold_in(keys, i) for i in range(5)
        )
        x0 = to_unit(batch["image"])
        t, weight = time_sampler.sample(t_keys)
        eps = gaussian.normal(noise_keys, x0)
        xt = gaussian.diffuse(self.process, x0, t, eps)
        condition = self.given.condition(batch)
        condition = self.given.at(condition, t, self.given.noise(condition, layout_keys))
        if train and self.condition_dropout:
            dropped = jax.vmap(lambda k: jax.random.bernoulli(k, self.condition_dropout))(drop_keys)
            condition = jax.tree.map(
                lambda null, given: jnp.where(dropped[:, None, None], null, given),
                self.given.null(condition),
                condition,
            )
        output = self.network.apply(
            {"params": params},
            xt,
            self.network_time(t),
            **condition,
            dropout_keys=dropout_keys if train else None,
        )
        terms = losses.hybrid(self.process, output, x0, xt, eps, t, self.weighting, self.vlb_weight)
        return terms, t, weight

    def denoise_fn(
        self,
        params,
        condition: dict,
        guide: guidance.Guidance,
        condition_keys=None,
        cache_modulation: bool = False,
    ) -> samplers.DenoiseFn:
        """State, t -> Prediction under this condition, guided.

        What changes on the way is noised afresh at each step; with `condition_keys`, one per example, by one noise kept
        through the chain, so that its mask only ever opens up. cache_modulation: what a condition that does not change
        does to the network is computed here: the null condition, and, where it takes no more than MODULATION_LIMIT of
        memory, the condition itself.
        """
        given = self.given
        cacheable = cache_modulation and self.network.conditioning == "spade"
        seen = self._modulated if cacheable else lambda params, condition: condition
        null = given.null(condition)
        if cacheable:
            null = jax.tree.map(lambda a: a[:1], null)  # the null condition is the same for all
        null = seen(params, null) if guide.needs_null else None
        if not given.changes:
            clean = seen(params, condition)
            shown = lambda times, keys: clean  # noqa: E731
        elif condition_keys is not None:
            kept = given.noise(condition, condition_keys)
            shown = lambda times, keys: given.at(condition, times, kept)  # noqa: E731
        else:
            shown = lambda times, keys: given.at(condition, times, given.noise(condition, keys))  # noqa: E731

        def denoise(state: joint.State, t, keys) -> joint.Prediction:
            x, times = state.image, jnp.full((state.batch,), t)
            apply = lambda seen: self._apply(params, x, times, seen)  # noqa: E731
            output = apply(shown(times, keys))
            if guide.needs_null:
                output = jax.lax.cond(
                    guide.active(t, self.process.num_steps),
                    lambda: guide.combine(output, apply(null), self.image_channels),
                    lambda: output,
                )
            return joint.Prediction(gaussian.predict(self.process, output, x, times))

        return denoise

    def _apply(self, params, x, times, seen: dict):
        return self.network.apply({"params": params}, x, self.network_time(times), **seen)

    def _modulated(self, params, condition: dict) -> dict:
        """What the condition does to the network, in its place, where that is not too large."""
        modulation = self.network.apply({"params": params}, **condition, method="modulation")
        takes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(modulation))
        return {"modulation": modulation} if takes <= MODULATION_LIMIT else condition


def to_unit(image):
    """8-bit pixels -> [-1, 1]."""
    return jnp.asarray(image, jnp.float32) / 127.5 - 1


def to_pixels(x):
    """[-1, 1] -> 8-bit pixels, rounded."""
    return jnp.round((jnp.clip(x, -1, 1) + 1) * 127.5).astype(jnp.uint8)
