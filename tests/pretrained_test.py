"""A latent network from its autoencoder to its images, and what it begins from."""

import json
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest
from PIL import Image
from tiny import tiny_autoencoder, tiny_control

from semdiff import inputs, pretrained, stable_diffusion, trained
from semdiff.config import ConfigError
from semdiff.convert import diffusers_folder, weights
from semdiff.data import pipeline, prompts
from semdiff.data.source import ClassInfo, Info
from semdiff.diffusion.losses import UniformTime
from semdiff.methods import build, space
from semdiff.methods.given import OF_ALL, OWN
from semdiff.methods.method import SPACE
from semdiff.modes import export, latents, prior, sample, train
from semdiff.training.params import paths


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(workdir of an autoencoder, workdir of a ControlNet in its latents), both trained for a few steps."""
    root = tmp_path_factory.mktemp("latents")
    train.train(tiny_autoencoder(), root / "autoencoder")
    train.train(tiny_control(str(root / "autoencoder")), root / "control")
    return root / "autoencoder", root / "control"


def quiet(config, **keys):
    """A training that is not looked at: its programs would take longer than its steps."""
    return replace(config, train=replace(config.train, grid=0, eval_batches=0, **keys))


def opened(runs, **sampling) -> trained.Trained:
    config = tiny_control(str(runs[0]))
    config = replace(config, sample=replace(config.sample, **sampling))
    return trained.opened(config, runs[1]).ready()


def flat(tree):
    return weights.flatten(jax.tree.map(np.asarray, tree))


def assert_same(a, b):
    a, b = flat(a), flat(b)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_the_space_is_the_trained_autoencoder_and_stays_so(runs):
    model = opened(runs)
    own = pretrained.autoencoder_of_workdir(runs[0])
    assert_same(pretrained.plain(model.params[SPACE]), own)
    assert not any(path.startswith(SPACE) for path in checkpointed(runs[1]))
    assert "zero_0" in model.params["control"]


def checkpointed(workdir) -> list[str]:
    model = trained.opened(tiny_control(), workdir)
    return [path for path in paths(model.params) if not path.startswith(SPACE)]


def test_latents_have_mean_0_and_deviation_1_over_the_data(runs):
    model = opened(runs)
    source = build.opened(model.config, runs[1]).source
    images = np.stack([source[i]["image"] for i in range(len(source))])
    z = np.asarray(model.method.encode(model.params, images).image)
    np.testing.assert_allclose(z.mean((0, 1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(z.std((0, 1, 2)), 1, atol=1e-4)


def test_pixels_come_back_as_the_autoencoder_gives_them(runs):
    model = opened(runs)
    image = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    weights_of = {"params": pretrained.plain(model.params[SPACE])}
    wanted = model.method.space.autoencoder.apply(weights_of, space.to_unit(image))
    made = model.method.decode(model.params, model.method.encode(model.params, image))
    np.testing.assert_allclose(made.image, space.to_pixels(wanted), atol=1)


def test_from_the_prior_to_images_and_into_a_folder_and_back(runs, tmp_path):
    config = tiny_control(str(runs[0]))
    config = replace(
        config, sample=replace(config.sample, limit=2, prior="joint", start=0.8, output=str(tmp_path / "a"))
    )
    prior.prior(config, runs[1])
    model = trained.opened(config, runs[1]).ready()
    assert model.params["start"]["mean"].shape == (17, 4, 4, 2)
    sample.sample(model, runs[1])
    folder = export.export(trained.opened(config, runs[1]), runs[1])
    again = trained.folder_config(folder)
    assert again.space.weights == ""
    again = replace(again, sample=replace(again.sample, limit=2, output=str(tmp_path / "b")))
    sample.sample(trained.opened(again, tmp_path).ready(), tmp_path)
    made = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.png"))
    assert made
    for path in made:
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()
    moved = model.params | {SPACE: jax.tree.map(lambda a: a + 0.5, model.params[SPACE])}
    with pytest.raises(ValueError, match=r"prior\.safetensors: was measured in latents .* autoencoder"):
        replace(model, params=moved).ready()


def test_out_to_diffusers_and_in_again(runs, tmp_path):
    model = opened(runs)
    about = export.facts(model)["config"]
    params = jax.tree.map(np.asarray, model.params)
    written = diffusers_folder.write(tmp_path / "out", params, about, "these")
    assert written == ["unet", "controlnet", "vae", "prompts.safetensors", "scheduler"]
    found = diffusers_folder.read(tmp_path / "out")
    assert_same(found.params["unet"], params["unet"])
    assert_same(found.params["control"], params["control"])
    assert found.settings["space.scale"] == 1.0  # the latents' own are a part of the weights
    plain = {**found.params["space"], "mean": np.zeros(2), "deviation": np.ones(2)}
    image = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    said = model.method.space.said(params[SPACE], image)
    np.testing.assert_allclose(model.method.space.said(plain, image), said, rtol=1e-3, atol=1e-4)
    latents = model.method.space.encode(params[SPACE], image)
    apart = np.asarray(model.method.space.decode(plain, latents), int) - np.asarray(
        model.method.space.decode(params[SPACE], latents), int
    )
    assert abs(apart).max() <= 1


def test_released_weights_are_sampled_as_they_are(runs, tmp_path):
    """A diffusers directory makes the images of the model that it was written from."""
    model = opened(runs, limit=2, output=str(tmp_path / "a"))
    params = jax.tree.map(np.asarray, model.params)
    diffusers_folder.write(tmp_path / "sd", params, export.facts(model)["config"], "these")
    sample.sample(model, tmp_path)
    config = initialised("")
    c = replace(config.sample, weights=str(tmp_path / "sd"), limit=2, output=str(tmp_path / "b"))
    again = trained.opened(replace(config, sample=c), tmp_path).ready()
    sample.sample(again, tmp_path)
    made = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.png"))
    assert made
    for path in made:
        one, other = (read_image(tmp_path / part / path).astype(int) for part in "ab")
        assert np.abs(one - other).max() <= 1
    (tmp_path / "sd" / "prompts.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"sd has no prompts: encode some"):
        trained.opened(replace(config, sample=c), tmp_path)


def test_other_words_may_be_said_than_were_learned(runs, tmp_path):
    table = np.random.default_rng(0).standard_normal((2, 3, 8))
    config = tiny_control(str(runs[0]))
    first = inputs.evaluation_source(config.data, 0)[0]["name"]
    (tmp_path / "prompts").mkdir()
    prompts.write_shard(tmp_path / "prompts", 0, [np.ones((3, 8))])
    prompts.write_about(tmp_path / "prompts", prompts.Encoder("toy"), (3, 8), [(first, "a street")], table)
    config = replace(config, data=replace(config.data, prompts=str(tmp_path / "prompts")))
    model = trained.opened(config, runs[1]).ready()
    np.testing.assert_allclose(model.params["prompts"], table, rtol=1e-6)
    source = inputs.told(config, inputs.evaluation_source(config.data, 0), None)
    assert [model.method.given.read(source[i])["words"]["said"] for i in range(2)] == [OWN, OF_ALL]
    with pytest.raises(
        ConfigError, match=r"text_length is 3 and text_width 4, but the texts .* 3 states of 8"
    ):
        trained.opened(replace(config, model=replace(config.model, text_width=4)), runs[1])


def read_image(path):
    return np.asarray(Image.open(path))


def begun(config, tmp_path):
    """What a training of this configuration begins from."""
    subject = build.opened(config, tmp_path)
    return pretrained.initial(config, subject)


@pytest.fixture
def released(runs, tmp_path):
    """A diffusers directory without a ControlNet."""
    params = jax.tree.map(np.asarray, opened(runs).params)
    diffusers_folder.write(tmp_path / "sd", params, export.facts(opened(runs))["config"], "these")
    shutil.rmtree(tmp_path / "sd" / "controlnet")
    return tmp_path / "sd"


def initialised(path, **model):
    config = tiny_control()
    scale = {"scale": 1.0}
    return replace(
        config,
        train=replace(config.train, init=str(path)),
        space=replace(config.space, **scale),
        model=replace(config.model, **model),
    )


def test_a_controlnet_begins_as_its_unet(released, tmp_path):
    config = initialised(released)
    given = begun(config, tmp_path)
    assert_same(given["control"]["encoder"], given["unet"]["encoder"])
    config = quiet(config, steps=1, trained=("control/*", "unet/decoder/*", "prompts"))
    state = train.train(config, tmp_path / "run")
    assert_same(state.frozen["unet"]["encoder"], given["unet"]["encoder"])
    moved = np.asarray(state.params["control"]["zero_0"]["kernel"])
    assert 0 < np.abs(moved).max() < 0.01  # began at zero


def test_weights_of_another_network_are_refused_by_key(released, tmp_path):
    with pytest.raises(ConfigError, match=r"another network:\n  config\.model\.base is 16, 8 there"):
        begun(initialised(released, base=16), tmp_path)
    with pytest.raises(ConfigError, match=r"config\.model\.head_width is 8, 4 there"):
        begun(initialised(released, head_width=8), tmp_path)
    about = {"prediction_type": "v_prediction", "beta_schedule": "linear"}
    (released / "scheduler" / "scheduler_config.json").write_text(json.dumps(about))
    with pytest.raises(ConfigError, match=r"config\.process\.parameterisation is 'eps', 'v' there"):
        begun(initialised(released), tmp_path)


def test_a_directory_with_a_part_missing(released, tmp_path):
    (released / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"sd/unet: has no diffusion_pytorch_model.safetensors .*no weights"):
        begun(initialised(released), tmp_path)
    shutil.rmtree(released / "vae")
    shutil.rmtree(released / "unet")
    with pytest.raises(ValueError, match=r"no such file"):
        begun(initialised(released), tmp_path)


def test_latents_of_no_autoencoder_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"no trained autoencoder is named.*config\.space\.weights"):
        begun(tiny_control(), tmp_path)


def test_an_autoencoder_of_another_shape_is_refused(runs, tmp_path):
    config = tiny_control(str(runs[0]))
    config = replace(config, space=replace(config.space, base=8))
    with pytest.raises(ValueError, match="the weights do not fit the network"):
        begun(config, tmp_path)


def test_an_autoencoder_makes_no_images(runs):
    with pytest.raises(ConfigError, match="makes no images by itself"):
        trained.opened(tiny_autoencoder(), runs[0])


def test_colours_become_the_classes_that_have_them():
    rng = np.random.default_rng(0)
    palette = rng.integers(0, 256, (16, 3))
    kernel = rng.standard_normal((3, 3, 3, 4)).astype(np.float32)
    info = Info("colourful", tuple(ClassInfo(f"{i}", tuple(map(int, rgb))) for i, rgb in enumerate(palette)))
    control = {"hint": {"labels": {"kernel": kernel, "bias": np.zeros(4)}}}
    made = stable_diffusion.of_classes(control, info, False, "there")["hint"]["labels"]["kernel"]
    ids = rng.integers(0, 16, (1, 6, 6))
    one_hot, colours = np.eye(16)[ids], palette[ids] / 255
    convolve = lambda x, w: jax.lax.conv_general_dilated(  # noqa: E731
        x.astype(np.float32), w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(convolve(one_hot, made), convolve(colours, kernel), atol=1e-5)


def test_latents_that_were_encoded_beforehand(runs, tmp_path):
    """Losses are those of images that are encoded then, mirrored ones too; latents of other data are refused."""
    config = tiny_control(str(runs[0]))
    folder = latents.encode(config, runs[1])
    assert latents.encode(config, runs[1]) == folder  # nothing is left to do
    source = build.opened(replace(config, data=replace(config.data, latents=str(folder))), runs[1]).source
    model = opened(runs)
    for index in (0, 31):
        pixels = source[index]["image"]
        both = np.stack([pixels, pixels[:, ::-1]])
        said = model.method.space.said(model.params[SPACE], both)
        np.testing.assert_allclose(source[index]["latents"], said, rtol=2e-3, atol=1e-3)

    def with_data(**data):
        return quiet(replace(config, data=replace(config.data, **data)))

    def batch_of(changed):
        subject = build.opened(changed, runs[1])
        batches = pipeline.train_iterator(subject.source, **inputs.training_options(changed))
        batch = next(batches)
        batches.close()
        return batch

    encoded, plain = batch_of(with_data(latents=str(folder))), batch_of(with_data())
    assert "image" not in encoded
    said = model.method.space.said(model.params[SPACE], plain["image"])
    np.testing.assert_allclose(encoded["latent"], said, rtol=2e-3, atol=1e-3)
    keys = jax.random.split(jax.random.key(0), config.train.batch_size)
    run = jax.jit(lambda batch: model.method.loss(model.params, batch, keys, UniformTime(50))[0]["loss"])
    np.testing.assert_allclose(run(encoded), run(plain), rtol=1e-2)
    with pytest.raises(ValueError, match=r"latents\.json: space is"):
        train.train(with_data(latents=str(folder), size=(16, 16)), tmp_path / "larger")
    with pytest.raises(ConfigError, match=r"max_scale is 1\.5, but latents are of one crop"):
        build.opened(with_data(latents=str(folder), max_scale=1.5), tmp_path)
