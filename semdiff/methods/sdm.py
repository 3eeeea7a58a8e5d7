"""SDM (2207.00050): a UNet whose decoder is normalised by the layout. SCDM (2402.16506): the same, its layout masked
class by class at the image's t; SDM is SCDM at gamma = 1.

Equations: the image's process and its learned variance are diffusion/gaussian.py, the loss diffusion/losses.py:hybrid,
guidance diffusion/guidance.py; SCDM's masking is diffusion/categorical.py at the schedules of diffusion/class_schedules.py,
its extrapolation diffusion/samplers.py:Corrected. The network is models/spade_unet.py.
"""

import ml_collections
import numpy as np

from semdiff.config import ConfigError, Experiment
from semdiff.data.source import Info
from semdiff.diffusion import joint
from semdiff.methods import parts
from semdiff.methods.given import LayoutGiven
from semdiff.methods.method import Method
from semdiff.methods.networks import LayoutToImage
from semdiff.models.spade_unet import SpadeUNet
from semdiff.parser import choose, default

PAPER, PAPER_SCDM = ("SDM", "2207.00050"), ("SCDM", "2402.16506")


def method(config: Experiment, info: Info, rates: np.ndarray | None) -> Method:
    """The image alone is noised; the network is given the layout, clean (SDM) or masked on the way (SCDM)."""
    process, edges = parts.image_process(config), config.data.edges and info.has_instances
    noised = parts.layout_process(config, info.num_classes, rates)
    if noised is not None and noised.transition == "uniform":
        raise ConfigError(
            "config.layout.transition is uniform, but config.model.kind spade_unet is given the layout and generates none: "
            "choose none or absorbing, or a network of both halves (joint_unet)"
        )
    unet = SpadeUNet(
        num_classes=info.num_classes,
        edge_channel=edges,
        image_channels=3,
        out_channels=3 * process.output_channels_per_channel,
        **parts.network_fields(config),
    )
    unet.check_size(*config.data.size)
    return Method(
        process=joint.Process(process),
        network=LayoutToImage(unet),
        given=LayoutGiven(info.num_classes, edges, noised, config.loss.condition_dropout),
        objective=parts.objective(config),
    )


def published(stage: str) -> ml_collections.ConfigDict:
    """SDM (2207.00050), as its released scripts train at 256 px; a data set sets its source and rates.

    Stage "1" trains with every layout in place. Stage "2" goes on at a lower rate and replaces a layout by nothing with
    probability 0.2, for classifier-free guidance.
    """
    second = choose(("1", "2"), stage, "the stage in configs/NAME.py:STAGE") == "2"
    config = default()
    config.data.split = "train"
    config.data.eval_split = "val"
    config.data.size = (256, 256)
    config.data.max_scale = 1.25
    config.data.flip = True
    config.data.edges = True
    config.data.cache = False  # decoded, the data would take tens of gigabytes
    config.data.workers = 8

    config.model.base = 256
    config.model.multipliers = (1, 1, 2, 2, 4, 4)
    config.model.blocks = 2
    config.model.attention = (8, 16, 32)
    config.model.attention_kind = "dot"
    config.model.head_width = 64
    config.model.scale_shift = True
    config.model.resblock_updown = True
    config.model.spade_hidden = 128
    config.model.remat = True
    config.model.dtype = "bfloat16"  # published: float16

    config.process.schedule = "linear"
    config.process.steps = 1000
    config.process.parameterisation = "eps"
    config.process.variance = "learned_range"

    config.loss.weighting = "uniform"
    config.loss.vlb_weight = 1.0
    config.loss.condition_dropout = 0.2 if second else 0.0

    config.optimizer.learning_rate = 2e-5 if second else 1e-4
    config.optimizer.weight_decay = 0.0
    config.optimizer.ema = 0.9999
    config.optimizer.ema_warmup = False

    config.train.steps = 400_000 if second else 300_000
    config.train.batch_size = 32
    config.train.eval_every = 25_000
    config.train.save_every = 10_000

    config.sample.sampler = "ancestral"
    config.sample.steps = 1000
    config.sample.guidance = 1.5 if second else 1.0  # stage 1 has never seen the absence of a layout
    config.sample.guidance_channels = "mean"
    return config


def published_scdm(stage: str, rates: str) -> ml_collections.ConfigDict:
    """SCDM (2402.16506) as its released scripts train at 256 px: SDM's network, its layout masked class by class.

    Stage "1" trains from scratch, with condition dropout from the start; "2" goes on at 2e-5. Both sample in 1000 steps;
    "25" is stage 2 sampling in 25, with extrapolation. `rates`: the released psi phi of the data set.
    """
    choose(("1", "2", "25"), stage, "the stage in configs/NAME.py:STAGE")
    config = published("1" if stage == "1" else "2")
    config.layout.transition = "absorbing"
    config.layout.schedule = "classwise"
    config.layout.rates = rates
    config.layout.eta = 1.0
    config.layout.floor = True
    config.layout.lag = 1
    config.loss.condition_dropout = 0.2
    config.train.batch_size = 40
    config.sample.guidance = 1.5
    if stage == "25":
        config.sample.steps = 25
        config.sample.spacing = "stride"
        config.sample.extrapolation = 0.8
        config.sample.threshold = "dynamic"
        config.sample.quantile = 0.95
    return config
