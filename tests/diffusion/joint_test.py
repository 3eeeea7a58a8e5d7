"""The joint process: each half its sibling's kernel, and both together on a world of a few pairs, where all is known."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from semdiff.diffusion import categorical, class_schedules, gaussian, joint, samplers, schedules
from semdiff.diffusion.categorical import Categorical
from semdiff.diffusion.gaussian import Gaussian
from semdiff.diffusion.joint import ByHalf, Prediction, Process, State
from semdiff.diffusion.samplers import DDIM, Ancestral, Joint, LayoutStep

pytestmark = pytest.mark.usefixtures("strict_ranks", "quick_compile")

STEPS, CLASSES = 200, 3
IMAGE = Gaussian(schedules.cosine(STEPS), "x0", "small")
LAYOUTS = {
    "uniform": Categorical(class_schedules.Cosine(STEPS, CLASSES), "uniform"),
    "absorbing": Categorical(class_schedules.classwise(STEPS, np.array([2.0, 9.0, 60.0]))),
}

# The world: an image of one pixel and its class. The last two pairs share an image, the first and third a class.
PAIRS = np.array([(-0.8, 0), (0.3, 1), (0.9, 0), (0.9, 2)])


def keys_of(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def world(count):
    x, y = PAIRS[np.arange(count) % len(PAIRS)].T
    return State(
        jnp.asarray(x, jnp.float32).reshape(-1, 1, 1, 1), jnp.asarray(y, jnp.int32).reshape(-1, 1, 1)
    )


def random_state(count, seed=0):
    rng = np.random.default_rng(seed)
    image = jnp.asarray(rng.normal(size=(count, 3, 4, 2)), jnp.float32)
    return State(image, jnp.asarray(rng.integers(0, CLASSES, (count, 3, 4)), jnp.int32))


def random_prediction(count, seed=1):
    rng = np.random.default_rng(seed)
    x0, eps = (jnp.asarray(rng.normal(size=(count, 3, 4, 2)), jnp.float32) for _ in range(2))
    logits = jnp.asarray(rng.normal(size=(count, 3, 4, CLASSES)), jnp.float32)
    return Prediction(gaussian.Prediction(x0, eps), logits)


def exact(process: Process):
    """E[x_0 | x_t, y_t] and log p(y_0 | x_t, y_t) over the pairs, equally likely; a half that is absent says nothing."""
    x, y = jnp.asarray(PAIRS[:, 0], jnp.float32), jnp.asarray(PAIRS[:, 1], jnp.int32)

    def denoise(state, t, keys):
        at = joint.by_half(t)
        log_p = jnp.zeros((state.batch, len(PAIRS)))
        if process.image is not None:
            times = jnp.full((state.batch,), at.image)
            alpha = schedules.alpha(process.image.schedule, times)[:, None]
            sigma = schedules.sigma(process.image.schedule, times)[:, None]
            log_p += -0.5 * ((state.image.reshape(-1, 1) - alpha * x[None]) / sigma) ** 2
        if process.layout is not None:
            times = jnp.full((1,), at.layout)
            kept = process.layout.schedule.keep(times)[0, y]
            dropped = process.layout.schedule.drop(0 * times, times)[0, y]
            shown = state.layout.reshape(-1, 1)
            if process.layout.transition == "uniform":
                likelihood = jnp.where(shown == y[None], kept[None], 0.0) + dropped[None] / CLASSES
            else:
                hidden = shown == process.layout.mask_id
                likelihood = jnp.where(hidden, dropped[None], jnp.where(shown == y[None], kept[None], 0.0))
            log_p += jnp.log(likelihood)
        p = jax.nn.softmax(log_p, axis=1)
        image = logits = None
        if process.image is not None:
            x0 = (p @ x).reshape(-1, 1, 1, 1)
            eps = gaussian.eps_from_x0(process.image, state.image, x0, jnp.full((state.batch,), at.image))
            image = gaussian.Prediction(x0, eps)
        if process.layout is not None:
            of_class = p @ jax.nn.one_hot(y, CLASSES)
            logits = jnp.log(jnp.maximum(of_class, 1e-30)).reshape(-1, 1, 1, CLASSES)
        return Prediction(image, logits)

    return denoise


def shares(state, shown=PAIRS):
    """How often each pair came out: the nearest image, the very class."""
    x, y = np.asarray(state.image).ravel(), np.asarray(state.layout).ravel()
    return np.array([np.mean((np.abs(x - a) < 0.1) & (y == b)) for a, b in shown])


@pytest.mark.parametrize("kind", LAYOUTS)
def test_a_frozen_half_leaves_the_others_kernel(kind):
    """To the bit, with the image half's keys; the frozen half stays as it is."""
    layout, n = LAYOUTS[kind], 4
    state, other, prediction, keys = random_state(n), random_state(n, 2), random_prediction(n), keys_of(n)
    s, t = jnp.asarray([0, 3, 40, 100]), jnp.asarray([1, 9, 150, 200])
    own = joint.layout_keys(keys)
    image_only, layout_only, both = Process(IMAGE), Process(layout=layout), Process(IMAGE, layout)
    verbs = {
        "sample_prior": (
            lambda p: joint.sample_prior(p, state, keys),
            gaussian.sample_prior(IMAGE, state.image, keys),
            categorical.sample_prior(layout, state.layout, own),
        ),
        "q_sample": (
            lambda p: joint.q_sample(p, state, t, keys),
            gaussian.q_sample(IMAGE, state.image, t, keys),
            categorical.q_sample(layout, state.layout, t, own),
        ),
        "q_step": (
            lambda p: joint.q_step(p, state, s, t, keys),
            gaussian.q_step(IMAGE, state.image, s, t, keys),
            categorical.q_step(layout, state.layout, s, t, own),
        ),
        "p_step": (
            lambda p: joint.p_step(p, state, prediction, s, t, keys),
            gaussian.p_step(IMAGE, state.image, prediction.image, s, t, keys),
            categorical.p_step(layout, state.layout, prediction.layout, s, t, own),
        ),
    }
    for name, (verb, image, drawn) in verbs.items():
        for process, of_image, of_layout in (
            (image_only, image, state.layout),
            (layout_only, state.image, drawn),
            (both, image, drawn),
        ):
            got = verb(process)
            np.testing.assert_array_equal(got.image, of_image, err_msg=name)
            np.testing.assert_array_equal(got.layout, of_layout, err_msg=name)
    posterior = joint.q_posterior(both, state, other, s, t)
    for a, b in zip(posterior.image, gaussian.q_posterior(IMAGE, state.image, other.image, s, t)):
        np.testing.assert_array_equal(a, b)
    expected = categorical.q_posterior(layout, state.layout, other.layout, s, t)
    np.testing.assert_array_equal(posterior.layout, expected)
    assert joint.q_posterior(image_only, state, other, s, t).layout is None
    assert joint.q_posterior(layout_only, state, other, s, t).image is None


