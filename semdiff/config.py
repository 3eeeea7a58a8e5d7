"""The whole configuration, as frozen dataclasses: every key, its default and what it means.

A file in configs/ starts from these defaults and sets what differs; the command line overrides single keys
(`--config.train.steps=1000`). parser.py turns what was written into an `Experiment`.
"""

from dataclasses import dataclass, field
from typing import Literal


class ConfigError(ValueError):
    """A configuration that cannot be used, in words."""


# Each key's comment stands above it. Literal: the choices; the parser refuses all others.


@dataclass(frozen=True)
class Data:
    source: Literal["scenes", "folder", "ade20k", "cityscapes", "celebamask_hq", "coco_stuff"] = "scenes"
    # Where the data lies; scenes needs none.
    root: str = ""
    split: str = "train"
    # Its layouts are those of sample grids, validation loss and evaluation.
    eval_split: str = "test"
    # Height, width.
    size: tuple[int, int] = (64, 64)
    # Resize the short side by a random factor up to this, then crop.
    max_scale: float = 1.0
    # Random horizontal flip; left/right classes change places.
    flip: bool = True
    # Give the network the borders between instances, where the data has instances.
    edges: bool = True
    # Scenes: images in the training split; 0: the source's own.
    length: int = 0
    # Folder: what is done where image and label are of different size.
    mismatch: Literal["error", "resize_label", "resize_image"] = "error"
    # Folder without dataset.json: the number of classes; 0: as found.
    num_classes: int = 0
    # What is said of the images, by their names: a .jsonl of {"image", "caption"}, COCO's captions_{split}2017.json (the
    # split's name is filled in), or a folder of NAME.txt; empty: what the source has.
    captions: str = ""
    # Share of the training images whose captions are told; the others train what is said of no caption.
    captioned: float = 1.0
    # The folder of prompts and captions that `python -m semdiff.prompts` wrote. Empty: a control_unet learns what is said of
    # every image and of none, a joint_unet the words of the captions.
    prompts: str = ""
    # For a space of latents: the folder of the training images' that --mode=latents wrote; empty: they are computed anew.
    latents: str = ""
    # Keep decoded images in memory.
    cache: bool = True
    # Processes that prepare batches; 0: threads.
    workers: int = 0


@dataclass(frozen=True)
class SpadeUNet:
    """The network of SDM and SCDM: images, given layouts."""

    kind: Literal["spade_unet"] = "spade_unet"
    base: int = 64
    multipliers: tuple[int, ...] = (1, 2, 3, 4)
    blocks: int = 2
    # Downsampling factors at which positions attend.
    attention: tuple[int, ...] = (2, 4, 8)
    # Dot: as the released networks; cosine: as SDM's paper.
    attention_kind: Literal["dot", "cosine"] = "dot"
    head_width: int = 64
    # > 0: this many heads, whatever their width.
    heads: int = 0
    scale_shift: bool = True
    resblock_updown: bool = True
    # Without resblock_updown: learned convolutions around a change of size.
    conv_resample: bool = True
    dropout: float = 0.0
    spade_hidden: int = 128
    # Concat: the paper's ablation.
    conditioning: Literal["spade", "concat"] = "spade"
    label_conv: Literal["auto", "lookup", "onehot"] = "auto"
    groups: int = 32
    # Recompute blocks in the backward pass: less memory, more time.
    remat: bool = False
    # Of the convolutions.
    dtype: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True)
