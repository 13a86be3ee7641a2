"""Engines: the same network, run by PyTorch, OpenVINO or ONNX Runtime.

An engine takes windows as they are read, ``(B, S, S, 3) uint8``, and gives probabilities, ``(B, S, S) float32``.
Work is handed in (`Engine.submit`) and fetched later (`Engine.result`), so that the next windows are read and the
last ones blended meanwhile.

What may be asked for is a ladder of engines, the fastest first (`_rungs`). ``precision: auto`` never costs accuracy
silently: the first windows are also run through the network as it is, in float32; the largest difference of a
probability is kept (`Engine.max_dprob`), and an engine that differs by more than `MAX_DPROB` is given up for the next
one. ``precision: exact`` is the same with `EXACT_DPROB`. The last of the ladder is plain PyTorch itself.
"""

from __future__ import annotations

import importlib.util
import logging
import time

import numpy as np
import torch
from torch import nn

from tlskit.errors import ParameterError
from tlskit.networks.compiled import OnnxEngine, OpenVinoEngine
from tlskit.networks.hardware import pick_device, pick_precision, tune_allocator
from tlskit.networks.runtimes import MAX_STREAM_PX, Engine, TorchEngine, has_parts, torch_engine

__all__ = ["ENGINES", "EXACT_DPROB", "MAX_DPROB", "Engine", "EngineSource", "eager", "make_engine", "prepare"]

log = logging.getLogger(__name__)

ENGINES = ("auto", "torch", "openvino", "onnxruntime")
#: Largest difference of a probability to plain float32 that ``auto`` puts up with.
MAX_DPROB = 0.02
#: The same for ``exact``. Float32 summed in another order differs by 1e-7 to 3e-5, according to the network: where a
#: network makes much of its roundings, plain PyTorch is as far from float64 (1e-5 on a trained one).
EXACT_DPROB = 1e-5
#: What the optional engines need, and how to get it.
_PACKAGES = {"openvino": ["openvino"], "onnxruntime": ["onnxruntime", "onnx"]}
_INSTALL = {"openvino": "pip install tlskit[openvino]", "onnxruntime": "pip install onnxruntime onnx"}
#: Windows that are compared: enough to see a difference, few enough not to be felt. Of large ones a single one: plain
#: PyTorch holds all layers of all windows of a call.
_CHECK_WINDOWS = 4


def eager(checkpoint, windows: np.ndarray, *, device="cpu") -> np.ndarray:
    """The plain way: float32 PyTorch, one call, the network as it is. The reference of every engine.

    Parameters
    ----------
    checkpoint
        Anything with ``model`` and ``normalisation``.
    windows : (B, S, S, 3) uint8

    Returns
    -------
    (B, S, S) float32
    """
    engine = TorchEngine(checkpoint, "exact", torch.device(device), plain=True)
    return engine.predict(np.ascontiguousarray(windows))


def make_engine(
    checkpoint,
    *,
    engine: str = "auto",
    precision: str = "auto",
    window_px: int,
    device: str = "auto",
    threads: int | None = None,
) -> Engine:
    """Make the network ready to run.

    Parameters
    ----------
    checkpoint
        Anything with ``model`` (a module: (B, 3, S, S) float32 to logits (B, 1, S, S)) and ``normalisation``.
        It is copied, not changed.
    engine : str
        One of `ENGINES`. ``auto`` takes PyTorch on a GPU, on a CPU OpenVINO where it is installed, else PyTorch.
    precision : str
        ``auto`` takes what the hardware multiplies fastest, ``exact`` float32, ``bf16`` mixed precision.
    window_px : int
        Side of the windows it will be given.
    device : str
        As in `compute.pick_device`.
    threads : int, optional
        Threads on a CPU, by default PyTorch's.

    Raises
    ------
    ParameterError
        If the engine is unknown or not installed, or cannot run on the device or at the precision asked for.
    """
    chosen, rungs = _rungs(checkpoint.model, engine, precision, device)
    return _first_possible(checkpoint, rungs, window_px, threads, chosen, (engine, precision))


def _rungs(model: nn.Module, engine: str, precision: str, device) -> tuple[torch.device, list[tuple[str, str]]]:
    """The device, and the engines that were asked for by name and precision, the fastest first."""
    if engine not in ENGINES:
        raise ParameterError(f"`engine` should be one of {', '.join(ENGINES)}, not {engine!r}.")
    chosen = pick_device(device)
    if engine in _PACKAGES:
        missing = [name for name in _PACKAGES[engine] if importlib.util.find_spec(name) is None]
        if missing:
            raise ParameterError(
                f"`engine: {engine}` needs a package that is not installed: {_INSTALL[engine]}; or use 'auto'."
            )
        if chosen.type != "cpu" and device != "auto":
            raise ParameterError(f"`engine: {engine}` runs on the CPU, not on {device!r}. Use 'torch' or 'auto'.")
        chosen = torch.device("cpu")
    if engine == "onnxruntime":
        if precision not in ("auto", "exact"):
            raise ParameterError(
                f"`engine: onnxruntime` computes in float32 here; `precision` cannot be {precision!r}."
            )
        return chosen, [("onnxruntime", "exact")]
    fastest = pick_precision(precision, chosen)
    precisions = [fastest]
    if precision == "auto" and fastest != "exact":
        precisions += [*(["mixed"] if has_parts(model) else []), "exact"]
    names = [engine]
    if engine == "auto":
        names = ["openvino"] if chosen.type == "cpu" and importlib.util.find_spec("openvino") else []
        names.append("torch")
    # PyTorch is slower than OpenVINO at equal precision, so that it is tried at float32 only, after it.
    rungs = [(names[0], one) for one in precisions] + [(name, precisions[-1]) for name in names[1:]]
    if "torch" in names and precisions[-1] == "exact":
        rungs.append(("eager", "exact"))
    return chosen, rungs


