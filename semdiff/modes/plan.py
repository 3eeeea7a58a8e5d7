"""--mode=plan: what a training step and a sampling chain take on a machine that need not be there.

Programs are compiled for it and read, not run: memory and operations are the compiler's, a step's time is an estimate.
"""

import collections
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from semdiff import inputs
from semdiff.config import Autoencoding as Settings
from semdiff.config import ConfigError, ControlUNet, Experiment, JointUNet
from semdiff.data.classes import generated_classes
from semdiff.data.source import Info
from semdiff.machine import logs, parallel
from semdiff.machine.paths import prepare_workdir, write_json
from semdiff.machine.targets import GIB, HERE, Target, leave_devices, target_of
from semdiff.methods import build
from semdiff.methods.autoencoding import Autoencoding
from semdiff.methods.method import Method
from semdiff.methods.upscaling import text_of
from semdiff.models.target import traced_for
from semdiff.sampling import chains
from semdiff.training.trainer import Trainer

WORDS = 1000  # of a vocabulary that nobody has counted yet
TOO_LARGE = re.compile("RESOURCE_EXHAUSTED|out of memory", re.IGNORECASE)
USED = re.compile(r"Used ([\d.]+)([GM]) of [\d.]+[GM] hbm")
SHAPE = re.compile(r"(pred|[a-z]\d+|bf16)\[([\d,]*)\]")
COLLECTIVE = re.compile(
    r"= (\S.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
)


@dataclass(frozen=True)
class Program:
    """What a compiler says of a program, per device. needed_gib: as far as it says, where the program does not fit.

    tracing, compiling: seconds.
    """

    tracing: float
    compiling: float
    fits: bool
    arguments_gib: float = 0.0
    temporaries_gib: float = 0.0
    needed_gib: float = 0.0
    tflop: float = 0.0
    moved_gib: float = 0.0
    collectives: dict[str, tuple[int, float]] | None = None  # name -> (how many, GiB)


def before(target: str):
    """To be called before jax begins: planning for another machine takes none of this one's devices."""
    if target != HERE:
        target_of(target)
        leave_devices()


def plan(config: Experiment, workdir: Path) -> Path:
    """Compiles the step and the chain; where the step does not fit, tries what makes it fit. Writes WORKDIR/plan.json."""
    workdir = prepare_workdir(workdir)
    target = None if config.plan.target == HERE else target_of(config.plan.target)
    info = classes_of(config)
    where = str(target) if target else f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    logs.say(f"planning for {where}: {info.name}, {info.num_classes} classes, at {config.data.size}")
    step = compiled_step(config, info, target)
    remedy: list[str] = []
    if not step.fits and config.plan.remedies:
        for keys, changed in remedies(config, target):
            logs.say(f"does not fit; trying {', '.join(keys)}")
            tried = compiled_step(changed, info, target)
            if tried.fits:
                config, step, remedy = changed, tried, keys
                break
    facts = {"target": where, "batch_size": config.train.batch_size, "remedy": remedy, "step": asdict(step)}
    say_step(config, step, remedy, target)
    if config.plan.sampling and not isinstance(config.model, Settings):
        chain = compiled_chain(config, info, target)
        facts["chain"] = asdict(chain)
        say_program(f"chain of {chain_steps(config)} steps, {config.sample.batch_size} images", chain)
    write_json(workdir / "plan.json", facts)
    logs.say(f"plan:      {workdir / 'plan.json'}")
    return workdir / "plan.json"


def classes_of(config: Experiment) -> Info:
    """Those of the data set, which need not be there."""
    if (info := inputs.classes_of(config.data)) is not None:
        return info
    if config.data.root:
        return inputs.training_source(config.data, config.seed).info
    if config.data.num_classes:
        return Info(
            f"a folder of {config.data.num_classes} classes", generated_classes(config.data.num_classes)
        )
    raise ConfigError(
        "a folder's classes are not known without it: give config.data.root, or config.data.num_classes (11, for example)"
    )


def method_of(config: Experiment, info: Info) -> Method | Autoencoding:
    """With some class rates where they would be measured: they change no program."""
    measured = np.linspace(0.5, 100, info.num_classes)
    rates = measured if inputs.measures_rates(config) else inputs.named_rates(config, info)
    return build.build(config, info, rates, 0 if config.data.prompts else WORDS)


