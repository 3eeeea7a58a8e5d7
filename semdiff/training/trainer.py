"""The pure functions of training: the state, the optimiser, one step."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from semdiff.config import Experiment, Optimizer
from semdiff.diffusion import losses
from semdiff.machine.parallel import Collective
from semdiff.methods import parts
from semdiff.methods.autoencoding import Autoencoding
from semdiff.methods.method import Method
from semdiff.training.params import Rule, merged, overlaid, rule_of


@struct.dataclass
class TrainState:
    """All that a run is, but for its configuration. `step` is also the position in the data.

    frozen: what of the weights is not trained. It has neither average nor moments, and is saved once, not with each state.
    """

    step: jax.Array
    params: Any
    ema: Any
    frozen: Any
    opt_state: Any
    time_sampler: Any
    bad_steps: jax.Array  # non-finite steps skipped so far
    bad_in_row: jax.Array

    @property
    def weights(self) -> dict:
        """All parameters of the method."""
        return merged(self.params, self.frozen)

    @property
    def averaged(self) -> dict:
        """The same, of what is trained the average."""
        return merged(self.ema, self.frozen)


def learning_rate(config: Optimizer, steps: int) -> optax.Schedule:
    """Warm-up from 0, then constant or a decay that ends with the run."""
    rest = max(steps - config.warmup, 1)
    decays = {
        "constant": lambda: optax.constant_schedule(config.learning_rate),
        "linear": lambda: optax.linear_schedule(config.learning_rate, config.final_rate, rest),
        "cosine": lambda: optax.cosine_decay_schedule(
            config.learning_rate, rest, config.final_rate / config.learning_rate
        ),
    }
    decay = decays[config.decay]()
    if not config.warmup:
        return decay
    warmup = optax.linear_schedule(0.0, config.learning_rate, config.warmup)
    return optax.join_schedules([warmup, decay], [config.warmup])


def build_optimizer(config: Optimizer, steps: int) -> optax.GradientTransformation:
    clip = clipped(config.clip_norm) if config.clip_norm else optax.identity()
    adamw = optax.adamw(
        learning_rate(config, steps),
        b1=config.beta1,
        b2=config.beta2,
        eps=config.epsilon,
        weight_decay=config.weight_decay,
    )
    return optax.chain(clip, adamw)


def clipped(limit: float) -> optax.GradientTransformation:
    """Gradients of a global norm of at most `limit`; optax's own divides every leaf, which is one more program a leaf."""

    def update(grads, state, params=None):
        factor = jnp.minimum(1.0, limit / optax.global_norm(grads))
        return jax.tree.map(lambda g: factor * g, grads), state

    return optax.GradientTransformation(optax.init_empty_state, update)


