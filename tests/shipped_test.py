"""The models that come with semdiff."""

from pathlib import Path

import numpy as np
import pytest

import semdiff
from semdiff import shipped, trained
from semdiff.config import ConfigError
from semdiff.data.scenes import Scenes

LIMIT = 12e6  # bytes of weights


@pytest.mark.parametrize("name", shipped.names())
def test_a_shipped_model_is_small_and_is_what_its_card_says(name):
    folder = shipped.HERE / name
    assert (folder / trained.WEIGHTS).stat().st_size <= LIMIT
    card = (folder / trained.CARD).read_text()
    assert f"sha256 {trained.digest(folder / trained.WEIGHTS)}" in card
    for row in (
        "license: cc0-1.0",
        "| command | `make models` |",
        "| trained for |",
        "| on |",
        "| real images",
    ):
        assert row in card, row


@pytest.mark.parametrize("name", shipped.names())
def test_a_shipped_model_is_loaded_by_its_name_and_draws_what_it_is_told(name):
    model = semdiff.load(name, batch_size=1)
    assert model.classes == Scenes.info.names
    example = Scenes(seed=1, length=1, size=model.size)[0]
    [image] = model.sample(example["layout"], instances=example["instance"] if model.trained.edges else None)
    assert image.shape == (*model.size, 3)
    sky = example["layout"] == model.classes.index("sky")
    assert sky.mean() > 0.05
    apart = np.abs(image[sky].mean(0) - example["image"][sky].mean(0)).mean()
    assert apart < 60  # grey to it: a network that had learned nothing would be further


def test_a_folder_of_that_name_goes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shipped, "names", lambda: ["these"])
    assert shipped.or_shipped(Path("these")) == shipped.HERE / "these"
    (tmp_path / "these").mkdir()
    assert shipped.or_shipped(Path("these")) == Path("these")
    assert shipped.or_shipped(Path("those")) == Path("those")


def test_a_name_that_is_not_shipped_is_refused_in_words(monkeypatch):
    monkeypatch.setattr(shipped, "names", lambda: ["these"])
    with pytest.raises(
        ConfigError, match=r"nonsense is neither .* as runs/demo, or a name: these comes with semdiff"
    ):
        semdiff.load("nonsense")
