"""Images to make, one by one, and how they are made in batches.

An image is a function of (weights, settings, its layout, seed, copy number) alone: its key is made from the layout's
contents, so neither the batch nor the number of devices nor the file's name changes it.
"""

import hashlib
from collections.abc import Iterable, Iterator
from copy import copy as shallow_copy
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

from semdiff import draw, inputs
from semdiff.config import ConfigError, Data, Sample
from semdiff.data import augment
from semdiff.data.source import Source
from semdiff.data.text import Vocabulary, captions_of
from semdiff.diffusion.joint import ByHalf
from semdiff.machine import logs, parallel
from semdiff.methods.autoencoding import Autoencoding
from semdiff.methods.given import Condition, Several
from semdiff.methods.method import Method
from semdiff.methods.upscaling import SMALL, WORDS, SmallGiven, text_of
from semdiff.sampling import chains


@dataclass(frozen=True)
class Task:
    """One image to make: what is given for it, how to cut the result, and where it comes from."""

    name: str
    copy: int
    given: Condition  # of one example, its maps padded
    layout: np.ndarray | None  # [H, W] int32, the example's own, where it has one
    size: tuple[int, int]  # of the image
    canvas: tuple[int, int]  # what is generated, of which the image is cut
    key: jax.Array
    caption: str = ""  # the first of the example's
    known: ByHalf | None = None  # what is held: pixels [H, W, 3] uint8 and ids [H, W], padded
    free: ByHalf | None = None  # [H, W] bool, padded: where to generate

    @property
    def contents(self) -> str:
        """A hash of all that goes in."""
        held = (
            a for state in (self.known, self.free) if state is not None for a in (state.image, state.layout)
        )
        return digest_of(*ordered(self.given), *held).hexdigest()[:16]

    @property
    def shape(self) -> tuple:
        """Tasks of one shape can be of one batch."""
        held = jax.tree.structure((self.known, self.free))
        return self.canvas, held, *(a.shape for a in ordered(self.given) if a is not None)


def ordered(condition: Condition) -> Iterator[np.ndarray | None]:
    """The arrays of a condition, in the order in which it has them: image keys are made from them."""
    for value in condition.values():
        if isinstance(value, dict):
            yield from ordered(value)
        else:
            yield value


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
            kind = np.float32 if np.issubdtype(array.dtype, np.floating) else np.int32
            digest.update(repr(array.shape).encode() + np.ascontiguousarray(array, kind).tobytes())
    return digest


def tasks_of(method: Method, example: dict, c: Sample, size: tuple[int, int] | None = None) -> Iterator[Task]:
    """The images to make of one example: at `size`, else at that of its layout."""
    if size is not None and "layout" in example:
        kept = {k: v for k, v in example.items() if k != "image" or k in method.reads}
        example = augment.squash(kept, size)
    layout = np.asarray(example["layout"], np.int32) if "layout" in example else None
    if size is None:
        if layout is None:
            raise ConfigError(
                f"{example['name']} has no layout to take its size from: set config.sample.size"
            )
        size = layout.shape
    given, multiple = method.given.read(example), method.network.size_multiple
    for copy in range(c.per_layout):
        yield Task(
            name=example["name"],
            copy=copy,
            given=method.given.pad(given, multiple),
            layout=layout,
            size=(size[0], size[1]),
            canvas=canvas_of(size, multiple),
            key=image_key(c.seed, copy, *ordered(given)),
            caption=next(iter(captions_of(example)), ""),
        )


def canvas_of(size: tuple[int, int], multiple: int) -> tuple[int, int]:
    """The least multiples that the size fits into."""
    height, width = size
    return height + -height % multiple, width + -width % multiple


def unconditional(method: Method, name: str, size: tuple[int, int], seed: int, copy: int, *contents) -> Task:
    """A task for which nothing is given. contents: what its key is made from."""
    canvas = canvas_of(size, method.network.size_multiple)
    null = method.given.null(method.given.empty(canvas))
    given = jax.tree.map(lambda a: np.asarray(a)[0], null)
    return Task(name, copy, given, None, size, canvas, image_key(seed, copy, *contents))


