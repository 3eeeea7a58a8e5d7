"""The whole configuration, as frozen dataclasses: every key, its default and what it means.

A file in configs/ starts from `default()` and sets what differs; the command line overrides single keys
(`--config.train.steps=1000`). `parse` turns the result into an `Experiment`; an unknown key or a value of the wrong type is
an error.
"""

import dataclasses
import difflib
import hashlib
import json
import typing
from dataclasses import dataclass, field
from typing import Any

import ml_collections


class ConfigError(ValueError):
    """A configuration that cannot be used, in words."""


@dataclass(frozen=True)
class Data:
    source: str = "scenes"  # scenes, folder, ade20k, cityscapes, celebamask_hq, coco_stuff
    root: str = ""  # where the data lies; scenes needs none
    split: str = "train"
    eval_split: str = "test"  # layouts of the sample grids, validation loss, evaluation
    size: tuple[int, int] = (64, 64)  # height, width
    max_scale: float = 1.0  # resize the short side by a random factor up to this, then crop
    flip: bool = True  # random horizontal flip; left/right classes change places
    edges: bool = True  # give the network the borders between instances, where the data has instances
    length: int = 0  # scenes: images in the training split; 0: the source's own
    mismatch: str = "error"  # folder: image and label of different size: error, resize_label or resize_image
    num_classes: int = 0  # folder without dataset.json: the number of classes; 0: as found
    cache: bool = True  # keep decoded images in memory
    workers: int = 0  # processes that prepare batches; 0: threads


@dataclass(frozen=True)
class Model:
    base: int = 64
    multipliers: tuple[int, ...] = (1, 2, 3, 4)
    blocks: int = 2
    attention: tuple[int, ...] = (2, 4, 8)  # downsampling factors at which positions attend
    attention_kind: str = "dot"  # dot (released networks) or cosine (SDM's paper)
    head_width: int = 64
    heads: int = 0  # > 0: this many heads, whatever their width
    scale_shift: bool = True
    resblock_updown: bool = True
    conv_resample: bool = True  # without resblock_updown: learned convolutions around a change of size
    dropout: float = 0.0
    spade_hidden: int = 128
    conditioning: str = "spade"  # spade, or concat (the paper's ablation)
    label_conv: str = "auto"  # auto, lookup or onehot
    groups: int = 32
    remat: bool = False  # recompute blocks in the backward pass: less memory, more time
    dtype: str = "float32"  # of the convolutions: float32 or bfloat16


@dataclass(frozen=True)
class Process:
    schedule: str = "linear"  # linear, cosine, scaled_linear, cosine_log_snr, linear_log_snr
    steps: int = 1000
    parameterisation: str = "eps"  # eps, x0 or v
    variance: str = "learned_range"  # learned_range, small or large


@dataclass(frozen=True)
class Layout:
    """What happens to the layout while the image is noised."""

    transition: str = (
        "none"  # none (SDM): it stays clean; absorbing (SCDM): its pixels are masked, class by class
    )
    schedule: str = "classwise"  # of masking: classwise, linear, cosine or table
    # psi phi per class, for classwise: data (measured on the training split, kept in the workdir), the released ade20k,
    # coco_stuff or celebamask_hq, or a file: .npy or .json. For table: a .npy of gamma, [T + 1, K]
    rates: str = "data"
    eta: float = 1.0  # lambda = (psi phi)^eta; 0 is linear
    floor: bool = True  # classes with lambda < 1 are masked linearly, as in the released code
    lag: int = 0  # 1: the released code's clock, one step behind the image's


@dataclass(frozen=True)
class Loss:
    weighting: str = "uniform"  # uniform (L_simple), min_snr, p2 or velocity
    min_snr_gamma: float = 5.0
    p2_gamma: float = 0.5
    vlb_weight: float = 1.0  # of the variational term of one step; 1 is 0.001 of its 1000-fold sum
    time_sampling: str = "uniform"  # uniform or loss_aware
    condition_dropout: float = 0.0  # share of examples whose layout is replaced by the null condition


@dataclass(frozen=True)
class Optimizer:
    learning_rate: float = 1e-4
    warmup: int = 0  # steps from 0 to learning_rate
    decay: str = "constant"  # after it: constant, cosine or linear down to final_rate at the last step
    final_rate: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float = 0.0  # of the global gradient; 0: no clipping
    ema: float = 0.9999
    ema_warmup: bool = True  # decay min(ema, (1 + step) / (10 + step))


