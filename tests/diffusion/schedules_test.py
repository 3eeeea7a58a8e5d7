import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, log_expit

from semdiff.diffusion import schedules

pytestmark = pytest.mark.usefixtures("strict_ranks", "quick_compile")


def abar_from(betas):
    return np.concatenate([[1.0], np.cumprod(1 - betas)])


def linear_betas(num_steps):
    scale = 1000 / num_steps
    return np.linspace(scale * 0.0001, scale * 0.02, num_steps)


def scaled_linear_betas(num_steps):
    scale = 1000 / num_steps
    return np.linspace((scale * 0.00085) ** 0.5, (scale * 0.012) ** 0.5, num_steps) ** 2


def cosine_betas(num_steps):
    def abar(u):
        return np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2

    t = np.arange(num_steps)
    return np.minimum(1 - abar((t + 1) / num_steps) / abar(t / num_steps), 0.999)


BETAS = {"linear": linear_betas, "scaled_linear": scaled_linear_betas, "cosine": cosine_betas}
ALL = sorted(schedules.SCHEDULES)


def times_of(schedule):
    return jnp.arange(schedule.num_steps + 1)


@pytest.mark.parametrize("num_steps", [1000, 100])
@pytest.mark.parametrize("name", sorted(BETAS))
def test_table_is_the_product_of_betas(x64, name, num_steps):
    schedule = schedules.SCHEDULES[name](num_steps)
    abar = abar_from(BETAS[name](num_steps))
    t = times_of(schedule)
    assert schedule.num_steps == num_steps
    assert not schedule.continuous
    np.testing.assert_allclose(jnp.exp(schedule.log_abar(t)), abar, rtol=1e-10)
    np.testing.assert_allclose(schedules.alpha(schedule, t), np.sqrt(abar), rtol=1e-10)
    np.testing.assert_allclose(schedules.variance(schedule, t), 1 - abar, rtol=1e-10)
    np.testing.assert_allclose(schedules.sigma(schedule, t), np.sqrt(1 - abar), rtol=1e-10)
    snr = abar[1:] / (1 - abar[1:])
    np.testing.assert_allclose(schedules.log_snr(schedule, t)[1:], np.log(snr), rtol=1e-9)
    np.testing.assert_allclose(schedules.snr(schedule, t)[1:], snr, rtol=1e-9)


def test_known_values_of_ddpm():
    """From the literature: abar_1000 = 4.04e-5 for the linear schedule; stable diffusion's ends at 0.00466."""
    assert jnp.exp(schedules.linear().log_abar(jnp.asarray(1000))) == pytest.approx(4.0358e-5, rel=1e-4)
    assert jnp.exp(schedules.scaled_linear().log_abar(jnp.asarray(1000))) == pytest.approx(0.00466, rel=1e-3)


def test_cosine_follows_its_curve_until_beta_is_capped(x64):
    schedule = schedules.cosine(1000)
    u = np.arange(1001) / 1000
    f = np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2
    abar = np.asarray(jnp.exp(schedule.log_abar(times_of(schedule))))
    np.testing.assert_allclose(abar[:999], (f / f[0])[:999], rtol=1e-9)
    assert abar[1000] == pytest.approx(abar[999] * 0.001, rel=1e-9)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("double", [False, True])
def test_ends_and_monotony(name, double):
    with jax.enable_x64(double):
        schedule = schedules.SCHEDULES[name](1000)
        t = times_of(schedule)
        abar = np.exp(schedule.log_abar(t))
        assert abar[0] == 1
        assert schedules.variance(schedule, t)[0] == 0
        assert schedules.log_snr(schedule, t)[0] == np.inf
        assert (np.diff(abar) < 0).all()
        assert abar[-1] > 0
        for f in (schedules.alpha, schedules.variance, schedules.sigma):
            assert np.isfinite(f(schedule, t)).all()
        assert np.isfinite(schedules.log_snr(schedule, t)[1:]).all()
        assert (np.diff(schedules.log_snr(schedule, t)[1:]) < 0).all()
        np.testing.assert_allclose(
            schedules.alpha(schedule, t) ** 2 + schedules.variance(schedule, t), 1, rtol=1e-6
        )


