"""The program, from the outside: train, kill, resume, sample, edit, evaluate, and what it says of bad input."""

import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import random_model, tiny_config, tiny_experiment

from semdiff import cli, main
from semdiff.convert.weights import save_weights
from semdiff.parser import parse

ROOT = Path(__file__).parents[1]
CONFIG = """
import sys
sys.path.insert(0, {tests!r})
from tiny import tiny_config

def get_config():
    return tiny_config()
"""


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "tiny_config.py"
    path.write_text(CONFIG.format(tests=str(ROOT / "tests")))
    return path


@pytest.fixture(scope="module")
def start(config_file):
    """start(workdir, *flags): the program as a process."""

    def begin(workdir, *flags, preexec_fn=None, **environment):
        command = [
            sys.executable,
            "-m",
            "semdiff.main",
            f"--config={config_file}",
            f"--workdir={workdir}",
            *flags,
        ]
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=preexec_fn,
        )

    return begin


@pytest.fixture(scope="module")
def run(start):
    def whole(workdir, *flags, code=0, **environment):
        process = start(workdir, *flags, **environment)
        output, _ = process.communicate(timeout=400)
        assert process.returncode == code, output[-3000:]
        return output

    return whole


@pytest.fixture
def here(capsys):
    """here(workdir, mode, {key: value}): the same in this process; returns what was said."""

    def whole(workdir, mode="train", changes=()):
        main.run(experiment(dict(changes)), Path(workdir), mode)
        return capsys.readouterr().out

    return whole


def experiment(changes: dict):
    config = tiny_config()
    with config.unlocked():
        config.update_from_flattened_dict(changes)
    return parse(config)


