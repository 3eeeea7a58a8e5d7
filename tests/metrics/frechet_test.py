"""The Frechet distance against closed forms and scipy's matrix root."""

import numpy as np
import pytest
import scipy.linalg

from semdiff.metrics.frechet import Moments, distance


def random_moments(seed, d=6):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(d, d))
    return Moments(rng.normal(size=d), root @ root.T)


def test_one_dimension():
    """(m1 - m2)^2 + (s1 - s2)^2."""
    a, b = Moments(np.array([1.0]), np.array([[4.0]])), Moments(np.array([3.0]), np.array([[9.0]]))
    assert distance(a, b) == pytest.approx(4 + 1)


def test_equals_the_definition_with_a_matrix_root():
    a, b = random_moments(0), random_moments(1)
    root = scipy.linalg.sqrtm(a.covariance @ b.covariance).real
    expected = ((a.mean - b.mean) ** 2).sum() + np.trace(a.covariance + b.covariance - 2 * root)
    assert distance(a, b) == pytest.approx(expected)
    assert distance(b, a) == pytest.approx(expected)


def test_nothing_between_equals():
    features = np.random.default_rng(0).normal(size=(5, 20))  # singular: fewer images than features
    a = Moments.of(features)
    assert distance(a, a) == pytest.approx(0, abs=1e-6)
    assert distance(a, Moments.of(features + 2)) == pytest.approx(4 * 20)


def test_moments_are_those_of_the_features():
    features = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    m = Moments.of(features)
    assert m.mean.dtype == m.covariance.dtype == np.float64
    np.testing.assert_allclose(m.mean, features.mean(0), atol=1e-6)
    centred = features - features.mean(0)
    np.testing.assert_allclose(m.covariance, centred.T @ centred / 49, atol=1e-6)


def test_too_few_images_are_refused():
    with pytest.raises(ValueError, match="at least 2 images"):
        Moments.of(np.zeros((1, 3)))
