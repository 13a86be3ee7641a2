"""A worker that has nothing to run helps with the slides of a step that another worker of the run is at.

It does so in a process of its own, as the step itself runs in a kernel of its own: what a reader or a runtime does
there harms no worker, and its memory is free when the worker finds a step to run. That process calls what the notebook
calls, `maps.predict_cohort` with what the step offers (`tlskit.study.sharing`): the same network, the same engine, the
same windows, and so the same bytes. The worker tells it slide by slide to go on, and looks in between whether a step of
its own is there.

It helps only where the engine was chosen before for this network on this kind of machine, and ends where that choice is
given up: the choice is the step's to make. A slide at which it fails it leaves to the step, which tells the reason.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tlskit.errors import TlskitError
from tlskit.files import project_root, worker_name, write_text
from tlskit.study import sharing
from tlskit.study.ledger import claims_of
from tlskit.study.planning import Job

__all__ = ["PROGRAM", "Helper", "main"]

log = logging.getLogger(__name__)

#: By which the process of a helper is started, and known.
PROGRAM = "from tlskit.study import helping; helping.main()"
#: How lines begin by which the process answers: libraries may print what they like.
_ANSWER = "tlskit-answer "


class Helper:
    """A worker's hand for slides of steps that others run; `close` it before the worker runs a step of its own.

    Parameters
    ----------
    run_dir
        Folder of the run.
    report
        Called with one line for each slide that was made here.
    """

    def __init__(self, run_dir: Path, report: Callable[[str], None] = log.info):
        self.run_dir, self.report = run_dir, report
        self._process: subprocess.Popen | None = None
        self._at = ""
        self._given_up: set[str] = set()

    def help(self, jobs: Iterable[Job]) -> bool:
        """Make one slide of a step of `jobs` that somebody else is running; whether there was one to make."""
        for job in jobs:
            offer = sharing.offered(self.run_dir, job.arm, job.step, job.key)
            if offer is None or offer["attempt"] in self._given_up:
                continue
            answer = self._ask(job, offer)
            if "stopped" in answer:
                self._given_up.add(offer["attempt"])
                self.close()
                log.info("%s %s is not helped with any more: %s", job.arm, job.step, answer["stopped"])
            elif "slide" in answer:
                if answer["made"]:
                    said = f"slide {answer['slide']} made for who runs it, in {answer['seconds']:.0f} s"
                    self.report(f"        {job.arm:>4} {job.step:<24} {said}")
                return True
        return False

    def close(self) -> None:
        """End the process, whatever it is at."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()  # it waits for a word, and ends without one
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)
            process.kill()
            process.wait()
            process.stdout.close()

    def _ask(self, job: Job, offer: dict) -> dict:
        """Have one slide made; what the process answers."""
        try:
            if self._process is None or self._at != offer["attempt"]:
                self.close()
                self._at = offer["attempt"]
                self._process = subprocess.Popen(
                    [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL, text=True, cwd=project_root(),
                )  # fmt: skip
                given = {
                    "run_dir": str(self.run_dir), "arm": job.arm, "step": job.step, "key": job.key,
                    "manifest": job.parameters["manifest"], "offer": offer,
                }  # fmt: skip
                self._process.stdin.write(json.dumps(given) + "\n")
            self._process.stdin.write("go\n")
            self._process.stdin.flush()
            for line in self._process.stdout:
                if line.startswith(_ANSWER):
                    return json.loads(line.removeprefix(_ANSWER))
        except BrokenPipeError:
            pass
        return {"stopped": "the process that made its slides has ended"}


def main() -> None:
    """The process: reads what is offered, then a line for each slide that it is to make, and answers each."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    given = json.loads(sys.stdin.readline())
    try:
        make_slides(**given, go=lambda: bool(sys.stdin.readline()), answer=_say)
    except Exception as error:  # the step meets it, too, and tells it
        _say({"stopped": f"{type(error).__name__}: {error}"})


def _say(answer: dict) -> None:
    print(_ANSWER + json.dumps(answer), flush=True)


def _end_with(worker: int) -> None:
    """End with the worker, as a kernel does; a slide that is cut off is gone on with by whoever claims it next."""
    while os.getppid() == worker:
        time.sleep(1)
    os._exit(1)


def make_slides(
    run_dir: str, arm: str, step: str, key: str, manifest: str, offer: dict, *, go: Callable[[], bool],
    answer: Callable[[dict], None],
) -> None:  # fmt: skip
    """Make slides that a step offers, one each time that `go` says so.

    Parameters
    ----------
    run_dir, arm, step, key
        The step.
    manifest
        Its cohort.
    offer
        Of `sharing.offered`.
    go
        Waits for the word to make a slide; False to end.
    answer
        Told ``slide``, ``made`` (False where the map was there, or it failed) and ``seconds``; or ``nothing``, where
        all are claimed or were looked at, or the step has not chosen its engine yet.

    Raises
    ------
    TlskitError
        If the step needs no help, or no help of this kind of machine, any more.
    """
    from tlskit.cohort import read_manifest
    from tlskit.maps import inference
    from tlskit.networks import engines, load_checkpoint

    arm_dir, claims = Path(run_dir) / arm, claims_of(run_dir)
    how = dict(offer["how"])
    subject = how.pop("subject")
    checkpoint, maps_dir = load_checkpoint(arm_dir / "work" / "checkpoint.pt"), arm_dir / "work" / "maps"
    rows = read_manifest(manifest)
    rows = rows[rows["slide_id"].isin(offer["slides"])]
    left = [slide_id for slide_id in offer["slides"] if slide_id in set(rows["slide_id"])]
    window_px = inference.layout_for(checkpoint, overlap=how["overlap"]).window_px
    asked = {name: how[name] for name in ("engine", "precision", "device", "threads")}

    def choice(note: Path) -> dict | None:
        source = engines.EngineSource(checkpoint, window_px=window_px, note=note, **asked)
        if source.subject() != subject:
            raise TlskitError("its network, or its kind of machine, is another one")
        return source.noted()

    chosen, began = None, 0.0

    def turns(given: Iterable, _how: dict) -> Iterator:
        nonlocal chosen, began
        by_id = {row.slide_id: row for row in given}
        while go():
            now = choice(arm_dir / "work" / "engine.json")
            if sharing.offered(Path(run_dir), arm, step, key) != offer or (chosen and now != chosen):
                raise TlskitError("it has come to its end, or what runs its network was chosen again")
            if chosen is None and now:
                chosen = now
                write_text(own_note, json.dumps([now]))
            taken = next((one for one in left if chosen and claims.take(sharing.piece_of(arm, step, one))), None)
            if taken is None:
                answer({"nothing": True})
                continue
            left.remove(taken)  # made, found or failed: it is not looked at twice
            with claims.releasing(sharing.piece_of(arm, step, taken)):
                began = time.monotonic()
                yield by_id[taken]

    def made(row: dict) -> None:
        seconds = time.monotonic() - began
        if not row["kept"]:
            if choice(own_note) != chosen:
                Path(row["map_path"]).unlink()
                raise TlskitError("the engine does not hold for this slide: the step looks at it")
            sharing.note_made(arm_dir, step, key, row["slide_id"], worker_name(), seconds)
        answer({"slide": row["slide_id"], "made": not row["kept"], "seconds": seconds})

    def failed(slide_id: str, _: Exception) -> None:
        answer({"slide": slide_id, "made": False, "seconds": time.monotonic() - began})

    # A note of its own: what it finds to be broken on a slide is not to change what the step goes on with.
    with tempfile.TemporaryDirectory(prefix="tlskit-") as folder:
        own_note = Path(folder) / "engine.json"
        inference.predict_cohort(
            checkpoint, rows, maps_dir, engine_note=own_note, turns=turns, on_map=made, on_failure=failed,
            progress=False, **how,
        )  # fmt: skip