def compiled_step(config: Experiment, info: Info, target: Target | None) -> Program:
    trainer = Trainer.build(config, method_of(config, info))
    devices = target.devices() if target else None
    strategy = parallel.Mesh(config.train.fsdp, devices)
    count = strategy.mesh.size
    if config.train.batch_size % (count * config.train.accumulate):
        raise ConfigError(
            f"config.train.batch_size is {config.train.batch_size}; it must be a multiple of devices x accumulate = "
            f"{count} x {config.train.accumulate}"
        )
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = strategy.saved_shapes(trainer.init, key)
    batch = {name: at(shape, strategy.split) for name, shape in batch_shapes(config, trainer.method).items()}
    lower = lambda: strategy.lower(trainer.step, state, batch, at(key, strategy.replicated))  # noqa: E731
    return read(lower, target)


def compiled_chain(config: Experiment, info: Info, target: Target | None) -> Program:
    """One chain on one device, as `sample` runs it."""
    method = method_of(config, info)
    assert isinstance(method, Method)
    device = target.devices()[0] if target else jax.devices()[0]
    here = jax.sharding.SingleDeviceSharding(device)
    placed = lambda tree: jax.tree.map(lambda a: at(a, here), tree)  # noqa: E731
    size, count = config.data.size, config.sample.batch_size
    c = replace(config.sample, spacing="even" if config.sample.spacing == "tuned" else config.sample.spacing)
    steps = chain_steps(config)
    generate: Any = chains.build_generate(method, replace(c, steps=steps, times=c.times[:steps]))
    params = jax.eval_shape(lambda key: method.init(key, size), jax.random.key(0))
    given = jax.eval_shape(lambda: method.given.empty(size))
    given = jax.tree.map(lambda a: jax.ShapeDtypeStruct((count, *a.shape[1:]), a.dtype), given)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), count))
    return read(lambda: generate.lower(placed(params), placed(given), placed(keys), size), target)


def chain_steps(config: Experiment) -> int:
    """Of one program: a longer chain is run in parts."""
    return min(chains.num_steps(config.sample), chains.LONG_CHAIN)


def batch_shapes(config: Experiment, method: Method | Autoencoding) -> dict[str, jax.ShapeDtypeStruct]:
    count, size = config.train.batch_size, config.data.size
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        "image": ((count, *size, 3), np.uint8),
        "layout": ((count, *size), np.int32),
        "slot": ((count,), np.int32),
    }
    if "edges" in method.reads:
        shapes["edges"] = ((count, *size), np.uint8)
    if "text" in method.reads:
        assert isinstance(method, Method)
        text = jax.eval_shape(lambda: text_of(method.given).empty(size))["text"]
        shapes["text"] = ((count, *text.shape[1:]), text.dtype)
    if "state" in method.reads:
        assert isinstance(config.model, (ControlUNet, JointUNet))
        shapes["state"] = ((count, config.model.text_length, config.model.text_width), np.float16)
    return {name: jax.ShapeDtypeStruct(shape, dtype) for name, (shape, dtype) in shapes.items()}


