"""Throughput, compile time, memory and arithmetic of training and sampling: one command, one table, and JSON.

    python benchmarks/run.py [--presets demo,camvid,peer,k12,k183] [--json out.json]

Every preset runs in a process of its own, so that its peak memory is its own. Every time is the fastest of a few
repetitions. Compare figures of one run: machines drift. For a comparison with the released PyTorch code see peer.py.
"""

import argparse
import importlib.util
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from semdiff.config import Experiment, Process
from semdiff.data import pipeline
from semdiff.data.scenes import Scenes
from semdiff.machine import parallel
from semdiff.methods import build
from semdiff.parser import parse
from semdiff.sampling import chains
from semdiff.training.trainer import Trainer, TrainState

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


def like_the_released_code(c: Experiment) -> Experiment:
    """The released networks' parts at a size for two cores: 6.7 million parameters."""
    model = replace(
        c.model,
        base=32,
        multipliers=(1, 2, 3),
        attention=(4,),
        spade_hidden=128,
        resblock_updown=True,
        groups=32,
    )
    c = replace(c, model=model, process=Process(), loss=replace(c.loss, weighting="uniform"))
    sampling = replace(c.sample, sampler="ancestral", steps=25, guidance=1.5, batch_size=8)
    return replace(
        c,
        data=replace(c.data, size=(48, 64), edges=False),
        train=replace(c.train, batch_size=4),
        sample=sampling,
    )


def on_a_gpu(c: Experiment) -> Experiment:
    return replace(c, train=replace(c.train, batch_size=8), sample=replace(c.sample, steps=25, batch_size=8))


