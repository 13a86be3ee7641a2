"""Engines: the same network, run by PyTorch or OpenVINO, and the choice among them that costs no accuracy unseen.

An engine takes windows as they are read, ``(B, S, S, 3) uint8`` or with their context (`tlskit.networks.inputs`), and
gives probabilities, ``(B, S, S) float32``.
Work is handed in (`Engine.submit`) and fetched later (`Engine.result`), so that the next windows are read and the
last ones blended meanwhile.

``precision: auto`` is a ladder of two rungs and a reference: *mixed* (the encoder in float32, the decoder, which does
nine tenths of the work, in bf16) where the hardware multiplies bf16, then float32, then PyTorch as it comes. A rung is
compared with the last one on windows rich in tissue, by what a map holds (the probability) and by what a user sees
(`tlskit.networks.agreement`), and given up where it breaks a limit. bf16 throughout is faster on large windows, but
moved the probabilities of the demo's four networks by 0.08 to 0.22: it is there by name only. int8 is not to be had:
quantised after training (NNCF, calibrated on training tiles), the same four moved by 0.18 to 0.75, and by 0.11 to
0.19 with the decoder alone in int8; 0.02 is put up with. What was chosen is noted beside the checkpoint, so that tiles,
slides, timing and `predict` are all run by one engine.
"""

from __future__ import annotations

import errno
import importlib.util
import json
import logging
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tlskit.errors import ParameterError
from tlskit.files import write_text
from tlskit.networks.agreement import Agreement, compare
from tlskit.networks.compiled import OpenVinoEngine
from tlskit.networks.hardware import describe_hardware, pick_device, pick_precision, tune_allocator
from tlskit.networks.inputs import window_px_of
from tlskit.networks.runtimes import BATCH, Engine, TorchEngine, has_parts, torch_engine

__all__ = ["CHECK_WINDOWS", "ENGINES", "Engine", "EngineSource", "check_engine", "choose", "eager", "make_engine"]

log = logging.getLogger(__name__)

ENGINES = ("auto", "torch", "openvino")
#: Windows that an engine is chosen by, at least, where there are so many.
CHECK_WINDOWS = 16


def eager(checkpoint, windows: np.ndarray, *, device="cpu") -> np.ndarray:
    """The plain way: float32 PyTorch, one call, the network as it is. The reference of every engine.

    Parameters
    ----------
    checkpoint
        Anything with ``model`` and ``normalisation``; where it has them, ``context_ratio`` and ``context_px``.
    windows : (B, S, S, 3) uint8
        Or with their context: `inputs.room`, here and below.

    Returns
    -------
    (B, S, S) float32
    """
    engine = TorchEngine(checkpoint, "exact", torch.device(device), plain=True)
    # One at a time: plain PyTorch holds all layers of all windows of a call.
    return np.concatenate([engine.predict(np.ascontiguousarray(windows[n : n + 1])) for n in range(len(windows))])


def make_engine(
    checkpoint,
    *,
    engine: str = "auto",
    precision: str = "auto",
    window_px: int,
    device: str = "auto",
    threads: int | None = None,
    batch: int = BATCH,
    keep: str | Path | None = None,
) -> Engine:
    """Make the network ready to run, by the first rung of what is asked for, unchecked.

    Parameters
    ----------
    checkpoint
        Anything with ``model`` (a module: (B, 3, S, S) float32, and the context (B, 3, C, C) where it is given one, to
        logits (B, 1, S, S)) and ``normalisation``. It is copied, not changed.
    engine : str
        One of `ENGINES`. ``auto`` takes PyTorch on a GPU, on a CPU OpenVINO where it is installed, else PyTorch.
    precision : str
        ``auto``: mixed where the hardware multiplies half precision, else float32; ``exact``: float32; ``bf16``: half
        precision throughout.
    window_px : int
        Side of the windows it will be given.
    device : str
        As in `pick_device`. ``openvino`` asked for by name runs on the CPU, also where there is a GPU.
    threads : int, optional
        Threads on a CPU, by default PyTorch's.
    batch : int
        Windows that a GPU computes at a time.
    keep : path, optional
        Folder in which what OpenVINO compiled is kept, and looked for before it compiles.

    Raises
    ------
    ParameterError
        If the engine is unknown or not installed, or cannot run on the device or at the precision asked for.
    """
    return _climb(checkpoint, None, 0.5, engine, precision, window_px, device, threads, batch, keep)[0]


