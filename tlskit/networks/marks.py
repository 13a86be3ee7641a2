"""How far a training is: a few numbers beside its checkpoint, every few seconds, for who waits for it."""

from __future__ import annotations

import contextlib
import datetime
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tlskit.files import write_text

__all__ = ["Mark", "marking", "read_mark"]

#: Seconds between two marks.
EVERY_S = 5.0


@dataclass(frozen=True)
class Mark:
    """Where a training stands.

    Attributes
    ----------
    steps, done, first
        Of the optimiser: in all, made so far, and made already when this process began (it went on from a state).
    epochs
        In all.
    seconds
        Since this process began to train, validation included.
    time_utc
        When it was marked, by the clock of the machine that trains.
    """

    steps: int
    done: int
    first: int
    epochs: int
    seconds: float
    time_utc: str

    @property
    def epoch(self) -> int:
        """The one under way, from 1; with its last step made it is being validated."""
        ended = self.done if self.done == self.first else self.done - 1
        return min(self.epochs, ended * self.epochs // max(1, self.steps) + 1)

    @property
    def left_s(self) -> float | None:
        """Seconds that are left, by the steps of this process; None before the first."""
        made = self.done - self.first
        return self.seconds / made * (self.steps - self.done) if made > 0 else None


def _path_of(checkpoint_path: Path) -> Path:
    return checkpoint_path.with_name(f"{checkpoint_path.stem}-training.json")


@contextlib.contextmanager
def marking(checkpoint_path: str | Path, *, steps: int, done: int, epochs: int) -> Iterator[Callable[[], None]]:
    """Mark how far the training of a checkpoint is, while the block lasts.

    Gives a function to call after each step. A mark that cannot be written is left out: nobody's training ends for it.
    """
    path, first, began, last = _path_of(Path(checkpoint_path)), done, time.monotonic(), 0.0

    def mark() -> None:
        nonlocal last
        last = time.monotonic()
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        found = Mark(steps, done, first, epochs, round(last - began, 1), now)
        with contextlib.suppress(OSError):
            write_text(path, json.dumps(asdict(found)))

    def step() -> None:
        nonlocal done
        done += 1
        if time.monotonic() - last > EVERY_S:
            mark()

    mark()
    try:
        yield step
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def read_mark(checkpoint_path: str | Path) -> Mark | None:
    """How far the training of a checkpoint is; None where nothing is marked."""
    try:
        return Mark(**json.loads(_path_of(Path(checkpoint_path)).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
