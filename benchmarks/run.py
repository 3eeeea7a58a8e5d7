"""Throughput, compile time and memory of training and sampling: one command, one table, and JSON.

    python benchmarks/run.py [--presets demo,camvid,k12,k183] [--json out.json]

Every figure is the fastest of a few repetitions. Compare figures of one run: machines drift.
"""

import argparse
import importlib.util
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np

from semdiff import parallel, sample, train
from semdiff.config import Experiment, parse
from semdiff.data import pipeline
from semdiff.data.scenes import Scenes

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Preset:
    """What is timed: a configuration of configs/, some keys changed, and how many classes the data have."""

    name: str
    config: str
    classes: int
    instances: bool = False
    changes: Callable[[Experiment], Experiment] = lambda c: c


def at_64_px(c: Experiment) -> Experiment:
    return replace(c, data=replace(c.data, size=(64, 64)), train=replace(c.train, batch_size=4))


def on_a_gpu(c: Experiment) -> Experiment:
    return replace(c, train=replace(c.train, batch_size=8), sample=replace(c.sample, steps=25, batch_size=8))


PRESETS = {
    p.name: p
    for p in (
        Preset("demo", "scenes.py", 16, True),
        Preset("camvid", "camvid.py", 12),
        Preset("k12", "scenes.py", 12, changes=at_64_px),
        Preset("k183", "scenes.py", 183, changes=at_64_px),
        Preset("ade20k", "ade20k.py", 151, changes=on_a_gpu),
    )
}


@dataclass(frozen=True)
class Data:
    """What `build_trainer` asks of a data set."""

    num_classes: int
    has_instances: bool


def load(preset: Preset) -> Experiment:
    spec = importlib.util.spec_from_file_location("config", ROOT / "configs" / preset.config)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return preset.changes(parse(module.get_config()))


def random_batch(config: Experiment, preset: Preset) -> dict:
    rng = np.random.default_rng(0)
    shape = (config.train.batch_size, *config.data.size)
    batch = {
        "image": rng.integers(0, 256, (*shape, 3), dtype=np.uint8),
        "layout": rng.integers(0, preset.classes, shape).astype(np.int32),
        "slot": np.arange(shape[0], dtype=np.int32),
    }
    if preset.instances:
        batch["edges"] = rng.integers(0, 2, shape).astype(np.uint8)
    return batch


def seconds(function: Callable, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - began)
    return min(times)


def time_training(preset: Preset, repeats: int) -> tuple[dict, Callable]:
    """Step time, compile time, memory; and the compiled step with its state, to go on with."""
    config = load(preset)
    trainer = train.build_trainer(config, Data(preset.classes, preset.instances))
    strategy = parallel.build(config.train)
    state = strategy.create_state(trainer.init, jax.random.key(0))
    batch = strategy.place_batch(random_batch(config, preset))
    key = jax.random.key(1)
    began = time.perf_counter()
    step, memory = strategy.compile(trainer.step, state, batch, key)
    compiled = time.perf_counter() - began
    holder = [state]

    def once(batch=batch):
        holder[0], metrics = step(holder[0], batch, key)
        return metrics

    once()
    fastest = seconds(once, repeats)
    figures = {
        "parameters": sum(a.size for a in jax.tree.leaves(holder[0].params)),
        "compile_s": compiled,
        "step_ms": 1000 * fastest,
        "train_images_per_s": config.train.batch_size / fastest,
        "step_memory_mib": memory.temp_size_in_bytes / 2**20 if memory else None,
    }
    return figures, lambda: (config, trainer, strategy, holder[0], once)


def time_sampling(preset: Preset, repeats: int, cache: bool) -> dict:
    config = load(preset)
    trainer = train.build_trainer(config, Data(preset.classes, preset.instances))
    params = jax.jit(lambda k: trainer.init(k).params)(jax.random.key(0))
    c = replace(config.sample, cache_modulation=cache)
    generate = sample.build_generate(trainer.method, c)
    batch = random_batch(replace(config, train=replace(config.train, batch_size=c.batch_size)), preset)
    condition = {"layout": batch["layout"], "edges": batch.get("edges")}
    keys = jax.random.split(jax.random.key(0), c.batch_size)
    began = time.perf_counter()
    jax.block_until_ready(generate(params, condition, keys))
    first = time.perf_counter() - began
    fastest = seconds(lambda: generate(params, condition, keys), repeats)
    name = "cached" if cache else "plain"
    return {
        f"sample_{name}_images_per_s": c.batch_size / fastest,
        f"sample_{name}_compile_s": first - fastest,
    }


def time_loop(preset: Preset, going, steps: int) -> dict:
    """The loop with real batches against the bare step on one batch, in turn: what data and dispatch cost."""
    config, _, strategy, _, once = going()
    source = Scenes(size=config.data.size, length=256)
    options = dict(
        batch_size=config.train.batch_size,
        size=config.data.size,
        max_scale=1.0,
        flip=True,
        seed=0,
        cache=True,
    )
    batches = pipeline.train_iterator(source, **options)
    for _ in range(256 // config.train.batch_size + 1):  # the cache is full after one epoch
        next(batches)

    def loop():
        for _ in range(steps):
            metrics = once(strategy.place_batch(next(batches)))
        return metrics

    def bare():
        for _ in range(steps):
            metrics = once()
        return metrics

    ratios = [seconds(loop, 1) / seconds(bare, 1) for _ in range(5)]
    batches.close()
    return {"loop_overhead_percent": 100 * (float(np.median(ratios)) - 1)}


def measure(preset: Preset, repeats: int) -> dict:
    figures, going = time_training(preset, repeats)
    if preset.name == "demo":
        figures |= time_loop(preset, going, steps=5)
    if preset.name not in ("k12", "k183"):
        figures |= time_sampling(preset, max(1, repeats // 3), cache=False)
        figures |= time_sampling(preset, max(1, repeats // 3), cache=True)
    return figures


def table(results: dict[str, dict]) -> str:
    names = list(dict.fromkeys(key for row in results.values() for key in row))
    lines = ["| figure | " + " | ".join(results) + " |", "|---|" + "---:|" * len(results)]
    for name in names:
        cells = [row.get(name) for row in results.values()]
        lines.append(f"| {name} | " + " | ".join("" if c is None else f"{c:,.4g}" for c in cells) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--presets", default="demo,camvid,k12,k183", help=f"of {', '.join(PRESETS)}")
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--json", help="also write the figures here")
    arguments = parser.parse_args()
    device = jax.devices()[0]
    print(f"{jax.device_count()} x {device.device_kind}, jax {jax.__version__}", flush=True)
    results = {}
    for name in arguments.presets.split(","):
        results[name] = measure(PRESETS[name], arguments.repeats)
        print(f"{name}: {json.dumps(results[name])}", flush=True)
    print(table(results))
    if {"k12", "k183"} <= results.keys():
        print(f"step time at K = 183 / K = 12: {results['k183']['step_ms'] / results['k12']['step_ms']:.3f}")
    if arguments.json:
        Path(arguments.json).write_text(
            json.dumps({"device": device.device_kind, "presets": results}, indent=1)
        )


if __name__ == "__main__":
    main()
