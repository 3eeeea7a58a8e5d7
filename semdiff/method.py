"""The one place where a paper is spelled: (process, network, what is given, what is generated).

A `Method` gives train.py a loss and sample.py a denoise_fn; neither knows which paper it runs. The layout is given, the
image is generated, the network is a SPADE-UNet. In SDM (2207.00050) it sees the layout itself, in SCDM (2402.16506) y_t,
the layout as noised at the image's t: SDM is SCDM at gamma = 1.
"""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from semdiff.config import ConfigError, Experiment, choose
from semdiff.diffusion import (
    categorical,
    class_schedules,
    gaussian,
    guidance,
    joint,
    losses,
    samplers,
    schedules,
)
from semdiff.models import layers, spade_unet

MODULATION_LIMIT = 2 * 2**30  # bytes of cached modulation for a batch


@dataclass(frozen=True)
class Method:
    """p(image | layout). Without a layout process SDM, with one SCDM."""

    process: gaussian.Gaussian
    network: nn.Module
    num_classes: int
    edges: bool
    image_channels: int = 3
    weighting: losses.Weighting = losses.UNIFORM
    vlb_weight: float = 1.0
    condition_dropout: float = 0.0
    layout_process: categorical.Categorical | None = None

    @property
    def null_id(self) -> int:
        """The id of a layout that is absent. K itself stays free for MASK, a state of a layout process."""
        return self.num_classes + 1

    def condition(self, batch: dict) -> dict:
        """What the network is given of a batch (or of a folder of layouts)."""
        return {"layout": batch["layout"], "edges": batch["edges"] if self.edges else None}

    def null(self, condition: dict) -> dict:
        """The absence of a condition, of the same shape: what guidance steers away from."""
        edges = condition["edges"]
        return {
            "layout": jnp.full_like(condition["layout"], self.null_id),
            "edges": None if edges is None else jnp.zeros_like(edges),
        }

    def init(self, key, size: tuple[int, int]):
        """Fresh parameters."""
        layout = jnp.zeros((1, *size), jnp.int32)
        edges = jnp.zeros((1, *size), jnp.uint8) if self.edges else None
        x = jnp.zeros((1, *size, self.image_channels))
        return self.network.init(key, x, jnp.zeros((1,)), layout, edges)["params"]

    def network_time(self, t):
        """The network's clock: 0..999, whatever T (released networks were trained on i = t - 1)."""
        return (t - 1) * (1000 / self.process.num_steps)

    def loss(self, params, batch: dict, keys, time_sampler: losses.TimeSampler, train: bool = True):
        """Per-example losses and the times drawn: everything random comes from the example's key."""
        t_keys, noise_keys, drop_keys, dropout_keys, layout_keys = (
            samplers.fold_in(keys, i) for i in range(5)
        )
        x0 = to_unit(batch["image"])
        t, weight = time_sampler.sample(t_keys)
        eps = gaussian.normal(noise_keys, x0)
        xt = gaussian.diffuse(self.process, x0, t, eps)
        condition = self.noised(self.condition(batch), t, self.layout_noise(batch["layout"], layout_keys))
        if train and self.condition_dropout:
            dropped = jax.vmap(lambda k: jax.random.bernoulli(k, self.condition_dropout))(drop_keys)
            condition = jax.tree.map(
                lambda null, given: jnp.where(dropped[:, None, None], null, given),
                self.null(condition),
                condition,
            )
        output = self.network.apply(
            {"params": params},
            xt,
            self.network_time(t),
            **condition,
            dropout_keys=dropout_keys if train else None,
        )
        terms = losses.hybrid(self.process, output, x0, xt, eps, t, self.weighting, self.vlb_weight)
        return terms, t, weight

    def layout_noise(self, layout, keys):
        """What `noised` needs of chance; None where layouts stay clean."""
        if self.layout_process is None:
            return None
        return categorical.noise(self.layout_process, layout, keys)

    def noised(self, condition: dict, t, noise) -> dict:
        """The condition with y_t ~ q(y_t | y_0) in the layout's place. Borders between instances are never masked."""
        if self.layout_process is None:
            return condition
        return condition | {
            "layout": categorical.diffuse(self.layout_process, condition["layout"], t, *noise)
        }

    def denoise_fn(
        self,
        params,
        condition: dict,
        guide: guidance.Guidance,
        layout_keys=None,
        cache_modulation: bool = False,
    ) -> samplers.DenoiseFn:
        """State, t -> Prediction under this condition, guided.

        A layout process noises the layout afresh at each step; with `layout_keys`, one per example, by one noise kept
        through the chain, so that its mask only ever opens up. cache_modulation: what a condition that does not change
        does to the network is computed here: the null condition, and, where it takes no more than MODULATION_LIMIT of
        memory, a layout without a process.
        """
        cacheable = cache_modulation and self.network.conditioning == "spade"

        def modulated(given: dict) -> dict:
            if not cacheable:
                return given
            modulation = self.network.apply({"params": params}, **given, method="modulation")
            takes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(modulation))
            return {"modulation": modulation} if takes <= MODULATION_LIMIT else given

        apply = lambda x, time, given: self.network.apply({"params": params}, x, time, **given)  # noqa: E731
        null = self.null(condition)
        if cacheable:
            null = jax.tree.map(lambda a: a[:1], null)  # the null condition is the same for all
        null = modulated(null) if guide.needs_null else None
        clean = modulated(condition) if self.layout_process is None else None
        kept = None if layout_keys is None else self.layout_noise(condition["layout"], layout_keys)

        def denoise(state: joint.State, t, keys) -> joint.Prediction:
            x, times = state.image, jnp.full((state.batch,), t)
            given = clean
            if given is None:
                noise = kept if kept is not None else self.layout_noise(condition["layout"], keys)
                given = self.noised(condition, times, noise)
            network_time = self.network_time(times)
            output = apply(x, network_time, given)
            if guide.needs_null:
                output = jax.lax.cond(
                    guide.active(t, self.process.num_steps),
                    lambda: guide.combine(output, apply(x, network_time, null), self.image_channels),
                    lambda: output,
                )
            return joint.Prediction(gaussian.predict(self.process, output, x, times))

        return denoise


