"""The training step: what it computes, whatever the devices, micro-batches or failures."""

import json
import os
import signal
import time
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import classes, tiny_experiment

from semdiff.config import Experiment, Optimizer
from semdiff.convert.weights import save_weights
from semdiff.machine import parallel
from semdiff.machine.parallel import Collective
from semdiff.methods import build
from semdiff.modes import train
from semdiff.training.trainer import Trainer, build_optimizer, learning_rate


def batch_of(n=8, size=8, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (n, size, size, 3), dtype=np.uint8),
        "layout": rng.integers(0, INFO.num_classes, (n, size, size)).astype(np.int32),
        "edges": rng.integers(0, 2, (n, size, size)).astype(np.uint8),
        "slot": np.arange(n, dtype=np.int32),
    }


INFO = classes(16, has_instances=True)


def trainer_of(config, rates=None):
    return Trainer.build(config, build.build_method(config, INFO, rates))


@pytest.fixture(scope="module")
def trainer():
    return trainer_of(tiny_experiment())


@pytest.fixture(scope="module")
def state(trainer):
    return jax.jit(trainer.init)(jax.random.key(0))


@pytest.fixture(scope="module")
def step(trainer):
    return jax.jit(lambda s, b, k: trainer.step(s, b, k, Collective()))


def leaves_close(a, b, **tolerance):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, **tolerance)


def test_a_step_trains_counts_and_is_repeatable(step, state):
    once, metrics = step(state, batch_of(), jax.random.key(1))
    again, _ = step(state, batch_of(), jax.random.key(1))
    leaves_close(once, again, rtol=0, atol=0)
    assert int(once.step) == 1
    assert all(np.isfinite(v) for v in jax.tree.leaves(metrics))
    moved = [np.abs(a - b).max() for a, b in zip(jax.tree.leaves(once.params), jax.tree.leaves(state.params))]
    assert max(moved) > 0


def test_the_loss_falls(step, state):
    losses = []
    for i in range(60):
        state, metrics = step(state, batch_of(seed=i % 2), jax.random.key(1))
        losses.append(float(metrics["mse"]))
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


def test_noise_changes_with_the_step_and_with_the_slot(step, state):
    _, first = step(state, batch_of(), jax.random.key(1))
    later = state.replace(step=state.step + 1)
    _, second = step(later, batch_of(), jax.random.key(1))
    moved = batch_of() | {"slot": np.arange(8, 16, dtype=np.int32)}
    _, third = step(state, moved, jax.random.key(1))
    assert len({float(m["loss"]) for m in (first, second, third)}) == 3


def test_the_order_inside_a_batch_does_not_matter(step, state):
    """Hosts read interleaved slots: the same examples in another order are the same batch."""
    shuffled = {k: v[[3, 1, 0, 2, 7, 6, 5, 4]] for k, v in batch_of().items()}
    a, _ = step(state, batch_of(), jax.random.key(1))
    b, _ = step(state, shuffled, jax.random.key(1))
    leaves_close(a.opt_state, b.opt_state, rtol=1e-3, atol=1e-6)


def test_micro_batches_give_the_gradient_of_the_whole(state, step):
    config = tiny_experiment()
    parts = trainer_of(replace(config, train=replace(config.train, accumulate=4)))
    whole, metrics = step(state, batch_of(), jax.random.key(1))
    split, split_metrics = jax.jit(lambda s, b, k: parts.step(s, b, k, Collective()))(
        state, batch_of(), jax.random.key(1)
    )
    leaves_close(whole.opt_state, split.opt_state, rtol=1e-3, atol=1e-6)
    assert float(metrics["loss"]) == pytest.approx(float(split_metrics["loss"]), rel=1e-4)


def test_a_non_finite_step_changes_nothing_but_counters(step, state):
    broken = state.replace(params=jax.tree.map(lambda a: a, state.params))
    broken.params["conv_out"]["bias"] = jnp.full_like(broken.params["conv_out"]["bias"], jnp.nan)
    after, _ = step(broken, batch_of(), jax.random.key(1))
    leaves_close(after.params, broken.params)
    leaves_close(after.ema, broken.ema)
    leaves_close(after.opt_state, broken.opt_state)
    assert (int(after.step), int(after.bad_steps), int(after.bad_in_row)) == (1, 1, 1)
    healthy, _ = step(after.replace(params=state.params), batch_of(), jax.random.key(1))
    assert (int(healthy.bad_steps), int(healthy.bad_in_row)) == (1, 0)


def test_persisting_non_finite_steps_stop_the_run_in_words():
    train.check_finite({"bad_in_row": 49}, 50, 100)
    with pytest.raises(train.TrainingError, match=r"last 50 steps up to step 100.*learning_rate"):
        train.check_finite({"bad_in_row": 50}, 50, 100)


