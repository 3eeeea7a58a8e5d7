"""Chains on data whose exact denoiser is known: every pixel is N(MEAN, STD^2) by itself."""

import typing
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from semdiff.diffusion import gaussian, samplers, schedules
from semdiff.diffusion.gaussian import Gaussian, Prediction, bcast
from semdiff.diffusion.joint import State
from semdiff.diffusion.samplers import DDIM, DEIS, Ancestral, Corrected, DPMSolver2M

pytestmark = pytest.mark.usefixtures("strict_ranks", "quick_compile")

MEAN, STD = 0.3, 0.5
ABAR = np.concatenate([[1.0], np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))])
ALL = (Ancestral(), DDIM(), DDIM(1.0), DPMSolver2M())


def process_of(variance="small", name="linear", num_steps=1000):
    return Gaussian(schedules.SCHEDULES[name](num_steps), "eps", variance)


def keys_of(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def noise(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.result_type(float))


def marginal(process, t):
    """Mean and standard deviation of x_t."""
    alpha, variance = schedules.alpha(process.schedule, t), schedules.variance(process.schedule, t)
    return MEAN * alpha, jnp.sqrt(alpha**2 * STD**2 + variance)


def exact(process, times=None):
    """E[x_0 | x_t]; with `times` also the variance of x_s | x_t, as a share of the learned range."""

    def denoise(x, t, keys):
        del keys
        t_b = jnp.full(x.shape[:1], t)
        mean, std = marginal(process, t_b)
        alpha = schedules.alpha(process.schedule, t_b)
        x0 = MEAN + bcast(alpha * STD**2 / std**2) * (x - bcast(mean))
        fraction = None
        if times is not None:
            s_b = jnp.full(x.shape[:1], jnp.asarray(times)[jnp.argmax(jnp.asarray(times) == t) + 1])
            _, b, v = gaussian.posterior_coefficients(process, s_b, t_b)
            left = STD**2 * schedules.variance(process.schedule, t_b) / std**2  # Var[x_0 | x_t]
            small, large = gaussian.log_variance_range(process, s_b, t_b)
            fraction = jnp.broadcast_to(bcast((jnp.log(v + b**2 * left) - small) / (large - small)), x.shape)
            fraction = jnp.where(bcast(s_b == 0), 0.0, fraction)
        return Prediction(x0, gaussian.eps_from_x0(process, x, x0, t_b), fraction)

    return denoise


def flow(process, x, t, s):
    """The probability flow of normal data: x keeps its place in its marginal."""
    (mean_t, std_t), (mean_s, std_s) = marginal(process, jnp.asarray(t)), marginal(process, jnp.asarray(s))
    return mean_s + std_s * (x - mean_t) / std_t


def run(process, sampler, times, x, keys=None, denoise=None, **options):
    keys = keys_of(len(x)) if keys is None else keys
    denoise = exact(process) if denoise is None else denoise
    return jax.jit(
        lambda x, keys: samplers.image_chain(denoise, process, sampler, times, x, keys, **options)
    )(x, keys)


def assert_data(x, tolerance=0.0):
    """Mean and deviation of the data, within sampling error (5 sigma) and a share of bias."""
    x, error = np.asarray(x, np.float64), 5 * STD / np.sqrt(x.size)
    assert abs(x.mean() - MEAN) < error + tolerance * STD, x.mean()
    assert abs(x.std() - STD) < error / np.sqrt(2) + tolerance * STD, x.std()


# Distributions


@pytest.mark.parametrize("spacing", ["even", "quadratic"])
def test_ancestral_with_the_exact_learned_variance_is_exact_on_any_subset(spacing):
    process = process_of("learned_range")
    times = schedules.spaced_times(1000, 10, spacing)
    x = noise(4, 100, 100, 1)
    assert_data(run(process, Ancestral(), times, x, denoise=exact(process, times)))


@pytest.mark.parametrize("variance", ["small", "large"])
def test_ancestral_on_all_steps(variance):
    process = process_of(variance, num_steps=200)
    times = np.arange(200, -1, -1)
    assert_data(run(process, Ancestral(), times, noise(4, 50, 50, 1)), tolerance=0.02)


def test_ancestral_follows_the_marginals_on_its_way():
    process = process_of("learned_range")
    times = np.array([1000, 700, 400, 100])
    x = run(process, Ancestral(), times, noise(4, 100, 100, 1), denoise=exact(process, [*times, 0]))
    mean, std = marginal(process, jnp.asarray(100))
    assert x.mean() == pytest.approx(float(mean), abs=0.02)
    assert x.std() == pytest.approx(float(std), rel=0.02)


@pytest.mark.parametrize("sampler", ALL, ids=repr)
def test_a_single_step_into_the_data_is_the_predicted_image(sampler):
    process, x = process_of(), noise(2, 3, 3, 1)
    predicted = exact(process)(x, jnp.asarray(300), None).x0
    got = run(process, sampler, np.array([300, 0]), x)
    np.testing.assert_allclose(got, predicted, rtol=1e-5, atol=1e-6)


def test_the_last_of_many_steps_is_the_predicted_image_too():
    """Log-SNR is infinite at the data: nothing can be extrapolated that far."""
    process, x = process_of(), noise(2, 3, 3, 1)
    before = run(process, DPMSolver2M(), np.array([1000, 600, 300]), x)
    got = run(process, DPMSolver2M(), np.array([1000, 600, 300, 0]), x)
    np.testing.assert_allclose(got, exact(process)(before, jnp.asarray(300), None).x0, rtol=1e-5, atol=1e-6)


# One step


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim_step_by_its_formula(x64, eta):
    """DDIM Eq. 12 with the sigma of Eq. 16."""
    process, s, t = process_of(), jnp.asarray([0, 1, 400, 200]), jnp.asarray([1, 40, 401, 1000])
    x, x0 = noise(2, 4, 3, 3, 1)
    eps = gaussian.eps_from_x0(process, x, x0, t)
    got, memory = DDIM(eta).step(process, (), x, Prediction(x0, eps), s, t, keys_of(4))
    assert memory == ()
    abar_s, abar_t = (ABAR[np.asarray(at)][:, None, None, None] for at in (s, t))
    sigma = eta * np.sqrt((1 - abar_s) / (1 - abar_t)) * np.sqrt(1 - abar_t / abar_s)
    direction = (x - np.sqrt(abar_t) * x0) / np.sqrt(1 - abar_t)
    expected = np.sqrt(abar_s) * x0 + np.sqrt(1 - abar_s - sigma**2) * direction
    np.testing.assert_allclose(
        got, expected + sigma * np.asarray(gaussian.normal(keys_of(4), x)), rtol=1e-8, atol=1e-9
    )


def test_ddim_with_eta_1_is_ancestral_with_the_small_variance(x64):
    """The same posterior: step by step the same numbers from the same keys, adjacent or far."""
    process, s, t = process_of("small"), jnp.asarray([0, 1, 399, 200]), jnp.asarray([1, 40, 400, 1000])
    x, x0 = noise(2, 4, 3, 3, 1)
    prediction = Prediction(x0, gaussian.eps_from_x0(process, x, x0, t))
    ddim, _ = DDIM(1.0).step(process, (), x, prediction, s, t, keys_of(4))
    ancestral, _ = Ancestral().step(process, (), x, prediction, s, t, keys_of(4))
    np.testing.assert_allclose(ddim, ancestral, rtol=1e-7, atol=1e-9)


def test_eta_1_on_all_steps_is_ancestral_in_distribution():
    process, times, x = process_of("small", num_steps=200), np.arange(200, -1, -1), noise(4, 50, 50, 1)
    assert_data(run(process, DDIM(1.0), times, x), tolerance=0.02)


@pytest.mark.parametrize("max_ratio", [np.inf, 1.0, 0.5])
def test_dpm_solver_steps_by_the_algorithm(x64, max_ratio):
    """Algorithm 2 of 2211.01095, literally but for the limit, for a denoiser that is not linear."""
    process, times = process_of(), np.array([900, 600, 560, 350, 100, 20])
    alpha, sigma = np.sqrt(ABAR[times]), np.sqrt(1 - ABAR[times])
    lam = np.log(alpha / sigma)
    denoise = lambda x, t, keys: Prediction(jnp.sin(x) + 0.001 * t, x)  # noqa: E731
    x = start = np.asarray(noise(2, 3, 3, 1))
    buffer = []
    for i in range(1, len(times)):
        buffer.append(np.sin(x) + 0.001 * times[i - 1])
        h = lam[i] - lam[i - 1]
        if i == 1:
            d = buffer[0]
        else:
            r = max((lam[i - 1] - lam[i - 2]) / h, 1 / max_ratio)
            d = (1 + 1 / (2 * r)) * buffer[-1] - 1 / (2 * r) * buffer[-2]
        x = sigma[i] / sigma[i - 1] * x - alpha[i] * (np.exp(-h) - 1) * d
    got = run(process, DPMSolver2M(max_ratio), times, jnp.asarray(start), denoise=denoise)
    np.testing.assert_allclose(got, x, rtol=1e-7)


# Corrections of the predicted image


KNOWN_TIMES = np.array([900, 600, 350, 100, 20, 0])
KNOWN = 1.5 * np.random.default_rng(3).normal(size=(5, 2, 3, 3, 1))  # x_0 as predicted at each of the steps


def knowing(x, t, keys):
    """Predicts what it knows; the noise it says goes with another image."""
    return Prediction(jnp.asarray(KNOWN)[jnp.argmax(jnp.asarray(KNOWN_TIMES) == t)], jnp.full_like(x, 7.0))


def clip(x):
    return jnp.clip(x, -1, 1)


def extrapolated(k):
    """x0_hat_n = x0_n + k (x0_n - x0_hat_{n-1}): x0_hat_{n-1} as extrapolated, whatever was cut from it afterwards."""
    result = [KNOWN[0]]
    for x0 in KNOWN[1:]:
        result.append(x0 + k * (x0 - result[-1]))
    return result


@pytest.mark.parametrize(
    ("k", "threshold"), [(0.8, None), (0.25, clip), (0.8, clip), (-0.5, None), (0.0, clip)]
)
def test_images_are_extrapolated_then_thresholded_and_the_noise_follows(x64, k, threshold):
    process, x = process_of(), noise(2, 3, 3, 1)
    alpha, sigma = np.sqrt(ABAR[KNOWN_TIMES]), np.sqrt(1 - ABAR[KNOWN_TIMES])
    expected = np.asarray(x)
    for i, x0 in enumerate(extrapolated(k)):
        used = x0 if threshold is None else np.clip(x0, -1, 1)
        eps = (expected - alpha[i] * used) / sigma[i]
        expected = alpha[i + 1] * used + sigma[i + 1] * eps
        got = run(process, Corrected(DDIM(), k, threshold), KNOWN_TIMES[: i + 2], x, denoise=knowing)
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("sampler", [Ancestral(), DPMSolver2M()], ids=repr)
def test_other_samplers_are_given_the_corrected_image_too(x64, sampler):
    """As if the network had said it."""

    def corrected(x, t, keys):
        used = jnp.clip(jnp.asarray(extrapolated(0.8)), -1, 1)
        return Prediction(used[jnp.argmax(jnp.asarray(KNOWN_TIMES) == t)], jnp.full_like(x, jnp.nan))

    process, x = process_of("small"), noise(2, 3, 3, 1)
    got = run(process, Corrected(sampler, 0.8, clip), KNOWN_TIMES[:-1], x, denoise=knowing)
    expected = run(process, sampler, KNOWN_TIMES[:-1], x, denoise=corrected)
    np.testing.assert_allclose(got, expected, rtol=1e-9)


@pytest.mark.parametrize("resample", [1, 3])
def test_the_image_before_is_that_of_the_step_before(x64, resample):
    process, x = process_of("small"), noise(2, 3, 3, 1)
    got = run(process, Corrected(DDIM(), 0.8), KNOWN_TIMES, x, denoise=knowing, resample=resample)
    np.testing.assert_allclose(got, extrapolated(0.8)[-1], rtol=1e-9)


def test_a_single_step_has_nothing_to_extrapolate_from(x64):
    process, x = process_of(), noise(2, 3, 3, 1)
    got = run(process, Corrected(DDIM(), 0.8), np.array([900, 0]), x, denoise=knowing)
    np.testing.assert_allclose(got, KNOWN[0], rtol=1e-12)


def of_a_network(process):
    """A prediction as a network's output gives it: the noise is what it says, x_0 follows from it."""

    def denoise(x, t, keys):
        del keys
        output = jnp.concatenate([jnp.sin(3 * x), jnp.cos(x)], -1)
        return gaussian.predict(process, output, x, jnp.full(x.shape[:1], t))

    return denoise


@pytest.mark.parametrize("sampler", ALL, ids=repr)
@pytest.mark.parametrize("denoiser", [exact, of_a_network])
def test_without_corrections_it_is_the_bare_sampler_bit_for_bit(sampler, denoiser):
    process, x = process_of("learned_range" if denoiser is of_a_network else "small"), noise(2, 3, 3, 1)
    times = schedules.spaced_times(1000, 6)
    bare = run(process, sampler, times, x, denoise=denoiser(process))
    got = run(process, Corrected(sampler), times, x, denoise=denoiser(process))
    np.testing.assert_array_equal(got, bare)


# Convergence


def uniform_in_log_snr(process, count, low=-7.0, high=5.0):
    """Real times between two levels of log SNR, evenly."""
    u = np.linspace(0, process.num_steps, 200_001)[1:]
    level = np.asarray(schedules.log_snr(process.schedule, jnp.asarray(u)))
    return np.interp(-np.linspace(low, high, count + 1), -level, u)


def errors(sampler, counts):
    process, x = process_of(name="cosine_log_snr"), noise(1, 5, 5, 1)
    result = []
    for count in counts:
        times = uniform_in_log_snr(process, count)
        got = run(process, sampler, times, x)
        result.append(float(jnp.abs(got - flow(process, x, times[0], times[-1])).max()))
    return np.array(result)


@pytest.mark.parametrize(("sampler", "order"), [(DDIM(), 1), (DPMSolver2M(), 2)], ids=repr)
def test_solvers_converge_to_the_probability_flow_at_their_order(x64, sampler, order):
    error = errors(sampler, (40, 80, 160))
    ratios = error[:-1] / error[1:]
    np.testing.assert_allclose(ratios, 2**order, rtol=0.12)
    assert error[-1] < (0.02 if order == 1 else 0.001)


def test_deterministic_ddim_lands_on_the_flow_of_all_steps():
    process, x = process_of(), noise(2, 5, 5, 1)
    got = run(process, DDIM(), np.arange(1000, -1, -1), x)
    np.testing.assert_allclose(got, flow(process, x, 1000, 0), atol=0.01)


@pytest.mark.parametrize(
    ("count", "spacing", "gain"), [(10, "even", 2), (20, "even", 5), (20, "trailing", 1.5)]
)
def test_dpm_solver_beats_ddim_at_few_steps(count, spacing, gain):
    process, x = process_of(), noise(2, 5, 5, 1)
    times = schedules.spaced_times(1000, count, spacing)
    truth = flow(process, x, 1000, 0)
    error = {
        sampler: float(jnp.sqrt(((run(process, sampler, times, x) - truth) ** 2).mean()))
        for sampler in (DDIM(), DPMSolver2M())
    }
    assert error[DPMSolver2M()] < error[DDIM()] / gain, error


# The loop


def recorded(process, seen):
    """A denoiser that leaves a trace on the host: its time and its keys."""

    def denoise(x, t, keys):
        jax.debug.callback(
            lambda t, k: seen.append((float(t), tuple(np.ravel(k)))), t, jax.random.key_data(keys)
        )
        return exact(process)(x, t, keys)

    return denoise


@pytest.mark.parametrize("resample", [1, 3])
def test_each_attempt_of_each_step_has_its_own_keys(resample):
    process, seen = process_of(), []
    times = np.array([1000, 600, 30, 2, 1, 0])
    x = run(
        process,
        DDIM(1.0),
        times,
        noise(2, 2, 2, 1),
        denoise=recorded(process, seen),
        resample=resample,
    )
    x.block_until_ready()
    jax.effects_barrier()
    assert sorted(t for t, _ in seen) == sorted(np.repeat(times[:-1], resample))
    assert len({keys for _, keys in seen}) == 5 * resample


CLIP = lambda x: jnp.clip(x, -1, 1)  # noqa: E731


@pytest.mark.parametrize("resample", [1, 2])
@pytest.mark.parametrize("sampler", [Ancestral(), Corrected(DPMSolver2M(), 0.8, CLIP), DEIS(3)])
def test_one_program_called_for_parts_of_a_chain_is_the_chain_to_the_bit(sampler, resample):
    process, times = process_of(), np.array([1000, 700, 300, 90, 30, 4, 1, 0])
    keys, start = jax.random.split(jax.random.key(3), 2), noise(2, 4, 4, 1)
    clamp = lambda state, s, keys: State(state.image.at[:, 0].set(0.1))  # noqa: E731
    options = {"clamp": clamp, "resample": resample}
    parts = samplers.of_images(exact(process), process, sampler)
    whole = jax.jit(lambda x, keys: samplers.chain(*parts, times, State(x), keys, **options).image)

    @jax.jit
    def part(carry, keys, first, last):
        return samplers.segment(*parts, times, carry, keys, first, last, **options)

    carry = jax.jit(lambda x: (State(x), sampler.init(x)))(start)
    for first, last in ((0, 3), (3, 6), (6, 7)):
        carry = part(carry, keys, first, last)
    np.testing.assert_array_equal(carry[0].image, whole(start, keys))
    assert part._cache_size() == 1


def test_real_times_within_one_integer_have_different_noise():
    process, seen = process_of(name="cosine_log_snr"), []
    x = run(
        process,
        Ancestral(),
        np.array([2.75, 2.5, 2.25, 2.0]),
        noise(1, 2, 2, 1),
        denoise=recorded(process, seen),
    )
    x.block_until_ready()
    jax.effects_barrier()
    assert sorted(t for t, _ in seen) == [2.25, 2.5, 2.75]
    assert len({keys for _, keys in seen}) == 3


def test_a_chain_may_be_cut_in_two():
    process, x, keys = process_of(), noise(2, 3, 3, 1), keys_of(2)
    whole = run(process, Ancestral(), np.array([1000, 500, 100, 1, 0]), x, keys)
    half = run(process, Ancestral(), np.array([1000, 500, 100]), x, keys)
    np.testing.assert_allclose(run(process, Ancestral(), np.array([100, 1, 0]), half, keys), whole, rtol=1e-5)


@pytest.mark.parametrize("sampler", [Ancestral(), DDIM(0.5)], ids=repr)
def test_an_image_depends_on_its_key_alone(sampler):
    process, times = process_of(), schedules.spaced_times(1000, 6)
    keys = keys_of(4, 7)

    @jax.jit
    def generate(keys):
        x = gaussian.sample_prior(process, jnp.zeros((len(keys), 2, 2, 1)), keys)
        return samplers.image_chain(exact(process), process, sampler, times, x, keys)

    whole = generate(keys)
    for chosen in (np.array([3, 1, 0, 2]), np.array([2])):
        np.testing.assert_allclose(generate(keys[chosen]), whole[chosen], rtol=1e-5, atol=1e-6)
    assert not np.allclose(whole[0], whole[1])


@pytest.mark.parametrize("sampler", [Ancestral(), DPMSolver2M()], ids=repr)
@pytest.mark.parametrize("resample", [1, 2])
def test_clamping_holds_what_is_known(sampler, resample):
    process, times = process_of(), schedules.spaced_times(1000, 8)
    known, free = noise(2, 4, 4, 1, seed=5), jnp.zeros((2, 4, 4, 1), bool).at[:, :2].set(True)
    levels = []

    def clamp(x, s, keys):
        jax.debug.callback(lambda s: levels.append(int(s[0])), s)
        return jnp.where(free, x, gaussian.q_sample(process, known, s, keys))

    x = noise(2, 4, 4, 1)
    got = run(process, sampler, times, x, clamp=clamp, resample=resample)
    got.block_until_ready()
    jax.effects_barrier()
    np.testing.assert_array_equal(got[:, 2:], known[:, 2:])
    assert sorted(levels) == sorted(np.repeat(times[1:], resample))
    assert np.isfinite(got).all()


def test_resampling_keeps_the_distribution():
    """Re-noising a fresh x_s to t gives a fresh x_t: repetition changes the draw, not its law."""
    process = process_of("learned_range")
    times = schedules.spaced_times(1000, 6, "quadratic")
    x, denoise = noise(4, 100, 100, 1), exact(process, times)
    thrice = run(process, Ancestral(), times, x, denoise=denoise, resample=3)
    assert_data(thrice)


@dataclass(frozen=True)
class Counting(Ancestral):
    """Its memory is the number of steps it was told of; so is its image."""

    def init(self, x):
        return 0

    def step(self, process, memory, xt, prediction, s, t, keys):
        return jnp.full_like(xt, memory), memory + 1


def test_repeated_attempts_remember_the_step_before_not_each_other():
    process, x = process_of(), noise(1, 2, 2, 1)
    for resample in (1, 3):
        got = run(process, Counting(), np.array([1000, 600, 300, 100, 0]), x, resample=resample)
        np.testing.assert_array_equal(got, 3)


def pair_denoiser(process, correlation):
    """Pixels [.., 0, 0] and [.., 0, 1] standard normal and correlated: E[x_0 | x_t] = alpha C (alpha^2 C + sigma^2)^-1 x."""

    def denoise(x, t, keys):
        del keys
        c = jnp.asarray([[1.0, correlation], [correlation, 1.0]])
        alpha, variance = schedules.alpha(process.schedule, t), schedules.variance(process.schedule, t)
        gain = alpha * c @ jnp.linalg.inv(alpha**2 * c + variance * jnp.eye(2))
        x0 = jnp.einsum("ij,bhjc->bhic", gain, x)
        return Prediction(x0, gaussian.eps_from_x0(process, x, x0, jnp.full(x.shape[:1], t)))

    return denoise


def test_resampling_lets_the_free_part_agree_with_the_known():
    """Given one of two pixels correlated by 0.9, at 1, the other's mean is 0.9; repetition comes closer to it."""
    process, times = process_of("large"), schedules.spaced_times(1000, 25)
    free = jnp.asarray([True, False]).reshape(1, 1, 2, 1)

    def clamp(x, s, keys):
        return jnp.where(free, x, gaussian.q_sample(process, jnp.ones_like(x), s, keys))

    x = noise(8, 200, 2, 1)
    means = [
        run(
            process, Ancestral(), times, x, denoise=pair_denoiser(process, 0.9), clamp=clamp, resample=repeats
        )[..., 0, 0].mean()
        for repeats in (1, 8)
    ]
    assert means[0] < means[1] - 0.05
    assert means[1] == pytest.approx(0.9, abs=0.1)


@pytest.mark.parametrize(
    "times",
    [[0, 500], [500, 500, 0], [1000], [], [[1000, 0]], [1001, 0], [500, -1]],
    ids=str,
)
def test_bad_times_are_refused(times):
    process = process_of()
    with pytest.raises(ValueError, match="must descend"):
        samplers.image_chain(exact(process), process, DDIM(), np.array(times), noise(1, 2, 2, 1), keys_of(1))


def test_a_table_refuses_real_times():
    process = process_of()
    with pytest.raises(ValueError, match="integer times only"):
        samplers.image_chain(
            exact(process), process, DDIM(), np.array([999.5, 0]), noise(1, 2, 2, 1), keys_of(1)
        )


@pytest.mark.parametrize("sampler", [Ancestral(), DPMSolver2M()], ids=repr)
def test_one_compilation_per_shape(sampler):
    process, traced = process_of(), []

    @jax.jit
    def generate(x, keys):
        traced.append(x.shape)
        return samplers.image_chain(
            exact(process), process, sampler, schedules.spaced_times(1000, 5), x, keys
        )

    for seed in range(3):
        for batch in (1, 2):
            generate(noise(batch, 2, 2, 1, seed=seed), keys_of(batch, seed))
    assert traced == [(1, 2, 2, 1), (2, 2, 2, 1)]


def test_every_sampler_has_a_name():
    named = {type(make()) for make in samplers.SAMPLERS.values()}
    assert named == set(typing.get_args(samplers.Sampler))
    assert {type(sampler) for sampler in ALL} <= named


def test_orders_are_those_of_the_samplers_that_have_one():
    for name, make in samplers.SAMPLERS.items():
        assert samplers.ORDERS.get(name) == getattr(make(), "orders", None)


def test_eight_devices_give_the_numbers_of_one(run_on_devices):
    code = """
import jax, jax.numpy as jnp, numpy as np
from semdiff.diffusion import gaussian, samplers, schedules

assert len(jax.devices()) == 8
process = gaussian.Gaussian(schedules.linear(), variance="small")

@jax.jit
def generate(keys):
    x = gaussian.sample_prior(process, jnp.zeros((8, 3, 3, 1)), keys)
    denoise = lambda x, t, keys: gaussian.Prediction(jnp.tanh(x), x)
    return samplers.image_chain(denoise, process, samplers.Ancestral(), np.array([1000, 400, 2, 0]), x, keys)

keys = jax.random.split(jax.random.key(0), 8)
one = generate(keys)
mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
eight = generate(jax.device_put(keys, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))))
assert len(eight.sharding.device_set) == 8
np.testing.assert_allclose(eight, one, rtol=1e-5, atol=1e-6)
print("same")
"""
    assert run_on_devices(code).strip() == "same"
