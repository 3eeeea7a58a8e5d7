"""What a denoiser is trained on: the hybrid loss of images, the bound of layouts, weights over t, and how t is drawn."""

from dataclasses import dataclass, field, replace
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from semdiff.diffusion import categorical, gaussian, joint, schedules
from semdiff.diffusion.gaussian import Gaussian, Image, Keys, PerExample, Times
from semdiff.diffusion.joint import present

Kind = Literal["uniform", "min_snr", "p2", "velocity"]


@dataclass(frozen=True)
class Weighting:
    """Weight of the squared error on eps at time t.

    uniform: 1 (L_simple). min_snr: min(SNR, gamma) / SNR (2303.09556). p2: (k + SNR)^-gamma (2204.00227; GCDP).
    velocity: 1 + 1 / SNR, the plain squared error on v (2202.00512, App. D): large-scale colour is learned sooner.
    """

    kind: Kind = "uniform"
    gamma: float = 5.0
    k: float = 1.0

    def __call__(self, process: Gaussian, t: Times) -> PerExample:
        """The weight on the network's own squared error: an error on x_0 is 1/SNR of that on eps, on v 1/abar."""
        snr = schedules.snr(process.schedule, t)
        if self.kind == "min_snr":
            weight = jnp.minimum(snr, self.gamma) / snr
        elif self.kind == "p2":
            weight = (self.k + snr) ** -self.gamma
        elif self.kind == "velocity":
            weight = 1 + 1 / snr
        else:
            weight = jnp.ones_like(snr)
        if process.parameterisation == "x0":
            return weight * snr
        return weight * snr / (1 + snr) if process.parameterisation == "v" else weight


UNIFORM = Weighting()


def hybrid(
    process: Gaussian,
    output: Float[Array, "b h w n"],
    x0: Image,
    xt: Image,
    eps: Image,
    t: Times,
    weighting: Weighting = UNIFORM,
    vlb_weight: float = 1.0,
) -> dict[str, PerExample]:
    """L = w(t) L_simple + vlb_weight L_vlb per example (Improved DDPM Eq. 16), L_vlb in bits per dimension.

    The mean is detached in L_vlb: only the variance learns from it. L_vlb is the term of one step, not T of them:
    vlb_weight 1 here is 0.001 of the T-fold sum at T = 1000.
    """
    value, fraction = gaussian.split_output(process, output)
    error = gaussian.mean_over_pixels((gaussian.target(process, x0, eps, t) - value) ** 2)
    terms = {"mse": error}
    loss = weighting(process, t) * error
    if process.variance == "learned_range":
        detached = jax.lax.stop_gradient(gaussian.predict(process, output, xt, t))
        s = jnp.maximum(t - 1, 0)
        terms["vlb"] = gaussian.vlb_term(process, replace(detached, fraction=fraction), xt, x0, s, t)
        loss = loss + vlb_weight * terms["vlb"]
    return {"loss": loss, **terms}


@dataclass(frozen=True)
class Objective:
    """What is minimised: `hybrid` of the image, plus layout_weight times the bound of the layout in bits per pixel."""

    weighting: Weighting = UNIFORM
    vlb_weight: float = 1.0
    layout_weight: float = 1.0

    def __call__(
        self,
        process: joint.Process,
        output: joint.ByHalf,
        start: joint.State,
        state: joint.State,
        noise: joint.ByHalf,
        t: joint.Times,
        counts: joint.ByHalf = joint.ByHalf(1.0, 1.0),  # noqa: B008
    ) -> dict[str, PerExample]:
        """Terms per example, their sum as `loss`. state: `start` at t, by `noise`. counts: how much each half counts."""
        at, terms = jax.tree.map(lambda t: jnp.where(t > 0, t, jnp.ones_like(t)), joint.by_half(t)), {}
        if process.image is not None:
            data = (output.image, present(start.image), present(state.image), noise.image, at.image)
            terms = hybrid(process.image, *data, self.weighting, self.vlb_weight)
            terms = {name: counts.image * term for name, term in terms.items()}
        if process.layout is not None:
            s = jnp.maximum(at.layout - 1, 0)
            bits = counts.layout * categorical.vlb_term(
                process.layout, output.layout, present(state.layout), present(start.layout), s, at.layout
            )
            terms |= {"loss": terms.get("loss", 0.0) + self.layout_weight * bits, "layout": bits}
        return terms


