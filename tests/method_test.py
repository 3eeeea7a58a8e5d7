"""What a paper is made of: conditions, nulls, guidance and the network's clock."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from semdiff import method
from semdiff.diffusion import gaussian, guidance, schedules
from semdiff.diffusion.losses import UniformTime
from semdiff.method import Method


class Echo:
    """A network that shows what it was given: x, and the layout's first pixel, in channels."""

    conditioning = "spade"

    def apply(
        self, variables, x, time, layout=None, edges=None, *, modulation=None, dropout_keys=None, method=None
    ):
        if method == "modulation":
            raise AssertionError("called without arguments by name")
        shown = layout[..., None] + (0 if edges is None else edges[..., None])
        mean = variables["params"] * jnp.broadcast_to(shown.astype(jnp.float32), x.shape)
        return jnp.concatenate([mean, 0.5 * mean + time[:, None, None, None]], -1)


def spelled(**changes):
    process = gaussian.Gaussian(schedules.linear(1000))
    return dataclasses.replace(Method(process, Echo(), num_classes=3, edges=True), **changes)


def condition(batch=2):
    return {"layout": jnp.ones((batch, 4, 4), jnp.int32), "edges": jnp.ones((batch, 4, 4), jnp.uint8)}


def keys(n=2):
    return jax.random.split(jax.random.key(0), n)


def test_the_null_condition_is_neither_a_class_nor_the_mask():
    null = spelled().null(condition())
    assert set(np.unique(null["layout"])) == {4}  # K = 3: classes 0..2, MASK 3
    assert not np.asarray(null["edges"]).any()


def test_pixels_round_trip():
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    np.testing.assert_array_equal(method.to_pixels(method.to_unit(pixels)), pixels)


@pytest.mark.parametrize(
    ("steps", "t", "clock"), [(1000, 1, 0), (1000, 1000, 999), (100, 1, 0), (100, 51, 500)]
)
def test_networks_see_the_clock_they_were_trained_on(steps, t, clock):
    m = spelled(process=gaussian.Gaussian(schedules.linear(steps)))
    assert float(m.network_time(jnp.asarray(t))) == pytest.approx(clock)


def raw_output(guide, t=500):
    """The network's guided output, through a process that hands it on: eps is read directly."""
    m = spelled()
    denoise = m.denoise_fn(jnp.float32(1.0), condition(), guide, None)
    return denoise(jnp.zeros((2, 4, 4, 3)), jnp.asarray(t), keys())


def test_guidance_moves_from_null_towards_the_condition():
    given, absent = 1.0 + 1.0, 4.0  # what Echo shows of the condition, and of the null
    for weight in (0.0, 1.0, 1.5, 3.0):
        eps = raw_output(guidance.Guidance(weight)).eps
        np.testing.assert_allclose(eps, absent + weight * (given - absent), rtol=1e-5)


def test_guidance_on_the_mean_leaves_the_variance_to_the_condition():
    plain = raw_output(guidance.Guidance(1.0)).fraction
    np.testing.assert_allclose(raw_output(guidance.Guidance(3.0)).fraction, plain)
    assert np.abs(raw_output(guidance.Guidance(3.0, "all")).fraction - plain).max() > 0.1


@pytest.mark.parametrize(("t", "acts"), [(100, False), (300, True), (600, True), (601, False)])
def test_guidance_acts_inside_its_interval(t, acts):
    eps = raw_output(guidance.Guidance(3.0, interval=(0.2, 0.6)), t).eps
    assert bool(np.allclose(eps, 2.0)) is not acts


def batch(n=64):
    return {
        "image": np.zeros((n, 4, 4, 3), np.uint8),
        "layout": np.ones((n, 4, 4), np.int32),
        "edges": np.ones((n, 4, 4), np.uint8),
    }


def seen(m, train=True):
    """What each example's network was shown: its share of `weight` at slope 1."""
    shown = []

    class Spy(Echo):
        def apply(self, variables, x, time, layout=None, edges=None, **rest):
            shown.append((np.asarray(layout), np.asarray(edges)))
            return super().apply(variables, x, time, layout, edges, **rest)

    m = dataclasses.replace(m, network=Spy())
    m.loss(jnp.float32(1.0), batch(), keys(64), UniformTime(1000), train)
    return shown[0]


def test_condition_dropout_drops_layout_and_edges_of_whole_examples():
    layout, edges = seen(spelled(condition_dropout=0.25))
    dropped = (layout == 4).all((1, 2))
    assert ((layout == 1).all((1, 2)) | dropped).all()
    np.testing.assert_array_equal(edges.any((1, 2)), ~dropped)
    assert 4 <= dropped.sum() <= 30


def test_nothing_is_dropped_in_validation():
    layout, _ = seen(spelled(condition_dropout=0.9), train=False)
    assert (layout == 1).all()


def test_an_examples_loss_depends_on_its_own_key_alone():
    m, all_keys = spelled(), keys(4)
    whole, t, _ = m.loss(jnp.float32(0.3), batch(4), all_keys, UniformTime(1000))
    part, t_part, _ = m.loss(jnp.float32(0.3), batch(2), all_keys[2:], UniformTime(1000))
    np.testing.assert_array_equal(t[2:], t_part)
    np.testing.assert_allclose(whole["loss"][2:], part["loss"], rtol=1e-5)
