"""Every file of configs/: it loads, parses, makes the network it promises, and can take a step when shrunken."""

import dataclasses
import functools
import importlib.util
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from semdiff.config import Autoencoding, ConfigError, ControlUNet, Experiment, JointUNet, Latents, Layout
from semdiff.data import SOURCES, classes, statistics
from semdiff.data.readers import folder
from semdiff.data.scenes import Scenes
from semdiff.data.source import ClassInfo, Info
from semdiff.diffusion import gaussian, losses, samplers, schedules
from semdiff.machine import parallel
from semdiff.machine.parallel import Collective
from semdiff.methods import build, parts
from semdiff.models import layers, spade_unet
from semdiff.parser import as_dict, default, from_dict, parse
from semdiff.training.trainer import Trainer, TrainState, build_optimizer

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
CAMVID = Info("CamVid", (ClassInfo("", (0, 0, 0)),) * 12)
COCO_WITH_INSTANCES = dataclasses.replace(classes.COCO_STUFF, has_instances=True)

WORDS = 40  # of a vocabulary
# Config, as after --config=configs/ -> what its data set is like.
INFOS = {
    "scenes.py": Scenes.info,
    "scenes_64.py": Scenes.info,
    "scp_scenes.py": Scenes.info,
    "scp_camvid.py": CAMVID,
    "scp_latent_scenes.py": Scenes.info,
    "autoencoder_scenes.py": Scenes.info,
    "autoencoder_camvid.py": CAMVID,
    "scp_ade20k.py:80gb": classes.ADE20K,
    "scp_ade20k.py:24gb": classes.ADE20K,
    "scp_cityscapes.py:80gb": classes.CITYSCAPES,
    "scp_coco_stuff.py:24gb": COCO_WITH_INSTANCES,
    "gcdp_scenes.py": Scenes.info,
    "gcdp_scenes.py:2": Scenes.info,
    "gcdp_ccp.py": Info("clothing", (ClassInfo("", (0, 0, 0)),) * 59, has_captions=True),
    "gcdp_celebamask_hq.py": classes.CELEBAMASK_HQ,
    "gcdp_celebamask_hq.py:2": classes.CELEBAMASK_HQ,
    "gcdp_cityscapes.py": classes.CITYSCAPES,
    "gcdp_coco_stuff.py": COCO_WITH_INSTANCES,
    "camvid.py": CAMVID,
    "ade20k.py:1": classes.ADE20K,
    "ade20k.py:2": classes.ADE20K,
    "cityscapes.py:1": classes.CITYSCAPES,
    "cityscapes.py:2": classes.CITYSCAPES,
    "celebamask_hq.py:1": classes.CELEBAMASK_HQ,
    "celebamask_hq.py:2": classes.CELEBAMASK_HQ,
    "coco_stuff.py:1": COCO_WITH_INSTANCES,
    "coco_stuff.py:2": COCO_WITH_INSTANCES,
    "scdm_scenes.py": Scenes.info,
    "scdm_camvid.py": CAMVID,
    "scdm_ade20k.py:1": classes.ADE20K,
    "scdm_ade20k.py:2": classes.ADE20K,
    "scdm_ade20k.py:25": classes.ADE20K,
    "scdm_coco_stuff.py:1": COCO_WITH_INSTANCES,
    "scdm_coco_stuff.py:2": COCO_WITH_INSTANCES,
    "scdm_coco_stuff.py:25": COCO_WITH_INSTANCES,
    "scdm_celebamask_hq.py:1": classes.CELEBAMASK_HQ,
    "scdm_celebamask_hq.py:2": classes.CELEBAMASK_HQ,
    "scdm_celebamask_hq.py:25": classes.CELEBAMASK_HQ,
}
OFFICIAL = [name for name in INFOS if ":" in name and not name.startswith(("scdm", "scp", "gcdp"))]
OFFICIAL_SCDM = [name for name in INFOS if ":" in name and "scdm" in name]
# Parameters of the released code's networks at these settings, as that code itself counts them.
PARAMETERS = {
    "ade20k.py:1": 660_608_518,
    "cityscapes.py:1": 653_926_918,
    "celebamask_hq.py:1": 653_062_918,
    "coco_stuff.py:1": 662_509_318,
}


