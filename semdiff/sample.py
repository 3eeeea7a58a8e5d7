"""Sampling: one pure chain, and what people do with it: folders of layouts to images, grids, edits.

An image is a function of (weights, settings, its layout, seed, copy number) alone: its key is made from the layout's
contents, so neither the batch nor the number of devices nor the file's name changes it.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from copy import copy as shallow_copy
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from semdiff import draw, inputs, logs, parallel
from semdiff.config import ConfigError, Data, Experiment, Sample, as_dict, choose, fingerprint
from semdiff.data import augment
from semdiff.data.source import Info, Source
from semdiff.diffusion import guidance, joint, samplers, schedules
from semdiff.method import Method, to_pixels, to_unit

# Chains of more steps than this are run so many steps at a time, and tell how far they are. A program that would call back
# itself could not be kept in the compilation cache.
LONG_CHAIN = 100
SEGMENT = 50


@dataclass(frozen=True)
class Task:
    """One image to make: a padded condition, how to cut the result, and where it comes from."""

    name: str
    copy: int
    layout: np.ndarray  # [H, W] int32, padded
    edges: np.ndarray | None
    size: tuple[int, int]  # before padding
    key: jax.Array
    known: np.ndarray | None = None  # editing: the image [H, W, 3] uint8, padded
    free: np.ndarray | None = None  # editing: [H, W] bool, where to generate

    @property
    def contents(self) -> str:
        """A hash of all that goes in."""
        return digest_of(self.layout, self.edges, self.known, self.free).hexdigest()[:16]


def build_sampler(c: Sample) -> samplers.Sampler:
    """The sampler by its name, with what it alone can be told."""
    kind = choose(samplers.SAMPLERS, c.sampler, "config.sample.sampler")
    if c.eta and c.sampler != "ddim":
        raise ConfigError(
            f"config.sample.eta is {c.eta}, but only the ddim sampler has an eta, not {c.sampler}"
        )
    if c.order and c.sampler not in samplers.ORDERS:
        raise ConfigError(
            f"config.sample.order is {c.order}, but the {c.sampler} sampler has no choice of order; leave it at 0, or "
            f"choose one of {', '.join(samplers.ORDERS)}"
        )
    if c.order and c.order not in samplers.ORDERS[c.sampler]:
        raise ConfigError(
            f"config.sample.order is {c.order}; {c.sampler} has {', '.join(map(str, samplers.ORDERS[c.sampler]))}, or 0: "
            "its own"
        )
    settings = {"eta": c.eta} if c.sampler == "ddim" else {"order": c.order} if c.order else {}
    return kind(**settings)


def build_times(schedule: schedules.Schedule, c: Sample) -> np.ndarray:
    """The times of the chain: as listed, else as many steps so spaced."""
    choose((*schedules.SPACINGS, "tuned"), c.spacing, "config.sample.spacing")
    if c.times:
        return schedules.given_times(schedule, c.times)
    if c.spacing == "tuned":
        raise ConfigError(
            "config.sample.spacing is tuned, but no times were tuned for these weights: --mode=tune_times does it"
        )
    return schedules.spaced_times(schedule, c.steps, c.spacing)


@dataclass(frozen=True)
class Chain:
    """A method's chain as `c` wants it, in parts that are compiled as one or apart."""

    method: Method
    c: Sample
    sampler: samplers.Joint

    @classmethod
    def build(cls, method: Method, c: Sample) -> "Chain":
        choose(("mean", "all"), c.guidance_channels, "config.sample.guidance_channels")
        choose(("fresh", "coherent"), c.layout_noise, "config.sample.layout_noise")
        if c.layout_noise == "coherent" and not method.given.changes:
            raise ConfigError(
                "config.sample.layout_noise is coherent, but config.layout.transition is none: layouts are not noised"
            )
        return cls(method, c, samplers.Joint(build_corrected(c)))

    def start(self, condition, keys):
        """(state, the sampler's memory) at the first time."""
        shape = (*condition["layout"].shape, self.method.image_channels)
        like = joint.State(jnp.zeros(shape))
        state = joint.sample_prior(self.process, like, samplers.fold_in(keys, 0))
        return state, self.sampler.init(state)

    @property
    def process(self) -> joint.Process:
        return joint.Process(self.method.process)

    def advance(
        self,
        params,
        condition,
        keys,
        carry,
        times,
        first,
        last,
        *,
        known=None,
        free=None,
        weight=None,
        resample=1,
    ):
        """Steps first .. last - 1 over the times."""
        clamp = None
        if known is not None:
            known, free = joint.State(to_unit(known)), free[..., None]

            def clamp(state, s, step_keys):
                noised = joint.q_sample(self.process, known, s, step_keys)
                return joint.State(jnp.where(free, state.image, noised.image))

        chain = (self.process, self.sampler, times, carry, samplers.fold_in(keys, 1), first, last)
        denoise_fn = self.denoise_fn(params, condition, keys, weight)
        return samplers.segment(denoise_fn, *chain, clamp=clamp, resample=resample)

    def denoise_fn(self, params, condition, keys, weight=None) -> samplers.DenoiseFn:
        c = self.c
        guide = guidance.Guidance(
            c.guidance if weight is None else weight, c.guidance_channels, c.guidance_interval
        )
        kept_keys = samplers.fold_in(keys, 2) if c.layout_noise == "coherent" else None
        return self.method.denoise_fn(params, condition, guide, kept_keys, c.cache_modulation)


