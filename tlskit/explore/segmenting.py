"""One slide through one network in a process of its own, with progress and cancel.

The process that shows the page stays small (no torch in it) and quick, and a cancelled run is gone at once; what it had
finished stands in the map's journal, and the next run goes on from there.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path

__all__ = ["Job"]

#: Seconds between two messages about progress.
_EVERY_S = 0.3

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
        self.out_path = Path(out_path)
        self.screening = screen is not None
        self.state, self.done, self.total, self.reason = "running", 0, 0, ""
        self.lost = 0
        self._answer: dict = {}
        self._last_words: deque[str] = deque(maxlen=20)
        # The package is found where it is here, also when it is not installed but on the path.
        path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tlskit.explore.segmenting"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": path, "PYTHONUTF8": "1"},
            start_new_session=os.name == "posix",
        )  # fmt: skip
        order = {"slide": str(slide_path), "checkpoint": str(checkpoint_path), "out": str(out_path)}
        order["mpp_override"] = mpp_override
        if screen is not None:
            order["screen"] = [str(screen[0]), *map(float, screen[1:3]), str(screen[3])]
        try:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it is gone already; the watcher says why
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
        """End the process and what it started: compilers of torch outlive it, and hold its pipes open."""
        try:
            if os.name == "posix":
                os.killpg(self._process.pid, signal.SIGTERM)
            else:
                self._process.terminate()
        except (ProcessLookupError, PermissionError):
            pass  # all gone

    def _watch(self) -> None:
        readers = [threading.Thread(target=read, daemon=True) for read in (self._read_messages, self._read_words)]
        for reader in readers:
            reader.start()
        code = self._process.wait()
        self._end_all()
        for reader in readers:
            reader.join(timeout=5)
        self._process.stdin.close()
        if self.state == "cancelled":
            return
        if code == 0 and self._answer.get("done"):
            self.state, self.lost = "done", int(self._answer.get("lost", 0))
        else:
            last = self._last_words[-1] if self._last_words else ""
            killed = code in (-signal.SIGKILL, 128 + signal.SIGKILL) if os.name == "posix" else False
            self.reason = self._answer.get("error") or (_KILLED if killed else f"It ended with code {code}. {last}")
            self.state = "failed"

    def _read_messages(self) -> None:
        """Lines of JSON: ``{"windows": [done, in all], "screening": false}`` now and then, the answer at the end."""
        for line in self._process.stdout:
            try:
                message = json.loads(line)
            except ValueError:  # what some library prints
                continue
            if isinstance(message, dict) and "windows" in message:
                self.screening = message["screening"]
                self.done, self.total = message["windows"]
            elif isinstance(message, dict):
                self._answer = message

    def _read_words(self) -> None:
        for line in self._process.stderr:
            if text := line.decode(errors="replace").strip():
                self._last_words.append(text)


def _work() -> int:
    """The other side: reads the order from standard input, predicts, tells in lines of JSON."""
    text = b""
    # Unbuffered: a buffer's lock held by the thread below would spoil the end of the process.
    while not text.endswith(b"\n") and (piece := os.read(0, 1)):
        text += piece
    order = json.loads(text)
    # When the page is closed its kernel goes, and with it the other end of this pipe.
    threading.Thread(target=lambda: os.read(0, 1) or _leave(), daemon=True).start()
    from tlskit.errors import TlskitError
    from tlskit.maps import inference
    from tlskit.networks import models
    from tlskit.slides import open_slide

    told = 0.0

    def tell(done: int, total: int, screening: bool = False) -> None:
        nonlocal told
        if done == total or time.monotonic() - told > _EVERY_S:
            told = time.monotonic()
            print(json.dumps({"windows": [done, total], "screening": screening}), flush=True)

    try:
        checkpoint = models.load_checkpoint(order["checkpoint"])
        Path(order["out"]).parent.mkdir(parents=True, exist_ok=True)
        slide = order["slide"]
        if order.get("mpp_override"):
            slide = open_slide(slide, mpp_override=order["mpp_override"], **inference.reading_of(checkpoint))
        screen = _screen(order, checkpoint, tell) if "screen" in order else None
        prediction = inference.predict_slide(
            checkpoint, slide, order["out"], screen=screen, progress=False, on_windows=tell
        )
        lost = len(prediction.lost)
        answer = {"done": True, "lost": lost}
    except TlskitError as error:
        answer = {"error": str(error)}
    except (OSError, MemoryError, RuntimeError) as error:
        answer = {"error": f"The slide could not be segmented ({type(error).__name__}: {error})."}
    print(json.dumps(answer), flush=True)
    return 0 if "done" in answer else 2


def _screen(order: dict, fine, tell):
    """Where the other network lets this one look, by its map, which is kept (and goes on where it was cut off)."""
    from functools import partial

    from tlskit.cohort import from_slides, slide_rows
    from tlskit.maps import check_networks, screens_of
    from tlskit.networks import models

    path, threshold, grow_um, folder = order["screen"]
    coarse = models.load_checkpoint(path)
    check_networks(coarse, fine)
    given = {"slide_id": Path(order["out"]).stem, "mpp_override": order["mpp_override"] or float("nan")}
    (row,) = slide_rows(from_slides([order["slide"]]).assign(**given))
    look = screens_of(
        coarse, folder, threshold=threshold, grow_um=grow_um, engine_note=Path(path).with_name("engine.json"),
        on_windows=partial(tell, screening=True),
    )  # fmt: skip
    return look(row)


def _leave() -> None:
    if os.name == "posix":
        os.killpg(os.getpgid(0), signal.SIGTERM)
    os._exit(3)


if __name__ == "__main__":
    sys.exit(_work())
