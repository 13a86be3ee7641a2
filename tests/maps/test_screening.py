"""A screen decides where a network looks, and nothing else."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made_slides import vips_slide
from torch import nn

from tlskit.errors import MapError, ParameterError, SlideError
from tlskit.maps import inference, map_writer, probmaps, screening, windows
from tlskit.slides import open_slide

MPP0 = 1.0


class Red(nn.Module):
    """The probability is how red a pixel is, seen through a small blur, so that a window's rim matters."""

    def forward(self, x):
        x = nn.functional.avg_pool2d(x[:, :1], 5, stride=1, padding=2)
        return torch.logit(x.clamp(1e-6, 1 - 1e-6))


def checkpoint(sha="f" * 64, magnification=10):
    return SimpleNamespace(
        model=Red(), magnification=magnification, mpp=10 / magnification, tile_px=64, overlap=0.5,
        normalisation="divide_255", sha256=sha, resolution_by="mpp",
    )  # fmt: skip


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    image = np.full((700, 900, 3), 30, np.uint8)
    image[100:260, 120:300, 0] = 230
    image[500:560, 700:780, 0] = 200
    return vips_slide(tmp_path_factory.mktemp("s") / "s.svs", image, mpp=MPP0, power=10, quality=95)


def predict(slide, path, *, screen=None, **options):
    options = {"tissue": False, "engine": "torch", "precision": "exact", "progress": False, "block_px": 64, **options}
    made = options.pop("checkpoint", None) or checkpoint()
    return inference.predict_slide(made, slide, path, screen=screen, **options)


@pytest.fixture(scope="module")
def coarse(slide, tmp_path_factory):
    path = tmp_path_factory.mktemp("coarse") / "s.tif"
    predict(slide, path, checkpoint=checkpoint("c" * 64, magnification=4))
    with probmaps.open_map(path) as found:
        yield found


def everything(path):
    with probmaps.open_map(path) as found:
        return found.read(0, 0, *found.size_px), found.metadata


def test_a_screen_of_everything_gives_the_full_map_bit_for_bit(slide, coarse, tmp_path):
    full = predict(slide, tmp_path / "full.tif")
    screened = predict(slide, tmp_path / "s.tif", screen=screening.make_screen(coarse, threshold=0, grow_um=0))
    (a, _), (b, metadata) = everything(full.path), everything(screened.path)
    assert np.array_equal(a, b) and screened.windows == full.windows and screened.windows_screened == 0
    assert metadata["unseen"] == []


def test_a_screen_of_nothing_gives_an_empty_map_and_runs_no_window(slide, coarse, tmp_path):
    screen = screening.make_screen(coarse, threshold=1.0, grow_um=500)
    made = predict(slide, tmp_path / "s.tif", screen=screen)
    values, metadata = everything(made.path)
    assert made.windows == 0 and made.windows_screened > 0 and not values.any()
    assert sum(w * h for _, _, w, h in metadata["unseen"]) == values.size, "all of it is marked"


