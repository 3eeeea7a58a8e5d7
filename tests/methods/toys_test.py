"""Methods that no paper has go through the whole program as those of the papers do."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from toys import CLASSES, COLOURS, SIZE, experiment, folded, pairs, write_world

from semdiff import inputs, trained
from semdiff.config import ConfigError
from semdiff.convert.weights import flatten, load_weights
from semdiff.diffusion.joint import ByHalf
from semdiff.methods import build
from semdiff.modes import train
from semdiff.sampling import chains, tasks
from semdiff.training.trainer import Trainer

STEPS = 200


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def spelled(monkeypatch):
    """spelled(toy): what every configuration spells."""

    def use(toy):
        monkeypatch.setattr(build, "build_method", toy)
        return toy()

    return use


def made(method, config, params, resample=1, **held):
    """What is generated of each layout of the evaluation split; held: what of it is known."""
    source = inputs.evaluation_source(config.data, 0)
    todo = []
    for i in range(len(source)):
        [task] = tasks.tasks_of(method, source[i], config.sample, SIZE)
        todo.append(replace(task, **{name: of(source[i]) for name, of in held.items()}))
    run = tasks.Runner(method, config.sample, resample)
    states = [
        state for batch in tasks.batched(todo, run.batch_size) for state in run(run.placed(params), batch)
    ]
    return [source[i] for i in range(len(source))], states


def nearest(image):
    """The class whose colour each pixel has."""
    return np.abs(image[..., None, :].astype(int) - COLOURS).sum(-1).argmin(-1)


def shares(layout):
    return np.bincount(np.ravel(layout), minlength=CLASSES) / np.size(layout)


ON_DEVICES = """
import json, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import jax, numpy as np
from semdiff.machine import parallel
from semdiff.methods import build
from semdiff.modes import train
from toys import experiment, pairs
build.build_method, parallel.MIN_SPLIT_SIZE = pairs, 64
state = train.train(experiment(Path({world!r}), {steps}), Path({workdir!r}))
assert len(jax.devices()) == 4
"""


def test_image_and_layout_from_a_vector(world, spelled, tmp_path, run_on_devices, request):
    """The whole of train.train: loop, checkpoint, grid, validation; the same numbers on 4 devices, weights split over 2."""
    method, config = spelled(pairs), experiment(world, STEPS, log_every=20)
    state = train.train(config, tmp_path / "one")
    examples, states = made(method, config, state.averaged)
    agree = np.mean([(nearest(s.image) == s.layout).mean() for s in states])
    asked = np.mean(
        [np.abs(shares(s.layout) - shares(e["layout"])).sum() / 2 for s, e in zip(states, examples)]
    )
    assert agree > 0.95, "an image does not show its layout"
    assert asked < 0.15, "layouts are not of the classes that were asked for"

    other = experiment(world, STEPS, log_every=20)
    code = ON_DEVICES.format(
        tests=str(request.path.parent), world=str(world), steps=STEPS, workdir=str(tmp_path / "four")
    ).replace(f"{STEPS})", f"{STEPS}, log_every=20, fsdp=2)")
    run_on_devices(code, 4)
    one, four = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "four")
    )
    assert [line["step"] for line in one] == [line["step"] for line in four]
    for a, b in zip(one, four):
        for name in ("loss", "layout", "eval/layout"):
            if name in a:
                assert b[name] == pytest.approx(a[name], rel=2e-2), (a["step"], name)
    restored = trained_of(tmp_path / "four", other, method)
    _, again = made(method, other, restored)
    assert np.mean([(a.layout == b.layout).mean() for a, b in zip(states, again)]) > 0.97
    assert np.mean([np.abs(a.image.astype(int) - b.image).mean() for a, b in zip(states, again)]) < 4

    held = {"known": lambda e: ByHalf(image=e["image"]), "free": lambda e: ByHalf(np.zeros(SIZE, bool))}
    examples, read = made(method, config, state.averaged, **held)
    assert np.mean([(s.layout == e["layout"]).mean() for s, e in zip(read, examples)]) > 0.95
    for s, e in zip(read, examples):
        np.testing.assert_array_equal(s.image, e["image"])
    held = {
        "known": lambda e: ByHalf(layout=e["layout"]),
        "free": lambda e: ByHalf(None, np.zeros(SIZE, bool)),
    }
    examples, drawn = made(method, config, state.averaged, resample=3, **held)
    for s, e in zip(drawn, examples):
        np.testing.assert_array_equal(s.layout, e["layout"])
    assert np.mean([(nearest(s.image) == e["layout"]).mean() for s, e in zip(drawn, examples)]) > 0.95


def trained_of(workdir, config, method):
    return trained.of_workdir(config, workdir).params


def test_a_space_of_its_own_and_a_part_that_is_not_trained(world, spelled, tmp_path):
    method, config = spelled(folded), experiment(world, STEPS, "none", trained=("head/*", "stem/*"))
    first = Trainer.build(config, method).init(jax.random.fold_in(jax.random.key(config.seed), 0))
    state = train.train(config, tmp_path)
    assert set(state.params) == set(state.ema) == {"head", "stem"}
    assert set(state.frozen) == {"body", "space"}
    jax.tree.map(np.testing.assert_array_equal, state.frozen, first.frozen)
    assert (np.asarray(state.params["stem"]["kernel"]) != first.params["stem"]["kernel"]).any()
    moments = [leaf.shape for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert sorted(moments) == sorted(2 * [leaf.shape for leaf in jax.tree.leaves(state.params)])
    kept, _ = load_weights(tmp_path / "frozen.safetensors")
    assert set(flatten(kept)) == {"body/kernel", "body/bias", "space/turn"}

    examples, states = made(method, config, state.averaged)
    assert np.mean([(nearest(s.image) == e["layout"]).mean() for s, e in zip(states, examples)]) > 0.95
    assert states[0].layout is None
    mask = np.zeros(SIZE, bool)
    mask[:3, :5] = True  # not whole cells of the space
    held = {"known": lambda e: ByHalf(255 - e["image"]), "free": lambda e: ByHalf(mask)}
    examples, edited = made(method, config, state.averaged, resample=2, **held)
    for s, e in zip(edited, examples):
        np.testing.assert_array_equal(s.image[~mask], 255 - e["image"][~mask])
        assert (s.image[mask] != 255 - e["image"][mask]).any()

    longer = replace(config, train=replace(config.train, steps=STEPS + 2))
    resumed = train.train(longer, tmp_path)
    whole = train.train(longer, tmp_path / "whole")
    jax.tree.map(
        np.testing.assert_array_equal, (resumed.params, resumed.frozen), (whole.params, whole.frozen)
    )
    opened = trained.of_workdir(longer, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, opened.params, resumed.averaged)


@pytest.mark.parametrize(
    ("patterns", "words"),
    [
        (("heads/*",), r"has 'heads/\*', which fits no parameter; they begin with body, head, space, stem"),
        (("space/*",), "leaves nothing to train"),
    ],
)
def test_what_is_trained_must_be_there(world, spelled, patterns, words):
    trainer = Trainer.build(experiment(world, 1, trained=patterns), spelled(folded))
    with pytest.raises(ConfigError, match=words):
        jax.eval_shape(trainer.init, jax.random.key(0))


def test_images_without_bounds_are_not_thresholded(world, spelled):
    with pytest.raises(
        ConfigError, match=r"threshold is static, which .* space without such bounds: set it to none"
    ):
        chains.build_generate(spelled(folded), experiment(world, 1).sample)
