import itertools
import pickle
import time

import numpy as np
import pytest
from PIL import Image

from semdiff.data import augment
from semdiff.data.images import DataError
from semdiff.data.pipeline import Cached, eval_batches, train_iterator
from semdiff.data.readers.folder import Folder
from semdiff.data.source import ClassInfo, Info

CLASSES = tuple(ClassInfo(f"c{i}", (i, i, i)) for i in range(250))


class Numbered:
    """Example i is filled with i, except one column, so that crops and flips can be told apart."""

    def __init__(self, count, instances=True, shape=(8, 12)):
        self.count, self.shape = count, shape
        self.info = Info("numbered", CLASSES, has_instances=instances)
        self.read = []

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        self.read.append(i)
        image = np.full((*self.shape, 3), i, np.uint8)
        image[..., 1] = np.arange(self.shape[1])
        example = {"image": image, "layout": np.full(self.shape, i, np.uint8), "name": f"e{i}"}
        if self.info.has_instances:
            example["instance"] = (np.arange(self.shape[1]) // 5 + np.zeros(self.shape)).astype(np.int32)
        return example


def take(source, steps, **options):
    settings = dict(batch_size=4, size=(6, 6), max_scale=1.25, flip=True, seed=3) | options
    batches = train_iterator(source, **settings)
    try:
        return list(itertools.islice(batches, steps))
    finally:
        batches.close()


def which(batches):
    """The examples of each batch, in order."""
    return [batch["layout"][:, 0, 0].tolist() for batch in batches]


def flat(lists):
    return list(itertools.chain.from_iterable(lists))


def same(a, b):
    return len(a) == len(b) and all(
        x.keys() == y.keys() and all(np.array_equal(x[k], y[k]) and x[k].dtype == y[k].dtype for k in x)
        for x, y in zip(a, b)
    )


def union(parts):
    """The global batches of which every host has its part, by slot."""
    whole = []
    for shares in zip(*parts):
        batch = {k: np.concatenate([share[k] for share in shares]) for k in shares[0]}
        order = np.argsort(batch["slot"])
        whole.append({k: v[order] for k, v in batch.items()})
    return whole


def test_a_batch(tmp_path):
    batch = take(Numbered(20), 1)[0]
    found = {key: (value.dtype.name, value.shape) for key, value in batch.items()}
    assert found == {
        "image": ("uint8", (4, 6, 6, 3)),
        "layout": ("int32", (4, 6, 6)),
        "edges": ("uint8", (4, 6, 6)),
        "slot": ("int32", (4,)),
    }
    assert batch["slot"].tolist() == [0, 1, 2, 3]
    assert batch["edges"].any()
    assert "edges" not in take(Numbered(20), 1, edges=False)[0]
    assert "edges" not in take(Numbered(20, instances=False), 1)[0]


def test_every_epoch_holds_each_example_once_in_an_order_of_its_own():
    order = flat(which(take(Numbered(10), 25, batch_size=4)))
    epochs = [order[i : i + 10] for i in range(0, 100, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 10


def test_seeds_give_orders_that_are_not_each_others_epochs():
    epochs = {}
    for seed in range(4):
        order = flat(which(take(Numbered(12), 12, batch_size=4, seed=seed)))
        epochs[seed] = [tuple(order[i : i + 12]) for i in range(0, 48, 12)]
    assert len(set(flat(epochs.values()))) == 16


def test_an_example_is_augmented_anew_each_epoch():
    batches = take(Numbered(1, shape=(8, 40)), 40, batch_size=1, max_scale=1.0, size=(8, 8))
    columns = [tuple(batch["image"][0, 0, :, 1].tolist()) for batch in batches]
    flipped = [c[0] > c[-1] for c in columns]
    assert len(set(columns)) > 20
    assert 8 <= sum(flipped) <= 32
    straight = take(Numbered(1, shape=(8, 40)), 40, batch_size=1, max_scale=1.0, size=(8, 8), flip=False)
    for batch, column in zip(straight, columns):
        assert batch["image"][0, 0, :, 1].tolist() == sorted(column)


def test_a_data_set_smaller_than_the_batch():
    batches = take(Numbered(3), 4, batch_size=8)
    order = flat(which(batches))
    assert all(sorted(order[i : i + 3]) == [0, 1, 2] for i in range(0, 30, 3))
    assert batches[1]["slot"].tolist() == list(range(8))


def test_resuming_by_step():
    whole = take(Numbered(10), 12)
    for start in (1, 5, 11):
        assert same(take(Numbered(10), 12 - start, start_step=start), whole[start:])


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_share_the_global_batches(hosts):
    whole = take(Numbered(10), 6)
    parts = [take(Numbered(10), 6, host=h, hosts=hosts) for h in range(hosts)]
    for h, part in enumerate(parts):
        assert all((batch["slot"] % hosts == h).all() for batch in part)
        assert all(len(batch["slot"]) == 4 // hosts for batch in part)
    assert same(union(parts), whole)
    # And a run that two hosts began can be taken up by four, or one.
    assert same(
        union([take(Numbered(10), 3, host=h, hosts=hosts, start_step=3) for h in range(hosts)]), whole[3:]
    )


def test_cache_changes_nothing_and_reads_once():
    source = Numbered(6)
    assert same(take(source, 12, cache=True), take(Numbered(6), 12))
    counts = [source.read.count(i) for i in range(6)]
    assert min(counts) == 1
    assert sum(counts) <= 6 + 4  # two threads may ask for the same example at once
    cached = Cached(source)
    first = cached[2]
    with pytest.raises(ValueError, match="read-only"):
        first["image"][0, 0, 0] = 1
    first["layout"] = None
    assert cached[2]["layout"] is not None
    assert source[2]["image"].flags.writeable
    copy = pickle.loads(pickle.dumps(cached))
    assert not copy._kept
    assert len(copy) == 6


def test_reading_goes_on_while_a_batch_is_used():
    source = Numbered(40)
    batches = train_iterator(source, batch_size=4, size=(6, 6), max_scale=1, flip=False, seed=0)
    next(batches)
    deadline = time.monotonic() + 5
    while len(source.read) < 12 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(source.read) >= 12
    batches.close()


def write_folder(root, count=10, instances=True):
    rng = np.random.default_rng(0)
    arrays = {
        "images": lambda: rng.integers(0, 256, (8, 12, 3), dtype=np.uint8),
        "labels": lambda: rng.integers(0, 5, (8, 12), dtype=np.uint8),
        "instances": lambda: rng.integers(0, 60000, (8, 12), dtype=np.uint16),
    }
    for kind in arrays:
        (root / kind / "train").mkdir(parents=True)
        for i in range(count):
            Image.fromarray(arrays[kind]()).save(root / kind / "train" / f"s{i}.png")
    return root


def test_workers_change_nothing_and_their_errors_arrive(tmp_path):
    source = Folder(write_folder(tmp_path), "train")
    whole = take(source, 9)
    assert same(take(source, 6, workers=2, start_step=3, cache=True), whole[3:])
    path = tmp_path / "images" / "train" / "s3.png"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"s3\.png: cannot be decoded"):
        take(source, 9, workers=1)
    with pytest.raises(DataError, match=r"s3\.png: cannot be decoded"):
        take(source, 9)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(batch_size=6, hosts=4), r"batch_size is 6 and hosts 4\. Expected .* multiple"),
        (dict(batch_size=0), r"batch_size is 0"),
        (dict(host=2, hosts=2), r"host is 2\. Expected one of 0\.\.1"),
        (dict(start_step=-1), r"start_step is -1"),
        (dict(workers=-1), r"workers -1"),
        (dict(max_scale=0.9), r"max_scale is 0\.9\. Expected at least 1"),
        (dict(max_scale=float("nan")), r"max_scale is nan"),
        (dict(size=(0, 4)), r"size is \(0, 4\)\. Expected \(height, width\)"),
        (dict(seed=-1), r"seed is -1"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(ValueError, match=words):
        take(Numbered(5), 1, **options)


def test_an_empty_source():
    with pytest.raises(ValueError, match="numbered: there are no examples to train on"):
        take(Numbered(0), 1)
    with pytest.raises(ValueError, match="numbered: there are no examples"):
        eval_batches(Numbered(0), batch_size=2, size=(4, 4))


@pytest.mark.parametrize(
    ("count", "limit", "expected"), [(10, None, 10), (8, None, 8), (10, 5, 5), (3, 99, 3)]
)
def test_evaluation_drops_nothing(count, limit, expected):
    batches = list(eval_batches(Numbered(count), batch_size=4, size=(6, 6), limit=limit))
    assert len(batches) == -(-expected // 4)
    assert all(batch["image"].shape == (4, 6, 6, 3) for batch in batches)
    valid = np.concatenate([batch["valid"] for batch in batches])
    assert valid.tolist() == [True] * expected + [False] * (len(valid) - expected)
    index = np.concatenate([batch["index"] for batch in batches])
    assert index[valid].tolist() == list(range(expected))
    assert (index[~valid] == expected - 1).all()
    assert flat(batch["name"] for batch in batches) == [f"e{i}" for i in index]
    assert flat(which(batches)) == index.tolist()


def test_evaluation_squashes(tmp_path):
    source = Folder(write_folder(tmp_path), "train")
    batch = next(eval_batches(source, batch_size=2, size=(4, 4)))
    expected = augment.squash(source[1], (4, 4))
    assert np.array_equal(batch["image"][1], expected["image"])
    assert np.array_equal(batch["layout"][1], expected["layout"])
    assert np.array_equal(batch["edges"][1], augment.edges(expected["instance"]))
    with pytest.raises(ValueError, match="limit 0"):
        eval_batches(source, batch_size=2, size=(4, 4), limit=0)
