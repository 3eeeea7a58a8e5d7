"""Machines that need not be there, by name."""

import pytest

from semdiff.config import ConfigError
from semdiff.machine import targets
from semdiff.machine.compiler_flags import _installed


@pytest.mark.parametrize(
    ("written", "chip", "count"),
    [("v5e:4x4", "v5e", 16), ("v4:2x2x4", "v4", 16), ("h100", "h100", 1), ("h100:8", "h100", 8)],
)
def test_targets_by_name(written, chip, count):
    target = targets.target_of(written)
    assert (target.chip.name, target.count) == (chip, count)
    assert str(target) == (written if ":" in written else f"{written}:1")


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("v9:2x2", "is 'v9:2x2'; expected here, .* of v4, v5e, v5p, v6e, a100, h100, h200"),
        ("h100:", "is 'h100:'; expected here"),
        ("v5e", "a TPU slice has a shape, as v5e:2x2"),
    ],
)
def test_what_is_no_target_is_said_with_those_that_are(written, words):
    with pytest.raises(ConfigError, match=words):
        targets.target_of(written)


@pytest.mark.skipif(_installed("libtpu"), reason="libtpu is installed")
def test_a_compiler_that_is_not_installed_is_named():
    with pytest.raises(ConfigError, match=r'pip install "semdiff\[plan-tpu\]" \(libtpu\)'):
        targets.target_of("v5e:2x2").devices()


def test_more_of_a_chip_is_bought_for_more():
    """Facts of makers, as far as they can be checked against each other."""
    chips = targets.CHIPS
    assert chips["v5e"].memory_gib < chips["v4"].memory_gib < chips["v5p"].memory_gib
    assert chips["h200"].gb_per_s > chips["h100"].gb_per_s > chips["a100"].gb_per_s
    assert all((chip.platform == "gpu") == bool(chip.cores) for chip in chips.values())