@dataclass(frozen=True)
class Trainer:
    """The pure functions of a run."""

    method: Method | Autoencoding
    optimizer: optax.GradientTransformation
    rate: optax.Schedule
    config: Experiment

    @classmethod
    def build(cls, config: Experiment, method: Method | Autoencoding) -> "Trainer":
        steps = config.train.steps
        optimizer = build_optimizer(config.optimizer, steps)
        return cls(method, optimizer, learning_rate(config.optimizer, steps), config)

    def init(self, key) -> TrainState:
        return self.fresh(self.method.init(key, self.config.data.size))

    def begin(self, key_and_given) -> TrainState:
        """The state of a run of which some weights are given, and the others fresh."""
        key, given = key_and_given
        return self.fresh(overlaid(self.method.init(key, self.config.data.size), given))

    @property
    def rule(self) -> Rule:
        """What is trained."""
        return rule_of(self.config)

    def fresh(self, weights) -> TrainState:
        """The state of a run that starts from these weights."""
        self.rule.check(weights)
        params, frozen = self.rule.split(weights)
        zero = jnp.zeros((), jnp.int32)
        return TrainState(
            step=zero,
            params=params,
            frozen=frozen,
            ema=jax.tree.map(jnp.copy, params),
            opt_state=self.optimizer.init(params),
            time_sampler=parts.time_sampler(self.config, self.method.process),
            bad_steps=zero,
            bad_in_row=jnp.copy(zero),
        )

    def step(self, state: TrainState, batch: dict, key, collective: Collective):
        """(state, batch, key) -> (state, metrics). An example's randomness is a function of (key, step, its slot)."""
        keys = example_keys(jax.random.fold_in(key, state.step), batch["slot"])
        dtypes = self.method.compute_dtypes(state.weights)

        def loss_of(params, part):
            batch, keys = part
            weights = collective.whole(merged(params, state.frozen), dtypes)
            terms, t, weight = self.method.loss(weights, batch, keys, state.time_sampler)
            return (weight * terms["loss"]).mean(), (
                {k: v.mean() for k, v in terms.items()},
                t,
                terms["loss"],
            )

        grads, (terms, t, losses) = self._accumulated(loss_of, state.params, (batch, keys))
        grads, terms = collective.mean((grads, terms))
        t, losses, slot = collective.gather((t, losses, _micro(batch["slot"], self._parts).reshape(-1)))

        rate = self.rate(state.step - state.bad_steps)  # the optimiser counts good steps alone
        updates, opt_state = self.optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        grad_norm = optax.global_norm(grads)
        good = jnp.isfinite(grad_norm) & jnp.isfinite(terms["loss"])
        order = jnp.argsort(slot)
        new = (
            params,
            self._averaged(state.ema, params, state.step),
            opt_state,
            state.time_sampler.update(t[order], losses[order]),
        )
        old = (state.params, state.ema, state.opt_state, state.time_sampler)
        params, ema, opt_state, time_sampler = jax.tree.map(lambda n, o: jnp.where(good, n, o), new, old)
        state = replace(
            state,
            step=state.step + 1,
            params=params,
            ema=ema,
            opt_state=opt_state,
            time_sampler=time_sampler,
            bad_steps=state.bad_steps + ~good,
            bad_in_row=jnp.where(good, 0, state.bad_in_row + 1),
        )
        metrics = {
            **terms,
            "grad_norm": grad_norm,
            "learning_rate": rate,
        }
        return state, {**metrics, "bad_steps": state.bad_steps, "bad_in_row": state.bad_in_row}

    @property
    def _parts(self) -> int:
        return self.config.train.accumulate

    def _accumulated(self, loss_of: Callable, params, whole):
        """Gradient and outputs over micro-batches, one after the other; gradients and terms are means, the rest joined."""
        grad = jax.grad(loss_of, has_aux=True)
        if self._parts == 1:
            return grad(params, whole)

        def add(total, part):
            grads, (terms, t, losses) = grad(params, part)
            return jax.tree.map(jnp.add, total, (grads, terms)), (t, losses)

        parts = jax.tree.map(lambda a: _micro(a, self._parts), whole)
        shapes = jax.eval_shape(lambda p: grad(params, jax.tree.map(lambda a: a[0], p)), parts)
        zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), (shapes[0], shapes[1][0]))
        total, (t, losses) = jax.lax.scan(add, zeros, parts)
        grads, terms = jax.tree.map(lambda a: a / self._parts, total)
        return grads, (terms, t.reshape(-1), losses.reshape(-1))

    def _averaged(self, ema, params, step):
        c = self.config.optimizer
        decay = jnp.minimum(c.ema, (1 + step) / (10 + step)) if c.ema_warmup else c.ema
        return jax.tree.map(lambda e, p: e + (1 - decay) * (p - e), ema, params)

    def validate(self, params, batch: dict, key) -> dict:
        """Loss terms on a batch, without dropping anything."""
        uniform = losses.UniformTime(self.method.process.num_steps, self.method.process.continuous)
        keys = example_keys(key, batch["slot"])
        terms, _, _ = self.method.loss(params, batch, keys, uniform, train=False)
        return {k: (v * batch["valid"]).sum() / batch["valid"].sum() for k, v in terms.items()}


def example_keys(key, slots):
    return jax.vmap(lambda slot: jax.random.fold_in(key, slot))(slots)


def _micro(array, parts: int):
    """[B, ...] -> [parts, B / parts, ...], taking every parts-th example, so that none leaves its device."""
    return jnp.moveaxis(array.reshape(-1, parts, *array.shape[1:]), 1, 0)
