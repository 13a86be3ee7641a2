"""Where a run stands: what is being run by whom, what failed and why, what is left, and how long it may take."""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from tlskit.errors import RunError, TlskitError
from tlskit.files import Claims, Holder, resolve
from tlskit.networks import read_mark
from tlskit.study import keys, planning, project, sharing, standing, status

__all__ = ["Piece", "Progress", "TimeLeft", "as_text", "find_run", "is_telling", "look", "time_left"]

#: States of a notebook, in the order in which they are told.
STATES = ("done", "running", "failed", "left")


@dataclass(frozen=True)
class Piece:
    """One notebook of a run.

    Attributes
    ----------
    arm, step
        Which.
    state
        One of `STATES`. What was made under other parameters, slides or code than now counts as left.
    why
        Why it failed, or is to be run.
    same_as
        The arm from which it will be taken over; empty where it will be run.
    magnification
        Of the arm, where it is known.
    seconds
        How long it has been running, or ran when it was done last; None where that is not known, it failed, a person
        ran it or it was taken over.
    holder
        Who runs it.
    slides
        Slides that failed in it, with the reason.
    at_slides
        Slides of it that are being made at this moment, and by whom: where other workers help with it.
    at
        How far it is, of a training: ``epoch 2 of 5``.
    left_s
        Seconds that it needs yet, by what it has done; None where it does not tell.
    """

    arm: str
    step: str
    state: str
    why: str = ""
    same_as: str = ""
    magnification: float | None = None
    seconds: float | None = None
    holder: Holder | None = None
    slides: tuple[tuple[str, str], ...] = ()
    at_slides: tuple[tuple[str, Holder], ...] = ()
    at: str = ""
    left_s: float | None = None


@dataclass(frozen=True)
class Progress:
    """Where a run stands; `unsure` says why what is out of date could not be told from what is done, else empty."""

    name: str
    pieces: list[Piece]
    unsure: str = ""

    def of(self, state: str) -> list[Piece]:
        """The notebooks in a state."""
        return [piece for piece in self.pieces if piece.state == state]


def find_run(run: str | Path, outputs_dir: str | Path = "outputs") -> Path:
    """The folder of a run, given as such or by its name.

    Raises
    ------
    RunError
        If there is none.
    """
    for folder in (Path(run), resolve(outputs_dir) / run):
        if (folder / "run.yaml").is_file() or any(folder.glob("*/status/*.json")) or (folder / "status.csv").is_file():
            return folder
    raise RunError(f"{run} is no folder of a run, and there is no run of that name in {Path(outputs_dir).name}.")


def look(run_dir: str | Path) -> Progress:
    """Look at a run; nothing in it is changed.

    Parameters
    ----------
    run_dir
        Folder of the run.
    """
    run_dir = Path(run_dir).resolve()
    found, holders = status.steps_of(run_dir), Claims(run_dir / ".claims").holders()
    jobs, unsure = _planned(run_dir)
    pieces = []
    for arm, step, why, same_as, magnification in jobs:
        values, holder = found.get((arm, step), {}), holders.get(f"{arm}/{step}")
        slides = tuple((s.get("slide_id", ""), s.get("reason", "")) for s in values.get("slides", []))
        tells = not values.get("taken_from") and values.get("by") != "hand"
        seconds, state = values.get("seconds") if tells else None, "left" if why else "done"
        if holder and holder.alive:
            state, why, slides = "running", "", ()
            seconds = _since(values) if values.get("state") == "running" else None
        elif values.get("state") == "failed":
            state, why, seconds = "failed", values.get("reason", ""), None
        prefix = sharing.piece_of(arm, step, "")
        at = [(name.removeprefix(prefix), one) for name, one in holders.items() if name.startswith(prefix)]
        at_slides = tuple((name, one) for name, one in at if one.alive and state == "running")
        trains = (state, step) == ("running", "03_training")
        at_epoch, left_s = _training(run_dir, arm, seconds) if trains else ("", None)
        pieces.append(
            Piece(arm, step, state, why, same_as, magnification, seconds, holder, slides, at_slides, at_epoch, left_s)
        )
    return Progress(run_dir.name, pieces, unsure)


