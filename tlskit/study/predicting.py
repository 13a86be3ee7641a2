"""`tlskit predict`: a trained network over slides, by one process or by many that share the folder.

Each slide is claimed while it is worked on, and leaves a status file of its own: what made its map and outlines, or why
it failed. The same command given several times, or to workers of an engine, shares the slides; given again after it was
killed, it goes on.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from tlskit import __version__
from tlskit.cohort import from_slides
from tlskit.errors import MapError, SlideError, TlskitError
from tlskit.evaluation import predictions, stored_screens
from tlskit.files import Claims, resolve, without_machine, write_text
from tlskit.maps import check_networks, context_words, facts_of, inference, noted_overlap, open_map, screens_of
from tlskit.networks import models
from tlskit.slides import content_id
from tlskit.study import cluster, engine

__all__ = ["Predicted", "ScreenSetting", "named_by_content", "predict", "predict_on", "screen_setting"]

log = logging.getLogger(__name__)

#: How the line of a slide ends that is there already.
DONE_BEFORE = " (done before)"

#: Seconds between two looks at slides that others work on.
POLL_S = 0.5


class Predicted(NamedTuple):
    """What became of a slide: ``state`` is done, failed or left (nobody has come to it)."""

    slide_id: str
    state: str
    said: str


class ScreenSetting(NamedTuple):
    """Which coarser network says where another one looks: where its map reaches a threshold, and so many um round."""

    checkpoint: str
    threshold: float
    grow_um: float


def screen_setting(
    screen: str | Path, checkpoint: str | Path, threshold: float | None = None, grow_um: float | None = None
) -> tuple[ScreenSetting | None, str]:
    """How a coarser network screens another one: as asked for, or as the run's notebook cascade chose.

    Parameters
    ----------
    screen, checkpoint
        The coarser network, and the one that it lets look.
    threshold, grow_um
        Both or neither.

    Returns
    -------
    ScreenSetting or None
        None where the notebook chose that the finer network looks everywhere.
    str
        It in words, and where it comes from.

    Raises
    ------
    CheckpointError
        If the two make no cascade.
    RunError
        If none is given, and the notebook chose none for these two.
    """
    coarse, fine = (models.load_checkpoint(Path(path)) for path in (screen, checkpoint))
    check_networks(coarse, fine)
    said = f"from {threshold} as asked for, grown by {grow_um} um"
    if threshold is None:
        stored = stored_screens.screen_setting(Path(checkpoint).resolve().parent.parent.parent, coarse, fine)
        threshold, grow_um, said = stored["screen_threshold"], stored["grow_um"], stored["said"]
    said = f"screen by {coarse.magnification:g}x: {said}"
    return (None if threshold is None else ScreenSetting(str(screen), threshold, grow_um)), said


def predict(
    slides: Sequence[str | Path],
    checkpoint: str | Path,
    out: str | Path,
    *,
    mpp: float | None = None,
    launch: str = "",
    screen: ScreenSetting | None = None,
    progress: bool = True,
    report: Callable[[str], None] = log.info,
    **options,
) -> list[Predicted]:
    """Write a map and outlines of each slide, beside any number of others who do the same.

    Parameters
    ----------
    slides
        Paths.
    checkpoint
        A trained network.
    out
        Folder: ``maps/<slide_id>.tif``, ``geojson/<slide_id>.geojson``, ``status/<slide_id>.json``. A slide's id is its
        file's name; where another slide of that name lies there already (or the same name is given from two folders),
        it gets a number.
    mpp
        um/px of those slides that do not say it.
    launch
        Random name of a launch on many workers: what failed in it is not tried again by the next of them.
    screen
        Where a coarser network lets this one look; its maps are ``screens/<slide_id>.tif``. Each is made by whoever has
        the slide.
    progress
        Show a bar.
    report
        Called with one line for each slide.
    options
        threshold, overlap, batch_size, engine, precision, min_object_um2: see `maps.inference.predict_cohort` and
        `predictions.write_outlines`; by default the threshold and the overlap that notebook 05 chose.

    Returns
    -------
    list of Predicted
        One a slide.
    """
    out, network, checkpoint = Path(out), models.load_checkpoint(checkpoint), Path(checkpoint)
    from_where = "as asked for"
    if options.get("threshold") is None:
        options["threshold"], from_where = predictions.usual_threshold(checkpoint, network)
    report(f"threshold {options['threshold']:.3g}, {from_where}")
    options["overlap"], from_where = noted_overlap(checkpoint, network, options.get("overlap"))
    if options["overlap"] is not None:
        report(f"windows overlap by {options['overlap']:g}, {from_where}")
    if seen := context_words(facts_of(network), network.mpp):
        report(seen)
    rows, asked, content, wanted = _asked(network, slides, out, mpp, options, screen)
    screen_for = None
    if screen is not None:
        alike = {name: asked[name] for name in ("batch_size", "engine", "precision")}
        coarse = models.load_checkpoint(Path(screen.checkpoint))
        screen_for = screens_of(
            coarse, out / "screens", threshold=screen.threshold, grow_um=screen.grow_um,
            overlap=noted_overlap(screen.checkpoint, coarse)[0],
            engine_note=Path(screen.checkpoint).with_name("engine.json"), **alike,
        )  # fmt: skip
    claims = Claims(out / ".claims")

    def ended(slide_id: str) -> bool:
        found = _status(out, slide_id)
        if found.get("key") != wanted[slide_id]:
            return False
        here = all((out / name).is_file() for name in _files(slide_id))
        return (found["state"] == "done" and here) or (found["state"] == "failed" and launch == found["launch"] != "")

    def turns(left: list, _how: dict) -> Iterator:
        while left:
            waiting = []
            for row in left:
                if ended(row.slide_id):
                    continue
                if not claims.take(row.slide_id):
                    waiting.append(row)
                    continue
                with claims.releasing(row.slide_id):
                    lies = {_known(out, row.slide_id, row.slide_path), content[row.slide_id]}
                    if len(lies - {"missing"}) > 1:
                        report(f"{row.slide_id}: another slide of this name came into {out.name} meanwhile: run again")
                    elif not ended(row.slide_id):
                        yield row
            left = [row for row in waiting if not ended(row.slide_id)]
            if left:
                time.sleep(POLL_S)

    def note(slide_id: str, state: str, said: str) -> None:
        slide = content[slide_id]
        if slide == "missing":  # out of reach for a while: it is the slide that it was
            slide = _status(out, slide_id).get("slide", slide)
        values = {"state": state, "said": said, "slide": slide, "key": wanted[slide_id], "launch": launch}
        write_text(out / "status" / f"{slide_id}.json", json.dumps(values | {"options": asked}, indent=1) + "\n")
        report(f"{slide_id}: {'FAILED: ' if state == 'failed' else ''}{said}")

    def failed(slide_id: str, error: Exception) -> None:
        (out / _files(slide_id)[1]).unlink(missing_ok=True)  # of another network, or threshold; a map says which
        note(slide_id, "failed", without_machine(" ".join(str(error).split())))

    def outlined(made: dict) -> None:
        failures: list[str] = []
        found = predictions.write_outlines(
            pd.DataFrame([made]), rows, out / "geojson", target_class=network.target_class,
            magnification=network.magnification, threshold=asked["threshold"], min_object_um2=asked["min_object_um2"],
            resolution_by=network.resolution_by,
            on_failure=lambda slide_id, error: (failed(slide_id, error), failures.append(slide_id)),
        )  # fmt: skip
        if not failures:
            note(made["slide_id"], "done", _said(found, made, screened=screen_for is not None))

    for slide_id in content:
        if ended(slide_id):
            report(f"{slide_id}: {_status(out, slide_id)['said']}{DONE_BEFORE}")
    try:
        inference.predict_cohort(
            network, rows, out / "maps", overlap=asked["overlap"], batch_size=asked["batch_size"],
            engine=asked["engine"], precision=asked["precision"], engine_note=checkpoint.with_name("engine.json"),
            on_failure=failed, turns=turns, on_map=outlined, progress=progress, screen_for=screen_for,
        )  # fmt: skip
    except SlideError:  # none could be predicted: each has been told
        if not any(_status(out, slide_id).get("state") == "failed" for slide_id in content):
            raise
    return [_outcome(out, slide_id, wanted[slide_id]) for slide_id in content]


def predict_on(
    slides: Sequence[str | Path],
    checkpoint: str | Path,
    out: str | Path,
    *,
    on: str,
    report: Callable[[str], None] = print,
    mpp: float | None = None,
    screen: ScreenSetting | None = None,
    lost_s: float = cluster.LOST_S,
    **options,
) -> tuple[list[Predicted], cluster.Outcome]:
    """`predict`, its slides spread over the workers of an engine.

    Returns
    -------
    list of Predicted
        One a slide.
    cluster.Outcome
        What workers said that stopped, and whether they went before all was done.
    """
    engine.parse(on)
    network = models.load_checkpoint(checkpoint)  # one that cannot be read is told before a worker is asked for
    out = resolve(out).absolute()
    paths = [str(Path(path).absolute()) for path in slides]
    if options.get("threshold") is None:
        options["threshold"], _ = predictions.usual_threshold(Path(checkpoint), network)
    options["overlap"], _ = noted_overlap(checkpoint, network, options.get("overlap"))
    if screen is not None:
        screen = screen._replace(checkpoint=str(Path(screen.checkpoint).absolute()))
    wanted = _asked(network, paths, out, mpp, options, screen)[3]
    launch = secrets.token_hex(8)
    given = {
        "slides": paths, "checkpoint": str(Path(checkpoint).absolute()), "out": str(out), "mpp": mpp, "launch": launch,
        "screen": screen,
    }  # fmt: skip
    seen: set[str] = set()

    def pass_on(line: str) -> None:
        if line not in seen:
            seen.add(line)
            report(line)

    outcome = cluster.share(
        predict_here, given | {"options": options}, on=on, shared_dir=out, report=pass_on, lost_s=lost_s,
        program="from tlskit.study import predicting\npredicting.predict()",
    )  # fmt: skip
    return [_outcome(out, slide_id, key) for slide_id, key in wanted.items()], outcome


def predict_here(slides, checkpoint, out, options, report, **given) -> None:
    """The task of a worker."""
    predict(slides, checkpoint, out, progress=False, report=report, **given, **options)


def named_by_content(rows: pd.DataFrame, out: Path) -> pd.DataFrame:
    """Slides with ids under which no other slide lies in `out`.

    Parameters
    ----------
    rows
        As of `cohort.from_slides`.
    out
        Folder of an earlier `predict`, or a new one.

    Returns
    -------
    DataFrame
        The same rows with ids by content: a slide keeps the id that it has there, another of its name gets a number.
        A slide that is given twice stands once, and that is told.
    """
    kept, seen, taken = [], {}, set()
    for row in rows.to_dict("records"):
        content, stem = _content(row["slide_path"]), from_slides([row["slide_path"]])["slide_id"].iloc[0]
        if content != "missing" and content in seen:
            log.warning(
                "%s is the same slide as %s: it is predicted once.", Path(row["slide_path"]).name, seen[content]
            )
            continue
        for number in itertools.count(1):
            name = stem if number == 1 else f"{stem}_{number}"
            known = _known(out, name, row["slide_path"])
            if name not in taken and ("missing" in (known, content) or known == content):
                break
        if name != stem:
            log.warning("%s: another slide of this name lies in %s: this one is %s.", stem, out.name, name)
        seen[content] = name
        taken.add(name)
        kept.append(row | {"slide_id": name, "patient_id": name})
    return pd.DataFrame(kept, columns=rows.columns)


def _asked(
    network, slides, out: Path, mpp: float | None, options: dict, screen: ScreenSetting | None = None
) -> tuple[pd.DataFrame, dict, dict, dict]:
    """The slides with their ids, the options, and by id the slides' content and the key of what is to be made."""
    rows, asked = named_by_content(from_slides(slides, mpp_where_missing=mpp), out), _with_defaults(options)
    content = {row.slide_id: _content(row.slide_path) for row in rows.itertuples()}
    screened = ""
    if screen is not None:
        coarse = models.load_checkpoint(Path(screen.checkpoint))
        screened = f"{coarse.sha256} {screen.threshold} {screen.grow_um}"
        overlap, _ = noted_overlap(screen.checkpoint, coarse)
        screened += f" {overlap}" if overlap is not None else ""
    wanted = {}
    for slide_id, found in content.items():
        made_of = json.dumps([__version__, network.sha256, found, mpp, asked, screened], sort_keys=True)
        wanted[slide_id] = hashlib.sha256(made_of.encode()).hexdigest()[:16]
    return rows, asked, content, wanted


