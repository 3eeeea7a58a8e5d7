"""The released network's weights in and out, and its outputs from ours."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from semdiff.convert import sdm
from semdiff.convert.weights import flatten

FIXTURES = Path(__file__).parent / "fixtures"
RECIPE = SimpleNamespace(**runpy.run_path(str(FIXTURES / "recipe.py")))
NETWORKS = {
    "plain": {
        "num_classes": 5,
        "multipliers": (1, 2, 2),
        "blocks": 1,
        "attention": (2,),
        "head_width": 16,
    },
    "edges": {
        "num_classes": 7,
        "edge_channel": True,
        "out_channels": 3,
        "multipliers": (2, 1),
        "blocks": 2,
        "attention": (1,),
        "heads": 4,
        "scale_shift": False,
        "resblock_updown": False,
    },
}
NETWORKS["new_order"] = NETWORKS["plain"]


def released(case: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """(weights under the names and shapes of the released network, its output)."""
    fixture = np.load(FIXTURES / f"released_{case}.npz")
    tensors = {}
    for line in fixture["shapes"].tobytes().decode().splitlines():
        name, _, shape = line.partition(" ")
        tensors[name] = RECIPE.weight(name, tuple(map(int, shape.split(","))))
    return tensors, fixture["output"]


@pytest.fixture(scope="module")
def plain():
    return released("plain")[0]


@pytest.mark.parametrize("case", RECIPE.CASES)
def test_outputs_of_the_released_network(case):
    import jax
    import jax.numpy as jnp

    from semdiff.convert.weights import check_tree
    from semdiff.models.spade_unet import SpadeUNet

    tensors, expected = released(case)
    params = sdm.to_semdiff(tensors, new_attention_order=case == "new_order", head_width=16)
    network = SpadeUNet(base=32, **NETWORKS[case])
    given = RECIPE.inputs(case)
    arguments = (given["image"], given["time"].astype(np.float32), given["layout"], given["edges"])
    shapes = jax.eval_shape(network.init, jax.random.key(0), *map(jnp.asarray, arguments[:3]), arguments[3])
    check_tree(params, shapes["params"], "released.pt")
    output = jax.jit(network.apply)({"params": params}, *arguments)
    assert output.shape == expected.shape
    error = np.abs(np.asarray(output) - expected).max() / expected.std()
    print(f"{case}: largest error {error:.1e} of the output's scale")
    assert error < 1e-4


@pytest.mark.parametrize("case", ["plain", "edges"])
def test_round_trip_is_exact(case):
    tensors, _ = released(case)
    back = sdm.to_torch(sdm.to_semdiff(tensors))
    assert set(back) == set(tensors)
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype
        np.testing.assert_array_equal(back[name], tensor, err_msg=name)


def test_export_is_read_back_the_same(tmp_path, plain):
    sdm.export_safetensors(tmp_path / "x.safetensors", sdm.to_semdiff(plain))
    written = safetensors.numpy.load_file(tmp_path / "x.safetensors")
    assert set(written) == set(plain)
    assert all(np.array_equal(written[name], plain[name]) for name in plain)


@pytest.mark.parametrize("case", ["plain", "edges"])
def test_configuration_is_inferred(case):
    settings = RECIPE.CASES[case]
    asked = settings["network"]
    assert sdm.infer_config(released(case)[0]) == {
        "base": asked["model_channels"],
        "multipliers": asked["channel_mult"],
        "blocks": asked["num_res_blocks"],
        "attention": asked["attention_resolutions"],
        "label_channels": settings["classes"] + settings["edges"],
        "image_channels": 3,
        "out_channels": asked["out_channels"],
        "spade_hidden": 128,
        "scale_shift": asked["use_scale_shift_norm"],
        "resblock_updown": asked["resblock_updown"],
        "conv_resample": True,
        "learned_sigma": asked["out_channels"] == 6,
    }


@pytest.mark.parametrize("resblock_updown", [True, False])
@pytest.mark.parametrize("conv_resample", [True, False])
@pytest.mark.parametrize("multipliers", [(1,), (1, 1, 2, 2, 4, 4)])
def test_our_network_of_any_shape_goes_out_and_in(resblock_updown, conv_resample, multipliers):
    import jax

    from semdiff.models.spade_unet import SpadeUNet

    network = SpadeUNet(
        num_classes=3,
        base=2,
        multipliers=multipliers,
        attention=(1, 4, 8, 32),
        heads=1,
        spade_hidden=3,
        resblock_updown=resblock_updown,
        conv_resample=conv_resample,
    )
    shape = jax.ShapeDtypeStruct
    given = (shape((1, 32, 32, 3), np.float32), shape((1,), np.float32), shape((1, 32, 32), np.int32))
    shapes = jax.eval_shape(network.init, jax.random.key(0), *given)["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda s: rng.standard_normal(s.shape, np.float32), shapes)
    tensors = sdm.to_torch(params)
    config = sdm.infer_config(tensors)
    assert config["multipliers"] == multipliers
    assert config["attention"] == tuple(f for f in (1, 4, 8, 32) if f < 2 ** len(multipliers))
    back = flatten(sdm.to_semdiff(tensors))
    for name, param in flatten(params).items():
        np.testing.assert_array_equal(back.pop(name), param, err_msg=name)
    assert not back


def test_differences_are_listed(plain):
    broken = dict(plain)
    del broken["output_blocks.0.0.out_norm.mlp_beta.weight"]
    broken["extra.weight"] = np.zeros((2, 3), np.float32)
    broken["out.2.bias"] = np.zeros(7, np.float32)
    with pytest.raises(ValueError) as caught:
        sdm.to_semdiff(broken, source="some.pt")
    message = str(caught.value)
    assert message.startswith("some.pt: ")
    assert "1 missing: output_blocks.0.0.out_norm.mlp_beta.weight [64,128,3,3]" in message
    assert "1 unexpected: extra.weight [2,3]" in message
    assert "out.2.bias is [7], expected [6]" in message


def test_every_missing_tensor_is_told(plain):
    for name in plain:
        rest = {other: tensor for other, tensor in plain.items() if other != name}
        with pytest.raises(ValueError, match=r"some\.pt: "):
            sdm.to_semdiff(rest, source="some.pt")


def test_long_lists_are_cut(plain):
    broken = plain | {f"extra.{i}": np.zeros(1, np.float32) for i in range(30)}
    with pytest.raises(ValueError, match=r"30 unexpected: (extra\.\d+ \[1\], ){10}\.\.\."):
        sdm.to_semdiff(broken)


def test_another_network_is_told():
    with pytest.raises(ValueError, match=r"net\.pt: not the network of SDM.*'conv1\.weight'"):
        sdm.infer_config({"conv1.weight": np.zeros((1, 1))}, "net.pt")
    with pytest.raises(ValueError, match="not the network of SDM"):
        sdm.to_torch({"a": {"kernel": np.zeros((1, 1))}})


def test_our_extras_have_no_place_there(plain):
    params = sdm.to_semdiff(plain)
    params["middle_attention"]["alpha"] = np.ones(4, np.float32)
    with pytest.raises(ValueError, match=r"1 unexpected: middle_attention/alpha \[4\]"):
        sdm.to_torch(params)


def test_fractional_multipliers_are_told(plain):
    narrow = plain | {"time_embed.0.weight": np.zeros((128, 24), np.float32)}
    with pytest.raises(ValueError, match="not multiples of the base 24"):
        sdm.to_semdiff(narrow)


def test_wrapped_and_half_precision_weights(plain):
    wrapped = {f"module.{name}": t.astype(ml_dtypes.bfloat16) for name, t in plain.items()}
    params = sdm.to_semdiff(wrapped)
    kernel = plain["out.2.weight"].astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(params["conv_out"]["kernel"], kernel.transpose(2, 3, 1, 0))
    assert params["conv_out"]["kernel"].dtype == np.float32


def test_integers_are_refused(plain):
    with pytest.raises(ValueError, match=r"'out\.2\.bias' is int32, expected floating point"):
        sdm.to_semdiff(plain | {"out.2.bias": np.zeros(6, np.int32)})


def test_heads_that_do_not_divide(plain):
    with pytest.raises(ValueError, match="64 channels do not split into heads"):
        sdm.to_semdiff(plain, new_attention_order=True, heads=5)