def _make(checkpoint, rung: tuple[str, str], window_px: int, threads: int | None, device: torch.device) -> Engine:
    name, precision = rung
    tune_allocator()
    if name == "openvino":
        return OpenVinoEngine(checkpoint, precision, window_px, threads)
    if name == "onnxruntime":
        return OnnxEngine(checkpoint, window_px, threads)
    if name == "eager":
        return TorchEngine(checkpoint, precision, device, plain=True)
    return torch_engine(checkpoint, precision, device, window_px=window_px, threads=threads)


def _first_possible(checkpoint, rungs, window_px, threads, device, asked) -> Engine:
    """The first of the rungs; PyTorch's first where OpenVINO cannot take the network and need not."""
    try:
        return _make(checkpoint, rungs[0], window_px, threads, device)
    except Exception as error:  # conversion fails in many ways, by type and by text; the user's choice decides
        if rungs[0][0] != "openvino":
            raise
        engine, precision = asked
        if engine == "openvino":
            raise ParameterError(f"`engine: openvino` cannot take this network ({error}). Use 'torch'.") from error
        log.warning("OpenVINO cannot take this network; PyTorch is used instead (%s)", error)
        _, rungs = _rungs(checkpoint.model, "torch", precision, device)
        return _make(checkpoint, rungs[0], window_px, threads, device)


def prepare(checkpoint, windows: np.ndarray, *, made: Engine, engine="auto", precision="auto", threads=None) -> Engine:
    """Compare an engine with plain float32 on the first windows, and give it up for a more exact one if need be.

    An engine or precision that was asked for by name is kept, whatever it differs by; that is recorded and warned of.

    Parameters
    ----------
    windows : (B, S, S, 3) uint8
        The first batch.
    made : Engine
        What `make_engine` made of the same `engine` and `precision`.
    """
    start = time.perf_counter()
    first = np.ascontiguousarray(windows[: _CHECK_WINDOWS if windows.shape[1] <= MAX_STREAM_PX else 1])
    device = torch.device(made.device)
    reference = eager(checkpoint, first, device=device)
    _, rungs = _rungs(checkpoint.model, "torch" if made.name == "torch" else engine, precision, made.device)
    rungs = rungs[rungs.index((made.name, made.precision)) + 1 :] if precision in ("auto", "exact") else []
    limit = EXACT_DPROB if precision == "exact" else MAX_DPROB
    current, compiled_s = made, made.compile_s
    while True:
        current.max_dprob = float(np.abs(current.predict(first) - reference).max(initial=0.0))
        if current.max_dprob <= limit:
            break
        said = f"{current.name} at {current.precision} differs from float32 by up to {current.max_dprob:.3g}"
        if not rungs:
            log.warning("%s; it is used because it was asked for", said)
            break
        (name, following), rungs = rungs[0], rungs[1:]
        log.warning("%s (limit %g); trying %s at %s", said, limit, name, following)
        current = _make(checkpoint, (name, following), first.shape[1], threads, device)
        compiled_s += current.compile_s
    current.check_s = time.perf_counter() - start - (compiled_s - made.compile_s)
    current.compile_s = compiled_s
    return current


class EngineSource:
    """An engine to be made when the first windows are there, and then used for slide after slide.

    Parameters
    ----------
    checkpoint, engine, precision, window_px, device, threads
        See `make_engine`.

    Attributes
    ----------
    asked : (str, str)
        Engine and precision as asked for.
    made : Engine or None
    """

    def __init__(self, checkpoint, *, window_px, engine="auto", precision="auto", device="auto", threads=None):
        self.asked = (engine, precision)
        self.window_px = window_px
        self._checkpoint = checkpoint
        self._options = {"window_px": window_px, "device": device, "threads": threads}
        self.made: Engine | None = None

    def get(self, windows: np.ndarray) -> Engine:
        """The engine; the first call makes it and checks it on `windows`, ``(B, S, S, 3) uint8``."""
        if self.made is None:
            engine, precision = self.asked
            made = make_engine(self._checkpoint, engine=engine, precision=precision, **self._options)
            self.made = prepare(
                self._checkpoint, windows, made=made, engine=engine, precision=precision,
                threads=self._options["threads"],
            )  # fmt: skip
        return self.made

    def exactly(self, name: str, precision: str) -> Engine:
        """The engine of this name and precision, unchecked; the one made before where it is that."""
        if self.made is None or (self.made.name, self.made.precision) != (name, precision):
            options = self._options
            device = pick_device("cpu" if name in _PACKAGES else options["device"])
            return _make(self._checkpoint, (name, precision), options["window_px"], options["threads"], device)
        return self.made
