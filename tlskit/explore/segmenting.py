"""One slide through one network in a process of its own, with progress and cancel.

The process that shows the page stays small (no torch in it) and quick, and a cancelled run is gone at once; what it had
finished stands in the map's journal, and the next run goes on from there. A page that is loaded again finds it running.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

from tlskit.files import write_text

__all__ = ["Job"]

#: Seconds between two messages about progress.
_EVERY_S = 0.3

#: Seconds that it goes on for without a page: time enough to load the page again.
ALONE_S = 90

#: End of the name of the file that says that a map is being made.
_NOTE = ".job.json"

#: Nobody but the system kills so, and for this one reason.
_KILLED = (
    "The machine ended it, most likely because memory ran out. What was finished is kept: close other programs and "
    "press Segment to go on, or take a network of a lower magnification."
)


class Job:
    """Segment a slide; starts at once.

    Parameters
    ----------
    slide_path, checkpoint_path
        What to segment, and with what.
    out_path
        The probability map to write.
    screen : tuple, optional
        Another network that says first where this one looks: its checkpoint, the threshold of its map, the um by which
        that is grown (as of `tlskit.study.predicting.ScreenSetting`), and the folder where its map is kept, under the
        same name.
    mpp_override
        um/px of a slide that does not say it.

    Attributes
    ----------
    state : str
        ``running``, ``done``, ``failed`` or ``cancelled``.
    done, total : int
        Windows; `total` is 0 until they are counted.
    screening : bool
        Whether these are windows of the network that looks first.
    lost : int
        Windows that could not be read, once it is done.
    reason : str
        Why it failed, as a sentence.
    """

    def __init__(
        self,
        slide_path: str | Path,
        checkpoint_path: str | Path,
        out_path: str | Path,
        screen: tuple | None = None,
        *,
        mpp_override: float | None = None,
    ):
        order = {"slide": str(slide_path), "checkpoint": str(checkpoint_path), "out": str(out_path)}
        order["mpp_override"] = mpp_override
        if screen is not None:
            order["screen"] = [str(screen[0]), *map(float, screen[1:3]), str(screen[3])]
        self._follow(_note_of(Path(out_path)), order)

    @classmethod
    def running(cls, folder: str | Path) -> list[Job]:
        """Segmentations into the folders of a folder that go on without a page; each is followed from now on."""
        found = []
        for note in sorted(Path(folder).glob(f"*/.*{_NOTE}")):
            if _process_of(note) is not None:
                job = cls.__new__(cls)
                job._follow(note, json.loads(note.read_text(encoding="utf-8"))["order"])
                found.append(job)
        return found

    def _follow(self, note: Path, order: dict) -> None:
        self._note, self.out_path, self.slide_path = note, Path(order["out"]), Path(order["slide"])
        self.screening = "screen" in order
        self.state, self.done, self.total, self.reason, self.lost = "running", 0, 0, "", 0
        self._answer: dict = {}
        # Another window may be at it already, or a page that was loaded again.
        self._process = _process_of(note) or _begin(note, order)
        self._watcher = threading.Thread(target=self._watch, name="tlskit-segmenting", daemon=True)
        self._watcher.start()

    def cancel(self) -> None:
        """Stop it. What is finished of the map is kept for a later run."""
        if self.state == "running":
            self.state = "cancelled"
            self._end_all()

    def wait(self, timeout_s: float | None = None) -> str:
        """Wait for its end; returns the state."""
        self._watcher.join(timeout_s)
        return self.state

    def _end_all(self) -> None:
        """End the process and what it started: compilers of torch outlive it."""
        try:
            if os.name == "posix":
                os.killpg(self._process.pid, signal.SIGTERM)
            else:
                self._process.terminate()
        except (ProcessLookupError, PermissionError, psutil.NoSuchProcess):
            pass  # all gone

    def _watch(self) -> None:
        code = None
        while code is None:
            try:
                os.utime(self._note)  # somebody is following: `_leave_alone`
                code = self._process.wait(_EVERY_S / 2) or 0  # of a process that is no child of this one: not known
            except (psutil.TimeoutExpired, subprocess.TimeoutExpired):
                self._read()
            except (OSError, psutil.NoSuchProcess):
                code = 0
            if code is None and self.state != "running":
                self._end_all()
        self._read()
        self._end_all()
        words = _told_of(self._note).with_suffix(".log")
        last = (words.read_text(errors="replace").strip().splitlines() or [""])[-1] if words.is_file() else ""
        for path in (self._note, _told_of(self._note), words):
            path.unlink(missing_ok=True)
        if self.state == "cancelled":
            return
        if self._answer.get("done"):
            self.state, self.lost = "done", int(self._answer.get("lost", 0))
        else:
            killed = code in (-signal.SIGKILL, 128 + signal.SIGKILL) if os.name == "posix" else False
            self.reason = self._answer.get("error") or (_KILLED if killed else f"It ended with code {code}. {last}")
            self.state = "failed"

    def _read(self) -> None:
        """What the process has told: ``{"windows": [done, in all], "screening": false}``, the answer at the end."""
        try:
            message = json.loads(_told_of(self._note).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return  # nothing yet
        if "windows" in message:
            self.screening = message["screening"]
            self.done, self.total = message["windows"]
        self._answer = message.get("answer", {})


def _note_of(out_path: Path) -> Path:
    """Where it is written down that a map is being made, and by which process."""
    return out_path.with_name(f".{out_path.stem}{_NOTE}")


def _told_of(note: Path) -> Path:
    return note.with_name(note.name.removesuffix(_NOTE) + ".told.json")


def _process_of(note: Path) -> psutil.Process | None:
    """The process that makes a map, where it is alive."""
    try:
        written = json.loads(note.read_text(encoding="utf-8"))
        process = psutil.Process(written["pid"])
        alive = process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - written["since"]) < 1
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):
        return None
    return process if alive else None


def _begin(note: Path, order: dict) -> subprocess.Popen:
    """Start the process. It is no child of the page's life: see `_leave_alone`."""
    note.parent.mkdir(parents=True, exist_ok=True)
    _told_of(note).unlink(missing_ok=True)
    # The package is found where it is here, also when it is not installed but on the path.
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    with open(_told_of(note).with_suffix(".log"), "wb") as words:
        process = subprocess.Popen(
            [sys.executable, "-m", "tlskit.explore.segmenting", str(note)],
            stdin=subprocess.PIPE, stdout=words, stderr=words, start_new_session=os.name == "posix",
            env=os.environ | {"PYTHONPATH": path, "PYTHONUTF8": "1"},
        )  # fmt: skip
    try:
        since = psutil.Process(process.pid).create_time()
    except psutil.Error:
        since = time.time()
    write_text(note, json.dumps({"pid": process.pid, "since": since, "order": order}))
    process.stdin.close()  # the note is there: it may begin
    return process