def check_engine(model: nn.Module, *, engine: str = "auto", precision: str = "auto", device: str = "auto") -> None:
    """Raise `ParameterError` where `make_engine` would, because of what is asked for or what is installed."""
    _rungs(model, engine, precision, device)


def choose(
    checkpoint,
    windows: np.ndarray,
    *,
    threshold: float = 0.5,
    engine: str = "auto",
    precision: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    batch: int = BATCH,
    keep: str | Path | None = None,
) -> tuple[Engine, list[dict]]:
    """The fastest engine of the ladder that agrees with plain float32 on `windows`.

    An engine or precision that was asked for by name is kept, whatever it differs by; that is recorded and warned of.

    Parameters
    ----------
    windows : (B, S, S, 3) uint8
        `CHECK_WINDOWS` or more, rich in tissue and spread over what will be predicted.
    threshold : float
        Probability from which a pixel counts as target.

    Returns
    -------
    Engine
        With its ``agreement``.
    list of dict
        The rungs that were tried: engine, precision, kept, and the fields of `Agreement`.
    """
    side = window_px_of(windows)
    return _climb(checkpoint, windows, threshold, engine, precision, side, device, threads, batch, keep)


def _climb(
    checkpoint, windows, threshold, engine, precision, window_px, device, threads, batch, keep
) -> tuple[Engine, list[dict]]:
    """Make the rungs one after the other until one agrees; the first is taken where there are no windows."""
    chosen, rungs = _rungs(checkpoint.model, engine, precision, device)
    start, compiled_s, tried, reference = time.perf_counter(), 0.0, [], None
    while rungs:
        (name, at), rungs = rungs[0], rungs[1:]
        try:
            made = _make(checkpoint, (name, at), window_px, threads, chosen, batch, keep)
        except Exception as error:  # conversion fails in many ways, by type and by text; the user's choice decides
            if name != "openvino":
                raise
            if engine == "openvino":
                raise ParameterError(f"`engine: openvino` cannot take this network ({error}). Use 'torch'.") from error
            log.warning("OpenVINO cannot take this network; PyTorch is used instead (%s)", error)
            rungs = _rungs(checkpoint.model, "torch", precision, device)[1]
            engine = "torch"
            continue
        compiled_s += made.compile_s
        if windows is None:
            return made, []
        if reference is None:
            reference = eager(checkpoint, windows, device=_judge(chosen))
        is_reference = name == "eager" and chosen == _judge(chosen)
        given = reference if is_reference else made.predict(np.ascontiguousarray(windows))
        made.agreement = compare(given, reference, threshold=threshold)
        broken = made.agreement.broken_limit(exact=at == "exact")
        may_climb = broken and rungs and precision in ("auto", "exact")
        tried.append({"engine": name, "precision": at, "kept": not may_climb, **made.agreement.as_dict()})
        if not may_climb:
            break
        log.warning("%s at %s differs from float32: %s; trying %s at %s", name, at, broken, *rungs[0])
    if broken:
        log.warning("%s at %s differs from float32: %s; it is used because it was asked for", name, at, broken)
    made.compile_s, made.check_s = compiled_s, time.perf_counter() - start - compiled_s
    return made, tried


