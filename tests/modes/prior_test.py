from dataclasses import replace

import jax
import numpy as np
import pytest
import tiny

import semdiff
from semdiff import inputs
from semdiff.config import ConfigError
from semdiff.convert import weights
from semdiff.data import augment, moments
from semdiff.data.images import DataError
from semdiff.machine import parallel
from semdiff.methods.method import START
from semdiff.modes import export, prior
from semdiff.sampling import chains, tasks
from semdiff.trained import PRIOR


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A workdir in which the tiny experiment's statistics were measured."""
    workdir = tmp_path_factory.mktemp("measured")
    prior.prior(tiny.tiny_experiment(), workdir)
    return workdir


def everything(config) -> tuple[np.ndarray, np.ndarray]:
    source = inputs.training_source(config.data, config.seed)
    examples = [augment.squash(source[i], config.data.size) for i in range(len(source))]
    return np.stack([e["image"] for e in examples]) / 127.5 - 1, np.stack([e["layout"] for e in examples])


def test_every_image_counts_once(measured):
    images, layouts = everything(tiny.tiny_experiment())
    tree, about = weights.load_weights(measured / PRIOR)
    found = moments.of_tree(tree, about, PRIOR)
    assert found.images == len(images) == 32
    np.testing.assert_allclose(found.by_place().mean[0], images.mean(0), atol=1e-5)
    np.testing.assert_allclose(found.by_place().variance[0], images.var(0), atol=1e-5)
    sky = np.bincount(layouts.ravel()).argmax()
    np.testing.assert_allclose(found.by_class().mean[sky, 0, 0], images[layouts == sky].mean(0), atol=1e-5)
    assert (measured / "pictures" / "prior_means.png").exists()
    assert (measured / "pictures" / "prior_draws.png").exists()


def test_a_pass_that_was_interrupted_goes_on_where_it_was(measured, tmp_path, monkeypatch, capsys):
    config = tiny.tiny_experiment()
    seen = []
    add = moments.Moments.add
    monkeypatch.setattr(moments.Moments, "add", lambda self, *a: seen.append(0) or add(self, *a))
    monkeypatch.setattr(prior, "KEEP_EVERY", 0.0)
    monkeypatch.setattr(
        moments, "as_tree", lambda _: (_ for _ in ()).throw(KeyboardInterrupt)
    )  # after the last image
    with pytest.raises(KeyboardInterrupt):
        prior.prior(config, tmp_path)
    monkeypatch.undo()
    assert len(seen) == 32
    monkeypatch.setattr(moments.Moments, "add", None)  # nothing is left to be counted
    prior.prior(config, tmp_path)
    assert "goes on after 32 of 32" in capsys.readouterr().out
    tree, again = (weights.load_weights(place / PRIOR)[0] for place in (measured, tmp_path))
    jax.tree.map(np.testing.assert_array_equal, tree, again)
    assert not list((tmp_path / prior.PARTS).iterdir())


def test_processes_share_the_images(measured, tmp_path, monkeypatch):
    """Two of them, of which the second has counted before."""
    config, shares = tiny.tiny_experiment(), {}
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(parallel, "meet", lambda: None)
    monkeypatch.setattr(parallel, "from_main", lambda data: data)
    counted_on = prior.counted_on
    monkeypatch.setattr(
        prior, "counted_on", lambda *a: shares.setdefault(jax.process_index(), counted_on(*a))
    )
    theirs: list = []
    heard = lambda mine: np.stack([mine, theirs.pop(0) if theirs else mine])  # noqa: E731
    monkeypatch.setattr(parallel, "of_all", heard)
    for process in (1, 0):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        prior.prior(config, tmp_path)
        theirs += shares[1].parts
    assert [shares[i].images for i in (0, 1)] == [16, 16]
    tree, whole = (weights.load_weights(place / PRIOR)[0] for place in (tmp_path, measured))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), tree, whole)


def test_a_part_of_other_data_is_not_gone_on_with(tmp_path):
    about = moments.about(["a"], "pixels", "x", "train", "abc")
    counted = moments.Moments.none(1, 2, 2, 3)
    prior.keep(tmp_path / "parts" / "0.safetensors", counted, 3, about)
    assert prior.kept(tmp_path / "parts" / "0.safetensors", about)[0] == 3
    assert prior.kept(tmp_path / "parts" / "0.safetensors", about | {"fingerprint": "other"}) == (0, None)


