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

import abc
import copy
import importlib.util
import io
import logging
import sys
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
#: The same for ``exact``. Float32 summed in another order differs by 1e-7 to 3e-5, according to the network: where a
#: network makes much of its roundings, plain PyTorch is as far from float64 (1e-5 on a trained one).
EXACT_DPROB = 1e-5
#: What the optional engines need, and how to get it.
_PACKAGES = {"openvino": ["openvino"], "onnxruntime": ["onnxruntime", "onnx"]}
_INSTALL = {"openvino": "pip install tlskit[openvino]", "onnxruntime": "pip install onnxruntime onnx"}
#: Windows that are compared: enough to see a difference, few enough not to be felt.
_CHECK_WINDOWS = 4


def _has_parts(model: nn.Module) -> bool:
    """Whether a network is an encoder, a decoder and a head, as those of segmentation-models-pytorch."""
    return all(
        isinstance(getattr(model, name, None), nn.Module) for name in ("encoder", "decoder", "segmentation_head")
    )


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

    def features(self, x: torch.Tensor) -> list[torch.Tensor]:
        """What the encoder sees at every scale."""
        return list(self.model.encoder(x))

    def decoded(self, features: list[torch.Tensor]) -> torch.Tensor:
        """The probability from what the encoder saw."""
        return torch.sigmoid(self.model.segmentation_head(self.model.decoder(features))[:, 0].float())

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        return self.probability(self.normalise(windows))


class _Encoding(nn.Module):
    """The first half of `_Applied`: windows in, a tuple of features out."""

    def __init__(self, applied: _Applied):
        super().__init__()
        self.applied = applied

    def forward(self, windows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.applied.features(self.applied.normalise(windows)))


class _Decoding(nn.Module):
    """The second half of `_Applied`: features in, probabilities out."""

    def __init__(self, applied: _Applied):
        super().__init__()
        self.applied = applied

    def forward(self, *features: torch.Tensor) -> torch.Tensor:
        return self.applied.decoded(list(features))