def held(
    task: Task,
    method: Method,
    *,
    image: np.ndarray | None = None,
    layout: np.ndarray | None = None,
    free_image: np.ndarray | None = None,
    free_layout: np.ndarray | None = None,
) -> Task:
    """The task with pixels and ids held but where they are free; ids that are no class are free.

    A half of which nothing is free has no mask where the network knows what to do with it.
    """
    multiple = method.network.size_multiple

    def mask(given, free):
        return None if given is None else np.zeros(given.shape[:2], bool) if free is None else free

    free_image, free_layout = mask(image, free_image), mask(layout, free_layout)
    if layout is not None and method.process.layout is not None:
        free_layout = free_layout | (layout < 0) | (layout >= method.process.layout.num_classes)
        layout = np.where(free_layout, 0, layout).astype(np.int32)
    if method.network.two_clocks:
        free_image, free_layout = (
            None if mask is None or not mask.any() else mask for mask in (free_image, free_layout)
        )
    known, free = (
        ByHalf(*(augment.padded(half, multiple) for half in halves))
        for halves in ((image, layout), (free_image, free_layout))
    )
    return replace(task, known=known, free=free)


def batched(tasks: Iterable[Task], batch_size: int) -> Iterator[list[Task]]:
    """Batches of equal shape, in order of completion; the rest at the end."""
    waiting: dict[tuple, list[Task]] = {}
    for task in tasks:
        bucket = waiting.setdefault(task.shape, [])
        bucket.append(task)
        if len(bucket) == batch_size:
            yield waiting.pop(task.shape)
    yield from waiting.values()


class Runner:
    """Runs batches of tasks: over all local devices, each batch filled up to one compiled size."""

    def __init__(self, method: Method, c: Sample, resample: int = 1):
        heartbeat = logs.Heartbeat(chains.num_steps(c), active=jax.process_index() == 0)
        self.generate = chains.build_generate(method, replace(c, guidance=1.0), heartbeat)
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

    def __call__(self, params, tasks: list[Task]) -> list[ByHalf]:
        """Images and layouts, cut to their sizes; of weights that are `placed`."""
        filled = tasks + [tasks[-1]] * (self.batch_size - len(tasks))
        stacked = lambda name: self._stacked([getattr(t, name) for t in filled])  # noqa: E731
        weight = None if self.guidance == 1 else float(self.guidance)  # none: a program without a null pass
        made = self.generate(
            params,
            stacked("given"),
            self._put(jnp.stack([t.key for t in filled])),
            tasks[0].canvas,
            stacked("known"),
            stacked("free"),
            weight,
            resample=self.resample,
        )
        made = jax.tree.map(np.asarray, made)
        return [
            jax.tree.map(lambda a, i=i, t=t: a[i, : t.size[0], : t.size[1]], made)
            for i, t in enumerate(tasks)
        ]

    def _stacked(self, trees: list):
        """Trees of arrays as one; nothing where they are None."""
        return jax.tree.map(lambda *arrays: self._put(np.stack(arrays)), *trees)

    def _put(self, array):
        return jax.device_put(array, self.sharding) if self.sharding else array


