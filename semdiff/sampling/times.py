"""Times tuned for short chains, as they are kept: in WORKDIR/times.json, in model folders; asked for by
config.sample.spacing=tuned.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from semdiff.config import ConfigError, Experiment, Sample
from semdiff.machine import logs, parallel

FILE = "times.json"


@dataclass(frozen=True)
class Entry:
    """Tuned times of one sampler for one number of steps."""

    sampler: str
    order: int
    steps: int
    guidance: float
    weights: str
    times: list[int]  # as config.sample.times has them: without the 0 at their end
    error: float  # root mean square distance to the ends of the long chain, images in [-1, 1]

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