@pytest.mark.parametrize(("threshold", "grow_um"), [(0.5, 0.0), (0.5, 40.0), (0.85, 10.0)])
def test_every_window_that_touches_the_screen_is_run(slide, coarse, tmp_path, threshold, grow_um):
    screen = screening.make_screen(coarse, threshold=threshold, grow_um=grow_um)
    made = predict(slide, tmp_path / "s.tif", screen=screen)
    full = predict(slide, tmp_path / "full.tif")
    # By brute force: every window against every square of the screen.
    rows, columns = np.nonzero(screen.area.mask)
    left, top, side = columns * screen.area.mpp, rows * screen.area.mpp, screen.area.mpp
    steps = [range(0, max(1, length - 64 + 32), 32) for length in full.map_px]

    def touches(x, y):
        return ((left < x + 64) & (left + side > x) & (top < y + 64) & (top + side > y)).any()

    touched = [(x, y) for y in steps[1] for x in steps[0] if touches(x, y)]
    assert made.windows == len(touched) and made.windows + made.windows_screened == full.windows
    (a, _), (b, metadata) = everything(full.path), everything(made.path)
    # Equal wherever all windows over a pixel were run; what no window covered is marked, and nothing else.
    run, covered = set(touched), np.zeros(b.shape, bool)
    whole = np.ones(b.shape, bool)
    for y in steps[1]:
        for x in steps[0]:
            (covered if (x, y) in run else whole)[y : y + 64, x : x + 64] = (x, y) in run
    assert np.array_equal(a[whole], b[whole]) and not b[~covered].any() and (~covered).any() and whole.any()
    marked = np.zeros(b.shape, bool)
    for x, y, w, h in metadata["unseen"]:
        marked[y : y + h, x : x + w] = True
    assert np.array_equal(marked, ~covered)
    assert metadata["parameters"]["screen"] == screen.facts and screen.facts["checkpoint_sha256"] == "c" * 64
    assert made.tissue_mm2 == full.tissue_mm2, "a screen is not tissue"


def test_growth_is_a_distance_in_um(coarse):
    small = screening.make_screen(coarse, threshold=0.5, grow_um=0).area
    grown = screening.make_screen(coarse, threshold=0.5, grow_um=60.0).area
    rows, columns = np.nonzero(small.mask)
    i, j = np.mgrid[: small.mask.shape[0], : small.mask.shape[1]]
    nearest = np.full(small.mask.shape, np.inf)
    for y, x in zip(rows, columns, strict=True):
        nearest = np.minimum(nearest, np.hypot(i - y, j - x) * small.mpp)
    assert np.array_equal(grown.mask, nearest <= 60.0) and small.mask.any()


def test_the_largest_value_of_a_block_counts_and_what_was_lost_is_looked_at(tmp_path):
    values = np.zeros((40, 50), np.uint8)
    values[7, 9] = 200
    with map_writer.MapWriter(tmp_path / "m.tif", (50, 40), mpp=1.0, block_px=16, metadata={
        "mpp0": 0.5, "invalid": [[20, 30, 10, 10]],
    }) as writer:  # fmt: skip
        for y in range(0, 40, 16):
            for x in range(0, 50, 16):
                writer.write_block(x, y, values[y : y + 16, x : x + 16])
    with probmaps.open_map(tmp_path / "m.tif") as found:
        blocks, mpp = screening.reduced(found)
        screen = screening.make_screen(found, threshold=0.7, grow_um=0)
    assert mpp == 4.0 and blocks.shape == (10, 13) and blocks[1, 2] == 200
    expected = np.zeros((10, 13), bool)
    expected[1, 2] = expected[7:10, 5:8] = True
    assert np.array_equal(screen.area.mask, expected) and screen.area.mpp0 == 0.5
    assert list(screen.touches([0.0, 8.0 * 2], [0.0, 4.0 * 2], [2.0, 0.1])) == [False, True]


def test_a_run_killed_under_a_screen_goes_on_to_the_identical_map(slide, coarse, tmp_path, monkeypatch):
    screen = screening.make_screen(coarse, threshold=0.5, grow_um=40)
    whole = predict(slide, tmp_path / "whole.tif", screen=screen, slide_id="s", strip_px=128)
    with open_slide(slide) as opened:
        plain, served = opened.windows, []

        def dies(*args, **options):
            for item in plain(*args, **options):
                served.append(item)
                if len(served) > 120:
                    raise SlideError("the power went")
                yield item

        monkeypatch.setattr(opened, "windows", dies)
        with pytest.raises(SlideError, match="power"):
            predict(opened, tmp_path / "m.tif", screen=screen, slide_id="s", strip_px=128)
    again = predict(slide, tmp_path / "m.tif", screen=screen, slide_id="s", strip_px=128)
    assert again.resumed_windows > 0 and again.path.read_bytes() == whole.path.read_bytes()


