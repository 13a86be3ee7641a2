"""Engines: the same network, run by PyTorch, OpenVINO or ONNX Runtime.

An engine takes windows as they are read, ``(B, S, S, 3) uint8``, and gives probabilities, ``(B, S, S) float32``.
Work is handed in (`Engine.submit`) and fetched later (`Engine.result`), so that the next windows are read and the
last ones blended meanwhile.

``precision: auto`` never costs accuracy silently. The first windows are also run through the network as it is, in
float32; the largest difference of a probability is kept (`Engine.max_dprob`), and an engine that differs by more than
`MAX_DPROB` is given up for a more exact one.
"""

from __future__ import annotations

import copy
import importlib.util
import io
import logging
import time
import warnings

import numpy as np
import torch
from torch import nn

from tlskit import compute
from tlskit.errors import ParameterError
from tlskit.folding import fold
from tlskit.normalisation import check_normalisation, normalise

__all__ = ["ENGINES", "EXACT_DPROB", "MAX_DPROB", "Engine", "EngineSource", "eager", "make_engine", "prepare"]

log = logging.getLogger(__name__)

ENGINES = ("auto", "torch", "openvino", "onnxruntime")
#: Largest difference of a probability to plain float32 that ``auto`` puts up with.
MAX_DPROB = 0.02
#: The same for ``exact``. Float32 summed in another order differs by 1e-6 or so, in a badly conditioned network by
#: 1e-4, as between two batch sizes of plain PyTorch; a network that was converted wrongly differs by far more.
EXACT_DPROB = 1e-3
#: Windows that are compared: enough to see a difference, few enough not to be felt.
_CHECK_WINDOWS = 4


class _Applied(nn.Module):
    """A network with what goes before and after it: uint8 windows in, probabilities out."""

    def __init__(self, model: nn.Module, normalisation: str):
        super().__init__()
        self.model = model
        check_normalisation(normalisation)
        self.normalisation = normalisation

    def normalise(self, windows: torch.Tensor) -> torch.Tensor:
        """``(B, S, S, 3) uint8`` to ``(B, 3, S, S) float32``, without moving the channels in memory."""
        return normalise(windows.permute(0, 3, 1, 2), self.normalisation)

    def probability(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.model(x)[:, 0].float())

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        return self.probability(self.normalise(windows))


class Engine:
    """One network on one kind of runtime. Made by `make_engine`.

    Attributes
    ----------
    name, precision : str
        What it is: "torch", "openvino" or "onnxruntime"; "exact", "bf16" or "fp16".
    device : str
    compile_s : float
        Seconds to make it: copying, rewriting, conversion, compilation.
    check_s : float
        Seconds the comparison with float32 took; 0 where there was none.
    max_dprob : float
        Largest difference of a probability to float32 on the first windows; nan before it was measured.
    preprocess_s : float
        Seconds in which uint8 became float so far. 0 where the runtime does that itself, inside the forward pass.
    depth : int
        How many submitted batches may wait to be fetched.
    """

    name = precision = device = ""
    depth = 1

    def __init__(self):
        self.compile_s = self.check_s = self.preprocess_s = 0.0
        self.max_dprob = float("nan")

    def empty(self, count: int, window_px: int) -> np.ndarray:
        """Room for `count` windows, ``(count, S, S, 3) uint8``, in memory the engine takes them from fast."""
        return np.empty((count, window_px, window_px, 3), np.uint8)

    def submit(self, windows: np.ndarray):
        """Hand in ``(B, S, S, 3) uint8``; leave it alone until its `result` was fetched. Returns a ticket."""
        raise NotImplementedError

    def result(self, ticket) -> np.ndarray:
        """The probabilities of a ticket, ``(B, S, S) float32``. Tickets are fetched in the order of their making."""
        raise NotImplementedError

    def predict(self, windows: np.ndarray) -> np.ndarray:
        """`submit` and `result` in one."""
        return self.result(self.submit(windows))

    def describe(self) -> dict:
        """What a record needs to say about it."""
        return {
            "engine": self.name,
            "precision": self.precision,
            "device": self.device,
            "compile_s": self.compile_s,
            "check_s": self.check_s,
            "max_dprob": self.max_dprob,
        }


