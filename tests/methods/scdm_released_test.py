"""SCDM in 25 steps as its released code samples: layouts, predictions, steps and the image.

All that is random is given, and the network is a sine of sums; the released network itself is in tests/convert/sdm_test.py.
"""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import io_callback
from tiny import classes

from semdiff import parser
from semdiff.diffusion import categorical, gaussian, samplers
from semdiff.diffusion.joint import ByHalf
from semdiff.methods import build, sdm
from semdiff.sampling import chains

RELEASED = json.loads(Path(__file__).with_name("scdm_released.json").read_text())
LAYOUT, EDGES = (np.array(RELEASED[name]) for name in ("layout", "edges"))
K = len(RELEASED["rates"])
TIMES = 1 + 40 * np.arange(24, -1, -1)


def draws() -> dict[str, np.ndarray]:
    """The fixture's recipe."""
    source = np.random.RandomState(25)  # numpy promises this old generator's numbers for good
    given = {
        "weights": source.standard_normal((6, 3 + K + 1 + 2)),
        "start": source.standard_normal((2, 2, 3, 3)),
        "noise": source.standard_normal((25, 2, 2, 3, 3)),
        "chance": source.uniform(size=(25, 2, 2, 3)),
    }
    # Two pixels of the linear class: one shows by half a step of its clock, one because it is masked no faster.
    given["chance"][:, 0, 0, 0] = 1 - (TIMES - 0.5) / 1000
    given["chance"][:, 1, 0, 0] = 0.97 - (TIMES - 1) / 1000
    return given


def note(where, values) -> None:
    """where(values) as numpy arrays, in the order of the chain."""
    io_callback(lambda given: where(jax.tree.map(np.asarray, given)), None, values, ordered=True)


def give(queue, like) -> jax.Array:
    """The next of the queue, in the order of the chain."""
    return io_callback(lambda: next(queue), jax.ShapeDtypeStruct(like.shape, float), ordered=True)


class Sine:
    """sin(weights (x, one-hot layout, edges, time / 1000, 1)) at each pixel. Notes its time, layout and edges."""

    clock = "steps"

    def __init__(self, weights: np.ndarray):
        self.weights, self.seen = weights, []

    def apply(self, params, state, time, condition, dropout_keys=None):
        x, layout, edges = state.image, condition["layout"], condition["edges"]
        note(self.seen.append, (time, layout, edges))
        clock = jnp.broadcast_to(time[:, None, None, None] / 1000, (*x.shape[:3], 1))
        rest = (jax.nn.one_hot(layout, K), edges[..., None], clock, jnp.ones_like(clock))
        return ByHalf(jnp.sin(jnp.concatenate([x, *rest], axis=-1) @ self.weights.T))


class Noting(samplers.Ancestral):
    """The ancestral sampler. Notes what it makes of a prediction."""

    def __init__(self):
        self.steps = []

    def step(self, process, memory, xt, prediction, s, t, keys):
        mean, _ = gaussian.q_posterior(process, xt, prediction.x0, s, t)
        log_variance = gaussian.step_log_variance(process, prediction.fraction, s, t)
        note(self.steps.append, {"t": t, "x0": prediction.x0, "mean": mean, "log_variance": log_variance})
        return super().step(process, memory, xt, prediction, s, t, keys)


@pytest.fixture
def x64_everywhere():
    """float64 in the callbacks' threads too, where the setting of one test does not reach."""
    before = jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


def test_released_sampling(x64_everywhere, monkeypatch):
    given = draws()
    c = parser.parse(sdm.published_scdm("25", "coco_stuff"))
    network, sampler = Sine(given["weights"]), Noting()
    spelled = replace(
        build.build_method(c, classes(K, has_instances=True), np.array(RELEASED["rates"])), network=network
    )
    normal, chance = iter([given["start"], *given["noise"]]), iter(given["chance"])
    monkeypatch.setitem(samplers.SAMPLERS, "ancestral", lambda: sampler)
    monkeypatch.setattr(gaussian, "normal", lambda keys, like: give(normal, like))
    monkeypatch.setattr(
        categorical, "noise", lambda process, like, keys: (give(chance, like), jnp.full_like(like, K))
    )
    condition = {"layout": jnp.asarray(LAYOUT, jnp.int32), "edges": jnp.asarray(EDGES, jnp.uint8)}
    keys = jax.random.split(jax.random.key(0), 2)
    settings = replace(c.sample, cache_condition=False)  # the stand-in has none
    pixels = chains.build_generate(spelled, settings)({}, condition, keys, LAYOUT.shape[1:]).image
    jax.effects_barrier()

    for t, expected, conditional, null in zip(
        TIMES, RELEASED["layouts"], network.seen[::2], network.seen[1::2], strict=True
    ):
        for time, _, _ in (conditional, null):
            np.testing.assert_array_equal(time, t - 1)
        assert "".join(map(str, conditional[1].flat)) == expected, f"t = {t}"
        np.testing.assert_array_equal(conditional[2], EDGES)
        assert (null[1] > K).all()
        assert not null[2].any()
    steps = {int(step["t"][0]): step for step in sampler.steps}
    assert list(steps) == TIMES.tolist()
    for t, expected in RELEASED["steps"].items():
        for name, value in expected.items():
            got = steps[int(t)][name].ravel()
            np.testing.assert_allclose(got, value, rtol=0, atol=1e-8, err_msg=f"{name} at t = {t}")
    np.testing.assert_array_equal(np.asarray(pixels).ravel(), RELEASED["pixels"])