def test_another_screen_is_another_map(slide, coarse, tmp_path):
    cohort = [SimpleNamespace(slide_id="s", slide_path=str(slide), mpp_override=None, annotation_path="")]
    options = {"overlap": 0.5, "engine": "torch", "precision": "exact", "progress": False, "tissue": False}

    def run(**screen):
        made = screening.make_screen(coarse, **screen)
        return inference.predict_cohort(checkpoint(), cohort, tmp_path, screen_for=lambda _: made, **options)

    first = run(threshold=0.5, grow_um=10)
    assert not first["kept"][0] and run(threshold=0.5, grow_um=10)["kept"][0]
    other = run(threshold=0.5, grow_um=80)
    assert not other["kept"][0] and other["windows"][0] > first["windows"][0]


def test_both_networks_look_through_tissue_that_was_searched_once(tmp_path, monkeypatch):
    from tlskit.maps import cascading
    from tlskit.slides import tissue

    image = np.full((700, 900, 3), 243, np.uint8)
    image[100:600, 100:800] = (100, 60, 160)
    image[200:300, 200:300] = (230, 120, 180)
    slide = vips_slide(tmp_path / "s.svs", image, mpp=MPP0, power=10, quality=95)
    searches, search = [], tissue._search
    monkeypatch.setattr(tissue, "_search", lambda *how: searches.append(how) or search(*how))
    row = SimpleNamespace(slide_id="s", slide_path=str(slide), mpp_override=None, annotation_path="")
    options = {"overlap": 0.5, "engine": "torch", "precision": "exact", "progress": False}
    screen_for = cascading.screens_of(
        checkpoint("c" * 64, magnification=4), tmp_path / "coarse", threshold=0.5, grow_um=20, **options
    )
    made = inference.predict_cohort(checkpoint(), [row], tmp_path / "both", screen_for=screen_for, **options)
    assert len(searches) == 1 and 0 < made["windows"][0] and made["windows_screened"][0] > 0
    alone = inference.predict_cohort(checkpoint(), [row], tmp_path / "alone", screen_for=screen_for, **options)
    assert len(searches) == 2 and not alone["kept"][0], "the coarse map was kept: the fine network searches"
    maps = [Path(table["map_path"][0]).read_bytes() for table in (made, alone)]
    assert maps[0] == maps[1]


@pytest.mark.parametrize("planned", [0, 40, 250, 900, 1500, 5000])
def test_checking_an_engine_again_takes_a_fiftieth_of_the_work(planned):
    counts = [windows.count_to_check(planned, f"slides/{name}.svs") for name in range(2000)]
    assert np.mean(counts) == pytest.approx(min(4, planned / 500), abs=0.05)
    assert counts[0] == windows.count_to_check(planned, "elsewhere/0.svs"), "the same in every run, by the name"


def test_impossible_screens_are_refused(slide, coarse, tmp_path):
    for bad in (
        {"threshold": 0.5, "grow_um": -1},
        {"threshold": 0.5, "grow_um": math.nan},
        {"threshold": 2, "grow_um": 0},
    ):
        with pytest.raises(ParameterError):
            screening.make_screen(coarse, **bad)
    made = predict(slide, tmp_path / "s.tif", screen=screening.make_screen(coarse, threshold=0.5, grow_um=0))
    with probmaps.open_map(made.path) as screened, pytest.raises(MapError, match="itself predicted under a screen"):
        screening.make_screen(screened, threshold=0.5, grow_um=0)
    other = vips_slide(tmp_path / "other.svs", np.full((300, 300, 3), 90, np.uint8), mpp=0.5, power=20)
    with pytest.raises(ParameterError, match="um/px"):
        predict(other, tmp_path / "o.tif", screen=screening.make_screen(coarse, threshold=0.5, grow_um=0))
