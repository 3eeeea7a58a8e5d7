"""--mode=train: one visible loop around the pure step of training/trainer.py."""

import collections
import contextlib
import itertools
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from semdiff import inputs, pretrained, trained
from semdiff.config import Experiment
from semdiff.data import classes, pipeline
from semdiff.data.latents import Encoded
from semdiff.machine import logs, parallel
from semdiff.machine.paths import prepare_workdir, write_json
from semdiff.methods import build, scp
from semdiff.methods.autoencoding import Autoencoding
from semdiff.methods.method import SPACE, Method
from semdiff.sampling import tasks, times
from semdiff.training import checkpoint, lock
from semdiff.training.params import paths
from semdiff.training.trainer import Trainer, TrainState


class TrainingError(ValueError):
    """A run that cannot go on, in words."""


@dataclass
class Run:
    """A run that is ready to go on from `start`."""

    opened: build.Opened
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
    source, trainer, strategy = opened.source, Trainer.build(config, opened.subject), parallel.build(c)
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
    else:
        state = strategy.create_state(*beginning(config, opened, trainer, strategy, key))
    parallel.meet()
    if main and start < c.steps:
        write_json(workdir / "config.json", about | {"machine": logs.machine()})
    saved = strategy.saved_form(state)
    params, frozen = parallel.to_local((saved.params, saved.frozen))
    logs.say(logs.parameter_table(params), main)
    if isinstance(opened.source, Encoded):
        opened.source.check(
            pretrained.about_latents(opened.source, config, opened.method.space, frozen[SPACE])
        )
    logs.say(f"frozen: {logs.megabytes(checkpoint.tree_bytes(frozen))} of weights" if frozen else "", main)
    if main:
        (workdir / "parameters.txt").write_text(logs.parameter_file(params) + "\n")
        if frozen and not start:
            trained.write_frozen(workdir, frozen)
    return Run(opened, trainer, strategy, checkpoints, about, state, start)


def train(config: Experiment, workdir: Path) -> TrainState:
    """Train to config.train.steps, resuming from the newest checkpoint of workdir, which is locked while it lasts."""
    workdir = prepare_workdir(workdir)
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
        run.opened.source, **inputs.training_options(config), start_step=run.start, **data_share()
    )
    writer = logs.Writer(workdir, run.start, active=main)
    evaluator = Evaluator(run.trainer, config, run.opened, writer)
    with (
        contextlib.closing(checkpoints),
        contextlib.closing(writer),
        contextlib.closing(batches),
        stop_signal() as stopped,
    ):
        key = jax.random.fold_in(jax.random.key(config.seed), 1)
        batch = strategy.place_batch(next(batches))
        train_step = compiled(strategy, run.trainer, state, batch, key)
        window: collections.deque = collections.deque()
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


ARRAYS = ("image", "layout", "edges", "text", "state", "valid")  # what of a batch is computed with


class Evaluator:
    """What is looked at during training: the loss on held-out data and a grid of samples, both at fixed seeds."""

    def __init__(self, trainer: Trainer, config: Experiment, opened: build.Opened, writer: logs.Writer):
        self.config, self.writer = config, writer
        source = inputs.evaluation_source(config.data, config.seed)
        inputs.check_same_classes(opened.info, source.info, "edges" in trainer.method.reads)
        self.source = inputs.told(config, source, opened.language)
        self.validate = jax.jit(trainer.validate)
        rows, chain = config.train.grid, scp.from_noise(config.sample)  # whatever there will be to start from
        method = trainer.method
        self.grid: Callable | None = None
        if rows and isinstance(method, Autoencoding):
            self.grid = tasks.Reconstructions(method, self.source, config.data, rows)
        elif rows and isinstance(method, Method):
            self.grid = tasks.Grid(method, self.source, chain, config.data, rows)

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
            arrays: dict[str, np.ndarray] = {k: batch[k] for k in ARRAYS if k in batch}
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


def beginning(config: Experiment, opened: build.Opened, trainer: Trainer, strategy, key) -> tuple:
    """(a function that makes a state, its argument): nothing is drawn where all weights are given."""
    given = pretrained.initial(config, opened)
    if not given:
        return trainer.init, key
    like, path = strategy.saved_shapes(trainer.init, key).weights, config.train.init or "config.space.weights"
    given = pretrained.placed(given, like, path)
    if set(paths(given)) == set(paths(like)):
        return trainer.fresh, given
    return trainer.begin, (key, given)


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
