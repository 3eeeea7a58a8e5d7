"""From a configuration to sources."""

from dataclasses import replace

import pytest
from tiny import tiny_experiment

from semdiff import inputs
from semdiff.config import ConfigError


@pytest.mark.parametrize(
    ("count", "expected"), [(0, [0, 1, 2, 3, 4]), (9, [0, 1, 2, 3, 4]), (1, [0]), (2, [0, 4]), (3, [0, 2, 4])]
)
def test_a_few_examples_come_from_all_over(count, expected):
    assert inputs.spread(range(5), count) == expected


def test_layouts_for_a_network_with_edges_need_instances(tmp_path):
    info = inputs.training_source(tiny_experiment().data, 0).info
    with pytest.raises(ConfigError, match="instances does not exist"):
        inputs.layouts_source(str(tmp_path / "labels"), info, edges=True)


def test_splits_of_other_classes_are_refused():
    info = inputs.training_source(tiny_experiment().data, 0).info
    other = replace(info, classes=info.classes[:-1])
    with pytest.raises(ConfigError, match="15 classes"):
        inputs.check_same_classes(info, other, False)
