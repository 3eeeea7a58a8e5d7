"""What a paper is made of: a process, a network, what is given, an objective, a space, a start.

A `Method` gives a training a loss and a chain a denoise_fn; neither knows which paper it runs.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from semdiff.diffusion import gaussian, guidance, joint, losses, priors, samplers, schedules
from semdiff.diffusion.joint import ByHalf, State
from semdiff.methods.given import Condition, Given, which_dropped
from semdiff.methods.networks import Network
from semdiff.methods.space import PIXELS, Space, drawn

# The parameters of a space, and the tables of a start, stand beside the network's under these names.
SPACE, START = "space", "start"


@dataclass(frozen=True)
class Method:
    """p(image, layout | what is given), or of one of the two.

    Its parameters are one nested dict; which of them are trained is the trainer's affair, those of the space never are.
    known: of a pair, whose network has a clock for each half: how a half is trained given the other.
    """

    process: joint.Process
    network: Network
    given: Given
    objective: losses.Objective = losses.SIMPLE
    space: Space = PIXELS
    start: priors.Start = priors.STANDARD
    known: losses.Known | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        """What of an example it is given."""
        return self.given.reads

    @property
    def image(self) -> gaussian.Gaussian:
        """The process of the image half, whose schedule spaces the times of a chain."""
        if self.process.image is None:
            raise ValueError("this method noises no image, and chains are spaced by the image's schedule")
        return self.process.image

    def init(self, key, size: tuple[int, int]) -> dict:
        """Fresh parameters."""
        params = self.network.init(key, self.like(1, size), self.given.empty(size))
        space = self.space.init(jax.random.fold_in(key, 1))
        return params | {SPACE: space} if space else params

    def like(self, batch: int, size: tuple[int, int]) -> State:
        """A state of zeros."""
        process = self.process
        return State(
            None if process.image is None else jnp.zeros((batch, *self.space.shape(size))),
            None if process.layout is None else jnp.zeros((batch, *size), jnp.int32),
        )

    def encode(self, params, image=None, layout=None, keys=None) -> State:
        """8-bit pixels and ids as the state they are at t = 0; what the process does not noise is left out."""
        if image is not None:
            image = self.space.encode(_of_space(params), image, keys)
        return State(
            None if self.process.image is None else image,
            None if self.process.layout is None or layout is None else jnp.asarray(layout, jnp.int32),
        )

    def decode(self, params, state: State) -> ByHalf:
        """8-bit pixels and ids."""
        if state.image is None:
            return ByHalf(layout=state.layout)
        return ByHalf(self.space.decode(_of_space(params), state.image), state.layout)

    def network_time(self, t: Any):
        """The network's clock: log SNR, or 0..999, whatever T (released networks were trained on i = t - 1). What is known,
        at t = 0, is told from the first step by being given whole: its clock shows that step."""
        if isinstance(t, ByHalf):
            return jax.tree.map(lambda a: self.network_time(jnp.where(a > 0, a, jnp.ones_like(a))), t)
        if self.network.clock == "log_snr":
            return schedules.log_snr(self.image.schedule, t)
        return (t - 1) * (1000 / self.process.num_steps)

    def compute_dtypes(self, params: dict) -> dict:
        """The type that each parameter is used in, as a tree."""
        space = {SPACE: jax.tree.map(lambda a: a.dtype, params[SPACE])} if SPACE in params else {}
        return self.network.compute_dtypes(_of_network(params)) | space

    def loss(self, params, batch: dict, keys, time_sampler: losses.TimeSampler, train: bool = True):
        """Per-example losses and the times drawn: everything random comes from the example's key."""
        t_keys, noise_keys, drop_keys, dropout_keys, given_keys, space_keys = (
            samplers.fold_in(keys, i) for i in range(6)
        )
        if "latent" in batch:  # encoded beforehand
            start = State(drawn(batch["latent"], space_keys))
        else:
            start = self.encode(params, batch["image"], batch["layout"], space_keys)
        t, weight = time_sampler.sample(t_keys)
        at, counts = self._times(t, keys, drop_keys if train else None)
        noise = joint.noise(self.process, start, noise_keys)
        state = joint.diffuse(self.process, start, at, noise)
        condition = self.given.condition(batch)
        condition = self.given.at(condition, t, self.given.noise(condition, given_keys))
        if train:
            condition = self.given.drop(condition, drop_keys)
        output = self._apply(params, state, at, condition, dropout_keys if train else None)
        return self.objective(self.process, output, start, state, noise, at, *counts), t, weight

    def _times(self, t, keys, drop_keys) -> tuple:
        """(times of both halves or of each, [how much each counts])"""
        if self.known is None:
            return t, []
        rate = self.known.dropout if drop_keys is not None else 0.0
        gone = which_dropped(keys if drop_keys is None else drop_keys, rate)
        at, counts = self.known.times(t, samplers.fold_in(keys, 6), gone, self.process.num_steps)
        return at, [counts]

    def denoise_fn(
        self,
        params,
        condition: Condition,
        guide: guidance.Guidance,
        condition_keys=None,
        cache: bool = False,
        known: ByHalf = joint.NEITHER,
    ) -> samplers.DenoiseFn:
        """State, t -> Prediction under this condition, guided.

        What changes on the way is noised afresh at each step; with `condition_keys`, one per example, by one noise kept
        through the chain, so that its mask only ever opens up. cache: what a condition that does not change does to the
        network is computed here, where the network has such a thing: the null condition, and the condition itself. known:
        a half that is given whole; its time is 0, and it is a part of what guidance asks for the absence of.
        """
        given = self.given
        null = given.null(condition)
        if cache and guide.needs_null:
            one = jax.tree.map(lambda a: a[:1], null) if given.nulls_alike else null
            null = self._cached(params, one, otherwise=null)
        if not given.changes:
            clean = self._cached(params, condition, otherwise=condition) if cache else condition
            shown = lambda times, keys: clean  # noqa: E731
        elif condition_keys is not None:
            kept = given.noise(condition, condition_keys)
            shown = lambda times, keys: given.at(condition, times, kept)  # noqa: E731
        else:
            shown = lambda times, keys: given.at(condition, times, given.noise(condition, keys))  # noqa: E731

        free = joint.without(self.process, known)
        of_free = lambda t: joint.by_half(t).layout if known.image else joint.by_half(t).image  # noqa: E731

        def denoise(state: State, t, keys) -> joint.Prediction:
            times = jax.tree.map(lambda a: jnp.full((state.batch,), a), t)
            output = self._apply(params, state, times, shown(times, keys))
            if guide.needs_null:
                without, at = self._absent(state, times, known, samplers.fold_in(keys, 3))
                output = jax.lax.cond(
                    guide.active(of_free(t), self.process.num_steps),
                    lambda: self._guided(guide, output, self._apply(params, without, at, null)),
                    lambda: output,
                )
            return joint.predict(free, output, state, times)

        return denoise

    def _absent(self, state: State, times, known: ByHalf, keys) -> tuple:
        """(state, times) in which what is known is not: noise, at t = T."""
        if known == joint.NEITHER:
            return state, times
        held = joint.without(self.process, ByHalf(not known.image, not known.layout))
        top = jnp.full((state.batch,), self.process.num_steps)
        at = joint.by_half(times)
        times = ByHalf(top if known.image else at.image, top if known.layout else at.layout)
        return joint.sample_prior(held, state, keys), times

    def _apply(self, params, state: State, times, condition: Condition, dropout_keys=None) -> ByHalf:
        params, clock = _of_network(params), self.network_time(times)
        return self.network.apply(params, state, clock, condition, dropout_keys)

    def _cached(self, params, condition: Condition, otherwise: Condition) -> Condition:
        kept = self.network.cache(_of_network(params), condition)
        return otherwise if kept is None else kept

    def _guided(self, guide: guidance.Guidance, output: ByHalf, null: ByHalf) -> ByHalf:
        """Away from what is said of nothing: eps (or v, x_0) of the image, logits of the layout."""
        image = layout = None
        if output.image is not None:
            image = guide.combine(output.image, null.image, self.space.channels)
        if output.layout is not None:
            layout = guide.combine_logits(output.layout, null.layout)
        return ByHalf(image, layout)


def _of_network(params: dict) -> dict:
    return {name: part for name, part in params.items() if name not in (SPACE, START)}


def _of_space(params: dict) -> dict:
    return params.get(SPACE, {})