PRESETS = {
    p.name: p
    for p in (
        Preset("demo", "scenes.py", 16, True),
        Preset("camvid", "camvid.py", 12),
        Preset("peer", "scenes.py", 12, changes=like_the_released_code),
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


@dataclass
class Training:
    """A compiled step and its state: `once` takes a step."""

    trainer: Trainer
    strategy: parallel.Mesh
    state: TrainState
    batch: dict
    initialise_s: float
    lower_s: float
    compile_s: float
    step: Callable
    memory_mib: float | None

    def once(self, batch: dict | None = None) -> dict:
        self.state, metrics = self.step(self.state, batch or self.batch, jax.random.key(1))
        return jax.block_until_ready(metrics)


def with_batch(preset: Preset, size: int) -> Preset:
    """The same work on batches of another size."""

    def changed(c: Experiment) -> Experiment:
        c = preset.changes(c)
        return replace(c, train=replace(c.train, batch_size=size), sample=replace(c.sample, batch_size=size))

    return replace(preset, changes=changed)


def training(preset: Preset) -> Training:
    config = load(preset)
    trainer = Trainer.build(config, build.build_method(config, Data(preset.classes, preset.instances)))
    strategy = parallel.Mesh(config.train.fsdp)
    began = time.perf_counter()
    state = jax.block_until_ready(strategy.create_state(trainer.init, jax.random.key(0)))
    batch = strategy.place_batch(random_batch(config, preset))
    made = time.perf_counter()
    lowered = strategy.lower(trainer.step, state, batch, jax.random.key(1))
    traced = time.perf_counter()
    step = lowered.compile()
    compiled = time.perf_counter()
    memory = step.memory_analysis()
    memory_mib = memory.temp_size_in_bytes / 2**20 if memory else None
    seconds = (made - began, traced - made, compiled - traced)
    return Training(trainer, strategy, state, batch, *seconds, step, memory_mib)


def sampling(preset: Preset, cache: bool | None = None) -> Callable:
    """A function that generates one batch; `cache`: of the modulation, where not the configuration's own."""
    config = load(preset)
    trainer = Trainer.build(config, build.build_method(config, Data(preset.classes, preset.instances)))
    params = jax.jit(lambda k: trainer.init(k).params)(jax.random.key(0))
    c = config.sample if cache is None else replace(config.sample, cache_condition=cache)
    generate = chains.build_generate(trainer.method, c)
    batch = random_batch(replace(config, train=replace(config.train, batch_size=c.batch_size)), preset)
    condition = {"layout": batch["layout"], "edges": batch.get("edges")}
    keys = jax.random.split(jax.random.key(0), c.batch_size)
    return lambda: generate(params, condition, keys, config.data.size)


def operations(run: Training) -> float:
    """Floating-point operations of one step as it is written, before the compiler has its way."""
    step = jax.jit(lambda s, b, k: run.trainer.step(s, b, k, parallel.Collective()))
    return step.lower(run.state, run.batch, jax.random.key(1)).cost_analysis()["flops"]


def matmul_peak(size: int = 2048) -> float:
    """Operations a second of the machine's best float32 matrix product."""
    a = jnp.ones((size, size))
    product = jax.jit(jnp.dot)
    jax.block_until_ready(product(a, a))
    return 2 * size**3 / seconds(lambda: product(a, a), 10)


def time_training(run: Training, repeats: int) -> dict:
    run.once()
    fastest = seconds(run.once, repeats)
    rate = operations(run) / fastest
    return {
        "parameters": sum(a.size for a in jax.tree.leaves(run.state.params)),
        "initialise_s": run.initialise_s,
        "lower_s": run.lower_s,
        "compile_s": run.compile_s,
        "step_ms": 1000 * fastest,
        "train_images_per_s": len(run.batch["slot"]) / fastest,
        "train_gflops_per_s": rate / 1e9,
        "percent_of_matmul_peak": 100 * rate / matmul_peak(),
        "step_memory_mib": run.memory_mib,
    }


def time_sampling(preset: Preset, repeats: int, cache: bool) -> dict:
    generate = sampling(preset, cache)
    began = time.perf_counter()
    jax.block_until_ready(generate())
    first = time.perf_counter() - began
    fastest = seconds(generate, repeats)
    name = "cached" if cache else "plain"
    return {
        f"sample_{name}_images_per_s": load(preset).sample.batch_size / fastest,
        f"sample_{name}_compile_s": first - fastest,
    }


def time_loop(preset: Preset, run: Training, steps: int) -> dict:
    """The loop with real batches against the bare step on one batch, in turn: what data and dispatch cost."""
    config = load(preset)
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
            metrics = run.once(run.strategy.place_batch(next(batches)))
        return metrics

    def bare():
        for _ in range(steps):
            metrics = run.once()
        return metrics

    ratios = [seconds(loop, 1) / seconds(bare, 1) for _ in range(5)]
    batches.close()
    return {"loop_overhead_percent": 100 * (float(np.median(ratios)) - 1)}


def measure(preset: Preset, repeats: int) -> dict:
    run = training(preset)
    figures = time_training(run, repeats)
    if preset.name == "demo":
        figures |= time_loop(preset, run, steps=5)
    if preset.name not in ("k12", "k183"):
        figures |= time_sampling(preset, max(1, repeats // 3), cache=False)
        figures |= time_sampling(preset, max(1, repeats // 3), cache=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return figures | {"process_peak_memory_mib": peak}


def table(results: dict[str, dict]) -> str:
    names = list(dict.fromkeys(key for row in results.values() for key in row))
    lines = ["| figure | " + " | ".join(results) + " |", "|---|" + "---:|" * len(results)]
    for name in names:
        cells = [row.get(name) for row in results.values()]
        lines.append(f"| {name} | " + " | ".join("" if c is None else f"{c:,.4g}" for c in cells) + " |")
    return "\n".join(lines)


def in_a_process_of_its_own(name: str, repeats: int) -> dict:
    command = [sys.executable, __file__, "--only", name, "--repeats", str(repeats)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--presets", default="demo,camvid,peer,k12,k183", help=f"of {', '.join(PRESETS)}")
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--json", help="also write the figures here")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        figures = measure(PRESETS[arguments.only], arguments.repeats)
        device = jax.devices()[0]
        print(json.dumps({"device": f"{jax.device_count()} x {device.device_kind}", "figures": figures}))
        return
    device, results = "", {}
    for name in arguments.presets.split(","):
        answer = in_a_process_of_its_own(name, arguments.repeats)
        if not device:
            device = answer["device"]
            print(f"{device}, jax {jax.__version__}", flush=True)
        results[name] = answer["figures"]
        print(f"{name}: {json.dumps(results[name])}", flush=True)
    print(table(results))
    if {"k12", "k183"} <= results.keys():
        print(f"step time at K = 183 / K = 12: {results['k183']['step_ms'] / results['k12']['step_ms']:.3f}")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({"device": device, "presets": results}, indent=1))


if __name__ == "__main__":
    main()
