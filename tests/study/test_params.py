"""Presets: read safely, checked against the notebooks, multiplied into arms."""

import json

import pytest

from tlskit.errors import ParameterError
from tlskit.study import params

CELL = """run_name = "demo"  # name of the run
magnification = 4  # working magnification
tile_px = 512  # side of a tile, px
learning_rate = 0.001  # of Adam
augment = False  # flip and turn tiles
split_ratios = [0.7, 0.15, 0.15]  # train, val, test
resolution_by = "mpp"  # or objective
"""


@pytest.fixture
def notebook(tmp_path):
    path = tmp_path / "01_step.ipynb"
    cell = {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": CELL.splitlines(keepends=True)}
    path.write_text(json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    return path


def write(tmp_path, text):
    path = tmp_path / "preset.yaml"
    path.write_text(text)
    return path


def test_a_preset_is_read_with_its_order_and_types(tmp_path):
    preset = params.read_preset(write(tmp_path, "b: 1\na: [1, 2]\nlearning_rate: 1.0e-3\nname: 1x\n"))
    assert list(preset.items()) == [("b", 1), ("a", [1, 2]), ("learning_rate", 0.001), ("name", "1x")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", r"line 3: the key 'a' was already given in line 1"),
        ("a:\t1\n", "line 1: a tab"),
        ("a: [1\n", "not valid YAML"),
        ("- a\n- b\n", "lines of the form `name: value`"),
        ("a:\n  b: 1\n", "a is nested"),
        ("a: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
        ("sweep: [1, 2]\n", "`sweep` should map parameters to lists"),
        ("sweep: {magnification: 4}\n", "`sweep` should map parameters to lists"),
        ("learning_rate: 1e-3\n", r"papermill reads a text, not a number.*1\.0e-3"),
    ],
)
def test_a_faulty_preset_is_an_error_that_says_where(tmp_path, text, message):
    with pytest.raises(ParameterError, match=message):
        params.read_preset(write(tmp_path, text))


def test_papermill_reads_the_same_values_out_of_a_preset(tmp_path):
    from papermill.iorw import read_yaml_file

    path = write(tmp_path, "run_name: 2026-01-31\nlearning_rate: 1.0e-3\naugment: yes\nsplit_ratios: [0.5, 1]\n")
    assert params.read_preset(path) == read_yaml_file(str(path))


def test_a_value_after_p_is_read_as_in_a_preset():
    assert params.read_value("a", "1e-3") == 0.001 and params.read_value("a", "[1, x]") == [1, "x"]
    with pytest.raises(ParameterError, match=r"-p a=\[1 is not valid YAML"):
        params.read_value("a", "[1")


def test_a_missing_preset_lists_those_that_are_there(tmp_path):
    write(tmp_path, "a: 1\n")
    with pytest.raises(ParameterError, match=r"preset\.yaml"):
        params.read_preset(tmp_path / "paper.yaml")


def test_the_sweep_makes_the_product_and_names_the_arms():
    arms = params.arms({"epochs": 5, "sweep": {"magnification": [20, 2.5], "seed": [0, 1]}})
    assert [arm["arm"] for arm in arms] == ["20x_seed=0", "20x_seed=1", "2.5x_seed=0", "2.5x_seed=1"]
    assert arms[3] == {"epochs": 5, "magnification": 2.5, "seed": 1, "arm": "2.5x_seed=1"}


def test_without_a_sweep_there_is_one_arm():
    assert params.arms({"magnification": 4})[0]["arm"] == "4x"


def test_the_same_value_twice_in_a_sweep_is_refused():
    with pytest.raises(ParameterError, match="4x twice"):
        params.arms({"sweep": {"magnification": [4, 4]}})


def test_parameters_are_read_with_default_and_help(notebook):
    declared = params.notebook_parameters(notebook)
    assert declared["tile_px"] == params.Parameter("tile_px", 512, "side of a tile, px")
    assert declared["split_ratios"].default == [0.7, 0.15, 0.15]


def test_a_good_preset_passes(notebook):
    params.check({"magnification": 2.5, "learning_rate": 1, "sweep": {"tile_px": [256, 512]}}, [notebook])


@pytest.mark.parametrize(
    ("preset", "message"),
    [
        ({"magnificaton": 4}, "did you mean `magnification`"),
        ({"sweep": {"tilepx": [1]}}, "did you mean `tile_px`"),
        ({"tile_px": "512"}, "`tile_px` should be a whole number"),
        ({"tile_px": True}, "`tile_px` should be a whole number"),
        ({"augment": 1}, "`augment` should be true or false"),
        ({"resolution_by": "power"}, "one of mpp, objective"),
        ({"tile_px": 4}, "between 32 and 8192"),
        ({"split_ratios": 0.7}, "should be a list"),
        ({"target_class": ["TLS", "GC"], "ignore_class": "TLS"}, "'TLS' is in `target_class` and in `ignore_class`"),
    ],
)
def test_a_wrong_parameter_is_refused_with_a_remedy(notebook, preset, message):
    with pytest.raises(ParameterError, match=message):
        params.check(preset, [notebook])


def test_all_faults_are_listed_at_once(notebook):
    with pytest.raises(ParameterError) as caught:
        params.check({"tilepx": 1, "augment": 3}, [notebook])
    assert "tile_px" in str(caught.value) and "augment" in str(caught.value)
