"""Presets: read safely, checked against the notebooks, multiplied into arms."""

import json
from pathlib import Path

import pytest

from tlskit.errors import ParameterError
from tlskit.study import declarations, params

ROOT = Path(__file__).resolve().parents[2]

CELL = """run_name = "demo"  # name of the run
magnification = 4  # working magnification
tile_px = 512  # side of a tile, px
learning_rate = 0.001  # of Adam
augment = False  # flip and turn tiles
split_ratios = [0.7, 0.15, 0.15]  # train, val, test
split_seed = 0  # of the shuffle
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
        ("sweep: []\n", "or be a list of arms"),
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


def test_a_missing_preset_lists_those_that_are_there(tmp_path):
    write(tmp_path, "a: 1\n")
    with pytest.raises(ParameterError, match=r"preset\.yaml"):
        params.read_preset(tmp_path / "paper.yaml")


def test_the_sweep_makes_the_product_and_names_the_arms():
    arms = params.arms({"epochs": 5, "sweep": {"magnification": [20, 2.5], "seed": [0, 1]}})
    assert [arm["arm"] for arm in arms] == ["20x_seed=0", "20x_seed=1", "2.5x_seed=0", "2.5x_seed=1"]
    assert arms[3] == {"epochs": 5, "magnification": 2.5, "seed": 1, "arm": "2.5x_seed=1"}


def test_a_list_of_arms_that_are_no_product_and_the_folders_that_stay_when_one_is_added():
    preset = {"tile_px": 512, "sweep": [{"magnification": 20}, {"magnification": 20, "tile_px": 1280}]}
    assert [arm["arm"] for arm in params.arms(preset)] == ["20x", "20x_tile_px=1280"]
    preset["sweep"].append({"magnification": 4, "augment": True, "target_class": ["TLS", "GC"]})
    arms = params.arms(preset)
    assert [arm["arm"] for arm in arms] == ["20x", "20x_tile_px=1280", "4x_augment=true_target_class=--TLS----GC--"]
    assert [arm["tile_px"] for arm in arms] == [512, 1280, 512]
    table = params.arms_table(preset, {"augment": False, "target_class": "TLS"})
    assert list(table) == ["arm", "magnification", "tile_px", "augment", "target_class"]
    assert table["tile_px"].tolist() == [512, 1280, 512]
    assert table["augment"].tolist() == ["false", "false", "true"]


def test_an_override_of_what_is_swept_leaves_arms_their_folders():
    product = {"epochs": 5, "sweep": {"magnification": [20, 4], "seed": [0, 1]}}
    assert [a["arm"] for a in params.arms(params.override(product, {"magnification": 4}))] == ["4x_seed=0", "4x_seed=1"]
    one = params.override(product, {"magnification": 4, "seed": 1, "epochs": 3})
    assert [(a["arm"], a["epochs"]) for a in params.arms(one)] == [("4x_seed=1", 3)]
    listed = {"tile_px": 512, "sweep": [{"magnification": 20}, {"magnification": 20, "tile_px": 1280}]}
    assert [a["arm"] for a in params.arms(params.override(listed, {"tile_px": 1280}))] == ["20x_tile_px=1280"]
    assert [a["arm"] for a in params.arms(params.override(listed, {"tile_px": 512}))] == ["20x"]
    with pytest.raises(ParameterError, match="`sweep` is written in the preset"):
        params.override(product, {"sweep": 4})


def test_two_arms_that_are_the_same_are_refused_whatever_they_are_called():
    with pytest.raises(ParameterError, match=r"makes the arm 20x_tile_px=512 twice \(20x\)"):
        params.arms({"tile_px": 512, "sweep": [{"magnification": 20}, {"magnification": 20, "tile_px": 512}]})


def test_the_table_of_arms_names_its_factors():
    preset = {"epochs": 5, "sweep": {"seed": [0, 1], "magnification": [20, 4]}}
    assert params.factors(preset) == ["magnification", "seed"]
    table = params.arms_table(preset)
    assert table.to_csv(index=False) == (
        "arm,magnification,seed\n20x_seed=0,20,0\n4x_seed=0,4,0\n20x_seed=1,20,1\n4x_seed=1,4,1\n"
    )


@pytest.mark.parametrize("name", ["arm", "run_name", "manifest", "outputs_dir", "split_seed", "split_ratios"])
def test_what_all_arms_share_cannot_be_swept(notebook, name):
    with pytest.raises(ParameterError, match=f"`{name}` cannot be swept"):
        declarations.check({"sweep": {name: ["a", "b"]}}, [notebook])
    with pytest.raises(ParameterError, match=f"`{name}` cannot be swept"):
        declarations.check({"sweep": [{name: "a"}]}, [notebook])


@pytest.mark.parametrize("name", ["../../esc/evil", "my run", "läuft", "", ".x", "a/b"])
def test_a_name_that_is_no_folder_is_refused_before_anything_is_made(notebook, name):
    with pytest.raises(ParameterError, match="`run_name` names a folder"):
        declarations.check({"run_name": name}, [notebook])


@pytest.mark.parametrize(("text", "value"), [("1e-3", 0.001), ("4", 4), ("[a, 1]", ["a", 1]), ("", None), ("x", "x")])
def test_a_value_is_read_as_a_preset_would_hold_it(text, value):
    assert params.parse_value(text) == value


@pytest.mark.parametrize("text", ["[1", "a: b: c", "{a: 1, a: 2}"])
def test_a_value_that_is_none_is_a_sentence(text):
    with pytest.raises(ParameterError):
        params.parse_value(text)


def test_without_a_sweep_there_is_one_arm():
    assert params.arms({"magnification": 4})[0]["arm"] == "4x"


def test_the_same_value_twice_in_a_sweep_is_refused():
    with pytest.raises(ParameterError, match="4x twice"):
        params.arms({"sweep": {"magnification": [4, 4]}})


def test_parameters_are_read_with_default_and_help(notebook):
    declared = declarations.notebook_parameters(notebook)
    assert declared["tile_px"] == declarations.Parameter("tile_px", 512, "side of a tile, px")
    assert declared["split_ratios"].default == [0.7, 0.15, 0.15]


def test_a_good_preset_passes(notebook):
    declarations.check({"magnification": 2.5, "learning_rate": 1, "sweep": {"tile_px": [256, 512]}}, [notebook])


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
        declarations.check(preset, [notebook])


def test_all_faults_are_listed_at_once(notebook):
    with pytest.raises(ParameterError) as caught:
        declarations.check({"tilepx": 1, "augment": 3}, [notebook])
    assert "tile_px" in str(caught.value) and "augment" in str(caught.value)


def test_a_list_within_a_list_of_arms_makes_an_arm_of_each_value():
    preset = {"sweep": [{"magnification": [20, 4], "seed": [0, 1]}, {"magnification": 20, "tile_px": 1280}]}
    names = [arm["arm"] for arm in params.arms(preset)]
    assert names == ["20x_seed=0", "20x_seed=1", "4x_seed=0", "4x_seed=1", "20x_tile_px=1280"]
    assert len(params.arms(params.override(preset, {"magnification": 4}))) == 2
    preset = {"sweep": [{"magnification": 4, "target_class": ["TLS", "Immune cells"]}]}
    assert params.arms(preset)[0]["target_class"] == ["TLS", "Immune cells"]


def test_a_sweep_asks_for_cascades_where_arms_differ_in_magnification_alone():
    asked = {
        path.stem: params.has_cascade(params.read_preset(path)) for path in sorted((ROOT / "params").glob("*.yaml"))
    }
    assert asked["demo"] and asked["paper"] and asked["smoke"]
    assert not asked["controls"] and not asked["controls_demo"], "many arms, and another question"
    assert params.has_cascade({"sweep": {"magnification": [4, 1], "seed": [0, 1]}})
    assert not params.has_cascade({"sweep": {"magnification": [4]}})
    assert not params.has_cascade({"sweep": [{"magnification": 4, "seed": 0}, {"magnification": 1, "seed": 1}]})


def test_the_overlap_of_windows_is_a_number_or_left_to_validation():
    notebooks = [ROOT / "notebooks" / "05_wsi_evaluation.ipynb"]
    for value in ("auto", 0, 0.125, 0.5):
        declarations.check({"window_overlap": value}, notebooks)
    for value, message in ((0.95, "between 0 and 0.9"), ("half", "auto, or a number"), (True, "auto, or a number")):
        with pytest.raises(ParameterError, match=f"`window_overlap` should .*{message}"):
            declarations.check({"window_overlap": value}, notebooks)