def at(like, sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(like.shape, like.dtype, sharding=sharding)


def read(lower, target: Target | None) -> Program:
    """Traces, compiles and reads a program; one that is too large for the device is no error here."""
    began = time.monotonic()
    with traced_for(target.chip.platform if target else ""):
        lowered = lower()
    traced = time.monotonic()
    try:
        compiled = lowered.compile(compiler_options=target.options if target else None)
    except jax.errors.JaxRuntimeError as error:
        if not TOO_LARGE.search(str(error)):
            raise
        used = USED.search(str(error))
        needed = float(used[1]) / (1 if used[2] == "G" else 1024) if used else 0.0
        return Program(traced - began, time.monotonic() - traced, False, needed_gib=needed)
    compiling = time.monotonic() - traced
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    arguments, temporaries = (memory.argument_size_in_bytes / GIB, memory.temp_size_in_bytes / GIB)
    fresh = max(memory.output_size_in_bytes - memory.alias_size_in_bytes, 0) / GIB
    needed = arguments + temporaries + fresh
    return Program(
        tracing=traced - began,
        compiling=compiling,
        fits=target is None or needed <= target.chip.memory_gib,
        arguments_gib=arguments,
        temporaries_gib=temporaries,
        needed_gib=needed,
        tflop=cost.get("flops", 0.0) / 1e12,
        moved_gib=cost.get("bytes accessed", 0.0) / GIB,
        collectives=collectives_of(compiled.as_text()),
    )


def collectives_of(text: str) -> dict[str, tuple[int, float]]:
    """Of a compiled program: how many of each kind, and the GiB that they give."""
    counts: collections.Counter = collections.Counter()
    sizes: collections.Counter = collections.Counter()
    for shapes, kind in COLLECTIVE.findall(text):
        counts[kind] += 1
        for dtype, dims in SHAPE.findall(shapes):
            bits = 8 if dtype == "pred" else int(re.sub(r"\D", "", dtype))
            sizes[kind] += np.prod([int(d) for d in dims.split(",") if d], dtype=float) * bits / 8
    return {kind: (counts[kind], float(sizes[kind]) / GIB) for kind in sorted(counts)}


def remedies(config: Experiment, target: Target | None) -> Iterator[tuple[list[str], Experiment]]:
    """What makes a step smaller, from what costs least, each on top of those before: (keys, the configuration with them)."""
    count = target.count if target else jax.device_count()
    changed: dict[str, Any] = {}

    def whole() -> tuple[list[str], Experiment]:
        train = replace(config.train, **{key: value for key, value in changed.items() if key != "remat"})
        own: Any = config.model
        model = replace(own, remat=True) if "remat" in changed else own
        parts = {key: "model" if key == "remat" else "train" for key in changed}
        keys = [f"config.{parts[key]}.{key}={value}" for key, value in changed.items()]
        return keys, replace(config, train=train, model=model)

    batch, accumulate = config.train.batch_size, config.train.accumulate
    while batch % (count * accumulate * 2) == 0:
        accumulate *= 2
        changed["accumulate"] = accumulate
        yield whole()
    if not getattr(config.model, "remat", True):
        changed["remat"] = True
        yield whole()
    if config.train.fsdp < count:
        changed["fsdp"] = count
        yield whole()
    changed["accumulate"] = 1
    while batch % (2 * count) == 0:
        batch //= 2
        changed["batch_size"] = batch
        yield whole()


def say_step(config: Experiment, step: Program, remedy: list[str], target: Target | None):
    say_program(f"step, batch {config.train.batch_size}", step)
    if remedy:
        logs.say(f"fits with  {' '.join('--' + key for key in remedy)}")
    elif not step.fits:
        logs.say("does not fit, whatever was tried: take more devices or a smaller network")
    if target is None or not step.fits or not step.tflop:
        return
    chip, sent = target.chip, sum(size for _, size in (step.collectives or {}).values())
    times = {
        "products": step.tflop / chip.tflops,
        "memory": step.moved_gib * GIB / chip.gb_per_s / 1e9,
        "links": sent * GIB / chip.link_gb_per_s / 1e9,
    }
    bound = max(times, key=lambda name: times[name])
    rate, whole = config.train.batch_size / times[bound], config.train.steps * times[bound]
    each = ", ".join(f"{name} {1000 * seconds:.3g} ms" for name, seconds in times.items())
    logs.say(
        f"estimate:  at least {1000 * times[bound]:.3g} ms a step ({each}), at most {rate:,.3g} images/s, "
        f"{logs.duration(whole)} for {config.train.steps:,} steps; a real step takes longer"
    )


def say_program(what: str, program: Program):
    verdict = "fits" if program.fits else "does not fit"
    facts = [f"{program.needed_gib:.2f} GiB a device" if program.needed_gib else "memory not said"]
    if program.arguments_gib:
        facts += [f"{program.arguments_gib:.2f} of it held, {program.temporaries_gib:.2f} temporary"]
    if program.tflop:
        facts += [f"{program.tflop:.3g} TFLOP and {program.moved_gib:.3g} GiB moved a device"]
    for kind, (count, size) in (program.collectives or {}).items():
        facts += [f"{count} {kind} of {size:.3g} GiB"]
    logs.say(
        f"{what}: {verdict}; {'; '.join(facts)}; traced in {program.tracing:.0f} s, "
        f"compiled in {program.compiling:.0f} s"
    )
