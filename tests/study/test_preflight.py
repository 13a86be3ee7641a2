"""What would end a run after hours is said before it: parameters that cannot work together, and the machine."""

import importlib.util
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from tlskit.errors import ParameterError
from tlskit.study import declarations, estimates, keys, preflight, project, sweep

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def arm(tmp_path):
    """An arm of the preset `smoke`, whose cohort is missing."""
    found = {"outputs_dir": str(tmp_path / "outputs"), "manifest": str(tmp_path / "none.csv")}
    for step in keys.STEPS:
        declared = declarations.notebook_parameters(ROOT / "notebooks" / f"{step}.ipynb")
        found = {name: parameter.default for name, parameter in declared.items()} | found
    return found | {"encoder_weights": "none", "tile_px": 64, "batch_size": 4, "workers": 1}


def said(arm: dict, severity: str) -> str:
    table = preflight.check_run([arm])
    return "\n".join(
        f"{row.problem}: {row.what} {row.remedy}" for row in table[table["severity"] == severity].itertuples()
    )


def test_an_arm_that_works_has_notes_only(arm):
    table = preflight.check_run([arm])
    assert set(table["severity"]) == {"note"}
    # `auto` is what the machine multiplies: a step in bf16 takes less.
    assert "64 px, exact) takes about 1.1 GB" in said(arm | {"precision": "exact"}, "note")
    assert "64 px, bf16) takes about 1.0 GB" in said(arm | {"precision": "bf16"}, "note")


def test_what_a_context_takes_is_counted(arm):
    context = {"context_ratio": 4, "context_px": 256}
    assert "4 tiles of 64 px, each with a context of 256 px" in said(arm | context, "note")
    assert not said(arm | context, "error")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"tile_px": 100},
            "parameters: `tile_px` should be a multiple of 32, because the network halves its input five times",
        ),
        ({"tile_px": 32, "batch_size": 1}, "cannot be trained on batches of 1 tiles of 32 px"),
        ({"encoder": "eficientnet-b0"}, "Did you mean efficientnet-b0"),
        ({"context_ratio": 4, "context_px": 16}, "parameters: `context_px` should be a multiple of 32"),
        ({"encoder_weights": "none.pth"}, "`encoder_weights`: there is no file"),
        ({"encoder_weights": "imagenett"}, "`encoder_weights` should be 'imagenet'"),
        ({"batch_size": 4096, "tile_px": 512}, "memory: A step of training (4096 tiles of 512 px"),
    ],
)
def test_what_cannot_work_is_an_error(arm, changed, message):
    assert message in said(arm | changed, "error")


def test_an_engine_that_is_not_installed_is_an_error(arm, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "openvino" else find(name, *a))
    assert "`engine: openvino` needs a package that is not installed" in said(arm | {"engine": "openvino"}, "error")


def test_weights_of_another_encoder_are_an_error(arm, tmp_path):
    import torch

    torch.save({"conv.weight": torch.zeros(2)}, tmp_path / "w.pth")
    assert "does not hold the encoder" in said(arm | {"encoder_weights": str(tmp_path / "w.pth")}, "error")


def test_a_disk_without_room_is_an_error(arm, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(preflight, "areas_um2_of", lambda arm: [4e8] * 100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 1e9))
    # 100 slides of 20 x 20 mm at 20x, half a byte a pixel, less the share that is trained on; of some, three overlaps.
    training, validation, _ = (ratio / sum(arm["split_ratios"]) for ratio in arm["split_ratios"])
    share = 1 - training + 3 * min(arm["overlap_slides"], 100 * validation) / 100
    wanted = (100 * 4e8 / 0.5**2 * share * 0.5 + 5 * 27e6) / 1e9
    assert f"disk: The plan writes up to about {wanted:.1f} GB" in said(arm | {"magnification": 20}, "error")