@dataclass(frozen=True)
class Train:
    steps: int = 100_000
    batch_size: int = 32  # over all devices
    accumulate: int = 1  # micro-batches a step
    strategy: str = "jit"  # jit (over a mesh) or pmap
    fsdp: int = 1  # devices over which parameters are split; the rest of the mesh is data
    max_bad_steps: int = 50  # stop after this many non-finite steps in a row
    init: str = (
        ""  # weights to start from: a model folder, or a file written by `python -m semdiff.convert import`
    )
    trained: tuple[str, ...] = ()  # patterns of the parameters that are trained (decoder_*); empty: all
    log_every: int = 50
    eval_every: int = 5000  # sample grid and validation loss
    eval_batches: int = 4
    save_every: int = 5000
    keep: int = 3  # checkpoints
    grid: int = 4  # layouts in the sample grid; 0: no grids


@dataclass(frozen=True)
class Sample:
    sampler: str = "ancestral"  # ancestral, ddim, dpmpp_2m, dpmpp_3m, unipc, ipndm, ipndm_v or deis
    order: int = 0  # of dpmpp_3m and unipc: 1 to 3; of ipndm, ipndm_v and deis: 1 to 4; 0: its own
    steps: int = 1000
    # even, stride, trailing, quadratic, chebyshev, log_snr, karras, or tuned: by --mode=tune_times
    spacing: str = "even"
    times: tuple[float, ...] = ()  # one by one, T first, without the last 0: in place of steps and spacing
    eta: float = 0.0  # of ddim
    guidance: float = 1.5  # 1 is none
    guidance_channels: str = "mean"  # mean, or all: the variance too
    guidance_interval: tuple[float, float] = (0.0, 1.0)  # shares of T between which guidance acts
    threshold: str = "static"  # of the predicted image: none, static or dynamic
    quantile: float = 0.995  # of the dynamic threshold
    extrapolation: float = (
        0.0  # of the predicted image, from the step before, ahead of the threshold (SCDM: 0.8)
    )
    layout_noise: str = (
        "fresh"  # where layouts are noised: fresh at each step, or coherent: masks only ever open up
    )
    # compute what a clean layout does to the network once a chain, not at each step, where that takes at most 2 GiB a batch
    cache_modulation: bool = True
    ema: bool = True  # sample with the averaged weights
    weights: str = (
        ""  # a model folder, a file of weights or a released .pt, in place of the newest checkpoint
    )
    batch_size: int = 8
    seed: int = 0
    per_layout: int = 1  # images per layout
    layouts: str = ""  # a folder of label PNGs; empty: the layouts of data.eval_split
    unlabelled: int = (
        -1
    )  # the value in a folder's label files that means no label; -1: every pixel has a class
    size: tuple[int, int] = (0, 0)  # of layouts from a folder; (0, 0): data.size; (-1, -1): their own
    limit: int = 0  # layouts at most; 0: all
    output: str = ""  # folder; empty: WORKDIR/samples/STEP


@dataclass(frozen=True)
class Edit:
    images: str = ""  # folder of images to edit
    layouts: str = ""  # folder of new layouts, by the images' names
    old_layouts: str = (
        ""  # folder of old layouts; where new and old differ is edited, when there are no masks
    )
    masks: str = ""  # folder of masks, non-zero where to edit
    margin: int = 2  # pixels by which a difference of layouts is widened
    resample: int = 1  # repetitions of each step, for borders that agree better
    output: str = ""  # folder; empty: WORKDIR/edits/STEP


@dataclass(frozen=True)
class Evaluate:
    limit: int = 256  # layouts at most; 0: the whole split
    guidance: tuple[float, ...] = ()  # weights to compare; empty: sample.guidance
    noise: tuple[
        str, ...
    ] = ()  # corruptions of the layouts to compare: ds, edge:1, ... (semdiff/data/noise.py)
    segmenter: str = (
        ""  # read with this one (WORKDIR/segmenter-*.safetensors of another run); empty: train one
    )
    segmenter_steps: int = 1500
    segmenter_batch: int = 16
    segmenter_width: int = 32
    grid: int = 6  # rows of the picture; 0: no picture


