"""A latent method: what guidance steers away from, what a ControlNet's strength does, what is said and dropped."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import classes, tiny_control, tiny_experiment

from semdiff.config import ConfigError
from semdiff.diffusion import guidance
from semdiff.diffusion.joint import State
from semdiff.diffusion.losses import UniformTime
from semdiff.methods import build
from semdiff.methods.given import NOTHING, OF_ALL, OWN, PromptGiven
from semdiff.trained import with_strength

B, K = 3, 5


def method_of(guided="words"):
    config = tiny_control()
    return build.build_method(replace(config, model=replace(config.model, guided=guided)), classes(K))


@pytest.fixture(scope="module")
def params():
    shapes = jax.eval_shape(lambda key: method_of().init(key, (8, 8)), jax.random.key(0))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: jnp.asarray(0.3 * rng.standard_normal(a.shape), a.dtype), shapes)


KEYS = jax.random.split(jax.random.key(2), B)
STATE = State(jax.random.normal(jax.random.key(3), (B, 4, 4, 2)))


@functools.cache
def program(guided: str, cache: bool, strength: float):
    """(params, layout, weight of guidance) -> x_0, compiled once."""
    method = with_strength(method_of(guided), strength)

    def run(params, layout, weight):
        condition = method.given.condition({"layout": layout})
        denoise = method.denoise_fn(params, condition, guidance.Guidance(weight), cache=cache)
        return denoise(STATE, jnp.asarray(20), KEYS).image.x0

    return jax.jit(run, compiler_options={"xla_backend_optimization_level": 0})


LAYOUT = np.random.default_rng(1).integers(0, K, (B, 8, 8)).astype(np.int32)


def predicted(params, guided="words", cache=False, weight=3.0, strength=1.0, layout=LAYOUT):
    return program(guided, cache, strength)(params, layout, weight)


@pytest.mark.parametrize("guided", ["words", "layout", "both"])
def test_what_is_kept_through_a_chain_changes_nothing(params, guided):
    plain, kept = (predicted(params, guided, cache) for cache in (False, True))
    np.testing.assert_allclose(plain, kept, atol=1e-4 * np.abs(plain).max())


def test_guidance_steers_away_from_what_it_was_told(params):
    """At any weight nothing changes where what is steered away from makes no difference."""
    silent = params | {"prompts": params["prompts"].at[0].set(params["prompts"][1])}
    blind = params | {"control": jax.tree.map(jnp.zeros_like, params["control"])}

    def moves(guided, weights):
        once, thrice = (predicted(weights, guided, weight=weight) for weight in (1.0, 3.0))
        return float(jnp.abs(once - thrice).max() / jnp.abs(once).max())

    assert moves("words", silent) < 1e-4 < 1e-2 < moves("words", params)
    assert moves("layout", blind) < 1e-4 < 1e-2 < moves("layout", params)
    assert moves("both", silent | {"control": blind["control"]}) < 1e-4
    assert min(moves("both", silent), moves("both", blind)) > 1e-2


def test_without_strength_the_layout_is_not_seen(params):
    flat = np.zeros_like(LAYOUT)
    unseen = [predicted(params, strength=0.0, layout=layout) for layout in (LAYOUT, flat)]
    np.testing.assert_array_equal(*unseen)
    seen = [predicted(params, layout=layout) for layout in (LAYOUT, flat)]
    assert min(np.abs(seen[0] - seen[1]).max(), np.abs(seen[0] - unseen[0]).max()) > 1e-2


def test_networks_without_a_controlnet_have_no_strength():
    with pytest.raises(ConfigError, match=r"config\.sample\.control_strength is 0\.5.*has no ControlNet"):
        with_strength(build.build_method(tiny_experiment(), classes(K)), 0.5)


def test_an_image_is_told_its_own_prompt_or_that_of_all():
    own = np.zeros((3, 2, 4), np.float16)
    own[1] = 1
    prompts = PromptGiven((2, 4), dropout=0.5)
    told = prompts.condition({"layout": np.zeros((3, 8, 8)), "state": own})
    assert told["said"].tolist() == [OF_ALL, OWN, OF_ALL]
    assert prompts.null(told)["said"].tolist() == [NOTHING] * 3
    assert prompts.read({"states": own[1:2]})["said"] == OWN
    assert prompts.read({"states": own[:1]})["said"] == prompts.read({})["said"] == OF_ALL
    many = jax.tree.map(lambda a: jnp.repeat(a[1:2], 400, 0), told)
    dropped = prompts.drop(many, jax.random.split(jax.random.key(0), 400))["said"]
    assert set(dropped.tolist()) == {NOTHING, OWN}
    assert 150 < (dropped == NOTHING).sum() < 250


def test_the_network_reads_what_is_said(params):
    network = method_of().network.unet
    weights = {"params": {name: part for name, part in params.items() if name != "space"}}
    states = jnp.full((3, 3, 8), 7.0)
    words = network.apply(weights, jnp.array([NOTHING, OF_ALL, OWN]), states, method="told")
    np.testing.assert_array_equal(words, jnp.stack([*params["prompts"], states[2]]))


def test_a_loss_is_that_of_latents(params):
    """Per example, whatever the others are; the autoencoder's noise is a part of it."""
    method = method_of()
    rng = np.random.default_rng(5)
    batch = {
        "image": rng.integers(0, 256, (B, 8, 8, 3), np.uint8),
        "layout": rng.integers(0, K, (B, 8, 8)).astype(np.int32),
    }
    run = jax.jit(lambda batch, keys: method.loss(params, batch, keys, UniformTime(50))[0]["loss"])
    whole = run(batch, KEYS)
    for i in range(B):
        alone = run(jax.tree.map(lambda a, i=i: a[i : i + 1], batch), KEYS[i : i + 1])
        np.testing.assert_allclose(whole[i], alone[0], rtol=1e-4)
