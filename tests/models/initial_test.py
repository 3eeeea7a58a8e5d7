import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from semdiff.models import initial
from semdiff.models.layers import Conv, Dense, Embed


class Net(nn.Module):
    again: bool = False

    @nn.compact
    def __call__(self, ids):
        block = nn.remat(Conv) if self.again else Conv
        x = Embed(50, 64, name="table")(ids)
        x = block(64, 3, name="first")(x)
        x = block(64, 3, name="second")(x)
        return Dense(2000, name="wide")(x) + self.param("mask", initial.normal(0.5), (2000,))


IDS = jnp.zeros((1, 4, 4), jnp.int32)


@pytest.mark.parametrize("again", [False, True])
def test_each_weight_has_its_spread_and_numbers_of_its_own(again):
    params = initial.fresh(Net(again).init, jax.random.key(0), IDS)["params"]
    spreads = {"table": 64**-0.5, "first": (9 * 64) ** -0.5, "second": (9 * 64) ** -0.5, "wide": 64**-0.5}
    drawn = {name: params[name]["embedding" if name == "table" else "kernel"] for name in spreads}
    for name, spread in spreads.items():
        np.testing.assert_allclose(drawn[name].std(), spread, rtol=0.05)
        assert abs(drawn[name].mean()) < 4 * spread / drawn[name].size ** 0.5
    np.testing.assert_allclose(params["mask"].std(), 0.5, rtol=0.05)
    numbers = np.concatenate([np.ravel(a) / spreads[name] for name, a in drawn.items()])
    assert len(np.unique(np.round(numbers, 5))) > 0.5 * len(numbers)  # none was cut twice
    assert not np.allclose(drawn["first"], drawn["second"])
    assert float(jnp.abs(params["first"]["bias"]).max()) == 0


def test_all_is_drawn_at_once_and_depends_on_the_key_alone():
    draws = lambda init: str(jax.make_jaxpr(init)(jax.random.key(0))).count("erf_inv")  # noqa: E731
    assert draws(lambda key: initial.fresh(Net().init, key, IDS)) == 1
    of = lambda key, ids: jax.tree.leaves(initial.fresh(Net().init, jax.random.key(key), ids))  # noqa: E731
    one, same, other = of(0, IDS), of(0, jnp.ones((2, 8, 8), jnp.int32)), of(1, IDS)
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(one, other, strict=True) if float(jnp.abs(a).max()))


def test_an_initialisation_as_flax_does_it_draws_each_by_itself():
    params = Net().init(jax.random.key(0), IDS)["params"]
    np.testing.assert_allclose(params["first"]["kernel"].std(), (9 * 64) ** -0.5, rtol=0.05)
    assert not np.allclose(params["first"]["kernel"], params["second"]["kernel"])
