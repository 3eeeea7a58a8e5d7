"""From a configuration to a method: the one place where the papers are spelled.

SDM (2207.00050): a SPADE-UNet that is given the layout. SCDM (2402.16506): the same, its layout masked class by class at the
image's t; SDM is SCDM at gamma = 1. GCDP (2308.08157): image and layout are generated together, given words.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from semdiff import inputs
from semdiff.config import ConfigError, Experiment, JointUNet
from semdiff.data.source import Info, Source
from semdiff.data.text import Vocabulary
from semdiff.diffusion import categorical, class_schedules, gaussian, joint, losses, schedules
from semdiff.given import LayoutGiven, TextGiven
from semdiff.method import Method
from semdiff.models import joint_unet, spade_unet
from semdiff.networks import LayoutToImage, PairOfText


def build_process(config: Experiment) -> gaussian.Gaussian:
    c = config.process
    return gaussian.Gaussian(schedules.SCHEDULES[c.schedule](c.steps), c.parameterisation, c.variance)


def build_layout_process(
    config: Experiment, num_classes: int, rates: np.ndarray | None
) -> categorical.Categorical | None:
    """`rates`: psi phi per class, or the table of gamma, where the schedule asks for one."""
    c, steps = config.layout, config.process.steps
    if c.transition == "none":
        return None
    if c.lag not in (0, 1) or (c.lag and c.schedule not in ("classwise", "linear")):
        raise ConfigError(
            f"config.layout.lag is {c.lag}; expected 0, or, for a classwise or linear schedule, 1: the released code's clock"
        )
    if c.schedule != "cosine" and c.power != 1:
        raise ConfigError(
            f"config.layout.power is {c.power}, which only a cosine schedule has, not {c.schedule}"
        )
    if c.schedule != "classwise" and (c.eta, c.floor) != (1.0, True):
        raise ConfigError(
            f"config.layout.eta is {c.eta} and floor {c.floor}, which only a classwise schedule has, not {c.schedule}"
        )

    def known() -> np.ndarray:
        if rates is None:
            raise ConfigError(f"config.layout.schedule is {c.schedule}, which no class rates were given for")
        return rates

    kinds: dict[str, Callable[[], class_schedules.ClassSchedule]] = {
        "classwise": lambda: class_schedules.classwise(steps, known(), c.eta, floor=c.floor, lag=c.lag),
        "linear": lambda: class_schedules.linear(steps, num_classes, c.lag),
        "cosine": lambda: class_schedules.Cosine(steps, num_classes, c.power),
        "table": lambda: class_schedules.table(known()),
    }
    schedule = kinds[c.schedule]()
    if (schedule.num_steps, schedule.num_classes) != (steps, num_classes):
        raise ConfigError(
            f"config.layout.rates={c.rates} is for {schedule.num_classes} classes and {schedule.num_steps} steps; the data "
            f"have {num_classes} classes, config.process.steps is {steps}"
        )
    if not schedule.continuous and build_process(config).schedule.continuous:
        raise ConfigError(
            f"config.layout.schedule is {c.schedule}, which knows whole times only, but config.process.schedule is "
            f"{config.process.schedule}, in real time; choose classwise, linear or cosine, or another image schedule"
        )
    if c.transition == "uniform" and not schedule.shared:
        raise ConfigError(
            "config.layout.transition is uniform, which has one schedule for all classes, but "
            f"config.layout.schedule={c.schedule} has a rate per class; choose linear or cosine"
        )
    return categorical.Categorical(schedule, c.transition)


def build_objective(config: Experiment) -> losses.Objective:
    c = config.loss
    gamma = c.p2_gamma if c.weighting == "p2" else c.min_snr_gamma
    return losses.Objective(losses.Weighting(c.weighting, gamma), c.vlb_weight, c.layout_weight)


def build_method(config: Experiment, info: Info, rates: np.ndarray | None = None, words: int = 0) -> Method:
    """The method that a configuration spells, for a data set with these classes, and, where asked for, class rates and a
    vocabulary of so many words."""
    if isinstance(config.model, JointUNet):
        return joint_of_text(config, info, rates, words)
    return image_of_layout(config, info, rates)


def image_of_layout(config: Experiment, info: Info, rates: np.ndarray | None) -> Method:
    """SDM, SCDM."""
    process, edges = build_process(config), config.data.edges and info.has_instances
    noised = build_layout_process(config, info.num_classes, rates)
    if noised is not None and noised.transition == "uniform":
        raise ConfigError(
            "config.layout.transition is uniform, but config.model.kind spade_unet is given the layout and generates none: "
            "choose none or absorbing, or a network of both halves (joint_unet)"
        )
    unet = spade_unet.SpadeUNet(
        num_classes=info.num_classes,
        edge_channel=edges,
        image_channels=3,
        out_channels=3 * process.output_channels_per_channel,
        **_of_network(config),
    )
    unet.check_size(*config.data.size)
    return Method(
        process=joint.Process(process),
        network=LayoutToImage(unet),
        given=LayoutGiven(info.num_classes, edges, noised, config.loss.condition_dropout),
        objective=build_objective(config),
    )


def joint_of_text(config: Experiment, info: Info, rates: np.ndarray | None, words: int) -> Method:
    """GCDP: both halves noised, told of words."""
    image, layout = build_process(config), build_layout_process(config, info.num_classes, rates)
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
        **_of_network(config),
    )
    unet.check_size(*config.data.size)
    return Method(
        process=joint.Process(image, layout),
        network=PairOfText(unet),
        given=TextGiven(unet.text_length, config.loss.condition_dropout, 0 if words else unet.text_width),
        objective=build_objective(config),
        known=losses.Known(config.loss.known, config.loss.condition_dropout) if config.loss.known else None,
    )


def _of_network(config: Experiment) -> dict:
    """The keys of config.model as the network's fields."""
    fields = {name: value for name, value in vars(config.model).items() if name != "kind"}
    return fields | {"dtype": jnp.dtype(config.model.dtype)}


@dataclass(frozen=True)
class Opened:
    """A configuration with its data: the training split, its class rates and words where asked for, the method."""

    source: Source
    rates: np.ndarray | None
    vocabulary: Vocabulary | None
    method: Method

    @property
    def info(self) -> Info:
        return self.source.info

    @property
    def identity(self) -> dict:
        """What of the data the weights depend on."""
        return inputs.identity(self.info, "edges" in self.method.given.reads, self.rates, self.vocabulary)


def opened(config: Experiment, workdir: Path) -> Opened:
    """Opens the training data; class rates that are measured are kept in the workdir."""
    source = inputs.training_source(config.data, config.seed)
    rates, vocabulary = (
        inputs.class_rates(config, source, workdir),
        inputs.vocabulary(config, source, workdir),
    )
    method = build_method(config, source.info, rates, len(vocabulary or ()))
    return Opened(inputs.told(config, source, vocabulary, training=True), rates, vocabulary, method)


def build_time_sampler(config: Experiment, process: joint.Process) -> losses.TimeSampler:
    kinds: dict[str, Callable[[], losses.TimeSampler]] = {
        "uniform": lambda: losses.UniformTime(process.num_steps, process.continuous),
        "loss_aware": lambda: losses.LossAwareTime.create(process.num_steps),
    }
    return kinds[config.loss.time_sampling]()
