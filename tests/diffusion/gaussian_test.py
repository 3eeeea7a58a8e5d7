from dataclasses import replace
from itertools import pairwise
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from semdiff.diffusion import gaussian, schedules
from semdiff.diffusion.gaussian import Gaussian, Prediction

pytestmark = pytest.mark.usefixtures("strict_ranks", "quick_compile")

BETAS = np.linspace(1e-4, 0.02, 1000)
ABAR = np.concatenate([[1.0], np.cumprod(1 - BETAS)])
PAIRS = [
    (0, 1),
    (1, 2),
    (41, 42),
    (500, 501),
    (999, 1000),
    (0, 40),
    (1, 43),
    (250, 500),
    (10, 990),
    (0, 1000),
]


def process_of(parameterisation="eps", variance="learned_range", name="linear", num_steps=1000):
    return Gaussian(schedules.SCHEDULES[name](num_steps), parameterisation, variance)


def keys_of(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def column(values, dtype=jnp.int32):
    return jnp.asarray(values, dtype)


def flat(value, count=1, side=1):
    return jnp.full((count, side, side, 1), value)


def noise(*shape, seed=0, dtype=None):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype or jnp.result_type(float))


def moments(x):
    """Mean and standard deviation of each example, and by how much they may err (5 sigma)."""
    x = np.asarray(x, np.float64).reshape(len(x), -1)
    std = x.std(axis=1)
    return x.mean(axis=1), std, 5 * std / np.sqrt(x.shape[1])


def assert_moments(x, mean, std):
    got_mean, got_std, error = moments(x)
    assert (np.abs(got_mean - mean) <= error + 1e-6).all(), (got_mean, mean, error)
    assert (np.abs(got_std - std) <= error + 1e-6).all(), (got_std, std, error)


# The forward process


def test_q_sample_moments():
    t = column([0, 1, 300, 1000])
    x0 = flat(0.7, 4, 100)
    xt = gaussian.q_sample(process_of(), x0, t, keys_of(4))
    assert_moments(xt, 0.7 * np.sqrt(ABAR[t]), np.sqrt(1 - ABAR[t]))
    np.testing.assert_array_equal(xt[0], x0[0])


def test_chained_steps_have_the_marginal():
    """0 -> a -> b -> t by q_step is q_sample at t."""
    process, x = process_of(), flat(-0.6, 4, 100)
    stops = np.array([[0, 0, 0, 0], [1, 20, 400, 0], [2, 21, 401, 999], [3, 200, 900, 1000]])
    for i, (s, t) in enumerate(pairwise(stops)):
        x = gaussian.q_step(process, x, column(s), column(t), keys_of(4, i))
    assert_moments(x, -0.6 * np.sqrt(ABAR[stops[-1]]), np.sqrt(1 - ABAR[stops[-1]]))


def test_q_step_to_the_same_time_changes_nothing():
    x, t = noise(4, 100, 100, 1), column([0, 7, 80, 1000])
    np.testing.assert_array_equal(gaussian.q_step(process_of(), x, t, t, keys_of(4)), x)


def test_prior_is_standard_normal():
    x = gaussian.sample_prior(process_of(), flat(0.0, 4, 100), keys_of(4))
    assert_moments(x, 0.0, 1.0)
    assert abs(np.corrcoef(x[0].ravel(), x[1].ravel())[0, 1]) < 0.03


def test_noise_depends_on_the_examples_key_alone():
    process, keys = process_of(variance="small"), keys_of(6, 3)
    x = noise(6, 4, 5, 3)
    s, t = column([0, 3, 50, 100, 500, 999]), column([1, 4, 60, 900, 501, 1000])

    @jax.jit
    def draws(x_, s_, t_, k_):
        prediction = Prediction(x_ / 2, x_ / 3)
        return [
            gaussian.normal(k_, x_),
            gaussian.sample_prior(process, x_, k_),
            gaussian.q_sample(process, x_, t_, k_),
            gaussian.q_step(process, x_, s_, t_, k_),
            gaussian.p_step(process, x_, prediction, s_, t_, k_),
        ]

    whole = draws(x, s, t, keys)
    for chosen in (np.array([5, 3, 1, 0, 2, 2]), np.array([4])):
        for part, all_of_them in zip(draws(x[chosen], s[chosen], t[chosen], keys[chosen]), whole):
            np.testing.assert_allclose(part, all_of_them[chosen], rtol=1e-5, atol=1e-6)
    assert not np.allclose(whole[0][0], whole[0][1])


