"""What papers share, from a configuration: the processes of the halves, the objective, how times are drawn."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from semdiff import config as config_module
from semdiff.config import ConfigError, Experiment
from semdiff.diffusion import categorical, class_schedules, gaussian, joint, losses, schedules
from semdiff.methods.space import PIXELS, Latents, Space
from semdiff.models.latent.autoencoder import Autoencoder


def image_process(config: Experiment) -> gaussian.Gaussian:
    c = config.process
    return gaussian.Gaussian(schedules.SCHEDULES[c.schedule](c.steps), c.parameterisation, c.variance)


def layout_process(
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
    if not schedule.continuous and image_process(config).schedule.continuous:
        raise ConfigError(
            f"config.layout.schedule is {c.schedule}, which knows whole times only, but config.process.schedule is "
            f"{config.process.schedule}, in real time; choose classwise, linear or cosine, or another image schedule"
        )
    if c.transition == "uniform" and not schedule.shared:
        raise ConfigError(
            "config.layout.transition is uniform, which has one schedule for all classes, but "
            f"config.layout.schedule={c.schedule} has a rate per class; choose linear or cosine"
        )
    if c.reverse != "mixture" and c.transition != "uniform":
        raise ConfigError(
            f"config.layout.reverse is {c.reverse}, which only uniform transitions have, not {c.transition}"
        )
    return categorical.Categorical(schedule, c.transition, reverse=c.reverse)


def space(config: Experiment) -> Space:
    """Where images are noised."""
    c = config.space
    if not isinstance(c, config_module.Latents):
        return PIXELS
    if c.scale < 0:
        raise ConfigError(
            f"config.space.scale is {c.scale}; it is what latents are multiplied by, or 0: measured"
        )
    autoencoder = Autoencoder(c.base, c.multipliers, c.blocks, c.channels, c.groups, jnp.dtype(c.dtype))
    if any(n % autoencoder.stride for n in config.data.size):
        raise ConfigError(
            f"config.data.size is {config.data.size}, but an autoencoder of {len(c.multipliers)} levels "
            f"(config.space.multipliers) takes multiples of {autoencoder.stride}"
        )
    return Latents(autoencoder, c.scale)


def objective(config: Experiment) -> losses.Objective:
    c = config.loss
    gamma = c.p2_gamma if c.weighting == "p2" else c.min_snr_gamma
    return losses.Objective(losses.Weighting(c.weighting, gamma), c.vlb_weight, c.layout_weight)


def time_sampler(config: Experiment, process: joint.Process) -> losses.TimeSampler:
    kinds: dict[str, Callable[[], losses.TimeSampler]] = {
        "uniform": lambda: losses.UniformTime(process.num_steps, process.continuous),
        "loss_aware": lambda: losses.LossAwareTime.create(process.num_steps),
    }
    return kinds[config.loss.time_sampling]()


def network_fields(config: Experiment) -> dict:
    """The keys of config.model as the network's fields."""
    fields = {name: value for name, value in vars(config.model).items() if name != "kind"}
    return fields | {"dtype": jnp.dtype(fields["dtype"])}
