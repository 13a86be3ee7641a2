"""One slide through one network in a process of its own, with progress and cancel.

The process that shows the page stays small (no torch in it) and quick, and a cancelled run is gone at once; what it had
finished stands in the map's journal, and the next run goes on from there.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

__all__ = ["Job"]

#: tqdm's "12/340 [": windows done, windows in all.
_BAR = re.compile(r"(\d+)/(\d+) \[")


class Job:
    """Segment a slide; starts at once.

    Parameters
    ----------
    slide_path, checkpoint_path
        What to segment, and with what.
    out_path
        The probability map to write.

    Attributes
    ----------
    state : str
        ``running``, ``done``, ``failed`` or ``cancelled``.
    done, total : int
        Windows; `total` is 0 until they are counted.
    reason : str
        Why it failed, as a sentence.
    """

    def __init__(self, slide_path: str | Path, checkpoint_path: str | Path, out_path: str | Path):
        self.out_path = Path(out_path)
        self.state, self.done, self.total, self.reason = "running", 0, 0, ""
        self._last_words: list[str] = []
        # The package is found where it is here, also when it is not installed but on the path.
        path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tlskit.explore.segmenting"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": path, "TQDM_MININTERVAL": "0.3", "PYTHONUTF8": "1"},
            start_new_session=os.name == "posix",
        )  # fmt: skip
        order = {"slide": str(slide_path), "checkpoint": str(checkpoint_path), "out": str(out_path)}
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
        answer: list[str] = []
        readers = [
            threading.Thread(target=self._read_answer, args=(answer,), daemon=True),
            threading.Thread(target=self._read_bar, daemon=True),
        ]
        for reader in readers:
            reader.start()
        code = self._process.wait()
        self._end_all()
        for reader in readers:
            reader.join(timeout=5)
        self._process.stdin.close()
        if self.state == "cancelled":
            return
        found = {}
        if answer:
            try:
                found = json.loads(answer[-1])
            except ValueError:
                found = {}
        if code == 0 and found.get("done"):
            self.state = "done"
        else:
            last = next((line for line in reversed(self._last_words) if line.strip()), "")
            self.reason = found.get("error") or f"The segmentation ended with code {code}. {last}".strip()
            self.state = "failed"

    def _read_answer(self, answer: list[str]) -> None:
        for line in self._process.stdout:
            answer.append(line.decode(errors="replace"))

    def _read_bar(self) -> None:
        text = b""
        while piece := self._process.stderr.read1(4096):
            *lines, text = re.split(rb"[\r\n]", text + piece)
            for line in [*lines, text]:
                line = line.decode(errors="replace")
                if bar := _BAR.search(line):
                    self.done, self.total = int(bar[1]), int(bar[2])
                elif line.strip():
                    self._last_words = [*self._last_words[-20:], line.strip()]


def _work() -> int:
    """The other side: reads the order from standard input, predicts, answers one line of JSON."""
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

    try:
        checkpoint = models.load_checkpoint(order["checkpoint"])
        Path(order["out"]).parent.mkdir(parents=True, exist_ok=True)
        prediction = inference.predict_slide(checkpoint, order["slide"], order["out"])
        lost = len(prediction.lost)
        answer = {"done": True, "lost": lost}
    except TlskitError as error:
        answer = {"error": str(error)}
    except (OSError, MemoryError, RuntimeError) as error:
        answer = {"error": f"The slide could not be segmented ({type(error).__name__}: {error})."}
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
    return 0 if "done" in answer else 2


def _leave() -> None:
    if os.name == "posix":
        os.killpg(os.getpgid(0), signal.SIGTERM)
    os._exit(3)


if __name__ == "__main__":
    sys.exit(_work())