def _known(out: Path, slide_id: str, path: str) -> str:
    """Content of the slide that lies in `out` under an id; that of `path` where there is none, or it is the same."""
    if found := _status(out, slide_id).get("slide"):
        return found
    try:  # made by an earlier version, that kept no status
        with open_map(out / _files(slide_id)[0]) as made:
            same = made.metadata.get("slide_bytes") in (0, Path(path).stat().st_size)
    except (MapError, OSError):
        same = True
    return _content(path) if same else "another"


def _with_defaults(options: dict) -> dict:
    known = {
        "threshold": None, "overlap": None, "batch_size": 8, "engine": "auto", "precision": "auto",
        "min_object_um2": 1000.0,
    }  # fmt: skip
    unknown = set(options) - set(known)
    if unknown:
        raise TypeError(f"predict has no option {', '.join(sorted(unknown))}")
    return known | options


def _content(path: str) -> str:
    try:
        return content_id(path)
    except (TlskitError, OSError):
        return "missing"


def _files(slide_id: str) -> tuple[str, str]:
    return f"maps/{slide_id}.tif", f"geojson/{slide_id}.geojson"


def _status(out: Path, slide_id: str) -> dict:
    try:
        found = json.loads((out / "status" / f"{slide_id}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _outcome(out: Path, slide_id: str, key: str) -> Predicted:
    found = _status(out, slide_id)
    if found.get("key") != key:
        return Predicted(slide_id, "left", "nobody has come to it")
    return Predicted(slide_id, found["state"], found["said"])


def _said(objects: pd.DataFrame, made: dict, *, screened: bool) -> str:
    said = f"{len(objects)} objects, {objects['area_um2'].sum() / 1e6:.3f} mm2"
    if not len(objects):
        tissue_mm2 = made["tissue_mm2"]
        said = "no tissue found" if tissue_mm2 == 0 else f"no target found in {tissue_mm2:.3g} mm2 of tissue"
    looked = made["windows"] / max(1, made["windows"] + made["windows_screened"])
    return said + (f" ({looked:.0%} of the windows looked at)" if screened else "")
