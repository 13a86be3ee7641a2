"""``tlskit predict --screen``: two networks over a slide, by a stored or a given setting; killed in either stage."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made_slides import vips_slide
from torch import nn
from typer.testing import CliRunner

from tlskit.__main__ import app
from tlskit.cohort import from_slides
from tlskit.errors import CheckpointError, RunError, SlideError
from tlskit.evaluation import stored_screens
from tlskit.maps import check_networks, make_screen, open_map, predict_cohort, screens_of
from tlskit.networks import models
from tlskit.slides import Slide

EXACT = {"engine": "torch", "precision": "exact"}


class Purple(nn.Module):
    """The darker the green channel, the more it is a target; a blur makes a window's rim matter."""

    def forward(self, x):
        x = nn.functional.avg_pool2d(x[:, 1:2], 5, stride=1, padding=2)
        return torch.logit((1.2 * (0.75 - x)).clamp(1e-6, 1 - 1e-6))


def network(magnification, sha, **other):
    return SimpleNamespace(
        model=Purple(), magnification=magnification, mpp=10 / magnification, tile_px=64, overlap=0.25, threshold=0.5,
        normalisation="divide_255", sha256=sha, resolution_by="mpp", target_class="TLS", apply_icc=False, **other,
    )  # fmt: skip


FINE, COARSE = network(10, "f" * 64), network(2, "c" * 64)


@pytest.fixture
def slide(tmp_path):
    image = np.full((1000, 1300, 3), 242, np.uint8)
    image[100:900, 100:1200] = (225, 170, 200)
    image[200:420, 200:400] = image[700:760, 900:970] = (110, 50, 140)
    return vips_slide(tmp_path / "s.svs", image, mpp=1.0, power=10, quality=92)


@pytest.fixture
def run_dir(tmp_path, monkeypatch):
    """A run whose two checkpoints load as the networks above."""
    by_arm = {"10x": FINE, "2x": COARSE}
    for arm in by_arm:
        (tmp_path / "run" / arm / "work").mkdir(parents=True)
        (tmp_path / "run" / arm / "work" / "checkpoint.pt").write_text("weights")
    monkeypatch.setattr(models, "load_checkpoint", lambda path: by_arm[path.parent.parent.name])
    return tmp_path / "run"


def predict(run_dir, slide, out, *options):
    arguments = ["predict", str(slide), "--checkpoint", str(run_dir / "10x/work/checkpoint.pt"), "--out", str(out)]
    return CliRunner().invoke(app, [*arguments, "--engine", "torch", "--precision", "exact", *options])


def store(run_dir, **setting):
    row = {"coarse": "2x", "fine": "10x", "recall_floor": 0.99, "by": "estimate", "reason": "because"} | setting
    row |= {"coarse_sha256": COARSE.sha256, "fine_sha256": FINE.sha256}
    (run_dir / stored_screens.SCREENS).parent.mkdir(parents=True)
    (run_dir / stored_screens.SCREENS).write_text(json.dumps([row]))


def test_the_stored_setting_is_the_one_given_by_hand_and_both_networks_are_named(run_dir, slide, tmp_path):
    store(run_dir, screen="map", screen_threshold=0.3, grow_um=20.0)
    screen = ["--screen", str(run_dir / "2x/work/checkpoint.pt")]
    stored = predict(run_dir, slide, tmp_path / "a", *screen)
    given = predict(run_dir, slide, tmp_path / "b", *screen, "--screen-threshold", "0.3", "--screen-grow-um", "20")
    assert stored.exit_code == given.exit_code == 0, stored.output + given.output
    assert "screen by 2x: from 0.3, grown by 20 um, chosen by notebook cascade: because" in stored.output
    assert (tmp_path / "a/maps/s.tif").read_bytes() == (tmp_path / "b/maps/s.tif").read_bytes()
    with open_map(tmp_path / "a/maps/s.tif") as found, open_map(tmp_path / "a/screens/s.tif") as coarse:
        facts = found.metadata["parameters"]["screen"]
        assert facts == make_screen(coarse, threshold=0.3, grow_um=20).facts and found.unseen
        assert (found.metadata["checkpoint_sha256"], facts["checkpoint_sha256"]) == (FINE.sha256, COARSE.sha256)
        share = found.metadata["windows"] / (found.metadata["windows"] + found.metadata["windows_screened"])
    assert 0 < share < 0.7 and f"({share:.0%} of the windows looked at)" in stored.output
    outlines = json.loads((tmp_path / "a/geojson/s.geojson").read_text())
    assert len(outlines["features"]) == 2
    text = json.dumps(outlines)
    assert FINE.sha256 in text and COARSE.sha256 in text