def test_what_is_equal_in_several_arms_takes_room_once(arm, monkeypatch):
    asked = {"magnification": 20, "tile_store": "png"}
    areas = [4e8] * 100
    monkeypatch.setattr(preflight, "areas_um2_of", lambda arm: areas)

    def wanted(*arms):
        rows = preflight.check_run([arm | asked | {"outputs_dir": "."} | more for more in arms])
        (said,) = rows.loc[rows["problem"] == "disk", "what"]
        return said.split("about ")[1].split(" (")[0]

    assert wanted({"grid_mpp": 4.0}, {"grid_mpp": 4.0, "workers": 1, "arm": "b"}) == wanted({})
    tiles = preflight._bytes_of_tiles(arm | asked, areas)
    maps = preflight._bytes_of_maps(arm | asked, areas)
    both = tiles + 2 * maps + 5 * 27e6  # tiled and trained once
    assert wanted({}, {"window_overlap": 0.5}) == preflight._gb(both) != wanted({})


def test_a_folder_that_cannot_be_written_into_is_an_error(arm, monkeypatch):
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(preflight.tempfile, "TemporaryFile", refuse)
    assert "disk: Nothing can be written into" in said(arm, "error")


def test_a_disk_on_which_claims_exclude_nobody_is_an_error_and_one_without_flock_is_not(arm, monkeypatch):
    import fcntl

    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    assert "`flock` does nothing on this disk" in said(arm, "note") and not said(arm, "error")
    monkeypatch.setattr(preflight.Claims, "take", lambda *_: True)
    assert "two processes can claim one piece" in said(arm, "error")


def test_more_readers_than_cores_and_notebooks_of_another_version_are_told(arm, tmp_path, monkeypatch):
    project.make_project(tmp_path / "study")
    (tmp_path / "study" / project.VERSION_FILE).write_text("0.0.1\n")
    monkeypatch.chdir(tmp_path / "study")
    warned = said(arm | {"workers": 250}, "warning")
    assert "`workers` is 250" in warned and "The notebooks here are of tlskit 0.0.1" in warned


def test_a_preset_is_looked_at_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    given = {"manifest": str(tmp_path / "none.csv"), "outputs_dir": str(tmp_path / "outputs")}
    given |= {"tile_px": 32, "batch_size": 1}
    table = preflight.check_preset(sweep.prepare(ROOT / "params/smoke.yaml", given))
    errors = table[table["severity"] == "error"]
    assert set(errors["problem"]) == {"parameters", "manifest"} and len(errors) == 2
    assert list(table["severity"]) == sorted(table["severity"], key=["error", "warning", "note", "ok"].index)


@pytest.mark.parametrize(
    "given", [{"grid_mpp": -1}, {"min_object_um2": -1}, {"bootstrap_draws": 0}, {"timing_slides": -1}, {"seed": -1}]
)
def test_a_number_that_no_step_can_use_is_refused(given, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ParameterError, match="should lie between"):
        sweep.prepare(ROOT / "params/smoke.yaml", given)


def test_an_overlap_that_cannot_be_chosen_is_told_before(arm):
    arm |= {"window_overlap": "auto", "overlap_slides": 12}
    assert "overlap" not in said(arm, "warning")
    warned = said(arm | {"overlap_slides": 3}, "warning")
    assert "`overlap_slides` is 3" in warned and "`window_overlap: auto` takes 0.5" in warned
    assert "overlap" not in said(arm | {"overlap_slides": 3, "window_overlap": 0.5}, "warning")


def test_what_is_compared_and_denser_windows_take_longer(arm):
    asked = {"magnification": 4, "split_ratios": [0.5, 0.25, 0.25], "overlap_slides": 0, "window_overlap": "auto"}

    def seconds(**more):
        of_arm = estimates._of_arm(arm | asked | more, [4e8] * 100, [], 1e-6)
        return of_arm["05_wsi_evaluation"] - estimates._NOTEBOOK_S

    none, half = seconds(window_overlap=0.0), seconds(window_overlap=0.5)
    assert half == pytest.approx(4 * none) and seconds() == pytest.approx(half)  # auto, at most a half
    a_slide = none / 50
    assert seconds(window_overlap=0.0, overlap_slides=12) == pytest.approx(none + 12 * 4 * 4 / 3 * a_slide)
    assert seconds(overlap_slides=99) == pytest.approx(half + 25 * 4 / 3 * a_slide)  # maps of a half are kept