@dataclass(frozen=True)
class Tune:
    steps: tuple[int, ...] = (4, 6, 8)  # numbers of steps to fit times for
    layouts: int = 32  # of the training split, to fit them on
    teacher: int = 100  # steps of the chain whose images are to be met


@dataclass(frozen=True)
class Export:
    output: str = ""  # the model folder; empty: WORKDIR/model-STEP-ema
    name: str = ""  # on its card; empty: the folder's
    licence: str = ""  # of the weights, an SPDX identifier; empty: not said


@dataclass(frozen=True)
class Experiment:
    seed: int = 0
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    process: Process = field(default_factory=Process)
    layout: Layout = field(default_factory=Layout)
    loss: Loss = field(default_factory=Loss)
    optimizer: Optimizer = field(default_factory=Optimizer)
    train: Train = field(default_factory=Train)
    sample: Sample = field(default_factory=Sample)
    edit: Edit = field(default_factory=Edit)
    evaluate: Evaluate = field(default_factory=Evaluate)
    tune: Tune = field(default_factory=Tune)
    export: Export = field(default_factory=Export)
    compilation_cache: str = "~/.cache/semdiff/xla"  # compiled programs are kept here; empty: not kept


def default() -> ml_collections.ConfigDict:
    """Every key at its default."""
    return as_config_dict(Experiment())


def as_config_dict(config: Experiment) -> ml_collections.ConfigDict:
    """As files of configs/ return it, to be changed from the command line."""
    return ml_collections.ConfigDict(dataclasses.asdict(config), convert_dict=True)


def parse(config: ml_collections.ConfigDict) -> Experiment:
    return _parse(Experiment, config, "config")


def from_dict(written: dict) -> Experiment:
    """What `as_dict` made; keys that were not there yet are at their defaults."""
    return _parse(Experiment, written, "config")


def check_key(key: str):
    """An error where `key`, a.b, is no key of the configuration."""
    cls, path = Experiment, "config"
    for name in key.split("."):
        fields = {f.name: f.type for f in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else {}
        if name not in fields:
            raise _unknown(path, name, fields)
        cls, path = fields[name], f"{path}.{name}"


def _unknown(path: str, key: str, known) -> ConfigError:
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {path}.{near[0]}?" if near else f"known keys: {', '.join(known) or 'none'}"
    return ConfigError(f"unknown key {path}.{key}; {hint}")


def _parse(cls, config, path: str):
    values = {}
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key in config:
        if key not in fields:
            raise _unknown(path, key, fields)
        kind = fields[key].type
        if dataclasses.is_dataclass(kind):
            values[key] = _parse(kind, config[key], f"{path}.{key}")
        else:
            example = getattr(cls(), key)
            if example == ():
                example = (typing.get_args(kind)[0](),)
            values[key] = _coerce(config[key], example, f"{path}.{key}")
    return cls(**values)


def _coerce(value: Any, example: Any, path: str):
    """The value in the type of its default: ints pass as floats, lists as tuples; nothing else is bent."""
    if isinstance(example, tuple) and isinstance(value, list | tuple):
        inner = example[0]
        return tuple(_coerce(v, inner, f"{path}[{i}]") for i, v in enumerate(value))
    if isinstance(example, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not type(example):
        expected = type(example).__name__
        raise ConfigError(
            f"{path} is {value!r}, a {type(value).__name__}; expected a {expected} such as {example!r}"
        )
    return value


def choose(table, name: str, path: str):
    """table[name], or an error that lists the choices."""
    if name not in table:
        raise ConfigError(f"{path} is {name!r}; choose one of {', '.join(sorted(table))}")
    return table[name] if isinstance(table, dict) else name


def as_dict(config: Any) -> dict:
    """A configuration as JSON would give it back."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def fingerprint(values: dict) -> str:
    """A short hash of plain values, for manifests."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def differences(old: dict, new: dict, path: str = "config") -> list[str]:
    """Lines naming each key whose value differs."""
    lines = []
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            lines += differences(a, b, f"{path}.{key}")
        elif a != b:
            lines.append(f"{path}.{key}: {a!r} there, {b!r} here")
    return lines