def _work(note: Path) -> int:
    """The other side: reads the order from the note, predicts, writes down how far it is."""
    sys.stdin.read()  # until the note has been written
    order = json.loads(note.read_text(encoding="utf-8"))["order"]
    threading.Thread(target=_leave_alone, args=(note,), daemon=True).start()
    from tlskit.errors import TlskitError
    from tlskit.maps import inference, noted_overlap
    from tlskit.networks import models
    from tlskit.slides import open_slide

    told, message = 0.0, {}

    def tell(done: int, total: int, screening: bool = False) -> None:
        nonlocal told
        if done == total or time.monotonic() - told > _EVERY_S:
            told = time.monotonic()
            message.update(windows=[done, total], screening=screening)
            write_text(_told_of(note), json.dumps(message))

    try:
        checkpoint = models.load_checkpoint(order["checkpoint"])
        slide = order["slide"]
        if order.get("mpp_override"):
            slide = open_slide(slide, mpp_override=order["mpp_override"], **inference.reading_of(checkpoint))
        screen = _screen(order, checkpoint, tell) if "screen" in order else None
        prediction = inference.predict_slide(
            checkpoint, slide, order["out"], screen=screen, progress=False, on_windows=tell,
            overlap=noted_overlap(order["checkpoint"], checkpoint)[0],
        )  # fmt: skip
        answer = {"done": True, "lost": len(prediction.lost)}
    except TlskitError as error:
        answer = {"error": str(error)}
    except (OSError, MemoryError, RuntimeError) as error:
        answer = {"error": f"The slide could not be segmented ({type(error).__name__}: {error})."}
    write_text(_told_of(note), json.dumps(message | {"answer": answer}))
    return 0 if "done" in answer else 2


def _screen(order: dict, fine, tell):
    """Where the other network lets this one look, by its map, which is kept (and goes on where it was cut off)."""
    from functools import partial

    from tlskit.cohort import from_slides, slide_rows
    from tlskit.maps import check_networks, noted_overlap, screens_of
    from tlskit.networks import models

    path, threshold, grow_um, folder = order["screen"]
    coarse = models.load_checkpoint(path)
    check_networks(coarse, fine)
    given = {"slide_id": Path(order["out"]).stem, "mpp_override": order["mpp_override"] or float("nan")}
    (row,) = slide_rows(from_slides([order["slide"]]).assign(**given))
    look = screens_of(
        coarse, folder, threshold=threshold, grow_um=grow_um, engine_note=Path(path).with_name("engine.json"),
        on_windows=partial(tell, screening=True), overlap=noted_overlap(path, coarse)[0],
    )  # fmt: skip
    return look(row)


def _leave_alone(note: Path) -> None:
    """End, where nobody has been following for a while: the page was closed. One that was loaded again follows soon."""
    while True:
        time.sleep(1)
        try:
            if time.time() - note.stat().st_mtime < ALONE_S:
                continue
        except OSError:
            pass  # whoever followed has taken the note away
        if os.name == "posix":
            os.killpg(os.getpgid(0), signal.SIGTERM)
        os._exit(3)


if __name__ == "__main__":
    sys.exit(_work(Path(sys.argv[1])))
