"""Stage times: arithmetic on made-up tables, and one real slide through the clock."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from made_cohort import manifest_row
from torch import nn

from tlskit.cohort import manifest as cohort
from tlskit.errors import ParameterError, ScaleError, SlideError
from tlskit.evaluation import timing
from tlskit.figures import stepcharts
from tlskit.maps import inference
from tlskit.slides.tiffs import write_slide


def table(walls, *, mpp=0.5, stride_px=256, windows=(10, 30), tissue_mm2=(1.0, 4.0)):
    """walls: [slide][repeat] seconds; repeat 0 is cold."""
    rows = [{"slide_id": "", "repeat": 0, "warm": False, "stage": "load", "kind": "setup", "seconds": 2.0}]
    for number, passes in enumerate(walls):
        for repeat, seconds in enumerate(passes):
            for stage, kind, s in (("forward", "work", seconds * 0.9), ("wall", "wall", seconds)):
                rows.append(
                    {
                        "slide_id": f"s{number}", "repeat": repeat, "warm": repeat > 0, "stage": stage, "kind": kind,
                        "seconds": s, "windows": windows[number], "tissue_mm2": tissue_mm2[number],
                    }
                )  # fmt: skip
    return pd.DataFrame(rows).assign(
        magnification=10 / mpp, mpp=mpp, stride_px=stride_px, window_px=512, batch_size=8, engine="torch",
        precision="exact", device="cpu", threads=2, cpu="c", gpu="", allocator="tuned",
    )  # fmt: skip


def test_a_summary_gives_median_spread_and_rates():
    made = timing.summarise_timings(table([[9.0, 4.0, 6.0, 5.0], [20.0, 15.0, 15.0, 18.0]]))
    assert list(made["slide_id"]) == ["s0", "s1", "all"] * 2 and list(made["warm"]) == [False] * 3 + [True] * 3
    warm = made[made["warm"]].set_index("slide_id")
    assert warm.loc["s0", ["n", "wall_s", "wall_s_min", "wall_s_max", "wall_s_iqr"]].tolist() == [3, 5, 4, 6, 1]
    assert warm.loc["s0", "s_per_window"] == 0.5
    assert warm.loc["s0", "s_per_cm2"] == 500  # 5 s for 1 mm2
    assert warm.loc["s0", "s_per_mpx"] == pytest.approx(5 / 4)  # 1 mm2 at 0.5 um/px is 4 Mpx
    assert warm.loc["all", "wall_s"] == 10 and warm.loc["all", "slides_per_minute"] == 6
    assert warm.loc["all", "minutes_per_slide"] == pytest.approx(1 / 6)
    assert not any("person" in name for name in warm), "a section is no slide: `project_timings` has the person"
    assert made.loc[made["warm"].eq(False) & made["slide_id"].eq("s1"), "wall_s"].tolist() == [20]
    assert (made["engine"] == "torch").all()


def test_a_slide_without_tissue_has_no_time_per_tissue():
    made = timing.summarise_timings(table([[9.0]], windows=(0,), tissue_mm2=(0.0,)))
    assert made["s_per_cm2"].isna().all() and made["s_per_window"].isna().all()


def test_a_projection_is_windows_on_tissue_times_seconds_a_window():
    made = timing.project_timings(table([[9.0, 4.0, 8.0, 6.0], [99.0, 16.0, 20.0, 18.0]])).iloc[0]
    # 80,000 x 60,000 px at 0.25 um/px is 20 x 15 mm; 40 % of that is 120 mm2; windows of 512 * 0.5 um advance by half
    assert made["tissue_mm2"] == pytest.approx(120)
    windows = (20 * 0.4**0.5 + 0.256) * (15 * 0.4**0.5 + 0.256) / 0.128**2
    assert made["windows"] == round(windows)
    assert made["s_per_window"] == pytest.approx(24 / 40)
    assert made["minutes"] == pytest.approx(windows * 24 / 40 / 60)
    assert made["minutes_low"] == pytest.approx(windows * 20 / 40 / 60)
    assert made["minutes_high"] == pytest.approx(windows * 28 / 40 / 60)
    assert made["measured_windows"] == 120


def test_the_windows_of_a_projection_are_those_of_a_real_plan_in_the_mean():
    """At 1x the windows at the rim are more than those within: tissue over stride squared would be half of it."""
    mpp, step_um, side_um = 10.0, 256 * 10.0, 512 * 10.0
    made = timing.project_timings(table([[9.0]], mpp=mpp)).iloc[0]
    width, height = (side * 0.25 * 0.4**0.5 for side in (80_000, 60_000))
    rng, counts = np.random.default_rng(0), []
    for x, y in rng.uniform(0, step_um, (2000, 2)):
        touching = [(np.arange(-9, 20) * step_um + a < side) & (np.arange(-9, 20) * step_um + a + side_um > 0)
                    for a, side in ((x, width), (y, height))]  # fmt: skip
        counts.append(touching[0].sum() * touching[1].sum())
    assert made["windows"] == pytest.approx(min(np.mean(counts), 8 * 6), rel=0.02)
    assert made["windows"] > 2 * 120 / (step_um / 1000) ** 2


def test_a_projection_needs_something_to_stand_on(caplog):
    nothing = timing.project_timings(table([[9.0]], windows=(0,), tissue_mm2=(0.0,)))
    assert nothing["minutes"].isna().all() and "No timed slide holds tissue" in caplog.text
    with pytest.raises(ParameterError, match="no slide was timed to its end"):
        timing.project_timings(table([[9.0]]).query("kind == 'none'"))
    with pytest.raises(ParameterError, match="tissue_fraction"):
        timing.project_timings(table([[9.0]]), tissue_fraction=40)
    with pytest.raises(ScaleError):
        timing.project_timings(table([[9.0]]), mpp0=1.0)  # a 10x scan at 20x


def test_nothing_timed_is_an_error():
    with pytest.raises(ParameterError, match="no slide was timed"):
        timing.summarise_timings(table([]))


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 1, 3, padding=1)

    def forward(self, x):
        return self.layer(x)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Two slides and one that is missing, as rows of a manifest."""
    folder = tmp_path_factory.mktemp("slides")
    rng = np.random.default_rng(0)
    made = []
    for name, side in (("a", 800), ("b", 900)):
        image = np.full((side, side, 3), 243, np.uint8)
        image[100:400, 100:400] = rng.integers(120, 220, (300, 300, 3)) * np.array([1.0, 0.6, 0.9])
        write_slide(folder / f"{name}.tif", image, mpp=1.0, objective_power=10)
        made.append((name, str(folder / f"{name}.tif")))
    made.append(("c", str(folder / "c.tif")))
    return [SimpleNamespace(**manifest_row(name, path)) for name, path in made]


