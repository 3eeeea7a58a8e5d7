"""What processes share; tests/main_test.py runs two of them."""

import jax
import jax.numpy as jnp
import numpy as np

from semdiff.machine import parallel


def test_shares_are_joined_in_order(monkeypatch):
    """Three processes with 5, 5 and 4 of 14 items, in 64 bits."""
    items = np.arange(14) * 2**40
    monkeypatch.setattr(parallel.jax, "process_count", lambda: 3)
    shares = []
    for process in range(3):
        monkeypatch.setattr(parallel.jax, "process_index", lambda process=process: process)
        shares.append(parallel.share(items))
    assert [len(share) for share in shares] == [5, 5, 4]
    filled = [np.append(share, [0] * (5 - len(share))) for share in shares]
    monkeypatch.setattr(parallel, "of_all", lambda mine: np.stack(filled))
    np.testing.assert_array_equal(parallel.joined(shares[0], 14), items)


def test_in_order_says_where_arrays_lie_and_changes_no_number():
    tree = {"kernel": jnp.arange(24.0).reshape(1, 2, 3, 4), "bias": jnp.arange(3.0)}
    program = jax.jit(parallel.in_order).lower(tree)
    assert program.as_text().count("LayoutConstraint") == 2
    jax.tree.map(np.testing.assert_array_equal, program.compile()(tree), tree)
