"""What runs a network's forward pass: the interface, and PyTorch.

A runtime takes windows as they are read, ``(B, S, S, 3) uint8`` or with their context (`tlskit.networks.inputs`), and
gives probabilities, ``(B, S, S) float32``.
`tlskit.networks.engines` chooses among them; those of other libraries are in `tlskit.networks.compiled`.
"""

from __future__ import annotations

import abc
import copy
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np
import torch
from torch import nn

from tlskit.networks.agreement import Agreement
from tlskit.networks.fusion import fold
from tlskit.networks.hardware import is_out_of_memory, memory_format, pick_precision, whole_float32
from tlskit.networks.inputs import as_tensors, context_px_of, fields, room
from tlskit.tiles import check_normalisation, cores_each, normalise

__all__ = ["BATCH", "Applied", "Decoding", "Encoding", "Engine", "TorchEngine", "has_parts", "streams", "torch_engine"]

log = logging.getLogger(__name__)

#: Windows that a GPU computes at a time, where it is not told.
BATCH = 8
#: Windows computed at a time at most, and their largest side for more than one at a time.
MAX_STREAMS, MAX_STREAM_PX = 8, 1024


def has_parts(model: nn.Module) -> bool:
    """Whether a network is an encoder, a decoder and a head, as those of segmentation-models-pytorch."""
    return all(
        isinstance(getattr(model, name, None), nn.Module) for name in ("encoder", "decoder", "segmentation_head")
    )


class Applied(nn.Module):
    """A network with what goes before and after it: uint8 windows in, probabilities out.

    A network with context is called with two images, tile and context, and gives the scales that its decoder takes
    by ``features(tile, context)``; one without, with one image, by its ``encoder``.
    """

    def __init__(self, model: nn.Module, normalisation: str):
        super().__init__()
        self.model = model
        check_normalisation(normalisation)
        self.normalisation = normalisation

    def normalise(self, windows: torch.Tensor) -> torch.Tensor:
        """``(B, S, S, 3) uint8`` to ``(B, 3, S, S) float32``, without moving the channels in memory."""
        return normalise(windows.permute(0, 3, 1, 2), self.normalisation)

    def probability(self, *images: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.model(*images)[:, 0].float())

    def features(self, *images: torch.Tensor) -> list[torch.Tensor]:
        """What the encoder sees at every scale."""
        return list(self.model.encoder(*images) if len(images) == 1 else self.model.features(*images))

    def decoded(self, features: list[torch.Tensor]) -> torch.Tensor:
        """The probability from what the encoder saw."""
        return torch.sigmoid(self.model.segmentation_head(self.model.decoder(features))[:, 0].float())

    def forward(self, *windows: torch.Tensor) -> torch.Tensor:
        return self.probability(*map(self.normalise, windows))


class Encoding(nn.Module):
    """The first half of `Applied`: windows in, a tuple of features out."""

    def __init__(self, applied: Applied):
        super().__init__()
        self.applied = applied

    def forward(self, *windows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.applied.features(*map(self.applied.normalise, windows)))


class Decoding(nn.Module):
    """The second half of `Applied`: features in, probabilities out."""

    def __init__(self, applied: Applied):
        super().__init__()
        self.applied = applied

    def forward(self, *features: torch.Tensor) -> torch.Tensor:
        return self.applied.decoded(list(features))


class Engine(abc.ABC):
    """One network on one kind of runtime. Made by `make_engine`.

    Attributes
    ----------
    name, precision : str
        What it is: "torch", "openvino" or "eager" (PyTorch as it comes); "exact", "bf16", "fp16" or
        "mixed" (the encoder in float32, the decoder, which does most of the work, in half precision).
    device : str
    compile_s : float
        Seconds to make it: copying, rewriting, conversion, compilation, keeping it; where `is_loaded`, loading it.
    is_loaded : bool
        Whether what an earlier one had compiled was loaded.
    check_s : float
        Seconds the comparison with float32 took; 0 where there was none.
    agreement : Agreement or None
        How far it is from float32; None before it was measured.
    depth : int
        How many submitted batches may wait to be fetched.
    batch : int
        Windows that a GPU computes at a time, however many are handed in.
    context_px : int
        Side of the context that it is given with every window; 0 for none.
    """

    name = precision = device = ""
    depth = 1
    is_loaded = False

    def __init__(self, checkpoint):
        self.context_px = context_px_of(checkpoint)
        self.batch = BATCH
        self.compile_s = self.check_s = 0.0
        self.agreement: Agreement | None = None

    @property
    def max_dprob(self) -> float:
        """Largest difference of a probability to float32; nan before it was measured."""
        return self.agreement.max_dprob if self.agreement else float("nan")

    def empty(self, count: int, window_px: int) -> np.ndarray:
        """Room for `count` windows (`inputs.room`), in memory the engine takes them from fast."""
        return room(count, window_px, self.context_px)

    @abc.abstractmethod
    def submit(self, windows: np.ndarray):
        """Hand in windows (`inputs.room`); leave them alone until their `result` was fetched. Returns a ticket."""

    @abc.abstractmethod
    def result(self, ticket) -> np.ndarray:
        """The probabilities of a ticket, ``(B, S, S) float32``. Tickets are fetched in the order of their making."""

    def predict(self, windows: np.ndarray) -> np.ndarray:
        """`submit` and `result` in one."""
        return self.result(self.submit(windows))