class JointUNet:
    """The network of GCDP: images and layouts together, told of words."""

    kind: Literal["joint_unet"] = "joint_unet"
    base: int = 128
    multipliers: tuple[int, ...] = (1, 2, 4, 8)
    # At each level.
    blocks: tuple[int, ...] = (2, 4, 8, 8)
    # Levels, from 0, at which positions attend to each other, and to the words.
    attention: tuple[int, ...] = (1, 2, 3)
    cross_attention: tuple[int, ...] = (1, 2, 3)
    heads: int = 8
    head_width: int = 64
    groups: int = 8
    # Sizes of the first convolutions.
    stem: tuple[int, ...] = (3, 7, 15)
    # Level 0 is at half the size already (as released); else at the size of the image: for small images.
    halve_first: bool = True
    # What the first convolution gives also goes to the last block: for narrow networks.
    stem_to_last: bool = False
    # Channels that y_t is embedded in.
    label_channels: int = 3
    # Of what words are embedded in (T5-large: 1024).
    text_width: int = 1024
    # Words of a caption at most.
    text_length: int = 256
    # Tokens that a caption is pooled to; 0: it is not.
    latents: int = 32
    # A second stage: how many times larger its pairs are than those it is given; 0: a first stage, given words alone.
    upscales: int = 0
    # Recompute blocks in the backward pass: less memory, more time.
    remat: bool = False
    # Of the convolutions.
    dtype: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True)
class ControlUNet:
    """The network of SCP-Diff: Stable Diffusion's UNet, told of words, with a ControlNet that is given the layout."""

    kind: Literal["control_unet"] = "control_unet"
    base: int = 320
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    # Residual blocks a level.
    blocks: int = 2
    # Downsampling factors, of the latents, at which positions attend to each other and to the words.
    attention: tuple[int, ...] = (1, 2, 4)
    head_width: int = 64
    # > 0: this many heads, whatever their width (Stable Diffusion 1: 8).
    heads: int = 0
    # Transformer blocks at each such place.
    depth: int = 1
    groups: int = 32
    # Widths of what is made of the layout on its way to the size of the latents; each after the first at half the size.
    hint: tuple[int, ...] = (16, 32, 96, 256)
    # States of a prompt, and numbers in each (Stable Diffusion 1: 768).
    text_length: int = 77
    text_width: int = 1024
    # What guidance steers away from the absence of. Words: the layout is always shown (SCP-Diff).
    guided: Literal["words", "layout", "both"] = "words"
    label_conv: Literal["auto", "lookup", "onehot"] = "auto"
    # Attention by cuDNN, where the program is for a GPU, in bfloat16, and its heads are not too wide.
    fused: bool = True
    # Recompute blocks in the backward pass: less memory, more time.
    remat: bool = False
    # Of the convolutions and attention.
    dtype: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True)
class Autoencoding:
    """No network beside config.space: its autoencoder is what is trained."""

    kind: Literal["autoencoder"] = "autoencoder"
    # Of KL(q || N(0, 1)), in nats per number, beside the error of a pixel, which is about 0.1.
    kl_weight: float = 1e-4
    # Of the error of differences between neighbours: sharper borders.
    border_weight: float = 1.0


@dataclass(frozen=True)
class Pixels:
    """Images as they are."""

    kind: Literal["pixels"] = "pixels"


@dataclass(frozen=True)
class Latents:
    """What an autoencoder makes of images; the diffusion happens there. Its fields: Stable Diffusion's."""

    kind: Literal["latents"] = "latents"
    base: int = 128
    # Each level but the first is half as large.
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int = 2
    channels: int = 4
    groups: int = 32
    # What latents are multiplied by; 0: by what gives each channel mean 0 and deviation 1, measured on training images.
    scale: float = 0.18215
    # The trained autoencoder: the workdir it was trained in, a model folder, a file of weights, a diffusers directory, or a
    # released .ckpt. Empty: that of config.train.init.
    weights: str = ""
    # Of the convolutions.
    dtype: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True)
class Process:
    schedule: Literal["linear", "cosine", "scaled_linear", "cosine_log_snr", "linear_log_snr"] = "linear"
    steps: int = 1000
    parameterisation: Literal["eps", "x0", "v"] = "eps"
    variance: Literal["learned_range", "small", "large"] = "learned_range"


