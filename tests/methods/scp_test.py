import numpy as np
import pytest

from semdiff.config import Sample
from semdiff.data import moments
from semdiff.data.moments import Moments
from semdiff.methods import scp


@pytest.fixture
def statistics() -> Moments:
    """Sixty images of 2 x 2 pixels, two classes."""
    rng = np.random.default_rng(0)
    found = Moments.none(2, 2, 2, 1)
    for _ in range(60):
        layout = rng.integers(0, 2, (2, 2))
        found.add(layout[..., None] + 0.3 * rng.normal(size=(2, 2, 1)), layout)
    return found


def test_tables_have_the_shape_of_their_kind_and_deviations(statistics):
    for kind, shape in {"spatial": (1, 2, 2, 1), "categorical": (3, 1, 1, 1), "joint": (3, 2, 2, 1)}.items():
        spread = scp.spread_of(statistics, Sample(prior=kind))
        tables = scp.tables_of(spread)
        assert tables["mean"].shape == tables["deviation"].shape == shape
        np.testing.assert_allclose(tables["deviation"] ** 2, spread.variance, rtol=1e-5)
    near = scp.spread_of(statistics, Sample(prior="joint", prior_strength=1e-9)).variance
    np.testing.assert_allclose(near[:2], statistics.variance[:2], rtol=1e-6)


def test_a_mixture_has_the_weights_that_it_is_told(statistics):
    for place, kind in enumerate(("spatial", "categorical", "joint")):
        weights = tuple(float(i == place) * 4 for i in range(3))
        alone = scp.spread_of(statistics, Sample(prior=kind))
        mixed = scp.spread_of(statistics, Sample(prior="mixture", prior_weights=weights))
        np.testing.assert_allclose(mixed.mean, np.broadcast_to(alone.mean, mixed.mean.shape), rtol=1e-9)
        np.testing.assert_allclose(
            mixed.variance, np.broadcast_to(alone.variance, mixed.variance.shape), rtol=1e-9
        )


def test_where_nothing_was_measured_chains_start_from_noise_at_the_top():
    asked = Sample(prior="joint", start=0.8, steps=7)
    assert scp.from_noise(asked) == Sample(steps=7)
    assert scp.from_noise(Sample(start=0.8)) == Sample(start=0.8)


def test_the_fallback_is_the_one_that_was_asked_for(statistics):
    for kind, fallback in (
        ("spatial", moments.spatial),
        ("categorical", lambda m: moments.categorical(m, 1.0)),
    ):
        spread = scp.spread_of(statistics, Sample(prior="joint", prior_fallback=kind))
        other = np.broadcast_to(fallback(statistics).mean, spread.mean.shape)
        np.testing.assert_array_equal(spread.mean[2], other[2])  # pixels of no class were never seen