class TorchEngine(Engine):
    """PyTorch, a batch at a time on any device. `plain` is the network and its memory as they come.

    `torch_engine` gives CPUs and NVIDIA's or AMD's GPUs a class of their own.
    """

    name = "torch"

    def __init__(self, checkpoint, precision: str, device: torch.device, *, plain: bool = False):
        super().__init__(checkpoint)
        start = time.perf_counter()
        if plain:
            self.name = "eager"
        self.precision, self.device, self._device = precision, str(device), device
        # Transposed convolutions pay on CPUs, where they were measured; elsewhere the network stays as it is.
        model = fold(checkpoint.model) if device.type == "cpu" and not plain else copy.deepcopy(checkpoint.model)
        self._layout = torch.contiguous_format if plain else memory_format(device)
        self._applied = Applied(model, checkpoint.normalisation).to(device).eval().to(memory_format=self._layout)
        half = pick_precision("auto", device) if precision == "mixed" else precision
        self._dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(half)
        if self._dtype is not None:
            _halve([model.decoder, model.segmentation_head] if precision == "mixed" else [model], self._dtype)
        self.compile_s = time.perf_counter() - start

    def submit(self, windows):
        with torch.inference_mode(), whole_float32(self.precision in ("exact", "mixed")):
            return self._probability(*as_tensors(windows, self._device))

    def result(self, ticket):
        return ticket.cpu().numpy()

    def _probability(self, *windows: torch.Tensor) -> torch.Tensor:
        x = [self._applied.normalise(one).contiguous(memory_format=self._layout) for one in windows]
        half = torch.autocast(self._device.type, dtype=self._dtype, enabled=self._dtype is not None)
        if self.precision == "mixed":
            # Here once, else autocast does it for every convolution that takes one of them.
            features = [one.to(self._dtype or one.dtype) for one in self._applied.features(*x)]
            with half:
                return self._applied.decoded(features)
        with half:
            return self._applied.probability(*x)


