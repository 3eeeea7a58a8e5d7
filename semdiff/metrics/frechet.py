"""The Frechet distance between two sets of features: how far apart the normal distributions fitted to them are."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of features [N, D], in float64."""

    mean: np.ndarray
    covariance: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> "Moments":
        features = np.asarray(features, np.float64)
        if features.ndim != 2 or len(features) < 2:
            raise ValueError(f"a Frechet distance needs features of at least 2 images, got {features.shape}")
        return cls(features.mean(0), np.atleast_2d(np.cov(features, rowvar=False)))


def distance(a: Moments, b: Moments) -> float:
    """|m_a - m_b|^2 + tr(A + B - 2 (A B)^{1/2}) (Heusel et al., 1706.08500, Eq. 6).

    tr (A B)^{1/2} is that of (A^{1/2} B A^{1/2})^{1/2}, which is symmetric: with fewer images than features the
    covariances are singular, and this form does not mind.
    """
    values, vectors = np.linalg.eigh(a.covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.linalg.eigvalsh(root @ b.covariance @ root)
    traces = np.trace(a.covariance) + np.trace(b.covariance)
    shift = a.mean - b.mean
    return float(shift @ shift + traces - 2 * np.sqrt(np.maximum(cross, 0)).sum())
