"""What a run says: scalars and pictures to TensorBoard and metrics.jsonl, one progress line, the facts at the start."""

import json
import math
import os
import sys
import time
from pathlib import Path

import jax
import numpy as np
from clu import parameter_overview
from tensorboardX import SummaryWriter

from semdiff import draw

METRICS = "metrics.jsonl"


class Writer:
    """Scalars and pictures of one workdir. `start_step`: later lines of an interrupted run are written again."""

    def __init__(self, workdir: Path, start_step: int = 0, active: bool = True):
        self.workdir, self.active = Path(workdir), active
        if not active:
            return
        path = self.workdir / METRICS
        if path.exists():
            lines = [line for line in path.read_text().splitlines() if _step_of(line) <= start_step]
            temporary = path.with_suffix(".tmp")
            temporary.write_text("".join(line + "\n" for line in lines))
            temporary.replace(path)
        self._file = path.open("a")
        self._board = SummaryWriter(str(self.workdir / "tensorboard"), purge_step=start_step + 1)

    def scalars(self, step: int, values: dict[str, float]):
        if not self.active:
            return
        values = {k: float(v) for k, v in values.items()}
        self._file.write(json.dumps({"step": step, **{k: _jsonable(v) for k, v in values.items()}}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def picture(self, step: int, name: str, image: np.ndarray) -> Path | None:
        """Also as WORKDIR/pictures/NAME_STEP.png, whose path is returned."""
        if not self.active:
            return None
        path = self.workdir / "pictures" / f"{name}_{step:08d}.png"
        draw.save_png(path, image)
        self._board.add_image(name, image, step, dataformats="HWC")
        return path

    def close(self):
        if self.active:
            self._file.close()
            self._board.close()


def draw_curve(workdir: Path, name: str = "mse") -> Path:
    """metrics.jsonl as a picture: `name` in training and on held-out data over the steps."""
    rows = [json.loads(line) for line in (Path(workdir) / METRICS).read_text().splitlines()]
    series: dict[str, tuple[list[int], list[float]]] = {}
    for label, key in (("training", name), ("held out", f"eval/{name}")):
        points = [(row["step"], float(row[key])) for row in rows if key in row]
        if points:
            series[label] = ([step for step, _ in points], [value for _, value in points])
    path = Path(workdir) / "pictures" / f"curve_{name}.png"
    draw.curve(path, series, "step", name, log_y=True)
    return path


def hours_of(workdir: Path) -> float:
    """What the steps of a run's metrics.jsonl took, by their rates; 0 where there is none."""
    path, seconds, before = workdir / METRICS, 0.0, 0
    lines = path.read_text().splitlines() if path.exists() else []
    for line in map(json.loads, lines):
        if rate := line.get("steps_per_second"):
            seconds += (line["step"] - before) / rate
            before = line["step"]
    return seconds / 3600


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError):  # the torn last line of a killed run
        return math.inf


def _jsonable(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


class Progress:
    """One line: how far, how fast, how long still."""

    def __init__(self, total: int, done: int = 0, unit: str = "step", active: bool = True):
        self.total, self.unit, self.active = total, unit, active
        self._start_time, self._start_done = time.monotonic(), done
        self.rate = 0.0

    def report(self, done: int, note: str = ""):
        elapsed = time.monotonic() - self._start_time
        self.rate = (done - self._start_done) / max(elapsed, 1e-9)
        left = duration((self.total - done) / self.rate) if self.rate else "?"
        say(
            f"{self.unit} {done}/{self.total} ({100 * done / max(self.total, 1):.0f}%)  {note}  "
            f"{self.rate:.3g} {self.unit}s/s  {left} left",
            active=self.active,
        )

    def pause(self, seconds: float):
        """Time that should not count against the rate."""
        self._start_time += seconds


class Heartbeat:
    """A sign of life from within one long computation, every so many seconds."""

    def __init__(self, steps: int, every: float = 15.0, active: bool = True):
        self.steps, self.every, self.active = steps, every, active
        self._last = time.monotonic()

    def __call__(self, done: int):
        self.say(f"  step {done}/{self.steps} of this batch")

    def say(self, text: str):
        if time.monotonic() - self._last > self.every:
            self._last = time.monotonic()
            say(text, self.active)


def say(text: str, active: bool = True):
    if active and text:
        print(text, flush=True)


def duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours}h"
    if hours:
        return f"{hours}h {minutes:02d}m"
    return f"{minutes}m {seconds:02d}s" if minutes else f"{seconds}s"


def megabytes(count: float) -> str:
    return f"{count / 2**20:,.1f} MiB"


def machine() -> str:
    device = jax.devices()[0]
    more = f"{os.cpu_count()} cores" if device.platform == "cpu" else device.platform
    return (
        f"{jax.device_count()} x {device.device_kind} ({more}), {jax.process_count()} process(es), jax {jax.__version__}, "
        f"python {sys.version.split()[0]}"
    )


def opening_lines(strategy, workdir: Path, data: str) -> str:
    return f"devices: {machine()}\nmesh:    {strategy}\nworkdir: {workdir}\ndata:    {data}"


def parameter_table(params) -> str:
    """Names, shapes and sizes: by module, the largest first modules of the tree summed."""
    total = sum(a.size for a in jax.tree.leaves(params))
    rows = [(name, sum(a.size for a in jax.tree.leaves(part))) for name, part in sorted(params.items())]
    width = max(len(name) for name, _ in rows)
    lines = [f"  {name:{width}}  {size:>12,}" for name, size in rows]
    return "\n".join([f"parameters: {total:,}", *lines])


def parameter_file(params) -> str:
    """Every parameter with shape, dtype and statistics."""
    return parameter_overview.get_parameter_overview(params, include_stats="global", max_lines=None)