@pytest.mark.parametrize("kind", LAYOUTS)
def test_each_half_may_have_its_own_time(kind):
    layout, n = LAYOUTS[kind], 3
    process, state, prediction, keys = (
        Process(IMAGE, layout),
        random_state(n),
        random_prediction(n),
        keys_of(n),
    )
    s = ByHalf(jnp.asarray([0, 5, 100]), jnp.asarray([7, 0, 20]))
    t = ByHalf(jnp.asarray([4, 90, 200]), jnp.asarray([50, 3, 199]))
    got = joint.p_step(process, state, prediction, s, t, keys)
    image = gaussian.p_step(IMAGE, state.image, prediction.image, s.image, t.image, keys)
    np.testing.assert_array_equal(got.image, image)
    alone = joint.p_step(Process(layout=layout), state, prediction, s.layout, t.layout, keys)
    np.testing.assert_array_equal(got.layout, alone.layout)


@pytest.mark.parametrize("last", ["argmax", "draw"])
@pytest.mark.parametrize("kind", LAYOUTS)
def test_a_joint_step_is_a_step_of_each_half(kind, last):
    layout, n = LAYOUTS[kind], 3
    state, prediction, keys = random_state(n), random_prediction(n), keys_of(n)
    s = ByHalf(jnp.asarray([0, 5, 100]), jnp.asarray([7, 0, 20]))
    t = ByHalf(jnp.asarray([4, 90, 200]), jnp.asarray([50, 3, 199]))
    sampler = Joint(DDIM(), LayoutStep(last))
    got, _ = sampler.step(Process(IMAGE, layout), sampler.init(state), state, prediction, s, t, keys)
    image, _ = DDIM().step(IMAGE, (), state.image, prediction.image, s.image, t.image, keys)
    np.testing.assert_array_equal(got.image, image)
    own = joint.layout_keys(keys)
    drawn = categorical.p_step(layout, state.layout, prediction.layout, s.layout, t.layout, own)
    into_data = np.asarray(got.layout)[1]  # the likeliest there
    np.testing.assert_array_equal(np.delete(got.layout, 1, 0), np.delete(drawn, 1, 0))
    likeliest = categorical.log_reverse(layout, state.layout, prediction.layout, s.layout, t.layout).argmax(
        -1
    )
    np.testing.assert_array_equal(into_data, drawn[1] if last == "draw" else likeliest[1])