@dataclass(frozen=True)
class Layout:
    """What happens to the layout while the image is noised."""

    # None (SDM): it stays clean; absorbing (SCDM): its pixels are masked, class by class; uniform (GCDP): they become any
    # class. A network of both halves generates the layout, and needs one of the last two.
    transition: Literal["none", "absorbing", "uniform"] = "none"
    # Of masking, or of becoming any class (linear or cosine).
    schedule: Literal["classwise", "linear", "cosine", "table"] = "classwise"
    # psi phi per class, for classwise: data (measured on the training split, kept in the workdir), the released ade20k,
    # coco_stuff or celebamask_hq, or a file: .npy or .json. For table: a .npy of gamma, [T + 1, K].
    rates: str = "data"
    # lambda = (psi phi)^eta; 0 is linear.
    eta: float = 1.0
    # Classes with lambda < 1 are masked linearly, as in the released code.
    floor: bool = True
    # 1: the released code's clock, one step behind the image's.
    lag: int = 0
    # Of a cosine schedule: gamma = cos^(2 power).
    power: float = 1.0
    # Of uniform transitions, p(y_s | y_t): the mixture of the posteriors of all y_0; or of_mean, the posterior's formula
    # with p(y_0) in y_0's place, as GCDP's released weights were trained.
    reverse: Literal["mixture", "of_mean"] = "mixture"


@dataclass(frozen=True)
class Loss:
    # Uniform: L_simple.
    weighting: Literal["uniform", "min_snr", "p2", "velocity"] = "uniform"
    min_snr_gamma: float = 5.0
    p2_gamma: float = 0.5
    # Of the variational term of one step; 1 is 0.001 of its 1000-fold sum.
    vlb_weight: float = 1.0
    time_sampling: Literal["uniform", "loss_aware"] = "uniform"
    # Share of examples whose condition (layout, or words) is replaced by the null condition.
    condition_dropout: float = 0.0
    # Of the layout's bound, in bits per pixel and step, where layouts are generated (GCDP's released code: T / K).
    layout_weight: float = 1.0
    # The same of the words, where a network is told of words and given a layout.
    words_dropout: float = 0.0
    # Share of pairs that are trained as one half given the other as it is: images of layouts and layouts of images are then
    # made with no noise on what is given. 0: as GCDP.
    known: float = 0.0


@dataclass(frozen=True)
class Optimizer:
    learning_rate: float = 1e-4
    # Steps from 0 to learning_rate.
    warmup: int = 0
    # After it, down to final_rate at the last step.
    decay: Literal["constant", "cosine", "linear"] = "constant"
    final_rate: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    # Of the global gradient; 0: no clipping.
    clip_norm: float = 0.0
    ema: float = 0.9999
    # Decay min(ema, (1 + step) / (10 + step)).
    ema_warmup: bool = True


@dataclass(frozen=True)
class Train:
    steps: int = 100_000
    # Over all devices.
    batch_size: int = 32
    # Micro-batches a step.
    accumulate: int = 1
    # Jit runs over a mesh.
    strategy: Literal["jit", "pmap"] = "jit"
    # Devices over which parameters are split; the rest of the mesh is data.
    fsdp: int = 1
    # Stop after this many non-finite steps in a row.
    max_bad_steps: int = 50
    # Weights to start from: a model folder, a file that `python -m semdiff.convert import` wrote, or a released .pt; for a
    # control_unet a diffusers directory (unet/, vae/, controlnet/) or a released .ckpt: what is not there starts fresh, a
    # ControlNet as a copy of its UNet's encoder.
    init: str = ""
    # Patterns of the parameters that are trained (decoder_*); empty: all.
    trained: tuple[str, ...] = ()
    log_every: int = 50
    # Sample grid and validation loss.
    eval_every: int = 5000
    eval_batches: int = 4
    save_every: int = 5000
    # Checkpoints.
    keep: int = 3
    # Layouts in the sample grid; 0: no grids.
    grid: int = 4


