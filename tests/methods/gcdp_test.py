"""Both halves from words, and from each other: what is sampled, segmented, evaluated, taken along."""

import contextlib
import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tiny import changed, classes, random_model, random_params, tiny_experiment, tiny_pairs

import semdiff
from semdiff import inputs, trained
from semdiff.config import ConfigError, Sample
from semdiff.convert import weights
from semdiff.data import pipeline, prompts
from semdiff.data.classes import as_json
from semdiff.data.readers.folder import Folder
from semdiff.diffusion import gaussian, guidance, joint, losses
from semdiff.diffusion.joint import ByHalf
from semdiff.methods import build
from semdiff.methods.given import TextGiven
from semdiff.methods.method import Method
from semdiff.modes import evaluate, export, sample, segment, train
from semdiff.sampling import chains, tasks
from semdiff.training import checkpoint
from semdiff.training.trainer import Trainer


@pytest.fixture(scope="module")
def model():
    """A random network of both halves, told of the words of scenes."""
    return random_model(tiny_pairs())


def run(model, folder, **keys):
    return sample.sample(changed(model, sample=keys | {"output": str(folder)}), folder)


def made_in(folder):
    read = lambda kind: {p.name: np.asarray(Image.open(p)) for p in sorted((folder / kind).glob("*.png"))}  # noqa: E731
    return read("images"), read("labels")


def captions_file(folder, lines=("a car on a city street at night", "two boats", "a zebra")):
    path = folder / "captions.txt"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_captions_become_images_with_their_layouts(model, tmp_path, capsys):
    out = run(model, tmp_path / "out", captions=captions_file(tmp_path), per_layout=2)
    assert "words that were in no caption of the training: boats, zebra" in capsys.readouterr().out
    images, labels = made_in(out)
    assert len(images) == len(labels) == 6
    assert images["caption_00001_0.png"].shape == (8, 8, 3)
    assert len({label.tobytes() for label in labels.values()}) == 6  # each was drawn with its image
    assert all(label.max() < 16 for label in labels.values())
    again = Folder(out, "train")  # the folder can be trained on as it is
    assert again.info.has_captions
    assert again[0]["caption"] == "a car on a city street at night"


def test_an_image_depends_on_its_caption(model, tmp_path):
    params = jax.tree.map(lambda a: 3 * a, model.params)
    strong = replace(model, params=params)
    one, _ = made_in(run(strong, tmp_path / "one", captions=captions_file(tmp_path), batch_size=1))
    all_at_once, _ = made_in(run(strong, tmp_path / "all", captions=captions_file(tmp_path)))
    for name, image in one.items():
        assert np.abs(image.astype(int) - all_at_once[name]).max() <= 1
    assert (one["caption_00001_0.png"] != one["caption_00002_0.png"]).any()


def test_nothing_need_be_said(model, tmp_path):
    images, labels = made_in(run(model, tmp_path / "out", captions="none", limit=2, per_layout=2))
    assert len(images) == len({image.tobytes() for image in images.values()}) == len(labels) == 4


def test_a_network_of_another_encoder_is_told_nothing(tmp_path):
    """As released ones are, which read the states of T5."""
    config = tiny_pairs()
    info = inputs.training_source(config.data, 0).info
    method = build.build_method(config, info)
    released = trained.Trained(config, method, random_params(method, config.data.size), "x", info)
    images, labels = made_in(run(released, tmp_path / "out", captions="none", limit=2))
    assert len(images) == len(labels) == 2
    with pytest.raises(ConfigError, match="not told of words"):
        run(released, tmp_path / "words", captions=captions_file(tmp_path))


def partial_layouts(folder, classes=16, size=(8, 8)):
    rng = np.random.default_rng(0)
    (folder / "labels").mkdir(parents=True)
    for i in range(2):
        layout = rng.integers(0, classes, size, dtype=np.uint8)
        layout[:3] = 255
        Image.fromarray(layout).save(folder / "labels" / f"{i}.png")
    return folder / "labels"