def test_cosine_log_snr_formula(x64):
    """Between its limits the truncated cosine is the exact one, on a slightly stretched clock."""
    schedule = schedules.cosine_log_snr(1000, limit=15.0)
    u = np.linspace(0.001, 1, 50)
    # Where the exact schedule, log SNR = -log(cos(pi u / 2)^-2 - 1), meets the limits:
    low, high = (2 / np.pi * np.arccos(np.sqrt(expit(limit))) for limit in (15.0, -15.0))
    exact = -np.log(np.cos(np.pi / 2 * (low + u * (high - low))) ** -2 - 1)
    t = jnp.asarray(1000 * u)
    np.testing.assert_allclose(schedules.log_snr(schedule, t), exact, rtol=1e-7)
    np.testing.assert_allclose(schedule.log_abar(t), log_expit(exact), rtol=1e-7)
    near = schedules.log_snr(schedule, jnp.asarray([1e-9, 1000.0]))
    np.testing.assert_allclose(near, [15, -15], rtol=1e-5)
    assert abs(low) < 1e-3  # so the clock is stretched by less than a step


def test_linear_log_snr_formula(x64):
    """SNR = 1 / expm1(1e-4 + 10 u^2) says abar = exp(-1e-4 - 10 u^2)."""
    schedule = schedules.linear_log_snr(500)
    t = jnp.linspace(0.5, 500, 50)
    exponent = 1e-4 + 10 * (np.asarray(t) / 500) ** 2
    np.testing.assert_allclose(schedules.log_snr(schedule, t), -np.log(np.exp(exponent) - 1), atol=1e-9)
    np.testing.assert_allclose(schedule.log_abar(t), -exponent, rtol=1e-9)
    table = schedules.linear(500).log_abar(jnp.asarray(250))  # the two agree about the middle
    assert schedule.log_abar(jnp.asarray(250)) == pytest.approx(float(table), rel=0.02)


@pytest.mark.parametrize("name", ["cosine_log_snr", "linear_log_snr"])
def test_log_snr_schedules_take_any_real_time_and_have_gradients(name):
    schedule = schedules.SCHEDULES[name](1000)
    assert schedule.continuous
    assert jnp.exp(schedule.log_abar(jnp.asarray(500.25))) < jnp.exp(schedule.log_abar(jnp.asarray(500.0)))
    integer, real = schedule.log_abar(jnp.asarray(7)), schedule.log_abar(jnp.asarray(7.0))
    assert integer == real
    slope = jax.vmap(jax.grad(schedule.log_abar))(jnp.asarray([0.0, 0.5, 500.0, 1000.0]))
    assert np.isfinite(slope).all()
    assert (slope[1:] < 0).all()