@functools.cache
def load(name: str):
    """The module of a config, and the argument after the colon."""
    path, _, argument = name.partition(":")
    spec = importlib.util.spec_from_file_location(f"config_{path.removesuffix('.py')}", CONFIGS / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, [argument] if argument else []


def read(name: str) -> Experiment:
    module, arguments = load(name)
    return parse(module.get_config(*arguments))


def rates_of(config: Experiment, num_classes: int) -> np.ndarray | None:
    """The class rates a config names; some, where it measures them."""
    if config.layout.transition == "none":
        return None
    if config.layout.rates == "data":
        return np.linspace(0.5, 100, num_classes)
    return statistics.released_rates(config.layout.rates)


def built_from(name: str):
    config, info = read(name), INFOS[name]
    return build.build(config, info, rates_of(config, info.num_classes), WORDS)


def test_every_config_is_known_here():
    of_a_folder = {"model.py"}  # tests/trained_test.py
    assert {path.name for path in CONFIGS.glob("*.py")} - of_a_folder == {n.partition(":")[0] for n in INFOS}


@pytest.mark.parametrize("name", INFOS)
def test_parses_and_builds(name):
    config, info = read(name), INFOS[name]
    assert config.data.source in SOURCES
    built = built_from(name)
    if isinstance(config.model, Autoencoding):
        assert built.space.shape(config.data.size)[-1] == config.space.channels
        return
    unet, given = built.network.unet, built.given
    unet.check_size(*config.data.size)
    assert unet.num_classes == info.num_classes
    if isinstance(config.model, ControlUNet):
        given = given.parts["layout"]
        assert built.given.guided == {"words": ("words",), "both": ()}[config.model.guided]
    if isinstance(config.model, JointUNet):
        if config.model.upscales:
            assert (given.guided, given.parts["small"].factor) == (("words",), 2)
            given = given.parts["words"]
        assert (given.length, unet.vocabulary) == (config.model.text_length, WORDS)
    else:
        assert given.num_classes == info.num_classes
        assert given.edges == unet.edge_channel == (info.has_instances and config.data.edges)
    assert given.dropout == config.loss.condition_dropout
    parts.time_sampler(config, built.process)
    build_optimizer(config.optimizer, config.train.steps)


@pytest.mark.parametrize("name", INFOS)
def test_docstring_says_how_to_run_it(name):
    doc = load(name)[0].__doc__
    command = "make demo" if name == "scenes.py" else name
    assert command in doc.split("Command:")[1]


def test_stage_one_is_the_default_and_others_are_refused():
    module, _ = load("ade20k.py:1")
    assert parse(module.get_config()) == read("ade20k.py:1")
    with pytest.raises(ConfigError, match=r"configs/NAME.py:STAGE is '3'; choose one of 1, 2"):
        module.get_config("3")


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_configs_are_the_published_ones(name):
    config, stage = read(name), int(name[-1])
    assert config.data.size == ((256, 512) if "cityscapes" in name else (256, 256))
    assert config.data.source == name.partition(".")[0]
    ade20k = read("ade20k.py:1")
    assert (config.model, config.process) == (ade20k.model, ade20k.process)
    assert config.train.batch_size == 32
    assert config.optimizer.learning_rate == (2e-5 if stage == 2 or "celeba" in name else 1e-4)
    assert (config.optimizer.ema, config.optimizer.ema_warmup) == (0.9999, False)
    assert config.loss.condition_dropout == (0.2 if stage == 2 else 0.0)
    # Without a null condition in training there is nothing to guide away from.
    assert config.sample.guidance == (1.5 if stage == 2 else 1.0)
    assert (config.sample.sampler, config.sample.steps) == ("ancestral", 1000)


@pytest.mark.parametrize("name", OFFICIAL_SCDM)
def test_official_scdm_configs_are_the_published_ones(name):
    """SDM's network and process; its own condition, dropout, batch and sampling."""
    config, stage = read(name), name.partition(":")[2]
    theirs = read(name.removeprefix("scdm_").partition(":")[0] + ":1")
    assert (config.model, config.process, config.data) == (theirs.model, theirs.process, theirs.data)
    assert config.layout == Layout("absorbing", "classwise", config.data.source, 1.0, True, 1)
    assert config.loss.condition_dropout == 0.2
    assert config.train.batch_size == 40
    assert config.optimizer.learning_rate == (1e-4 if stage == "1" and "celeba" not in name else 2e-5)
    assert (config.optimizer.ema, config.optimizer.ema_warmup) == (0.9999, False)
    c = config.sample
    assert (c.sampler, c.guidance) == ("ancestral", 1.5)
    if stage == "25":
        assert (c.steps, c.spacing, c.extrapolation, c.threshold, c.quantile) == (
            25,
            "stride",
            0.8,
            "dynamic",
            0.95,
        )
    else:
        assert (c.steps, c.extrapolation, c.threshold) == (1000, 0.0, "static")
    assert built_from(name).given.process.schedule.lag == 1


def of_all_networks() -> list[str]:
    """The first config of each that differs in more than classes."""
    first: dict = {}
    for name in INFOS:
        config = read(name)
        first.setdefault((config.model, config.space, config.layout.transition, config.data.edges), name)
    return list(first.values())


@pytest.mark.parametrize("name", PARAMETERS)
def test_published_networks_have_the_released_ones_parameters(name):
    config, built = read(name), built_from(name)
    parameters = jax.eval_shape(lambda key: built.init(key, config.data.size), jax.random.key(0))
    assert sum(a.size for a in jax.tree.leaves(parameters)) == PARAMETERS[name]


@pytest.mark.parametrize("name", of_all_networks())
def test_real_size_fits_together(name):
    """Shapes of the whole network at the real size, without computing it."""
    config, built = read(name), built_from(name)
    h, w = config.data.size
    if isinstance(config.model, Autoencoding):
        params = jax.eval_shape(lambda key: built.init(key, (h, w)), jax.random.key(0))
        again = jax.eval_shape(built.again, params, jnp.zeros((1, h, w, 3), jnp.uint8))
        assert again.shape == (1, h, w, 3)
        return

    def whole(key):
        params, condition = built.init(key, (h, w)), built.given.empty((h, w))
        network = {k: v for k, v in params.items() if k != "space"}
        return built.network.apply(network, built.like(1, (h, w)), jnp.zeros((1,)), condition), params

    output, variables = jax.eval_shape(whole, jax.random.key(0))
    rows, columns, channels = built.space.shape((h, w))
    channels *= built.image.output_channels_per_channel
    assert (output.image.shape, output.image.dtype) == ((1, rows, columns, channels), jnp.float32)
    if built.process.layout is not None:
        assert (output.layout.shape, output.layout.dtype) == ((1, h, w, INFOS[name].num_classes), jnp.float32)
    parameters = jax.tree.leaves(variables)
    assert {a.dtype for a in parameters} == {jnp.dtype("float32")}
    if name == "scp_ade20k.py:80gb":
        count = lambda part: sum(a.size for a in jax.tree.leaves(part))  # noqa: E731
        assert count(variables["unet"]) == 865_910_724  # as diffusers counts those of Stable Diffusion 2.1
        assert count({k: variables["space"][k] for k in ("encoder", "decoder")}) == 83_653_863


def shrunken(config: Experiment) -> Experiment:
    """The same experiment with one level of a narrow network and 8 x 8 pixels.

    What only changes numbers gets one value: configs that shrink to the same share a compilation.
    """
    default = Experiment()
    narrow = {"base": 8, "multipliers": (1,), "attention": (), "head_width": 8}
    space, trained = config.space, ()
    if isinstance(space, Latents):
        space = dataclasses.replace(space, base=8, multipliers=(1, 2), blocks=1, channels=2, groups=4)
        trained = config.train.trained
    if isinstance(config.model, Autoencoding):
        narrow = {}
    elif isinstance(config.model, ControlUNet):
        narrow |= {"blocks": 1, "hint": (4, 8), "text_width": 8, "text_length": 2, "groups": 4, "heads": 0}
    elif isinstance(config.model, JointUNet):
        narrow |= {"blocks": (1,), "cross_attention": (0,), "heads": 1, "stem": (3,), "latents": 2}
        narrow |= {"text_width": 8, "text_length": 4}
    else:
        narrow |= {"blocks": 1, "spade_hidden": 8}
    same = {"learning_rate": 1e-3, "warmup": 0, "ema": 0.9, "ema_warmup": False}
    return Experiment(
        data=dataclasses.replace(default.data, size=(8, 8), edges=config.data.edges),
        model=dataclasses.replace(config.model, **narrow),
        space=space,
        process=config.process,
        layout=dataclasses.replace(config.layout, rates="data", lag=0),
        loss=dataclasses.replace(config.loss, condition_dropout=0.2, layout_weight=1.0),
        optimizer=dataclasses.replace(config.optimizer, **same),
        train=dataclasses.replace(default.train, batch_size=4, trained=trained),
    )


def made_up_state(trainer: Trainer) -> TrainState:
    """Small random weights, drawn by numpy: to compile the initialisation would take longer than the step."""
    rng = np.random.default_rng(0)
    fresh = jax.eval_shape(trainer.init, jax.random.key(0))
    some = lambda a: jnp.asarray(0.1 * rng.standard_normal(a.shape), a.dtype)  # noqa: E731
    params, frozen = jax.tree.map(some, (fresh.params, fresh.frozen))
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), fresh).replace(frozen=frozen)
    time_sampler = parts.time_sampler(trainer.config, trainer.method.process)
    return zeros.replace(params=params, ema=params, time_sampler=time_sampler)