@dataclass(frozen=True)
class Sample:
    sampler: Literal["ancestral", "ddim", "dpmpp_2m", "dpmpp_3m", "unipc", "ipndm", "ipndm_v", "deis"] = (
        "ancestral"
    )
    # Of dpmpp_3m and unipc: 1 to 3; of ipndm, ipndm_v and deis: 1 to 4; 0: its own.
    order: int = 0
    steps: int = 1000
    # Tuned: by --mode=tune_times.
    spacing: Literal["even", "stride", "trailing", "quadratic", "chebyshev", "log_snr", "karras", "tuned"] = (
        "even"
    )
    # One by one, T first, without the last 0: in place of steps and spacing.
    times: tuple[float, ...] = ()
    # Share of T at which the chain begins (SCP-Diff: 0.8).
    start: float = 1.0
    # What it begins from. Normal: noise. Else a draw of the data's mean and spread by place (spatial), by class
    # (categorical), by both (joint), or of one of the three (mixture), noised to `start`; --mode=prior measures them.
    prior: Literal["normal", "spatial", "categorical", "joint", "mixture"] = "normal"
    # Of joint: what a class at a place where it was never seen looks like.
    prior_fallback: Literal["spatial", "categorical"] = "spatial"
    # So many images' worth of the fallback are added to each class and place: what was seen once has no spread of its own.
    prior_strength: float = 1.0
    # Of a mixture: of its spatial, categorical and joint parts.
    prior_weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
    # The statistics, as --mode=prior writes them; empty: WORKDIR's, or the model folder's.
    prior_file: str = ""
    # Of ddim.
    eta: float = 0.0
    # 1 is none.
    guidance: float = 1.5
    # Of the layout, where it is generated; -1: as the image's.
    layout_guidance: float = -1.0
    # All: the variance too.
    guidance_channels: Literal["mean", "all"] = "mean"
    # Shares of T between which guidance acts.
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    # Of the predicted image.
    threshold: Literal["none", "static", "dynamic"] = "static"
    # Of the dynamic threshold.
    quantile: float = 0.995
    # Of the predicted image, from the step before, ahead of the threshold (SCDM: 0.8).
    extrapolation: float = 0.0
    # Where layouts are noised: fresh at each step, or coherent: masks only ever open up.
    layout_noise: Literal["fresh", "coherent"] = "fresh"
    # Of a ControlNet: what it adds is multiplied by this.
    control_strength: float = 1.0
    # Compute what a clean layout does to the network once a chain, not at each step, where that takes at most 2 GiB a batch.
    cache_condition: bool = True
    # Sample with the averaged weights.
    ema: bool = True
    # A model folder, a file of weights or a released .pt, in place of the newest checkpoint.
    weights: str = ""
    # A model of the second stage (a model folder, or the workdir of its training): pairs are made, then enlarged by it.
    upscale: str = ""
    # How far up the small pair is noised for it: a share of all times.
    small_noise: float = 0.2
    batch_size: int = 8
    seed: int = 0
    # Images per layout.
    per_layout: int = 1
    # A folder of label PNGs of class ids (not what a release means by a value); empty: the layouts of data.eval_split.
    layouts: str = ""
    # A .txt with a caption a line, or .jsonl of {"image", "caption"}, for a network that is told of words; the folder of
    # their states (`python -m semdiff.prompts`) for one that reads these.
    captions: str = ""
    # Of the layout's last step, where layouts are generated: the likeliest class, or a draw.
    layout_last: Literal["argmax", "draw"] = "argmax"
    # The value in a folder's label files that means no label; -1: every pixel has a class.
    unlabelled: int = -1
    # Of layouts from a folder; (0, 0): data.size; (-1, -1): their own.
    size: tuple[int, int] = (0, 0)
    # Layouts at most; 0: all.
    limit: int = 0
    # Folder; empty: WORKDIR/samples/STEP.
    output: str = ""


