"""Times fitted to a trained model: which few times a sampler should visit to end where a chain of many steps ends.

They are kept beside the weights, in WORKDIR/times.json, go into what --mode=export writes, and are asked for by
config.sample.spacing=tuned.
"""

import contextlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from semdiff import draw, inputs, logs, parallel
from semdiff.chains import Chain
from semdiff.checkpoint import prepare_workdir, write_json
from semdiff.config import ConfigError, Experiment, Sample
from semdiff.data import augment
from semdiff.data.source import Info
from semdiff.diffusion import samplers, schedules, timing
from semdiff.method import Method, to_pixels
from semdiff.tasks import Task, tasks_of

FILE = "times.json"
SHOWN = 4  # layouts in the picture


@dataclass(frozen=True)
class Entry:
    """Tuned times of one sampler for one number of steps."""

    sampler: str
    order: int
    steps: int
    guidance: float
    weights: str
    times: list[int]  # as config.sample.times has them: without the 0 at their end
    error: float  # root mean square distance to the long chain's images, in [-1, 1]

    def serves(self, c: Sample) -> bool:
        return (self.sampler, self.order, self.steps) == (c.sampler, c.order, c.steps)


def entries_of(workdir: Path) -> list[dict]:
    """What was tuned in a workdir; process 0 reads."""
    path = Path(workdir) / FILE
    found = parallel.from_main(path.read_bytes() if path.exists() else b"")
    if not found:
        return []
    try:
        return json.loads(found)["tuned"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} is damaged ({error}): remove it and tune again, --mode=tune_times"
        ) from error


def resolved(config: Experiment, tuned: list[dict], weights: str = "") -> Experiment:
    """With the tuned times of its sampler, where config.sample.spacing asks for them."""
    c = config.sample
    if c.spacing != "tuned" or c.times:
        return config
    try:
        entries = [Entry(**entry) for entry in tuned]
    except TypeError as error:
        raise ConfigError(
            f"the tuned times of these weights are damaged ({error}): expected entries with the keys of {FILE}. Tune "
            "again, --mode=tune_times"
        ) from error
    found = [entry for entry in entries if entry.serves(c)]
    if not found:
        have = ", ".join(
            f"{e.sampler}{f' of order {e.order}' if e.order else ''} in {e.steps}" for e in entries
        )
        raise ConfigError(
            f"config.sample.spacing is tuned, but no times were tuned for {c.steps} steps of {c.sampler} at "
            f"config.sample.order={c.order} (tuned: {have or 'nothing at all'}): --mode=tune_times "
            f"--config.tune.steps=({c.steps},)"
        )
    entry = found[-1]
    if weights and entry.weights != weights:
        logs.say(f"times:   tuned for the weights {entry.weights}, used with {weights}")
    return replace(config, sample=replace(c, times=tuple(map(float, entry.times))))


def tune(config: Experiment, method: Method, params, weights: str, info: Info, workdir: Path) -> Path:
    """Fits the times of config.sample's sampler for each of config.tune.steps; prints a table, writes them and a picture."""
    c, s = config.tune, replace(config.sample, times=())
    if s.sampler == "ancestral" or s.eta:
        raise ConfigError(
            f"config.sample.sampler is {s.sampler}{f' with eta {s.eta:g}' if s.eta else ''}: its noise makes every chain "
            "end elsewhere. Times can be tuned for ddim without eta, dpmpp_2m, dpmpp_3m, unipc, ipndm, ipndm_v or deis"
        )
    schedule = method.process.schedule
    if not c.steps or min(c.steps) < 2 or max(c.steps) >= c.teacher or c.teacher > schedule.num_steps:
        raise ConfigError(
            f"config.tune.steps is {c.steps} and teacher {c.teacher}; expected numbers of at least 2, below those of the "
            f"teacher, which has at most config.process.steps={schedule.num_steps}"
        )
    path = prepare_workdir(workdir) / FILE
    if jax.process_index():
        return path
    source = inputs.training_source(config.data, config.seed)
    examples = [augment.squash(source[i], config.data.size) for i in inputs.spread(source, c.layouts)]
    chains = Chains(method, s, params, examples, len(examples), max(c.steps))
    taught = teach(chains, c.teacher)
    kept, new = entries_of(workdir), []
    for steps in c.steps:
        times, error, usual = fitted(chains, taught, steps)
        entry = Entry(s.sampler, s.order, steps, s.guidance, weights, times[:-1].tolist(), error)
        new.append(entry)
        kept = [e for e in kept if not entry.serves(replace(s, **_which(e)))] + [vars(entry)]
        write_json(path, {"tuned": kept})
        best = min(usual, key=usual.get)
        logs.say(
            f"{steps} steps: {entry.times}, error {error:.4f}; the best spacing is {best}, {usual[best]:.4f}"
            + (f", {s.spacing} {usual[s.spacing]:.4f}" if s.spacing in usual else "")
        )
    shown = workdir / "pictures" / "tuned_times.png"
    draw.save_png(shown, picture(chains, taught, new, info))
    logs.say(
        f"times:    {path}; to use them: --config.sample.spacing=tuned --config.sample.steps={c.steps[0]}"
    )
    logs.say(f"picture:  {shown}")
    return path


def _which(entry: dict) -> dict:
    return {key: entry[key] for key in ("sampler", "order", "steps")}