@functools.cache
def one_step(config: Experiment):
    """State before, state after and metrics of one step."""
    info = Info("five classes", (ClassInfo("", (0, 0, 0)),) * 5, has_instances=True)
    trainer = Trainer.build(config, build.build(config, info, rates_of(config, 5), WORDS))
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (4, 8, 8, 3), dtype=np.uint8),
        "layout": rng.integers(0, 5, (4, 8, 8)).astype(np.int32),
        "edges": rng.integers(0, 2, (4, 8, 8), dtype=np.uint8),
        "text": np.array([[3, 4, 0, 0], [5, 0, 0, 0], [1, 2, 3, 4], [0, 0, 0, 0]], np.int32),
        "slot": np.arange(4, dtype=np.int32),
    }
    state = made_up_state(trainer)
    step = jax.jit(
        lambda state, batch, key: trainer.step(state, batch, key, Collective()),
        compiler_options={"xla_backend_optimization_level": 0},  # it runs once
    )
    return state, *step(state, batch, jax.random.key(1))


# What is added to all that a softmax compares, which changes nothing.
BIASES = tuple(f"['{name}']['bias']" for name in ("scores", "key", "k"))


ELSEWHERE = "gcdp_scenes.py:2"  # takes a step in tests/methods/upscaling_test.py


