"""The slides of a step that is being run, shared with workers of the same run that have no step to take.

Who runs the step offers them: a file in the arm's ``work`` that says how each is to be made, which stands as long as
its loop. A slide is claimed while it is worked on (``<arm>/<step>/<slide_id>``); whoever runs the step comes to each of
them, and keeps what a helper made meanwhile where it is what would be made. So a helper that dies, or fails, costs
nothing but its time. `tlskit.study.helping` is the other side.

Notebook 05 offers its slides. 06 does not: what it leaves is how long each slide takes on the worker that runs it, and
a slide that another made would have no time, or that of another machine.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from tlskit.files import write_text
from tlskit.study import status
from tlskit.study.ledger import Ledger, claims_of

__all__ = ["clear", "note_made", "offered", "piece_of", "turns"]

log = logging.getLogger(__name__)


def piece_of(arm: str, step: str, slide_id: str) -> str:
    """Name of the claim on a slide of a step."""
    return f"{arm}/{step}/{slide_id}"


def turns(ledger: Ledger | None, rows: Iterable, how: Mapping) -> Iterator:
    """Slides of a step, each claimed while the loop's body runs, while others may make those that nobody holds.

    Every slide comes, in the end: those that a helper was at come when it has let go of them. Which slides were made by
    helpers is entered in the step's status (``helped``: by slide, the process and its seconds).

    Parameters
    ----------
    ledger
        Of the step; None where nothing is kept, and nothing is shared.
    rows
        Slides, with a ``slide_id``.
    how
        What decides how a slide is made. Where it holds what JSON cannot, nothing is offered.
    """
    rows = list(rows)
    if ledger is None:
        yield from rows
        return
    ledger.begin()
    clear(ledger.arm_dir, ledger.step)
    attempt, slides = ledger.values["attempt"], [row.slide_id for row in rows]
    try:
        text = json.dumps({"attempt": attempt, "slides": slides, "how": how})
    except TypeError:
        log.info("%s: its slides are not offered to others, as how they are made cannot be told them", ledger.step)
    else:
        write_text(_offer(ledger.arm_dir, ledger.step), text)
    by_piece = {piece_of(ledger.arm, ledger.step, row.slide_id): row for row in rows}
    try:
        for piece in claims_of(ledger.run_dir).share(by_piece, lambda _: False):
            yield by_piece[piece]
    finally:
        ledger.helped(_made(ledger.arm_dir, ledger.step, ledger.values["key"]))
        clear(ledger.arm_dir, ledger.step)


def offered(run_dir: Path, arm: str, step: str, key: str) -> dict | None:
    """How the slides of a step are to be made that is being run under this key by somebody else; None where none is."""
    try:
        offer = json.loads(_offer(run_dir / arm, step).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    found = status.read_step(run_dir / arm, step) or {}
    stands = found.get("state") == "running" and found.get("key") == key and found.get("attempt") == offer["attempt"]
    return offer if stands and claims_of(run_dir).is_taken(f"{arm}/{step}") else None


def note_made(arm_dir: Path, step: str, key: str, slide_id: str, by: str, seconds: float) -> None:
    """Say, before a slide's claim is given back, that a helper has made it."""
    note = {"key": key, "slide_id": slide_id, "process": by, "seconds": round(seconds, 1)}
    write_text(_notes(arm_dir, step) / f"{slide_id}.json", json.dumps(note))


def clear(arm_dir: Path, step: str) -> None:
    """Take back what is offered, and forget what was noted."""
    _offer(arm_dir, step).unlink(missing_ok=True)
    shutil.rmtree(_notes(arm_dir, step), ignore_errors=True)


def _made(arm_dir: Path, step: str, key: str) -> dict[str, dict]:
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(_notes(arm_dir, step).glob("*.json"))]
    return {
        note["slide_id"]: {"process": note["process"], "seconds": note["seconds"]}
        for note in found
        if note["key"] == key
    }


def _offer(arm_dir: Path, step: str) -> Path:
    return arm_dir / "work" / ".shared" / f"{step}.json"


def _notes(arm_dir: Path, step: str) -> Path:
    return _offer(arm_dir, step).with_suffix("")