SIMPLE = Objective()


@dataclass(frozen=True)
class Known:
    """Pairs that are trained as one half given the other.

    In `share` of the pairs the image or the layout, as often the one as the other, is known: it is shown as it is, at t = 0,
    and does not count. What is known is dropped as other conditions are, with the same ones: it is then at t = T.
    """

    share: float = 0.0
    dropout: float = 0.0

    def times(self, t: Times, keys: Keys, dropped: Shaped[Array, "b"], num_steps: int):
        """(the times of each half, how much each counts), from one time per example. A half that counts in fewer of the
        examples counts more in these."""
        known_keys, which_keys = (jax.vmap(jax.random.fold_in, (0, None))(keys, i) for i in range(2))
        known = jax.vmap(lambda key: jax.random.bernoulli(key, self.share))(known_keys)
        of_image = known & jax.vmap(jax.random.bernoulli)(which_keys)
        instead = jnp.where(dropped, num_steps, 0).astype(t.dtype)
        at, counts = [], []
        for held in (of_image, known & ~of_image):
            at.append(jnp.where(held, instead, t))
            counts.append(jnp.where(held, 0.0, 1 / (1 - self.share / 2)))
        return joint.ByHalf(*at), joint.ByHalf(*counts)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class UniformTime:
    """t uniform: integers 1..T for a table, reals in (0, T] for a formula."""

    num_steps: int = field(metadata={"static": True})
    continuous: bool = field(default=False, metadata={"static": True})

    def sample(self, keys: Keys) -> tuple[Times, PerExample]:
        """Times and importance weights (here all 1)."""
        if self.continuous:
            u = jax.vmap(jax.random.uniform)(keys)
            t = self.num_steps * (1 - u)
        else:
            t = jax.vmap(lambda key: jax.random.randint(key, (), 1, self.num_steps + 1))(keys)
        return t, jnp.ones(keys.shape[0])

    def update(self, t: Times, losses: PerExample) -> "UniformTime":
        del t, losses
        return self


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LossAwareTime:
    """t drawn in proportion to sqrt(E[loss_t^2]) over the last losses seen at t (Improved DDPM Sec. 3.3).

    Uniform until every t has a full history. `history` [T, n] holds the most recent losses last.
    """

    history: Float[Array, "steps depth"]
    counts: Int[Array, "steps"]
    uniform_share: float = field(default=1e-3, metadata={"static": True})

    @classmethod
    def create(cls, num_steps: int, depth: int = 10) -> "LossAwareTime":
        return cls(jnp.zeros((num_steps, depth)), jnp.zeros((num_steps,), jnp.int32))

    def probabilities(self) -> Float[Array, "steps"]:
        num_steps, depth = self.history.shape
        weight = jnp.sqrt((self.history**2).mean(axis=1))
        total = weight.sum()
        learned = weight / jnp.where(total > 0, total, 1.0)
        mixed = (1 - self.uniform_share) * learned + self.uniform_share / num_steps
        ready = (self.counts == depth).all() & (total > 0)
        return jnp.where(ready, mixed, 1 / num_steps)

    def sample(self, keys: Keys) -> tuple[Times, PerExample]:
        """Times and the importance weights 1 / (T p_t), which keep the loss unbiased."""
        p = self.probabilities()
        index = jax.vmap(lambda key: jax.random.categorical(key, jnp.log(p)))(keys)
        return index + 1, 1 / (p.shape[0] * p[index])

    def update(self, t: Times, losses: Shaped[Array, "b"]) -> "LossAwareTime":
        """Append each loss to its time's history, one after the other (two of a batch may share a t).

        A loss whose square is not finite is left out.
        """

        def append(carry, item):
            history, counts = carry
            index, loss = item
            usable = jnp.isfinite(loss**2)
            row = jnp.where(usable, jnp.roll(history[index], -1).at[-1].set(loss), history[index])
            count = jnp.minimum(counts[index] + usable, history.shape[1])
            return (
                history.at[index].set(row),
                counts.at[index].set(count.astype(counts.dtype)),
            ), None

        losses = jax.lax.stop_gradient(losses)
        (history, counts), _ = jax.lax.scan(append, (self.history, self.counts), (t - 1, losses))
        return replace(self, history=history, counts=counts)


TimeSampler = UniformTime | LossAwareTime
