"""What flags and keys name: paths of this machine, and nothing else."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import tiny_control, tiny_experiment

from semdiff import inputs, main, pretrained, trained
from semdiff.config import ConfigError
from semdiff.machine.paths import local_path, prepare_workdir
from semdiff.methods import build, space
from semdiff.models.latent.autoencoder import Autoencoder
from semdiff.modes import edit, evaluate
from semdiff.trained import Trained
from semdiff.training import checkpoint

REMOTE = "gs://bucket/x"


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty current folder: what is taken for a relative path appears here."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "written", ["run", "/run", "a:/b", "C:/run", "a//b", "://x", "run/gs://x", "a b://c"]
)
def test_paths_of_this_machine(written):
    assert local_path(written, "--workdir") == Path(written)
    assert local_path(Path(written), "--workdir") == Path(written)


def test_the_home_is_known(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    assert local_path("~/run", "--workdir") == Path("/somewhere/run")


@pytest.mark.parametrize("written", [REMOTE, "s3://x", "file:///x", "http://x/y", Path(REMOTE)])
def test_remote_paths_are_refused(written):
    with pytest.raises(ConfigError, match=r"--workdir=\w+://.*remote folders are not supported.*mount"):
        local_path(written, "--workdir")


def experiment(**parts):
    return with_keys(tiny_experiment(), parts)


def in_latents(**parts):
    return with_keys(tiny_control(), parts)


def with_keys(config, parts):
    return replace(config, **{part: replace(getattr(config, part), **keys) for part, keys in parts.items()})


def scenes():
    return inputs.training_source(tiny_experiment().data, 0).info


def output_of(mode, monkeypatch, **parts):
    monkeypatch.setattr(main.trained, "opened", lambda config, workdir: model_of(config))
    main.run(experiment(**parts), Path("run"), mode)


def model_of(config):
    return Trained(config, build.build_method(config, scenes()), {}, "w", scenes())


def edit_of(**folders):
    c = {"images": "i", "layouts": "l", "masks": "m"} | folders
    edit.edit(model_of(experiment(edit=c, data={"edges": False})), Path("out"))


NAMED = {
    "--workdir": lambda _: prepare_workdir(REMOTE),
    "--workdir ": lambda _: checkpoint.Checkpoints(REMOTE, save_every=1),
    "config.data.root": lambda _: inputs.training_source(
        experiment(data={"source": "folder", "root": REMOTE, "length": 0}).data, 0
    ),
    "config.sample.layouts": lambda _: inputs.layouts_source(REMOTE, scenes(), False),
    "config.edit.layouts": lambda _: edit_of(layouts=REMOTE),
    "config.edit.old_layouts": lambda _: edit_of(masks="", layouts="labels", old_layouts=REMOTE),
    "config.layout.rates": lambda _: inputs.class_rates(
        experiment(layout={"transition": "absorbing", "rates": REMOTE}),
        inputs.training_source(tiny_experiment().data, 0),
        Path("run"),
    ),
    "config.train.init": lambda _: pretrained.initial(experiment(train={"init": REMOTE}), None),
    "config.space.weights": lambda _: pretrained.space_of(
        in_latents(space={"weights": REMOTE}), space.Latents(Autoencoder(), 1.0), None
    ),
    "config.data.prompts": lambda _: inputs.prompts(in_latents(data={"prompts": REMOTE})),
    "config.data.latents": lambda _: inputs.encoded(in_latents(data={"latents": REMOTE}), None),
    "config.sample.weights": lambda _: trained.opened(experiment(sample={"weights": REMOTE}), Path("run")),
    "config.sample.prior_file": lambda _: model_of(
        experiment(sample={"prior": "joint", "prior_file": REMOTE})
    ).ready(),
    "config.sample.output": lambda patch: output_of("sample", patch, sample={"output": REMOTE}),
    "config.edit.output": lambda patch: output_of("edit", patch, edit={"output": REMOTE}),
    "config.evaluate.segmenter": lambda _: evaluate.build_reader(
        experiment(evaluate={"segmenter": REMOTE}), scenes(), Path("run")
    ),
    "config.compilation_cache": lambda patch: main.run(
        replace(tiny_experiment(), compilation_cache=REMOTE), Path("run"), "train"
    ),
}


@pytest.mark.parametrize("key", NAMED)
def test_every_key_that_names_a_path_refuses_remote_ones(elsewhere, monkeypatch, key):
    (elsewhere / "labels").mkdir()
    (elsewhere / "labels" / "a.png").write_bytes(b"")
    with pytest.raises(ConfigError, match=rf"{key.strip()}=gs://bucket/x: remote folders are not supported"):
        NAMED[key](monkeypatch)
    assert [p.name for p in elsewhere.iterdir()] == ["labels"]


@pytest.mark.parametrize("key", ["images", "masks"])
def test_folders_of_an_edit_refuse_remote_ones(elsewhere, key):
    (elsewhere / "i").mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save("i/a.png")
    c = replace(tiny_experiment().edit, **{"images": "i", "layouts": "l", "masks": "m"} | {key: REMOTE})
    example = {"name": "a", "layout": np.zeros((8, 8), np.uint8)}
    with pytest.raises(ConfigError, match=rf"config\.edit\.{key}=gs://bucket/x: remote"):
        next(edit.edit_tasks(None, example, None, c, tiny_experiment().sample))


def test_an_unwritable_workdir_is_refused_in_words(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot write to the workdir .*file/run"):
        prepare_workdir(tmp_path / "file" / "run")
