import numpy as np
import pytest

from semdiff.metrics.looks import Looks

K = 3


def scene(noise: float = 0.0, seed: int = 0, ring: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Slopes of two colours under a layout of two classes, with noise, and a coloured ring of one pixel."""
    rng = np.random.default_rng(seed)
    layouts = np.zeros((4, 32, 32), int)
    layouts[:, 16:] = 1
    base = np.where(layouts[..., None] == 0, [60, 90, 140], [120, 110, 100]) + 2 * np.arange(32)[:, None]
    images = base + rng.normal(size=base.shape) * noise
    images[:, [0, -1], :, 2] += ring
    images[:, 1:-1, [0, -1], 2] += ring
    return np.clip(np.round(images), 0, 255).astype(np.uint8), layouts


def looks(**settings) -> Looks:
    return Looks.of(*scene(**settings), K)


def test_grain_is_the_median_of_the_laplacian():
    images, _ = scene(noise=6.0)
    x = images.astype(int)
    laplacian = np.abs(
        4 * x[:, 1:-1, 1:-1] - x[:, :-2, 1:-1] - x[:, 2:, 1:-1] - x[:, 1:-1, :-2] - x[:, 1:-1, 2:]
    )
    assert looks(noise=6.0).grain == pytest.approx(np.median(laplacian), abs=0.5)
    twice = looks(noise=12.0, seed=1).grain_over(looks(noise=6.0))
    assert twice == pytest.approx(2, rel=0.05)


def test_a_coloured_ring_is_a_frame_and_noise_is_none():
    real = looks(noise=3.0)
    assert looks(noise=3.0, seed=1).frame_over(real) == pytest.approx(1, abs=0.02)
    assert looks(noise=3.0, ring=60).frame_over(real) > 1.5
    saturation = lambda x: x.max(-1).astype(int) - x.min(-1)  # noqa: E731
    images, layouts = scene(ring=60)
    inside = np.zeros((32, 32), bool)
    inside[1:-1, 1:-1] = True
    values = saturation(images)
    want = values[:, ~inside].mean() / values[:, inside].mean()
    assert Looks.of(images, layouts, K).frame == pytest.approx(want)


def test_colours_are_compared_class_by_class():
    images, layouts = scene()
    real = Looks.of(images, layouts, K)
    assert real.colours_off(real) == 0
    shifted = images.copy()
    shifted[:, :16, :, 2] += 30  # of one of two classes one of three channels
    assert Looks.of(shifted, layouts, K).colours_off(real) == pytest.approx(30 / 6**0.5)
    nothing = Looks.of(images[:0], layouts[:0], K)
    assert np.isnan(nothing.colours_off(real))


def test_shares_add_up():
    images, layouts = scene(noise=5.0, ring=9)
    a, b = (Looks.of(images[s], layouts[s], K) for s in (slice(0, 1), slice(1, 4)))
    whole = Looks.of(images, layouts, K)
    for one, other, both in zip(a.parts, b.parts, whole.parts, strict=True):
        np.testing.assert_array_equal(one + other, both)