def test_layouts_are_held_and_what_has_no_label_is_drawn(model, tmp_path):
    folder = partial_layouts(tmp_path)
    _, labels = made_in(run(model, tmp_path / "out", layouts=str(folder), unlabelled=255))
    for i in range(2):
        given = np.asarray(Image.open(folder / f"{i}.png"))
        np.testing.assert_array_equal(labels[f"{i}_0.png"][3:], given[3:])
        assert (labels[f"{i}_0.png"][:3] < 16).all()


def test_photographs_become_layouts(model, tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for name, size in (("a", (8, 8)), ("b", (20, 12))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(
            tmp_path / "in" / f"{name}.png"
        )
    keys = {
        "images": str(tmp_path / "in"),
        "draws": 3,
        "probabilities": True,
        "output": str(tmp_path / "out"),
    }
    out = segment.segment(changed(model, segment=keys), tmp_path)
    for name, size in (("a", (8, 8)), ("b", (20, 12))):
        label = np.asarray(Image.open(out / "labels" / f"{name}.png"))
        assert (label.shape, label.dtype, bool((label < 16).all())) == (size, np.uint8, True)
        shares = np.load(out / "probabilities" / f"{name}.npz")["shares"]
        np.testing.assert_allclose(shares.astype(float).sum(-1), 1, atol=1e-2)
        assert shares.shape == (8, 8, 16)
        assert np.asarray(Image.open(out / "coloured" / f"{name}.png")).shape == (size[0], 2 * size[1], 3)
    np.testing.assert_array_equal(
        np.asarray(Image.open(out / "labels" / "a.png")), shares_of(out, "a").argmax(-1)
    )


def shares_of(out, name):
    return np.load(out / "probabilities" / f"{name}.npz")["shares"]


def test_evaluation_reads_pairs_and_each_half_from_the_other(model, tmp_path):
    keys = {"segmenter_steps": 2, "segmenter_width": 8, "limit": 4, "grid": 1}
    out = evaluate.evaluate(changed(model, evaluate=keys), tmp_path)
    rows = json.loads((out / "metrics.json").read_text())["rows"]
    pairs, images, layouts = (
        rows[f"{name}, guidance 1.5"]
        for name in ("generated pairs", "images of layouts", "layouts of images")
    )
    assert 0 <= pairs["named"] <= 100
    assert pairs["Frechet layouts"] > 0
    assert images["Frechet"] > 0
    assert images["named"] is layouts["Frechet"] is layouts["named"] is None
    assert "named" in (out / "table.md").read_text()
    width = np.asarray(Image.open(out / "grid.png")).shape[1]
    assert width > 8 * 128  # layout, real, three times a layout with its image


def test_a_pairs_row_is_of_the_layouts_made_with_the_images(model):
    layouts = np.zeros((2, 8, 8), np.int32)
    layouts[1] = 3

    def reader(images):
        return images[..., 0].astype(np.int32)

    reader.features = lambda images: images.reshape(len(images), -1)[:, :2].astype(float)
    judge = evaluate.Judge(reader, classes(5), layouts, np.zeros((2, 8, 8, 3), np.uint8), 2)
    made = np.full((2, 8, 8), 2)
    images = np.repeat(made[..., None], 3, -1).astype(np.uint8)
    row = judge.pairs("x", images, made, ["class 2 and class 4", "class 2"])
    assert row.confusion.accuracy == 1
    assert row.named == pytest.approx(100 * 2 / 3)
    assert row.frechet_layouts > 0.5
    assert judge.pairs("x", images, layouts, ["", ""]).frechet_layouts == pytest.approx(0, abs=1e-6)
    assert judge.drawn("x", layouts).confusion.accuracy == 1


def test_the_words_go_with_the_model(tmp_path):
    config = tiny_pairs()
    data = build.opened(config, tmp_path)
    state = Trainer.build(config, data.method).fresh(random_params(data.method, config.data.size))
    about = checkpoint.describe(config, data.identity, as_json(data.info))
    checkpoints = checkpoint.Checkpoints(tmp_path, save_every=1)
    checkpoints.save(2, jax.device_put(state), about, force=True)
    checkpoints.close()
    words = json.loads((tmp_path / "vocabulary.json").read_text())["words"]
    opened = trained.of_workdir(config, tmp_path)
    assert list(opened.language.words) == words
    assert opened.language == inputs.language(config, None, tmp_path)
    loaded = semdiff.load(export.export(opened, tmp_path))
    assert loaded.trained.language == opened.language
    images, layouts = loaded.pairs(["a car", "a boat at night"], images=2, steps=2)
    assert (images.shape, layouts.shape) == ((2, 2, 8, 8, 3), (2, 2, 8, 8))
    alone, _ = loaded.pairs("a car", steps=2)
    assert np.abs(alone[0].astype(int) - images[0, 0]).max() <= 1
    partial = np.full((8, 8), 16)
    partial[4:] = 3
    [image] = loaded.sample(partial, captions=["a car"], steps=2)
    assert image.shape == (8, 8, 3)
    card = (tmp_path / "model-2-ema" / "README.md").read_text()
    assert "GCDP" in card
    assert "model.pairs(" in card
    (tmp_path / "vocabulary.json").write_text(json.dumps({"words": [*words[:-1], "other"]}))
    with pytest.raises(ValueError, match=r"data\.words"):
        train.prepare(config, tmp_path)
    (tmp_path / "vocabulary.json").write_text("{")
    with pytest.raises(ConfigError, match=r"vocabulary\.json is damaged"):
        train.prepare(config, tmp_path)


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda m: built(m, layout={"transition": "none"}), "transition is none, but"),
        (lambda m: built(m, layout={"schedule": "classwise"}), "rate per class"),
        (lambda m: built(m, layout={"schedule": "linear", "power": 2.0}), "power is 2.0"),
        (lambda m: built(m, data={"size": (12, 9)}), "12 x 9 .* multiples of 4"),
        (lambda m: run(m, "x", captions="/nowhere.txt"), "nowhere.txt: cannot be read"),
        (lambda m: segment.segment(m, "x"), "config.segment.images is empty"),
        (lambda m: evaluate.evaluate(changed(m, evaluate={"corruptions": ("ds",)}), "x"), "this model generates layouts"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said(model, ask, words):
    with pytest.raises(ValueError, match=words):
        ask(model)


def built(model, **keys):
    return build.build_method(changed(model, **keys).config, model.info, np.ones(16))


def test_networks_of_layouts_take_no_words(tmp_path):
    plain = random_model(tiny_experiment())
    with pytest.raises(ConfigError, match="this model is not told of words"):
        run(plain, tmp_path, captions=captions_file(tmp_path))
    with pytest.raises(ConfigError, match="makes images of layouts and no layouts"):
        segment.segment(plain, tmp_path)
    with pytest.raises(ConfigError, match=r"transition is uniform, but config\.model\.kind spade_unet"):
        built(plain, layout={"transition": "uniform", "schedule": "cosine"})


ENCODER = prompts.Encoder("toy", "abc")


def states_folder(folder, names, encoder=ENCODER):
    """Random states of a caption of each name, of 1 to 3 places."""
    rng, c = np.random.default_rng(0), tiny_pairs().model
    folder.mkdir()
    states = [rng.normal(size=(1 + i % 3, c.text_width)) for i in range(len(names))]
    prompts.write_shard(folder, 0, states)
    captions = [(name, f"of {name}") for name in names]
    prompts.write_about(folder, encoder, (c.text_length, c.text_width), captions)
    return folder


def test_states_of_an_encoder_stand_in_the_place_of_words(tmp_path):
    config = tiny_pairs()
    folder = states_folder(tmp_path / "states", [f"train_{i:06}" for i in range(16)])
    config = replace(config, data=replace(config.data, prompts=str(folder)))
    data = build.opened(config, tmp_path)
    assert (data.language, data.method.network.unet.vocabulary) == (ENCODER, 0)
    assert not (tmp_path / "vocabulary.json").exists()
    batches = pipeline.train_iterator(data.source, **inputs.training_options(config))
    with contextlib.closing(batches):
        batch = next(batches)
    condition = data.method.given.condition(batch)
    assert set(np.asarray(condition["mask"]).sum(1)) <= {1, 2, 3}
    np.testing.assert_array_equal(condition["mask"], (batch["state"] != 0).any(-1))

    params = random_params(data.method, config.data.size)
    model = trained.Trained(config, data.method, params, "2/ema", data.info, language=ENCODER)
    loaded = semdiff.load(export.export(model, tmp_path))
    assert loaded.trained.language == ENCODER
    states = prompts.read(folder).of_row(2)[None]
    one, other = (loaded.pairs(s.astype(np.float32), steps=2)[0] for s in (states, -states))
    assert (one != other).any()
    with pytest.raises(
        ConfigError, match=r"reads captions as states of toy \(abc\): give these, float \[N, up to 12, 8\]"
    ):
        loaded.pairs(["a car"])

    out = run(loaded.trained, tmp_path / "out", captions=str(folder), limit=3, steps=2)
    assert sorted(path.stem for path in (out / "images").glob("*.png")) == [
        f"train_{i:06}_0" for i in range(3)
    ]
    made = np.asarray(Image.open(out / "images" / "train_000002_0.png"))
    assert np.abs(made.astype(int) - one[0]).max() <= 1  # the image of its states, wherever they come from
    others = states_folder(tmp_path / "others", ["a"], prompts.Encoder("toy", "xyz"))
    with pytest.raises(
        ConfigError, match=r"are of toy \(xyz\), but the network was trained with those of toy \(abc\)"
    ):
        run(loaded.trained, tmp_path / "x", captions=str(others))
    with pytest.raises(
        ConfigError, match=r"reads captions as states of toy \(abc\)\. Encode them by `python -m"
    ):
        run(loaded.trained, tmp_path / "x", captions=captions_file(tmp_path))
    weights.save_weights(tmp_path / "released.safetensors", params)
    released = trained.of_file(tiny_pairs(), tmp_path / "released.safetensors", tmp_path)
    asked = inputs.captions(released.config, released.info, released.language, str(others), "captions")
    assert asked[0]["states"].any()  # of whatever encoder: it does not say
    with pytest.raises(ConfigError, match=r"text_length is 12 and text_width 4, but .* have 12 states of 8"):
        build.opened(replace(config, model=replace(config.model, text_width=4)), tmp_path)


def test_absent_words_are_a_mask_of_nothing():
    given = TextGiven(4, dropout=0.5)
    condition = given.condition({"text": jnp.array([[3, 4, 0, 0]] * 64)})
    np.testing.assert_array_equal(condition["mask"][0], [True, True, False, False])
    null = given.null(condition)
    assert not null["mask"].any()
    dropped = given.drop(condition, jax.random.split(jax.random.key(0), 64))
    gone = ~np.asarray(dropped["mask"]).any(1)
    assert 16 < gone.sum() < 48
    np.testing.assert_array_equal(np.asarray(dropped["text"])[~gone], np.asarray(condition["text"])[~gone])


def test_guided_logits_and_guided_log_probabilities_are_the_same_probabilities():
    logits, null = jax.random.normal(jax.random.key(0), (2, 2, 4, 4, 5))
    guide = guidance.Guidance(1.0, layout_weight=3.0)
    assert guide.needs_null
    raw = guide.combine_logits(logits, null)
    normalised = guide.combine_logits(jax.nn.log_softmax(logits), jax.nn.log_softmax(null))
    np.testing.assert_allclose(jax.nn.softmax(raw), jax.nn.softmax(normalised), rtol=1e-4)
    assert np.abs(jax.nn.softmax(raw) - jax.nn.softmax(logits)).max() > 0.1


def test_held_halves_free_what_is_no_class(model):
    layout = np.zeros((8, 8), np.int32)
    layout[2] = 16
    [task] = tasks.tasks_of(model.method, {"name": "a", "layout": layout}, model.config.sample)
    held = tasks.held(task, model.method, layout=layout)
    assert isinstance(held.known, ByHalf)
    np.testing.assert_array_equal(held.free.layout, layout == 16)
    assert held.known.layout.max() == 0
    assert held.known.image is None


# The grey of each class, in a world where one half says all of the other.
LEVELS = np.array([10, 90, 170, 250])


class Seer:
    """Reads each half from the other, and knows nothing unless that other one is shown as at the first step."""

    clock, size_multiple, two_clocks = "steps", 1, True

    def apply(self, params, state, time, condition, dropout_keys=None):
        sees = {half: getattr(time, half) == 0 for half in ("image", "layout")}
        grey = jnp.asarray(LEVELS / 127.5 - 1, jnp.float32)
        image = jnp.where(sees["layout"], grey[jnp.clip(state.layout, 0, 3)].T, 0.0).T
        logits = -1e3 * (state.image.mean(-1, keepdims=True) - grey) ** 2
        logits = jnp.where(sees["image"], logits.T, 0.0).T
        return ByHalf(jnp.repeat(image[..., None], 3, -1), logits)

    def cache(self, params, condition):
        return None


@pytest.mark.parametrize("half", ["image", "layout"])
def test_a_network_of_two_clocks_is_shown_what_is_held_as_it_is(half):
    pairs = build.build_method(tiny_pairs(), classes(4), words=3).process
    process = joint.Process(gaussian.Gaussian(pairs.image.schedule, "x0", "small"), pairs.layout)
    method = Method(process, Seer(), TextGiven(2, 0.0, 0))
    layout = np.random.default_rng(0).integers(0, 4, (2, 8, 8)).astype(np.int32)
    image = np.repeat(LEVELS[layout][..., None], 3, -1).astype(np.uint8)
    generate = chains.build_generate(method, Sample(sampler="ddim", steps=1, guidance=1.0))
    condition = {"text": np.zeros((2, 2), np.int32), "mask": np.zeros((2, 2), bool)}
    known = ByHalf(**{half: image if half == "image" else layout})
    made = generate({}, condition, jax.random.split(jax.random.key(0), 2), (8, 8), known, ByHalf())
    np.testing.assert_array_equal(made.layout, layout)
    assert np.abs(made.image.astype(int) - image).max() <= 1


def test_one_half_is_learned_given_the_other():
    """What is known does not count: with the image always known where it is not noised, the loss is the layout's."""
    config = changed(random_model(tiny_pairs()), loss={"known": 0.9}).config
    source = inputs.training_source(config.data, 0)
    method = build.build_method(config, source.info, words=3)
    params = random_params(method, config.data.size)
    assert "level_layout" in params
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (32, 8, 8, 3), np.uint8),
        "layout": rng.integers(0, 16, (32, 8, 8)).astype(np.int32),
        "text": np.zeros((32, 12), np.int32),
    }
    keys = jax.random.split(jax.random.key(0), 32)
    terms, _, _ = jax.jit(method.loss)(params, batch, keys, losses.UniformTime(50))
    shown = np.asarray(terms["mse"] == 0), np.asarray(terms["layout"] == 0)
    assert 6 < shown[0].sum() < 22
    assert 6 < shown[1].sum() < 22
    assert not (shown[0] & shown[1]).any()
    weight = config.loss.layout_weight
    np.testing.assert_allclose(terms["loss"][shown[0]], weight * terms["layout"][shown[0]], rtol=1e-5)
