"""A made-up cohort: slides, outlines and a manifest in the very files a hospital would give.

No patient is behind these pictures, and a score on them says nothing about a real tissue.
"""

from __future__ import annotations

import concurrent.futures
import csv
import dataclasses
import io
import json
import logging
import math
import multiprocessing
import os
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from tlskit import files
from tlskit.errors import ParameterError, RunError
from tlskit.outlines import write_geojson
from tlskit.slides import tiffs
from tlskit.synthetic import anatomy, cells, histology, stains
from tlskit.synthetic.oracle import OracleSlide, make_oracle_slide
from tlskit.synthetic.second import second_outlines

__all__ = ["OracleSlide", "SlidePlan", "make_cohort", "make_oracle_slide", "plan_cohort", "plan_section"]

logger = logging.getLogger(__name__)

#: Raised whenever the drawing changes, so that a folder never mixes slides of two ways of drawing.
DRAWING_VERSION = 3

TARGET_CLASS = "TLS"

# Cancer type of patient 0, 1, 2, ...: groups of unequal size (5 : 4 : 3 : 2), all four among the first six.
_TYPE_OF_PATIENT = "OLBOLEOBLOELBO"
_TYPES = {"O": "oropharyngeal", "L": "lung", "B": "breast", "E": "oesophageal"}
_TWO_SLIDES = (1, 6, 12)  # these patients (modulo 14) have a second slide
_SECOND_WITHOUT_TLS = (1, 12)  # ... which holds no TLS
_PATIENT_WITHOUT_TLS = 13

_MANIFEST_COLUMNS = ("slide_id", "patient_id", "cancer_type", "slide_path", "annotation_path", "source")
_TRUTH_COLUMNS = ("slide_id", "kind", "x", "y", "diameter_um", "area")

_README = """Synthetic data
==============

These slides were drawn by a program (tlskit.synthetic.cohort). There is no patient behind them, and no score on them
says anything about real tissue. Every figure made from them must say so.

manifest.csv    the cohort: one row a slide, paths relative to this folder
slides/         pyramidal TIFFs that OpenSlide and QuPath open as Aperio slides
annotations/    outlines of the TLS, as QuPath exports them (GeoJSON, level-0 pixels)
annotations_2/  where asked for: those of a made-up second reader
truth.csv       what was drawn where: kind, centre (level-0 px), diameter (um), area (um2)
settings.json   what the slides were made with
"""


@dataclasses.dataclass(frozen=True)
class SlidePlan:
    """One slide of a cohort, before it is drawn."""

    index: int
    slide_id: str
    patient_id: str
    cancer_type: str
    with_tls: bool


def plan_cohort(n_patients: int) -> list[SlidePlan]:
    """Patients and slides of a cohort: three patients in fourteen have two slides, three slides in seventeen no TLS."""
    plan: list[SlidePlan] = []
    for patient in range(n_patients):
        turn = patient % len(_TYPE_OF_PATIENT)
        for number in range(2 if turn in _TWO_SLIDES else 1):
            without = turn == _PATIENT_WITHOUT_TLS or (number == 1 and turn in _SECOND_WITHOUT_TLS)
            plan.append(
                SlidePlan(
                    index=len(plan),
                    slide_id=f"P{patient + 1:02d}_{'AB'[number]}",
                    patient_id=f"P{patient + 1:02d}",
                    cancer_type=_TYPES[_TYPE_OF_PATIENT[turn]],
                    with_tls=not without,
                )
            )
    return plan


def _generator(seed: int, index: int) -> np.random.Generator:
    return np.random.default_rng([seed, index, 2022])


def plan_section(slide: SlidePlan, *, seed: int = 0, slide_mm: tuple[float, float] = (2.0, 2.8)) -> anatomy.Section:
    """The plan of the section that `make_cohort` draws for a slide, with all its structures, without painting it."""
    return _draw_plan(slide, slide_mm, _generator(seed, slide.index))


def _draw_plan(slide: SlidePlan, slide_mm, rng: np.random.Generator) -> anatomy.Section:
    # In whole um, whatever the um/px: the same tissue is then scanned at 20x and at 40x.
    width_um, height_um = (float(round(1000 * side)) for side in rng.uniform(*slide_mm, 2))
    room = int(np.clip(width_um * height_um / 1.2e6, 1, 5))
    wanted = int(rng.choice([1, 2, 3, 4, 5], p=[0.16, 0.28, 0.28, 0.18, 0.10]))
    n_tls = min(wanted, room) if slide.with_tls else 0
    return anatomy.draw_section(rng, (width_um, height_um), slide.cancer_type, n_tls=n_tls)


