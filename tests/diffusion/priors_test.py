import jax
import jax.numpy as jnp
import numpy as np
import pytest

from semdiff.diffusion import categorical, class_schedules, gaussian, joint, priors, schedules
from semdiff.diffusion.joint import Process, State

STEPS, B, H, W, K = 100, 4000, 2, 3, 3
IMAGE = gaussian.Gaussian(schedules.linear(STEPS))
KEYS = jax.random.split(jax.random.key(0), B)
LIKE = jnp.zeros((B, H, W, 1))


def tables(rng, classes=K + 1, height=H, width=W) -> dict:
    shape = (classes, height, width, 1)
    return {
        "mean": jnp.asarray(rng.uniform(-1, 1, shape), jnp.float32),
        "deviation": jnp.asarray(rng.uniform(0.1, 0.5, shape), jnp.float32),
    }


LAYOUT = np.array([[0, 1, 2], [7, -1, 1]])  # 7 and -1: of no class, row K


@pytest.mark.parametrize(("classes", "height", "width"), [(K + 1, H, W), (1, H, W), (K + 1, 1, 1)])
@pytest.mark.parametrize("t", [STEPS, 60, 1])
def test_a_chain_starts_from_the_statistics_of_its_layout_noised_to_its_first_time(classes, height, width, t):
    given = tables(np.random.default_rng(0), classes, height, width)
    layout = jnp.broadcast_to(LAYOUT, (B, H, W))
    state = priors.Measured().draw(given, Process(IMAGE), State(LIKE), layout, KEYS, t)
    alpha_bar = float(schedules.alpha(IMAGE.schedule, jnp.asarray(t))) ** 2
    for i, j in np.ndindex(H, W):
        row = LAYOUT[i, j] if 0 <= LAYOUT[i, j] < K else K
        at = (min(row, classes - 1), min(i, height - 1), min(j, width - 1), 0)
        mean, deviation = (float(given[name][at]) for name in ("mean", "deviation"))
        spread = np.sqrt(alpha_bar * deviation**2 + 1 - alpha_bar)
        got = np.asarray(state.image[:, i, j, 0])
        np.testing.assert_allclose(got.mean(), np.sqrt(alpha_bar) * mean, atol=4 * spread / B**0.5)
        np.testing.assert_allclose(got.std(), spread, rtol=0.05)


def test_standard_is_the_prior_of_the_process_whatever_the_time():
    process = Process(IMAGE)
    for t in (STEPS, 10):
        got = priors.STANDARD.draw({}, process, State(LIKE), None, KEYS, t)
        np.testing.assert_array_equal(got.image, joint.sample_prior(process, State(LIKE), KEYS).image)


def test_images_of_one_class_are_known_before_they_are_made():
    """Where a class has one colour, z is the image."""
    colours = jnp.array([-0.5, 0.25, 0.75, 0.0]).reshape(K + 1, 1, 1, 1)
    layout = jnp.broadcast_to(jnp.array([[0, 1, 2], [2, 1, 0]]), (B, H, W))
    z = priors.drawn_image({"mean": colours, "deviation": 0 * colours}, layout, LIKE, KEYS)
    np.testing.assert_array_equal(z[..., 0], jnp.array([-0.5, 0.25, 0.75])[layout])


def test_layouts_that_are_generated_start_from_how_often_each_place_has_each_class():
    shares = jnp.asarray(np.random.default_rng(1).dirichlet(np.ones(K), (H, W)), jnp.float32)
    shares = shares.at[0, 0].set(jnp.array([0.0, 1.0, 0.0]))
    drawn = priors.drawn_layout(shares, KEYS)
    found = np.stack([(np.asarray(drawn) == c).mean(0) for c in range(K)], -1)
    np.testing.assert_allclose(found, shares, atol=4 * 0.5 / B**0.5)
    assert (drawn[:, 0, 0] == 1).all()

    layout = categorical.Categorical(class_schedules.linear(STEPS, K), "uniform")
    given = tables(np.random.default_rng(2)) | {"shares": shares}
    like, t = State(LIKE, jnp.zeros((B, H, W), jnp.int32)), 50
    state = priors.Measured().draw(given, Process(IMAGE, layout), like, None, KEYS, t)
    keep = 1 - t / STEPS
    found = np.stack([(np.asarray(state.layout) == c).mean(0) for c in range(K)], -1)
    np.testing.assert_allclose(found, keep * shares + (1 - keep) / K, atol=0.04)

    held = State(LIKE, jnp.full((B, H, W), 2))  # a layout that is given stays, and the image starts from it
    state = priors.Measured().draw(given, Process(IMAGE), held, None, KEYS, 1)
    np.testing.assert_array_equal(state.layout, held.layout)
    np.testing.assert_allclose(state.image.mean(0), given["mean"][2], atol=0.06)


def test_statistics_of_places_start_no_chain_of_another_size():
    given, layout = tables(np.random.default_rng(0)), jnp.zeros((1, 4, 6), jnp.int32)
    with pytest.raises(ValueError, match=r"at 2 x 3 start no chain at 4 x 6.*categorical"):
        priors.Measured().draw(given, Process(IMAGE), State(jnp.zeros((1, 4, 6, 1))), layout, KEYS[:1], 1)