@pytest.mark.parametrize("kind", LAYOUTS)
def test_terms_of_the_bound_are_the_halves(kind):
    layout, n = LAYOUTS[kind], 4
    process, start, prediction = Process(IMAGE, layout), random_state(n), random_prediction(n)
    t = jnp.asarray([1, 20, 100, 200])
    s = t - 1
    state = joint.q_sample(process, start, t, keys_of(n))
    terms = joint.vlb_terms(process, prediction, state, start, s, t)
    image = gaussian.vlb_term(IMAGE, prediction.image, state.image, start.image, s, t)
    np.testing.assert_array_equal(terms.image, image)
    of_layout = categorical.vlb_term(layout, prediction.layout, state.layout, start.layout, s, t)
    np.testing.assert_array_equal(terms.layout, of_layout)
    priors = joint.prior_terms(process, start)
    np.testing.assert_array_equal(priors.image, gaussian.prior_term(IMAGE, start.image))
    np.testing.assert_array_equal(priors.layout, categorical.prior_term(layout, start.layout))
    assert joint.prior_terms(Process(IMAGE), start).layout is None


def test_a_process_has_one_number_of_steps():
    with pytest.raises(ValueError, match=r"one number of steps .* \[100, 200\]"):
        _ = Process(IMAGE, Categorical(class_schedules.linear(100, CLASSES))).num_steps
    with pytest.raises(ValueError, match=r"needs a half"):
        _ = Process().num_steps
    assert Process(layout=LAYOUTS["uniform"]).num_steps == STEPS


TIMES = schedules.spaced_times(STEPS, 100, "trailing")
COUNT = 1200


def draw(process, sampler, clamp=None, resample=1, times=TIMES, count=COUNT):
    @jax.jit
    def run(keys):
        start = joint.sample_prior(process, world(count), samplers.fold_in(keys, 9))
        return samplers.chain(
            exact(process), process, sampler, times, start, keys, clamp=clamp, resample=resample
        )

    return run(keys_of(count))


@pytest.mark.parametrize("image", [Ancestral(), DDIM()])
@pytest.mark.parametrize("kind", LAYOUTS)
def test_the_chain_of_an_exact_network_draws_pairs_as_often_as_they_are(kind, image):
    """The halves agree, though each is drawn by itself at every step."""
    process = Process(IMAGE, LAYOUTS[kind])
    found = shares(draw(process, Joint(image)))
    np.testing.assert_allclose(found, 0.25, atol=0.06)
    assert found.sum() > 0.95


@pytest.mark.parametrize("kind", LAYOUTS)
def test_a_clamped_layout_is_a_condition_of_the_image(kind):
    process, given = Process(IMAGE, LAYOUTS[kind]), world(COUNT)

    def keep_layout(state, s, keys):
        return State(state.image, joint.q_sample(process, given, s, keys).layout)

    made = draw(process, Joint(Ancestral()), keep_layout, resample=2)
    np.testing.assert_array_equal(made.layout, given.layout)
    found = shares(
        made
    )  # what is clamped is seen noised, so how often each of two images of a class comes is not exact
    np.testing.assert_allclose([found[0] + found[2], found[1], found[3]], [0.5, 0.25, 0.25], atol=0.04)
    assert min(found) > 0.12


def test_a_clamped_image_is_a_condition_of_the_layout():
    """Where two classes look alike, by a draw. Absorbing processes keep what they have shown, also what they took from the
    image when it was noise: they need other means to read."""
    process, given = Process(IMAGE, LAYOUTS["uniform"]), world(COUNT)

    def keep_image(state, s, keys):
        return State(joint.q_sample(process, given, s, keys).image, state.layout)

    read = draw(process, Joint(Ancestral()), keep_image)
    np.testing.assert_allclose(read.image, given.image, atol=1e-6)
    np.testing.assert_allclose(shares(read), 0.25, atol=0.06)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_a_half_may_run_ahead(kind):
    """The layout is done at half of the chain's length of the image: the image then follows a layout that is clean."""
    process = Process(IMAGE, LAYOUTS[kind])
    ahead = np.unique(np.round(np.linspace(0, 1, 101) ** 2 * STEPS))[::-1]
    image = np.unique(np.round(np.linspace(0, 1, len(ahead)) * STEPS))[::-1]
    assert (ahead[1:-1] < image[1:-1]).all()
    times = ByHalf(image.astype(np.int32), ahead.astype(np.int32))
    found = shares(draw(process, Joint(Ancestral()), times=times))
    np.testing.assert_allclose(found, 0.25, atol=0.08)