# The posterior


def brute_force_posterior(s, t, x0, xt):
    """Bayes on a grid: p(x_s) ~ N(x_s; sqrt(abar_s) x_0, 1 - abar_s) N(x_t; a x_s, 1 - a^2)."""
    if s == 0:
        return x0, 0.0
    mean_s, std_s = np.sqrt(ABAR[s]) * x0, np.sqrt(1 - ABAR[s])
    a = np.sqrt(np.prod(1 - BETAS[s:t]))
    step_std = np.sqrt(1 - a**2)
    centre, width = min((mean_s, std_s), (xt / a, step_std / a), key=lambda pair: pair[1])
    grid = np.linspace(centre - 14 * width, centre + 14 * width, 200_001)
    log_density = stats.norm.logpdf(grid, mean_s, std_s) + stats.norm.logpdf(xt, a * grid, step_std)
    weight = np.exp(log_density - log_density.max())
    weight /= weight.sum()
    mean = (weight * grid).sum()
    return mean, (weight * (grid - mean) ** 2).sum()


def test_q_posterior_is_bayes(x64):
    s, t = np.array(PAIRS).T
    x0 = np.linspace(-1, 1, len(s))
    xt = np.sqrt(ABAR[t]) * x0 + np.sqrt(1 - ABAR[t]) * np.linspace(1.5, -1.2, len(s))
    expected = np.array([brute_force_posterior(*case) for case in zip(s, t, x0, xt)])
    image = lambda values: jnp.asarray(values)[:, None, None, None]  # noqa: E731
    mean, variance = gaussian.q_posterior(process_of(), image(xt), image(x0), column(s), column(t))
    np.testing.assert_allclose(mean[:, 0, 0, 0], expected[:, 0], rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(variance, expected[:, 1], rtol=1e-7, atol=1e-14)


def test_posterior_of_ddpm_equation_7(x64):
    t = np.arange(1, 1001)
    a, b, v = gaussian.posterior_coefficients(process_of(), column(t - 1), column(t))
    before, beta = ABAR[t - 1], BETAS[t - 1]
    np.testing.assert_allclose(a, np.sqrt(1 - beta) * (1 - before) / (1 - ABAR[t]), rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(b, np.sqrt(before) * beta / (1 - ABAR[t]), rtol=1e-8)
    np.testing.assert_allclose(v, (1 - before) / (1 - ABAR[t]) * beta, rtol=1e-8, atol=1e-18)


def test_posterior_of_no_step_is_where_we_are():
    t = column([0, 1, 500, 1000])
    a, b, v = gaussian.posterior_coefficients(process_of(), t, t)
    np.testing.assert_allclose(a, 1, rtol=1e-6)
    np.testing.assert_array_equal(b, 0)
    np.testing.assert_array_equal(v, 0)


@pytest.mark.parametrize("name", sorted(schedules.SCHEDULES))
def test_posterior_keeps_the_marginal(x64, name):
    """Law of total variance: noising x_0 to t and stepping back to s gives q(x_s | x_0)."""
    process = process_of(name=name)
    rng = np.random.default_rng(1)
    s, t = jnp.asarray(np.sort(rng.choice(1001, (2, 300)), axis=0))
    a, b, v = gaussian.posterior_coefficients(process, s, t)
    alpha = lambda at: schedules.alpha(process.schedule, at)  # noqa: E731
    variance = lambda at: schedules.variance(process.schedule, at)  # noqa: E731
    np.testing.assert_allclose(a * alpha(t) + b, alpha(s), rtol=1e-9)
    np.testing.assert_allclose(a**2 * variance(t) + v, variance(s), rtol=1e-8, atol=1e-14)


# What a network says


@pytest.mark.parametrize("name", ["linear", "cosine", "cosine_log_snr"])
def test_conversions_are_mutual_inverses(x64, name):
    process = process_of(name=name)
    t = column([1, 2, 100, 500, 990, 1000])
    x0, eps = noise(2, 6, 3, 3, 2)
    xt = gaussian.diffuse(process, x0, t, eps)
    np.testing.assert_allclose(gaussian.x0_from_eps(process, xt, eps, t), x0, rtol=1e-7)
    np.testing.assert_allclose(gaussian.eps_from_x0(process, xt, x0, t), eps, rtol=1e-7)
    for parameterisation in get_args(gaussian.Parameterisation):
        asked = replace(process, parameterisation=parameterisation, variance="small")
        output = gaussian.target(asked, x0, eps, t)
        prediction = gaussian.predict(asked, output, xt, t)
        np.testing.assert_allclose(prediction.x0, x0, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(prediction.eps, eps, rtol=1e-7, atol=1e-9)
        assert prediction.fraction is None


def test_what_is_asked_for(x64):
    """v = d x_t / d angle, where x_t = cos(angle) x_0 + sin(angle) eps."""
    process, t = process_of(), column([1, 300, 1000])
    x0, eps = noise(2, 3, 2, 2, 1)
    angle = np.arccos(np.sqrt(ABAR[t]))[:, None, None, None]
    slope = (
        np.cos(angle + 1e-6) * x0
        + np.sin(angle + 1e-6) * eps
        - (np.cos(angle - 1e-6) * x0 + np.sin(angle - 1e-6) * eps)
    ) / 2e-6
    target = lambda kind: gaussian.target(replace(process, parameterisation=kind), x0, eps, t)  # noqa: E731
    np.testing.assert_allclose(target("v"), slope, atol=1e-8)
    np.testing.assert_array_equal(target("x0"), x0)
    np.testing.assert_array_equal(target("eps"), eps)


def test_conversions_at_the_data_end():
    process, t = process_of(parameterisation="x0", variance="small"), column([0, 1])
    x0 = noise(2, 3, 3, 1)
    prediction = gaussian.predict(process, x0, x0, t)
    np.testing.assert_array_equal(prediction.eps[0], 0)
    slope = jax.grad(lambda x: gaussian.eps_from_x0(process, x, x0, t).sum())(x0 + 0.1)
    np.testing.assert_array_equal(slope[0], 0)
    np.testing.assert_allclose(slope[1], 100, rtol=1e-4)  # 1 / sigma_1


def test_output_channels():
    output = jnp.arange(6.0).reshape(1, 1, 1, 6)
    mean, fraction = gaussian.split_output(process_of(), output)
    np.testing.assert_array_equal(mean.ravel(), [0, 1, 2])
    np.testing.assert_array_equal(fraction.ravel(), [2, 2.5, 3])
    assert process_of().output_channels_per_channel == 2
    ends = gaussian.split_output(process_of(), jnp.array([9.0, 9, -1, 1]).reshape(1, 1, 1, 4))[1]
    np.testing.assert_array_equal(ends.ravel(), [0, 1])
    for variance in ("small", "large"):
        process = process_of(variance=variance)
        assert process.output_channels_per_channel == 1
        assert gaussian.split_output(process, output)[0] is output


def test_with_x0_moves_the_noise_along():
    process, t = process_of(), column([1, 600])
    x0, eps, other = noise(3, 2, 3, 3, 1)
    xt = gaussian.diffuse(process, x0, t, eps)
    prediction = Prediction(x0, eps, flat(0.5, 2, 3))
    moved = gaussian.with_x0(process, prediction, other, xt, t)
    np.testing.assert_array_equal(moved.x0, other)
    np.testing.assert_array_equal(moved.fraction, prediction.fraction)
    np.testing.assert_allclose(gaussian.diffuse(process, moved.x0, t, moved.eps), xt, rtol=1e-4, atol=1e-5)


# The variance of the reverse step


def respaced(times):
    """(log betatilde clipped, log beta) of a chain over ascending `times`: the betas recomputed, as released codes do."""
    abar = ABAR[times]
    before = np.concatenate([[1.0], abar[:-1]])
    beta = 1 - abar / before
    small = beta * (1 - before) / (1 - abar)
    return np.log(np.concatenate([[small[1]], small[1:]])), np.log(beta)


@pytest.mark.parametrize("count", [1000, 25, 3, 2])
def test_learned_range_runs_from_betatilde_to_beta(x64, count):
    times = schedules.spaced_times(1000, count)
    process = process_of()
    ascending = times[::-1]
    expected_small, expected_large = respaced(ascending[1:])
    expected_small[0] = respaced(np.arange(1, 1001))[0][0]  # at the last step, that of the whole chain
    s, t = column(ascending[:-1]), column(ascending[1:])
    small, large = gaussian.log_variance_range(process, s, t)
    np.testing.assert_allclose(small, expected_small, atol=1e-9)
    np.testing.assert_allclose(large, expected_large, atol=1e-9)

    def chosen(fraction, variance="learned_range"):
        fraction = None if fraction is None else jnp.full((count, 1, 1, 1), fraction)
        return gaussian.step_log_variance(replace(process, variance=variance), fraction, s, t)[:, 0, 0, 0]

    np.testing.assert_allclose(chosen(0.0), expected_small, atol=1e-9)
    np.testing.assert_allclose(chosen(1.0), expected_large, atol=1e-9)
    np.testing.assert_allclose(chosen(0.25), 0.75 * expected_small + 0.25 * expected_large, atol=1e-9)
    np.testing.assert_allclose(chosen(None, "small"), expected_small, atol=1e-9)
    np.testing.assert_allclose(chosen(None, "large"), [expected_small[0], *expected_large[1:]], atol=1e-9)


@pytest.mark.parametrize("name", sorted(schedules.SCHEDULES))
def test_a_chain_of_one_step_has_a_finite_variance(name):
    process = process_of(name=name)
    ends = gaussian.log_variance_range(process, column([0]), column([1000]))
    assert np.isfinite(ends).all()


@pytest.mark.parametrize("name", ["cosine_log_snr", "linear_log_snr"])
def test_the_learned_range_does_not_turn_over_in_real_time(x64, name):
    process = process_of(name=name)
    t = jnp.asarray([0.01, 0.3, 0.7, 0.99, 1.0, 1.5, 40.0])
    for s in (jnp.zeros_like(t), t / 3, jnp.maximum(t - 1, 0)):
        small, large = gaussian.log_variance_range(process, s, t)
        assert (small <= large).all()
    small, large = gaussian.log_variance_range(process, jnp.zeros(1), jnp.ones(1))
    _, _, next_one = gaussian.posterior_coefficients(process, jnp.ones(1), jnp.full(1, 2.0))
    np.testing.assert_array_equal(small, jnp.log(next_one))  # from 1 on, as ever
    assert (small < large).all()


def test_learned_variance_needs_its_channels():
    with pytest.raises(ValueError, match="twice the channels"):
        gaussian.step_log_variance(process_of(), None, column([1]), column([2]))


def test_p_step_from_the_true_image_is_the_marginal():
    """With x_0 known and the posterior's variance, a reverse step samples q(x_s | x_0)."""
    process = process_of(variance="small")
    s, t = column([0, 30, 400, 999]), column([700, 500, 401, 1000])
    x0, eps = flat(0.4, 4, 100), noise(4, 100, 100, 1)
    xt = gaussian.diffuse(process, x0, t, eps)
    xs = gaussian.p_step(process, xt, Prediction(x0, eps), s, t, keys_of(4))
    assert_moments(xs, 0.4 * np.sqrt(ABAR[s]), np.sqrt(1 - ABAR[s]))
    np.testing.assert_allclose(xs[0], x0[0], rtol=1e-6)


def test_p_step_adds_the_variance_it_is_told():
    process = process_of()
    s, t = column([20, 500, 1, 999]), column([40, 501, 2, 1000])
    x0, fraction = flat(0.0, 4, 100), flat(0.3, 4, 100)
    xs = gaussian.p_step(process, x0, Prediction(x0, x0, fraction), s, t, keys_of(4))
    beta = 1 - ABAR[t] / ABAR[s]
    small = beta * (1 - ABAR[s]) / (1 - ABAR[t])
    assert_moments(xs, 0.0, np.sqrt(beta**0.3 * small**0.7))


# Likelihoods


BINS = np.arange(256) / 127.5 - 1


@jax.jit
def log_likelihood(x, mean, log_variance):
    """For vectors."""
    image = lambda a: a.reshape(-1, 1, 1, 1)  # noqa: E731
    return gaussian.discretised_log_likelihood(image(x), image(mean), image(log_variance)).ravel()


def test_discretised_likelihood_sums_to_one(x64):
    for mean in (-3.0, -1.0, -0.31, 0.0, 0.5, 0.999, 1.7):
        for std in (1e-4, 3e-3, 0.05, 1.0, 30.0):
            total = np.exp(log_likelihood(BINS, np.full(256, mean), np.full(256, 2 * np.log(std)))).sum()
            assert total == pytest.approx(1, abs=1e-9), (mean, std)


def test_discretised_likelihood_is_a_difference_of_cdfs(x64):
    for mean in (-1.4, -0.31, 0.0, 0.52, 1.0):
        for std in (0.02, 0.2, 2.0):
            edges = np.concatenate([[-np.inf], (BINS[1:] + BINS[:-1]) / 2, [np.inf]])
            cdf, upper = stats.norm.cdf(edges, mean, std), stats.norm.sf(edges, mean, std)
            # Difference on the side where the two numbers are small.
            exact = np.where(edges[:-1] > mean, upper[:-1] - upper[1:], cdf[1:] - cdf[:-1])
            got = log_likelihood(BINS, np.full(256, mean), np.full(256, 2 * np.log(std)))
            seen = exact > 1e-250
            np.testing.assert_allclose(got[seen], np.log(exact[seen]), rtol=1e-7, atol=1e-9)
            assert (got[~seen] < np.log(2e-250)).all()


def test_discretised_likelihood_in_float32():
    """Against float64, where bins are far out, narrow and wide."""
    mean, log_variance = np.meshgrid([-1.0, -0.97, 0.0, 0.3, 2.0], np.linspace(-14, 4, 10))
    for x in (-1.0, BINS[1], 0.3, 1.0):
        arguments = (np.full(mean.size, x), mean.ravel(), log_variance.ravel())
        single = log_likelihood(*(jnp.asarray(a, jnp.float32) for a in arguments))
        with jax.enable_x64(True):
            double = np.asarray(log_likelihood(*arguments))
        np.testing.assert_allclose(single, double, rtol=2e-3, atol=1e-3)


def test_discretised_likelihood_and_its_gradients_stay_finite():
    x, mean, log_variance = (
        a.ravel() for a in np.meshgrid([-1.0, 0.3, 1.0], [-1.0, 0.3, 0.31, 5, 150], np.linspace(-60, 60, 25))
    )
    total = lambda m, v: log_likelihood(jnp.asarray(x, jnp.float32), m, v)  # noqa: E731
    arguments = jnp.asarray(mean, jnp.float32), jnp.asarray(log_variance, jnp.float32)
    values, pull = jax.vjp(total, *arguments)
    slopes = pull(jnp.ones_like(values))
    assert np.isfinite(values).all()
    assert (values <= 0).all()
    assert all(np.isfinite(slope).all() for slope in slopes)


def test_likelihood_gradients_are_right_far_out():
    """A hundred standard deviations away and more, where log Phi's own gradient cancels to noise."""
    mean, std = np.array([0.0, 1.0, 5.0, 150.0]), np.exp(-5.0)
    slope = jax.grad(lambda v: log_likelihood(jnp.full(4, 0.3), jnp.asarray(mean, jnp.float32), v).sum())
    edge = np.where(mean > 0.3, 0.3 + 1 / 255, 0.3 - 1 / 255)  # the bin's border on the side of the mean
    np.testing.assert_allclose(slope(jnp.full(4, -10.0)), (mean - edge) ** 2 / std**2 / 2, rtol=2e-3)


def kl_by_integration(mean1, log_variance1, mean2, log_variance2):
    std1, std2 = np.exp(log_variance1 / 2), np.exp(log_variance2 / 2)
    grid = np.linspace(mean1 - 12 * std1, mean1 + 12 * std1, 100_001)
    p, q = stats.norm(mean1, std1), stats.norm(mean2, std2)
    return (p.pdf(grid) * (p.logpdf(grid) - q.logpdf(grid))).sum() * (grid[1] - grid[0])


def test_normal_kl_is_the_integral(x64):
    for case in [(0.0, 0.0, 0.0, 0.0), (0.3, -2.0, -0.4, 1.0), (-1.0, 0.5, 2.0, -0.7), (5.0, 0.0, 5.0, 3.0)]:
        got = gaussian.normal_kl(*(jnp.asarray(value) for value in case))
        assert float(got) == pytest.approx(kl_by_integration(*case), abs=1e-8), case


vlb_term = jax.jit(gaussian.vlb_term)


def test_vlb_term_is_kl_of_true_and_predicted_step_in_bits(x64):
    process = process_of()
    s, t = np.array([(1, 2), (41, 42), (500, 501), (1, 43), (999, 1000)]).T
    count = len(s)
    x0, fraction = np.linspace(-0.9, 0.8, count), np.linspace(0, 1, count)
    guess = x0 + 0.7 * np.sqrt(1 - ABAR[t])
    xt = np.sqrt(ABAR[t]) * x0 + 0.3 * np.sqrt(1 - ABAR[t])
    image = lambda values: jnp.asarray(values)[:, None, None, None]  # noqa: E731
    prediction = Prediction(image(guess), image(guess), image(fraction))
    got = vlb_term(process, prediction, image(xt), image(x0), column(s), column(t))
    beta = 1 - ABAR[t] / ABAR[s]
    small = beta * (1 - ABAR[s]) / (1 - ABAR[t])
    model = fraction * np.log(beta) + (1 - fraction) * np.log(small)
    expected = []
    for i in range(count):
        true_mean, true_variance = brute_force_posterior(s[i], t[i], x0[i], xt[i])
        model_mean, _ = brute_force_posterior(s[i], t[i], guess[i], xt[i])
        kl = kl_by_integration(true_mean, np.log(true_variance), model_mean, model[i])
        expected.append(kl / np.log(2))
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_vlb_term_into_the_data_is_the_likelihood_in_bits(x64):
    """At s = 0 the mean is the predicted image, and betatilde that of the next step."""
    process = process_of()
    x0 = BINS[[0, 100, 130, 255]].reshape(2, 2, 1, 1)
    guess = x0 + np.array([0.002, -0.01, 0.0, -0.003]).reshape(2, 2, 1, 1)
    fraction = np.full((2, 2, 1, 1), 0.4)
    prediction = Prediction(jnp.asarray(guess), jnp.asarray(guess), jnp.asarray(fraction))
    xt = jnp.asarray(np.random.default_rng(0).normal(size=x0.shape))
    got = vlb_term(process, prediction, xt, jnp.asarray(x0), column([0, 0]), column([1, 1]))
    small = BETAS[1] * (1 - ABAR[1]) / (1 - ABAR[2])
    std = np.sqrt(BETAS[0] ** 0.4 * small**0.6)
    low = np.where(x0 == -1, -np.inf, x0 - 1 / 255)
    high = np.where(x0 == 1, np.inf, x0 + 1 / 255)
    mass = stats.norm.cdf(high, guess, std) - stats.norm.cdf(low, guess, std)
    np.testing.assert_allclose(got, -np.log2(mass).mean(axis=(1, 2, 3)), rtol=1e-6)


def test_vlb_of_the_truth_is_nothing():
    process, t = process_of(), column([2, 10, 500, 1000])
    x0 = flat(0.5, 4, 2)
    xt = gaussian.diffuse(process, x0, t, noise(4, 2, 2, 1))
    got = vlb_term(process, Prediction(x0, x0, jnp.zeros_like(x0)), xt, x0, t - 1, t)
    np.testing.assert_allclose(got, 0, atol=1e-5)


def test_prior_term_formula(x64):
    x0 = jnp.asarray([[0.0, 0.5], [-1.0, 1.0]])[..., None, None]
    kl = [[kl_by_integration(np.sqrt(ABAR[-1]) * x, np.log(1 - ABAR[-1]), 0.0, 0.0) for x in row] for row in
          [[0.0, 0.5], [-1.0, 1.0]]]  # fmt: skip
    expected = np.mean(kl, axis=1) / np.log(2)
    np.testing.assert_allclose(gaussian.prior_term(process_of(), x0), expected, rtol=1e-5, atol=1e-12)
    for name in sorted(schedules.SCHEDULES):
        assert (gaussian.prior_term(process_of(name=name), x0) < 0.01).all()


def test_the_bound_is_tight_for_an_exact_denoiser():
    """8-bit normal data N(m, s^2): with the exact reverse step the whole bound is the entropy of the data."""
    m, std, num_steps, side = 0.2, 0.3, 50, 64
    process = process_of(num_steps=num_steps)
    # Normal samples without sampling error: quantiles, those of the noise shuffled afresh at each t.
    quantiles = np.broadcast_to(stats.norm.ppf((np.arange(side**2) + 0.5) / side**2), (num_steps, side**2))
    shuffled = np.random.default_rng(0).permuted(quantiles, axis=1)
    pixels = np.clip(np.round((m + std * quantiles + 1) * 127.5), 0, 255)
    x0 = jnp.asarray(pixels.reshape(num_steps, side, side, 1) / 127.5 - 1, jnp.float32)
    eps = jnp.asarray(shuffled.reshape(x0.shape), jnp.float32)
    edges = np.concatenate([[-np.inf], (BINS[1:] + BINS[:-1]) / 2, [np.inf]])
    mass = np.diff(stats.norm.cdf(edges, m, std))
    entropy = -(mass * np.log2(mass)).sum()

    @jax.jit
    def terms(x0, eps):
        t = jnp.arange(1, num_steps + 1)
        s = t - 1
        xt = gaussian.diffuse(process, x0, t, eps)
        alpha, sigma2 = (f(process.schedule, t) for f in (schedules.alpha, schedules.variance))
        precision = 1 / std**2 + alpha**2 / sigma2
        mean = (m / std**2 + gaussian.bcast(alpha / sigma2) * xt) / gaussian.bcast(precision)
        _, b, v = gaussian.posterior_coefficients(process, s, t)
        small, large = gaussian.log_variance_range(process, s, t)
        fraction = (jnp.log(v + b**2 / precision) - small) / (large - small)
        fraction = jnp.broadcast_to(gaussian.bcast(fraction), x0.shape)
        return gaussian.vlb_term(process, Prediction(mean, xt, fraction), xt, x0, s, t)

    bound = terms(x0, eps).sum() + gaussian.prior_term(process, x0[:1])[0]
    assert float(bound) == pytest.approx(entropy, abs=0.02)


def test_the_learned_range_brackets_the_exact_variance(x64):
    """For data of variance up to 1 the exact reverse variance lies between betatilde and beta."""
    process = process_of()
    t = jnp.arange(2, 1001)
    _, b, v = gaussian.posterior_coefficients(process, t - 1, t)
    small, large = (np.asarray(end) for end in gaussian.log_variance_range(process, t - 1, t))
    for std in (0.1, 0.5, 1.0):
        precision = 1 / std**2 + ABAR[2:] / (1 - ABAR[2:])
        exact = np.log(np.asarray(v) + np.asarray(b) ** 2 / precision)
        assert (exact > small).all()
        assert (exact < large + 1e-9).all()
    np.testing.assert_allclose(exact, large, atol=1e-9)  # DDPM Sec. 3.2: beta is exact for N(0, I)


def test_debugging_finds_no_reused_key():
    process = process_of(variance="small")
    with jax.debug_key_reuse(True):
        x = gaussian.sample_prior(process, jnp.zeros((2, 2, 2, 1)), keys_of(2, 0))
        gaussian.p_step(process, x, Prediction(x, x), column([1, 2]), column([3, 4]), keys_of(2, 1))
