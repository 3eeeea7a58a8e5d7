"""GCDP (2308.08157): image and layout are generated together, told of words, and each from the other.

Equations: the pair's process is diffusion/joint.py, its halves diffusion/gaussian.py and diffusion/categorical.py (uniform);
the loss is diffusion/losses.py:Objective. The network is models/joint_unet.py. Beyond the paper: a half that is known may be
trained as known (diffusion/losses.py:Known).
"""

import ml_collections
import numpy as np

from semdiff.config import ConfigError, Experiment, JointUNet
from semdiff.data.source import Info
from semdiff.diffusion import joint, losses
from semdiff.methods import parts
from semdiff.methods.given import Several, TextGiven
from semdiff.methods.method import Method
from semdiff.methods.networks import PairOfSmaller, PairOfText
from semdiff.methods.upscaling import SMALL, WORDS, SmallGiven
from semdiff.models import joint_unet
from semdiff.parser import as_config_dict, choose, default

PAPER = ("GCDP", "2308.08157")


def method(config: Experiment, info: Info, rates: np.ndarray | None, words: int) -> Method:
    """Both halves are noised and generated; the network is told of words."""
    image, layout = parts.image_process(config), parts.layout_process(config, info.num_classes, rates)
    if layout is None:
        raise ConfigError(
            "config.layout.transition is none, but config.model.kind joint_unet generates the layout: choose uniform (GCDP) "
            "or absorbing"
        )
    unet = joint_unet.JointUNet(
        num_classes=info.num_classes,
        num_states=layout.num_states,
        image_channels=3,
        out_channels=3 * image.output_channels_per_channel,
        vocabulary=words,
        layout_clock=config.loss.known > 0,
        **parts.network_fields(config),
    )
    unet.check_size(*config.data.size)
    process = joint.Process(image, layout)
    text = TextGiven(unet.text_length, config.loss.condition_dropout, 0 if words else unet.text_width)
    factor = unet.upscales
    if factor and (factor < 2 or any(n % factor for n in config.data.size)):
        raise ConfigError(
            f"config.model.upscales is {factor}; expected 0, for a first stage, or a factor from 2 on that divides "
            f"config.data.size, {config.data.size}"
        )
    larger = Several({WORDS: text, SMALL: SmallGiven(process, factor)}, guided=(WORDS,))
    return Method(
        process=process,
        network=PairOfSmaller(unet) if factor else PairOfText(unet),
        given=larger if factor else text,
        objective=parts.objective(config),
        known=losses.Known(config.loss.known, config.loss.condition_dropout) if config.loss.known else None,
    )


def published(num_classes: int, stage: str = "1") -> ml_collections.ConfigDict:
    """GCDP (2308.08157), the base model as its released scripts train it; a data set sets its source and size.

    Stage "2" makes pairs twice as large of those; the paper gives its batch and guidance. The words are embedded by an
    encoder that is trained along, or are states of T5, as the paper has them (config.data.prompts).
    """
    second = choose(("1", "2"), stage, "the stage in configs/NAME.py:STAGE") == "2"
    config = default()
    config.model = as_config_dict(JointUNet())
    if second:  # most of it happens at the deepest level
        config.model.upscales = 2
        config.model.attention = config.model.cross_attention = (3,)
    config.model.remat = True
    config.model.dtype = "bfloat16"  # published: float16
    config.data.edges = False
    config.data.cache = False
    config.data.workers = 8

    config.process.schedule = "cosine_log_snr"
    config.process.parameterisation = "eps"
    config.process.variance = "small"
    config.layout.transition = "uniform"
    config.layout.schedule = "cosine"

    config.loss.weighting = "p2"
    config.loss.p2_gamma = 0.5
    config.loss.layout_weight = 1000 / num_classes  # the released loss is T bits over K, a pixel and step
    config.loss.condition_dropout = 0.1

    config.optimizer.learning_rate = 1.2e-4
    config.optimizer.beta2 = 0.99
    config.optimizer.ema = 0.9999
    config.optimizer.ema_warmup = False

    config.train.steps = 300_000
    config.train.batch_size = 4 if second else 8
    config.train.eval_every = 25_000
    config.train.save_every = 10_000

    config.sample.sampler = "ancestral"
    config.sample.steps = 100
    config.sample.spacing = "even"
    config.sample.guidance = 1.0 if second else 3.0
    config.sample.threshold = "dynamic"
    config.sample.quantile = 0.95
    return config
