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

import jax.numpy as jnp
import ml_collections
import numpy as np

from semdiff import inputs
from semdiff.config import ConfigError, ControlUNet, Experiment, Latents, Sample
from semdiff.data import moments
from semdiff.data.moments import Moments, Spread
from semdiff.data.source import Info
from semdiff.diffusion import joint, priors
from semdiff.methods import parts
from semdiff.methods.given import Given, LayoutGiven, PromptGiven, Several
from semdiff.methods.method import Method
from semdiff.methods.networks import LayoutAndWords
from semdiff.models.latent import unet
from semdiff.parser import as_config_dict, choose, default

PAPER = ("SCP-Diff", "2403.09638")
# What guidance steers away from, as parts of what is given.
GUIDED: dict[str, tuple[str, ...]] = {"words": ("words",), "layout": ("layout",), "both": ()}


def method(config: Experiment, info: Info, rates: np.ndarray | None) -> Method:
    """The image alone is noised, mostly in latents; the network is told of words, and a ControlNet is given the layout."""
    c, process, space = config.model, parts.image_process(config), parts.space(config)
    assert isinstance(c, ControlUNet)
    edges, noised = (
        config.data.edges and info.has_instances,
        parts.layout_process(config, info.num_classes, rates),
    )
    shape = unet.Shape(
        **{name: getattr(c, name) for name in ("base", "multipliers", "blocks", "attention", "head_width")},
        **{name: getattr(c, name) for name in ("heads", "depth", "groups", "fused", "remat")},
        dtype=jnp.dtype(c.dtype),
    )
    network = unet.ControlUNet(
        shape,
        num_classes=info.num_classes,
        edge_channel=edges,
        channels=space.channels,
        out_channels=space.channels * process.output_channels_per_channel,
        hint=c.hint,
        prompts=(c.text_length, c.text_width),
        label_conv=c.label_conv,
    )
    stride = config.data.size[0] // space.shape(config.data.size)[0]
    if network.stride != stride:
        raise ConfigError(
            f"config.model.hint is {c.hint}, which makes layouts {network.stride} times smaller, but the images of "
            f"config.space are {stride} times smaller: give it {stride.bit_length()} widths"
        )
    network.check_size(*config.data.size)
    given: dict[str, Given] = {
        "layout": LayoutGiven(info.num_classes, edges, noised, config.loss.condition_dropout),
        "words": PromptGiven(states_of(config), config.loss.words_dropout),
    }
    return Method(
        process=joint.Process(process),
        network=LayoutAndWords(network),
        given=Several(given, GUIDED[c.guided]),
        objective=parts.objective(config),
        space=space,
    )


def states_of(config: Experiment) -> tuple[int, ...]:
    """The shape of a caption's states; () where images have no captions of their own."""
    found = inputs.prompts(config)
    return () if found is None or found.captions is None else found.shape


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


def begun(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A configuration's chains, begun as SCP-Diff begins its own: at 0.8 T, from class and place."""
    config.sample.prior = "joint"
    config.sample.start = 0.8
    return config


def published(memory: str) -> ml_collections.ConfigDict:
    """SCP-Diff (2403.09638) as it trains: Stable Diffusion 2.1 with a ControlNet; a data set sets its source and size.

    80gb: the ControlNet and the UNet's decoder, as published. 24gb: the ControlNet alone, an example at a time. What was
    trained before is config.train.init; the rest of it stays as it is.
    """
    choose(("80gb", "24gb"), memory, "the memory of a device in configs/NAME.py:MEMORY")
    config = default()
    config.model = as_config_dict(ControlUNet())
    config.space = as_config_dict(Latents())
    config.model.remat = True
    config.model.dtype = "bfloat16"
    config.space.dtype = "bfloat16"
    config.data.split = "train"
    config.data.eval_split = "val"
    config.data.edges = False
    config.data.cache = False
    config.data.workers = 8

    config.process.schedule = "scaled_linear"
    config.process.parameterisation = "eps"
    config.process.variance = "small"
    config.loss.weighting = "uniform"

    config.optimizer.learning_rate = 1e-5
    config.optimizer.weight_decay = 0.01
    config.optimizer.ema = 0.0
    config.optimizer.ema_warmup = False

    config.train.trained = (
        ("control/*", "unet/decoder/*", "prompts") if memory == "80gb" else ("control/*", "prompts")
    )
    config.train.steps = 100_000
    config.train.batch_size = 8
    config.train.accumulate = 1 if memory == "80gb" else 8
    config.train.eval_every = 5000
    config.train.save_every = 5000

    config.sample.sampler = "ddim"
    config.sample.steps = 20
    config.sample.guidance = 7.5
    config.sample.threshold = "none"
    config.sample.batch_size = 4
    return begun(config)


def tables_of(spread: Spread) -> dict[str, np.ndarray]:
    """As a program has them."""
    return {
        "mean": spread.mean.astype(np.float32),
        "deviation": np.sqrt(spread.variance).astype(np.float32),
    }