def test_a_part_of_another_size_is_not_gone_on_with(tmp_path, monkeypatch):
    """A folder has the same fingerprint whatever its images are resized to."""
    monkeypatch.setattr(prior, "KEEP_EVERY", 0.0)
    config = tiny.tiny_experiment()
    for size in ((8, 8), (16, 16)):
        resized = replace(config, data=replace(config.data, size=size))
        opened = prior.build.opened(resized, tmp_path)
        part = tmp_path / "parts" / "0.safetensors"
        found = prior.counted_on(
            opened.source, opened.method, size, range(3), part, {"fingerprint": "the same"}
        )
        assert found.mean.shape[1:] == (*size, 3)
        assert found.images == 3


def images(model, **settings) -> np.ndarray:
    """Of four layouts, in three steps."""
    ready = tiny.changed(model, sample=settings).ready()
    source = inputs.evaluation_source(ready.config.data, 0)
    todo = [t for i in range(4) for t in tasks.tasks_of(ready.method, source[i], ready.config.sample)]
    run = tasks.Runner(ready.method, ready.config.sample)
    return np.stack([state.image for state in run(run.placed(ready.params), todo)])


def test_chains_start_where_and_from_what_they_are_told(measured):
    model = replace(tiny.random_model(tiny.tiny_experiment()), folder=measured)
    ordinary = images(model)
    np.testing.assert_array_equal(images(model, prior="normal", start=1.0), ordinary)
    made = {kind: images(model, prior=kind, start=0.6) for kind in ("normal", "categorical", "joint")}
    made["ordinary"] = ordinary
    for a, b in zip(list(made.values())[1:], made.values()):
        assert not np.array_equal(a, b)
    schedule = model.method.image.schedule
    assert chains.build_times(schedule, replace(model.config.sample, start=0.6)).tolist() == [30, 15, 1, 0]


def test_an_exported_model_brings_its_statistics(measured, tmp_path):
    model = replace(tiny.random_model(tiny.tiny_experiment()), folder=measured)
    folder = export.export(tiny.changed(model, export={"output": str(tmp_path / "model")}), measured)
    loaded = semdiff.load(folder)
    source = inputs.evaluation_source(model.config.data, 0)
    given = {
        "layouts": [source[i]["layout"] for i in range(4)],
        "instances": [source[i]["instance"] for i in range(4)],
    }
    made = loaded.sample(**given, prior="joint", start=0.6)
    np.testing.assert_array_equal(made, images(model, prior="joint", start=0.6))
    np.testing.assert_array_equal(loaded.sample(**given), images(model))
    begun = loaded.with_settings(prior="joint", start=0.6)
    np.testing.assert_array_equal(begun.sample(**given), made)
    np.testing.assert_array_equal(begun.sample(**given, prior="normal", start=1.0), images(model))


def test_pairs_start_from_layouts_of_the_data(tmp_path):
    config = tiny.tiny_pairs()
    prior.prior(config, tmp_path)
    model = replace(tiny.random_model(config), folder=tmp_path)
    ready = tiny.changed(model, sample={"prior": "joint", "start": 0.5}).ready()
    shares = ready.params[START]["shares"]
    np.testing.assert_allclose(shares.sum(-1), 1, rtol=1e-5)
    todo = [tasks.unconditional(ready.method, "nothing", config.data.size, 0, i) for i in range(2)]
    run = tasks.Runner(ready.method, ready.config.sample)
    made = run(run.placed(ready.params), todo)
    assert made[0].image.shape == (8, 8, 3)
    assert made[0].layout.shape == (8, 8)


def test_what_cannot_be_started_from_is_said(measured, tmp_path):
    model = tiny.random_model(tiny.tiny_experiment())
    start = lambda model, **settings: tiny.changed(model, sample=settings).ready()  # noqa: E731
    with pytest.raises(ConfigError, match=r"config\.sample\.prior is joint, but no statistics.*--mode=prior"):
        start(model, prior="joint")
    here = replace(model, folder=measured)
    with pytest.raises(ConfigError, match=r"prior_weights is \(0\.0, 0\.0, 0\.0\)"):
        start(here, prior="mixture", prior_weights=(0.0, 0.0, 0.0))
    with pytest.raises(ConfigError, match="prior_strength is -1"):
        start(here, prior="joint", prior_strength=-1.0)
    with pytest.raises(DataError, match=r"prior\.safetensors: was measured at 8 x 8 x 3.* 16 x 16 x 3"):
        start(tiny.changed(here, data={"size": (16, 16)}), prior="joint")
    schedule = model.method.image.schedule
    for start_at in (0.0, 1.1):
        with pytest.raises(ConfigError, match=r"config\.sample\.start is"):
            chains.build_times(schedule, replace(model.config.sample, start=start_at))
    with pytest.raises(ConfigError, match="leave one of them out"):
        chains.build_times(schedule, replace(model.config.sample, start=0.5, times=(50.0, 1.0)))