def build_generate(method: Method, c: Sample, progress: Callable[[int], None] | None = None) -> Callable:
    """generate(params, condition, keys, known=None, free=None, weight=None, resample=1) -> uint8 [B, H, W, 3]; compiled
    once a shape.

    With `known` and `free` the pixels outside `free` are held at `known` through the chain. weight: of guidance, as an
    argument of the program, in place of the one in `c`. A long chain is run in segments, with progress(steps done) after
    each; the images are the same.
    """
    chain, times = Chain.build(method, c), build_times(method.process.schedule, c)
    total = len(times) - 1

    def advance(params, condition, keys, carry, first, last, given, resample):
        return chain.advance(params, condition, keys, carry, times, first, last, **given, resample=resample)

    def generate(params, condition, keys, known=None, free=None, weight=None, resample=1):
        given = {"known": known, "free": free, "weight": weight}
        carry = chain.start(condition, keys)
        return to_pixels(advance(params, condition, keys, carry, 0, total, given, resample)[0].image)

    begin, go_on = jax.jit(chain.start), jax.jit(advance, static_argnames="resample")
    finish = jax.jit(to_pixels)

    def in_segments(params, condition, keys, known=None, free=None, weight=None, resample=1):
        given = {"known": known, "free": free, "weight": weight}
        carry = begin(condition, keys)
        places = jax.tree.map(lambda a: a.sharding, carry)  # at other ones it would be another program
        for first in range(0, total, SEGMENT):
            last, carry = min(first + SEGMENT, total), jax.device_put(carry, places)
            carry = go_on(params, condition, keys, carry, first, last, given, resample=resample)
            if progress is not None:
                jax.block_until_ready(carry)
                progress(last)
        return finish(carry[0].image)

    if total > LONG_CHAIN:
        return in_segments
    return jax.jit(generate, static_argnames="resample")


def build_corrected(c: Sample) -> samplers.Corrected:
    quantile = c.quantile if c.threshold == "dynamic" else None
    thresholds = {
        "none": None,
        "static": guidance.threshold,
        "dynamic": lambda x: guidance.threshold(x, quantile),
    }
    threshold = choose(thresholds, c.threshold, "config.sample.threshold")
    return samplers.Corrected(build_sampler(c), c.extrapolation, threshold)


def num_steps(c: Sample) -> int:
    return len(c.times) or c.steps


def passes(method: Method, c: Sample) -> int:
    """How often the network is asked for an image: at each step, and again where guidance asks for the null condition."""
    guide = guidance.Guidance(c.guidance, c.guidance_channels, c.guidance_interval)
    times = build_times(method.process.schedule, c)[:-1]
    if not guide.needs_null:
        return len(times)
    return len(times) + sum(bool(guide.active(jnp.asarray(t), method.process.num_steps)) for t in times)


def image_key(seed: int, copy: int, *arrays: np.ndarray | None):
    """A key from contents: equal layouts with equal seeds give equal images."""
    digest = digest_of(*arrays)
    key = jax.random.fold_in(jax.random.key(seed), copy)
    for word in np.frombuffer(digest.digest()[:8], np.uint32):
        key = jax.random.fold_in(key, word)
    return key


