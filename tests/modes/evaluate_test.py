"""Evaluation: what is compiled for it, and that sharing programs changes no number."""

import json
import re
from dataclasses import replace

import jax
import numpy as np
import pytest
from tiny import random_model, tiny_experiment

from semdiff import inputs
from semdiff.data import statistics
from semdiff.modes import evaluate
from semdiff.sampling import chains, tasks

WEIGHTS = (1.0, 1.5, 3.0)


@pytest.fixture(scope="module")
def setting():
    """A random network of the tiny experiment."""
    config = tiny_experiment()
    sizes = {"segmenter_steps": 2, "segmenter_width": 8, "limit": 5, "grid": 1, "guidance": WEIGHTS}
    return random_model(replace(config, evaluate=replace(config.evaluate, **sizes)), "7")


def test_one_program_with_guidance_one_without_and_two_of_the_reader(setting, tmp_path, caplog):
    with jax.log_compiles(), caplog.at_level("WARNING"):
        evaluate.evaluate(setting, tmp_path)
    compiled = re.findall(r"Compiling jit\((\S+)\)", caplog.text)
    programs = [name for name in compiled if name in ("generate", "<lambda>", "step")]
    assert sorted(programs) == ["<lambda>", "<lambda>", "generate", "generate", "step"]
    rows = json.loads((tmp_path / "evaluation" / "7" / "metrics.json").read_text())["rows"]
    assert [f"generated, guidance {w:g}" in rows for w in WEIGHTS] == [True] * 3


def test_a_weight_that_is_an_argument_gives_what_a_fixed_one_does(setting):
    config, spelled, params = setting.config, setting.method, setting.params
    source = inputs.evaluation_source(config.data, config.seed)
    made = [t for i in range(4) for t in tasks.tasks_of(spelled, source[i], config.sample)]
    run = tasks.Runner(spelled, config.sample)
    condition = jax.tree.map(lambda *arrays: np.stack(arrays), *(t.given for t in made))
    keys = jax.numpy.stack([t.key for t in made])
    images = []
    for weight in WEIGHTS:
        fixed = chains.build_generate(spelled, replace(config.sample, guidance=weight))
        images.append([state.image for state in run.guided(weight)(params, made)])
        np.testing.assert_array_equal(images[-1], fixed(params, condition, keys, config.data.size).image)
    assert (images[0][0] != images[1][0]).any()
    assert (images[1][0] != images[2][0]).any()
    assert run.guidance == config.sample.guidance


def test_the_segmenter_learns_classes_that_were_not_counted(setting, tmp_path, monkeypatch):
    config, info = setting.config, setting.info
    void = replace(info, void_id=2)
    pixels = np.arange(info.num_classes) * 10
    counts = statistics.Counts(5, pixels, pixels)
    monkeypatch.setattr(statistics, "count", lambda source, indices: counts)
    weights = []
    monkeypatch.setattr(evaluate.segmenter, "train", lambda *args, **_: weights.append(args[4]) or {})
    evaluate.trained_segmenter(evaluate.segmenter.Segmenter(info.num_classes, 8), config, void)
    assert weights[0][0] == 1
    assert weights[0][2] == 0