def to_unit(image):
    """8-bit pixels -> [-1, 1]."""
    return jnp.asarray(image, jnp.float32) / 127.5 - 1


def to_pixels(x):
    """[-1, 1] -> 8-bit pixels, rounded."""
    return jnp.round((jnp.clip(x, -1, 1) + 1) * 127.5).astype(jnp.uint8)


def build_process(config: Experiment) -> gaussian.Gaussian:
    c = config.process
    make_schedule = choose(schedules.SCHEDULES, c.schedule, "config.process.schedule")
    choose(gaussian.PARAMETERISATIONS, c.parameterisation, "config.process.parameterisation")
    choose(gaussian.VARIANCES, c.variance, "config.process.variance")
    return gaussian.Gaussian(make_schedule(c.steps), c.parameterisation, c.variance)


def build_layout_process(
    config: Experiment, num_classes: int, rates: np.ndarray | None
) -> categorical.Categorical | None:
    """`rates`: psi phi per class, or the table of gamma, where the schedule asks for one."""
    c, steps = config.layout, config.process.steps
    if choose(("none", "absorbing"), c.transition, "config.layout.transition") == "none":
        return None
    if c.lag not in (0, 1) or (c.lag and c.schedule not in ("classwise", "linear")):
        raise ConfigError(
            f"config.layout.lag is {c.lag}; expected 0, or, for a classwise or linear schedule, 1: the released code's clock"
        )
    if c.schedule != "classwise" and (c.eta, c.floor) != (1.0, True):
        raise ConfigError(
            f"config.layout.eta is {c.eta} and floor {c.floor}, which only a classwise schedule has, not {c.schedule}"
        )
    schedule = choose(
        {
            "classwise": lambda: class_schedules.classwise(steps, rates, c.eta, floor=c.floor, lag=c.lag),
            "linear": lambda: class_schedules.linear(steps, num_classes, c.lag),
            "cosine": lambda: class_schedules.Cosine(steps, num_classes),
            "table": lambda: class_schedules.table(rates),
        },
        c.schedule,
        "config.layout.schedule",
    )()
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
    return categorical.Categorical(schedule)


def build(
    config: Experiment, num_classes: int, has_instances: bool, rates: np.ndarray | None = None
) -> Method:
    """The method that a configuration spells, for a data set with these classes and (where asked for) class rates."""
    process = build_process(config)
    edges = config.data.edges and has_instances
    model = dict(vars(config.model))
    choose(spade_unet.CONDITIONINGS, config.model.conditioning, "config.model.conditioning")
    choose(layers.ATTENTIONS, config.model.attention_kind, "config.model.attention_kind")
    choose(layers.LABEL_CONVS, config.model.label_conv, "config.model.label_conv")
    dtypes = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
    model["dtype"] = choose(dtypes, config.model.dtype, "config.model.dtype")
    network = spade_unet.SpadeUNet(
        num_classes=num_classes,
        edge_channel=edges,
        image_channels=3,
        out_channels=3 * process.output_channels_per_channel,
        **model,
    )
    choose(losses.WEIGHTINGS, config.loss.weighting, "config.loss.weighting")
    gamma = config.loss.p2_gamma if config.loss.weighting == "p2" else config.loss.min_snr_gamma
    network.check_size(*config.data.size)
    return Method(
        process=process,
        network=network,
        num_classes=num_classes,
        edges=edges,
        weighting=losses.Weighting(config.loss.weighting, gamma),
        vlb_weight=config.loss.vlb_weight,
        condition_dropout=config.loss.condition_dropout,
        layout_process=build_layout_process(config, num_classes, rates),
    )


def build_time_sampler(config: Experiment, process: gaussian.Gaussian) -> losses.TimeSampler:
    kinds = {
        "uniform": lambda: losses.UniformTime(process.num_steps, process.schedule.continuous),
        "loss_aware": lambda: losses.LossAwareTime.create(process.num_steps),
    }
    return choose(kinds, config.loss.time_sampling, "config.loss.time_sampling")()
