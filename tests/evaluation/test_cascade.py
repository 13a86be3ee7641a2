"""A cascade judged from maps that are there, beside a real run of it and beside brute force."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import shapely
import torch
from made_slides import vips_slide
from torch import nn

from tlskit import cohort
from tlskit.errors import MapError, ParameterError
from tlskit.evaluation import cascade, evaluate_grid, screen_choice
from tlskit.maps import inference, make_screen, open_map
from tlskit.outlines import reading

MPP0 = 1.0
TRUTH = {"target_class": "TLS"}


class Purple(nn.Module):
    """The darker the green channel, the more it is a target; a blur makes a window's rim matter."""

    def forward(self, x):
        x = nn.functional.avg_pool2d(x[:, 1:2], 5, stride=1, padding=2)
        return torch.logit((1.2 * (0.75 - x)).clamp(1e-6, 1 - 1e-6))


def checkpoint(magnification, sha):
    return SimpleNamespace(
        model=Purple(), magnification=magnification, mpp=10 / magnification, tile_px=64, overlap=0.25,
        normalisation="divide_255", sha256=sha, resolution_by="mpp",
    )  # fmt: skip


def tissue_picture(seed):
    """Pink tissue on glass with three dark targets: a large one, a small one, one that the coarse network misses."""
    rng = np.random.default_rng(seed)
    image = np.full((1400, 1600, 3), 242, np.uint8)
    image[150:1250, 150:1450] = (225, 170, 200)
    boxes = [(300, 300, 260, 240), (1000, 500, 90, 80), (500, 950, 40, 36)]
    for n, (x, y, w, h) in enumerate(boxes):
        image[y : y + h, x : x + w] = (110, 50, 140) if n < 2 else (150, 85, 165)
    noise = rng.integers(-6, 7, image.shape)
    noise[image.min(2) > 240] = 0
    return np.clip(image + noise, 0, 255).astype(np.uint8), [shapely.box(x, y, x + w, y + h) for x, y, w, h in boxes]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two validation slides and a test slide with full maps at 10x and 2x, through the real pipeline."""
    folder = tmp_path_factory.mktemp("cascade")
    rows = []
    for n, split in enumerate(["val", "val", "test"]):
        image, targets = tissue_picture(n)
        vips_slide(folder / f"s{n}.svs", image, mpp=MPP0, power=10, quality=92)
        reading.write_geojson(folder / f"s{n}.geojson", targets[: 3 - n % 2], class_name="TLS")
        rows.append((f"s{n}", f"p{n}", "lung", f"s{n}.svs", f"s{n}.geojson", split))
    names = ["slide_id", "patient_id", "cancer_type", "slide_path", "annotation_path", "split"]
    pd.DataFrame(rows, columns=names).to_csv(folder / "manifest.csv", index=False)
    manifest = cohort.read_manifest(folder / "manifest.csv")
    options = {"engine": "torch", "precision": "exact", "progress": False}
    maps = {
        name: inference.predict_cohort(checkpoint(m, sha), manifest, folder / name, **options)
        for name, m, sha in (("fine", 10, "f" * 64), ("coarse", 2, "c" * 64))
    }
    return folder, manifest, maps


@pytest.fixture(scope="module")
def counts(made):
    _, manifest, maps = made
    return cascade.screen_counts(maps["fine"], maps["coarse"], manifest, threshold=0.5, controls=True, **TRUTH)


def test_the_full_run_is_a_row_and_every_setting_adds_up_to_it(made, counts):
    full = counts[counts["screen"] == "none"].set_index("slide_id")
    assert (full["windows"] == full["windows_full"]).all() and (full["tp_lost"] == 0).all()
    for row in counts.itertuples():
        whole = full.loc[row.slide_id]
        assert row.tp + row.tp_lost == pytest.approx(whole.tp) and row.fp + row.fp_spared == pytest.approx(whole.fp)
        assert row.tp + row.fn == pytest.approx(whole.tp + whole.fn) and row.windows <= whole.windows
        assert row.screen == "random" or row.n_kept <= row.n_targets
        assert row.n_targets == len(reading.read_targets(made[0] / f"{row.slide_id}.geojson", "TLS"))
    _, manifest, maps = made
    grid = evaluate_grid(maps["fine"], manifest, threshold=0.5, with_objects=False, **TRUTH).counts
    for name in ("tp", "fp", "fn", "tn"):
        assert list(grid.set_index("slide_id")[name]) == list(full[name])


def test_target_that_the_search_for_tissue_missed_is_counted_as_the_comparison_counts_it(made, tmp_path):
    _, manifest, maps = made
    reading.write_geojson(tmp_path / "on_glass.geojson", [shapely.box(1400, 600, 1540, 700)], class_name="TLS")
    one = manifest[manifest["slide_id"] == "s0"].assign(annotation_path=str(tmp_path / "on_glass.geojson"))
    grid = evaluate_grid(maps["fine"].head(1), one, threshold=0.5, with_objects=False, **TRUTH).counts.iloc[0]
    assert grid["target_px_outside_tissue"] > 100
    found = cascade.screen_counts(maps["fine"].head(1), maps["coarse"], one, threshold=0.5, **TRUTH)
    full = found[found["screen"] == "none"].iloc[0]
    assert all(full[name] == grid[name] for name in ("tp", "fp", "fn", "tn"))


def test_a_lower_threshold_or_more_growth_never_loses_more(counts):
    of = counts[counts["screen"] == "map"]
    for _, here in of.groupby(["slide_id", "grow_um"]):
        assert here.sort_values("screen_threshold")["windows"].is_monotonic_decreasing
        assert here.sort_values("screen_threshold")["tp_lost"].is_monotonic_increasing
    for _, here in of.groupby(["slide_id", "screen_threshold"]):
        assert here.sort_values("grow_um")["windows"].is_monotonic_increasing
        assert here.sort_values("grow_um")["tp_lost"].is_monotonic_decreasing
    setting = ["slide_id", "screen_threshold", "grow_um"]
    random, mapped = counts[counts["screen"] == "random"].set_index(setting), of.set_index(setting)
    random = random.loc[mapped.index]
    assert (random["windows"] == mapped["windows"]).all(), "as many windows"
    assert mapped["tp_lost"].sum() < random["tp_lost"].sum(), "a map is worth more than chance"


@pytest.mark.parametrize(("threshold", "grow_um"), [(0.2, 32.0), (0.5, 0.0), (0.02, 128.0)])
def test_the_approximation_is_the_real_run_but_for_the_rim(made, counts, tmp_path, threshold, grow_um):
    _, manifest, maps = made
    coarse = dict(zip(maps["coarse"]["slide_id"], maps["coarse"]["map_path"], strict=True))

    def screen_for(row):
        with open_map(coarse[row.slide_id]) as found:
            return make_screen(found, threshold=threshold, grow_um=grow_um)

    real = inference.predict_cohort(
        checkpoint(10, "f" * 64), manifest, tmp_path, screen_for=screen_for, engine="torch", precision="exact",
        progress=False,
    )  # fmt: skip
    again = evaluate_grid(real, manifest, threshold=0.5, with_objects=False, **TRUTH).counts.set_index("slide_id")
    if real["windows_screened"].all():
        with pytest.raises(MapError, match="under a screen"):
            cascade.screen_counts(real, maps["coarse"], manifest, threshold=0.5, **TRUTH)
    chosen = counts[(counts["screen"] == "map") & (counts["screen_threshold"] == threshold)]
    chosen = chosen[chosen["grow_um"] == grow_um].set_index("slide_id")
    assert list(real.set_index("slide_id")["windows"]) == list(chosen["windows"])
    for slide_id, row in chosen.iterrows():
        # Only pixels under windows of which some were run and some were not may differ: here a window's side times
        # the screen's outline, and in truth a few.
        difference = abs(row["tp"] - again.loc[slide_id, "tp"]) + abs(row["fp"] - again.loc[slide_id, "fp"])
        assert difference <= 0.01 * (row["tp"] + row["fp"]) + 8


def test_objects_are_kept_by_half_of_their_area_and_by_size(made, counts):
    row = counts[(counts["screen"] == "map") & (counts["screen_threshold"] == 0.5) & (counts["grow_um"] == 0)].iloc[0]
    assert row["n_targets_over_300_um"] == 0 and row["n_targets_100_300_um"] == 1 and row["n_targets_under_100_um"] == 2
    assert row["n_kept_100_300_um"] == 1 and row["n_kept_under_100_um"] < 2, "the faint one is missed"


def test_the_choice_looks_at_validation_alone(counts):
    chosen = screen_choice.choose_screen(counts, recall_floor=0.99)
    assert chosen["screen"] == "map" and chosen["recall_kept"] >= 0.99 and chosen["windows_share"] < 1
    altered = counts.copy()
    test = altered["split"] == "test"
    altered.loc[test, "tp_lost"], altered.loc[test, "tp"] = altered.loc[test, "tp"], 0
    assert screen_choice.choose_screen(altered, recall_floor=0.99) == pytest.approx(chosen, nan_ok=True)
    assert chosen["by"] == "estimate" and "no promise" in chosen["reason"], "two patients are too few for a bound"
    cheaper = screen_choice.choose_screen(counts, recall_floor=0.5)
    assert cheaper["windows_share"] <= chosen["windows_share"]


@pytest.mark.parametrize(("patients", "by"), [(2, "estimate"), (9, "estimate"), (10, "bound")])
def test_a_tight_interval_of_few_patients_is_no_promise(patients, by):
    lost = np.arange(patients) % 2 + 1  # of 100,000 pixels each: almost nothing, and almost the same
    table = pd.DataFrame({"slide_id": range(patients), "patient_id": range(patients), "tp_lost": lost, "split": "val"})
    table = table.assign(
        tp=100_000 - lost, screen="map", screen_threshold=0.1, grow_um=0.0, windows=1, windows_full=2, fp=0, fn=0, tn=0,
        fp_spared=0, n_targets=1, n_kept=1,
    )  # fmt: skip
    full = table.assign(screen="none", windows=2, tp=100_000, tp_lost=0, screen_threshold=np.nan, grow_um=np.nan)
    chosen = screen_choice.choose_screen(pd.concat([table, full]), recall_floor=0.99)
    assert chosen["screen"] == "map" and chosen["low"] > 0.99 and chosen["by"] == by
    assert ("no promise" in chosen["reason"]) == (by == "estimate")
    assert "test patient" not in chosen["warning"]


def test_where_nothing_reaches_the_floor_it_looks_everywhere(counts):
    hopeless = counts[counts["screen"].isin(["none", "map"])].copy()
    lost = hopeless["screen"] == "map"
    hopeless.loc[lost, "tp_lost"] = hopeless.loc[lost, "tp"] + 1
    chosen = screen_choice.choose_screen(hopeless)
    assert (
        chosen["screen"] == chosen["by"] == "none" and chosen["windows_share"] == 1 and "everywhere" in chosen["reason"]
    )
    with pytest.raises(ParameterError, match="validation"):
        screen_choice.choose_screen(counts[counts["split"] == "test"])


def test_intervals_of_the_recall_kept_cover():
    """Simulated patients of unequal size who lose unequal shares: the interval holds the population's ratio."""
    rng, hits, drawn, truth = np.random.default_rng(0), 0, 300, 0.96
    for _ in range(drawn):
        size = rng.lognormal(6, 0.7, 15)
        kept = rng.beta(24, 1, 15)  # mean 0.96
        table = pd.DataFrame({"slide_id": range(15), "patient_id": range(15), "tp_lost": np.rint(size * (1 - kept))})
        table["tp"] = np.rint(size) - table["tp_lost"]
        table = table.assign(
            screen="map", screen_threshold=0.1, grow_um=0.0, windows=1, windows_full=2, fp=0, fn=0, tn=0, fp_spared=0,
            n_targets=1, n_kept=1, split="val",
        )  # fmt: skip
        row = screen_choice.screen_summary(table).iloc[0]
        hits += row["low"] <= truth <= row["high"]
    assert 0.90 <= hits / drawn <= 0.99