class Engine(abc.ABC):
    """One network on one kind of runtime. Made by `make_engine`.

    Attributes
    ----------
    name, precision : str
        What it is: "torch", "openvino", "onnxruntime" or "eager" (PyTorch as it comes); "exact", "bf16", "fp16" or
        "mixed" (the encoder in float32, the decoder, which does most of the work, in half precision).
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

    @abc.abstractmethod
    def submit(self, windows: np.ndarray):
        """Hand in ``(B, S, S, 3) uint8``; leave it alone until its `result` was fetched. Returns a ticket."""

    @abc.abstractmethod
    def result(self, ticket) -> np.ndarray:
        """The probabilities of a ticket, ``(B, S, S) float32``. Tickets are fetched in the order of their making."""

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
        if plain:
            self.name = "eager"
        self.precision, self.device, self._device = precision, str(device), device
        self._cuda = device.type == "cuda"
        # Transposed convolutions pay on CPUs, where they were measured; elsewhere the network stays as it is.
        model = fold(checkpoint.model) if device.type == "cpu" and not plain else copy.deepcopy(checkpoint.model)
        self._applied = _Applied(model, checkpoint.normalisation).to(device).eval()
        if not plain:
            self._applied = self._applied.to(memory_format=torch.channels_last)
        self._plain = plain
        half = compute.pick_precision("auto", device) if precision == "mixed" else precision
        self._dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(half)
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
        return self._probability(x)

    def _probability(self, x: torch.Tensor) -> torch.Tensor:
        half = torch.autocast(self._device.type, dtype=self._dtype, enabled=self._dtype is not None)
        if self.precision == "mixed":
            features = self._applied.features(x)
            with half:
                return self._applied.decoded(features)
        with half:
            return self._applied.probability(x)

    def _submit_cuda(self, windows):
        main = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._copies):
            on_device = torch.from_numpy(windows).to(self._device, non_blocking=True)
        main.wait_stream(self._copies)
        on_device.record_stream(main)
        with _no_tf32(self.precision in ("exact", "mixed")):
            probability = self._probability(self._applied.normalise(on_device))
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


def _import_openvino():
    """OpenVINO without its telemetry, which would tell a server outside of every import and conversion.

    It does so from forked copies of this process: where the network is closed, as in hospitals, they pile up, and each
    costs as much as copying a process of gigabytes. Without the module OpenVINO falls back to a stub of its own.
    """
    sys.modules.setdefault("openvino_telemetry", None)
    import openvino

    return openvino


class _OpenVinoEngine(Engine):
    """OpenVINO on the CPU: single windows, as many at a time as it has streams.

    Streams of one window each beat batches on CPUs: no barriers between cores, and a result never depends on how
    windows happened to be grouped.
    """

    name, device, depth = "openvino", "cpu", 2

    def __init__(self, checkpoint, precision: str, window_px: int, threads: int | None):
        super().__init__()
        openvino = _import_openvino()
        start = time.perf_counter()
        self.precision = precision
        applied = _Applied(fold(checkpoint.model), checkpoint.normalisation).eval()
        side = [1, window_px, window_px, 3]
        if precision == "mixed":
            # Two graphs, one after the other: OpenVINO's precision is that of a whole graph.
            encoder = _convert(_Encoding(applied), [(side, torch.uint8)])
            shapes = [list(output.get_shape()) for output in encoder.outputs]
            decoder = _convert(_Decoding(applied), [(shape, torch.float32) for shape in shapes])
            graphs = [(encoder, "f32"), (decoder, "bf16")]
        else:
            graphs = [(_convert(applied, [(side, torch.uint8)]), "f32" if precision == "exact" else "bf16")]
        threads = threads or torch.get_num_threads()
        config = {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": threads if threads <= 8 else "AUTO",
        }
        core = openvino.Core()
        compiled = [
            core.compile_model(graph, "CPU", {**config, "INFERENCE_PRECISION_HINT": hint}) for graph, hint in graphs
        ]
        count = int(compiled[0].get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        # Twice as many as run at once: a stream that has finished finds its next window waiting.
        self._requests = [_Chain(compiled) for _ in range(2 * max(1, count))]
        self._owners: list = [None] * len(self._requests)
        self._next = 0
        self.compile_s = time.perf_counter() - start

    def submit(self, windows):
        ticket = np.empty(windows.shape[:3], np.float32)
        for n in range(len(windows)):
            slot = self._next
            self._next = (slot + 1) % len(self._requests)
            self._collect(slot)
            self._requests[slot].start(windows[n : n + 1])
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
            ticket[n] = self._requests[slot].wait()
            self._owners[slot] = None


class _Chain:
    """One window on its way through one compiled graph after another, whose tensors they share."""

    def __init__(self, compiled: list):
        self._requests = [graph.create_infer_request() for graph in compiled]
        self._failure: Exception | None = None
        for this, following in zip(self._requests[:-1], self._requests[1:], strict=True):
            for n, tensor in enumerate(this.output_tensors):
                following.set_input_tensor(n, tensor)
            this.set_callback(self._go_on, following)

    def _go_on(self, following) -> None:
        try:
            following.start_async()
        except Exception as error:  # raised where the result is fetched, not in a thread of OpenVINO's
            self._failure = error

    def start(self, window: np.ndarray) -> None:
        self._requests[0].start_async([window], share_inputs=True)

    def wait(self) -> np.ndarray:
        """The probability, ``(S, S) float32``: a view that holds until the next `start`."""
        for request in self._requests:  # a request is done after its callback, which has started the next one
            request.wait()
        if self._failure is not None:
            raise self._failure
        return self._requests[-1].get_output_tensor().data[0]


def _convert(module: nn.Module, inputs: list[tuple[list[int], torch.dtype]]):
    """A module as an OpenVINO model for inputs of these shapes and types.

    Traced with small inputs where there is one image, then given its size: tracing runs the network a few times.
    """
    openvino = _import_openvino()

    examples = [torch.zeros(shape, dtype=dtype) for shape, dtype in inputs]
    if len(inputs) == 1:
        examples = [examples[0][:, :64, :64]]
    types = {torch.uint8: openvino.Type.u8, torch.float32: openvino.Type.f32}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # notices about tracing that a user can do nothing about
        with torch.inference_mode():
            traced = torch.jit.trace(module.eval(), tuple(examples), check_trace=False)  # `prepare` compares windows
        return openvino.convert_model(traced, input=[(shape, types[dtype]) for shape, dtype in inputs])


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
    chosen, rungs = _rungs(checkpoint.model, engine, precision, device)
    return _first_possible(checkpoint, rungs, window_px, threads, chosen, (engine, precision))


def _rungs(model: nn.Module, engine: str, precision: str, device) -> tuple[torch.device, list[tuple[str, str]]]:
    """The device, and the engines that were asked for by name and precision, the fastest first."""
    if engine not in ENGINES:
        raise ParameterError(f"`engine` should be one of {', '.join(ENGINES)}, not {engine!r}.")
    chosen = compute.pick_device(device)
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
    fastest = compute.pick_precision(precision, chosen)
    precisions = [fastest]
    if precision == "auto" and fastest != "exact":
        precisions += [*(["mixed"] if _has_parts(model) else []), "exact"]
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
    compute.tune_allocator()
    if name == "openvino":
        return _OpenVinoEngine(checkpoint, precision, window_px, threads)
    if name == "onnxruntime":
        return _OnnxEngine(checkpoint, window_px, threads)
    return _TorchEngine(checkpoint, precision, device, plain=name == "eager")


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
    first = np.ascontiguousarray(windows[:_CHECK_WINDOWS])
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
            device = compute.pick_device("cpu" if name in _PACKAGES else options["device"])
            return _make(self._checkpoint, (name, precision), options["window_px"], options["threads"], device)
        return self.made
