"""Batches of a source, as numpy arrays: endless and shuffled for training, once and whole else.

The order of training is a function of (seed, source) alone. Example g = 0, 1, 2, ... is the g-th of
the source shuffled, shuffled anew, and so on; its crop and flip come from a generator seeded with
(seed, g). Global batch b is the examples b B .. (b + 1) B - 1, and a host reads those with
g % hosts == host. So a run is resumed by its step alone, on any number of workers and hosts.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np
from absl import flags

from semdiff.data import augment
from semdiff.data.augment import Size
from semdiff.data.source import Example, Info, Source

Batch = dict[str, Any]

# What an example may have several of -> one of them in a batch.
SEVERAL = {"texts": "text", "states": "state"}

_THREADS = 4
_BATCHES_AHEAD = 4  # at least as many as threads, each of which makes a whole batch
_BATCHES_AHEAD_PER_WORKER = 2


def train_iterator(
    source: Source,
    *,
    batch_size: int,
    size: Size,
    max_scale: float,
    flip: bool,
    seed: int,
    start_step: int = 0,
    workers: int = 0,
    host: int = 0,
    hosts: int = 1,
    cache: bool = False,
    edges: bool = True,
) -> grain.DatasetIterator[Batch]:
    """This host's share of the global batches from `start_step` on; close() it in the end.

    "image" uint8 [b,H,W,3], "layout" int32 [b,H,W], "slot" int32 [b] (the place in the global
    batch) and, where the source has instances and `edges` is true, "edges" uint8 [b,H,W]; where it
    has latents, "latent" float32 [b,h,w,2C] in the place of the image; where it has texts or states,
    "text" int32 [b,L] or "state" [b,L,W], one of an example's drawn; where b is batch_size / hosts.
    Reading goes on in threads while a batch is used, or in `workers` processes:
    the program that starts them must be importable (`if __name__ == "__main__":`). `cache` keeps each
    example decoded once it was
    read, in every process of its own.
    """
    _check_counts(source, batch_size, host, hosts, start_step, workers)
    _check_augmentation(size, max_scale, seed)
    height, width = size
    prepare = _Prepare(
        source.info.flip_pairs, batch_size, (height, width), float(max_scale), flip, seed, edges
    )
    examples = grain.MapDataset.source(Cached(source) if cache else source)
    # Shuffling is seeded with (this seed + epoch): drawn from a hash, or seeds 0 and 1 would go
    # through the same orders, one epoch apart.
    order = int(np.random.SeedSequence(seed).generate_state(1)[0])
    examples = examples.shuffle(seed=order).repeat().map_with_index(prepare)
    # There is no remainder; but without drop_remainder grain divides the length (sys.maxsize) as a
    # float, and rounds it up past what a length may be.
    mine = examples[start_step * batch_size + host :: hosts]
    batches = mine.batch(batch_size // hosts, drop_remainder=True)
    if workers == 0:
        reading = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_BATCHES_AHEAD)
        return iter(batches.to_iter_dataset(reading))
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # worker processes are started with absl's flags
    reading = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    processes = grain.MultiprocessingOptions(
        num_workers=workers, per_worker_buffer_size=_BATCHES_AHEAD_PER_WORKER
    )
    return iter(batches.to_iter_dataset(reading).mp_prefetch(processes))


def eval_batches(
    source: Source,
    *,
    batch_size: int,
    size: Size,
    limit: int | None = None,
    edges: bool = True,
    host: int = 0,
    hosts: int = 1,
) -> Iterator[Batch]:
    """The first `limit` examples, or all, in order, squashed to `size`; of several hosts each has every n-th batch.

    Every batch is whole: the last one repeats its last example, where "valid" bool [B] is False.
    "index" int32 [B] and "name" (a list) say which example each one is; a source of layouts alone
    gives no "image".
    """
    if batch_size < 1 or (limit is not None and limit < 1):
        raise ValueError(f"batch_size is {batch_size} and limit {limit}: both must be positive.")
    if not len(source):
        raise ValueError(f"{source.info.name}: there are no examples to go through.")
    _check_size(size)
    count = len(source) if limit is None else min(limit, len(source))
    starts = range(0, count, batch_size)[host::hosts]
    height, width = size
    return _eval_batches(source, batch_size, (height, width), count, edges, starts)


def _eval_batches(
    source: Source, batch_size: int, size: Size, count: int, edges: bool, starts: range
) -> Iterator[Batch]:
    for start in starts:
        indices = np.arange(start, start + batch_size, dtype=np.int32)
        valid = indices < count
        examples = [source[i] for i in indices[valid].tolist()]
        names = [example["name"] for example in examples]
        arrays = [_arrays(augment.squash(example, size), edges) for example in examples]
        missing = batch_size - len(arrays)
        arrays += arrays[-1:] * missing
        batch: Batch = {key: np.stack([a[key] for a in arrays]) for key in arrays[0]}
        batch["valid"] = valid
        batch["index"] = np.minimum(indices, count - 1)
        batch["name"] = names + names[-1:] * missing
        yield batch


class Cached:
    """A source that keeps each example in memory once it was read.

    What is kept does not travel: each worker process fills a cache of its own, so with n workers
    the data are held up to n times.
    """

    def __init__(self, source: Source):
        self.source = source
        self.info: Info = source.info
        self._kept: dict[int, Example] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        example = self._kept.get(index)
        if example is None:
            example = {key: _read_only(value) for key, value in self.source[index].items()}
            with self._lock:
                example = self._kept.setdefault(index, example)
        return dict(example)

    def __reduce__(self):
        return Cached, (self.source,)


def _read_only(value: Any) -> Any:
    """A view of an array that cannot be written: whoever did would change later epochs."""
    if not isinstance(value, np.ndarray):
        return value
    view = value.view()
    view.setflags(write=False)
    return view


@dataclass(frozen=True)
class _Prepare:
    """Example g of the endless order -> the arrays that are batched."""

    flip_pairs: tuple[tuple[int, int], ...]
    batch_size: int
    size: Size
    max_scale: float
    flip: bool
    seed: int
    edges: bool

    def __call__(self, g: int, example: Example) -> dict[str, np.ndarray | np.int32]:
        rng = np.random.default_rng([self.seed, g])
        mirrored = rng.random() < 0.5  # drawn in any case, so that crops do not depend on `flip`
        example = augment.train_crop(example, self.size, self.max_scale, rng)
        mirrored &= self.flip
        if mirrored:
            example = augment.flip(example, self.flip_pairs)
        if "latents" in example:
            example = {**example, "latents": example["latents"][int(mirrored)]}
        for several in SEVERAL:
            if several in example:
                chosen = rng.integers(len(example[several]))
                example = {**example, several: example[several][chosen : chosen + 1]}
        return {**_arrays(example, self.edges), "slot": np.int32(g % self.batch_size)}


def _arrays(example: Example, edges: bool) -> dict[str, np.ndarray]:
    arrays = {"image": example["image"]} if "image" in example else {}
    if "latents" in example:
        arrays = {"latent": example["latents"]}  # in the image's place
    arrays["layout"] = example["layout"].astype(np.int32)
    if edges and "instance" in example:
        arrays["edges"] = augment.edges(example["instance"])
    for several, one in SEVERAL.items():
        if several in example:
            arrays[one] = example[several][0]
    return arrays


def _check_counts(
    source: Source, batch_size: int, host: int, hosts: int, start_step: int, workers: int
) -> None:
    if not len(source):
        raise ValueError(f"{source.info.name}: there are no examples to train on.")
    if batch_size < 1 or hosts < 1 or batch_size % hosts:
        raise ValueError(
            f"batch_size is {batch_size} and hosts {hosts}. Expected a global batch that is a"
            " positive multiple of the number of hosts, so that each reads the same share."
        )
    if not 0 <= host < hosts:
        raise ValueError(f"host is {host}. Expected one of 0..{hosts - 1} ({hosts} hosts).")
    if start_step < 0 or workers < 0:
        raise ValueError(f"start_step is {start_step} and workers {workers}. Expected 0 or more of each.")


def _check_augmentation(size: Size, max_scale: float, seed: int) -> None:
    _check_size(size)
    if not max_scale >= 1:
        raise ValueError(
            f"max_scale is {max_scale}. Expected at least 1: an image at scale 1 just covers the"
            " crop, and a smaller one would leave parts of it empty."
        )
    if seed < 0:
        raise ValueError(f"seed is {seed}. Expected 0 or a positive integer.")


def _check_size(size: Size) -> None:
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size is {size}. Expected (height, width), two positive integers.")