def test_the_average_warms_up(trainer):
    ema, params = {"w": jnp.array(0.0)}, {"w": jnp.array(1.0)}
    warm = lambda step: float(trainer._averaged(ema, params, jnp.asarray(step))["w"])  # noqa: E731
    assert warm(0) == pytest.approx(0.9)
    assert warm(90) == pytest.approx(1 - 91 / 100)
    assert warm(10**6) == pytest.approx(1 - trainer.config.optimizer.ema, rel=1e-3)


@pytest.mark.parametrize(
    ("decay", "at", "expected"),
    [
        ("constant", 100, 1e-3),
        ("linear", 60, 5e-4),
        ("linear", 110, 0),
        ("cosine", 60, 5e-4),
        ("cosine", 110, 0),
    ],
)
def test_learning_rate(decay, at, expected):
    rate = learning_rate(Optimizer(learning_rate=1e-3, warmup=10, decay=decay), 110)
    assert float(rate(0)) == 0
    assert float(rate(5)) == pytest.approx(5e-4)
    assert float(rate(at)) == pytest.approx(expected, abs=1e-9)


def test_gradients_are_clipped_to_the_norm():
    optimizer = build_optimizer(Optimizer(clip_norm=1.0, learning_rate=1.0), 10)
    grads = {"w": jnp.full((4,), 100.0)}
    _, state = optimizer.update(grads, optimizer.init(grads), grads)
    mu = optax.tree.get(state, "mu")["w"]
    np.testing.assert_allclose(jnp.linalg.norm(mu), 0.1, rtol=1e-5)  # (1 - beta1) of a unit gradient


def test_averages_of_metrics_leave_counters_alone():
    rows = [{"loss": 1.0, "bad_steps": 1}, {"loss": 3.0, "bad_steps": 2}]
    assert train.averaged(rows) == {"loss": 2.0, "bad_steps": 2.0}


RATES = np.geomspace(0.5, 500, INFO.num_classes)


def everything_random() -> Experiment:
    """With times drawn by the loss, and a layout that is masked class by class."""
    config = tiny_experiment()
    return replace(
        config,
        model=replace(
            config.model, multipliers=(1,), attention=()
        ),  # what is compiled four times should be small
        loss=replace(config.loss, time_sampling="loss_aware"),
        layout=replace(config.layout, transition="absorbing"),
    )


DEVICES = """
import json, re, sys
sys.path.insert(0, {tests!r})
import jax, numpy as np
from dataclasses import replace
from semdiff.machine import parallel
from semdiff.methods import build
from semdiff.modes import train
from train_test import RATES, batch_of, everything_random, trainer_of
config = everything_random()
results = {{}}
for name, strategy, fsdp in (("jit", "jit", 1), ("fsdp", "jit", 2), ("pmap", "pmap", 1)):
    parallel.MIN_SPLIT_SIZE = 64
    c = replace(config, train=replace(config.train, strategy=strategy, fsdp=fsdp, batch_size=8))
    trainer, placed = trainer_of(c, RATES), parallel.build(c.train)
    state = placed.create_state(trainer.init, jax.random.key(0))
    batch = placed.place_batch(batch_of())
    step, _ = placed.compile(trainer.step, state, batch, jax.random.key(1))
    moved = []
    if name == "fsdp":
        calls = re.findall(r"= (.*) (?:all-gather|all-to-all|collective-permute|reduce-scatter)\\(", step.as_text())
        shapes = [s for call in calls for s in re.findall(r"\\w+\\[([\\d,]+)\\]", call)]
        moved = [[int(n) for n in s.split(",")] for s in shapes]
    for i in range(2):
        state, metrics = step(state, placed.place_batch(batch_of(seed=i)), jax.random.key(1))
    saved = placed.saved_form(state)
    mu = jax.tree.leaves(saved.opt_state)
    results[name] = {{
        "loss": float(placed.metrics(metrics)["loss"]),
        "moments": [float(np.abs(np.asarray(m)).sum()) for m in mu],
        "history": float(np.asarray(saved.time_sampler.history).sum()),
        "moved": moved,
        "split": sum(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(saved.params)),
    }}
print(json.dumps(results))
"""


