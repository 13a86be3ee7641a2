"""Larger windows are measured before they are used."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from shapely import box
from torch import nn

from tlskit.errors import ParameterError, SlideError
from tlskit.evaluation import windowing
from tlskit.maps import inference
from tlskit.outlines import reading as annotations
from tlskit.slides.tiffs import write_slide


class Dark(nn.Module):
    """Dark pixels are target; with `context` the more so the paler the whole window, as squeeze-and-excitation does."""

    def __init__(self, context=0.0):
        super().__init__()
        self.context = context

    def forward(self, x):
        return 20 * (0.5 - x[:, :1]) + self.context * x.mean((1, 2, 3), keepdim=True)


def checkpoint(model):
    return SimpleNamespace(
        model=model, magnification=10, mpp=1.0, tile_px=128, overlap=0.5, normalisation="divide_255", sha256="f",
        resolution_by="mpp", threshold=0.5, target_class="TLS",
    )  # fmt: skip


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    image = np.full((600, 700, 3), 243, np.uint8)
    image[60:540, 60:640] = (225, 160, 200)
    image[200:300, 150:350] = (40, 40, 120)
    write_slide(folder / "s.tif", image, mpp=1.0, objective_power=10, quality=95)
    annotations.write_geojson(folder / "s.geojson", [box(150, 200, 350, 280)], class_name="TLS")
    made = SimpleNamespace(
        slide_id="s", patient_id="p", cancer_type="x", slide_path=str(folder / "s.tif"),
        annotation_path=str(folder / "s.geojson"), mpp_override=math.nan,
    )  # fmt: skip
    return [made]


OPTIONS = {"engine": "torch", "precision": "exact", "progress": False, "window_px": 256}


def test_a_network_without_context_gives_the_same_map_whatever_its_window(tmp_path, rows):
    table = windowing.compare_windows(checkpoint(Dark()), rows, tmp_path, **OPTIONS).set_index("slide_id")
    assert list(table.index) == ["s", "all"]
    assert table.loc["all", "max_dprob"] == 0 and table.loc["all", "agreement"] == 1
    # 200 x 100 px found, 200 x 80 of them true
    assert table.loc["s", "dice_tile"] == pytest.approx(2 * 16000 / (20000 + 16000), abs=0.01)
    assert table.loc["all", "dice_change"] == 0
    record = json.loads((tmp_path / "window_256.json").read_text())
    assert record["window_px"] == 256 and record["halo_px"] == 64 and record["tile_px"] == 128
    assert record["slides"][0]["dice_tile"] == pytest.approx(table.loc["s", "dice_tile"])
    assert (tmp_path / "window_256" / "s.tif").exists() and (tmp_path / "window_128" / "s.tif").exists()


def test_a_network_that_sees_its_window_shows_what_changes(tmp_path, rows):
    torch.manual_seed(0)
    table = windowing.compare_windows(checkpoint(Dark(context=8.0)), rows, tmp_path, **OPTIONS).set_index("slide_id")
    assert table.loc["all", "mean_abs_dprob"] > 0.001 and table.loc["all", "max_dprob"] > 0.05


def test_a_cohort_takes_larger_windows_only_after_they_were_measured(tmp_path, rows):
    made = checkpoint(Dark())
    with pytest.raises(ParameterError, match="compare_windows"):
        inference.predict_cohort(made, rows, tmp_path, **OPTIONS)
    windowing.compare_windows(made, rows, tmp_path, **OPTIONS)
    assert len(inference.predict_cohort(made, rows, tmp_path, **OPTIONS)) == 1
    made.sha256 = "another"
    with pytest.raises(ParameterError, match="another checkpoint"):
        inference.predict_cohort(made, rows, tmp_path, **OPTIONS)


def test_without_a_slide_there_is_nothing_to_judge_by(tmp_path, rows):
    gone = SimpleNamespace(**{**vars(rows[0]), "slide_path": str(tmp_path / "gone.tif")})
    with pytest.raises(SlideError):
        windowing.compare_windows(checkpoint(Dark()), [gone], tmp_path, **OPTIONS)
    failures = []
    with pytest.raises(ParameterError, match="No slide could be compared"):
        windowing.compare_windows(
            checkpoint(Dark()), [gone], tmp_path, on_failure=lambda *f: failures.append(f), **OPTIONS
        )
    assert len(failures) == 1
