"""The table of damages, ``docs/damage.md``: each is really done to a small cohort, and what is said is written down.

``python tests/damage_table.py`` writes the page; `tests/test_damage_table.py` holds that it is still true.
"""

from __future__ import annotations

import contextlib
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import openslide
import pandas as pd
import torch
from made_disk import NoSmallDisk, enlarge, small_disk
from made_slides import patch_tile, quartering_slide, vips_slide
from shapely import box

from tlskit import evaluation
from tlskit.cohort import manifest as cohort
from tlskit.errors import TlskitError
from tlskit.maps import inference, probmaps
from tlskit.networks import models, training
from tlskit.outlines import reading as annotations
from tlskit.study import params, runs, sweep
from tlskit.tiles import tiling

PAGE = Path(__file__).resolve().parents[1] / "docs" / "damage.md"
ENCODER = "tu-mobilenetv3_small_050"
N_SLIDES = 4

_HEAD = """# When something is damaged

What tlskit says and does when a slide, a file or a disk fails in the middle of a study. Each row was really done to a
cohort of four slides (`python tests/damage_table.py` does it again and writes this page; a test holds it). Three rules
stand behind all rows:

* One bad slide never ends a run. It becomes a row of its step's status, the other slides go on, the command ends with
  exit code 1, and every table says how many slides it stands on.
* Nothing unfinished has a final name. Files are written beside their place and renamed when they are whole.
* Run the same command again after the repair: it does only what is missing. A slide that was exported anew is noticed
  by itself; for one that was out of reach for a while say `tlskit sweep ... --retry`. Networks and maps that are what
  would be made are kept.

| Damage | What you see | What is kept |
|---|---|---|
"""

_TAIL = """
A run that is killed, or loses its power, is resumed by the same command: finished notebooks are skipped, training goes
on after its last whole epoch and a map after its last whole row of blocks, and all tables come out as if nothing had
happened, times aside (`python -m tests.kill_sweep` kills a study at random moments and compares).
"""


class Bench:
    """A cohort of four small slides of its own, and a run beside it, for one row of the table."""

    def __init__(self, folder: Path):
        self.folder = folder
        rows = []
        for number in range(1, N_SLIDES + 1):
            self.slide(f"s{number}", seed=number)
            annotations.write_geojson(folder / f"s{number}.geojson", [box(200, 200, 500, 450)], class_name="TLS")
            rows.append(f"s{number},p{number},lung,s{number}.tif,s{number}.geojson\n")
        (folder / "manifest.csv").write_text(",".join(cohort.COLUMNS) + "\n" + "".join(rows))

    @staticmethod
    def picture(*, seed: int = 0, dark: bool = False) -> np.ndarray:
        """A rectangle of tissue on glass; `dark` as in fluorescence."""
        rng = np.random.default_rng(seed)
        image = np.full((800, 1000, 3), 6 if dark else 243, np.uint8)
        tissue = np.array([10, 40, 160]) if dark else np.array([205, 130, 180])
        image[100:700, 100:900] = tissue + rng.integers(-5 if dark else -20, 20, (600, 800, 1))
        return image

    def slide(self, name: str, *, seed: int = 0, dark: bool = False, **options) -> Path:
        options = {"mpp": 0.5, "power": 20, "quality": 90} | options
        return vips_slide(self[f"{name}.tif"], self.picture(seed=seed, dark=dark), **options)

    def __getitem__(self, name: str) -> Path:
        return self.folder / name

    @property
    def manifest(self) -> pd.DataFrame:
        return cohort.read_manifest(self["manifest.csv"])

    def run(self, step: str) -> runs.Run:
        return runs.open_run("study", step, magnification=10, outputs_dir=self["outputs"])

    def tile(self) -> tiling.Tiling:
        run = self.run("01_tiling")
        return tiling.tile_cohort(
            self.manifest, magnification=10, tile_px=64, target_class="TLS", workers=1, on_failure=run.failed
        )

    def predict(self, model: torch.nn.Module | None = None, **options) -> pd.DataFrame:
        run = self.run("05_wsi_evaluation")
        options = {"engine": "torch", "precision": "exact", "progress": False, "threads": 1} | options
        return inference.predict_cohort(
            checkpoint(model), self.manifest, run.maps_dir, on_failure=run.failed, **options
        )

    def score(self, maps: pd.DataFrame) -> pd.DataFrame:
        run = self.run("05_wsi_evaluation")
        return evaluation.evaluate_slides(maps, self.manifest, target_class="TLS", on_failure=run.failed).slides

    def status(self) -> str:
        rows = runs.read_status(self["outputs/study"]).query("slide_id != ''")
        return "; ".join(f"`status/{row.step}.json`: {row.slide_id} failed: {row.reason}" for row in rows.itertuples())