def test_one_device_four_devices_fsdp_and_pmap_give_the_same_numbers(run_on_devices, request):
    """And where parameters are split, they are what travels, not activations."""
    code = DEVICES.format(tests=str(request.path.parent))
    four = json.loads(run_on_devices(code, 4).splitlines()[-1])
    trainer = trainer_of(everything_random(), RATES)
    step = jax.jit(lambda s, b, k: trainer.step(s, b, k, Collective()))
    state = jax.jit(trainer.init)(jax.random.key(0))
    for i in range(2):
        state, metrics = step(state, batch_of(seed=i), jax.random.key(1))
    assert four["fsdp"]["split"] > 0
    assert four["jit"]["split"] == 0
    known = {leaf.shape for leaf in jax.tree.leaves(state)}
    travelling = {tuple(shape) for shape in four["fsdp"]["moved"] if np.prod(shape) > 64}
    assert travelling
    assert travelling <= known
    for result in four.values():
        assert result["loss"] == pytest.approx(float(metrics["loss"]), rel=1e-4)
        assert result["history"] == pytest.approx(float(state.time_sampler.history.sum()), rel=1e-4)
        moments = [float(np.abs(np.asarray(m)).sum()) for m in jax.tree.leaves(state.opt_state)]
        np.testing.assert_allclose(result["moments"], moments, rtol=1e-3, atol=1e-6)


def test_batches_must_divide_over_devices_in_words():
    config = Experiment().train
    with pytest.raises(ValueError, match=r"batch_size is 33.*multiple of devices x accumulate"):
        parallel.build(replace(config, batch_size=33, accumulate=2))
    for key in ("steps", "accumulate", "log_every", "save_every", "eval_every"):
        with pytest.raises(ValueError, match=f"config.train.{key} is 0"):
            parallel.build(replace(config, **{key: 0}))
    with pytest.raises(ValueError, match="fsdp is 3"):
        parallel.Mesh(3)
    with pytest.raises(ValueError, match="pmap strategy cannot split"):
        parallel.Pmap(2)


def test_a_run_is_saved_before_it_is_looked_at_and_resumes_without_a_second_state(
    tmp_path, monkeypatch, capsys
):
    looked = []

    def look(evaluator, step, params):
        looked.append(step)
        deadline = time.monotonic() + 30
        while not (tmp_path / "checkpoints" / str(step)).exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert (tmp_path / "checkpoints" / str(step)).exists()
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)  # heard after the next step, which is not looked at
        return 0.0

    def resumed_at(batch_size):
        c = replace(config.train, steps=4, batch_size=batch_size)
        return train.train(replace(config, train=c), tmp_path)

    def guarded(*arguments):
        """Steps move nothing between host and device: what goes there is placed beforehand, what comes back is asked for."""
        step = compiled(*arguments)
        return lambda *given: jax.transfer_guard("disallow")(step)(*given)

    compiled = train.compiled
    monkeypatch.setattr(train, "compiled", guarded)
    monkeypatch.setattr(train.Evaluator, "run", look)
    config = tiny_experiment()
    config = replace(config, train=replace(config.train, steps=6, save_every=100, eval_every=2))
    with pytest.raises(SystemExit) as end:
        train.train(config, tmp_path)
    assert end.value.code == 0
    assert looked == [2]
    assert (tmp_path / "checkpoints" / "3").exists()
    saved = capsys.readouterr().out
    assert "stopped by signal at step 3, saved" in saved
    assert "batch_size was" not in saved

    monkeypatch.setattr(parallel, "compile_init", None)  # a fresh state would need it
    state = resumed_at(batch_size=4)
    assert int(state.step) == 4
    assert looked == [2, 4]
    said = (
        "batch_size was 8 and is 4: 24 examples were seen, the run goes on at number 12 of the shuffled order"
    )
    assert said in capsys.readouterr().out


def test_a_changed_batch_size_moves_the_position_in_words():
    written = {"train": {"batch_size": 8}}
    assert train.moved_position(written, 8, 10) == ""
    assert train.moved_position(written, 4, 10).endswith("so 40 are seen again")
    assert train.moved_position(written, 12, 10).endswith("so 40 are left out")


@pytest.mark.parametrize("strategy", ["jit", "pmap"])
def test_a_run_from_given_weights_draws_none(strategy, trainer, state, tmp_path, monkeypatch):
    config = tiny_experiment()
    given = jax.tree.map(lambda a: np.asarray(a) + 1, state.params)
    save_weights(tmp_path / "w.safetensors", given, {})
    c = replace(config.train, strategy=strategy, init=str(tmp_path / "w.safetensors"), steps=1)
    compiled, compile_init = [], parallel.compile_init
    monkeypatch.setattr(
        parallel, "compile_init", lambda f, **o: compiled.append(f.__name__) or compile_init(f, **o)
    )
    run = train.prepare(replace(config, train=c), tmp_path)
    made = run.strategy.saved_form(run.state)
    leaves_close(made.params, given, rtol=0, atol=0)
    leaves_close(made.ema, given, rtol=0, atol=0)
    leaves_close(made.opt_state, state.opt_state, rtol=0, atol=0)
    assert compiled == ["fresh"]
    run.checkpoints.close()
