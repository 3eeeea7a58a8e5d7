import jax
import jax.numpy as jnp
import numpy as np
import pytest

from semdiff.diffusion import guidance
from semdiff.diffusion.guidance import Guidance

pytestmark = pytest.mark.usefixtures("strict_ranks", "quick_compile")


def outputs():
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(2, 2, 3, 3, 6)), jnp.float32)


@pytest.mark.parametrize("weight", [-1.0, 0.0, 0.5, 1.5, 4.0])
def test_guidance_is_linear_in_its_weight(weight):
    conditional, null = outputs()
    got = Guidance(weight, "all").combine(conditional, null, 3)
    np.testing.assert_allclose(got, (1 - weight) * null + weight * conditional, rtol=1e-5, atol=1e-6)


def test_the_ends_of_guidance():
    conditional, null = outputs()
    np.testing.assert_allclose(Guidance(1.0).combine(conditional, null, 3), conditional, atol=1e-6)
    np.testing.assert_allclose(Guidance(0.0, "all").combine(conditional, null, 3), null, atol=1e-6)
    assert not Guidance().needs_null
    assert Guidance(0.0).needs_null
    assert Guidance(1.5).needs_null


def test_guiding_the_mean_leaves_the_variance_to_the_condition():
    conditional, null = outputs()
    got = Guidance(2.5).combine(conditional, null, 3)
    np.testing.assert_array_equal(got[..., 3:], conditional[..., 3:])
    np.testing.assert_array_equal(got[..., :3], Guidance(2.5, "all").combine(conditional, null, 3)[..., :3])
    assert not np.allclose(got[..., :3], conditional[..., :3])


def test_the_interval_is_open_below_and_closed_above():
    active = lambda interval, t: bool(Guidance(2.0, interval=interval).active(jnp.asarray(t), 1000))  # noqa: E731
    assert [active((0.25, 0.75), t) for t in (1, 250, 251, 500, 750, 751, 1000)] == [0, 0, 1, 1, 1, 0, 0]
    assert all(active((0.0, 1.0), t) for t in (1, 500, 1000, 0.5))
    assert not active((0.5, 0.5), 500)


def test_static_threshold():
    x = jnp.asarray([-3.0, -1, -0.25, 0, 1, 1.5]).reshape(1, 2, 3, 1)
    np.testing.assert_array_equal(guidance.threshold(x).ravel(), [-1, -1, -0.25, 0, 1, 1])


@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.995, 1.0])
def test_dynamic_threshold_is_per_example(quantile):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 5, 6, 3)) * np.array([0.1, 1.0, 3.0, 20.0])[:, None, None, None]
    got = guidance.threshold(jnp.asarray(x, jnp.float32), quantile)
    for one, result in zip(x, got):
        s = max(1.0, np.quantile(np.abs(one), quantile))
        np.testing.assert_allclose(result, np.clip(one, -s, s) / s, rtol=1e-5, atol=1e-6)
    assert (np.abs(got) <= 1).all()
    np.testing.assert_allclose(got[0], x[0], rtol=1e-6)  # what needs no thresholding stays as it is
    alone = guidance.threshold(jnp.asarray(x[2:3], jnp.float32), quantile)
    np.testing.assert_allclose(alone[0], got[2], rtol=1e-6)


def test_thresholds_work_under_jit():
    x = 3 * outputs()[0]
    for quantile in (None, 0.9):
        np.testing.assert_allclose(
            jax.jit(guidance.threshold, static_argnums=1)(x, quantile),
            guidance.threshold(x, quantile),
            rtol=1e-6,
        )
