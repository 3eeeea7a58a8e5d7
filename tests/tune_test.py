"""Times tuned for a model: found, kept beside the weights, and asked for."""

import json
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from tiny import random_method, tiny_experiment

from semdiff import chains, inputs, method, tune
from semdiff.config import ConfigError, Sample, Tune
from semdiff.diffusion import schedules

STEPS = (3, 4)


@pytest.fixture(scope="module")
def setting():
    """(config, method, params, info): a random network of the tiny experiment that samples by DPM-Solver++."""
    config = tiny_experiment()
    settings = replace(config.sample, sampler="dpmpp_2m", steps=4)
    config = replace(config, sample=settings, tune=Tune(steps=STEPS, layouts=4, teacher=12))
    return config, *random_method(config)


@pytest.fixture(scope="module")
def workdir(setting, tmp_path_factory):
    """Where times were tuned."""
    config, spelled, params, info = setting
    folder = tmp_path_factory.mktemp("tuned")
    path = tune.tune(config, spelled, params, "7/ema", info, folder)
    assert path == folder / "times.json"
    return folder


def chains_of(setting, longest=4):
    config, spelled, params, _ = setting
    source = inputs.training_source(config.data, 0)
    examples = [source[i] for i in inputs.spread(source, 4)]
    return tune.Chains(spelled, config.sample, params, examples, 4, longest)


def test_tuned_times_are_better_than_every_spacing(setting, workdir):
    config, spelled, _, _ = setting
    written = json.loads((workdir / "times.json").read_text())["tuned"]
    assert [entry["steps"] for entry in written] == list(STEPS)
    run = chains_of(setting)
    taught = tune.teach(run, config.tune.teacher)
    for entry in written:
        times = np.array([*entry["times"], 0])
        assert (times[0], times[-1], len(times)) == (50, 0, entry["steps"] + 1)
        error = tune.distance(run.images(times), taught.end)
        assert error == pytest.approx(entry["error"], rel=1e-4)
        others = tune.spacings(spelled.process.schedule, entry["steps"]).values()
        assert error <= min(tune.distance(run.images(other), taught.end) for other in others)
    assert (workdir / "pictures" / "tuned_times.png").exists()


def test_chains_end_where_sampling_ends(setting):
    """The program whose times are an argument makes the images that people get; a batch that is not full, too."""
    config, spelled, params, _ = setting
    run = chains_of(setting, longest=6)
    times = schedules.spaced_times(spelled.process.schedule, 4, "even")
    generate = chains.build_generate(spelled, config.sample)
    condition, keys = run.batches[0]
    usual = np.asarray(generate(params, condition, keys), int)
    np.testing.assert_allclose(
        np.asarray(method.to_pixels(jnp.asarray(run.images(times))), int), usual, atol=1
    )
    source = inputs.training_source(config.data, 0)
    examples = [source[i] for i in inputs.spread(source, 4)]
    uneven = tune.Chains(spelled, config.sample, params, examples, 3, 6)
    assert [len(keys) for _, keys in uneven.batches] == [3, 3]
    np.testing.assert_allclose(uneven.images(times), run.images(times), atol=1e-5)


def test_sampling_asks_for_them_by_spacing(setting, workdir, capsys):
    config, spelled, _, _ = setting
    entries = tune.entries_of(workdir)
    asked = replace(config, sample=replace(config.sample, spacing="tuned", steps=3))
    found = tune.resolved(asked, entries, "7/ema")
    times = chains.build_times(spelled.process.schedule, found.sample)
    np.testing.assert_array_equal(times, [*entries[0]["times"], 0])
    assert capsys.readouterr().out == ""
    tune.resolved(asked, entries, "9/ema")
    assert "tuned for the weights 7/ema, used with 9/ema" in capsys.readouterr().out
    given = replace(asked, sample=replace(asked.sample, times=(50.0, 20.0)))
    assert tune.resolved(given, entries) == given
    assert tune.resolved(config, entries) == config


def test_what_was_not_tuned_is_said(setting, workdir):
    config, spelled, _, _ = setting
    wanted = replace(config.sample, spacing="tuned", steps=9)
    with pytest.raises(
        ConfigError, match=r"9 steps of dpmpp_2m .*dpmpp_2m in 3, dpmpp_2m in 4.*tune\.steps=\(9,\)"
    ):
        tune.resolved(replace(config, sample=wanted), tune.entries_of(workdir))
    with pytest.raises(ConfigError, match="nothing at all"):
        tune.resolved(replace(config, sample=wanted), [])
    with pytest.raises(ConfigError, match=r"tuned times of these weights are damaged .*'step'"):
        tune.resolved(replace(config, sample=wanted), [{"step": 9}])
    with pytest.raises(ConfigError, match="no times were tuned"):
        chains.build_times(spelled.process.schedule, wanted)


def test_tuning_again_replaces_what_was_tuned_alike(setting, workdir, tmp_path):
    config, spelled, params, info = setting
    (tmp_path / "times.json").write_text((workdir / "times.json").read_text())
    tune.tune(
        replace(config, tune=replace(config.tune, steps=(3,))), spelled, params, "9/ema", info, tmp_path
    )
    found = {(entry["steps"], entry["weights"]) for entry in tune.entries_of(tmp_path)}
    assert found == {(4, "7/ema"), (3, "9/ema")}
    (tmp_path / "times.json").write_text("{")
    with pytest.raises(ConfigError, match=r"times\.json is damaged"):
        tune.entries_of(tmp_path)


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
    config, spelled, params, info = setting
    config = replace(config, sample=replace(config.sample, **of_sample), tune=replace(config.tune, **of_tune))
    with pytest.raises(ConfigError) as error:
        tune.tune(config, spelled, params, "7/ema", info, tmp_path)
    assert words in str(error.value)
    assert not list(tmp_path.iterdir())


def test_passes_of_the_network_are_counted(setting):
    _, spelled, _, _ = setting
    plain = Sample(steps=10, guidance=1.0)
    assert chains.passes(spelled, plain) == 10
    assert chains.passes(spelled, replace(plain, guidance=1.5)) == 20
    assert chains.passes(spelled, replace(plain, guidance=1.5, guidance_interval=(0.0, 0.5))) == 15