@pytest.fixture(scope="module")
def trained(run, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    output = run(workdir, "--config.train.eval_every=3")
    return workdir, output


def metrics(workdir):
    lines = [json.loads(line) for line in (Path(workdir) / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line for line in lines if "loss" in line}


def validation(workdir):
    lines = map(json.loads, (Path(workdir) / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line for line in lines if "eval/loss" in line}


def losses(workdir):
    return {step: (line["loss"], line["grad_norm"]) for step, line in metrics(workdir).items()}


def test_a_run_says_what_it_is_and_leaves_what_it_promises(trained):
    workdir, output = trained
    for fact in (
        "devices: 1 x cpu",
        "mesh:    jit over mesh",
        "scenes, train: 32 images, 16 classes",
        "parameters:",
    ):
        assert fact in output
    assert "step 6/6 (100%)" in output
    assert "a step's own memory" in output
    assert sorted(metrics(workdir)) == [1, 2, 3, 4, 5, 6]
    assert (workdir / "pictures" / "grid_00000003.png").exists()
    assert (workdir / "pictures" / "curve_mse.png").exists()
    assert list((workdir / "tensorboard").iterdir())
    about = json.loads((workdir / "config.json").read_text())
    assert about["config"]["train"]["steps"] == 6
    assert "sky" in about["data"]["classes"]
    assert "decoder_0/res/conv1/kernel" in (workdir / "parameters.txt").read_text()


def wait_for_step(process, step):
    for line in process.stdout:
        if line.startswith(f"step {step}/"):
            return
    raise AssertionError("the run ended before")


def wait_for_checkpoint(workdir, step):
    for _ in range(600):
        if (Path(workdir) / "checkpoints" / str(step)).exists():
            return
        time.sleep(0.05)
    raise AssertionError("no checkpoint")


def test_a_killed_run_resumes_bit_for_bit(trained, start, run, tmp_path):
    whole, _ = trained
    process = start(tmp_path, "--config.train.steps=6", "--config.train.eval_every=3")
    wait_for_step(process, 3)
    wait_for_checkpoint(tmp_path, 2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    output = run(
        tmp_path, "--config.train.eval_every=3", "--config.data.workers=1"
    )  # another way to read the data
    assert "resumed at step" in output
    assert losses(tmp_path) == losses(whole)


def test_sigterm_saves_and_ends_cleanly_and_the_rest_is_the_same(trained, start, run, tmp_path):
    whole, _ = trained
    process = start(tmp_path, "--config.train.save_every=100", "--config.train.eval_every=3")
    wait_for_step(process, 1)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    if "stopped by signal" in output:  # it may have been faster
        assert "the same command resumes here" in output
    run(tmp_path, "--config.train.eval_every=3")
    assert losses(tmp_path) == losses(whole)


HOST = """
import sys, time
from pathlib import Path
process, port, workdir, tests = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4]
sys.path.insert(0, tests)
import jax
jax.distributed.initialize(f"127.0.0.1:{port}", 2, process, shutdown_timeout_seconds=2)
from main_test import shared_experiment
from semdiff import main
from semdiff.sampling import tasks
of_batch = tasks.Runner.__call__

for mode, slow in (("train", None), ("evaluate", 0), ("export", None), ("sample", 1)):

    def generate(run, params, batch):
        print(f"{mode}: {len(batch)} images", flush=True)
        time.sleep(3 if slow == process else 0)
        return of_batch(run, params, batch)

    tasks.Runner.__call__ = generate
    main.run(shared_experiment(), workdir, mode)
"""


def shared_experiment():
    config = tiny_experiment()
    sizes = {"segmenter_steps": 3, "segmenter_width": 8, "limit": 5, "corruptions": ("edge:0",), "grid": 2}
    return replace(
        config,
        train=replace(config.train, eval_every=3),
        sample=replace(config.sample, limit=3),
        evaluate=replace(config.evaluate, **sizes),
    )


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """(workdir, what each of two processes printed): one is slow, and the other does not wait for the end of a run."""
    workdir = tmp_path_factory.mktemp("shared")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    paths = os.pathsep.join(p for p in sys.path if p)
    hosts = [
        subprocess.Popen(
            [sys.executable, "-c", HOST, str(i), str(port), str(workdir), str(ROOT / "tests")],
            env=os.environ | {"PYTHONPATH": paths, "JAX_NUM_CPU_DEVICES": "2"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(2)
    ]
    outputs = [host.communicate(timeout=400)[0] for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0], "\n".join(text[-3000:] for text in outputs)
    return workdir, outputs


def picture(path):
    return np.asarray(Image.open(path)).astype(int)


def test_two_hosts_share_the_work_and_end_together(shared):
    workdir, outputs = shared
    assert "devices: 4 x cpu" in outputs[0]
    made = [
        {
            mode: sum(map(int, re.findall(rf"^{mode}: (\d+) images$", text, re.MULTILINE)))
            for mode in ("train", "evaluate", "sample")
        }
        for text in outputs
    ]
    # Training: two grids of 1 x 3. Evaluation: 5 layouts, clean and noisy, and a grid of 2 x 3.
    assert made == [
        {"train": 2 + 2, "evaluate": 3 + 3 + 3, "sample": 2},
        {"train": 1 + 1, "evaluate": 2 + 2 + 3, "sample": 1},
    ]
    assert len(list((workdir / "samples" / "6" / "ema" / "images").glob("*.png"))) == 3
    assert (workdir / "model-6-ema" / "model.safetensors").exists()
    assert len(list(workdir.glob("segmenter-*.safetensors"))) == 1
    assert "| images" not in outputs[1]


def test_two_hosts_train_as_one_does(trained, shared):
    (one, _), (two, _) = trained, shared
    for step, values in losses(one).items():
        np.testing.assert_allclose(losses(two)[step], values, rtol=1e-4)
    for step, terms in validation(one).items():
        assert validation(two)[step] == pytest.approx(terms, rel=1e-3)
    grids = [picture(workdir / "pictures" / "grid_00000003.png") for workdir in (one, two)]
    assert np.abs(grids[0] - grids[1]).max() <= 2


def test_two_hosts_evaluate_as_one_does(shared):
    workdir, _ = shared
    folder = workdir / "evaluation" / "6" / "ema"
    two = json.loads((folder / "metrics.json").read_text())
    pictures = {path: picture(path) for path in folder.glob("*.png")}
    assert len(pictures) == 2
    main.run(shared_experiment(), workdir, "evaluate")
    one = json.loads((folder / "metrics.json").read_text())
    assert one["layouts"] == two["layouts"] == 5
    for name, row in one["rows"].items():
        for column, value in row.items():
            assert two["rows"][name][column] == (value and pytest.approx(value, rel=1e-2))
    for path, image in pictures.items():
        assert np.abs(picture(path) - image).max() <= 2


def test_a_finished_run_has_nothing_to_do(trained, here):
    workdir, _ = trained
    assert "nothing to do: step 6 of 6" in here(workdir)


def test_sampling_and_evaluating_a_trained_run(trained, run, here, tmp_path):
    workdir, _ = trained
    output = run(
        workdir, "--mode=sample", "--config.sample.limit=3", f"--config.sample.output={tmp_path / 'samples'}"
    )
    assert "3 images in" in output
    assert len(list((tmp_path / "samples" / "images").glob("*.png"))) == 3
    assert len((tmp_path / "samples" / "manifest.jsonl").read_text().splitlines()) == 3

    keys = {"limit": 5, "segmenter_steps": 3, "segmenter_width": 8, "grid": 2}
    keys |= {"guidance": (1.0, 2.0), "corruptions": ("edge:0",)}
    output = here(workdir, "evaluate", {f"evaluate.{key}": value for key, value in keys.items()})
    folder = workdir / "evaluation" / "6" / "ema"
    assert "| real images (upper bound)" in output
    assert "guidance 2" in output
    assert str(folder / "grid.png") in output
    assert str(folder / "corrupted.png") in output
    table = json.loads((folder / "metrics.json").read_text())
    assert table["layouts"] == 5
    assert set(table["rows"]) == {
        "real images (upper bound)",
        "generated, guidance 1",
        "generated, guidance 2",
        "generated, guidance 1, edge:0",
        "generated, guidance 2, edge:0",
        "real images, layouts shuffled (lower bound)",
    }
    rows = table["rows"].values()
    assert [row["Frechet"] is None or row["Frechet"] > 0 for row in rows] == [True] * 6
    assert Image.open(folder / "grid.png").size[0] > 100
    assert len(list(workdir.glob("segmenter-*.safetensors"))) == 1


ABSORBING = {"layout.transition": "absorbing"}


def test_statistics_are_the_same_however_many_processes_count(here, start, tmp_path):
    output = here(tmp_path / "one", "stats", ABSORBING)
    assert re.search(r"^bird .*\d", output, re.MULTILINE)
    for picture in ("gamma.png", "masking.png"):
        assert Image.open(tmp_path / "one" / "pictures" / picture).size[0] > 100
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = ["--mode=stats", "--config.layout.transition=absorbing"]
    flags += [f"--coordinator=127.0.0.1:{port}", "--processes=2"]
    hosts = [start(tmp_path / "two", *flags, f"--process={i}") for i in range(2)]
    outputs = [host.communicate(timeout=200)[0] for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0], outputs[0][-2000:]
    one, two = (json.loads((tmp_path / n / "class_rates.json").read_text()) for n in ("one", "two"))
    assert one == two
    assert one["images"] == 32


def test_scdm_trains_on_what_was_counted_and_refuses_to_resume_on_other_rates(here, tmp_path):
    here(tmp_path, "stats", ABSORBING)
    keys = ABSORBING | {"train.grid": 0, "train.eval_batches": 0}
    assert "counting classes" not in here(tmp_path, "train", keys | {"train.steps": 2})
    path = tmp_path / "class_rates.json"
    path.write_text(path.read_text().replace('"rate": ', '"rate": 1'))
    with pytest.raises(ValueError, match=r"data\.rates"):
        here(tmp_path, "train", keys | {"train.steps": 4})


def test_corrupted_layouts_are_written_and_can_be_sampled_from(trained, run, here, tmp_path):
    workdir, _ = trained
    keys = {"evaluate.limit": 3, "evaluate.corruptions": ("random:0.5", "ds:2")}
    output = here(tmp_path, "corrupt", keys)
    layouts = tmp_path / "corrupted" / "random_0.5" / "labels" / "test"
    labels = np.stack([np.asarray(Image.open(p)) for p in sorted(layouts.glob("*.png"))])
    assert labels.shape == (3, 8, 8)
    assert 0.3 < (labels == 255).mean() < 0.7
    (hint,) = [line for line in output.splitlines() if line.startswith("to sample: ")]
    flags = hint.removeprefix("to sample: ").split()
    assert "--config.sample.unlabelled=255" in flags
    assert "3 images in" in run(workdir, *flags, f"--config.sample.output={tmp_path / 'out'}")


def test_a_full_disk_leaves_the_older_checkpoints_usable(trained, start, here, tmp_path):
    whole, _ = trained
    here(tmp_path, "train", {"train.steps": 2, "train.eval_every": 3, "train.grid": 0})
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))  # noqa: E731
    process = start(tmp_path, "--config.train.eval_every=3", preexec_fn=limit)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 1
    assert output.strip().splitlines()[-1].startswith(("error: ", "Complete checkpoints there: [2"))
    assert [p.name for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()] == ["2"]
    here(tmp_path, "train", {"train.eval_every": 3, "train.grid": 0})
    assert losses(tmp_path) == losses(whole)


BAD = [
    (
        "train",
        {"model.conditioning": "concatenate"},
        "config.model.conditioning is 'concatenate'; choose one of concat, spade",
    ),
    ("train", {"data.size": (9, 8), "model.multipliers": (1, 2)}, "9 x 8 .* multiples of 2"),
    ("train", {"data.source": "folder", "data.root": "/nowhere", "data.length": 0}, "/nowhere"),
    ("train", {"train.fsdp": 3}, "config.train.fsdp is 3"),
    ("train", {"train.batch_size": 0}, "batch_size"),
    ("sample", {}, "holds no checkpoint"),
    (
        "train",
        {"layout.transition": "mask"},
        "config.layout.transition is 'mask'; choose one of absorbing, none",
    ),
    ("train", ABSORBING | {"layout.rates": "ade20k"}, "rates=ade20k has 151 classes; scenes has 16"),
    ("train", ABSORBING | {"layout.rates": "/nowhere.npy"}, "/nowhere.npy: cannot be read"),
    ("corrupt", {"evaluate.corruptions": ("edge:x",)}, "the strength in 'edge:x' is 'x'"),
    ("train", {"sample.spacing": "tuned"}, "no times were tuned for 3 steps"),
]


@pytest.mark.parametrize(("mode", "changes", "words"), BAD, ids=[words[:25] for *_, words in BAD])
def test_bad_input_is_met_in_words(tmp_path, mode, changes, words):
    with pytest.raises(ValueError, match=words) as error:
        main.run(experiment(changes), tmp_path / "run", mode)
    assert cli.raised_here(error.value)  # then one line is all that is said


def test_what_is_said_of_bad_input_is_one_line(run, tmp_path):
    for flags, words in (
        (["--workdir=gs://bucket/run"], "--workdir=gs://bucket/run: remote folders are not supported"),
        (["--config.trian.steps=3"], "unknown key config.trian; did you mean config.train?"),
    ):
        output = run(tmp_path / "run", *flags, code=1)
        (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
        assert words in line
        assert "Traceback" not in output


class Left(Exception):
    """In the place of the end of the program."""


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--config.train.stepz=3", "unknown key config.train.stepz; did you mean config.train.steps?"),
        ("-config.xyz=3", "unknown key config.xyz; known keys: seed, data, model"),
        ("--config.seed.more=3", "unknown key config.seed.more; known keys: none"),
        ("--config=configs/nope.py", "there is no file configs/nope.py; here are configs/ade20k.py, "),
        ("--config=configs/nope.py:2", "there is no file configs/nope.py;"),
    ],
)
def test_flags_that_name_nothing_are_said_in_words(monkeypatch, argument, words):
    def leave(said):
        raise Left(said)

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(cli, "leave", leave)
    with pytest.raises(Left) as end:
        cli.parse_flags(["main.py", "--config=configs/ade20k.py:2", argument])
    assert words in str(end.value)


def test_a_checkpoint_of_another_network_is_refused_key_by_key(trained, here):
    workdir, _ = trained
    with pytest.raises(ValueError, match=r"config\.model\.spade_hidden: 4 there, 8 here"):
        here(workdir, "train", {"model.spade_hidden": 8, "train.steps": 9})


def test_training_starts_from_given_weights(trained, here, tmp_path):
    params, path = random_model(tiny_experiment()).params, tmp_path / "w.safetensors"
    save_weights(path, params, {})
    here(tmp_path / "a", "train", {"train.init": str(path), "train.steps": 1, "train.grid": 0})
    assert losses(tmp_path / "a")[1] != losses(trained[0])[1]
    output = here(tmp_path / "a", "sample", {"sample.weights": str(path), "sample.limit": 1})
    assert "1 images in" in output
    other = tmp_path / "other.safetensors"
    save_weights(other, {"a": params["conv_in"]}, {})
    with pytest.raises(ValueError, match="do not fit the network") as error:
        here(tmp_path / "b", "train", {"train.init": str(other)})
    assert cli.raised_here(error.value)