def make_cohort(
    out_dir: str | os.PathLike,
    *,
    n_patients: int = 14,
    slide_mm: tuple[float, float] = (2.0, 2.8),
    scan_mpp: float = 0.499,
    objective_power: float = 20,
    seed: int = 0,
    workers: int = 2,
    overwrite: bool = False,
    quality: int = 85,
    second_reader: bool = False,
    progress: bool = True,
) -> Path:
    """Make a cohort of synthetic H&E slides with TLS.

    Each slide is a function of the settings and its own number alone: the same bytes on any number of workers.
    A slide that is there already is not made again, so that a broken-off call can be repeated.

    Parameters
    ----------
    out_dir : path
        Gets `manifest.csv`, `slides/`, `annotations/`, `truth.csv`, `settings.json` and a `README.txt`.
    n_patients : int
        14 patients have 17 slides: four cancer types (5, 4, 3 and 2 patients), three slides without a TLS.
    slide_mm : (low, high)
        Width and height of each slide are drawn from this range, mm. Below about 2.2 mm TLS are kept smaller
        than they would be, so that they fit.
    scan_mpp, objective_power : float
        um/px and objective of level 0, e.g. 0.499 and 20, or 0.2529 and 40. Sizes are in um: only sharpness
        changes.
    seed : int
        Zero or more.
    workers : int
        Processes. One draws in this process.
    overwrite : bool
        Make all slides anew, whatever the folder holds of an earlier cohort.
    quality : int
        JPEG quality of the slides.
    second_reader : bool
        Whether to add outlines by a second reader (`tlskit.synthetic.second.second_outlines`): files of
        `annotations_2/`, named in the manifest's `annotation_path_2`. A cohort that is there already gets them, too.

    Returns
    -------
    pathlib.Path
        The manifest.

    Raises
    ------
    ParameterError
        If a number is out of range.
    RunError
        If the folder holds a cohort of other settings, or a manifest that was not made here.
    """
    out_dir = Path(out_dir)
    settings = _check(
        {
            "drawing_version": DRAWING_VERSION,
            "n_patients": n_patients,
            "slide_mm": [float(side) for side in slide_mm],
            "scan_mpp": float(scan_mpp),
            "objective_power": float(objective_power),
            "seed": seed,
            "quality": quality,
        },
        workers,
    )
    plan = plan_cohort(n_patients)
    _prepare(out_dir, settings, overwrite)
    missing = [slide for slide in plan if not all(path.exists() for path in _files(out_dir, slide.slide_id))]
    logger.info("%d of %d synthetic slides are to be drawn in %s", len(missing), len(plan), out_dir)
    if missing:
        bar = tqdm(total=len(missing), desc="synthetic slides", unit="slide", disable=not progress)
        with bar:
            for slide_id in _draw_all(missing, settings, out_dir, workers):
                bar.set_postfix_str(slide_id, refresh=False)
                bar.update()

    truth: list[list[str]] = []
    for slide in plan:
        with _files(out_dir, slide.slide_id)[2].open(newline="", encoding="utf-8") as handle:
            truth.extend(list(csv.reader(handle))[1:])
    _write_csv(out_dir / "truth.csv", _TRUTH_COLUMNS, truth)
    rows = [
        (
            slide.slide_id,
            slide.patient_id,
            slide.cancer_type,
            f"slides/{slide.slide_id}.tif",
            f"annotations/{slide.slide_id}.geojson",
            "synthetic",
            *([_read_again(slide, settings, out_dir)] if second_reader else []),
        )
        for slide in plan
    ]
    columns = (*_MANIFEST_COLUMNS, *(["annotation_path_2"] if second_reader else []))
    _write_csv(out_dir / "manifest.csv", columns, rows)
    return out_dir / "manifest.csv"


def _check(settings: dict, workers: int) -> dict:
    low, high = settings["slide_mm"]
    faults = []
    if not (isinstance(settings["n_patients"], int) and settings["n_patients"] >= 1):
        faults.append(f"n_patients must be a whole number of at least 1, not {settings['n_patients']!r}")
    if not 0.5 <= low <= high <= 40:
        faults.append(f"slide_mm must be (low, high) with 0.5 <= low <= high <= 40, not {(low, high)}")
    if not 0.1 <= settings["scan_mpp"] <= 4:
        faults.append(f"scan_mpp must lie in 0.1..4 um/px, not {settings['scan_mpp']!r}")
    if not (math.isfinite(settings["objective_power"]) and settings["objective_power"] > 0):
        faults.append(f"objective_power must be positive, not {settings['objective_power']!r}")
    if not (isinstance(settings["seed"], int) and settings["seed"] >= 0):
        faults.append(f"seed must be a whole number of at least 0, not {settings['seed']!r}")
    if not (isinstance(workers, int) and workers >= 1):
        faults.append(f"workers must be a whole number of at least 1, not {workers!r}")
    if faults:
        raise ParameterError("make_cohort: " + "; ".join(faults) + ".")
    return settings


