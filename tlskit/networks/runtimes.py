"""What runs a network's forward pass: the interface, and PyTorch.

A runtime takes windows as they are read, ``(B, S, S, 3) uint8`` or with their context (`tlskit.networks.inputs`), and
gives probabilities, ``(B, S, S) float32``.
`tlskit.networks.engines` chooses among them; those of other libraries are in `tlskit.networks.compiled`.
"""

from __future__ import annotations

import abc
import copy
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np
import torch
from torch import nn

from tlskit.networks.agreement import Agreement
from tlskit.networks.fusion import fold
from tlskit.networks.hardware import pick_precision, whole_float32
from tlskit.networks.inputs import as_tensors, context_px_of, room
from tlskit.tiles import check_normalisation, cores_each, normalise

__all__ = ["Applied", "Decoding", "Encoding", "Engine", "TorchEngine", "has_parts", "streams", "torch_engine"]

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
        Seconds to make it: copying, rewriting, conversion, compilation.
    check_s : float
        Seconds the comparison with float32 took; 0 where there was none.
    agreement : Agreement or None
        How far it is from float32; None before it was measured.
    depth : int
        How many submitted batches may wait to be fetched.
    context_px : int
        Side of the context that it is given with every window; 0 for none.
    """

    name = precision = device = ""
    depth = 1

    def __init__(self, checkpoint):
        self.context_px = context_px_of(checkpoint)
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
        self._layout = torch.contiguous_format if plain else torch.channels_last
        self._applied = Applied(model, checkpoint.normalisation).to(device).eval().to(memory_format=self._layout)
        half = pick_precision("auto", device) if precision == "mixed" else precision
        self._dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(half)
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
            features = self._applied.features(*x)
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
    """Copies to and from the GPU beside its work."""

    depth = 2

    def __init__(self, checkpoint, precision: str, device: torch.device):
        super().__init__(checkpoint, precision, device)
        self._copies = torch.cuda.Stream(device)

    def empty(self, count, window_px):
        # Page-locked, so that the copy to the GPU runs beside its work.
        return room(count, window_px, self.context_px, allocate=_page_locked)

    def submit(self, windows):
        with torch.inference_mode():
            main = torch.cuda.current_stream(self._device)
            with torch.cuda.stream(self._copies):
                on_device = as_tensors(windows, self._device, non_blocking=True)
            main.wait_stream(self._copies)
            for part in on_device:
                part.record_stream(main)
            with whole_float32(self.precision in ("exact", "mixed")):
                probability = self._probability(*on_device)
            fetched = torch.empty(probability.shape, dtype=torch.float32, pin_memory=True)
            fetched.copy_(probability, non_blocking=True)
            done = torch.cuda.Event()
            done.record(main)
            return fetched, done, windows  # windows: kept alive until copied

    def result(self, ticket):
        fetched, done, _ = ticket
        done.synchronize()
        return fetched.numpy()


def _page_locked(count: int) -> np.ndarray:
    return torch.empty(count, dtype=torch.uint8, pin_memory=True).numpy()


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