class _TorchEngine(Engine):
    name = "torch"

    def __init__(self, checkpoint, precision: str, device: torch.device, *, plain: bool = False):
        super().__init__()
        start = time.perf_counter()
        self.precision, self.device, self._device = precision, str(device), device
        self._cuda = device.type == "cuda"
        # Transposed convolutions pay on CPUs, where they were measured; elsewhere the network stays as it is.
        model = fold(checkpoint.model) if device.type == "cpu" and not plain else copy.deepcopy(checkpoint.model)
        self._applied = _Applied(model, checkpoint.normalisation).to(device).eval()
        if not plain:
            self._applied = self._applied.to(memory_format=torch.channels_last)
        self._plain = plain
        self._dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
        if self._cuda:
            self.depth = 2
            self._copies = torch.cuda.Stream(device)
        self.compile_s = time.perf_counter() - start

    def empty(self, count, window_px):
        if self._cuda:  # page-locked, so that the copy to the GPU runs beside its work
            return torch.empty((count, window_px, window_px, 3), dtype=torch.uint8, pin_memory=True).numpy()
        return super().empty(count, window_px)

    def submit(self, windows):
        with torch.inference_mode():
            return self._submit_cuda(windows) if self._cuda else self._submit(windows)

    def _submit(self, windows):
        # One by one: on a CPU a batch is no faster, and a result does not depend on how windows were grouped. (Means
        # over a channel are summed by several threads, whose shares change with the size of the batch.)
        if self._plain:
            return self._run(windows)
        return torch.cat([self._run(windows[n : n + 1]) for n in range(len(windows))])

    def _run(self, windows):
        start = time.perf_counter()
        x = self._applied.normalise(torch.from_numpy(windows).to(self._device))
        x = x.contiguous() if self._plain else x.contiguous(memory_format=torch.channels_last)
        self.preprocess_s += time.perf_counter() - start
        with torch.autocast(self._device.type, dtype=self._dtype, enabled=self._dtype is not None):
            return self._applied.probability(x)

    def _submit_cuda(self, windows):
        main = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._copies):
            on_device = torch.from_numpy(windows).to(self._device, non_blocking=True)
        main.wait_stream(self._copies)
        on_device.record_stream(main)
        with _no_tf32(self._dtype is None), torch.autocast("cuda", dtype=self._dtype, enabled=self._dtype is not None):
            probability = self._applied(on_device)
        fetched = torch.empty(probability.shape, dtype=torch.float32, pin_memory=True)
        fetched.copy_(probability, non_blocking=True)
        done = torch.cuda.Event()
        done.record(main)
        return fetched, done, windows  # windows: kept alive until copied

    def result(self, ticket):
        if self._cuda:
            fetched, done, _ = ticket
            done.synchronize()
            return fetched.numpy()
        return ticket.cpu().numpy()


class _no_tf32:
    """float32 on a GPU means float32: no 10-bit products while an exact engine runs."""

    def __init__(self, wanted: bool):
        self._wanted = wanted

    def __enter__(self):
        self._before = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
        if self._wanted:
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False

    def __exit__(self, *_):
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = self._before


class _OpenVinoEngine(Engine):
    """OpenVINO on the CPU: single windows, as many at a time as it has streams.

    Streams of one window each beat batches on CPUs: no barriers between cores, and a result never depends on how
    windows happened to be grouped.
    """

    name, device, depth = "openvino", "cpu", 2

    def __init__(self, checkpoint, precision: str, window_px: int, threads: int | None):
        super().__init__()
        import openvino

        start = time.perf_counter()
        self.precision = precision
        applied = _Applied(fold(checkpoint.model), checkpoint.normalisation).eval()
        # Traced small, then given its size: tracing runs the network a few times.
        example = torch.zeros((1, min(64, window_px), min(64, window_px), 3), dtype=torch.uint8)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # notices about tracing that a user can do nothing about
            with torch.inference_mode():
                traced = torch.jit.trace(applied, example, check_trace=False)  # `prepare` compares real windows
            converted = openvino.convert_model(traced, input=[([1, window_px, window_px, 3], openvino.Type.u8)])
        threads = threads or torch.get_num_threads()
        config = {
            "INFERENCE_PRECISION_HINT": "f32" if precision == "exact" else "bf16",
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": threads if threads <= 8 else "AUTO",
        }
        compiled = openvino.Core().compile_model(converted, "CPU", config)
        count = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._requests = [compiled.create_infer_request() for _ in range(max(1, count))]
        self._owners: list = [None] * len(self._requests)
        self._next = 0
        self.compile_s = time.perf_counter() - start

    def submit(self, windows):
        ticket = np.empty(windows.shape[:3], np.float32)
        for n in range(len(windows)):
            slot = self._next
            self._next = (slot + 1) % len(self._requests)
            self._collect(slot)
            self._requests[slot].start_async([windows[n : n + 1]], share_inputs=True)
            self._owners[slot] = (ticket, n, windows)
        return ticket

    def result(self, ticket):
        for step in range(len(self._requests)):
            slot = (self._next + step) % len(self._requests)
            if self._owners[slot] is not None and self._owners[slot][0] is ticket:
                self._collect(slot)
        return ticket

    def _collect(self, slot: int) -> None:
        if self._owners[slot] is not None:
            ticket, n, _ = self._owners[slot]
            self._requests[slot].wait()
            ticket[n] = self._requests[slot].get_output_tensor().data[0]
            self._owners[slot] = None


