"""Which times a chain of few steps should visit, for one model and one solver.

A chain of many steps (the teacher) passes the candidate times; what was predicted at each is kept. From there a single
step to any later candidate needs no network, so the error of all such steps is known, and the path of k steps whose errors
add up to least is a shortest path (2106.03802; of the teacher's trajectory 2409.17397). Solvers that remember more than
one prediction take their steps otherwise: `descend` goes on from there by the error that a chain really has.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from semdiff.diffusion import gaussian, joint, samplers
from semdiff.diffusion.gaussian import Gaussian, Keys, Prediction
from semdiff.diffusion.joint import present

States = Float[Array, "n b h w c"]


def teach(
    denoise_fn: samplers.DenoiseFn,
    process: joint.Process,
    times: np.ndarray,
    start: joint.State,
    keys: Keys,
    sampler: samplers.Joint,
) -> tuple[States, Prediction]:
    """A one-step sampler's images at all candidate times, the last (0) included, and what was predicted at all but that."""
    end, states, predictions = samplers.trajectory(denoise_fn, process, sampler, times, start, keys)
    images = jnp.concatenate([present(states.image), present(end.image)[None]])
    return images, present(predictions.image)


def step_errors(process: Gaussian, times: np.ndarray, states: States, predictions: Prediction) -> np.ndarray:
    """[N, N]: by how much a DDIM step from times[i] to times[j] misses the teacher's state there; inf for j <= i.

    As root mean square, relative to the spread of the states at times[j].
    """
    size = len(times)
    spread = jnp.maximum(states.std(axis=(1, 2, 3, 4)), 1e-6)

    @jax.jit
    def misses(x0, eps):
        def miss(s, state):
            x = gaussian.diffuse(process, x0, jnp.full(x0.shape[:1], s), eps)
            return jnp.sqrt(((x - state) ** 2).mean())

        return jax.lax.map(lambda pair: miss(*pair), (jnp.asarray(times), states))

    errors = np.full((size, size), np.inf)
    for i in range(size - 1):
        row = np.asarray(misses(predictions.x0[i], predictions.eps[i]) / spread)
        errors[i, i + 1 :] = row[i + 1 :]
    return errors


def best_times(cost: np.ndarray, steps: int) -> np.ndarray:
    """Indices (steps + 1, from the first to the last) of the path over which cost[i, j] adds up to least."""
    size = len(cost)
    if not 1 <= steps < size:
        raise ValueError(f"{size} candidate times allow 1 to {size - 1} steps, not {steps}")
    later = np.where(np.triu(np.ones((size, size), bool), 1), cost, np.inf)
    total = np.full(size, np.inf)  # from each candidate to the last, in as many steps as were taken so far
    total[-1] = 0.0
    choices = []
    for _ in range(steps):
        ways = later + total[None]
        choices.append(ways.argmin(1))
        total = ways.min(1)
    if not np.isfinite(total[0]):
        raise ValueError(f"no path of {steps} steps has a finite cost")
    path = [0]
    for choice in reversed(choices):
        path.append(int(choice[path[-1]]))
    return np.array(path)


def descend(
    error: Callable[[np.ndarray], float], times: np.ndarray, strides: Sequence[int] = (64, 16, 4, 1)
) -> tuple[np.ndarray, float]:
    """Integer times, first and last fixed, moved one at a time by a stride while the error of the chain falls.

    Each stride until no move helps, the largest first. error is asked about 2 (steps - 1) times a round.
    """
    best, least = np.array(times), error(np.array(times))
    for stride in strides:
        improved = True
        while improved:
            improved = False
            for i in range(1, len(best) - 1):
                for move in (stride, -stride):
                    tried = best.copy()
                    tried[i] += move
                    if not tried[i - 1] > tried[i] > tried[i + 1]:
                        continue
                    value = error(tried)
                    if value < least:
                        best, least, improved = tried, value, True
    return best, least
