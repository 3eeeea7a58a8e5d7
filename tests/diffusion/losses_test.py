from functools import cache
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from semdiff.diffusion import categorical, class_schedules, gaussian, joint, losses, schedules
from semdiff.diffusion.gaussian import Gaussian, Prediction

pytestmark = pytest.mark.usefixtures("strict_ranks", "quick_compile")

ABAR = np.concatenate([[1.0], np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))])
SNR = ABAR[1:] / (1 - ABAR[1:])


def process_of(parameterisation="eps", variance="small", name="linear"):
    return Gaussian(schedules.SCHEDULES[name](1000), parameterisation, variance)


def keys_of(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def noise(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.result_type(float))


# Weightings


def test_weightings_of_eps_by_their_formulas(x64):
    process, t = process_of(), jnp.arange(1, 1001)
    np.testing.assert_allclose(losses.UNIFORM(process, t), 1)
    min_snr = losses.Weighting("min_snr", gamma=5.0)(process, t)
    np.testing.assert_allclose(min_snr, np.minimum(SNR, 5.0) / SNR, rtol=1e-8)
    p2 = losses.Weighting("p2", gamma=0.5, k=2.0)(process, t)
    np.testing.assert_allclose(p2, 1 / np.sqrt(2.0 + SNR), rtol=1e-8)
    np.testing.assert_allclose(losses.Weighting("velocity")(process, t), 1 + 1 / SNR, rtol=1e-8)
    np.testing.assert_allclose(losses.Weighting("velocity")(process_of("v"), t), 1, rtol=1e-8)


def test_min_snr_in_the_papers_terms(x64):
    """Hang et al.: min(SNR, gamma) on x_0, min(SNR, gamma) / (SNR + 1) on v."""
    t, weighting = jnp.arange(1, 1001), losses.Weighting("min_snr", gamma=3.0)
    clipped = np.minimum(SNR, 3.0)
    np.testing.assert_allclose(weighting(process_of("x0"), t), clipped, rtol=1e-8)
    np.testing.assert_allclose(weighting(process_of("v"), t), clipped / (SNR + 1), rtol=1e-8)


@pytest.mark.parametrize("kind", get_args(losses.Kind))
def test_the_weighted_loss_does_not_depend_on_the_parameterisation(x64, kind):
    """One prediction, told as eps, as x_0 and as v, costs the same."""
    t = jnp.asarray([1, 2, 50, 300, 700, 1000])
    x0, eps, guess = noise(3, 6, 4, 4, 2)
    weighting = losses.Weighting(kind, gamma=2.0)
    xt = gaussian.diffuse(process_of(), x0, t, eps)
    x0_guess = gaussian.x0_from_eps(process_of(), xt, guess, t)
    cost = {}
    for parameterisation in get_args(gaussian.Parameterisation):
        process = process_of(parameterisation)
        output = gaussian.target(process, x0_guess, guess, t)
        terms = losses.hybrid(process, output, x0, xt, eps, t, weighting)
        assert set(terms) == {"loss", "mse"}
        cost[parameterisation] = terms["loss"]
    expected = losses.Weighting(kind, gamma=2.0)(process_of(), t) * ((eps - guess) ** 2).mean((1, 2, 3))
    for parameterisation, value in cost.items():
        np.testing.assert_allclose(value, expected, rtol=1e-6, err_msg=parameterisation)


@pytest.mark.parametrize("name", sorted(schedules.SCHEDULES))
@pytest.mark.parametrize("kind", get_args(losses.Kind))
def test_weights_are_finite_at_both_ends(name, kind):
    t = jnp.asarray([1, 2, 999, 1000])
    for parameterisation in get_args(gaussian.Parameterisation):
        weight = losses.Weighting(kind, gamma=1.0)(process_of(parameterisation, name=name), t)
        assert np.isfinite(weight).all()
        assert (weight > 0).all()


# The hybrid loss


def example(t, seed=0):
    x0, eps = noise(2, len(t), 4, 4, 3, seed=seed)
    x0 = jnp.clip(x0, -1, 1)
    return x0, gaussian.diffuse(process_of(), x0, t, eps), eps


@pytest.mark.parametrize("parameterisation", get_args(gaussian.Parameterisation))
def test_hybrid_is_the_sum_of_its_terms(parameterisation):
    process, t = process_of(parameterisation, "learned_range"), jnp.asarray([1, 2, 500, 1000])
    x0, xt, eps = example(t)
    output = noise(4, 4, 4, 6, seed=1)
    weighting = losses.Weighting("min_snr")
    terms = jax.jit(losses.hybrid, static_argnums=(6, 7))(process, output, x0, xt, eps, t, weighting, 0.3)
    value, fraction = output[..., :3], (output[..., 3:] + 1) / 2
    alpha, sigma = (np.sqrt(a)[:, None, None, None] for a in (ABAR[t], 1 - ABAR[t]))
    truth = {"eps": eps, "x0": x0, "v": alpha * eps - sigma * x0}[parameterisation]
    guess = {"eps": (xt - sigma * value) / alpha, "x0": value, "v": alpha * xt - sigma * value}
    mse = ((truth - value) ** 2).mean((1, 2, 3))
    vlb = jax.jit(gaussian.vlb_term)(
        process, Prediction(guess[parameterisation], value, fraction), xt, x0, t - 1, t
    )  # checked by itself elsewhere
    np.testing.assert_allclose(terms["mse"], mse, rtol=1e-4)
    np.testing.assert_allclose(terms["vlb"], vlb, rtol=1e-3)
    np.testing.assert_allclose(terms["loss"], weighting(process, t) * mse + 0.3 * vlb, rtol=1e-3)


@pytest.mark.parametrize("parameterisation", get_args(gaussian.Parameterisation))
def test_only_the_variance_learns_from_the_bound(parameterisation):
    process, t = process_of(parameterisation, "learned_range"), jnp.asarray([1, 2, 500, 1000])
    x0, xt, eps = example(t)

    def totals(output):
        terms = losses.hybrid(process, output, x0, xt, eps, t)
        return terms["vlb"].sum(), terms["mse"].sum()

    from_bound, from_error = jax.jit(jax.jacrev(totals))(noise(4, 4, 4, 6, seed=1))
    np.testing.assert_array_equal(from_bound[..., :3], 0)
    assert (np.abs(from_bound[..., 3:]).max(axis=(1, 2, 3)) > 0).all()
    np.testing.assert_array_equal(from_error[..., 3:], 0)
    assert (np.abs(from_error[..., :3]).max(axis=(1, 2, 3)) > 0).all()


def test_the_bound_pulls_the_variance_to_where_the_error_is():
    """The best exp(log variance) of a normal is true variance + squared error of the mean: there the slope is 0."""
    process, t = process_of("x0", "learned_range"), jnp.asarray([400])
    x0 = jnp.zeros((1, 1, 1, 1))
    before, beta = ABAR[399], 1 - ABAR[400] / ABAR[399]
    small = beta * (1 - before) / (1 - ABAR[400])
    share = np.sqrt(before) * beta / (1 - ABAR[400])
    wanted = (np.log(small) + np.log(beta)) / 2  # half way
    error = np.sqrt(np.exp(wanted) - small) / share

    def bound(raw):
        output = jnp.stack([jnp.full_like(raw, error), raw]).reshape(1, 1, 1, 2)
        return losses.hybrid(process, output, x0, x0, x0, t)["vlb"][0]

    slope = jax.jit(jax.grad(bound))
    slopes = [slope(jnp.float32(raw)) for raw in (-0.5, 0.0, 0.5)]
    assert slopes[0] < 0 < slopes[2]
    assert abs(slopes[1]) < 1e-2 * abs(slopes[2])


@jax.jit
def hybrid_and_slope(process, output, *arguments):
    return jax.value_and_grad(lambda o: losses.hybrid(process, o, *arguments)["loss"].sum())(output)


@pytest.mark.parametrize("name", sorted(schedules.SCHEDULES))
def test_hybrid_is_finite_at_the_ends(name):
    """So are its gradients, from a fresh network (zeros) and from a wild one."""
    process = process_of("eps", "learned_range", name)
    t = jnp.asarray([0.01, 0.99, 1.3, 1000.0] if process.schedule.continuous else [1, 2, 999, 1000])
    x0, eps = jnp.clip(noise(2, 4, 4, 4, 3), -1, 1)
    xt = gaussian.diffuse(process, x0, t, eps)
    for scale in (0.0, 1.0, 10.0):
        value, slope = hybrid_and_slope(process, scale * noise(4, 4, 4, 6, seed=2), x0, xt, eps, t)
        assert np.isfinite(value)
        assert np.isfinite(slope).all()


# How t is drawn


def test_uniform_times_of_a_table():
    times = losses.UniformTime(10)
    t, weight = times.sample(keys_of(20_000))
    np.testing.assert_array_equal(weight, 1)
    assert jnp.issubdtype(t.dtype, jnp.integer)
    counts = np.bincount(t, minlength=11)
    assert len(counts) == 11
    assert counts[0] == 0
    assert stats.chisquare(counts[1:]).pvalue > 1e-3
    assert times.update(t, weight) is times


def test_uniform_times_of_a_formula():
    t, weight = losses.UniformTime(50, continuous=True).sample(keys_of(20_000))
    np.testing.assert_array_equal(weight, 1)
    assert (t > 0).all()
    assert (t <= 50).all()
    assert stats.kstest(np.asarray(t) / 50, "uniform").pvalue > 1e-3


def test_the_open_end_of_the_formulas_times_is_zero(monkeypatch):
    """A draw of u = 0 is t = T, never t = 0, where there is nothing to learn."""
    monkeypatch.setattr(jax.random, "uniform", lambda key: jnp.float32(0))
    t, _ = losses.UniformTime(50, continuous=True).sample(keys_of(1))
    assert t[0] == 50


update = jax.jit(losses.LossAwareTime.update)


@cache
def filled(num_steps=6, depth=4, seed=0):
    """A sampler fed until it is ready, and the losses by time as lists, most recent last."""
    rng = np.random.default_rng(seed)
    sampler = losses.LossAwareTime.create(num_steps, depth)
    seen = {t: [] for t in range(1, num_steps + 1)}
    while min(len(history) for history in seen.values()) < depth:
        t = rng.integers(1, num_steps + 1, 8)  # often twice the same in a batch
        value = rng.gamma(2.0, size=8) * t
        for at, loss in zip(t, value):
            seen[at].append(loss)
        sampler = update(sampler, jnp.asarray(t), jnp.asarray(value, jnp.float32))
    return sampler, {t: history[-depth:] for t, history in seen.items()}


def test_loss_aware_times_are_uniform_until_all_histories_are_full():
    sampler = losses.LossAwareTime.create(3, depth=2)
    feed = lambda s, *t: update(s, jnp.asarray(t), 10.0 * jnp.asarray(t, float))  # noqa: E731
    np.testing.assert_allclose(sampler.probabilities(), 1 / 3)
    sampler = feed(feed(sampler, 1, 2, 2), 2, 2, 3)
    np.testing.assert_array_equal(sampler.counts, [1, 2, 1])
    np.testing.assert_allclose(sampler.probabilities(), 1 / 3)
    np.testing.assert_array_equal(sampler.sample(keys_of(7))[1], 1)
    sampler = feed(feed(sampler, 1, 1, 1), 3, 3, 3)
    np.testing.assert_array_equal(sampler.counts, [2, 2, 2])
    np.testing.assert_allclose(sampler.probabilities(), np.array([1, 2, 3]) / 6, rtol=2e-3)


def test_loss_aware_probabilities_by_their_formula():
    sampler, seen = filled()
    np.testing.assert_allclose(sampler.history, np.array(list(seen.values())), rtol=1e-6)
    weight = np.array([np.sqrt(np.mean(np.square(history))) for history in seen.values()])
    expected = 0.999 * weight / weight.sum() + 0.001 / len(weight)
    np.testing.assert_allclose(sampler.probabilities(), expected, rtol=1e-5)
    assert sampler.probabilities().sum() == pytest.approx(1, abs=1e-6)


def test_one_update_equals_one_by_one():
    t = jnp.asarray([2, 1, 2, 2, 3, 1])
    value = jnp.asarray([1.0, 2, 3, 4, 5, 6])
    at_once = update(losses.LossAwareTime.create(3, depth=2), t, value)
    single = losses.LossAwareTime.create(3, depth=2)
    for i in range(len(t)):
        single = update(single, t[i : i + 1], value[i : i + 1])
    np.testing.assert_array_equal(at_once.history, [[2, 6], [3, 4], [0, 5]])
    np.testing.assert_array_equal(at_once.history, single.history)
    np.testing.assert_array_equal(at_once.counts, single.counts)


def test_loss_aware_sampling_is_unbiased():
    sampler, _ = filled()
    probabilities = np.asarray(sampler.probabilities())
    t, weight = sampler.sample(keys_of(20_000, 1))
    counts = np.bincount(t, minlength=7)
    assert counts[0] == 0
    assert stats.chisquare(counts[1:], probabilities / probabilities.sum() * 20_000).pvalue > 1e-3
    np.testing.assert_allclose(weight, 1 / (6 * probabilities[np.asarray(t) - 1]), rtol=1e-5)
    f = np.array([3.0, -1, 4, 1, -5, 9])
    drawn = np.asarray(weight) * f[np.asarray(t) - 1]
    assert drawn.mean() == pytest.approx(f.mean(), abs=5 * drawn.std() / np.sqrt(20_000))


def test_useless_losses_are_left_out():
    sampler, _ = filled()
    t = jnp.asarray([1, 2, 3, 4, 5])
    too_large_to_square = 10 * np.sqrt(float(jnp.finfo(jnp.result_type(float)).max))
    bad = jnp.asarray([np.nan, np.inf, -np.inf, too_large_to_square, 7.0])
    after = update(sampler, t, bad)
    np.testing.assert_array_equal(after.history[:4], sampler.history[:4])
    assert after.history[4, -1] == 7
    assert np.isfinite(after.probabilities()).all()
    fresh = update(losses.LossAwareTime.create(6, 4), t, bad)
    np.testing.assert_array_equal(fresh.counts, [0, 0, 0, 0, 1, 0])


def test_all_zero_losses_leave_the_times_uniform():
    sampler = losses.LossAwareTime.create(4, depth=1).update(jnp.arange(1, 5), jnp.zeros(4))
    np.testing.assert_allclose(sampler.probabilities(), 0.25)


@pytest.mark.parametrize("make", [lambda: losses.UniformTime(9), lambda: filled()[0]])
def test_a_time_depends_on_its_key_alone(make):
    sampler, keys = make(), keys_of(8, 3)
    t, weight = sampler.sample(keys)
    chosen = np.array([6, 1, 1])
    some_t, some_weight = sampler.sample(keys[chosen])
    np.testing.assert_array_equal(some_t, t[chosen])
    np.testing.assert_allclose(some_weight, weight[chosen])


def test_the_objective_of_a_pair_is_the_image_s_plus_the_layout_s_bound_at_its_weight():
    image = gaussian.Gaussian(schedules.cosine(50), "v", "small")
    layout = categorical.Categorical(class_schedules.Cosine(50, 3), "uniform")
    process = joint.Process(image, layout)
    keys, t = jax.random.split(jax.random.key(0), 2), jnp.array([7, 40])
    start = joint.State(jnp.ones((2, 4, 4, 3)) / 2, jnp.ones((2, 4, 4), jnp.int32))
    noise = joint.noise(process, start, keys)
    state = joint.diffuse(process, start, t, noise)
    output = joint.ByHalf(jnp.zeros((2, 4, 4, 3)), jnp.zeros((2, 4, 4, 3)))
    terms = losses.Objective(layout_weight=7.0)(process, output, start, state, noise, t)
    alone = losses.hybrid(image, output.image, start.image, state.image, noise.image, t)
    bits = categorical.vlb_term(layout, output.layout, state.layout, start.layout, t - 1, t)
    np.testing.assert_allclose(terms["layout"], bits, rtol=1e-6)
    np.testing.assert_allclose(terms["loss"], alone["loss"] + 7 * bits, rtol=1e-6)
    assert (bits > 0).all()
    only = losses.Objective()(joint.Process(layout=layout), output, start, state, noise, t)
    np.testing.assert_allclose(only["loss"], bits, rtol=1e-6)


# One half given the other


def test_a_known_half_is_shown_as_it_is_and_does_not_count():
    count, steps = 4000, 50
    t, dropped = jnp.arange(count) % steps + 1, jnp.arange(count) % 4 == 0
    at, counts = losses.Known(0.5).times(t, keys_of(count), dropped, steps)
    assert not ((counts.image == 0) & (counts.layout == 0)).any()
    for times, weights in ((at.image, counts.image), (at.layout, counts.layout)):
        held = np.asarray(weights) == 0
        assert held.mean() == pytest.approx(0.25, abs=0.03)
        np.testing.assert_array_equal(times[held], np.where(dropped, steps, 0)[held])
        np.testing.assert_array_equal(times[~held], t[~held])
        assert weights.mean() == pytest.approx(1, abs=0.04)  # the halves keep their shares of the loss


def test_nothing_known_is_one_time_for_both():
    t = jnp.arange(1, 9)
    at, counts = losses.Known(0.0).times(t, keys_of(8), jnp.zeros(8, bool), 50)
    for times, weights in ((at.image, counts.image), (at.layout, counts.layout)):
        np.testing.assert_array_equal(times, t)
        np.testing.assert_array_equal(weights, 1)
