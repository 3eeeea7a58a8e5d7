"""The released networks of GCDP: their weights in, and their outputs from ours."""

import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from semdiff.convert import gcdp

FIXTURES = Path(__file__).parent / "fixtures"
RECIPE = SimpleNamespace(**runpy.run_path(str(FIXTURES / "recipe_gcdp.py")))


def released(case: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """(weights under the names and shapes of the released network, its outputs with text and without)."""
    fixture = np.load(FIXTURES / f"released_gcdp_{case}.npz")
    tensors = {}
    for line in fixture["shapes"].tobytes().decode().splitlines():
        name, _, shape = line.partition(" ")
        tensors[name] = RECIPE.weight(name, tuple(map(int, shape.split(","))))
    return tensors, fixture["output"]


@pytest.mark.parametrize("case", RECIPE.CASES)
def test_outputs_of_the_released_network(case):
    import jax
    import jax.numpy as jnp

    from semdiff.convert.weights import check_tree
    from semdiff.models.joint_unet import JointUNet

    tensors, expected = released(case)
    params = gcdp.to_semdiff(tensors)
    network, given = JointUNet(**gcdp.infer_config(tensors)), RECIPE.inputs(case)
    low = {name: given[f"low_{name}"] for name in ("image", "layout", "log_snr")}
    state = given["image"], given["layout"], given["log_snr"], given["text"]

    def run(params, mask):
        return network.apply({"params": params}, *state, mask, low=low if network.upscales else None)

    shapes = jax.eval_shape(
        lambda key: network.init(key, *state, given["mask"], low=low if network.upscales else None),
        jax.random.key(0),
    )
    check_tree(params, shapes["params"], "released.pt")
    for mask, wanted in zip((given["mask"], np.zeros_like(given["mask"])), expected, strict=True):
        image, logits = jax.jit(run)(params, jnp.asarray(mask))
        output = np.concatenate([image, logits], -1)
        error = np.abs(output - wanted).max() / wanted.std()
        print(f"{case}: largest error {error:.1e} of the output's scale")
        assert error < 1e-4


def test_what_a_text_does_can_be_computed_once():
    import jax

    from semdiff.models.joint_unet import JointUNet

    tensors, expected = released("base")
    network, params = JointUNet(**gcdp.infer_config(tensors)), {"params": gcdp.to_semdiff(tensors)}
    given = RECIPE.inputs("base")
    told = network.apply(params, given["text"], given["mask"], method="tell")
    state = given["image"], given["layout"], given["log_snr"]
    image, _ = jax.jit(network.apply)(params, *state, told=told)
    np.testing.assert_allclose(image, expected[0][..., :3], atol=1e-4)


@pytest.mark.parametrize("case", RECIPE.CASES)
def test_configuration_is_inferred(case):
    found, asked = gcdp.infer_config(released(case)[0]), RECIPE.CASES[case]["network"]
    assert (found["base"], found["multipliers"], found["blocks"]) == (16, (1, 2), (1, 2))
    flagged = lambda flags: tuple(i for i in range(2) if flags and flags[i])  # noqa: E731
    assert found["attention"] == flagged(asked["layer_attns"])
    assert found["cross_attention"] == flagged(asked["layer_cross_attns"])
    assert (found["heads"], found["head_width"], found["feed_factor"]) == (8, 64, 2.0)
    assert (found["stem"], found["time_tokens"], found["latents"]) == ((3, 7, 15), 2, 4)
    assert (found["text_width"], found["text_length"], found["num_classes"]) == (12, 6, 5)
    assert found["upscales"] is (case == "upscales")


@pytest.mark.parametrize(
    "prefix", ["0.ema_model.", "ema.1.ema_model.", "unets.1.", "model.unets.0.", "module."]
)
def test_the_network_is_found_in_a_checkpoint(prefix):
    tensors, _ = released("base")
    rest = {
        "unets.0.dummy_parameter": np.zeros(1),
        "steps": np.zeros(2, int),
        "noise_schedulers_lbl.0.log_alpha": np.ones(3),
    }
    wrapped = rest | {f"{prefix}{name}": tensor for name, tensor in tensors.items()}
    assert gcdp.is_gcdp(wrapped)
    if "ema" in prefix:
        wrapped |= {f"unets.0.{name}": tensor + 1 for name, tensor in tensors.items()}
    np.testing.assert_array_equal(gcdp.to_semdiff(wrapped)["labels"]["embedding"], tensors[gcdp.MARK])


def test_no_two_tensors_share_a_place():
    for case in RECIPE.CASES:
        tensors, _ = released(case)
        levels = 1 + max(int(m[1]) for name in tensors if (m := re.match(r"ups\.(\d+)\.", name)))
        places = [gcdp._place(name, levels) for name in tensors]
        assert len(set(places)) == len(places)


def test_other_networks_are_told():
    assert not gcdp.is_gcdp({"conv1.weight": 0})
    with pytest.raises(ValueError, match=r"net\.pt: not the network of GCDP: none of its 1 tensors"):
        gcdp.to_semdiff({"conv1.weight": np.zeros((1, 1))}, "net.pt")
    tensors, _ = released("base")
    with pytest.raises(
        ValueError, match=r"net\.pt: .* 2 tensors have no place in it: downs\.0\.9\.x, extra\.weight"
    ):
        gcdp.to_semdiff(tensors | {"downs.0.9.x": np.zeros(1), "extra.weight": np.zeros(1)}, "net.pt")


def test_attention_to_words_of_another_width_is_refused_in_words():
    tensors = dict(released("base")[0])
    middle = "mid_attn.fn.fn.to_q.weight"
    tensors[middle] = tensors[middle][:32]
    with pytest.raises(
        ValueError, match=r"net\.pt: .*cross_attn\.fn\.to_q\.weight has 512 channels and mid_attn.* 32: "
    ):
        gcdp.to_semdiff(tensors, "net.pt")