def _planned(run_dir: Path) -> tuple[list[tuple], str]:
    """Arm, step, why it is to be run, as which arm, and magnification of all notebooks, as a sweep would see them."""
    preset = standing.read_preset_of(run_dir)
    try:
        if not preset:
            raise RunError("the run has no run.yaml")
        project.require_project()
        jobs = planning.plan(preset | {"run_name": run_dir.name, "outputs_dir": str(run_dir.parent)})
        return [_row(job) for job in jobs], ""
    except (TlskitError, OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
        unsure = " ".join(str(error).split())
    table = status.read_status(run_dir)
    states = {(row.arm, row.step): row.status for row in table.itertuples() if not row.slide_id}
    met = [step for step, arm in keys.MEETINGS.items() if (arm, step) in states or step == keys.COMPARE]
    names = [(arm, step) for arm in standing.arm_names(run_dir) for step in keys.STEPS]
    names += [(keys.MEETINGS[step], step) for step in met]
    words = {"done": "", "": "not run yet", "running": "not run to its end", "partly": "run by hand without some cells"}
    return [(*name, words.get(states.get(name, ""), states.get(name, "")), "", None) for name in names], unsure


def _row(job: planning.Job) -> tuple:
    magnification = None if job.step in keys.MEETINGS else job.parameters.get("magnification")
    return job.arm, job.step, job.why, job.same_as, magnification


def _training(run_dir: Path, arm: str, seconds: float | None) -> tuple[str, float | None]:
    """At which epoch a training is that has been running for so long, and the seconds that its steps will take yet."""
    work, now = run_dir / arm / "work", datetime.datetime.now(datetime.UTC)
    begun = now - datetime.timedelta(seconds=(seconds or 0.0) + 1.0)
    # Two rounds where false alarms of a first network are mined: the second takes as long.
    for name, more in (("checkpoint-first.pt", ", first of two rounds"), ("checkpoint.pt", "")):
        mark = read_mark(work / name)
        if mark is None or datetime.datetime.fromisoformat(mark.time_utc) < begun:  # of a training that was killed
            continue
        left_s = mark.left_s
        if left_s is not None and more:
            left_s += left_s / max(1, mark.steps - mark.done) * mark.steps
        return f"epoch {mark.epoch} of {mark.epochs}{more}", left_s
    made = work / "checkpoint.pt"
    if seconds and made.is_file() and made.stat().st_mtime > begun.timestamp():
        return "after the last epoch", 0.0
    return "", None


def _since(values: Mapping) -> float | None:
    begun = values.get("provenance", {}).get("time_utc", "")
    try:
        then = datetime.datetime.fromisoformat(begun)
        return max(0.0, (datetime.datetime.now(datetime.UTC) - then).total_seconds())
    except (ValueError, TypeError):
        return None


@dataclass(frozen=True)
class TimeLeft:
    """What is left to do.

    Attributes
    ----------
    seconds
        Of one worker.
    notebooks
        Those that have ended, by which that is told; 0 where nothing is.
    untold
        How many notebooks of each step are left of which none has ended: they are not counted in.
    trainings
        How many are under way that tell by their own steps what they need yet.
    """

    seconds: float
    notebooks: int
    untold: dict[str, int]
    trainings: int = 0


def time_left(progress: Progress) -> TimeLeft:
    """Guess how much work is left: of each notebook the median of those of its step, and magnification where it can be.

    What is out of date tells how long it took, too. Notebooks that a person ran, or that were taken over from an equal
    arm, tell nothing of how long one takes; one that will be taken over takes no time.
    """
    told: dict[tuple, list[float]] = {}
    for piece in progress.pieces:
        if piece.seconds is not None and piece.state != "running":
            told.setdefault((piece.step, piece.magnification), []).append(piece.seconds)
            told.setdefault((piece.step,), []).append(piece.seconds)
    total, trainings, kinds, untold = 0.0, 0, set(), {}
    for piece in progress.pieces:
        if piece.state == "done" or piece.same_as:
            continue
        if piece.left_s is not None:
            total, trainings = total + piece.left_s, trainings + 1
            continue
        of_kind = told.get((piece.step, piece.magnification)) or told.get((piece.step,))
        if not of_kind:
            untold[piece.step] = untold.get(piece.step, 0) + 1
            continue
        kinds.add((piece.step,))
        gone = piece.seconds or 0.0 if piece.state == "running" else 0.0
        total += max(0.0, statistics.median(of_kind) - gone)
    return TimeLeft(total, sum(len(told[kind]) for kind in kinds), untold, trainings)


def as_text(progress: Progress) -> str:
    """What a terminal is told of a run."""
    counts = [f"{len(progress.of(state))} {state}" for state in STATES]
    lines = [f"Run {progress.name}, {len(progress.pieces)} notebooks: {', '.join(counts)}."]
    running, failed, left = progress.of("running"), progress.of("failed"), progress.of("left")
    width = max((len(piece.arm) for piece in progress.pieces), default=0)
    lines += ["", "Running" if running else "Nobody is at it at this moment."]
    for piece in running:
        since = f"for {_duration(piece.seconds)}" if piece.seconds is not None else "has just begun"
        at = f"{piece.at}, " if piece.at else ""
        lines.append(f"  {piece.arm:>{width}}  {piece.step:<24}  {since:<14}  {at}{_who(piece.holder)}")
        lines += [f"  {'':>{width}}  slide {slide_id}, {_who(one)}" for slide_id, one in piece.at_slides]
    told = [(piece, piece.why) for piece in failed]
    told += [(piece, f"slide {name}: {why}") for piece in progress.pieces for name, why in piece.slides]
    if told:
        lines += ["", "Failed"]
        lines += [f"  {piece.arm:>{width}}  {piece.step:<24}  {why}" for piece, why in told]
    if left:
        lines += ["", "Left"]
        order = [*keys.STEPS, *keys.MEETINGS]
        for step in sorted({piece.step for piece in left}, key=order.index):
            of_step = [piece for piece in left if piece.step == step]
            lines.append(f"  {step:<24}  {len(of_step):>3}: {_listed(of_step)}")
            for why in dict.fromkeys(piece.why for piece in of_step if is_telling(piece.why)):
                lines.append(f"  {'':<29}  {_listed([piece for piece in of_step if piece.why == why])}: {why}")
    if running or left or failed:
        lines += ["", *_guess(time_left(progress), len(running))]
    if progress.unsure:
        lines += ["", f"What is done is not compared with the preset, the slides and the code: {progress.unsure}"]
    return "\n".join(lines)


def _listed(pieces: list[Piece]) -> str:
    names = [piece.arm + (f" (as {piece.same_as})" if piece.same_as else "") for piece in pieces]
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def is_telling(why: str) -> bool:
    """Whether a reason says more than that a step's turn has not come."""
    return why != "not run yet" and not why.startswith("after ")


def _who(holder: Holder) -> str:
    place = f"on {holder.machine}, sign of life {holder.silent_s:.0f} s ago" if holder.machine else "of this machine"
    return f"process {holder.process} {place}"


def _guess(work: TimeLeft, workers: int) -> list[str]:
    lines = []
    by = [f"the median of the {work.notebooks} notebooks of these kinds that have ended"] if work.notebooks else []
    by += ["the steps of what is being trained"] if work.trainings else []
    if by:
        each = f", {_duration(work.seconds / workers)} with the {workers} at it now" if workers > 1 else ""
        lines.append(f"About {_duration(work.seconds)} of work left{each}. That is a guess, by {' and '.join(by)}.")
    if work.untold:
        listed = ", ".join(f"{n} {step}" for step, n in work.untold.items())
        lines.append(f"Not counted in, as none of its kind has ended yet: {listed}.")
    return lines


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
