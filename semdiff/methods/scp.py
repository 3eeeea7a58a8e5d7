"""SCP-Diff (2403.09638): a chain that begins at mu T, from what images of such a layout are like, instead of from noise.

A network is trained on x_t, whose mean still shows the image at large t, and asked to begin from N(0, I), which does not. So
z ~ N(mean(y), deviation(y)^2) is drawn, by class and place of each pixel, noised to mu T, and the chain goes on from there;
nothing is trained for it, and any method here can begin so. Equations: the draw is diffusion/priors.py:Measured, the
statistics data/moments.py; --mode=prior measures them (modes/prior.py).

Different from the released code: all images are counted, labels are never resized by interpolation, classes seen once at a
place are shrunk towards what their place or class looks like, weights of a mixture sum to one, and a chain that begins
from noise begins at T.
"""

from dataclasses import replace
from typing import Any

import ml_collections
import numpy as np

from semdiff.config import ConfigError, Sample
from semdiff.data import moments
from semdiff.data.moments import Moments, Spread
from semdiff.diffusion import priors
from semdiff.methods.method import Method

PAPER = ("SCP-Diff", "2403.09638")


def started(method: Method, c: Sample, statistics: Moments | None) -> tuple[Method, dict[str, Any]]:
    """The method, and the tables of its start, as config.sample.prior asks for them."""
    if c.prior == "normal":
        return replace(method, start=priors.STANDARD), {}
    if statistics is None:
        raise ConfigError(
            f"config.sample.prior is {c.prior}, but no statistics of images were measured. Measure them: --mode=prior, with "
            "the same --config and --workdir; or name a file that it wrote in config.sample.prior_file"
        )
    tables = tables_of(spread_of(statistics, c))
    if method.process.layout is not None:
        tables["shares"] = statistics.shares().astype(np.float32)
    return replace(method, start=priors.Measured()), tables


def spread_of(statistics: Moments, c: Sample) -> Spread:
    if c.prior_strength < 0:
        raise ConfigError(f"config.sample.prior_strength is {c.prior_strength}; it must not be negative")
    kinds = {
        "spatial": lambda: moments.spatial(statistics),
        "categorical": lambda: moments.categorical(statistics, c.prior_strength),
        "joint": lambda: moments.joint(statistics, c.prior_strength, c.prior_fallback),
    }
    if c.prior in kinds:
        return kinds[c.prior]()
    if min(c.prior_weights) < 0 or not sum(c.prior_weights) > 0:
        raise ConfigError(
            f"config.sample.prior_weights is {c.prior_weights}; expected three numbers, none negative, not all 0"
        )
    return moments.mixed([kind() for kind in kinds.values()], c.prior_weights)


def from_noise(c: Sample) -> Sample:
    """The same chain from the top, where no statistics were measured."""
    return c if c.prior == "normal" else replace(c, prior="normal", start=1.0)


def published(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A configuration's chains, begun as SCP-Diff begins its own: at 0.8 T, from class and place."""
    config.sample.prior = "joint"
    config.sample.start = 0.8
    return config


def tables_of(spread: Spread) -> dict[str, np.ndarray]:
    """As a program has them."""
    return {
        "mean": spread.mean.astype(np.float32),
        "deviation": np.sqrt(spread.variance).astype(np.float32),
    }
