"""Checkpoints: exact, and plain about what does not fit or could not be written."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_experiment

from semdiff.training import checkpoint
from semdiff.training.checkpoint import CheckpointError, Checkpoints
from semdiff.training.trainer import TrainState


def state_of(seed=0, width=3):
    rng = np.random.default_rng(seed)
    params = {"a": {"kernel": jnp.asarray(rng.normal(size=(2, width)), jnp.float32)}}
    zero = jnp.zeros((), jnp.int32)
    return TrainState(
        step=zero + seed,
        params=params,
        ema=jax.tree.map(lambda a: 2 * a, params),
        frozen={},
        opt_state=(jax.tree.map(lambda a: 3 * a, params), zero + 4),
        time_sampler=(),
        bad_steps=zero + 5,
        bad_in_row=zero + 6,
    )


def about_of(config=None, classes=("sky", "road")):
    return checkpoint.describe(config or tiny_experiment(), {"classes": list(classes), "edges": False})


def write(tmp_path, steps=(1, 2), keep=3):
    checkpoints = Checkpoints(tmp_path, keep=keep, save_every=1)
    for step in steps:
        checkpoints.save(step, state_of(step), about_of())
    checkpoints.wait()
    return checkpoints


def equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        np.testing.assert_array_equal(x, y)


def test_the_whole_state_comes_back_exactly(tmp_path):
    write(tmp_path).close()
    again = Checkpoints(tmp_path, save_every=1)
    assert again.latest() == 2
    equal(again.restore(2, state_of(9), about_of()), state_of(2))


def test_only_the_newest_are_kept(tmp_path):
    checkpoints = write(tmp_path, steps=(1, 2, 3, 4), keep=2)
    assert checkpoints._manager.all_steps() == [3, 4]


def test_weights_alone_for_sampling(tmp_path):
    write(tmp_path).close()
    like = jax.eval_shape(lambda: state_of().params)
    reader = Checkpoints(tmp_path)
    equal(reader.restore_weights(2, like, about_of(), "ema"), state_of(2).ema)
    equal(reader.restore_weights(2, like, about_of(), "params"), state_of(2).params)


def test_a_workdir_without_checkpoints_has_none(tmp_path):
    assert Checkpoints(tmp_path).latest() is None
    assert not (tmp_path / "checkpoints").exists()


def test_another_configuration_is_named_key_by_key(tmp_path):
    checkpoints = write(tmp_path)
    other = about_of(classes=("sky", "sea"))
    other["config"] = copy.deepcopy(other["config"])
    other["config"]["model"]["base"] = 64
    with pytest.raises(CheckpointError) as error:
        checkpoints.restore(2, state_of(0, width=5), other)
    text = str(error.value)
    assert "config.model.base: 8 there, 64 here" in text
    assert "data.classes" in text
    assert "parameter a/kernel: (2, 3) there, (2, 5) here" in text
    assert str(tmp_path) in text


def test_a_changed_learning_rate_may_resume(tmp_path):
    checkpoints = write(tmp_path)
    other = about_of()
    other["config"]["optimizer"]["learning_rate"] = 1.0
    equal(checkpoints.restore(2, state_of(9), other), state_of(2))


def test_how_a_network_is_computed_may_change(tmp_path):
    checkpoints = write(tmp_path)
    other = about_of()
    other["config"]["model"] |= {"dtype": "bfloat16", "remat": True}
    equal(checkpoints.restore(2, state_of(9), other), state_of(2))


def before_layouts(**layout):
    """(what a checkpoint written before configurations had a layout section holds, what a run of today asks for)."""
    written, asked = about_of(), about_of()
    written["config"] = {k: v for k, v in written["config"].items() if k != "layout"}
    asked["config"] = asked["config"] | {"layout": asked["config"]["layout"] | layout}
    return written, asked


def test_a_section_the_writer_did_not_know_is_at_its_defaults(tmp_path):
    written, asked = before_layouts()
    checkpoints = Checkpoints(tmp_path, save_every=1)
    checkpoints.save(1, state_of(1), written)
    checkpoints.wait()
    assert "layout" not in checkpoints.about(1)["config"]
    checkpoints.compare(1, state_of(9), asked)
    equal(checkpoints.restore(1, state_of(9), asked), state_of(1))
    _, asked = before_layouts(transition="absorbing")
    with pytest.raises(CheckpointError) as error:
        checkpoints.restore(1, state_of(9), asked)
    assert "config.layout.transition: 'none' there, 'absorbing' here" in str(error.value)
    assert "config.layout.schedule" not in str(error.value)


def test_a_key_the_writer_did_not_know_is_at_its_default(tmp_path):
    written, asked = about_of(), about_of()
    written["config"] = copy.deepcopy(written["config"])
    del written["config"]["layout"]["lag"]
    checkpoints = Checkpoints(tmp_path, save_every=1)
    checkpoints.save(1, state_of(1), written)
    checkpoints.wait()
    checkpoints.compare(1, state_of(9), asked)
    asked["config"] = copy.deepcopy(asked["config"])
    asked["config"]["layout"]["lag"] = 1
    with pytest.raises(CheckpointError, match=r"config\.layout\.lag: 0 there, 1 here"):
        checkpoints.compare(1, state_of(9), asked)


def test_other_rates_are_another_network(tmp_path):
    about = about_of()
    about["data"] |= {"rates": [1.0, 2.0]}
    checkpoints = Checkpoints(tmp_path, save_every=1)
    checkpoints.save(1, state_of(1), about)
    checkpoints.wait()
    checkpoints.compare(1, state_of(9), about)
    other = about | {"data": about["data"] | {"rates": [1.0, 3.0]}}
    with pytest.raises(CheckpointError, match=r"data\.rates"):
        checkpoints.compare(1, state_of(9), other)


def test_a_failed_save_leaves_the_older_checkpoint_usable(tmp_path, monkeypatch):
    checkpoints = write(tmp_path, steps=(1,))
    import orbax.checkpoint as ocp

    def failing(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ocp.CheckpointManager, "save", failing)
    with pytest.raises(
        CheckpointError, match=r"No space left on device[\s\S]*Complete checkpoints there: \[1\]"
    ):
        checkpoints.save(2, state_of(2), about_of())
    monkeypatch.undo()
    again = Checkpoints(tmp_path, save_every=1)
    assert again.latest() == 1
    equal(again.restore(1, state_of(9), about_of()), state_of(1))
