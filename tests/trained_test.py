"""Models that are opened without their data: folders, files and workdirs; and what `semdiff.load` makes of them."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from tiny import changed, random_model, tiny_experiment
from toys import SIZE, experiment, pairs, write_world

import semdiff
from semdiff import inputs, trained
from semdiff.config import ConfigError, Layout
from semdiff.convert import sdm, weights
from semdiff.data.images import DataError
from semdiff.methods import build
from semdiff.modes import export, sample, train
from semdiff.parser import parse
from semdiff.training import checkpoint

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def model():
    """A random SCDM of the tiny experiment, with borders between instances."""
    config = replace(tiny_experiment(), layout=Layout(transition="absorbing", schedule="classwise"))
    plain = random_model(replace(config, layout=Layout()), "7/ema")
    rates = np.linspace(1, 50, plain.info.num_classes)
    method = build.build_method(config, plain.info, rates)
    return replace(plain, config=config, method=method, rates=rates, times=({"sampler": "ddim"},))


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("exported")
    (workdir / "evaluation" / "7" / "ema").mkdir(parents=True)
    metrics = {
        "layouts": 5,
        "rows": {"real": {"mIoU": 50.0, "Frechet": None}, "made": {"mIoU": 49.0, "Frechet": 0.5}},
    }
    (workdir / "evaluation" / "7" / "ema" / "metrics.json").write_text(json.dumps(metrics))
    return export.export(changed(model, export={"licence": "cc0-1.0"}), workdir)


@pytest.fixture
def without_data(monkeypatch):
    """No data set can be opened."""

    def gone(*_, **__):
        raise AssertionError("the data were opened")

    monkeypatch.setattr(inputs, "make_source", gone)


def folder_config(folder):
    spec = importlib.util.spec_from_file_location("config_model", ROOT / "configs" / "model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return parse(module.get_config(str(folder)))


def layouts_folder(root, count=2):
    rng = np.random.default_rng(0)
    for kind, top in (("labels", 16), ("instances", 4)):
        (root / kind).mkdir(parents=True)
        for i in range(count):
            ids = rng.integers(0, top, (8, 8), dtype=np.uint8)
            Image.fromarray(ids).save(root / kind / f"{i}.png")
    return root / "labels"


def test_a_model_folder_is_all_that_is_needed(model, folder, without_data, tmp_path):
    assert folder.name == "model-7-ema"
    found = trained.opened(folder_config(folder), tmp_path)
    jax.tree.map(np.testing.assert_array_equal, found.params, model.params)
    assert found.info == replace(model.info, has_captions=False)
    np.testing.assert_array_equal(found.rates, model.rates)
    assert found.times == model.times
    assert found.method.given.changes
    assert found.name.startswith("model-7-ema-")
    layouts = layouts_folder(tmp_path)
    made = [
        sample.sample(changed(m, sample={"layouts": str(layouts), "output": str(tmp_path / name)}), tmp_path)
        for name, m in (("a", model), ("b", found))
    ]
    for i in range(2):
        a, b = (np.asarray(Image.open(out / "images" / f"{i}_0.png")) for out in made)
        np.testing.assert_array_equal(a, b)


def test_the_card_says_what_it_is(folder):
    card = (folder / "README.md").read_text()
    head, body = card.split("---\n")[1:]
    assert "license: cc0-1.0" in head
    assert "arxiv:2402.16506" in head
    for words in (
        "SCDM",
        "16 classes",
        "8 x 8",
        "0 sky",
        "| real | 50.00 |  |",
        'load("model-7-ema")',
        "instance maps",
    ):
        assert words in body, words
    assert (folder / "classes.png").exists()
    written = json.loads((folder / "config.json").read_text())
    assert written["config"]["data"]["root"] == written["config"]["sample"]["weights"] == ""


def test_a_card_says_where_and_how_long_it_was_trained(tmp_path):
    assert export.made_on(tmp_path) == ""
    (tmp_path / "config.json").write_text('{"machine": "4 x TPU v5e"}')
    assert export.made_on(tmp_path) == "4 x TPU v5e"
    lines = (
        {"step": 100, "steps_per_second": 2.0},
        {"step": 100, "eval/mse": 1},
        {"step": 200, "steps_per_second": 1},
    )
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert export.made_on(tmp_path) == "4 x TPU v5e, about 2m 30s"


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("config.json", None, "is no model folder.*config.json"),
        ("config.json", "{", "is no model folder"),
        ("config.json", '{"format": "other"}', "format is not semdiff.model.1"),
        ("dataset.json", '{"num_classes": 0}', "neither .classes. nor a positive"),
        (
            "dataset.json",
            '{"num_classes": 16}',
            "names other classes .class 0, .* than the weights were trained for .sky",
        ),
        ("model.safetensors", None, "no such file"),
    ],
)
def test_a_damaged_folder_is_said(folder, tmp_path, name, change, words):
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    if change is None:
        (copy / name).unlink()
    else:
        (copy / name).write_text(change)
    with pytest.raises(ValueError, match=words):
        trained.opened(folder_config(copy), tmp_path)


def test_another_network_is_refused_key_by_key(folder, tmp_path):
    config = folder_config(folder)
    config = replace(config, process=replace(config.process, steps=60))
    with pytest.raises(checkpoint.CheckpointError, match=r"steps: 50 there, 60 here.*\n.*configs/model\.py:"):
        trained.opened(config, tmp_path)


def test_released_weights_need_no_data_either(without_data, tmp_path):
    """A .pt-like file of the official data sets: their classes are known."""
    config = tiny_experiment()
    config = replace(config, data=replace(config.data, source="ade20k", length=0))
    info = inputs.classes_of(config.data)
    method = build.build_method(config, info)
    shapes = jax.eval_shape(lambda k: method.init(k, (8, 8)), jax.random.key(0))
    params = jax.tree.map(lambda a: np.full(a.shape, 0.01, np.float32), shapes)
    path = tmp_path / "released.safetensors"
    weights.save_weights(path, params)
    found = trained.opened(replace(config, sample=replace(config.sample, weights=str(path))), tmp_path)
    assert found.info.names[3] == "floor"
    made = export.export(found, tmp_path)
    assert semdiff.load(made).classes == info.names
    for source in ("cityscapes", "celebamask_hq", "coco_stuff", "scenes"):
        assert inputs.classes_of(replace(config.data, source=source)).num_classes in (34, 19, 183, 16)
    assert inputs.classes_of(replace(config.data, source="folder")) is None


def test_a_pt_is_read_as_it_is(monkeypatch, tmp_path):
    seen = {}
    monkeypatch.setattr(trained.torch_file, "load", lambda path, flatten: {"of": path})
    monkeypatch.setattr(sdm, "to_semdiff", lambda tensors, **how: seen.update(how) or {"a": tensors["of"]})
    (tmp_path / "x.pt").touch()
    assert trained.read_weights(tmp_path / "x.pt", 2, 32) == ({"a": tmp_path / "x.pt"}, {})
    assert (seen["heads"], seen["head_width"]) == (2, 32)
    with pytest.raises(ConfigError, match=r"y\.pt: no such file; expected a model folder"):
        trained.read_weights(tmp_path / "y.pt")


def test_training_goes_on_from_a_model_folder(folder, model, tmp_path):
    config = folder_config(folder)
    config = replace(config, layout=Layout(), train=replace(config.train, init=str(folder)))
    run = train.prepare(config, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, run.state.params, model.params)
    run.checkpoints.close()


# semdiff.load


@pytest.fixture(scope="module")
def loaded(folder):
    return semdiff.load(folder, steps=2)


def maps(count=3, size=(8, 8)):
    rng = np.random.default_rng(1)
    return rng.integers(0, 16, (count, *size)), rng.integers(0, 4, (count, *size))


def test_layouts_in_images_out(loaded):
    layouts, instances = maps()
    images = loaded.sample(layouts, instances=instances)
    assert (images.shape, images.dtype) == ((3, 8, 8, 3), np.uint8)
    alone = loaded.sample(layouts[1], instances=instances[1])
    assert np.abs(alone[0].astype(int) - images[1]).max() <= 1
    several = loaded.sample(layouts, instances=instances, images=2)
    assert several.shape == (3, 2, 8, 8, 3)
    assert np.abs(several[:, 0].astype(int) - images).max() <= 1
    assert (several[:, 1] != images).any()
    assert (loaded.sample(layouts, instances=instances, seed=1) != images).any()
    assert (loaded.sample(layouts, instances=instances, guidance=3.0) != images).any()
    loaded.sample(layouts[0], instances=instances[0], seed=2)
    # A seed or a weight of guidance is no other program; one image alone is.
    assert [run.batch_size for run, _ in loaded._runners.values()] == [4, 1]
    large = [np.pad(layouts[0], 3), layouts[1]], [np.pad(instances[0], 3), instances[1]]
    own = loaded.sample(large[0], instances=large[1], size="own")
    assert [image.shape for image in own] == [(14, 14, 3), (8, 8, 3)]
    assert loaded.sample(large[0], instances=large[1]).shape == (2, 8, 8, 3)


def test_it_says_what_it_is(loaded):
    assert "16 classes of scenes, 8 x 8, 2 steps of ancestral, guidance 1.5" in repr(loaded)
    assert loaded.classes[0] == "sky"
    other = loaded.with_settings(steps=3, guidance=2)
    assert (other.settings.steps, other.settings.guidance, loaded.settings.steps) == (3, 2.0, 2)


def test_editing_keeps_the_rest(loaded):
    layouts, instances = maps(1)
    photo = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    mask = np.zeros((8, 8), bool)
    mask[2:5, 3:] = True
    [edited] = loaded.edit(photo, layouts, masks=mask, instances=instances)
    np.testing.assert_array_equal(edited[~mask], photo[~mask])
    assert (edited[mask] != photo[mask]).any()
    old = layouts[0].copy()
    old[0, 0] = (old[0, 0] + 1) % 16
    [edited] = loaded.edit(photo, layouts, old_layouts=old, instances=instances, margin=0)
    changed_at = (edited != photo).any(-1)
    assert not changed_at.ravel()[1:].any()


def test_pictures_and_files(loaded, tmp_path):
    layouts, instances = maps()
    images = loaded.sample(layouts, instances=instances, images=2)
    sheet = loaded.show(layouts, images, headers=["layout", "images"])
    assert sheet.width > 3 * 128
    coloured = loaded.palette[layouts[0]]
    Image.fromarray(coloured).save(tmp_path / "colours.png")
    Image.fromarray(layouts[0].astype(np.uint8)).save(tmp_path / "ids.png")
    for name in ("colours.png", "ids.png"):
        np.testing.assert_array_equal(loaded.read_layout(tmp_path / name), layouts[0])
    Image.fromarray(np.full((8, 8), 77, np.uint8)).save(tmp_path / "wrong.png")
    with pytest.raises(DataError, match=r"77 \(64 pixels\).*0 sky, "):
        loaded.read_layout(tmp_path / "wrong.png")


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda m, a, b: m.sample(a), "was trained with borders between instances: give instances"),
        (lambda m, a, b: m.sample(a + 20, instances=b), "holds 2., which is no class. Expected 0..15, or 16 .*0 sky"),
        (lambda m, a, b: m.sample(a / 2, instances=b), "a layout is of float64"),
        (lambda m, a, b: m.sample(a[None], instances=b), r"got arrays of shape \(3, 8, 8\); expected layouts"),
        (lambda m, a, b: m.sample(a, instances=b, stepz=3), "unknown key config.sample.stepz; did you mean .*steps"),
        (lambda m, a, b: m.sample(a, instances=b, steps="3"), "config.sample.steps is '3', a str"),
        (lambda m, a, b: m.edit(a, a, instances=b), "give either masks or old_layouts"),
        (lambda m, a, b: m.segment(np.zeros((8, 8, 3), np.uint8)), "makes images of layouts and no layouts of images"),
        (lambda m, a, b: m.score(np.zeros((3, 8, 8, 3), np.uint8), a), "holds no segmenter"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said(loaded, ask, words):
    with pytest.raises(ConfigError, match=words):
        ask(loaded, *maps())


def test_no_model_is_said(tmp_path):
    with pytest.raises(ConfigError, match="neither a model folder"):
        semdiff.load(tmp_path)


def test_a_workdir_is_a_model_too_and_one_of_both_halves_segments(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "build_method", pairs)
    config = experiment(write_world(tmp_path / "world"), 60)
    train.train(config, tmp_path / "run")
    model = semdiff.load(tmp_path / "run")
    photos = np.full((2, *SIZE, 3), (220, 40, 40), np.uint8)
    layouts = model.segment(photos, draws=3)
    assert layouts.shape == (2, *SIZE)
    assert (layouts == 0).mean() > 0.9
    np.testing.assert_array_equal(layouts[0], model.segment(photos[0], draws=3)[0])


def test_a_segmenter_goes_with_the_model(model, tmp_path):
    from semdiff.modes import evaluate

    plain = changed(model, evaluate={"segmenter_steps": 2, "segmenter_width": 8})
    evaluate.build_reader(plain.config, plain.info, tmp_path)
    loaded = semdiff.load(export.export(plain, tmp_path))
    found = loaded.score(np.zeros((2, 8, 8, 3), np.uint8), maps(2)[0])
    assert 0 <= found["mIoU"] <= 100
    assert set(found["iou"]) <= set(loaded.classes)