@pytest.mark.parametrize("name", [name for name in INFOS if name != ELSEWHERE])
def test_takes_a_step(name):
    before, after, metrics = one_step(shrunken(read(name)))
    assert all(np.isfinite(value) for value in metrics.values()), metrics
    assert (after.step, after.bad_steps) == (1, 0)
    assert min(metrics["loss"], metrics.get("mse", 1)) > 0
    assert {"vlb", "layout", "psnr"} & metrics.keys() or "scp" in name  # the variational term is there
    for params in (after.params, after.ema):
        pairs = zip(jax.tree_util.tree_leaves_with_path(before.params), jax.tree.leaves(params), strict=True)
        still = [jax.tree_util.keystr(path) for (path, old), new in pairs if not (old != new).any()]
        assert all(path.endswith(BIASES) for path in still), still


def changed(key: str, value):
    config = default()
    config.unlock()
    *path, last = key.split(".")
    part = config
    for name in path:
        part = part[name]
    with part.ignore_type():
        part[last] = value
    return config


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        (
            "optimizer.learning_rat",
            1.0,
            r"unknown key config.optimizer.learning_rat; did you mean .*learning_rate",
        ),
        ("evaluate.noise", ("ds",), "config.evaluate.noise is called config.evaluate.corruptions now"),
        ("train.xyz", 1, r"unknown key config.train.xyz; known keys: steps, batch_size"),
        ("train.steps", "many", r"config.train.steps is 'many', a str; expected an int"),
        ("train.steps", 1.5, r"config.train.steps is 1.5, a float"),
        ("data.flip", 1, r"config.data.flip is 1, an int; expected a bool"),
        ("model.base", True, r"config.model.base is True, a bool"),
        ("model.multipliers", (1, "2"), r"config.model.multipliers\[1\] is '2'"),
        ("model.multipliers", 3, r"config.model.multipliers is 3, an int; expected several of int"),
        ("data.size", (64, 64, 3), r"config.data.size is \(64, 64, 3\); expected 2 of int"),
    ],
)
def test_bad_keys_and_types_are_refused_in_words(key, value, words):
    with pytest.raises(ConfigError, match=words):
        parse(changed(key, value))


