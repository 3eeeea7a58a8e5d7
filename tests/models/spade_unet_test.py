"""The whole network: its options, what its output depends on, and the layout's part taken out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from semdiff.models.spade_unet import SpadeUNet

SMALL = dict(
    num_classes=4,
    base=8,
    multipliers=(1, 2),
    blocks=1,
    attention=(2,),
    head_width=8,
    spade_hidden=4,
    groups=4,
)


def inputs(height=8, width=12, batch=2):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(batch, height, width, 3)), jnp.float32)
    layout = jnp.asarray(rng.integers(0, 4, (batch, height, width)), jnp.int32)
    edges = jnp.asarray(rng.integers(0, 2, (batch, height, width)), jnp.uint8)
    return x, jnp.array([3.0, 700.0][:batch]), layout, edges


def noisy_params(network, *args):
    """Random parameters, also where a fresh network has zeros. Drawn by numpy: compiling jax's draws takes longer."""
    shapes = jax.eval_shape(network.init, jax.random.key(0), *args)["params"]
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        fan_in = np.prod(leaf.shape[:-1]) if path[-1].key == "kernel" else 25
        return jnp.asarray(
            (path[-1].key == "scale") + rng.normal(size=leaf.shape) / np.sqrt(fan_in), jnp.float32
        )

    return jax.tree_util.tree_map_with_path(draw, shapes)


def run(network, params, *args, **kwargs):
    return np.asarray(jax.jit(network.apply)({"params": params}, *args, **kwargs))


def modulate(network, params, *args):
    return jax.jit(lambda p, *a: network.apply({"params": p}, *a, method="modulation"))(params, *args)


@pytest.fixture(scope="module")
def plain():
    network = SpadeUNet(**SMALL)
    x, t, layout, _ = inputs()
    return network, noisy_params(network, x, t, layout), (x, t, layout)


OPTIONS = [
    {"edge_channel": True},
    {"resblock_updown": False},
    {"resblock_updown": False, "conv_resample": False},
    {"scale_shift": False},
    {"attention_kind": "cosine"},
    {"heads": 4},
    {"conditioning": "concat"},
    {"blocks": 2, "attention": ()},
    {"out_channels": 3},
    {"label_conv": "onehot"},
]


@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_every_option_runs_and_reads_image_time_and_layout(option):
    network = SpadeUNet(**(SMALL | option))
    x, t, layout, edges = inputs()
    edges = edges if network.edge_channel else None
    params = noisy_params(network, x, t, layout, edges)
    apply = jax.jit(lambda *a: network.apply({"params": params}, *a))
    out = np.asarray(apply(x, t, layout, edges))
    assert out.shape == (2, 8, 12, network.out_channels)
    assert out.dtype == np.float32
    assert np.isfinite(out).all()
    others = [
        apply(x + 1, t, layout, edges),
        apply(x, t + 50, layout, edges),
        apply(x, t, (layout + 1) % 4, edges),
    ]
    if edges is not None:
        others.append(apply(x, t, layout, 1 - edges))
    for other in others:
        assert np.abs(np.asarray(other) - out).max() > 1e-3


def test_a_fresh_network_predicts_zero():
    x, t, layout, _ = inputs()
    network = SpadeUNet(**SMALL)
    params = jax.jit(network.init)(jax.random.key(0), x, t, layout)["params"]
    assert np.abs(run(network, params, x, t, layout)).max() == 0
    kernel = np.asarray(params["decoder_0"]["res"]["conv1"]["kernel"])
    assert abs(kernel.std() * np.sqrt(np.prod(kernel.shape[:-1])) - 1) < 0.1


@pytest.mark.parametrize("option", [{}, {"edge_channel": True}, {"resblock_updown": False}], ids=str)
def test_cached_modulation_gives_the_same_output(option):
    network = SpadeUNet(**(SMALL | option))
    x, t, layout, edges = inputs()
    edges = edges if network.edge_channel else None
    params = noisy_params(network, x, t, layout, edges)
    modulation = modulate(network, params, layout, edges)
    np.testing.assert_array_equal(
        run(network, params, x, t, modulation=modulation),
        run(network, params, x, t, layout, edges),
    )


def test_modulation_does_not_depend_on_the_batch(plain):
    network, params, (x, t, layout) = plain
    one = modulate(network, params, layout[:1])
    both = run(network, params, x[:1], t[:1], modulation=one)
    np.testing.assert_allclose(both, run(network, params, x, t, layout)[:1], atol=1e-5)


def test_remat_changes_nothing(plain):
    network, params, args = plain

    def gradient(n):
        return jax.jit(jax.grad(lambda p: (n.apply({"params": p}, *args) ** 2).sum()))(params)

    np.testing.assert_array_equal(run(network.clone(remat=True), params, *args), run(network, params, *args))
    for a, b in zip(jax.tree.leaves(gradient(network)), jax.tree.leaves(gradient(network.clone(remat=True)))):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_bfloat16_keeps_parameters_and_output_in_float32(plain):
    network, params, args = plain
    half = network.clone(dtype=jnp.bfloat16)
    fresh = jax.eval_shape(half.init, jax.random.key(0), *args)["params"]
    assert {leaf.dtype for leaf in jax.tree.leaves(fresh)} == {np.dtype(np.float32)}
    out, exact = run(half, params, *args), run(network, params, *args)
    assert out.dtype == np.float32
    assert 0 < np.abs(out - exact).max() < 0.1 * np.abs(exact).max()


def test_ids_outside_the_classes_are_the_zero_vector(plain):
    network, params, (x, t, layout) = plain
    outs = [run(network, params, x, t, jnp.full_like(layout, i)) for i in (4, 5, 17, -1)]
    for out in outs[1:]:
        np.testing.assert_array_equal(out, outs[0])
    assert np.abs(outs[0] - run(network, params, x, t, jnp.zeros_like(layout))).max() > 1e-3


def test_the_encoder_does_not_see_the_layout(plain):
    _, params, _ = plain
    touched = {name for name, part in params.items() if any("labels" in str(path) for path in paths_of(part))}
    assert touched == {"middle_res_0", "middle_res_1", *(n for n in params if n.startswith("decoder_"))}


def paths_of(tree):
    return [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def test_sizes_that_do_not_fit_are_refused_in_words():
    network = SpadeUNet(**SMALL)
    x, t, layout, _ = inputs(9, 12)
    with pytest.raises(ValueError, match=r"9 x 12 .* multiples of 2"):
        network.init(jax.random.key(0), x, t, layout)


def test_heads_that_do_not_divide_are_refused_in_words():
    network = SpadeUNet(**(SMALL | {"heads": 3}))
    x, t, layout, _ = inputs()
    with pytest.raises(ValueError, match="heads=3"):
        network.init(jax.random.key(0), x, t, layout)


def test_edges_must_be_given_exactly_when_the_network_has_the_channel():
    x, t, layout, edges = inputs()
    with pytest.raises(ValueError, match="edge_channel is True"):
        SpadeUNet(**SMALL, edge_channel=True).init(jax.random.key(0), x, t, layout)
    with pytest.raises(ValueError, match="edge_channel is False"):
        SpadeUNet(**SMALL).init(jax.random.key(0), x, t, layout, edges)


def test_dropout_acts_only_with_keys(plain):
    network, params, args = plain
    dropped = network.clone(dropout=0.5)
    keys = jax.random.split(jax.random.key(0), 2)
    np.testing.assert_array_equal(run(dropped, params, *args), run(network, params, *args))
    assert np.abs(run(dropped, params, *args, dropout_keys=keys) - run(network, params, *args)).max() > 1e-3