def digest_of(*arrays: np.ndarray | None):
    """SHA-256 of shapes and values."""
    digest = hashlib.sha256()
    for array in arrays:
        if array is not None:
            digest.update(repr(array.shape).encode() + np.ascontiguousarray(array, np.int32).tobytes())
    return digest


def padded(array: np.ndarray | None, multiple: int) -> np.ndarray | None:
    """Extended at the lower and right border by repetition, to multiples of what the network needs."""
    if array is None:
        return None
    after = [(0, -n % multiple) for n in array.shape[:2]]
    return np.pad(array, after + [(0, 0)] * (array.ndim - 2), mode="edge")


def tasks_of(method: Method, example: dict, c: Sample, size: tuple[int, int] | None = None) -> Iterator[Task]:
    """The images to make of one layout, an example with `instance` or, as batches have it, `edges`."""
    if size is not None:
        layout_only = {k: example[k] for k in ("layout", "instance", "name") if k in example}
        example = augment.squash(layout_only, size)
    layout = np.asarray(example["layout"], np.int32)
    edges = None
    if method.given.edges:
        edges = example["edges"] if "edges" in example else augment.edges(example["instance"])
    multiple = method.network.size_multiple
    for copy in range(c.per_layout):
        yield Task(
            name=example["name"],
            copy=copy,
            layout=padded(layout, multiple),
            edges=padded(edges, multiple),
            size=layout.shape,
            key=image_key(c.seed, copy, layout, edges),
        )


def batched(tasks: Iterable[Task], batch_size: int) -> Iterator[list[Task]]:
    """Batches of equal shape, in order of completion; the rest at the end."""
    waiting: dict[tuple, list[Task]] = {}
    for task in tasks:
        bucket = waiting.setdefault(task.layout.shape, [])
        bucket.append(task)
        if len(bucket) == batch_size:
            yield waiting.pop(task.layout.shape)
    yield from waiting.values()


class Runner:
    """Runs batches of tasks: over all local devices, each batch filled up to one compiled size."""

    def __init__(self, method: Method, c: Sample, resample: int = 1):
        heartbeat = logs.Heartbeat(num_steps(c), active=jax.process_index() == 0)
        self.generate = build_generate(method, replace(c, guidance=1.0), heartbeat)
        self.batch_size, self.resample, self.guidance = c.batch_size, resample, c.guidance
        devices = jax.local_devices()
        self.sharding = self.replicated = None
        if len(devices) > 1:
            self.batch_size += -c.batch_size % len(devices)
            mesh = jax.sharding.Mesh(np.array(devices), ("data",))
            self.sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
            self.replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

    def guided(self, weight: float) -> "Runner":
        """The same programs at another weight of guidance."""
        other = shallow_copy(self)
        other.guidance = weight
        return other

    def placed(self, params):
        """The weights on the devices, once for all the batches they are for."""
        return jax.device_put(params, self.replicated or jax.local_devices()[0])

    def __call__(self, params, tasks: list[Task]) -> list[np.ndarray]:
        """The images, cut to their sizes; of weights that are `placed`."""
        filled = tasks + [tasks[-1]] * (self.batch_size - len(tasks))
        stack = lambda name: self._place([getattr(t, name) for t in filled])  # noqa: E731
        condition = {"layout": stack("layout"), "edges": stack("edges")}
        keys = self._put(jnp.stack([t.key for t in filled]))
        weight = None if self.guidance == 1 else float(self.guidance)  # none: a program without a null pass
        images = self.generate(
            params, condition, keys, stack("known"), stack("free"), weight, resample=self.resample
        )
        return [image[: t.size[0], : t.size[1]] for t, image in zip(tasks, np.asarray(images))]

    def _place(self, arrays: list):
        return None if arrays[0] is None else self._put(np.stack(arrays))

    def _put(self, array):
        return jax.device_put(array, self.sharding) if self.sharding else array


COPIES = 3  # of each layout in a grid