def test_where_the_notebook_chose_no_screen_the_fine_network_looks_everywhere(run_dir, slide, tmp_path):
    store(run_dir, screen="none", screen_threshold=None, grow_um=None)
    made = predict(run_dir, slide, tmp_path / "a", "--screen", str(run_dir / "2x/work/checkpoint.pt"))
    plain = predict(run_dir, slide, tmp_path / "b")
    assert made.exit_code == plain.exit_code == 0, made.output
    assert "no screen, the fine network looks everywhere: because" in made.output
    assert (tmp_path / "a/maps/s.tif").read_bytes() == (tmp_path / "b/maps/s.tif").read_bytes()


def test_what_makes_no_cascade_is_refused(run_dir, slide, tmp_path):
    screen = ["--screen", str(run_dir / "2x/work/checkpoint.pt")]
    unknown = predict(run_dir, slide, tmp_path / "a", *screen)
    assert isinstance(unknown.exception, RunError) and "Run the notebook cascade" in str(unknown.exception)
    half = predict(run_dir, slide, tmp_path / "a", *screen, "--screen-threshold", "0.3")
    assert half.exit_code == 2 and "neither" in half.output
    without = predict(run_dir, slide, tmp_path / "a", "--screen-threshold", "0.3", "--screen-grow-um", "1")
    assert without.exit_code == 2 and "--screen" in without.output
    store(run_dir, screen="map", screen_threshold=0.3, grow_um=20.0)
    with pytest.raises(RunError, match="no screen for these two"):
        stored_screens.read_screen(run_dir, coarse_sha256="x", fine_sha256=FINE.sha256)
    with pytest.raises(CheckpointError, match="other way round"):
        check_networks(FINE, COARSE)
    with pytest.raises(CheckpointError, match="target_class"):
        check_networks(SimpleNamespace(**vars(COARSE) | {"target_class": "B"}), FINE)
    assert not (tmp_path / "a").exists(), "nothing was begun"


@pytest.mark.parametrize("stage", ["coarse", "fine"])
def test_killed_in_either_stage_it_goes_on_to_the_identical_maps(slide, tmp_path, monkeypatch, stage):
    rows = from_slides([slide])

    def run(out):
        screen_for = screens_of(COARSE, out / "screens", threshold=0.05, grow_um=100, strip_px=128, **EXACT)
        return predict_cohort(FINE, rows, out / "maps", screen_for=screen_for, strip_px=128, progress=False, **EXACT)

    whole = run(tmp_path / "whole")
    n_coarse = open_map(tmp_path / "whole/screens/s.tif").metadata["windows"]
    plain, served = Slide.windows, []
    dies_at = n_coarse - 2 if stage == "coarse" else n_coarse + whole["windows"].item() - 3

    def dies(*args, **options):
        for item in plain(*args, **options):
            served.append(item)
            if len(served) > dies_at:
                raise SlideError("the power went")
            yield item

    with monkeypatch.context() as patched:
        patched.setattr(Slide, "windows", dies)
        with pytest.raises(SlideError, match="power"):
            run(tmp_path / "killed")
    assert not (tmp_path / "killed/maps/s.tif").exists()
    assert (tmp_path / "killed/screens/s.tif").exists() == (stage == "fine")
    again = run(tmp_path / "killed")
    for name in ("screens/s.tif", "maps/s.tif"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert again["windows"].item() == whole["windows"].item() and run(tmp_path / "killed")["kept"].all()
