"""Times tuned for a model: found, kept beside the weights, and asked for."""

import json
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from tiny import changed, random_model, tiny_experiment

from semdiff import inputs
from semdiff.config import ConfigError, Sample, Tune
from semdiff.diffusion import schedules
from semdiff.methods import space
from semdiff.modes import tune
from semdiff.sampling import chains, times

STEPS = (3, 4)


@pytest.fixture(scope="module")
def setting():
    """A random network of the tiny experiment that samples by DPM-Solver++."""
    config = tiny_experiment()
    settings = replace(config.sample, sampler="dpmpp_2m", steps=4)
    return random_model(replace(config, sample=settings, tune=Tune(steps=STEPS, layouts=4, teacher=12)))


@pytest.fixture(scope="module")
def workdir(setting, tmp_path_factory):
    """Where times were tuned."""
    folder = tmp_path_factory.mktemp("tuned")
    path = tune.tune(setting, folder)
    assert path == folder / "times.json"
    return folder


def chains_of(setting, longest=4):
    return tune.Chains(setting, setting.config.sample, examples_of(setting), 4, longest)


def examples_of(setting):
    source = inputs.training_source(setting.config.data, 0)
    return [source[i] for i in inputs.spread(source, 4)]


def test_tuned_times_are_better_than_every_spacing(setting, workdir):
    written = json.loads((workdir / "times.json").read_text())["tuned"]
    assert [entry["steps"] for entry in written] == list(STEPS)
    run = chains_of(setting)
    taught = tune.teach(run, setting.config.tune.teacher)
    for entry in written:
        found = np.array([*entry["times"], 0])
        assert (found[0], found[-1], len(found)) == (50, 0, entry["steps"] + 1)
        error = tune.distance(run.images(found), taught.end)
        assert error == pytest.approx(entry["error"], rel=1e-4)
        others = tune.spacings(setting.method.image.schedule, entry["steps"]).values()
        assert error <= min(tune.distance(run.images(other), taught.end) for other in others)
    assert (workdir / "pictures" / "tuned_times.png").exists()


def test_chains_end_where_sampling_ends(setting):
    """The program whose times are an argument makes the images that people get; a batch that is not full, too."""
    run = chains_of(setting, longest=6)
    visited = schedules.spaced_times(setting.method.image.schedule, 4, "even")
    generate = chains.build_generate(setting.method, setting.config.sample)
    condition, keys = run.batches[0]
    usual = np.asarray(generate(setting.params, condition, keys, setting.config.data.size).image, int)
    np.testing.assert_allclose(
        np.asarray(space.to_pixels(jnp.asarray(run.images(visited))), int), usual, atol=1
    )
    uneven = tune.Chains(setting, setting.config.sample, examples_of(setting), 3, 6)
    assert [len(keys) for _, keys in uneven.batches] == [3, 3]
    np.testing.assert_allclose(uneven.images(visited), run.images(visited), atol=1e-5)


def test_sampling_asks_for_them_by_spacing(setting, workdir, capsys):
    config, entries = setting.config, times.entries_of(workdir)
    asked = replace(config, sample=replace(config.sample, spacing="tuned", steps=3))
    found = times.resolved(asked, entries, "7/ema")
    visited = chains.build_times(setting.method.image.schedule, found.sample)
    np.testing.assert_array_equal(visited, [*entries[0]["times"], 0])
    assert capsys.readouterr().out == ""
    times.resolved(asked, entries, "9/ema")
    assert "tuned for the weights 7/ema, used with 9/ema" in capsys.readouterr().out
    given = replace(asked, sample=replace(asked.sample, times=(50.0, 20.0)))
    assert times.resolved(given, entries) == given
    assert times.resolved(config, entries) == config


def test_what_was_not_tuned_is_said(setting, workdir):
    config = setting.config
    wanted = replace(config.sample, spacing="tuned", steps=9)
    with pytest.raises(
        ConfigError, match=r"9 steps of dpmpp_2m .*dpmpp_2m in 3, dpmpp_2m in 4.*tune\.steps=\(9,\)"
    ):
        times.resolved(replace(config, sample=wanted), times.entries_of(workdir))
    with pytest.raises(ConfigError, match="nothing at all"):
        times.resolved(replace(config, sample=wanted), [])
    with pytest.raises(ConfigError, match=r"tuned times of these weights are damaged .*'step'"):
        times.resolved(replace(config, sample=wanted), [{"step": 9}])
    with pytest.raises(ConfigError, match="no times were tuned"):
        chains.build_times(setting.method.image.schedule, wanted)


def test_tuning_again_replaces_what_was_tuned_alike(setting, workdir, tmp_path):
    (tmp_path / "times.json").write_text((workdir / "times.json").read_text())
    tune.tune(replace(changed(setting, tune={"steps": (3,)}), name="9/ema"), tmp_path)
    found = {(entry["steps"], entry["weights"]) for entry in times.entries_of(tmp_path)}
    assert found == {(4, "7/ema"), (3, "9/ema")}
    (tmp_path / "times.json").write_text("{")
    with pytest.raises(ConfigError, match=r"times\.json is damaged"):
        times.entries_of(tmp_path)


@pytest.mark.parametrize(
    ("of_sample", "of_tune", "words"),
    [
        ({"sampler": "ancestral"}, {}, "sampler is ancestral: its noise"),
        ({"sampler": "ddim", "eta": 0.5}, {}, "ddim with eta 0.5"),
        ({}, {"steps": ()}, "tune.steps is ()"),
        ({}, {"steps": (1,)}, "at least 2"),
        ({}, {"steps": (12,)}, "below those of the teacher"),
        ({}, {"teacher": 51}, "at most config.process.steps=50"),
    ],
)
def test_what_cannot_be_tuned_is_refused(setting, tmp_path, of_sample, of_tune, words):
    with pytest.raises(ConfigError) as error:
        tune.tune(changed(setting, sample=of_sample, tune=of_tune), tmp_path)
    assert words in str(error.value)
    assert not list(tmp_path.iterdir())


def test_passes_of_the_network_are_counted(setting):
    spelled = setting.method
    plain = Sample(steps=10, guidance=1.0)
    assert chains.passes(spelled, plain) == 10
    assert chains.passes(spelled, replace(plain, guidance=1.5)) == 20
    assert chains.passes(spelled, replace(plain, guidance=1.5, guidance_interval=(0.0, 0.5))) == 15
