"""Tuned times: the shortest path by trying all, and a mixture whose flow is known."""

from itertools import combinations, pairwise

import jax
import jax.numpy as jnp
import mixture
import numpy as np
import pytest

from semdiff.diffusion import gaussian, samplers, schedules, timing
from semdiff.diffusion.gaussian import Gaussian
from semdiff.diffusion.joint import State
from semdiff.diffusion.samplers import DDIM, UniPC

pytestmark = pytest.mark.usefixtures("strict_ranks", "quick_compile")

CANDIDATES = np.unique(np.concatenate([np.arange(0, 40, 3), np.arange(40, 1001, 16), [1000]]))[::-1].astype(
    np.int32
)


@pytest.mark.parametrize("steps", [1, 2, 3, 6])
def test_the_best_path_is_that_of_brute_force(steps):
    for seed in range(5):
        cost = np.random.default_rng(seed).uniform(size=(7, 7)) ** 3
        total = lambda path, cost=cost: sum(cost[i, j] for i, j in pairwise(path))  # noqa: E731
        paths = [(0, *inner, 6) for inner in combinations(range(1, 6), steps - 1)]
        got = timing.best_times(cost, steps)
        assert len(got) == steps + 1
        assert tuple(got) == min(paths, key=total)


@pytest.mark.parametrize("steps", [0, 7])
def test_paths_that_cannot_be_are_refused(steps):
    with pytest.raises(ValueError, match="1 to 6 steps"):
        timing.best_times(np.ones((7, 7)), steps)


def test_only_finite_costs_are_a_path():
    with pytest.raises(ValueError, match="no path of 3 steps"):
        timing.best_times(np.where(np.eye(5, k=1) > 0, 1.0, np.inf), 3)


def setup():
    process, x = Gaussian(schedules.linear(), "eps", "small"), mixture.quantiles(64)
    truth = mixture.flow(process, x, 1000, 0)

    def error_of(sampler):
        def chain(times, count):
            # Times as an argument: one program for all of a length.
            keys = jax.random.split(jax.random.key(0), 1)
            memory, at = sampler.init(x), x
            for i in range(count):
                t, s = (jnp.full((1,), times[j]) for j in (i, i + 1))
                prediction = mixture.exact(process)(at, times[i], keys)
                at, memory = sampler.step(process, memory, at, prediction, s, t, keys)
            return at

        compiled = jax.jit(chain, static_argnums=1)
        return lambda times: float(
            np.sqrt(np.mean((np.asarray(compiled(jnp.asarray(times), len(times) - 1)) - truth) ** 2))
        )

    return process, x, error_of


def taught(process, times, x):
    """(states, predictions) of DDIM over these times."""
    denoise, joint_process, sampler = samplers.of_images(mixture.exact(process), process, DDIM())
    keys = jax.random.split(jax.random.key(0), 1)
    return jax.jit(lambda x: timing.teach(denoise, joint_process, times, State(x), keys, sampler))(x)


def fixed(process, steps):
    for spacing in schedules.SPACINGS:
        if spacing != "stride" or 1000 % steps == 0:
            yield spacing, schedules.spaced_times(process.schedule, steps, spacing)


@pytest.mark.parametrize("steps", [4, 6])
def test_tuned_times_beat_every_spacing(steps):
    """DDIM by the shortest path alone; a solver that remembers after a descent from there."""
    process, x, error_of = setup()
    states, predictions = taught(process, CANDIDATES, x)
    cost = timing.step_errors(process, CANDIDATES, states, predictions)
    tuned = CANDIDATES[timing.best_times(cost, steps)]
    assert (tuned[0], tuned[-1]) == (1000, 0)
    for sampler in (DDIM(), UniPC(2)):
        error = error_of(sampler)
        errors = {spacing: error(times) for spacing, times in fixed(process, steps)}
        got = error(tuned)
        if sampler != DDIM():
            better, value = timing.descend(error, tuned)
            assert value <= got
            assert value == error(better)
            assert (np.diff(better) < 0).all()
            got = value
        assert got < min(errors.values())


def test_the_error_of_a_step_is_that_of_ddim():
    """From a teacher's state, by the sampler itself; of its own steps there is none."""
    process, x, _ = setup()
    times, keys = np.array([1000, 700, 300, 0]), jax.random.split(jax.random.key(0), 1)
    states, predictions = taught(process, times, x)
    cost = timing.step_errors(process, times, states, predictions)
    np.testing.assert_allclose(np.diag(cost, 1), 0, atol=1e-5)
    assert np.isinf(cost[np.tril_indices(4)]).all()
    jump = samplers.image_chain(mixture.exact(process), process, DDIM(), np.array([700, 0]), states[1], keys)
    expected = np.sqrt(np.mean((jump - states[3]) ** 2)) / states[3].std()
    assert cost[1, 3] == pytest.approx(float(expected), rel=1e-4)


def test_a_descent_finds_the_bottom_of_a_bowl():
    best, least = timing.descend(
        lambda times: float(((times - [1000, 333, 91, 0]) ** 2).sum()), np.array([1000, 800, 700, 0])
    )
    assert best.tolist() == [1000, 333, 91, 0]
    assert least == 0


def test_a_trajectory_is_what_the_chain_passes():
    process, x, _ = setup()
    times, keys = np.array([1000, 700, 300, 0]), jax.random.split(jax.random.key(0), 1)
    parts = samplers.of_images(mixture.exact(process), process, UniPC())
    end, states, predictions = samplers.trajectory(*parts, times, State(x), keys)
    states, predictions = [*states.image, end.image], predictions.image
    for i in range(1, 4):
        stop = samplers.image_chain(mixture.exact(process), process, UniPC(), times[: i + 1], x, keys)
        np.testing.assert_allclose(states[i], stop, rtol=1e-5, atol=1e-6)
    again = gaussian.diffuse(process, predictions.x0[1], jnp.full((1,), 700), predictions.eps[1])
    np.testing.assert_allclose(again, states[1], rtol=1e-4, atol=1e-5)