def test_every_stage_of_every_pass_is_in_the_table(rows):
    torch.manual_seed(0)
    checkpoint = SimpleNamespace(
        model=Small(), magnification=10, mpp=1.0, tile_px=128, overlap=0.5, normalisation="divide_255", sha256="",
        resolution_by="mpp",
    )  # fmt: skip
    failures, passes = [], []
    made = timing.time_inference(
        checkpoint, rows, repeats=2, engine="torch", precision="exact", batch_size=4, progress=False,
        on_failure=lambda slide_id, error: failures.append((slide_id, type(error))), on_prediction=passes.append,
    )  # fmt: skip
    assert failures == [("c", SlideError)]
    assert set(made["slide_id"]) == {"", "a", "b"}
    setup = made[made["kind"] == "setup"].set_index("stage")["seconds"]
    assert list(setup.index) == ["load", "compile", "check"] and setup["load"] == 0 and setup["check"] > 0
    for _, one in made[made["slide_id"] != ""].groupby(["slide_id", "repeat"]):
        assert set(one.loc[one["kind"] == "work", "stage"]) == set(inference.STAGES)
        wall = one.loc[one["kind"] == "wall", "seconds"].item()
        work = one[one["kind"] == "work"].set_index("stage")["seconds"]
        assert (
            wall > 0
            and (work.drop(["read", "resample"]) <= wall).all()
            and work[["read", "resample"]].max() <= 2 * wall
        )
        assert (work > 0).all()
        assert (one["windows"] > 0).all() and (one["windows_skipped"] > 0).all()
    assert made["warm"].equals(made["repeat"] > 0)
    assert set(made["threads"]) == {torch.get_num_threads()} and set(made["stride_px"]) == {64}
    assert len(timing.summarise_timings(made)) == 6 and timing.project_timings(made)["minutes"].item() > 0
    assert [one.slide_id for one in passes] == ["a", "b", "a", "b"]
    # The timeline draws every piece of work once over the whole slide, each as long as it took.
    drawn = stepcharts.stage_timeline(passes[-1]).axes[0].collections
    lengths = sorted(np.ptp(path.vertices[:, 0]) for bars in drawn for path in bars.get_paths())
    assert np.allclose(lengths, sorted(stop - start for _, start, stop in passes[-1].events))


def test_a_slide_that_fails_stops_a_timing_that_nobody_guards(rows):
    checkpoint = SimpleNamespace(
        model=Small(), magnification=10, mpp=1.0, tile_px=128, overlap=0.5, normalisation="divide_255", sha256=""
    )
    with pytest.raises(SlideError, match=r"c\.tif"):
        timing.time_inference(checkpoint, rows[2:], engine="torch", precision="exact", progress=False)


def test_rows_may_come_as_a_manifest(rows):
    checkpoint = SimpleNamespace(
        model=Small(), magnification=10, mpp=1.0, tile_px=128, overlap=0.5, normalisation="divide_255", sha256=""
    )
    manifest = pd.DataFrame([vars(row) for row in rows[:1]])
    made = timing.time_inference(checkpoint, manifest, repeats=1, engine="torch", precision="exact", progress=False)
    assert set(made["slide_id"]) == {"", "a"} and cohort.slide_rows(manifest) is not None