class Enlarger:
    """Runs a second stage over what a first one has made: pairs in, larger pairs out."""

    def __init__(
        self,
        name: str,
        method: Method,
        params,
        c: Sample,
        size: tuple[int, int],
        language: inputs.Language | None,
        small_noise: float,
    ):
        """name: of the second stage's weights; language: what it reads."""
        assert isinstance(method.given, Several)
        words, small = text_of(method.given), method.given.parts[SMALL]
        assert isinstance(small, SmallGiven)
        self.words, self.small, self.multiple = words, small, method.network.size_multiple
        self.run, self.size, self.language, self.small_noise = Runner(method, c), size, language, small_noise
        self.name, self.chain = name, f"{chains.num_steps(c)} steps of {c.sampler}, to {size[0]} x {size[1]}"
        self.params = self.run.placed(params)

    def __call__(self, tasks: list[Task], made: list[ByHalf]) -> list[ByHalf]:
        todo, count = [self.task(*pair) for pair in zip(tasks, made, strict=True)], self.run.batch_size
        batches = (todo[i : i + count] for i in range(0, len(todo), count))
        return [state for batch in batches for state in self.run(self.params, batch)]

    def task(self, task: Task, made: ByHalf) -> Task:
        """The same image once more, larger."""
        noise_key, key = jax.random.split(jax.random.fold_in(task.key, 1))
        small = self.small.pad(self.small.made_small(made, noise_key, self.small_noise), self.multiple)
        said = task.given
        if isinstance(self.language, Vocabulary):  # it may know other words than the first stage
            said = self.words.read({"text": self.language.encode(task.caption, self.words.length)})
        given, canvas = {WORDS: said, SMALL: small}, canvas_of(self.size, self.multiple)
        return Task(task.name, task.copy, given, None, self.size, canvas, key, task.caption)


COPIES = 3  # of each layout in a grid


class Grid:
    """A picture: layout | real | generated x 3, for examples from all over a source. Compiled at the first call.

    A layout that is generated with its image stands before it.

    The processes of a run share the images, and all have the picture.
    """

    def __init__(
        self, method: Method, source: Source, c: Sample, data: Data, rows: int, run: Runner | None = None
    ):
        c = replace(c, per_layout=COPIES)
        self.run, self.palette = run or Runner(method, c), source.info.palette
        self.shown = 1 + (method.process.layout is not None)
        self.examples = [augment.squash(source[i], data.size) for i in inputs.spread(source, rows)]
        self.tasks = [list(tasks_of(method, example, c)) for example in self.examples]

    def __call__(self, params) -> np.ndarray:
        params, tasks = self.run.placed(params), [task for row in self.tasks for task in row]
        made = (self.run(params, batch) for batch in batched(parallel.share(tasks), self.run.batch_size))
        shown = [self._shown(state) for batch in made for state in batch]
        height, width = tasks[0].size
        mine = np.array(shown, np.uint8).reshape(len(shown), self.shown, height, width, 3)
        cells = iter(parallel.joined(mine, len(tasks)))
        rows = [
            [draw.colourise(e["layout"], self.palette), e["image"], *(c for _ in row for c in next(cells))]
            for e, row in zip(self.examples, self.tasks)
        ]
        headers = ["layout", "real", *["generated"] * (len(rows[0]) - 2)]
        return draw.grid(rows, headers=headers, scale=max(1, 128 // rows[0][0].shape[1]))

    def _shown(self, state: ByHalf) -> list[np.ndarray]:
        layout = [] if state.layout is None else [draw.colourise(state.layout, self.palette)]
        return [*layout, state.image]


class Reconstructions:
    """A picture: real | as an autoencoder gives it back | the difference, for examples from all over a source."""

    def __init__(self, method: Autoencoding, source: Source, data: Data, rows: int):
        self.images = [augment.squash(source[i], data.size)["image"] for i in inputs.spread(source, rows)]
        self.again = jax.jit(lambda params, image: method.again(params, image[None])[0])

    def __call__(self, params) -> np.ndarray:
        again = [np.asarray(self.again(params, image)) for image in self.images]
        apart = [np.abs(a.astype(int) - b.astype(int)).clip(0, 127) * 2 for a, b in zip(self.images, again)]
        rows = [[a, b, d.astype(np.uint8)] for a, b, d in zip(self.images, again, apart)]
        headers = ["real", "again", "difference x 2"]
        return draw.grid(rows, headers=headers, scale=max(1, 128 // rows[0][0].shape[1]))