@pytest.mark.parametrize("name", ALL)
def test_transition_is_a_semigroup(x64, name):
    """s -> t -> u is s -> u: scales multiply, variance is carried along and added to."""
    schedule = schedules.SCHEDULES[name](1000)
    rng = np.random.default_rng(0)
    s, t, u = jnp.asarray(np.sort(rng.integers(0, 1001, (3, 200)), axis=0))
    scale_st, variance_st = schedules.transition(schedule, s, t)
    scale_tu, variance_tu = schedules.transition(schedule, t, u)
    scale_su, variance_su = schedules.transition(schedule, s, u)
    np.testing.assert_allclose(scale_st * scale_tu, scale_su, rtol=1e-10)
    np.testing.assert_allclose(scale_tu**2 * variance_st + variance_tu, variance_su, rtol=1e-9, atol=1e-14)
    abar = np.exp(schedule.log_abar(jnp.stack([s, u])))
    np.testing.assert_allclose(scale_su, np.sqrt(abar[1] / abar[0]), rtol=1e-9)
    np.testing.assert_allclose(variance_su, 1 - abar[1] / abar[0], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_transition_from_data_and_to_itself(name):
    schedule = schedules.SCHEDULES[name](1000)
    t = times_of(schedule)
    scale, variance = schedules.transition(schedule, jnp.zeros_like(t), t)
    np.testing.assert_allclose(scale, schedules.alpha(schedule, t), rtol=1e-6)
    np.testing.assert_allclose(variance, schedules.variance(schedule, t), rtol=1e-6)
    scale, variance = schedules.transition(schedule, t, t)
    assert (scale == 1).all()
    assert (variance == 0).all()


@pytest.mark.parametrize("name", sorted(BETAS))
def test_float32_keeps_small_variances(name, x32):
    """1 - abar in float32 would be wrong in the fourth digit at t = 1."""
    schedule = schedules.SCHEDULES[name](1000)
    betas = BETAS[name](1000)
    exact = -np.expm1(np.cumsum(np.log1p(-betas)))
    t = jnp.arange(1, 1001)
    variance = schedules.variance(schedule, t)
    assert variance.dtype == jnp.float32
    np.testing.assert_allclose(variance, exact, rtol=1e-6)
    _, step = schedules.transition(schedule, t - 1, t)
    np.testing.assert_allclose(step[:10], betas[:10], rtol=3e-6)
    np.testing.assert_allclose(step, betas, rtol=2e-4)
    log_snr = -np.log(np.expm1(-np.cumsum(np.log1p(-betas))))
    np.testing.assert_allclose(schedules.log_snr(schedule, t), log_snr, atol=2e-5)


@pytest.mark.parametrize("name", ["cosine_log_snr", "linear_log_snr"])
def test_float32_log_snr_schedules_keep_small_variances(name):
    t = np.linspace(0.5, 1000, 100)
    with jax.enable_x64(True):
        exact = np.asarray(schedules.variance(schedules.SCHEDULES[name](1000), jnp.asarray(t)))
    variance = schedules.variance(schedules.SCHEDULES[name](1000), jnp.asarray(t, jnp.float32))
    np.testing.assert_allclose(variance, exact, rtol=2e-5)


def test_schedules_are_arguments_of_jit():
    for name in ALL:
        schedule = schedules.SCHEDULES[name](100)
        inside = jax.jit(schedules.alpha)(schedule, jnp.arange(101))
        np.testing.assert_allclose(inside, schedules.alpha(schedule, jnp.arange(101)), rtol=1e-5)


@pytest.mark.parametrize("name", ["linear", "scaled_linear"])
def test_impossible_betas_are_refused(name):
    with pytest.raises(ValueError, match="between 0 and 1"):
        schedules.SCHEDULES[name](10)
    assert np.isfinite(schedules.SCHEDULES[name](50).log_abar_table).all()


def released_respacing(num_steps, count):
    """The rule of the family's released codes, on i = t - 1: a running sum, Python's round."""
    stride, at, kept = (num_steps - 1) / (count - 1), 0.0, []
    for _ in range(count):
        kept.append(round(at))
        at += stride
    return [i + 1 for i in reversed(kept)] + [0]


def test_even_spacing_is_the_released_respacing():
    times = schedules.spaced_times(1000, 25)
    assert times[0] == 1000
    assert times[-2:].tolist() == [1, 0]
    assert len(times) == 26
    assert 167 in times  # i = 166.5 rounds to even
    for count in range(2, 1001):
        assert schedules.spaced_times(1000, count).tolist() == released_respacing(1000, count), count
    assert schedules.spaced_times(1000, 1).tolist() == [1000, 0]
    assert schedules.spaced_times(1000, 1000).tolist() == list(range(1000, -1, -1))


def test_other_spacings():
    assert schedules.spaced_times(1000, 25, "stride").tolist() == [*range(961, 0, -40), 0]
    assert schedules.spaced_times(1000, 25, "trailing").tolist() == list(range(1000, -1, -40))
    quadratic = schedules.spaced_times(1000, 10, "quadratic")
    assert quadratic.tolist() == [1000, 790, 605, 445, 309, 198, 112, 50, 13, 1, 0]
    chebyshev = schedules.spaced_times(1000, 6, "chebyshev")
    assert chebyshev.tolist() == [1000, 933, 750, 500, 250, 67, 0]
    assert schedules.spaced_times(1000, 5, "trailing", start=600).tolist() == [600, 480, 360, 240, 120, 0]


@pytest.mark.parametrize("spacing", ["even", "stride", "trailing", "quadratic", "chebyshev"])
def test_every_spacing_descends_from_its_start_to_zero(spacing):
    cases = [(top, count, None) for top in (1, 2, 3, 7, 40) for count in range(1, top + 1)]
    cases += [(1000, count, start) for start in (None, 600, 999) for count in (1, 2, 10, 25, 333, 599, 600)]
    for num_steps, count, start in cases:
        if spacing == "stride" and (start or num_steps) % count:
            continue  # some of these are refused
        times = schedules.spaced_times(num_steps, count, spacing, start)
        assert times.dtype == np.int32
        assert len(times) == count + 1
        assert (np.diff(times) < 0).all(), (num_steps, count, start, times)
        assert times[-1] == 0
        top = num_steps if start is None else start
        assert times[0] <= top
        if spacing != "stride":
            assert times[0] == top


@pytest.mark.parametrize(("count", "first"), [(600, 600), (3, 667), (999, 999), (15, 925)])
def test_a_stride_that_starts_far_below_the_top_is_refused(count, first):
    """N(0, I) is what is there at T, not at 600 of 1000."""
    with pytest.raises(ValueError, match=rf"starts at time {first}, .*'even' or 'trailing'"):
        schedules.spaced_times(1000, count, "stride")


def test_a_stride_may_start_less_than_a_stride_below_the_top():
    for count in (2, 4, 25, 500, 1000):
        assert schedules.spaced_times(1000, count, "stride")[0] + 1000 // count > 1000


@pytest.mark.parametrize("name", ALL)
def test_log_snr_and_karras_are_even_in_what_they_name(x64, name):
    """But for the rounding of a table's times, the neighbours of a time are half a time away at most."""
    schedule = schedules.SCHEDULES[name](1000)
    for spacing in ("log_snr", "karras"):
        times = schedules.spaced_times(schedule, 9, spacing)
        assert times.dtype == (np.float64 if schedule.continuous else np.int32)
        assert (times[0], times[-2], times[-1]) == (1000, 1, 0)
        assert (np.diff(times) < 0).all()

        def measure(t, spacing=spacing):
            level = np.asarray(schedules.log_snr(schedule, jnp.asarray(t)))
            return level if spacing == "log_snr" else np.exp(-level / 14)

        ends = measure(np.array([1000, 1]))
        expected = np.linspace(*ends, 9)
        if schedule.continuous:
            np.testing.assert_allclose(measure(times[:-1]), expected, rtol=1e-3, atol=1e-2)
        elif name != "cosine":  # whose last times are further apart than that
            low, high = measure(np.minimum(times[:-1] + 1, 1000)), measure(np.maximum(times[:-1] - 1, 1))
            assert (np.minimum(low, high) <= expected + 1e-9).all()
            assert (np.maximum(low, high) >= expected - 1e-9).all()


def test_karras_is_equation_5(x64):
    """sigma_i = (max^(1/7) + i / (N - 1) (min^(1/7) - max^(1/7)))^7, where sigma is sigma / alpha here."""
    schedule = schedules.SCHEDULES["linear_log_snr"](1000)
    times = schedules.spaced_times(schedule, 5, "karras")[:-1]
    sigma = np.asarray(schedules.rho(schedule, jnp.asarray(times)))
    root = lambda value: value ** (1 / 7)  # noqa: E731
    expected = [(root(sigma[0]) + i / 4 * (root(sigma[-1]) - root(sigma[0]))) ** 7 for i in range(5)]
    np.testing.assert_allclose(sigma, expected, rtol=1e-3)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("spacing", ["log_snr", "karras"])
def test_any_number_of_times_by_noise_descends(spacing, name):
    schedule = schedules.SCHEDULES[name](60)
    for start in (None, 31):
        for count in (1, 2, 3, 17, 30, 31):
            times = schedules.spaced_times(schedule, count, spacing, start)
            assert len(times) == count + 1
            assert times[0] == (start or 60)
            assert times[-1] == 0
            assert (np.diff(times) < 0).all(), times
            assert times[-2] >= 1


def test_spacings_by_noise_need_the_schedule():
    with pytest.raises(ValueError, match="'karras' depends on the noise schedule"):
        schedules.spaced_times(1000, 5, "karras")


def test_a_schedule_stands_for_its_number_of_steps():
    for spacing in ("even", "stride", "trailing", "quadratic", "chebyshev"):
        by_schedule = schedules.spaced_times(schedules.linear(100), 10, spacing)
        np.testing.assert_array_equal(by_schedule, schedules.spaced_times(100, 10, spacing))


def test_times_may_be_given_one_by_one():
    given = schedules.given_times(schedules.linear(), (1000.0, 400.0, 30.0))
    assert given.tolist() == [1000, 400, 30, 0]
    assert given.dtype == np.int32
    real = schedules.given_times(schedules.cosine_log_snr(), (1000.0, 400.5))
    assert real.tolist() == [1000, 400.5, 0]


@pytest.mark.parametrize(
    ("times", "words"),
    [
        ((999.0, 10.0), "start at T = 1000"),
        ((1000.0, 10.0, 0.0), "end above 0, which is added"),
        ((1000.0, 10.0, 10.0), "must descend"),
        ((1000.0, 10.5), "whole times only"),
    ],
)
def test_times_that_cannot_be_are_refused(times, words):
    with pytest.raises(ValueError, match=words):
        schedules.given_times(schedules.linear(), times)


@pytest.mark.parametrize(("count", "start"), [(0, None), (1001, None), (11, 10), (10, 1001), (-3, None)])
def test_impossible_counts_are_refused(count, start):
    with pytest.raises(ValueError, match="sampling steps"):
        schedules.spaced_times(1000, count, start=start)


def test_unknown_spacing_is_refused():
    with pytest.raises(ValueError, match="'odd'"):
        schedules.spaced_times(1000, 10, "odd")


def test_shapes_are_checked_while_testing():
    """The import hook of conftest.py is at work."""
    with pytest.raises(Exception, match="Type-check"):
        schedules.transition(schedules.linear(100), jnp.zeros(3, jnp.int32), jnp.zeros(4, jnp.int32))