@dataclass(frozen=True)
class Edit:
    # Folder of images to edit.
    images: str = ""
    # Folder of new layouts, by the images' names.
    layouts: str = ""
    # Folder of old layouts; where new and old differ is edited, when there are no masks.
    old_layouts: str = ""
    # Folder of masks, non-zero where to edit.
    masks: str = ""
    # Pixels by which a difference of layouts is widened.
    margin: int = 2
    # Repetitions of each step, for borders that agree better.
    resample: int = 1
    # Folder; empty: WORKDIR/edits/STEP.
    output: str = ""


@dataclass(frozen=True)
class Segment:
    # Folder of photographs.
    images: str = ""
    # Captions of them, by name: a .jsonl of {"image", "caption"}, or the folder of their states; empty: nothing is said.
    captions: str = ""
    # Layouts drawn of each; a pixel gets its most frequent class.
    draws: int = 4
    # Repetitions of each step, for layouts that agree better with the image (the paper: 1).
    resample: int = 1
    # Also write how often each pixel was drawn as each class.
    probabilities: bool = False
    # Folder; empty: WORKDIR/segmented/STEP.
    output: str = ""


@dataclass(frozen=True)
class Evaluate:
    # Layouts at most; 0: the whole split.
    limit: int = 256
    # Weights to compare; empty: sample.guidance.
    guidance: tuple[float, ...] = ()
    # Of the layouts, to compare: ds, edge:1, ... (semdiff/data/corruptions.py).
    corruptions: tuple[str, ...] = ()
    # Read with this one (WORKDIR/segmenter-*.safetensors of another run); empty: train one.
    segmenter: str = ""
    segmenter_steps: int = 1500
    segmenter_batch: int = 16
    segmenter_width: int = 32
    # Rows of the picture; 0: no picture.
    grid: int = 6


@dataclass(frozen=True)
class Tune:
    # Numbers of steps to fit times for.
    steps: tuple[int, ...] = (4, 6, 8)
    # Of the training split, to fit them on.
    layouts: int = 32
    # Steps of the chain whose images are to be met.
    teacher: int = 100


@dataclass(frozen=True)
class Export:
    # The model folder; empty: WORKDIR/model-STEP-ema.
    output: str = ""
    # On its card; empty: the folder's.
    name: str = ""
    # Of the weights, an SPDX identifier; empty: not said.
    licence: str = ""
    # The command that trained them, for the card; empty: not said.
    command: str = ""
    # What the weights are kept in; float16 takes half the room, and is read as float32.
    dtype: Literal["float32", "float16"] = "float32"


@dataclass(frozen=True)
class Plan:
    # What to compile for: here, a TPU slice as v5e:4x4 or v4:2x2x4, GPUs as h100 or h100:8.
    target: str = "here"
    # Where a step does not fit: try remat, fsdp, accumulate and smaller batches, and say what does.
    remedies: bool = True
    # Compile sampling too.
    sampling: bool = True


@dataclass(frozen=True)
class Experiment:
    seed: int = 0
    data: Data = field(default_factory=Data)
    model: SpadeUNet | JointUNet | ControlUNet | Autoencoding = field(default_factory=SpadeUNet)
    # Where images are noised.
    space: Pixels | Latents = field(default_factory=Pixels)
    process: Process = field(default_factory=Process)
    layout: Layout = field(default_factory=Layout)
    loss: Loss = field(default_factory=Loss)
    optimizer: Optimizer = field(default_factory=Optimizer)
    train: Train = field(default_factory=Train)
    sample: Sample = field(default_factory=Sample)
    edit: Edit = field(default_factory=Edit)
    segment: Segment = field(default_factory=Segment)
    evaluate: Evaluate = field(default_factory=Evaluate)
    tune: Tune = field(default_factory=Tune)
    export: Export = field(default_factory=Export)
    plan: Plan = field(default_factory=Plan)
    # Compiled programs are kept here; empty: not kept.
    compilation_cache: str = "~/.cache/semdiff/xla"
