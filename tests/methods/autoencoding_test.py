"""The loss of an autoencoder, and the space that it makes, by hand."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_autoencoder

from semdiff.config import Autoencoding as Settings
from semdiff.config import ConfigError, Pixels
from semdiff.diffusion import gaussian, samplers
from semdiff.diffusion.losses import UniformTime
from semdiff.methods import autoencoding, space
from semdiff.models.latent.autoencoder import Latents

KEYS = jax.random.split(jax.random.key(0), 2)


@dataclass(frozen=True)
class Toy:
    """Latents are every second pixel's first two channels; what comes back is a stretched copy."""

    stride: int = 2
    channels: int = 2

    def apply(self, params, x, method):
        if method == "encode":
            return Latents(x[:, ::2, ::2, :2], jnp.full((*x[:, ::2, ::2].shape[:3], 2), -2.0))
        x = jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)
        return 0.5 * jnp.concatenate([x, x[..., :1]], axis=-1)


def toy(kl_weight=0.25, border_weight=3.0):
    settings = Settings(kl_weight=kl_weight, border_weight=border_weight)
    process = autoencoding.method(tiny_autoencoder()).process
    return autoencoding.Autoencoding(space.Latents(Toy(), 0.0), settings, process)


@pytest.mark.parametrize("train", [False, True])
def test_the_loss_is_pixels_borders_and_divergence(train):
    image = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3), np.uint8)
    params = {"encoder": {}, "decoder": {}}
    terms, _, _ = toy().loss(params, {"image": image}, KEYS, UniformTime(50), train=train)
    x = image / 127.5 - 1
    mean = x[:, ::2, ::2, :2]
    noise = np.asarray(gaussian.normal(samplers.fold_in(KEYS, 1), jnp.asarray(mean)))
    z = mean + np.exp(-1.0) * noise if train else mean
    again = np.repeat(np.repeat(z, 2, 1), 2, 2)
    error = 0.5 * np.concatenate([again, again[..., :1]], -1) - x
    pixels = np.abs(error).mean((1, 2, 3))
    across = np.abs(error[:, :, 1:] - error[:, :, :-1]).mean((1, 2, 3))
    down = np.abs(error[:, 1:] - error[:, :-1]).mean((1, 2, 3))
    kl = 0.5 * (mean**2 + np.exp(-2.0) - 1 + 2).mean((1, 2, 3))
    np.testing.assert_allclose(terms["loss"], pixels + 3 * (across + down) + 0.25 * kl, rtol=1e-5)
    np.testing.assert_allclose(terms["psnr"], 10 * np.log10(4 / (error**2).mean((1, 2, 3))), rtol=1e-5)


def test_latents_are_shifted_and_scaled_by_channel_and_back():
    inside = space.Latents(Toy(), 0.0)
    params = {space.MEAN: jnp.array([0.5, -1.0]), space.DEVIATION: jnp.array([2.0, 0.5])}
    image = np.random.default_rng(0).integers(0, 256, (1, 4, 4, 3), np.uint8)
    z = (image / 127.5 - 1)[:, ::2, ::2, :2]
    np.testing.assert_allclose(
        inside.encode(params, image), (z - np.array([0.5, -1.0])) / np.array([2.0, 0.5]), atol=1e-6
    )
    drawn = inside.encode(params, image, KEYS[:1])
    noise = gaussian.normal(KEYS[:1], jnp.zeros_like(drawn))
    np.testing.assert_allclose(
        drawn,
        (z + np.exp(-1.0) * np.asarray(noise) - np.array([0.5, -1.0])) / np.array([2.0, 0.5]),
        atol=1e-5,
    )
    again = np.repeat(np.repeat(z, 2, 1), 2, 2) * 0.5
    made = inside.decode(params, inside.encode(params, image))[..., :2]
    np.testing.assert_allclose(made, np.round((again + 1) * 127.5), atol=1)


def test_latents_of_a_pixel_that_is_free_are_free():
    free = np.zeros((1, 4, 6), bool)
    free[0, 1, 5] = True
    mask = np.asarray(space.Latents(Toy(), 0.0).mask(jnp.asarray(free)))
    assert mask.shape == (1, 2, 3, 1)
    assert np.argwhere(mask[0, ..., 0]).tolist() == [[0, 2]]


def test_a_space_is_called_by_its_weights():
    inside = space.Latents(Toy(), 0.0)
    params = {"encoder": {"a": np.float32([1.0, 2.0])}}
    assert space.called(space.PIXELS, {}) == "pixels"
    kept = {"encoder": {"a": np.float32(np.float16([1.0, 2.0]))}}
    assert space.called(inside, params) == space.called(inside, kept)
    assert space.called(inside, params) != space.called(inside, {"encoder": {"a": np.float32([1.0, 2.5])}})


def test_what_cannot_be_is_refused():
    config = tiny_autoencoder()
    with pytest.raises(ConfigError, match=r"config\.space\.kind is pixels, which has none"):
        autoencoding.method(replace(config, space=Pixels()))
    with pytest.raises(ConfigError, match=r"config\.data\.size is \(9, 8\).*multiples of 2"):
        autoencoding.method(replace(config, data=replace(config.data, size=(9, 8))))
    with pytest.raises(ConfigError, match=r"config\.space\.scale is -1"):
        autoencoding.method(replace(config, space=replace(config.space, scale=-1.0)))
