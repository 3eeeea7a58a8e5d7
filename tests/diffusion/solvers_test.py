"""Solvers against what they claim: polynomials exactly, any flow at their order, and a mixture whose flow is known."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import mixture
import numpy as np
import pytest
from scipy import integrate

from semdiff.diffusion import gaussian, samplers, schedules
from semdiff.diffusion.gaussian import Gaussian, Prediction
from semdiff.diffusion.joint import State
from semdiff.diffusion.samplers import DDIM, DEIS, IPNDM, Corrected, DPMSolver2M, DPMSolver3M, UniPC

pytestmark = pytest.mark.usefixtures("strict_ranks", "quick_compile")

ABAR = np.concatenate([[1.0], np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))])


def process_of(name="linear"):
    return Gaussian(schedules.SCHEDULES[name](), "eps", "small")


def keys_of(count):
    return jax.random.split(jax.random.key(0), count)


def noise(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.result_type(float))


def run(process, sampler, times, x, denoise=None, **options):
    denoise = mixture.exact(process) if denoise is None else denoise
    chain = lambda x, keys: samplers.image_chain(denoise, process, sampler, times, x, keys, **options)  # noqa: E731
    return np.asarray(jax.jit(chain)(x, keys_of(len(x))))


def level_times(process, levels):
    """Real times of these log SNR."""
    u = np.linspace(0, process.num_steps, 200_001)[1:]
    known = np.asarray(schedules.log_snr(process.schedule, jnp.asarray(u)))
    return np.interp(-np.asarray(levels), -known, u)


# Polynomials


def table_rho(t):
    """rho of the linear schedule at real times, by its definition: log abar is straight between whole times."""
    return np.sqrt(np.expm1(-np.interp(t, np.arange(1001), np.log(ABAR))))


IRREGULAR = np.array([900, 700, 610, 400, 330, 150, 40])


def integral_over_rho(power, t, s):
    """int (t / 900)^power d rho, by the trapezoidal rule."""
    fine = np.linspace(t, s, 100_001)
    return np.trapezoid((fine / 900) ** power, table_rho(fine))


def passed(process, sampler, times, x, denoise):
    """x at each of the times, [n, ...]."""

    def all_states(x, keys):
        parts = samplers.of_images(denoise, process, sampler)
        end, states, _ = samplers.trajectory(*parts, times, State(x), keys)
        return jnp.concatenate([states.image, end.image[None]])

    return np.asarray(jax.jit(all_states)(x, keys_of(len(x))))


def eps_integrals(sampler, process, times, function, powers):
    """The change of x / alpha at each step, [steps, powers], where eps is a power of function(t), whatever x."""

    def denoise(x, t, keys):
        eps = function(t) ** jnp.arange(powers)[:, None, None, None] * jnp.ones_like(x)
        return Prediction(gaussian.x0_from_eps(process, x, eps, jnp.full(x.shape[:1], t)), eps)

    states = passed(process, sampler, times, noise(powers, 1, 1, 1), denoise)[..., 0, 0, 0]
    alpha = np.asarray(schedules.alpha(process.schedule, jnp.asarray(times)))
    return np.diff(states / alpha[:, None], axis=0)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("clock", ["rho", "t"])
def test_deis_integrates_polynomials_of_its_clock_exactly_once_it_has_the_points(x64, clock, order):
    """And one power more not."""
    process, rho_top = process_of(), table_rho(900)
    of_t = lambda t: t / 900  # noqa: E731
    of_rho = lambda t: schedules.rho(process.schedule, t) / rho_top  # noqa: E731
    changes = eps_integrals(
        DEIS(order, clock), process, IRREGULAR, of_t if clock == "t" else of_rho, order + 1
    )
    for power, got in enumerate(changes.T):
        rho = table_rho(IRREGULAR)
        if clock == "rho":
            expected = np.diff(rho ** (power + 1)) / (power + 1) / rho_top**power
        else:
            expected = [integral_over_rho(power, *ends) for ends in pairwise(IRREGULAR)]
        off = np.abs(got / expected - 1)[order - 1 :]
        assert (off < 1e-4).all() == (power < order), (power, off)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_ipndm_integrates_polynomials_of_rho_in_equal_steps(x64, order):
    process = process_of("cosine_log_snr")
    rho = np.linspace(3.0, 0.5, 7)
    times = level_times(process, -2 * np.log(rho))
    changes = eps_integrals(
        IPNDM(order), process, times, lambda t: schedules.rho(process.schedule, t), order + 1
    )
    for power, got in enumerate(changes.T):
        off = np.abs(got / (np.diff(rho ** (power + 1)) / (power + 1)) - 1)[order - 1 :]
        assert (off < 1e-6).all() == (power < order), (power, off)


LAMBDA = np.log(ABAR[IRREGULAR] / (1 - ABAR[IRREGULAR])) / 2


def x0_integrals(sampler, process, powers):
    """x / sigma at each time but the first, less the integral of x_0 = lambda^power d exp(lambda) up to there."""

    def denoise(x, t, keys):
        half = schedules.log_snr(process.schedule, t) / 2
        x0 = half ** jnp.asarray(powers)[:, None, None, None] * jnp.ones_like(x)
        return Prediction(x0, jnp.full_like(x, jnp.nan))

    states = passed(process, sampler, IRREGULAR, jnp.zeros((len(powers), 1, 1, 1)), denoise)[1:, :, 0, 0, 0]
    at = states / np.sqrt(1 - ABAR[IRREGULAR[1:]])[:, None]
    exact = [
        [integrate.quad(lambda u, p=p: u**p * np.exp(u), *ends)[0] for p in powers]
        for ends in pairwise(LAMBDA)
    ]
    return at - np.cumsum(exact, axis=0)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_dpm_solver_integrates_polynomials_of_lambda_exactly_once_it_has_the_points(x64, order):
    integrals = x0_integrals(DPMSolver3M(order, np.inf), process_of(), range(order + 1))
    for power, got in enumerate(integrals.T):
        off = np.diff(got, prepend=0)[order - 1 :]
        assert (np.abs(off) < 1e-9).all() == (power < order), (power, off)


@pytest.mark.parametrize("max_ratio", [np.inf, 0.6])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc_corrects_a_step_to_one_power_more_than_it_predicted(x64, order, max_ratio):
    """Of lambda^order the prediction lacks int prod (lambda - lambda_j) d exp(lambda); the next step has made up for it."""
    off = x0_integrals(UniPC(order, max_ratio), process_of(), [order])[:, 0]
    lacking = np.array(
        [
            integrate.quad(
                lambda u, i=i: np.prod([u - LAMBDA[i - j] for j in range(order)]) * np.exp(u),
                LAMBDA[i],
                LAMBDA[i + 1],
            )[0]
            for i in range(order - 1, 6)
        ]
    )
    if max_ratio == np.inf:
        np.testing.assert_allclose(np.diff(off[order - 1 :] + lacking), 0, atol=1e-9)
    assert np.abs(lacking).min() > 1e-3
    assert np.abs(np.diff(off[order - 1 :])).max() < 2 * np.abs(lacking).max()


# Order


FROM_ALMOST_NOISE = [
    (DDIM(), 1),
    (DPMSolver2M(), 2),
    (DPMSolver3M(2), 2),
    (DPMSolver3M(3), 3),
    (UniPC(1), 2),
    (UniPC(2), 3),
    (UniPC(3), 4),
    (IPNDM(4), 2),  # its steps in rho are not equal here
    (DEIS(2, "rho"), 2),
    (DEIS(3, "rho"), 3),
    (DEIS(4, "rho"), 4),
    (DEIS(2), 2),
    (DEIS(3), 3),
    (DEIS(4), 4),
]


@pytest.mark.parametrize(("sampler", "order"), FROM_ALMOST_NOISE, ids=repr)
def test_the_error_falls_with_the_order(x64, sampler, order):
    """Even in log SNR; from so much noise that the first steps, of lower orders, are almost exact."""
    process, x = process_of("cosine_log_snr"), mixture.quantiles(15)
    error = []
    for count in (60, 120, 240):
        times = level_times(process, np.linspace(-9, 3, count + 1))
        error.append(rms(run(process, sampler, times, x) - mixture.flow(process, x, times[0], times[-1])))
    slopes = -np.diff(np.log2(error))
    np.testing.assert_allclose(slopes[-1], order, atol=0.35)


def rms(x):
    return float(np.sqrt(np.mean(np.asarray(x) ** 2)))


# Ends


@pytest.mark.parametrize("sampler", [IPNDM(1), DEIS(1), DEIS(1, "rho")], ids=repr)
def test_of_first_order_it_is_ddim_bit_for_bit(sampler):
    process, x = process_of(), noise(2, 3, 3, 1)
    times = schedules.spaced_times(1000, 7)
    np.testing.assert_array_equal(run(process, sampler, times, x), run(process, DDIM(), times, x))


@pytest.mark.parametrize("sampler", [DPMSolver3M(1), UniPC(1)], ids=repr)
def test_of_first_order_a_step_is_ddim(x64, sampler):
    process, x = process_of(), noise(2, 3, 3, 1)
    times = schedules.spaced_times(1000, 7) if isinstance(sampler, DPMSolver3M) else np.array([900, 300])
    np.testing.assert_allclose(run(process, sampler, times, x), run(process, DDIM(), times, x), rtol=1e-9)


EACH = (DPMSolver3M(), UniPC(), IPNDM(), DEIS(4, "rho"), DEIS())


@pytest.mark.parametrize("name", sorted(schedules.SCHEDULES))
@pytest.mark.parametrize("sampler", EACH, ids=repr)
def test_the_first_step_is_ddim_at_both_ends_too(sampler, name):
    process, x = process_of(name), noise(4, 3, 3, 1)
    t, s = jnp.asarray([1000, 1000, 500, 1]), jnp.asarray([400, 0, 499, 0])
    prediction = gaussian.with_x0(process, Prediction(x, x), jnp.tanh(x), x, t)
    got, _ = sampler.step(process, sampler.init(x), x, prediction, s, t, keys_of(4))
    ddim, _ = DDIM().step(process, (), x, prediction, s, t, keys_of(4))
    np.testing.assert_allclose(got, ddim, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["cosine", "cosine_log_snr"])
@pytest.mark.parametrize("sampler", EACH, ids=repr)
def test_schedules_that_end_in_pure_noise_are_no_hole(sampler, name):
    process, x = process_of(name), noise(2, 3, 3, 1)
    for spacing in ("even", "log_snr"):
        times = schedules.spaced_times(process.schedule, 5, spacing)
        assert (np.abs(run(process, sampler, times, x)) < 3).all()


@pytest.mark.parametrize("sampler", [DPMSolver3M(), UniPC()], ids=repr)
def test_the_last_of_many_steps_of_an_x0_solver_is_the_predicted_image(sampler):
    process, x = process_of(), noise(2, 3, 3, 1)
    before = run(process, sampler, np.array([1000, 600, 300]), x)
    got = run(process, sampler, np.array([1000, 600, 300, 0]), x)
    predicted = mixture.exact(process)(jnp.asarray(before), jnp.asarray(300), None).x0
    np.testing.assert_allclose(got, predicted, rtol=1e-5, atol=1e-6)


def test_missing_predictions_meet_no_real_one():
    """Four steps whose second is twice the first: what stands in for a third lies nowhere near the second."""
    process, x = process_of(), noise(1, 2, 2, 1)
    for times in ([900, 600, 300, 200], [1000, 800, 700, 650], [1000, 445, 112, 1, 0]):
        for sampler in EACH:
            assert np.isfinite(run(process, sampler, np.array(times), x)).all(), (sampler, times)


# In use


@pytest.mark.parametrize("sampler", EACH, ids=repr)
def test_a_repeated_step_starts_from_the_memory_of_the_step_before(x64, sampler):
    """Predictions that know only t: repetition re-noises, and the last attempt is a step from what was re-noised."""
    process, x, times = process_of(), noise(2, 3, 3, 1), np.array([1000, 700, 400, 200, 0])

    def known(x, t, keys):
        return Prediction(jnp.full_like(x, jnp.sin(t / 100)), jnp.full_like(x, jnp.cos(t / 100)))

    once, thrice = (run(process, sampler, times, x, known, resample=n) for n in (1, 3))
    np.testing.assert_allclose(thrice, once, rtol=1e-9)  # into the data: all that was memory is left


@pytest.mark.parametrize("sampler", EACH, ids=repr)
def test_a_corrected_image_moves_the_noise_along(x64, sampler):
    """A threshold within the solver is as if the network had said so."""
    process, x, times = process_of(), noise(2, 3, 3, 1), np.array([1000, 700, 400, 200, 20])
    halve = lambda image: image / 2  # noqa: E731

    def halved(x, t, keys):
        prediction = mixture.exact(process)(x, t, keys)
        return gaussian.with_x0(process, prediction, prediction.x0 / 2, x, jnp.full(x.shape[:1], t))

    got = run(process, Corrected(sampler, 0.0, halve), times, x)
    np.testing.assert_allclose(got, run(process, sampler, times, x, halved), rtol=1e-9)


EVERYWHERE = (UniPC(2), IPNDM(3), IPNDM(4), DEIS(4, "rho"), DEIS(4))


@pytest.mark.parametrize(
    ("spacing", "chosen"),
    [("even", (*EVERYWHERE, DPMSolver3M())), ("quadratic", EVERYWHERE), ("log_snr", EVERYWHERE)],
)
def test_few_steps_come_closer_than_ddims(spacing, chosen):
    """Of a mixture; a third order in lambda does not in steps that grow towards the data."""
    process, x = process_of(), mixture.quantiles(64)
    truth = mixture.flow(process, x, 1000, 0)
    for count in (5, 8):
        times = schedules.spaced_times(process.schedule, count, spacing)
        ddim = rms(run(process, DDIM(), times, x) - truth)
        for sampler in chosen:
            assert rms(run(process, sampler, times, x) - truth) < ddim, (sampler, count)


@pytest.mark.parametrize("sampler", [DPMSolver3M, UniPC, IPNDM, DEIS])
def test_orders_that_are_not_there_are_refused(sampler):
    for order in (0, sampler.orders[-1] + 1):
        with pytest.raises(ValueError, match="has order 1 to"):
            sampler(order)


def test_rho_between_is_rho_at_whole_times_and_straight_in_log_abar_between(x64):
    schedule = schedules.linear()
    t = jnp.arange(1001)
    np.testing.assert_allclose(
        schedules.rho_between(schedule, t.astype(float)), schedules.rho(schedule, t), rtol=1e-9
    )
    between = np.linspace(0, 1000, 777)
    np.testing.assert_allclose(
        schedules.rho_between(schedule, jnp.asarray(between)), table_rho(between), rtol=1e-8
    )