def _rungs(model: nn.Module, engine: str, precision: str, device) -> tuple[torch.device, list[tuple[str, str]]]:
    """The device, and the engines that were asked for by name and precision, the fastest first."""
    if engine not in ENGINES:
        raise ParameterError(f"`engine` should be one of {', '.join(ENGINES)}, not {engine!r}.")
    has_openvino = importlib.util.find_spec("openvino") is not None
    if engine == "openvino" and not has_openvino:
        raise ParameterError(
            "`engine: openvino` needs a package that is not installed: pip install tlskit[openvino]; or use 'auto'."
        )
    if engine == "openvino" and device not in ("auto", "cpu", torch.device("cpu")):
        raise ParameterError(f"`engine: openvino` runs on the CPU, not on {device!r}. Use 'torch' or 'auto'.")
    chosen = torch.device("cpu") if engine == "openvino" else pick_device(device)
    fastest = pick_precision(precision, chosen)
    precisions = [fastest]
    if precision == "auto":
        precisions = [*(["mixed"] if fastest != "exact" and has_parts(model) else []), "exact"]
    takes_openvino = engine == "openvino" or (engine == "auto" and chosen.type == "cpu" and has_openvino)
    first = "openvino" if takes_openvino else "torch"
    rungs = [(first, one) for one in precisions]
    # PyTorch is slower than OpenVINO at equal precision: it is tried at float32 only, after it.
    if engine == "auto" and first == "openvino":
        rungs.append(("torch", precisions[-1]))
    if engine != "openvino" and precisions[-1] == "exact":
        rungs.append(("eager", "exact"))
    return chosen, rungs


def _judge(device: torch.device | str) -> torch.device:
    """Where float32 is computed that others are compared with: Apple's GPU is no judge of itself (`pick_device`)."""
    device = torch.device(device)
    return torch.device("cpu") if device.type == "mps" else device


def _make(
    checkpoint, rung: tuple[str, str], window_px: int, threads: int | None, device: torch.device, batch: int, keep
) -> Engine:
    name, precision = rung
    tune_allocator()
    if name == "openvino":
        made = OpenVinoEngine(checkpoint, precision, window_px, threads, keep)
    elif name == "eager":
        made = TorchEngine(checkpoint, precision, device, plain=True)
    else:
        made = torch_engine(checkpoint, precision, device, window_px=window_px, threads=threads)
    made.batch = batch
    return made