class Flat(torch.nn.Module):
    """Everything is target."""

    def forward(self, x):
        return torch.full_like(x[:, :1], 4.0)


def checkpoint(model: torch.nn.Module | None = None) -> SimpleNamespace:
    """What applying a network needs, around a network that needs no training."""
    return SimpleNamespace(
        model=model or Flat(), magnification=10, mpp=1.0, tile_px=64, overlap=0.5, normalisation="divide_255",
        sha256="0" * 64, resolution_by="mpp", target_class="TLS",
    )  # fmt: skip


def said(call: Callable, *arguments, **options) -> str:
    """The error that a call ends with."""
    try:
        call(*arguments, **options)
    except TlskitError as error:
        return f"{type(error).__name__}: {error}"
    raise AssertionError("nothing was said")


def tiled(bench: Bench) -> tuple[str, str]:
    kept = bench.tile().slides
    return bench.status(), f"{len(kept)} of {N_SLIDES} slides are tiled"


# One function a row: the damage is its docstring.


def cut_off(bench: Bench):
    """A slide is cut off in the middle of its copy"""
    data = bench["s2.tif"].read_bytes()
    bench["s2.tif"].write_bytes(data[: len(data) // 3])
    return tiled(bench)


def missing(bench: Bench):
    """A slide is not where the manifest says"""
    bench["s2.tif"].unlink()
    return tiled(bench)


def no_scale(bench: Bench):
    """A slide states an objective power and no um/px"""
    quartering_slide(bench["s2.tif"], bench.picture(), mpp=None, factors=(1, 4))
    return tiled(bench)


def fluorescence(bench: Bench):
    """A slide has a dark background"""
    bench.slide("s2", dark=True)
    return tiled(bench)


def outlines_cut_off(bench: Bench):
    """A file of outlines is cut off"""
    text = bench["s2.geojson"].read_text()
    bench["s2.geojson"].write_text(text[: len(text) // 2])
    return tiled(bench)


def other_class(bench: Bench):
    """The outlines of a slide are of another class"""
    annotations.write_geojson(bench["s2.geojson"], [box(200, 200, 500, 450)], class_name="Tls")
    return tiled(bench)


def dies_in_mid_read(bench: Bench):
    """A part of a slide cannot be read: in a whole-slide prediction"""
    patch_tile(bench["s2.tif"], 0, 0, lambda data: bytes(len(data)))
    patch_tile(bench["s2.tif"], 0, 0, lambda data: bytes(len(data)), page=1)
    maps = bench.predict().set_index("slide_id")
    counts = bench.score(maps.reset_index()).set_index("slide_id")
    assert bench.status() == "" and (counts["invalid_px"] > 0).sum() == 1
    one = maps.loc["s2"]
    return (
        f"`05_maps`: s2 has n_lost {one['n_lost']} and invalid_px {one['invalid_px']}; `05_counts_per_slide`: "
        f"invalid_px {counts.loc['s2', 'invalid_px']}",
        f"{len(maps)} of {N_SLIDES} maps; the lost region is written into the map of s2 and left out of all its scores",
    )


def dies_in_tiling(bench: Bench):
    """A part of a slide cannot be read: when tiles are cut"""
    patch_tile(bench["s2.tif"], 0, 0, lambda data: bytes(len(data)), page=1)
    slides = bench.tile().slides.set_index("slide_id")
    kept = slides.loc["s2", "kept_tiles"]
    assert len(slides) == N_SLIDES and slides["dropped_lost"].drop("s2").sum() == 0
    return (
        bench.status(),
        f"{kept} of {kept + slides.loc['s2', 'dropped_lost']} tiles of s2, and all of the other slides",
    )


def dies_in_training(bench: Bench):
    """A part of a slide is damaged after it was tiled: in training"""
    tiles = bench.tile().tiles
    patch_tile(bench["s2.tif"], 0, 0, lambda data: bytes(len(data)), page=1)
    tiles["split"] = tiles["slide_id"].map(lambda slide_id: "val" if slide_id == "s4" else "train")
    with LogOf("tlskit.tiles.datasets") as log:
        trained = training.train(
            tiles, bench.manifest, out_path=bench["c.pt"], magnification=10, tile_px=64, overlap=0.5,
            target_class="TLS", encoder=ENCODER, encoder_weights="none", epochs=1, precision="exact", device="cpu",
        )  # fmt: skip
    lost = len(log.lines)
    assert lost == len(trained.lost_tiles) and len(trained.history) == 1
    return (
        f"In the notebook: {min(log.lines)} (and so for {lost - 1} more of {trained.n_train_tiles} tiles)",
        "The training; its loss and scores pass those tiles over, in every epoch alike; the record says how many",
    )


def fails_once(bench: Bench):
    """A read fails once, as on a busy network share"""
    bench.slide("s2", compression="deflate")
    fine = bench.predict()
    read, failed = openslide.lowlevel._read_region, []

    def once(*arguments):
        if not failed:
            failed.append(arguments)
            raise openslide.OpenSlideError("stale file handle")
        return read(*arguments)

    with probmaps.open_map(fine["map_path"][1]) as found:
        expected = found.read(0, 0, *found.size_px)
    Path(fine["map_path"][1]).unlink()
    with mock.patch.object(openslide.lowlevel, "_read_region", once):
        again = bench.predict()
    with probmaps.open_map(again["map_path"][1]) as found:
        assert np.array_equal(found.read(0, 0, *found.size_px), expected)
    assert failed and again["n_lost"].sum() == 0 and bench.status() == ""
    return "Nothing: the slide is opened anew and the region read again", "Everything; no pixel differs"


def vanishes_between(bench: Bench):
    """A slide vanishes after it was tiled"""
    bench.tile()
    bench["s2.tif"].rename(bench["elsewhere.tif"])
    maps = bench.predict()
    sees, kept = bench.status(), f"{len(maps)} of {N_SLIDES} maps"
    bench["elsewhere.tif"].rename(bench["s2.tif"])
    again = bench.predict()
    assert len(again) == N_SLIDES
    return sees, f"{kept}; when it is back, {int((~again['kept']).sum())} map is made and {again['kept'].sum()} stay"


class Vanishing(Flat):
    """Empties a slide's file when it first sees pixels, as a share that goes away."""

    def __init__(self, path: Path):
        super().__init__()
        self.path, self.gone = path, False

    def forward(self, x):
        if not self.gone:
            self.path.write_bytes(b"")
            self.gone = True
        return super().forward(x)


def vanishes_within(bench: Bench):
    """A slide vanishes while it is being predicted"""
    # At 20x, and batches of one: most of it has not been read when it goes.
    maker = checkpoint(Vanishing(bench["s2.tif"]))
    maker.magnification, maker.mpp = 20, 0.5
    run = bench.run("05_wsi_evaluation")
    manifest = bench.manifest.iloc[[1, 0, 2, 3]]
    options = {"engine": "torch", "precision": "exact", "progress": False, "threads": 1, "batch_size": 1}
    maps = inference.predict_cohort(
        maker, manifest, run.maps_dir, on_failure=run.failed, **options
    ).set_index("slide_id")  # fmt: skip
    assert list(maps.index) == ["s1", "s3", "s4"] and not list(run.maps_dir.glob("s2.tif"))
    sees = bench.status()
    bench.slide("s2", seed=2)
    maker.model = Flat()
    again = inference.predict_cohort(maker, manifest, run.maps_dir, **options).set_index("slide_id")
    assert again.loc["s2", "invalid_px"] == 0
    return sees, (
        f"{len(maps)} of {N_SLIDES} maps, and the part of its own that was complete; when it is back, its map is "
        f"finished and {again['kept'].sum()} stay"
    )


def disk_full(bench: Bench):
    """The disk fills up"""
    with small_disk(bench["outputs"], 0.3) as disk:
        bench.run("05_wsi_evaluation")
        sees = said(bench.predict, Noise())
        made = sorted(path.name for path in disk.rglob("*.tif"))
        for path in disk.rglob("*.tif"):
            with probmaps.open_map(path) as found:
                found.read(0, 0, *found.size_px)
        assert bench.status() == "" and 0 < len(made) < N_SLIDES
        enlarge(disk, 20)
        again = bench.predict(Noise())
        kept = int(again["kept"].sum())
        assert kept == len(made) and len(again) == N_SLIDES
    return sees, f"The {kept} maps that were finished; after room is made {N_SLIDES - kept} is made and {kept} stay"


class Noise(torch.nn.Module):
    """Maps that cannot be compressed."""

    def forward(self, x):
        return 3 * torch.sin(1e4 * x[:, :1])


def half_a_map(bench: Bench):
    """A probability map is cut off, as by a copy that broke off"""
    maps = bench.predict()
    path = Path(maps["map_path"][1])
    path.write_bytes(path.read_bytes()[:-40])
    counts = bench.score(maps)
    sees = bench.status()
    again = bench.predict()
    assert len(bench.score(again)) == N_SLIDES and bench.status() == ""
    return sees, (
        f"The scores of {len(counts)} slides; run again, {int((~again['kept']).sum())} map is made anew and "
        f"{again['kept'].sum()} are kept"
    )


def other_magnification(bench: Bench):
    """A network is applied at another magnification than its own"""
    options = {"magnification": 20, "engine": "torch"}
    return said(inference.predict_slide, checkpoint(), bench["s1.tif"], bench["m.tif"], **options), "Nothing is made"


def damaged_checkpoint(bench: Bench):
    """The file of a network is cut off"""
    torch.manual_seed(0)
    made = models.Checkpoint(
        model=models.build_model(encoder=ENCODER, encoder_weights="none"), encoder=ENCODER, magnification=10, mpp=1.0,
        tile_px=64, overlap=0.5, normalisation="divide_255", threshold=0.5, target_class="TLS", resolution_by="mpp",
        split_hash="", history=pd.DataFrame({"epoch": [1]}),
    )  # fmt: skip
    models.save_checkpoint(bench["c.pt"], made)
    bench["c.pt"].write_bytes(bench["c.pt"].read_bytes()[:100_000])
    return said(models.load_checkpoint, bench["c.pt"], device="cpu"), "Nothing is overwritten"


def tab(bench: Bench):
    """A preset holds a tab"""
    bench["study.yaml"].write_text("run_name: study\nsweep:\n\tmagnification: [4, 1]\n")
    return said(params.read_preset, bench["study.yaml"]), "No notebook is started"


def key_twice(bench: Bench):
    """A preset gives a parameter twice"""
    bench["study.yaml"].write_text("run_name: study\nepochs: 5\nseed: 0\nepochs: 50\n")
    return said(params.read_preset, bench["study.yaml"]), "No notebook is started"


def unknown_parameter(bench: Bench):
    """A preset misspells a parameter"""
    bench["study.yaml"].write_text("run_name: study\nlearning_rat: 0.01\n")
    return said(sweep.prepare, bench["study.yaml"]), "No notebook is started"


def manifest_faults(bench: Bench):
    """A manifest has faults"""
    text = bench["manifest.csv"].read_text().replace("s3,p3", "s2,p3").replace("s4.tif", "")
    bench["manifest.csv"].write_text(text)
    return said(cohort.read_manifest, bench["manifest.csv"]), "No notebook is started"


ROWS = (
    cut_off, missing, no_scale, fluorescence, outlines_cut_off, other_class, dies_in_mid_read, dies_in_tiling,
    dies_in_training,
    fails_once, vanishes_between, vanishes_within, disk_full, half_a_map, other_magnification, damaged_checkpoint, tab,
    key_twice, unknown_parameter, manifest_faults,
)  # fmt: skip


class LogOf:
    """Warnings of a module, while a block lasts."""

    def __init__(self, name: str):
        import logging

        self.lines: list[str] = []
        self.logger, self.handler = logging.getLogger(name), logging.Handler(logging.WARNING)
        self.handler.emit = lambda record: self.lines.append(record.getMessage())

    def __enter__(self):
        self.logger.addHandler(self.handler)
        return self

    def __exit__(self, *exception):
        self.logger.removeHandler(self.handler)


def row_of(damage: Callable, folder: Path) -> str:
    """One line of the table, without what differs between machines."""
    with _one_thread():
        sees, kept = damage(Bench(folder))
    text = sees.replace(f"{folder}/", "").replace(str(folder), "")
    text = re.sub(r"\d+\.\d MB", "N MB", text)
    text = re.sub(r"\d+ of \d+ bytes", "N of M bytes", text)
    text = re.sub(r"\n\s*(- )?", "; ", re.sub(r":\n\s*(- )?", ": ", text))
    text = " ".join(text.split()).replace("|", "\\|")
    return f"| {damage.__doc__} | {text} | {kept} |"


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def page(lines: list[str]) -> str:
    """The whole page."""
    return _HEAD + "\n".join(lines) + "\n" + _TAIL


def main() -> int:
    lines = []
    for damage in ROWS:
        with tempfile.TemporaryDirectory() as folder:
            try:
                lines.append(row_of(damage, Path(folder).resolve()))
            except NoSmallDisk as error:
                print(f"{damage.__doc__}: a small disk cannot be mounted here ({error}); nothing is written.")
                return 1
        print(lines[-1], flush=True)
    PAGE.write_text(page(lines), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