class Grid:
    """A picture: layout | real | generated x 3, for layouts from all over a source. Compiled at the first call.

    The processes of a run share the images, and all have the picture.
    """

    def __init__(
        self, method: Method, source: Source, c: Sample, data: Data, rows: int, run: Runner | None = None
    ):
        c = replace(c, per_layout=COPIES)
        self.run, self.palette = run or Runner(method, c), source.info.palette
        self.examples = [augment.squash(source[i], data.size) for i in inputs.spread(source, rows)]
        self.tasks = [list(tasks_of(method, example, c)) for example in self.examples]

    def __call__(self, params) -> np.ndarray:
        params, tasks = self.run.placed(params), [task for row in self.tasks for task in row]
        mine = np.zeros((len(parallel.share(tasks)), *tasks[0].size, 3), np.uint8)
        made = (self.run(params, batch) for batch in batched(parallel.share(tasks), self.run.batch_size))
        for i, image in enumerate(image for batch in made for image in batch):
            mine[i] = image
        images = iter(parallel.joined(mine, len(tasks)))
        rows = [
            [draw.colourise(e["layout"], self.palette), e["image"], *(next(images) for _ in row)]
            for e, row in zip(self.examples, self.tasks)
        ]
        headers = ["layout", "real", *["generated"] * len(self.tasks[0])]
        return draw.grid(rows, headers=headers, scale=max(1, 128 // rows[0][0].shape[1]))


class Output:
    """A folder of results: images/, labels/, dataset.json and manifest.jsonl; what the manifest lists is done."""

    def __init__(self, folder: Path, settings: dict, info: Info):
        self.folder, self.settings = Path(folder), settings
        (self.folder / "images").mkdir(parents=True, exist_ok=True)
        several = jax.process_count() > 1
        self.manifest = self.folder / f"manifest{f'-{jax.process_index()}' if several else ''}.jsonl"
        self.done: dict[str, str] = {}
        for path in sorted(self.folder.glob("manifest*.jsonl")):
            self.done |= self._read(path)
        classes = [{"id": i, "name": c.name, "color": list(c.color)} for i, c in enumerate(info.classes)]
        about = {"name": f"generated from {info.name}", "num_classes": info.num_classes, "classes": classes}
        if info.void_id is not None:
            about["void_id"] = info.void_id
            about["ignore_id_map"] = {str(info.num_classes): info.void_id}  # pixels without a label
        if info.flip_pairs:
            about["flip_pairs"] = [list(pair) for pair in info.flip_pairs]
        if info.scored is not None:
            about["scored"] = list(info.scored)
        (self.folder / "dataset.json").write_text(json.dumps(about, indent=1))

    def _read(self, path: Path) -> dict[str, str]:
        """Image -> what it was made from; lines without their image are taken out, so that each image has one."""
        done, kept = {}, ""
        for line in path.read_text().splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:  # the torn last line of a killed run: its image is made again
                continue
            if entry["settings"] != self.settings:
                raise ConfigError(
                    f"{path} was written with other settings ({entry['settings']}; now {self.settings}). "
                    "Choose another config.sample.output, or remove that folder."
                )
            if (self.folder / entry["image"]).exists():
                done[entry["image"]] = entry["contents"]
                kept += line + "\n"
        if path == self.manifest:  # another process's file is its own to mend
            temporary = path.with_suffix(".tmp")
            temporary.write_text(kept)
            temporary.replace(path)
        return done

    @staticmethod
    def name_of(task: Task) -> str:
        return f"images/{task.name}_{task.copy}.png"

    def is_done(self, task: Task) -> bool:
        """Whether the image is there; an error if it was made from something else."""
        made_from = self.done.get(self.name_of(task), task.contents)
        if made_from != task.contents:
            raise ConfigError(
                f"{self.folder / self.name_of(task)} was made from another layout, image or mask of the same name. "
                "Choose another output folder, or remove that one."
            )
        return self.name_of(task) in self.done

    def write(self, task: Task, image: np.ndarray, layout_file: str):
        name = self.name_of(task)
        layout = task.layout[: task.size[0], : task.size[1]]
        draw.save_png(self.folder / name.replace("images/", "labels/", 1), layout.astype(label_dtype(layout)))
        draw.save_png(self.folder / name, image)
        entry = {
            "image": name,
            "layout": layout_file,
            "copy": task.copy,
            "contents": task.contents,
            "settings": self.settings,
        }
        with self.manifest.open("a") as file:
            file.write(json.dumps(entry) + "\n")


def label_dtype(layout: np.ndarray):
    return np.uint8 if layout.max() < 256 else np.uint16


def settings_of(config: Experiment, weights: str) -> dict:
    """What the manifest records of a run: all that an image depends on beside its layout."""
    c = config.sample
    return {
        "seed": c.seed,
        "sampler": c.sampler,
        "steps": num_steps(c),
        "guidance": c.guidance,
        "checkpoint": weights,
        "config": fingerprint(
            {
                "model": as_dict(config.model),
                "process": as_dict(config.process),
                "layout": as_dict(config.layout),
                "sample": {k: v for k, v in as_dict(c).items() if k not in NOT_IN_IMAGE},
            }
        ),
    }


# Keys of `Sample` that choose which images are made and where, not what they look like.
NOT_IN_IMAGE = (
    "batch_size",
    "per_layout",
    "layouts",
    "unlabelled",
    "limit",
    "output",
    "cache_modulation",
    "weights",
)


def sample(config: Experiment, method: Method, params, weights: str, info: Info, folder: Path) -> Path:
    """Layouts (a folder's, else the evaluation split's) -> images, N per layout."""
    c = config.sample
    if c.layouts:
        source = inputs.layouts_source(c.layouts, info, method.given.edges, c.unlabelled)
        size = folder_size(config)
    else:
        source, size = inputs.evaluation_source(config.data, config.seed), config.data.size
        inputs.check_same_classes(info, source.info, method.given.edges)
    output = Output(folder, settings_of(config, weights), info)
    mine = parallel.share(range(min(c.limit or len(source), len(source))))
    resized = Resized(size)
    tasks = (t for i in mine for t in tasks_of(method, resized.seen(source[i]), c, size))
    run = Runner(method, c)
    params = run.placed(params)
    total = len(mine) * c.per_layout
    logs.say(
        f"chains:  {num_steps(c)} steps of {c.sampler}, {passes(method, c)} passes of the network an image"
    )
    origin = c.layouts or config.data.eval_split
    run_tasks(lambda batch: run(params, batch), run.batch_size, tasks, total, output, origin)
    resized.report()
    logs.say(f"{total} images in {output.folder}")
    return output.folder


OWN_SIZES = (-1, -1)


def folder_size(config: Experiment) -> tuple[int, int] | None:
    """The size at which a folder of layouts is sampled; None: each at its own."""
    size = config.sample.size
    if size == OWN_SIZES:
        return None
    if size == (0, 0):
        return config.data.size
    if min(size) < 1:
        raise ConfigError(
            f"config.sample.size is {size}; expected (height, width), (0, 0) for config.data.size, or (-1, -1) for the "
            "layouts' own sizes"
        )
    return size


class Resized:
    """Says which layouts are not sampled at their own size: the first as it comes, their number at the end."""

    def __init__(self, size: tuple[int, int] | None):
        self.size, self.count = size, 0

    def seen(self, example: dict) -> dict:
        own = example["layout"].shape
        if self.size is not None and own != tuple(self.size):
            if not self.count:
                logs.say(
                    f"{example['name']} is {own[0]} x {own[1]}: layouts are resized to {self.size[0]} x {self.size[1]}. "
                    "config.sample.size sets another size, (-1, -1) keeps their own"
                )
            self.count += 1
        return example

    def report(self):
        if self.count:
            logs.say(f"{self.count} layouts were resized to {self.size[0]} x {self.size[1]}")


def run_tasks(
    run: Callable[[list[Task]], list[np.ndarray]],
    batch_size: int,
    tasks: Iterable[Task],
    total: int,
    output: Output,
    origin: str,
):
    """Make and write what is not there yet, batch by batch; `origin` is where the layouts come from."""
    skipped = made = 0

    def missing():
        nonlocal skipped
        for task in tasks:
            if output.is_done(task):
                skipped += 1
            else:
                yield task

    progress = logs.Progress(total, unit="image")
    for batch in batched(missing(), batch_size):
        for task, image in zip(batch, run(batch)):
            output.write(task, image, f"{origin}/{task.name}")
        made += len(batch)
        progress.report(skipped + made)
