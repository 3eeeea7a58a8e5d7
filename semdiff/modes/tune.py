"""Times fitted to a trained model: which few times a sampler should visit to end where a chain of many steps ends."""

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from semdiff import draw, inputs
from semdiff.config import ConfigError, Sample
from semdiff.data import augment
from semdiff.data.source import Info
from semdiff.diffusion import samplers, schedules, timing
from semdiff.diffusion.joint import State
from semdiff.machine import logs
from semdiff.machine.paths import prepare_workdir, write_json
from semdiff.sampling.chains import Chain, build_corrected
from semdiff.sampling.tasks import Task, tasks_of
from semdiff.sampling.times import FILE, Entry, entries_of
from semdiff.trained import Trained

SHOWN = 4  # layouts in the picture


def tune(model: Trained, workdir: Path) -> Path:
    """Fits the times of config.sample's sampler for each of config.tune.steps; prints a table, writes them and a picture."""
    config, method = model.config, model.method
    c, s = config.tune, replace(config.sample, times=())
    if s.sampler == "ancestral" or s.eta:
        raise ConfigError(
            f"config.sample.sampler is {s.sampler}{f' with eta {s.eta:g}' if s.eta else ''}: its noise makes every chain "
            "end elsewhere. Times can be tuned for ddim without eta, dpmpp_2m, dpmpp_3m, unipc, ipndm, ipndm_v or deis"
        )
    schedule = method.image.schedule
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
    chains = Chains(model, s, examples, len(examples), max(c.steps))
    taught = teach(chains, c.teacher)
    kept, new = entries_of(workdir), []
    for steps in c.steps:
        times, error, usual = fitted(chains, taught, steps)
        entry = Entry(s.sampler, s.order, steps, s.guidance, model.name, times[:-1].tolist(), error)
        new.append(entry)
        kept = [e for e in kept if not entry.serves(replace(s, **_which(e)))] + [vars(entry)]
        write_json(path, {"tuned": kept})
        best = min(usual, key=lambda spacing: usual[spacing])
        logs.say(
            f"{steps} steps: {entry.times}, error {error:.4f}; the best spacing is {best}, {usual[best]:.4f}"
            + (f", {s.spacing} {usual[s.spacing]:.4f}" if s.spacing in usual else "")
        )
    shown = workdir / "pictures" / "tuned_times.png"
    draw.save_png(shown, picture(chains, taught, new, model.info))
    logs.say(
        f"times:    {path}; to use them: --config.sample.spacing=tuned --config.sample.steps={c.steps[0]}"
    )
    logs.say(f"picture:  {shown}")
    return path


def _which(entry: dict) -> dict:
    return {key: entry[key] for key in ("sampler", "order", "steps")}


class Chains:
    """Chains of one sampler over the same layouts from the same noise: one program, whatever their times."""

    def __init__(self, model: Trained, c: Sample, examples: list[dict], batch_size: int, longest: int):
        self.method, self.c, self.longest = model.method, replace(c, per_layout=1), longest
        self.chain = Chain.build(self.method, self.c)
        self.params = jax.device_put(model.params, jax.local_devices()[0])
        tasks = [task for example in examples for task in tasks_of(self.method, example, self.c)]
        self.batches = [
            _stacked(tasks[i : i + batch_size], batch_size) for i in range(0, len(tasks), batch_size)
        ]
        self.layouts = np.stack([example["layout"] for example in examples])
        self.size = tasks[0].canvas
        self._run = jax.jit(self._whole)

    def _whole(self, params, condition, keys, times, count):
        carry = self.chain.start(params, condition, keys, times[0], self.size)
        return self.chain.advance(params, condition, keys, carry, times, 0, count)[0].image

    def images(self, times: np.ndarray) -> np.ndarray:
        """Where the chains over these times end, in the method's space."""
        padded, count = jnp.asarray(np.pad(times, (0, self.longest + 1 - len(times)))), len(times) - 1
        made = [self._run(self.params, *batch, padded, count) for batch in self.batches]
        return np.concatenate(made)[: len(self.layouts)]


def _stacked(tasks: list[Task], size: int):
    """(condition, keys) of a batch, filled up by its last."""
    tasks = tasks + [tasks[-1]] * (size - len(tasks))
    condition = jax.tree.map(lambda *arrays: np.stack(arrays), *(task.given for task in tasks))
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
    process, chain = chains.method.image, chains.chain
    corrected = replace(build_corrected(chains.c), sampler=samplers.DDIM(), extrapolation=0.0)
    times = schedules.spaced_times(process.schedule, steps, "quadratic")
    condition, keys = chains.batches[0]
    logs.say(f"{len(keys)} layouts, {steps} steps of DDIM to imitate")

    @jax.jit
    def run(params, condition, keys):
        start, _ = chain.start(params, condition, keys, times[0], chains.size)
        denoise_fn, step_keys = chain.denoise_fn(params, condition, keys), samplers.fold_in(keys, 1)
        return timing.teach(denoise_fn, chain.process, times, start, step_keys, samplers.Joint(corrected))

    states, predictions = run(chains.params, condition, keys)
    cost = timing.step_errors(process, times, states, predictions)
    return Taught(np.asarray(states[-1]), times, cost)


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
    schedule, heartbeat, asked = chains.method.image.schedule, logs.Heartbeat(0), 0

    def error(times: np.ndarray) -> float:
        nonlocal asked
        asked += 1
        heartbeat.say(f"  {steps} steps: {asked} chains tried, at {times.tolist()}")
        return distance(chains.images(times), taught.end)

    starts = spacings(schedule, steps)
    usual = {spacing: error(times) for spacing, times in starts.items()}
    first, path = (
        starts[min(usual, key=lambda spacing: usual[spacing])],
        taught.times[timing.best_times(taught.cost, steps)],
    )
    if error(path) < min(usual.values()):
        first = path
    strides = [max(1, schedule.num_steps // n) for n in (16, 64, 256)]
    times, least = timing.descend(error, first, strides)
    return times, least, usual


def picture(chains: Chains, taught: Taught, tuned: list[Entry], info: Info) -> np.ndarray:
    """Layout | the long chain | for each number of steps: even times, tuned times."""
    columns, headers = [taught.end], ["many steps"]
    for entry in tuned:
        even = schedules.spaced_times(chains.method.image.schedule, entry.steps, "even")
        columns += [chains.images(even), chains.images(np.array([*entry.times, 0]))]
        headers += [f"{entry.steps} even", f"{entry.steps} tuned"]
    decode = jax.jit(lambda params, x: chains.method.decode(params, State(x)).image)
    columns = [np.asarray(decode(chains.params, column[:SHOWN])) for column in columns]
    rows = [
        [draw.colourise(layout, info.palette), *(column[i] for column in columns)]
        for i, layout in enumerate(chains.layouts[:SHOWN])
    ]
    return draw.grid(rows, headers=["layout", *headers], scale=max(1, 128 // rows[0][0].shape[1]))
