"""Attention in parts is attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from semdiff.models import attention


def plain(q, k, v):
    weights = jax.nn.softmax(jnp.einsum("blhd,bmhd->bhlm", q, k) * q.shape[-1] ** -0.5, axis=-1)
    return jnp.einsum("bhlm,bmhd->blhd", weights, v)


@pytest.mark.parametrize("limit", [2**24, 60, 1])
def test_parts_change_nothing(monkeypatch, limit):
    monkeypatch.setattr(attention, "LIMIT", limit)
    q, k, v = (jax.random.normal(jax.random.key(i), (2, n, 3, 4)) for i, n in enumerate((12, 5, 5)))
    np.testing.assert_allclose(attention.attend(q, k, v), plain(q, k, v), atol=1e-6)
    gradients = lambda of: jax.grad(lambda *given: jnp.sin(of(*given)).sum(), (0, 1, 2))(q, k, v)  # noqa: E731
    for found, wanted in zip(gradients(attention.attend), gradients(plain)):
        np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_no_part_is_larger_than_the_limit(monkeypatch):
    monkeypatch.setattr(attention, "LIMIT", 3 * 16 * 4)
    q, k = jnp.zeros((1, 16, 3, 8)), jnp.zeros((1, 16, 3, 8))
    assert attention._rows_at_once(q, k) == 4
    assert "f32[1,3,16,16]" not in str(jax.make_jaxpr(attention.attend)(q, k, k))