def test_whole_numbers_pass_as_floats():
    assert parse(changed("optimizer.clip_norm", 1)).optimizer.clip_norm == 1.0


# Key -> the table that it is looked up in.
TABLES = {
    "data.source": SOURCES,
    "data.mismatch": folder.MISMATCH,
    "process.schedule": schedules.SCHEDULES,
    "process.parameterisation": get_args(gaussian.Parameterisation),
    "process.variance": get_args(gaussian.Variance),
    "loss.weighting": get_args(losses.Kind),
    "model.attention_kind": get_args(layers.AttentionKind),
    "model.label_conv": get_args(layers.LabelConvKind),
    "model.conditioning": get_args(spade_unet.Conditioning),
    "train.strategy": parallel.STRATEGIES,
    "sample.sampler": samplers.SAMPLERS,
    "sample.spacing": (*schedules.SPACINGS, "tuned"),
}
CHOICES = {
    f"{part.name}.{key}": get_args(kind)
    for part in dataclasses.fields(Experiment)
    if dataclasses.is_dataclass(type(getattr(Experiment(), part.name)))
    for key, kind in get_type_hints(type(getattr(Experiment(), part.name))).items()
    if get_origin(kind) is Literal and key != "kind"
}


@pytest.mark.parametrize("key", CHOICES)
def test_unknown_choices_are_refused_in_words(key):
    known = ", ".join(sorted(CHOICES[key]))
    with pytest.raises(ConfigError, match=rf"config.{key} is 'nonsense'; choose one of {known}"):
        parse(changed(key, "nonsense"))


@pytest.mark.parametrize("key", TABLES)
def test_what_can_be_chosen_is_what_there_is(key):
    assert sorted(CHOICES[key]) == sorted(TABLES[key])


def test_keys_of_other_names_are_still_read():
    written = as_dict(Experiment())
    written["evaluate"]["noise"] = [*written["evaluate"].pop("corruptions"), "ds"]
    del written["export"]
    assert from_dict(written).evaluate.corruptions == ("ds",)
    assert "noise" in written["evaluate"]  # what was given is left alone
