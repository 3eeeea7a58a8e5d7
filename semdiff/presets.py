"""Published settings that several configurations share; files in configs/ start from them."""

import ml_collections

from semdiff.config import JointUNet, as_config_dict, choose, default


def sdm(stage: str) -> ml_collections.ConfigDict:
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


def scdm(stage: str, rates: str) -> ml_collections.ConfigDict:
    """SCDM (2402.16506) as its released scripts train at 256 px: SDM's network, its layout masked class by class.

    Stage "1" trains from scratch, with condition dropout from the start; "2" goes on at 2e-5. Both sample in 1000 steps;
    "25" is stage 2 sampling in 25, with extrapolation. `rates`: the released psi phi of the data set.
    """
    choose(("1", "2", "25"), stage, "the stage in configs/NAME.py:STAGE")
    config = sdm("1" if stage == "1" else "2")
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


def gcdp(num_classes: int) -> ml_collections.ConfigDict:
    """GCDP (2308.08157), the base model as its released scripts train it; a data set sets its source and size.

    The words are embedded by an encoder that is trained along, where the paper has T5-large.
    """
    config = default()
    config.model = as_config_dict(JointUNet())
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
    config.train.batch_size = 8
    config.train.eval_every = 25_000
    config.train.save_every = 10_000

    config.sample.sampler = "ancestral"
    config.sample.steps = 100
    config.sample.spacing = "even"
    config.sample.guidance = 3.0
    config.sample.threshold = "dynamic"
    config.sample.quantile = 0.95
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
