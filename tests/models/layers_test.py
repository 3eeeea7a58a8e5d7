"""The parts of the networks, against the plain way of computing each."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from semdiff.models import layers
from semdiff.models.layers import Labels
from semdiff.models.target import traced_for


def labels_of(seed, shape, num_classes, edges):
    rng = np.random.default_rng(seed)
    ids = rng.integers(-1, num_classes + 2, shape)  # also ids that mean the zero vector
    return Labels(
        jnp.asarray(ids, jnp.int32), jnp.asarray(rng.integers(0, 2, shape), jnp.uint8) if edges else None
    )


def planes_by_hand(labels, num_classes):
    ids = np.asarray(labels.ids)
    planes = np.stack([ids == c for c in range(num_classes)], -1).astype(np.float64)
    if labels.edges is None:
        return planes
    return np.concatenate([planes, np.asarray(labels.edges, np.float64)[..., None]], -1)


def conv_by_hand(planes, kernel):
    """out[y, x] = sum over taps of planes[y + i - 1, x + j - 1] kernel[i, j], zero outside."""
    b, h, w, _ = planes.shape
    padded = np.pad(planes, ((0, 0), (1, 1), (1, 1), (0, 0)))
    out = np.zeros((b, h, w, kernel.shape[-1]))
    for i in range(3):
        for j in range(3):
            out += padded[:, i : i + h, j : j + w] @ kernel[i, j]
    return out


@pytest.mark.parametrize("method", ["lookup", "onehot"])
@pytest.mark.parametrize(("num_classes", "edges"), [(2, False), (5, True), (183, False)])
def test_label_conv_is_the_convolution_over_one_hot_planes(method, num_classes, edges):
    labels = labels_of(0, (2, 6, 9), num_classes, edges)
    kernel = np.random.default_rng(1).normal(size=(3, 3, num_classes + edges, 7))
    expected = conv_by_hand(planes_by_hand(labels, num_classes), kernel)
    got = layers.label_conv(labels, jnp.asarray(kernel, jnp.float32), method)
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("edges", [False, True])
def test_label_conv_methods_have_the_same_gradient(edges):
    labels = labels_of(2, (2, 8, 8), 6, edges)
    rng = np.random.default_rng(3)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 6 + edges, 4)), jnp.float32)
    weight = jnp.asarray(rng.normal(size=(2, 8, 8, 4)), jnp.float32)
    grads = [
        jax.grad(lambda k, m=method: (weight * layers.label_conv(labels, k, m)).sum())(kernel)
        for method in ("lookup", "onehot")
    ]
    np.testing.assert_allclose(*grads, atol=1e-4)


def test_what_is_traced_for_decides_between_planes_and_look_ups():
    labels, text = labels_of(0, (1, 8, 8), 5, False), {}
    for platform in ("cpu", "tpu"):
        with traced_for(platform):
            program = jax.jit(lambda k: layers.label_conv(labels, k)).trace(jnp.ones((3, 3, 5, 4)))
        text[platform] = program.lower(lowering_platforms=(platform,)).as_text()
    assert "stablehlo.convolution" in text["tpu"]
    assert "stablehlo.gather" not in text["tpu"]
    assert "stablehlo.convolution" not in text["cpu"]


@pytest.mark.parametrize("method", ["auto", "onehot"])
def test_what_is_traced_for_changes_no_number(method):
    labels, outcomes = labels_of(1, (2, 8, 8), 5, True), []
    first, second = ((0.3 * jnp.asarray(np.random.default_rng(i).normal(size=s)), jnp.ones(s[-1]))
                     for i, s in enumerate([(3, 3, 6, 4), (3, 3, 4, 8)]))  # fmt: skip

    def loss(first, second):
        return jnp.sin(layers.modulation(labels, first, second, method)).sum()

    for platform in ("cpu", "tpu", "gpu"):
        with traced_for(platform):
            outcomes.append(jax.value_and_grad(lambda *w: loss(*w), argnums=(0, 1))(first, second))
    same = lambda a, *others: [np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5) for b in others]  # noqa: E731
    jax.tree.map(same, *outcomes)


def test_on_a_gpu_convolutions_have_channels_for_tensor_cores():
    x, kernel = jnp.ones((1, 8, 8, 3)), jnp.ones((3, 3, 3, 6))
    with traced_for("gpu"):
        text = str(jax.make_jaxpr(jax.grad(lambda k: layers.convolve(x, k, 2).sum()))(kernel))
        assert layers.convolve(x, kernel, 2).shape == (1, 4, 4, 6)
    channels = {
        int(n)
        for shape in re.findall(r"f32\[([\d,]+)\] = conv_general_dilated", text)
        for n in shape.split(",")
    }
    assert channels & {3, 6} == {3}  # the kernel's height and width
    assert 8 in channels


def test_look_ups_in_bfloat16_are_added_in_float32():
    labels = labels_of(4, (2, 8, 8), 12, False)
    kernel = np.random.default_rng(5).normal(size=(3, 3, 12, 64))
    rounded = jnp.asarray(kernel, jnp.bfloat16)
    exact = conv_by_hand(planes_by_hand(labels, 12), np.asarray(rounded, np.float64))
    got = layers.label_conv(labels, rounded, "lookup")
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got, jnp.asarray(exact, jnp.float32).astype(jnp.bfloat16))


@pytest.mark.parametrize(("edges", "first_id"), [(False, -1), (True, 3)])
def test_modulation_that_is_forgotten_has_the_gradient_of_one_that_is_kept(edges, first_id):
    labels = labels_of(6, (2, 8, 8), 5, edges)
    labels = labels.replace(ids=labels.ids.at[0, 0, 0].set(first_id))
    rng = np.random.default_rng(7)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    first, second = (draw(3, 3, 5 + edges, 4), draw(4)), (draw(3, 3, 4, 6), draw(6))
    weight = draw(2, 8, 8, 6)

    def gradient(method):
        value = lambda *given: (weight * layers.modulation(labels, *given, method)).sum()  # noqa: E731
        return jax.value_and_grad(value, argnums=(0, 1))(first, second)

    forgotten, kept = gradient("lookup"), gradient("onehot")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3), forgotten, kept)


def test_a_bias_has_the_gradient_of_a_sum():
    x, weight = jax.random.normal(jax.random.key(0), (2, 2, 5, 6, 3))
    gradient = jax.grad(lambda b: (weight * layers.add_bias(x, b)).sum())(jnp.zeros(3))
    np.testing.assert_allclose(gradient, weight.sum((0, 1, 2)), rtol=1e-5)


def test_labels_shrink_as_nearest_resizing_does():
    ids = jnp.arange(64).reshape(1, 8, 8)
    small = Labels(ids, ids % 2).at(4)
    np.testing.assert_array_equal(small.ids[0], np.arange(64).reshape(8, 8)[::2, ::2])
    np.testing.assert_array_equal(small.edges[0], np.arange(64).reshape(8, 8)[::2, ::2] % 2)


def test_group_normalise_gives_each_group_zero_mean_and_unit_variance():
    x = 5 + 3 * jax.random.normal(jax.random.key(0), (2, 6, 5, 12))
    y = np.asarray(layers.group_normalise(x, 4)).reshape(2, 30, 4, 3)
    np.testing.assert_allclose(y.mean((1, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(y.std((1, 3)), 1, atol=1e-4)


def test_group_normalise_survives_a_large_mean():
    x = 1e4 + jax.random.normal(jax.random.key(0), (1, 8, 8, 4))
    y = np.asarray(layers.group_normalise(x, 2))
    assert abs(y.std() - 1) < 0.01


def test_spade_scales_and_shifts_by_the_layout():
    norm = layers.Spade(channels=8, hidden=4, num_classes=3, edge_channel=False)
    x = jax.random.normal(jax.random.key(0), (1, 4, 4, 8))
    labels = Labels(jnp.zeros((1, 8, 8), jnp.int32))
    params = norm.init(jax.random.key(1), x, labels)["params"]
    modulation = norm.apply({"params": params}, labels, 4, method="modulation")
    gamma, beta = np.split(np.asarray(modulation), 2, -1)
    expected = np.asarray(layers.group_normalise(x, 8)) * (1 + gamma) + beta
    np.testing.assert_allclose(norm.apply({"params": params}, x, labels), expected, atol=1e-5)
    assert np.abs(gamma).max() > 0


def test_resampling_halves_by_means_and_doubles_by_copies():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(layers.downsample(x)[0, :, :, 0], [[2.5, 4.5], [10.5, 12.5]])
    np.testing.assert_array_equal(
        layers.upsample(x)[0, :, :, 0], np.arange(16).reshape(4, 4).repeat(2, 0).repeat(2, 1)
    )


def attention(kind, heads=2, channels=8):
    block = layers.Attention(channels, heads, kind)
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, channels))
    params = block.init(jax.random.key(1), x)["params"]
    params["out"]["kernel"] = jax.random.normal(jax.random.key(2), (channels, channels))
    return block, params, x


@pytest.mark.parametrize("kind", ["dot", "cosine"])
def test_attention_by_hand(kind):
    block, params, x = attention(kind)
    p = jax.tree.map(np.asarray, params)
    normed = np.asarray(layers.group_normalise(x, 8)).reshape(2, 12, 8)
    qkv = (normed @ p["qkv"]["kernel"] + p["qkv"]["bias"]).reshape(
        2, 12, 2, 12
    )  # per head: q, k, v of width 4
    q, k, v = np.split(qkv, 3, -1)
    if kind == "cosine":
        q, k = (a / np.linalg.norm(a, axis=-1, keepdims=True) for a in (q, k))
        logits = p["alpha"][:, None, None] * np.einsum("blhd,bmhd->bhlm", q, k)
    else:
        logits = np.einsum("blhd,bmhd->bhlm", q, k) / 2
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    mixed = np.einsum("bhlm,bmhd->blhd", weights, v).reshape(2, 12, 8)
    expected = np.asarray(x) + (mixed @ p["out"]["kernel"] + p["out"]["bias"]).reshape(x.shape)
    np.testing.assert_allclose(block.apply({"params": params}, x), expected, atol=1e-4)


def test_cosine_attention_does_not_see_the_length_of_queries():
    block, params, x = attention("cosine", heads=1)
    scaled = jax.tree.map(lambda a: a, params)
    kernel, bias = params["qkv"]["kernel"], params["qkv"]["bias"]
    scaled["qkv"] = {"kernel": kernel.at[:, :8].multiply(7.0), "bias": bias.at[:8].multiply(7.0)}
    same = block.apply({"params": scaled}, x)
    np.testing.assert_allclose(same, block.apply({"params": params}, x), atol=1e-4)


def test_cosine_attention_has_a_gradient_where_queries_are_zero():
    block, params, x = attention("cosine")
    zero = jax.tree.map(lambda a: a, params)
    zero["qkv"] = jax.tree.map(jnp.zeros_like, params["qkv"])
    gradient = jax.grad(lambda p: block.apply({"params": p}, x).sum())(zero)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_timestep_embedding_is_cosines_then_sines():
    got = layers.timestep_embedding(jnp.array([0.0, 37.0]), 6)
    angles = np.array([0.0, 37.0])[:, None] * 10000.0 ** (-np.arange(3) / 3)
    np.testing.assert_allclose(got, np.concatenate([np.cos(angles), np.sin(angles)], 1), atol=1e-5)


def test_dropout_of_an_example_depends_on_its_key_alone():
    drop = layers.Dropout(0.5)
    x, keys = jnp.ones((4, 8, 8, 3)), jax.random.split(jax.random.key(0), 4)
    whole = drop.apply({}, x, keys)
    np.testing.assert_array_equal(drop.apply({}, x[2:], keys[2:]), whole[2:])
    assert set(np.unique(whole)) == {0.0, 2.0}
    assert (whole[0] != whole[1]).any()
    np.testing.assert_array_equal(drop.apply({}, x), x)
