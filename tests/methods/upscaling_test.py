"""The second stage: what it is given, and a cascade from words to large pairs."""

from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tiny import changed, random_model, tiny_experiment, tiny_pairs

from semdiff import api, inputs, trained
from semdiff.config import ConfigError
from semdiff.diffusion import schedules
from semdiff.diffusion.joint import ByHalf
from semdiff.methods import build
from semdiff.methods.upscaling import SMALL, WORDS
from semdiff.modes import export, sample
from semdiff.sampling import tasks
from semdiff.sampling.tasks import Enlarger, Task
from semdiff.training.trainer import Trainer

SIZE, FACTOR = (16, 16), 2


def second_config():
    config = tiny_pairs()
    data, model = replace(config.data, size=SIZE), replace(config.model, upscales=FACTOR)
    return replace(config, data=data, model=model)


@pytest.fixture(scope="module")
def second():
    return random_model(second_config())


@pytest.fixture(scope="module")
def small(second):
    return second.method.given.parts[SMALL]


def batch(count=4):
    rng = np.random.default_rng(0)
    image, layout = rng.integers(0, 256, (count, *SIZE, 3), np.uint8), rng.integers(0, 16, (count, *SIZE))
    return {"image": image, "layout": layout.astype(np.int32), "text": np.ones((count, 12), np.int32)}


def enlarged(array):
    return array.repeat(FACTOR, -3 if array.shape[-1] == 3 else -2).repeat(
        FACTOR, -2 if array.shape[-1] == 3 else -1
    )


def test_training_is_given_its_own_pair_reduced(small):
    given, b = small.condition(batch()), batch()
    means = b["image"].reshape(4, 8, 2, 8, 2, 3).mean((2, 4)) / 127.5 - 1
    np.testing.assert_allclose(given["image"], enlarged(means), atol=1e-6)
    np.testing.assert_array_equal(given["layout"], enlarged(b["layout"][:, 1::2, 1::2]))
    first = schedules.log_snr(small.process.image.schedule, jnp.ones((), int))
    np.testing.assert_allclose(given["log_snr"], first)


def test_it_is_noised_up_to_a_time_of_its_own_which_is_told(small):
    """x = alpha x_0 + sigma eps at the log SNR that is said, whatever t is; classes are kept as often as q keeps them."""
    count = 4000
    flat = {"image": np.full((count, 2, 2, 3), 191, np.uint8), "layout": np.full((count, 2, 2), 3, np.int32)}
    keys = jax.random.split(jax.random.key(0), count)
    clean = small.condition(flat)
    seen = small.at(clean, jnp.full(count, 7), small.noise(clean, keys))
    log_snr = np.asarray(seen["log_snr"], np.float64)[:, None, None, None]
    alpha, sigma = np.sqrt(1 / (1 + np.exp(-log_snr))), np.sqrt(1 / (1 + np.exp(log_snr)))
    eps = (np.asarray(seen["image"]) - alpha * np.asarray(clean["image"])) / sigma
    assert abs(eps.mean()) < 0.02
    assert eps.std() == pytest.approx(1, abs=0.02)
    times = np.asarray(small.noise(clean, keys)[0])
    assert times.min() == 1
    assert times.max() == small.process.num_steps
    assert times.mean() == pytest.approx(small.process.num_steps / 2, rel=0.05)
    kept = (np.asarray(seen["layout"]) == 3).reshape(count, -1).mean(1)
    early = times < 0.2 * small.process.num_steps
    assert kept[early].mean() > 0.9
    assert kept[times > 0.9 * small.process.num_steps].mean() < 0.2


def test_words_are_what_guidance_steers_from_and_the_pair_stays(second):
    given = second.method.given
    condition = given.condition(batch())
    null = given.null(condition)
    assert not null[WORDS]["mask"].any()
    jax.tree.map(np.testing.assert_array_equal, null[SMALL], condition[SMALL])


def test_a_step_trains_and_the_network_sees_the_small_pair(second):
    method, params = second.method, second.params
    keys = jax.random.split(jax.random.key(0), 4)
    trainer = Trainer.build(second.config, method)
    sampler = trainer.fresh(params).time_sampler

    def loss(params, b):
        return method.loss(params, b, keys, sampler)[0]["loss"].mean()

    value, grads = jax.jit(jax.value_and_grad(loss))(params, batch())
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    assert np.abs(grads["labels_low"]["embedding"]).max() > 0
    state, at = method.encode(params, batch()["image"], batch()["layout"]), jnp.full(4, 10)
    condition = method.given.condition(batch())
    other = condition | {SMALL: condition[SMALL] | {"layout": (condition[SMALL]["layout"] + 1) % 16}}
    one, two = (method._apply(params, state, at, given) for given in (condition, other))
    assert np.abs(one.image - two.image).max() > 1e-4


