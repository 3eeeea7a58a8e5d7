"""Stable Diffusion's networks: their weights in and out, and their outputs from ours."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from semdiff.convert import latent

FIXTURES = Path(__file__).parent / "fixtures"
RECIPE = SimpleNamespace(**runpy.run_path(str(FIXTURES / "recipe_latent.py")))
OF_CASE = [(case, part) for case in RECIPE.CASES for part in ("unet", "controlnet")] + [
    ("autoencoder", "vae")
]


def released(case: str, part: str) -> dict[str, np.ndarray]:
    """Weights under the names and shapes of diffusers."""
    lines = np.load(FIXTURES / f"released_{case}.npz")[part].tobytes().decode().splitlines()
    named = (line.split(" ") for line in lines)
    return {name: RECIPE.weight(name, tuple(map(int, shape.split(",")))) for name, shape in named}


def close(found, wanted, what: str):
    error = np.abs(np.asarray(found) - wanted).max() / wanted.std()
    print(f"{what}: largest error {error:.1e} of the output's scale")
    assert error < 1e-4


@pytest.mark.parametrize("case", RECIPE.CASES)
def test_outputs_of_unet_and_controlnet(case):
    import jax

    from semdiff.convert.weights import check_tree
    from semdiff.models.latent.unet import ControlUNet, Shape

    (unet, a), (control, b) = (latent.to_semdiff(released(case, p), case) for p in ("unet", "controlnet"))
    assert isinstance(a, latent.Denoiser)
    assert isinstance(b, latent.Denoiser)
    heads = {"heads": 4} if case == "sd1" else {"head_width": 8}
    shape = Shape(a.base, a.multipliers, a.blocks, a.attention, depth=a.depth, groups=4, **heads)
    network = ControlUNet(shape, b.given, hint=b.hint, prompts=(7, a.text_width))
    given, told = RECIPE.inputs(case), np.full(2, 2, np.int32)
    state = given["image"], given["time"], given["layout"]
    params = {**unet, **control, "prompts": np.zeros((2, 7, 24), np.float32)}

    def run(params, strength):
        return network.apply({"params": params}, *state, said=told, states=given["words"], strength=strength)

    shapes = jax.eval_shape(lambda key: network.init(key, *state, said=told), jax.random.key(0))
    check_tree(params, shapes["params"], case)
    wanted = np.load(FIXTURES / f"released_{case}.npz")["output"]
    run = jax.jit(run)
    close(run(params, RECIPE.STRENGTH), wanted[0], f"{case}, controlled")
    close(run(params, 0.0), wanted[1], case)


def test_outputs_of_the_autoencoder():
    import jax

    from semdiff.models.latent.autoencoder import Autoencoder

    params, a = latent.to_semdiff(released("autoencoder", "vae"), "vae")
    assert a == latent.Autoencoder(16, (1, 2, 2), 2, 4)
    network, wanted = (
        Autoencoder(a.base, a.multipliers, a.blocks, a.channels, 4),
        np.load(FIXTURES / "released_autoencoder.npz"),
    )
    run = jax.jit(lambda x, method: network.apply({"params": params}, x, method=method), static_argnums=1)
    latents = run(RECIPE.inputs("autoencoder")["image"], "encode")
    close(latents.mean, wanted["mean"], "mean")
    close(latents.log_variance, wanted["log_variance"], "log variance")
    close(run(wanted["mean"], "decode"), wanted["decoded"], "decoded")


@pytest.mark.parametrize(("case", "part"), OF_CASE)
def test_there_and_back(case, part):
    tensors = released(case, part)
    params, _ = latent.to_semdiff(tensors, part)
    _, entries = latent.network_of(tensors, part)
    back = latent.to_torch(params, entries, part)
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], tensor)


def test_the_network_is_known_from_its_tensors():
    _, unet = latent.to_semdiff(released("sd1", "unet"), "unet")
    _, control = latent.to_semdiff(released("sd2", "controlnet"), "controlnet")
    assert unet == latent.Denoiser(16, (1, 2, 2), 2, (1, 2), 1, 4, 4, 24, linear=False)
    assert control == latent.Denoiser(16, (1, 2, 2), 2, (1, 2), 1, 4, 0, 24, True, (4, 8, 8, 16), 5)


def test_older_names_of_the_autoencoder():
    tensors = released("autoencoder", "vae")
    today = ("to_q", "to_k", "to_v", "to_out.0")
    old = dict(zip(today, ("query", "key", "value", "proj_attn")))

    def before(name):
        for new in today:
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{old[new]}.")
        return name

    renamed = {before(name): tensor for name, tensor in tensors.items()}
    assert renamed.keys() != tensors.keys()
    found, wanted = (latent.to_semdiff(t, "vae")[0] for t in (renamed, tensors))
    np.testing.assert_array_equal(
        found["encoder"]["middle"]["out"]["kernel"], wanted["encoder"]["middle"]["out"]["kernel"]
    )


def test_what_is_missing_is_named():
    tensors = released("sd1", "unet")
    del tensors["mid_block.resnets.1.conv2.weight"]
    with pytest.raises(
        ValueError, match=r"somewhere.*1 missing: mid_block\.resnets\.1\.conv2\.weight \[32,32,3,3\]"
    ):
        latent.to_semdiff(tensors, "somewhere")
    with pytest.raises(ValueError, match=r"not a UNet or ControlNet.*lacks the weight 'conv_in.weight'"):
        latent.to_semdiff({"conv1.weight": np.zeros((2, 2))}, "somewhere")


def test_outputs_of_the_original_code():
    """From the names of its files, a ControlNet of colours and all."""
    import jax

    from semdiff import stable_diffusion
    from semdiff.convert import diffusers_folder, ldm
    from semdiff.data.source import ClassInfo, Info
    from semdiff.models.latent.autoencoder import Autoencoder
    from semdiff.models.latent.unet import ControlUNet, Shape

    wanted, tensors = np.load(FIXTURES / "released_ldm.npz"), {}
    for line in wanted["shapes"].tobytes().decode().splitlines():
        name, shape = line.split(" ")
        tensors[name] = RECIPE.weight(name, tuple(map(int, shape.split(","))))
    assert ldm.is_ldm(tensors)
    found = diffusers_folder.of_tensors("a.ckpt", {f"state_dict.{n}": t for n, t in tensors.items()})
    info = Info("five", tuple(ClassInfo(f"{i}", tuple(map(int, c))) for i, c in enumerate(RECIPE.PALETTE)))
    control = stable_diffusion.of_classes(found.params["control"], info, False, "a.ckpt")
    a, given = found.networks["unet"], RECIPE.inputs("ldm")
    shape = Shape(a.base, a.multipliers, a.blocks, a.attention, heads=8, depth=a.depth)
    network = ControlUNet(shape, 5, hint=found.networks["control"].hint, prompts=(7, 24))
    params = {"unet": found.params["unet"], "control": control, "prompts": np.zeros((2, 7, 24), np.float32)}
    state, told = (given["image"], given["time"], given["layout"]), np.full(2, 2, np.int32)
    run = jax.jit(lambda params: network.apply({"params": params}, *state, said=told, states=given["words"]))
    close(run(params), wanted["denoised"], "UNet and ControlNet")

    a = found.networks["space"]
    autoencoder, weights = (
        Autoencoder(a.base, a.multipliers, a.blocks, a.channels),
        {"params": found.params["space"]},
    )
    run = jax.jit(lambda x, method: autoencoder.apply(weights, x, method=method), static_argnums=1)
    said = run(RECIPE.inputs("autoencoder")["image"], "encode")
    close(said.mean, wanted["said"][..., :4], "mean")
    close(run(wanted["said"][..., :4], "decode"), wanted["decoded"], "decoded")