class Chains:
    """Chains of one sampler over the same layouts from the same noise: one program, whatever their times."""

    def __init__(
        self, method: Method, c: Sample, params, examples: list[dict], batch_size: int, longest: int
    ):
        self.method, self.c, self.longest = method, replace(c, per_layout=1), longest
        self.chain = Chain.build(method, self.c)
        self.params = jax.device_put(params, jax.local_devices()[0])
        tasks = [task for example in examples for task in tasks_of(method, example, self.c)]
        self.batches = [
            _stacked(tasks[i : i + batch_size], batch_size) for i in range(0, len(tasks), batch_size)
        ]
        self.layouts = np.stack([task.layout for task in tasks])
        self._run = jax.jit(self._whole)

    def _whole(self, params, condition, keys, times, count):
        carry = self.chain.start(condition, keys)
        return jnp.clip(self.chain.advance(params, condition, keys, carry, times, 0, count)[0].image, -1, 1)

    def images(self, times: np.ndarray) -> np.ndarray:
        """Where the chains over these times end, in [-1, 1]."""
        padded, count = jnp.asarray(np.pad(times, (0, self.longest + 1 - len(times)))), len(times) - 1
        made = [self._run(self.params, *batch, padded, count) for batch in self.batches]
        return np.concatenate(made)[: len(self.layouts)]


def _stacked(tasks: list[Task], size: int):
    """(condition, keys) of a batch, filled up by its last."""
    tasks = tasks + [tasks[-1]] * (size - len(tasks))
    edges = None if tasks[0].edges is None else np.stack([task.edges for task in tasks])
    condition = {"layout": np.stack([task.layout for task in tasks]), "edges": edges}
    return jax.device_put(condition), jnp.stack([task.key for task in tasks])


def distance(images: np.ndarray, end: np.ndarray) -> float:
    return float(np.sqrt(np.mean((images - end) ** 2)))


@dataclass(frozen=True)
class Taught:
    """Where chains of many steps end, and how far any one step strays from their path."""

    end: np.ndarray
    times: np.ndarray
    cost: np.ndarray


def teach(chains: Chains, steps: int) -> Taught:
    """DDIM over many times, denser near the data, of the first batch."""
    process, chain = chains.method.process, chains.chain
    corrected = replace(chain.sampler.image, sampler=samplers.DDIM(), extrapolation=0.0)
    times = schedules.spaced_times(process.schedule, steps, "quadratic")
    condition, keys = chains.batches[0]
    logs.say(f"{len(keys)} layouts, {steps} steps of DDIM to imitate")

    @jax.jit
    def run(params, condition, keys):
        start, _ = chain.start(condition, keys)
        denoise_fn, step_keys = chain.denoise_fn(params, condition, keys), samplers.fold_in(keys, 1)
        return timing.teach(denoise_fn, chain.process, times, start, step_keys, samplers.Joint(corrected))

    states, predictions = run(chains.params, condition, keys)
    cost = timing.step_errors(process, times, states, predictions)
    return Taught(np.clip(states[-1], -1, 1), times, cost)


def spacings(schedule: schedules.Schedule, steps: int) -> dict[str, np.ndarray]:
    """Every spacing's times, whole."""
    found = {}
    for spacing in schedules.SPACINGS:
        with contextlib.suppress(ValueError):  # a stride that does not divide
            times = schedules.spaced_times(schedule, steps, spacing)
            found[spacing] = np.round(times).astype(np.int32)
    return found


def fitted(chains: Chains, taught: Taught, steps: int) -> tuple[np.ndarray, float, dict[str, float]]:
    """The times found, their error, and that of each spacing."""
    schedule, heartbeat, asked = chains.method.process.schedule, logs.Heartbeat(0), 0

    def error(times: np.ndarray) -> float:
        nonlocal asked
        asked += 1
        heartbeat.say(f"  {steps} steps: {asked} chains tried, at {times.tolist()}")
        return distance(chains.images(times), taught.end)

    starts = spacings(schedule, steps)
    usual = {spacing: error(times) for spacing, times in starts.items()}
    first, path = starts[min(usual, key=usual.get)], taught.times[timing.best_times(taught.cost, steps)]
    if error(path) < min(usual.values()):
        first = path
    strides = [max(1, schedule.num_steps // n) for n in (16, 64, 256)]
    times, least = timing.descend(error, first, strides)
    return times, least, usual


def picture(chains: Chains, taught: Taught, tuned: list[Entry], info: Info) -> np.ndarray:
    """Layout | the long chain | for each number of steps: even times, tuned times."""
    columns, headers = [taught.end], ["many steps"]
    for entry in tuned:
        even = schedules.spaced_times(chains.method.process.schedule, entry.steps, "even")
        columns += [chains.images(even), chains.images(np.array([*entry.times, 0]))]
        headers += [f"{entry.steps} even", f"{entry.steps} tuned"]
    columns = [np.asarray(to_pixels(column[:SHOWN])) for column in columns]
    rows = [
        [draw.colourise(layout, info.palette), *(column[i] for column in columns)]
        for i, layout in enumerate(chains.layouts[:SHOWN])
    ]
    return draw.grid(rows, headers=["layout", *headers], scale=max(1, 128 // rows[0][0].shape[1]))