class EngineSource:
    """An engine that is chosen once for a checkpoint and a kind of machine, and then used for slide after slide.

    Parameters
    ----------
    checkpoint, engine, precision, window_px, device, threads
        See `make_engine`.
    note : path, optional
        A JSON file beside the checkpoint: what was chosen before for this checkpoint, on this kind of machine, for
        this size of window, is taken up from there; what is chosen here is written there. What OpenVINO compiles is
        kept beside it.

    Attributes
    ----------
    asked : (str, str)
        Engine and precision as asked for.
    made : Engine or None
    tried : list of dict
        The ladder: see `choose`.
    """

    def __init__(
        self, checkpoint, *, window_px, engine="auto", precision="auto", device="auto", threads=None, note=None
    ):
        self.asked = (engine, precision)
        self.window_px = window_px
        self.made: Engine | None = None
        self.tried: list[dict] = []
        self._checkpoint = checkpoint
        self._options = {"window_px": window_px, "device": device, "threads": threads, "batch": BATCH}
        self._note = Path(note) if note else None
        self._options["keep"] = self._note.parent if self._note else None

    def set_batch(self, count: int) -> None:
        """Windows that a GPU computes at a time, from here on."""
        self._options["batch"] = count
        if self.made is not None:
            self.made.batch = count

    @property
    def is_chosen(self) -> bool:
        """Whether it was chosen before, here or by an earlier step that noted it."""
        return self.made is not None or self.noted() is not None

    def get(self, windows: np.ndarray) -> Engine:
        """The engine. The first call chooses it by `windows`, ``(B, S, S, 3) uint8``, unless it was noted before."""
        if self.made is None:
            noted = self.noted()
            if not noted and len(windows) == 0:  # nothing to choose by: float32, for this once
                options, exact = self._options, "exact" if self.asked[1] == "auto" else self.asked[1]
                return make_engine(self._checkpoint, engine=self.asked[0], precision=exact, **options)
            if noted:
                self.tried = noted["tried"]
                self.made = self.exactly(noted["engine"], noted["precision"])
                fields = Agreement.__dataclass_fields__
                self.made.agreement = Agreement(**{name: self.tried[-1][name] for name in fields})
            else:
                options = {name: self._options[name] for name in ("device", "threads", "batch", "keep")}
                engine, precision = self.asked
                self.made, self.tried = choose(
                    self._checkpoint, windows, engine=engine, precision=precision,
                    threshold=getattr(self._checkpoint, "threshold", None) or 0.5, **options,
                )  # fmt: skip
                self._write_note()
        return self.made

    def recheck(self, windows: np.ndarray) -> Engine:
        """The engine, looked at again on windows of another slide, ``(B, S, S, 3) uint8``.

        Where it breaks a limit there it is given up for the next rung from here on, and the note with it: a choice
        that holds for some slides only is none.
        """
        made = self.get(windows)
        is_reference = made.name == "eager" and torch.device(made.device) == _judge(made.device)
        if len(windows) == 0 or is_reference or self.asked[1] not in ("auto", "exact"):
            return made
        start = time.perf_counter()
        windows = np.ascontiguousarray(windows)
        reference = eager(self._checkpoint, windows, device=_judge(made.device))
        found = compare(made.predict(windows), reference, threshold=0.5)
        made.check_s = time.perf_counter() - start
        broken = found.broken_limit(exact=made.precision == "exact")
        made.agreement = made.agreement.joined(found) if made.agreement else found
        if broken:
            log.warning(
                "%s at %s agreed with float32 on the windows it was chosen by, but not on this slide: %s. What follows "
                "is run in float32.", made.name, made.precision, broken,
            )  # fmt: skip
            engine = "torch" if made.precision == "exact" else self.asked[0]
            options = {name: self._options[name] for name in ("device", "threads", "batch", "keep")}
            self.made, tried = choose(self._checkpoint, windows, engine=engine, precision="exact", **options)
            self.tried += tried
            self._write_note()
        return self.made

    def exactly(self, name: str, precision: str) -> Engine:
        """The engine of this name and precision, unchecked; the one made before where it is that."""
        if self.made is None or (self.made.name, self.made.precision) != (name, precision):
            options = self._options
            device = pick_device("cpu" if name == "openvino" else options["device"])
            given = (options[name] for name in ("window_px", "threads"))
            return _make(self._checkpoint, (name, precision), *given, device, options["batch"], options["keep"])
        return self.made

    def subject(self) -> dict:
        """What a choice holds for: network, what was asked for, window, kind of machine."""
        hardware = describe_hardware("cpu" if self.asked[0] == "openvino" else self._options["device"])
        return {
            "checkpoint_sha256": getattr(self._checkpoint, "sha256", ""),
            "asked": list(self.asked),
            "window_px": self.window_px,
            "machine": {name: hardware[name] for name in ("cpu", "gpu", "device", "torch")},
        }

    def _notes(self) -> list[dict]:
        if self._note is None or not self._note.is_file():
            return []
        try:
            return json.loads(self._note.read_text(encoding="utf-8"))
        except ValueError:  # cut off or edited: the choice is made again
            return []

    def noted(self) -> dict | None:
        """What the note says of this subject at this moment."""
        subject = self.subject()
        same = [note for note in self._notes() if all(note.get(name) == value for name, value in subject.items())]
        return same[-1] if same else None

    def _write_note(self) -> None:
        if self._note is None:
            return
        subject = self.subject()
        others = [note for note in self._notes() if any(note.get(name) != value for name, value in subject.items())]
        note = subject | {"engine": self.made.name, "precision": self.made.precision, "tried": self.tried}
        try:
            write_text(self._note, json.dumps([*others, note], indent=1) + "\n")
        except OSError as error:
            # The network of another person, or on a disk that is only read: the choice is made again each time.
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            log.info("%s cannot be written; what runs the network is chosen again next time", self._note)