@dataclass(frozen=True)
class Copies:
    """A network that answers with the small pair that it is given."""

    clock: ClassVar = "log_snr"
    two_clocks: ClassVar = False
    size_multiple: ClassVar = 1

    def apply(self, params, state, time, condition, dropout_keys=None):
        alpha, sigma = (jnp.sqrt(jax.nn.sigmoid(s * time))[:, None, None, None] for s in (1, -1))
        eps = (state.image - alpha * condition[SMALL]["image"]) / sigma
        return ByHalf(eps, 50 * jax.nn.one_hot(condition[SMALL]["layout"], 16))

    def cache(self, params, condition):
        return None


def test_a_pair_that_is_copied_is_the_small_one_enlarged(second):
    """Whatever becomes of tasks, batches and keys on the way."""
    method, c = replace(second.method, network=Copies()), replace(second.config.sample, guidance=1.0, steps=5)
    enlarge = Enlarger("copies", method, {}, replace(c, batch_size=2), SIZE, None, small_noise=0.0)
    rng = np.random.default_rng(0)
    made = [ByHalf(rng.integers(0, 256, (8, 8, 3), np.uint8), rng.integers(0, 16, (8, 8))) for _ in range(3)]
    text = {"text": np.ones(12, np.int32), "mask": np.ones(12, bool)}
    todo = [Task(f"{i}", 0, text, None, (8, 8), (8, 8), jax.random.key(i)) for i in range(3)]
    for given, larger in zip(made, enlarge(todo, made), strict=True):
        assert np.abs(larger.image.astype(int) - enlarged(given.image)).max() <= 1
        np.testing.assert_array_equal(larger.layout, enlarged(given.layout))
    enlarge.small_noise = 0.5
    noisy = enlarge.task(todo[0], made[0]).given[SMALL]
    assert np.abs(noisy["image"] - (enlarged(made[0].image) / 127.5 - 1)).mean() > 0.1


def folder_of(model, path):
    exported = changed(model, export={"output": str(path)})
    return export.export(exported, path)


def test_from_words_to_large_pairs_in_one_command(second, tmp_path):
    base = random_model(tiny_pairs())
    folder = folder_of(second, tmp_path / "second")
    (tmp_path / "captions.txt").write_text("a car\ntwo boats\na street at night\n")
    asked = {"captions": str(tmp_path / "captions.txt"), "steps": 2, "upscale": str(folder)}
    out = sample.sample(changed(base, sample=asked | {"output": str(tmp_path / "a")}), tmp_path)
    for kind, shape in (("images", (*SIZE, 3)), ("labels", SIZE)):
        found = sorted((out / kind).glob("*.png"))
        assert [path.stem for path in found] == [f"caption_{i:05}_0" for i in (1, 2, 3)]
        assert np.asarray(Image.open(found[0])).shape == shape
    manifest = (out / "manifest.jsonl").read_text()
    assert f"7/ema, second-{trained.digest(folder / trained.WEIGHTS)}" in manifest


@pytest.mark.parametrize(
    ("first", "change", "words"),
    [
        (tiny_pairs(), ("model", "upscales", 0), "it enlarges nothing"),
        (tiny_pairs(), ("data", "size", (32, 32)), "makes (32, 32) of (16, 16), not of (8, 8)"),
        (tiny_experiment(), (), "as a first stage makes them, and this is none"),
        (second_config(), (), "as a first stage makes them, and this is none"),
    ],
)
def test_stages_that_disagree_are_refused(second, first, change, words):
    config = second.config
    if change:
        part, key, value = change
        config = replace(config, **{part: replace(getattr(config, part), **{key: value})})
    base = replace(second, config=first)
    found = trained.differing(base, replace(second, config=config))
    assert len(found) == 1
    assert words in found[0]


def test_stages_of_other_classes_or_words_are_refused(second):
    base = random_model(tiny_pairs())
    classes = replace(second.info.classes[0], name="another")
    other = replace(
        second, info=replace(second.info, classes=(classes, *second.info.classes[1:])), language=None
    )
    said = trained.differing(base, other)
    assert said[0].startswith("it has the classes another, ")
    assert said[1] == "it reads what is said in another way"


def test_a_second_stage_alone_says_what_it_lacks(second, tmp_path):
    (tmp_path / "captions.txt").write_text("a car\n")
    with pytest.raises(ConfigError, match=r"this model enlarges pairs and was given none\. Sample from"):
        sample.sample(changed(second, sample={"captions": str(tmp_path / "captions.txt")}), tmp_path)
    loaded = api.Model(second, tmp_path)
    with pytest.raises(ConfigError, match=r"was given none"):
        loaded.pairs("a car")
    config = second_config()
    with pytest.raises(ConfigError, match=r"upscales is 3; expected 0"):
        build.build_method(replace(config, model=replace(config.model, upscales=3)), second.info, words=4)
    source = inputs.told(config, inputs.evaluation_source(config.data, 0), second.language)
    [task, *_] = tasks.tasks_of(second.method, source[0], config.sample, SIZE)
    assert task.given[SMALL]["image"].shape == (*SIZE, 3)  # of a data set: its own pair, reduced