class _OnnxEngine(Engine):
    name, precision, device = "onnxruntime", "exact", "cpu"

    def __init__(self, checkpoint, window_px: int, threads: int | None):
        super().__init__()
        import onnxruntime

        start = time.perf_counter()
        applied = _Applied(fold(checkpoint.model), checkpoint.normalisation).eval()
        example = torch.zeros((1, window_px, window_px, 3), dtype=torch.uint8)
        file = io.BytesIO()
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")
            torch.onnx.export(applied, (example,), file, dynamo=False, input_names=["windows"], output_names=["p"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        self._session = onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])
        self.compile_s = time.perf_counter() - start

    def submit(self, windows):
        return np.concatenate([self._session.run(None, {"windows": one[None]})[0] for one in windows])

    def result(self, ticket):
        return ticket


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
    engine = _TorchEngine(checkpoint, "exact", torch.device(device), plain=True)
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
    if engine not in ENGINES:
        raise ParameterError(f"`engine` should be one of {', '.join(ENGINES)}, not {engine!r}.")
    chosen_device = compute.pick_device(device)
    compute.tune_allocator()
    exactness = compute.pick_precision(precision, chosen_device)
    name = engine
    if engine == "auto":
        usable = chosen_device.type == "cpu" and importlib.util.find_spec("openvino") is not None
        name = "openvino" if usable else "torch"
    if name == "torch":
        return _TorchEngine(checkpoint, exactness, chosen_device)
    package = {"openvino": "pip install tlskit[openvino]", "onnxruntime": "pip install onnxruntime onnx"}[name]
    if importlib.util.find_spec(name) is None:
        raise ParameterError(f"`engine: {name}` needs a package that is not installed: {package}; or use 'auto'.")
    if chosen_device.type != "cpu" and device != "auto":
        raise ParameterError(f"`engine: {name}` runs on the CPU, not on {device!r}. Use 'torch' or 'auto'.")
    if name == "onnxruntime":
        if precision not in ("auto", "exact"):
            raise ParameterError(
                f"`engine: onnxruntime` computes in float32 here; `precision` cannot be {precision!r}."
            )
        return _OnnxEngine(checkpoint, window_px, threads)
    exactness = compute.pick_precision(precision, "cpu")
    try:
        return _OpenVinoEngine(checkpoint, exactness, window_px, threads)
    except Exception as error:  # conversion fails in many ways, by type and by text; the user's choice decides
        if engine != "auto":
            raise ParameterError(f"`engine: openvino` cannot take this network ({error}). Use 'torch'.") from error
        log.warning("OpenVINO cannot take this network; PyTorch is used instead (%s)", error)
        return _TorchEngine(checkpoint, exactness, chosen_device)


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
    first = np.ascontiguousarray(windows[:_CHECK_WINDOWS])
    device = torch.device(made.device)
    reference = eager(checkpoint, first, device=device)
    tried = [made]
    while True:
        current = tried[-1]
        current.max_dprob = float(np.abs(current.predict(first) - reference).max(initial=0.0))
        limit = EXACT_DPROB if current.precision == "exact" else MAX_DPROB
        if current.max_dprob <= limit:
            break
        following = _more_exact(checkpoint, current, len(tried), engine, precision, first.shape[1], threads, device)
        said = f"{current.name} at {current.precision} differs from float32 by up to {current.max_dprob:.3g}"
        if following is None:
            log.warning("%s; it is used because it was asked for", said)
            break
        log.warning("%s (limit %g); trying %s at %s", said, limit, following.name, following.precision)
        tried.append(following)
    chosen = tried[-1]
    chosen.compile_s = sum(one.compile_s for one in tried)
    chosen.check_s = time.perf_counter() - start - sum(one.compile_s for one in tried[1:-1])
    return chosen


def _more_exact(checkpoint, current, attempts, engine, precision, window_px, threads, device) -> Engine | None:
    """The next engine to try, within what was asked for; None where there is no other."""
    if current.precision != "exact":
        if precision != "auto":
            return None
        if current.name == "openvino":
            return _OpenVinoEngine(checkpoint, "exact", window_px, threads)
        return _TorchEngine(checkpoint, "exact", device)
    if current.name != "torch":
        return _TorchEngine(checkpoint, "exact", device) if engine == "auto" else None
    if getattr(current, "_plain", False):
        return None
    return _TorchEngine(checkpoint, "exact", device, plain=True)


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
            return make_engine(self._checkpoint, engine=name, precision=precision, **self._options)
        return self.made
