"""What is written for diffusers, loaded by diffusers; where it and PyTorch are installed."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_control

from semdiff.convert import diffusers_folder
from semdiff.data.classes import generated_classes
from semdiff.data.source import Info
from semdiff.methods import build
from semdiff.modes import export
from semdiff.trained import Trained

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

B, K = 2, 5


@pytest.fixture(scope="module")
def model():
    """With random weights everywhere, and latents shifted and scaled by channel."""
    config, info = tiny_control(), Info("five", generated_classes(K))
    method = build.build_method(config, info)
    shapes = jax.eval_shape(lambda key: method.init(key, (8, 8)), jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda a: (0.3 * rng.standard_normal(a.shape)).astype(np.float32), shapes)
    params["space"] |= {"mean": np.float32([0.3, -1.0]), "deviation": np.float32([0.5, 2.0])}
    return Trained(config, method, params, "random", info)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("diffusers")
    config = export.facts(replace(model, about=None))["config"]
    diffusers_folder.write(path, model.params, config, "random")
    return path


def first(a) -> "torch.Tensor":
    """Channels first."""
    return torch.from_numpy(np.moveaxis(np.asarray(a, np.float32), -1, 1).copy())


def close(theirs, ours):
    theirs = np.moveaxis(theirs.detach().numpy(), 1, -1)
    assert np.abs(theirs - ours).max() < 1e-4 * np.abs(ours).max()


def test_unet_and_controlnet(model, folder):
    rng = np.random.default_rng(1)
    x, time = rng.standard_normal((B, 4, 4, 2)).astype(np.float32), np.array([3, 700], np.int32)
    layout = rng.integers(0, K + 1, (B, 8, 8)).astype(np.int32)
    unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet")
    control = diffusers.ControlNetModel.from_pretrained(folder / "controlnet")
    words = torch.from_numpy(model.params["prompts"][[0, 1]])
    planes = first(np.eye(K + 1, dtype=np.float32)[layout][..., :K])
    skips, middle = control(first(x), torch.from_numpy(time), words, planes, return_dict=False)
    theirs = unet(
        first(x),
        torch.from_numpy(time),
        words,
        down_block_additional_residuals=skips,
        mid_block_additional_residual=middle,
    ).sample
    network = {name: part for name, part in model.params.items() if name != "space"}
    ours = model.method.network.unet.apply({"params": network}, x, time, layout, said=jnp.array([0, 1]))
    close(theirs, ours)


def test_autoencoder(model, folder):
    vae = diffusers.AutoencoderKL.from_pretrained(folder / "vae")
    pixels = np.random.default_rng(2).integers(0, 256, (B, 8, 8, 3), np.uint8)
    z = model.method.space.encode(model.params["space"], pixels)
    theirs = vae.encode(first(pixels / 127.5 - 1)).latent_dist.mean * vae.config.scaling_factor
    close(theirs, z)
    back = vae.decode(first(z) / vae.config.scaling_factor).sample
    ours = np.asarray(model.method.space.decode(model.params["space"], z), np.float32) / 127.5 - 1
    assert np.abs(np.clip(np.moveaxis(back.detach().numpy(), 1, -1), -1, 1) - ours).max() < 1 / 127.5


def test_the_scheduler(folder, model):
    scheduler = diffusers.DDIMScheduler.from_pretrained(folder / "scheduler")
    schedule = model.method.image.schedule
    assert len(scheduler.alphas_cumprod) == schedule.num_steps
    ours = [float(jnp.exp(schedule.log_abar(jnp.array(t)))) for t in (1, 10, schedule.num_steps)]
    np.testing.assert_allclose(scheduler.alphas_cumprod[[0, 9, schedule.num_steps - 1]], ours, rtol=1e-4)
