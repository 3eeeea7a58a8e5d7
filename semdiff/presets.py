"""Settings for minutes on two cores that several configurations share; published ones lie with their paper, in methods/."""

import ml_collections

from semdiff.config import Autoencoding, ControlUNet, JointUNet, Latents
from semdiff.parser import as_config_dict, default


def small() -> ml_collections.ConfigDict:
    """A network for minutes on 2 CPU cores: v instead of eps, whose colours come sooner; one rate cycle; a quick sampler."""
    config = default()
    config.model.base = 32
    config.model.blocks = 1
    config.model.resblock_updown = False
    config.model.head_width = 32
    config.model.groups = 8

    config.process.schedule = "cosine"
    config.process.parameterisation = "v"
    config.loss.weighting = "velocity"
    config.loss.condition_dropout = 0.2

    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup = 100
    config.optimizer.decay = "cosine"
    config.optimizer.clip_norm = 1.0
    config.optimizer.ema = 0.995

    config.train.batch_size = 8
    config.train.log_every = 50
    config.train.save_every = 200

    config.sample.sampler = "unipc"  # docs/few_steps.md
    config.sample.spacing = "chebyshev"
    config.sample.guidance = 1.5
    config.sample.batch_size = 12
    return config


def scenes() -> ml_collections.ConfigDict:
    """The embedded world, 32 x 32."""
    config = small()
    config.data.source = "scenes"
    config.data.size = (32, 32)
    config.model.multipliers = (1, 2, 2)
    config.model.attention = (4,)
    config.model.spade_hidden = 16
    config.train.steps = 800
    config.train.eval_every = 800
    config.sample.steps = 6
    config.evaluate.limit = 36
    config.evaluate.guidance = (1.0, 1.5)
    config.evaluate.segmenter_steps = 700
    config.evaluate.segmenter_width = 16
    return config


def scenes_64() -> ml_collections.ConfigDict:
    """The embedded world, 64 x 64: hours on 2 CPU cores, minutes on an accelerator; 5 MB in float16."""
    config = scenes()
    config.data.size = (64, 64)
    config.data.length = 10_000
    config.model.multipliers = (1, 2, 3)
    config.model.spade_hidden = 24
    config.optimizer.ema = 0.999
    config.train.batch_size = 16
    config.train.steps = 4500  # 72,000 images
    config.train.eval_every = 1500
    config.train.save_every = 250
    config.evaluate.limit = 256
    config.evaluate.segmenter_steps = 1500
    config.evaluate.segmenter_width = 32
    config.export.dtype = "float16"
    config.export.licence = "CC0-1.0"
    return config


def camvid() -> ml_collections.ConfigDict:
    """CamVid, 48 x 64."""
    config = small()
    config.data.source = "folder"
    config.data.split = "train"
    config.data.eval_split = "test"
    config.data.size = (48, 64)
    config.data.max_scale = 1.1
    config.model.multipliers = (1, 2, 3, 4)
    config.model.attention = (8,)
    config.model.spade_hidden = 24
    config.train.steps = 1200
    config.train.eval_every = 300
    config.sample.steps = 8
    config.evaluate.limit = 64
    config.evaluate.guidance = (1.0, 1.5, 2.5)
    config.evaluate.segmenter_steps = 1000
    config.evaluate.segmenter_batch = 8
    config.evaluate.segmenter_width = 32
    return config


def joint() -> ml_collections.ConfigDict:
    """A network of both halves for minutes on 2 CPU cores; what is not said is as in `small`."""
    config = small()
    config.model = as_config_dict(JointUNet())
    config.model.base = 32
    config.model.halve_first = False
    config.model.stem_to_last = True
    config.model.multipliers = (1, 2, 3)
    config.model.blocks = (1, 1, 1)
    config.model.attention = (2,)
    config.model.cross_attention = (1, 2)
    config.model.heads = 4
    config.model.head_width = 16
    config.model.stem = (3, 7)
    config.model.label_channels = 8
    config.model.text_width = 64
    config.model.text_length = 32
    config.model.latents = 8

    config.process.variance = "small"
    config.layout.transition = "uniform"
    config.layout.schedule = "cosine"
    config.optimizer.learning_rate = 1e-3
    config.loss.condition_dropout = 0.1
    config.loss.layout_weight = 60.0
    return config


def gcdp_scenes() -> ml_collections.ConfigDict:
    """Pairs of the embedded world from their captions, 32 x 32."""
    config = joint()
    config.data.source = "scenes"
    config.data.size = (32, 32)
    config.data.edges = False
    config.train.steps = 1200
    config.train.eval_every = 1200
    config.sample.sampler = "dpmpp_2m"
    config.sample.spacing = "even"
    config.sample.steps = 25
    config.evaluate.limit = 36
    config.evaluate.segmenter_steps = 700
    config.evaluate.segmenter_width = 16
    return config


def gcdp_scenes_larger() -> ml_collections.ConfigDict:
    """The second stage: those pairs at 64 x 64."""
    config = gcdp_scenes()
    config.data.size = (64, 64)
    config.model.upscales = 2
    config.model.base = 24
    config.model.attention = ()
    config.model.cross_attention = (2,)
    config.sample.steps = 15
    config.sample.guidance = 1.0
    return config


def small_latents() -> Latents:
    """An autoencoder for minutes on 2 CPU cores: images at a quarter of their size."""
    return Latents(base=16, multipliers=(1, 2, 4), blocks=1, channels=8, groups=8, scale=0.0)


def autoencoder() -> ml_collections.ConfigDict:
    """The training of that autoencoder; a data set sets its source, size and steps."""
    config = small()
    config.model = as_config_dict(Autoencoding())
    config.space = as_config_dict(small_latents())
    config.loss.condition_dropout = 0.0
    config.optimizer.learning_rate = 2e-3
    config.train.steps = 3000
    config.train.eval_every = 1000
    return config


def control() -> ml_collections.ConfigDict:
    """A latent network with a ControlNet for minutes on 2 CPU cores, all of it trained at once: no UNet of that size was
    trained before. A data set sets its source and size, and the autoencoder."""
    config = small()
    config.model = as_config_dict(ControlUNet())
    config.model.base = 32
    config.model.multipliers = (1, 2, 3)
    config.model.blocks = 1
    config.model.attention = (2, 4)
    config.model.head_width = 32
    config.model.groups = 8
    config.model.hint = (16, 24, 32)
    config.model.text_length = 1
    config.model.text_width = 32
    config.model.guided = "both"
    config.space = as_config_dict(small_latents())
    config.process.schedule = "scaled_linear"  # Stable Diffusion's: its top still shows the image a little
    config.process.variance = "small"
    config.loss.words_dropout = 0.1
    config.sample.steps = 20
    config.sample.threshold = "none"
    return config


def comparison(config: ml_collections.ConfigDict, steps: int) -> ml_collections.ConfigDict:
    """What SDM, SCDM and a uniform schedule are compared by at a size for 2 CPU cores (docs/scdm.md, docs/camvid.md)."""
    # Chains in which the layout is masked anew at each step: few steps of a solver that remembers were not tried on them.
    config.sample.sampler = "dpmpp_2m"
    config.sample.spacing = "even"
    config.sample.steps = steps
    config.evaluate.guidance = (1.5,)
    # The benchmark's noises at strengths for small layouts, and two kinds of wrong annotation.
    config.evaluate.corruptions = ("ds:2", "edge:0", "random", "wrong_class", "dropped")
    return config
