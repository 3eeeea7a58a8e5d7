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

from semdiff import chains, draw, inputs, logs, parallel
from semdiff.config import Data, Sample
from semdiff.data import augment
from semdiff.data.source import Source
from semdiff.method import Method


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