class _TorchCpuEngine(TorchEngine):
    """Single windows, each on cores of its own: no core waits for another one, layer by layer.

    A result does not depend on how windows were grouped, nor on how many cores there are where each window has one
    (up to `MAX_STREAMS` cores and `MAX_STREAM_PX`): means over a channel are summed in one order.
    """

    depth = 2

    def __init__(self, checkpoint, precision: str, device: torch.device, *, window_px: int, threads: int | None):
        super().__init__(checkpoint, precision, device)
        start = time.perf_counter()
        threads = threads or torch.get_num_threads()
        count = streams(threads, window_px)
        started = threading.Barrier(count)

        with cores_each(threads // count) as begin:
            self._pool = ThreadPoolExecutor(
                count, thread_name_prefix="tlskit-forward", initializer=lambda: (begin(), started.wait())
            )
            wait([self._pool.submit(int) for _ in range(count)])
        self.compile_s += time.perf_counter() - start

    def submit(self, windows):
        return [self._pool.submit(self._run, windows[n : n + 1]) for n in range(len(windows))]

    def _run(self, window: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return self._probability(*as_tensors(window)).numpy()

    def result(self, ticket):
        return np.concatenate([future.result() for future in ticket])


class _TorchCudaEngine(TorchEngine):
    """One CUDA graph from uint8 windows to probabilities, and copies to and from the GPU beside it.

    A graph is launched at once, where the network is some five hundred operations that each wait for Python. It
    computes `batch` windows, neither more nor fewer: windows are handed to it in such pieces, the last one filled up
    with what lay there before. So a result depends neither on how windows were grouped nor on where a slide was
    interrupted. What cannot be made a graph is run operation by operation, with a warning.
    """

    depth = 3

    def __init__(self, checkpoint, precision: str, device: torch.device):
        super().__init__(checkpoint, precision, device)
        self._sending, self._fetching = torch.cuda.Stream(device), torch.cuda.Stream(device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[torch.Tensor] = []
        self._probabilities: torch.Tensor | None = None

    def empty(self, count, window_px):
        # Page-locked, so that the copy to the GPU runs beside its work.
        return room(count, window_px, self.context_px, allocate=lambda size: _page_locked((size,), torch.uint8).numpy())

    def submit(self, windows):
        with torch.inference_mode(), torch.cuda.device(self._device):
            return [self._start(windows[n : n + self.batch]) for n in range(0, len(windows), self.batch)]

    def result(self, ticket):
        for _, fetched, _ in ticket:
            fetched.synchronize()
        parts = [probabilities.numpy() for probabilities, _, _ in ticket]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _start(self, windows: np.ndarray) -> tuple[torch.Tensor, torch.cuda.Event, np.ndarray]:
        """At most `batch` windows: where their probabilities will be, when, and what must be kept until then."""
        computing, count = torch.cuda.current_stream(self._device), len(windows)
        shapes = [(self.batch, *field.shape[1:]) for field in fields(windows)]
        if shapes != [tuple(one.shape) for one in self._inputs]:
            self._capture(shapes)
        with torch.cuda.stream(self._sending):
            sent = as_tensors(windows, self._device, non_blocking=True)
        computing.wait_stream(self._sending)
        for place, part in zip(self._inputs, sent, strict=True):
            part.record_stream(computing)
            place[:count].copy_(part)
        if self._graph is None:
            self._probabilities = self._run(self._inputs)
        else:
            self._graph.replay()
        made = self._probabilities[:count].clone()  # the next batch is written over it while it is being fetched
        self._fetching.wait_stream(computing)
        with torch.cuda.stream(self._fetching):
            here = _page_locked(made.shape, made.dtype)
            here.copy_(made, non_blocking=True)
            made.record_stream(self._fetching)
            fetched = torch.cuda.Event()
            fetched.record(self._fetching)
        return here, fetched, windows

    def _run(self, inputs: list[torch.Tensor]) -> torch.Tensor:
        with whole_float32(self.precision in ("exact", "mixed")):
            return self._probability(*inputs)

    def _capture(self, shapes: list[tuple[int, ...]]) -> None:
        """Make the graph for inputs of these shapes; what another one held is given back first."""
        torch.cuda.synchronize(self._device)
        self._graph, self._probabilities, self._inputs = None, None, []
        inputs = [torch.zeros(shape, dtype=torch.uint8, device=self._device) for shape in shapes]
        aside, graph = torch.cuda.Stream(self._device), torch.cuda.CUDAGraph()
        aside.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(aside):
            for _ in range(2):  # what libraries make when they are first used must not come into the graph
                self._run(inputs)
        try:
            # Other threads may take page-locked memory meanwhile: only this one's calls are the graph's.
            with torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"):
                probabilities = self._run(inputs)
            self._graph, self._probabilities = graph, probabilities
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            log.warning(
                "The network cannot be made one CUDA graph (%s); its operations are launched one by one, which is "
                "slower and gives the same.", str(error).splitlines()[0],
            )  # fmt: skip
        torch.cuda.synchronize(self._device)
        self._inputs = inputs


def _page_locked(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Memory that a GPU copies from and to beside its work."""
    return torch.empty(shape, dtype=dtype, pin_memory=True)


def _halve(parts: list[nn.Module], dtype: torch.dtype) -> None:
    """The weights of convolutions and products in half precision, once: autocast rounds them anew in every pass."""
    for part in parts:
        for module in part.modules():
            if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
                module.to(dtype)


def torch_engine(
    checkpoint, precision: str, device: torch.device, *, window_px: int, threads: int | None
) -> TorchEngine:
    """PyTorch in the form that suits the device."""
    if device.type == "cpu":
        return _TorchCpuEngine(checkpoint, precision, device, window_px=window_px, threads=threads)
    if device.type == "cuda":
        return _TorchCudaEngine(checkpoint, precision, device)
    return TorchEngine(checkpoint, precision, device)


def streams(threads: int, window_px: int) -> int:
    """How many windows to compute at a time on this many cores.

    One a core, as long as their layers fit into memory together: a window of 512 px needs about half a gigabyte. A
    large window keeps several cores busy by itself.
    """
    if window_px > MAX_STREAM_PX:
        return 1
    # Nine cores are three times three: no core is left without work, where that can be.
    return max(range(1, max(1, min(threads, MAX_STREAMS)) + 1), key=lambda count: (threads // count * count, count))
