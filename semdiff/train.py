"""Training: the state, one pure step, one visible loop."""

import collections
import contextlib
import itertools
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.experimental import multihost_utils

from semdiff import build, checkpoint, inputs, lock, logs, parallel, tasks, times, trained
from semdiff.config import Experiment, Optimizer
from semdiff.data import classes, pipeline
from semdiff.data.source import Source
from semdiff.diffusion import losses
from semdiff.method import SPACE, Method
from semdiff.parallel import Collective
from semdiff.params import Rule, merged
from semdiff.paths import local_path


class TrainingError(ValueError):
    """A run that cannot go on, in words."""


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

    method: Method
    optimizer: optax.GradientTransformation
    rate: optax.Schedule
    config: Experiment

    def init(self, key) -> TrainState:
        return self.fresh(self.method.init(key, self.config.data.size))

    @property
    def rule(self) -> Rule:
        """What is trained."""
        return Rule(self.config.train.trained, frozen=(SPACE,))

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
            time_sampler=build.build_time_sampler(self.config, self.method.process),
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
        state = state.replace(
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


def build_trainer(config: Experiment, method: Method) -> Trainer:
    optimizer = build_optimizer(config.optimizer, config.train.steps)
    return Trainer(method, optimizer, learning_rate(config.optimizer, config.train.steps), config)


@dataclass
class Run:
    """A run that is ready to go on from `start`."""

    source: Source
    trainer: Trainer
    strategy: parallel.Mesh | parallel.Pmap
    checkpoints: checkpoint.Checkpoints
    about: dict
    state: TrainState
    start: int


def prepare(config: Experiment, workdir: Path) -> Run:
    """Everything up to the first batch; the state is fresh, or that of the newest checkpoint. Says what will run."""
    c, main = config.train, jax.process_index() == 0
    opened = build.opened(config, workdir)
    source, trainer, strategy = opened.source, build_trainer(config, opened.method), parallel.build(c)
    logs.say(logs.opening_lines(strategy, workdir, inputs.describe(source, config.data)), main)
    about = checkpoint.describe(config, opened.identity, classes.as_json(source.info))
    checkpoints = checkpoint.Checkpoints(workdir, c.keep, c.save_every)
    key, start = jax.random.fold_in(jax.random.key(config.seed), 0), checkpoints.latest() or 0
    if start:
        shapes = strategy.saved_shapes(trainer.init, key)
        frozen = trained.read_frozen(workdir, shapes.frozen)
        state = strategy.from_saved(checkpoints.restore(start, shapes, about).replace(frozen=frozen))
        logs.say(f"resumed at step {start} of {workdir}", main)
        logs.say(moved_position(checkpoints.about(start)["config"], c.batch_size, start), main)
    elif c.init:
        shapes = strategy.saved_shapes(trainer.init, key)
        state = strategy.create_state(trainer.fresh, initial_weights(shapes.weights, c.init))
    else:
        state = strategy.create_state(trainer.init, key)
    parallel.meet()
    if main:
        checkpoint.write_json(workdir / "config.json", about)
    saved = strategy.saved_form(state)
    params, frozen = parallel.to_local((saved.params, saved.frozen))
    logs.say(logs.parameter_table(params), main)
    logs.say(f"frozen: {logs.megabytes(checkpoint.tree_bytes(frozen))} of weights" if frozen else "", main)
    if main:
        (workdir / "parameters.txt").write_text(logs.parameter_file(params) + "\n")
        if frozen and not start:
            trained.write_frozen(workdir, frozen)
    return Run(source, trainer, strategy, checkpoints, about, state, start)


def train(config: Experiment, workdir: Path) -> TrainState:
    """Train to config.train.steps, resuming from the newest checkpoint of workdir, which is locked while it lasts."""
    workdir = checkpoint.prepare_workdir(workdir)
    with lock.held(workdir) if jax.process_index() == 0 else contextlib.nullcontext():
        return train_alone(times.resolved(config, times.entries_of(workdir)), workdir)


def train_alone(config: Experiment, workdir: Path) -> TrainState:
    c, main = config.train, jax.process_index() == 0
    run = prepare(config, workdir)
    state, strategy, checkpoints = run.state, run.strategy, run.checkpoints
    if run.start >= c.steps:
        logs.say(f"nothing to do: step {run.start} of {c.steps} was reached before", main)
        return strategy.saved_form(state)

    batches = pipeline.train_iterator(
        run.source, **inputs.training_options(config), start_step=run.start, **data_share()
    )
    writer = logs.Writer(workdir, run.start, active=main)
    evaluator = Evaluator(run.trainer, config, run.source.info, writer)
    with (
        contextlib.closing(checkpoints),
        contextlib.closing(writer),
        contextlib.closing(batches),
        stop_signal() as stopped,
    ):
        key = jax.random.fold_in(jax.random.key(config.seed), 1)
        batch = strategy.place_batch(next(batches))
        train_step = compiled(strategy, run.trainer, state, batch, key)
        window = collections.deque()
        progress = logs.Progress(c.steps, run.start, active=main)

        # ---- the loop: step, log, save, evaluate, next batch
        for step in range(run.start + 1, c.steps + 1):
            state, metrics = train_step(state, batch, key)
            window.append(strategy.metrics(metrics))
            asked_to_stop, evaluates = stopped(step), step % c.eval_every == 0 or step == c.steps
            last = step == c.steps or asked_to_stop
            if step % c.log_every == 0 or last:
                mean = averaged(window)
                writer.scalars(step, {**mean, "steps_per_second": progress.rate})
                progress.report(step, f"loss {mean['loss']:.4f}")
                check_finite(mean, c.max_bad_steps, step)
                checkpoints.check()
            if step % c.save_every == 0 or last or evaluates:  # a run may be killed while it draws
                checkpoints.save(step, strategy.saved_form(state), run.about, force=last or evaluates)
            if evaluates and not asked_to_stop:
                progress.pause(evaluator.run(step, parallel.to_local(strategy.saved_form(state).averaged)))
            if last:
                break
            batch = strategy.place_batch(next(batches))

        checkpoints.wait()
    if step < c.steps:
        logs.say(f"stopped by signal at step {step}, saved; the same command resumes here", main)
        sys.exit(0)
    if main:
        logs.draw_curve(workdir)
    logs.say(f"done: {workdir} holds checkpoints, metrics.jsonl, tensorboard/ and pictures/", main)
    return strategy.saved_form(state)


def data_share() -> dict:
    return {"host": jax.process_index(), "hosts": jax.process_count()}


def compiled(strategy, trainer: Trainer, state: TrainState, batch: dict, key) -> Callable:
    """The step, compiled by all processes before any of them starts: collectives do not wait long."""
    main = jax.process_index() == 0
    logs.say("compiling the step", main)
    began = time.monotonic()
    train_step, memory = strategy.compile(trainer.step, state, batch, key)
    logs.say(f"compiled in {time.monotonic() - began:.1f} s; {memory_line(state, memory)}", main)
    parallel.meet()
    return train_step


class Evaluator:
    """What is looked at during training: the loss on held-out data and a grid of samples, both at fixed seeds."""

    def __init__(self, trainer: Trainer, config: Experiment, info, writer: logs.Writer):
        self.config, self.writer = config, writer
        self.source = inputs.evaluation_source(config.data, config.seed)
        inputs.check_same_classes(info, self.source.info, "edges" in trainer.method.given.reads)
        self.validate = jax.jit(trainer.validate)
        rows = config.train.grid
        self.grid = (
            tasks.Grid(trainer.method, self.source, config.sample, config.data, rows) if rows else None
        )

    def run(self, step: int, params) -> float:
        """Returns the seconds it took. The processes of a run share the batches and the images."""
        began = time.monotonic()
        if self.config.train.eval_batches:
            self.writer.scalars(step, {f"eval/{k}": v for k, v in self._validated(params).items()})
        if self.grid:
            picture = self.grid(params)
            path = self.writer.picture(step, "grid", picture)
            logs.say(f"samples: {path}", path is not None)
        return time.monotonic() - began

    def _validated(self, params) -> dict[str, float]:
        """Loss terms, averaged over the batches."""
        limit = self.config.train.eval_batches * self.config.sample.batch_size
        batches = pipeline.eval_batches(
            self.source,
            batch_size=self.config.sample.batch_size,
            size=self.config.data.size,
            limit=limit,
            **data_share(),
        )
        mine = []
        for number, batch in zip(parallel.share(range(self.config.train.eval_batches)), batches):
            arrays = {k: batch[k] for k in ("image", "layout", "edges", "valid") if k in batch}
            arrays["slot"] = np.asarray(batch["index"], np.int32)
            terms = self.validate(params, arrays, jax.random.key(number))
            mine.append((number, jax.tree.map(float, terms)))
        return averaged([terms for _, terms in sorted(itertools.chain(*parallel.gathered(mine)))])


def averaged(window) -> dict[str, float]:
    """Means over a window of metrics, which is emptied; counters keep their last value."""
    rows = jax.device_get(list(window))
    if isinstance(window, collections.deque):
        window.clear()
    counters = ("bad_steps", "bad_in_row", "learning_rate")
    return {
        k: float(rows[-1][k]) if k in counters else float(np.mean([row[k] for row in rows], dtype=np.float64))
        for k in rows[0]
    }


def check_finite(metrics: dict, limit: int, step: int):
    if metrics["bad_in_row"] >= limit:
        raise TrainingError(
            f"the last {int(metrics['bad_in_row'])} steps up to step {step} gave a non-finite loss or gradient; none of "
            "them changed the weights. Lower config.optimizer.learning_rate, set config.optimizer.clip_norm=1.0, or use "
            "config.model.dtype=float32, and start again: the run resumes from the last checkpoint."
        )


def initial_weights(like, path: str):
    """Those of a file, where those of `like`, a tree of shapes, will live."""
    return trained.placed(trained.read_weights(local_path(path, "config.train.init"))[0], like, path)


def moved_position(written: dict, batch_size: int, step: int) -> str:
    """What another batch size means for a run that goes on; the position in the data is step x batch_size."""
    before = written["train"]["batch_size"]
    if before == batch_size:
        return ""
    was, now = step * before, step * batch_size
    follows = f"{was - now} are seen again" if now < was else f"{now - was} are left out"
    return (
        f"config.train.batch_size was {before} and is {batch_size}: {was} examples were seen, the run goes on at number "
        f"{now} of the shuffled order, so {follows}"
    )


def memory_line(state, memory) -> str:
    line = f"state {logs.megabytes(checkpoint.tree_bytes(state))}"
    if memory is None:
        return line
    return f"{line}, a step's own memory {logs.megabytes(memory.temp_size_in_bytes)} per device"


@contextlib.contextmanager
def stop_signal():
    """A function of the step that says whether SIGTERM or SIGINT asked the run to save and end; a second one kills."""
    asked = False

    def handle(number, frame):
        nonlocal asked
        asked = True
        signal.signal(number, signal.SIG_DFL)

    def stopped(step: int) -> bool:
        if jax.process_count() > 1:  # all hosts must stop at the same step
            return multihost_utils.reached_preemption_sync_point(step)
        return asked

    previous = {}
    with contextlib.suppress(ValueError):  # only the main thread may handle signals
        numbers = (signal.SIGINT,) if jax.process_count() > 1 else (signal.SIGTERM, signal.SIGINT)
        previous = {n: signal.signal(n, handle) for n in numbers}
    try:
        yield stopped
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