def _prepare(out_dir: Path, settings: dict, overwrite: bool) -> None:
    """Compare the folder with the settings; make it ready to be filled."""
    record = out_dir / "settings.json"
    if record.exists():
        try:
            before = json.loads(record.read_text(encoding="utf-8"))
        except json.JSONDecodeError:
            before = {}
        names = sorted(set(before) | set(settings))
        changed = [n for n in names if before.get(n) != settings.get(n)]
        if changed and not overwrite:
            listed = ", ".join(f"{n} {before.get(n)!r} there, {settings.get(n)!r} asked for" for n in changed)
            raise RunError(
                f"{out_dir} holds a synthetic cohort made with other settings: {listed}. "
                "Use another folder, or overwrite=True to make it anew."
            )
        if overwrite:
            made = (("slides", "tif"), ("annotations", "geojson"), ("annotations_2", "geojson"), ("truth", "csv"))
            for folder, ending in made:
                for slide in plan_cohort(int(before.get("n_patients", 0)) or settings["n_patients"]):
                    (out_dir / folder / f"{slide.slide_id}.{ending}").unlink(missing_ok=True)
    elif (out_dir / "manifest.csv").exists():
        raise RunError(
            f"{out_dir / 'manifest.csv'} was not made by make_cohort (there is no settings.json beside it) and is "
            "left alone. Use another folder."
        )
    for folder in ("slides", "annotations", "truth"):
        (out_dir / folder).mkdir(parents=True, exist_ok=True)
    files.write_text(record, json.dumps(settings, indent=2) + "\n")
    files.write_text(out_dir / "README.txt", _README)


def _files(out_dir: Path, slide_id: str) -> tuple[Path, Path, Path]:
    """Slide, outlines and truth; the truth is written last, so that it marks a finished slide."""
    return (
        out_dir / "slides" / f"{slide_id}.tif",
        out_dir / "annotations" / f"{slide_id}.geojson",
        out_dir / "truth" / f"{slide_id}.csv",
    )


def _draw_all(slides, settings, out_dir, workers):
    """Draw slides, yielding each id as it is done."""
    if workers == 1 or len(slides) == 1:
        for slide in slides:
            yield _draw_slide(slide, settings, str(out_dir))
        return
    # Fresh processes: forking one that already runs threads of libvips or torch can deadlock.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        min(workers, len(slides)), mp_context=context, initializer=_one_thread
    ) as pool:
        futures = [pool.submit(_draw_slide, slide, settings, str(out_dir)) for slide in slides]
        try:
            for future in concurrent.futures.as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _one_thread() -> None:
    """The processes share the cores among them; threads within each would only wait for one another."""
    import cv2

    cv2.setNumThreads(1)


def _draw_slide(slide: SlidePlan, settings: dict, out_dir: str) -> str:
    """Draw one slide and write its three files."""
    rng = _generator(settings["seed"], slide.index)
    mpp = settings["scan_mpp"]
    section = _draw_plan(slide, settings["slide_mm"], rng)
    openness = histology.open_spaces(section, rng)
    placed = cells.place_cells(section, openness, rng)
    image = histology.paint(section, placed, openness, stains.draw_stain(rng), mpp=mpp, rng=rng)
    del openness, placed

    slide_path, annotation_path, truth_path = _files(Path(out_dir), slide.slide_id)
    truth_path.unlink(missing_ok=True)
    tiffs.write_slide(
        slide_path, image, mpp=mpp, objective_power=settings["objective_power"], quality=settings["quality"]
    )
    outlines = [one.polygon_px0(mpp) for one in section.structures if one.kind == "tls"]
    write_geojson(annotation_path, outlines, class_name=TARGET_CLASS)
    rows = [
        (
            slide.slide_id,
            one.kind,
            f"{one.x_um / mpp:.1f}",
            f"{one.y_um / mpp:.1f}",
            f"{one.diameter_um:.1f}",
            f"{one.area_um2:.0f}",
        )
        for one in section.structures
    ]
    _write_csv(truth_path, _TRUTH_COLUMNS, rows)
    return slide.slide_id


def _read_again(slide: SlidePlan, settings: dict, out_dir: Path) -> str:
    """Write a slide's outlines by the second reader; their path, relative to the manifest."""
    path = out_dir / "annotations_2" / f"{slide.slide_id}.geojson"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        section = plan_section(slide, seed=settings["seed"], slide_mm=settings["slide_mm"])
        rng = np.random.default_rng([settings["seed"], slide.index, 2])
        outlines = second_outlines(section.structures, settings["scan_mpp"], rng)
        write_geojson(path, outlines, class_name=TARGET_CLASS)
    return path.relative_to(out_dir).as_posix()


def _write_csv(path: Path, columns, rows) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    files.write_text(path, text.getvalue())
