"""From a configuration to sources."""

import json
from dataclasses import replace

import numpy as np
import pytest
from tiny import tiny_experiment

from semdiff import inputs
from semdiff.config import ConfigError, Layout
from semdiff.data import statistics
from semdiff.data.images import DataError
from semdiff.data.source import ClassInfo, Info


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


# Class rates


def experiment_of(length=6, **layout):
    experiment = tiny_experiment()
    data = replace(experiment.data, length=length)
    return replace(experiment, data=data, layout=Layout(**({"transition": "absorbing"} | layout)))


def rates_of(experiment, workdir, source=None):
    if source is None:
        source = inputs.training_source(experiment.data, experiment.seed)
    return inputs.class_rates(experiment, source, workdir)


class Classes:
    """A source of so many classes, and nothing else."""

    def __init__(self, count):
        self.info = Info("other", tuple(ClassInfo(str(i), (0, 0, 0)) for i in range(count)))


def test_rates_are_measured_once_and_kept_in_the_workdir(tmp_path):
    experiment, path = experiment_of(), tmp_path / "run" / "class_rates.json"
    source = inputs.training_source(experiment.data, experiment.seed)
    measured = rates_of(experiment, tmp_path / "run")
    np.testing.assert_array_equal(measured, statistics.count(source, range(6)).rates)
    np.testing.assert_array_equal(measured, statistics.read_rates(path))
    written = json.loads(path.read_text())
    assert (written["data"], written["split"], written["images"]) == ("scenes", "train", 6)
    assert not list(path.parent.glob("*.tmp"))
    for entry in written["classes"]:
        entry["rate"] *= 2
    path.write_text(json.dumps(written))
    np.testing.assert_array_equal(rates_of(experiment, tmp_path / "run"), 2 * measured)


def test_rates_measured_on_other_data_are_refused(tmp_path):
    rates_of(experiment_of(), tmp_path)
    before = (tmp_path / "class_rates.json").read_text()
    with pytest.raises(ConfigError) as error:
        rates_of(experiment_of(length=7), tmp_path)
    assert str(tmp_path / "class_rates.json") in str(error.value)
    assert "measured on other data: scenes, train, 6 images" in str(error.value)
    assert "name that file in config.layout.rates" in str(error.value)
    assert (tmp_path / "class_rates.json").read_text() == before


def test_a_file_of_other_data_may_be_named(tmp_path):
    measured = rates_of(experiment_of(), tmp_path / "one")
    experiment = experiment_of(length=7, rates=str(tmp_path / "one" / "class_rates.json"))
    np.testing.assert_array_equal(rates_of(experiment, tmp_path / "two"), measured)
    assert not (tmp_path / "two").exists()


def test_absent_classes_are_said(tmp_path, capsys):
    experiment = experiment_of(length=1)
    source = inputs.training_source(experiment.data, experiment.seed)
    absent = [source.info.names[i] for i in statistics.count(source, [0]).absent]
    assert 0 < len(absent) < 16
    rates = rates_of(experiment, tmp_path)
    said = capsys.readouterr()
    expected = f"classes without a pixel in the train split: {', '.join(absent)}. They get the largest rate"
    assert expected in said.out + said.err
    assert (rates[[source.info.names.index(name) for name in absent]] == rates.max()).all()
    rates_of(experiment, tmp_path)
    assert "without a pixel" not in "".join(capsys.readouterr())


def test_nothing_is_said_of_classes_that_are_there(capsys):
    inputs.say_absent({"split": "train", "classes": [{"name": "sky", "images": 1}]})
    assert not "".join(capsys.readouterr())


@pytest.mark.parametrize(("name", "count"), [("ade20k", 151), ("coco_stuff", 183), ("celebamask_hq", 19)])
def test_released_rates_go_by_name(tmp_path, name, count):
    rates = rates_of(experiment_of(rates=name), tmp_path, Classes(count))
    np.testing.assert_array_equal(rates, statistics.released_rates(name))
    with pytest.raises(
        ConfigError, match=rf"config\.layout\.rates={name} has {count} classes; scenes has 16"
    ):
        rates_of(experiment_of(rates=name), tmp_path)
    assert not list(tmp_path.iterdir())


def test_every_released_name_is_there():
    assert set(inputs.RELEASED_RATES) == set(json.loads(statistics.RELEASED.read_text()))


@pytest.mark.parametrize(("shape", "count"), [((15,), 15), ((16, 2), 2), ((), 0)], ids=str)
def test_files_of_another_length_are_refused(tmp_path, shape, count):
    np.save(tmp_path / "rates.npy", np.ones(shape))
    with pytest.raises(ConfigError, match=rf"rates\.npy has {count} classes; scenes has 16"):
        rates_of(experiment_of(rates=str(tmp_path / "rates.npy")), tmp_path)


def test_tables_are_read_from_files_alone(tmp_path):
    np.save(tmp_path / "gamma.npy", np.ones((51, 16)))
    given = rates_of(experiment_of(schedule="table", rates=str(tmp_path / "gamma.npy")), tmp_path)
    assert given.shape == (51, 16)
    for name in ("data", "ade20k"):
        with pytest.raises(DataError, match=rf"{name}: cannot be read"):
            rates_of(experiment_of(schedule="table", rates=name), tmp_path)


@pytest.mark.parametrize(
    "layout", [{"transition": "none"}, {"schedule": "linear"}, {"schedule": "cosine"}], ids=str
)
def test_nothing_is_measured_where_no_schedule_asks_for_it(tmp_path, layout):
    assert rates_of(experiment_of(**layout), tmp_path / "run") is None
    assert not (tmp_path / "run").exists()


def test_weights_depend_on_the_rates_they_were_trained_with():
    info = inputs.training_source(tiny_experiment().data, 0).info
    plain = inputs.identity(info, True)
    assert plain == {"classes": list(info.names), "edges": True}
    assert inputs.identity(info, True, np.array([1.0, 2.0])) == plain | {"rates": [1.0, 2.0]}
    table = inputs.identity(info, True, np.array([[1.0, 1.0], [0.5, 0.0]]))
    assert json.loads(json.dumps(table)) == plain | {"rates": [1.0, 1.0, 0.5, 0.0]}
