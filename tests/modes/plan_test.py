"""What a step and a chain take on a machine that need not be there."""

import json
from dataclasses import replace

import jax
import pytest
from tiny import random_model, tiny_experiment, tiny_pairs

from semdiff import inputs
from semdiff.config import ConfigError, Data, Layout, Plan
from semdiff.machine import targets
from semdiff.machine.compiler_flags import _installed
from semdiff.methods import build
from semdiff.modes import plan


def with_keys(config, **parts):
    return replace(config, **{part: replace(getattr(config, part), **keys) for part, keys in parts.items()})


def test_a_plan_for_this_machine_says_what_is_needed(tmp_path, capsys):
    path = plan.plan(tiny_experiment(), tmp_path)
    said, facts = capsys.readouterr().out, json.loads(path.read_text())
    assert "step, batch 8: fits" in said
    assert "chain of 3 steps, 4 images: fits" in said
    assert facts["remedy"] == []
    model = random_model(tiny_experiment())
    held = sum(a.size * 4 for a in jax.tree.leaves(model.params)) / targets.GIB
    assert facts["step"]["arguments_gib"] > 4 * held  # weights, average, two moments
    assert held < facts["chain"]["arguments_gib"] < 2 * held
    assert facts["step"]["tflop"] > facts["chain"]["tflop"] > 0


PAIRS = tiny_pairs()
LARGER = replace(PAIRS, model=replace(PAIRS.model, upscales=2))


@pytest.mark.parametrize("config", [tiny_experiment(), PAIRS, LARGER], ids=["sdm", "gcdp", "larger"])
def test_batches_have_what_training_reads(config):
    info = inputs.training_source(config.data, 0).info
    method = build.build_method(config, info, words=5)
    shapes = plan.batch_shapes(config, method)
    assert set(shapes) == {"image", "layout", "slot"} | ({"edges", "text"} & set(method.given.reads))


def test_what_makes_a_step_fit_is_tried_from_the_cheapest():
    config = with_keys(tiny_experiment(), train={"batch_size": 32})
    tried = list(plan.remedies(config, targets.target_of("v5e:2x2")))
    train = "config.train"
    assert [keys for keys, _ in tried] == [
        [f"{train}.accumulate=2"],
        [f"{train}.accumulate=4"],
        [most := f"{train}.accumulate=8"],
        [most, remat := "config.model.remat=True"],
        [most, remat, fsdp := f"{train}.fsdp=4"],
        [once := f"{train}.accumulate=1", remat, fsdp, f"{train}.batch_size=16"],
        [once, remat, fsdp, f"{train}.batch_size=8"],
        [once, remat, fsdp, f"{train}.batch_size=4"],
    ]
    _, last = tried[-1]
    assert (last.model.remat, last.train.fsdp, last.train.batch_size) == (True, 4, 4)


def test_the_first_that_fits_is_taken_and_its_keys_are_said(tmp_path, capsys, monkeypatch):
    config = with_keys(tiny_experiment(), plan={"target": "v5e:2x2", "sampling": False})

    def compiled_step(config, info, target):
        return plan.Program(1.0, 1.0, config.train.fsdp == 4, needed_gib=20 / config.train.fsdp)

    monkeypatch.setattr(plan, "compiled_step", compiled_step)
    facts = json.loads(plan.plan(config, tmp_path).read_text())
    keys = ["config.train.accumulate=2", "config.model.remat=True", "config.train.fsdp=4"]
    assert facts["remedy"] == keys
    assert f"fits with  {' '.join('--' + key for key in keys)}" in capsys.readouterr().out
    stubborn = replace(config, plan=replace(config.plan, remedies=False))
    assert json.loads(plan.plan(stubborn, tmp_path).read_text())["remedy"] == []
    assert "step, batch 8: does not fit; 20.00 GiB a device" in capsys.readouterr().out


def test_a_program_that_is_too_large_is_no_error():
    class Lowered:
        def compile(self, compiler_options):
            raise jax.errors.JaxRuntimeError(self.words)

    lowered = Lowered()
    lowered.words = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 18.30G of 15.75G hbm."
    program = plan.read(lambda: lowered, None)
    assert (program.fits, program.needed_gib) == (False, 18.3)
    lowered.words = "INTERNAL: something else"
    with pytest.raises(jax.errors.JaxRuntimeError):
        plan.read(lambda: lowered, None)


def test_collectives_are_counted_with_their_bytes():
    text = """
      %a = bf16[1024,512]{1,0} all-gather(bf16[256,512] %x), dimensions={0}
      %b = (f32[256]{0}, f32[1024,256]{1,0}) all-reduce-start(%y, %z), to_apply=%add
      %c = f32[256]{0} add(f32[256] %all-reduce, f32[256] %w)
    """
    found = plan.collectives_of(text)
    assert found == {
        "all-gather": (1, 2**20 / targets.GIB),
        "all-reduce": (1, (2**10 + 2**20) / targets.GIB),
    }


def test_folders_need_a_number_of_classes_and_rates_need_no_data():
    config = replace(tiny_experiment(), data=Data(source="folder"))
    with pytest.raises(ConfigError, match=r"give config\.data\.root, or config\.data\.num_classes"):
        plan.classes_of(config)
    info = plan.classes_of(replace(config, data=replace(config.data, num_classes=11)))
    assert info.num_classes == 11
    masked = replace(tiny_experiment(), layout=Layout(transition="absorbing", schedule="classwise"))
    assert plan.method_of(masked, info).given.process.num_classes == 11


@pytest.mark.skipif(not _installed("libtpu"), reason="libtpu is not installed")
@pytest.mark.parametrize("transition", ["none", "absorbing", "joint"])
def test_steps_and_chains_compile_for_a_tpu(tmp_path, transition):
    config = tiny_pairs() if transition == "joint" else tiny_experiment()
    if transition == "absorbing":
        config = replace(config, layout=Layout(transition="absorbing", schedule="linear"))
    # At 32 px a device has few images and wide rows: where a pass of the TPU compiler once aborted.
    config = with_keys(config, data={"size": (32, 32)}, train={"batch_size": 16})
    facts = json.loads(plan.plan(replace(config, plan=Plan("v5e:2x2")), tmp_path).read_text())
    assert facts["step"]["fits"]
    assert facts["chain"]["fits"]
    assert facts["step"]["collectives"]["all-reduce"][0] >= 1


@pytest.mark.skipif(not _installed("jax-cuda12-plugin"), reason="jax-cuda12-plugin is not installed")
def test_steps_and_chains_compile_for_a_gpu(tmp_path):
    config = replace(tiny_experiment(), plan=Plan("h100"))
    facts = json.loads(plan.plan(config, tmp_path).read_text())
    assert facts["step"]["fits"]
    assert facts["chain"]["fits"]