def test_times_of_each_half_are_checked():
    process, bad = Process(IMAGE, LAYOUTS["uniform"]), np.array([200, 300, 0])
    for times in (ByHalf(TIMES, bad), ByHalf(bad, TIMES), bad):
        with pytest.raises(ValueError, match="must descend"):
            draw(process, Joint(Ancestral()), times=times, count=2)
    tables = Categorical(class_schedules.table(np.linspace(1, 0, 201)[:, None] * np.ones(CLASSES)))
    real = np.array([200.0, 50.5, 0.0])
    continuous = Process(Gaussian(schedules.SCHEDULES["cosine_log_snr"](STEPS), "x0", "small"), tables)
    with pytest.raises(ValueError, match="integer times only"):
        draw(continuous, Joint(Ancestral()), times=real, count=2)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_the_last_layout_step_is_the_likeliest_class_or_a_draw(kind):
    layout, n = LAYOUTS[kind], 400
    yt = jnp.full((n, 1, 1), layout.mask_id if kind == "absorbing" else 0, jnp.int32)
    logits = jnp.log(jnp.asarray([0.1, 0.3, 0.6]))[None, None, None] * jnp.ones((n, 1, 1, 1))
    t = jnp.full((n,), STEPS)
    step = {
        last: lambda s, last=last: np.asarray(
            LayoutStep(last).step(layout, yt, logits, jnp.full((n,), s), t, keys_of(n))
        )
        for last in ("argmax", "draw")
    }
    assert (step["argmax"](0) == 2).all()
    drawn = np.bincount(step["draw"](0).ravel(), minlength=3) / n
    np.testing.assert_allclose(drawn, [0.1, 0.3, 0.6], atol=0.08)
    np.testing.assert_array_equal(step["argmax"](100), step["draw"](100))


@pytest.mark.parametrize(("has_image", "has_layout"), product([True, False], [True, False]))
def test_halves_that_are_absent_stay_absent(has_image, has_layout):
    if not (has_image or has_layout):
        return
    process = Process(IMAGE if has_image else None, LAYOUTS["absorbing"] if has_layout else None)
    whole = world(4)
    start = State(whole.image if has_image else None, whole.layout if has_layout else None)
    keys = keys_of(4)
    prior = joint.sample_prior(process, start, keys)
    end = samplers.chain(
        exact(process), process, Joint(Ancestral()), np.array([STEPS, 90, 20, 0]), prior, keys
    )
    assert (end.image is not None, end.layout is not None) == (has_image, has_layout)
    assert joint.q_step(process, end, jnp.zeros(4, jnp.int32), jnp.full(4, 9), keys).batch == 4


def test_an_image_that_is_not_noised_needs_no_sampler():
    process, start = Process(layout=LAYOUTS["uniform"]), world(8)
    times, keys = np.linspace(STEPS, 0, 5).astype(int), keys_of(8)
    drawn = State(start.image, categorical.sample_prior(process.layout, start.layout, keys))
    end = samplers.chain(exact(process), process, Joint(), times, drawn, keys)
    np.testing.assert_array_equal(end.image, start.image)
    assert (end.layout < CLASSES).all()


@pytest.mark.parametrize("kind", LAYOUTS)
def test_noising_takes_the_time_of_each_half(kind):
    process, start, keys = Process(IMAGE, LAYOUTS[kind]), world(64), keys_of(64)
    early, late = jnp.full(64, 1), jnp.full(64, STEPS)
    noised = joint.q_sample(process, start, ByHalf(early, late), keys)
    np.testing.assert_array_equal(noised.image, joint.q_sample(process, start, early, keys).image)
    np.testing.assert_array_equal(noised.layout, joint.q_sample(process, start, late, keys).layout)
    assert (noised.layout != joint.q_sample(process, start, early, keys).layout).any()
