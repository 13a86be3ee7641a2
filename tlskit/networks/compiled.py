"""OpenVINO, which compiles the network first, on CPUs. An optional extra: it is imported when it is first used."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import time
import warnings
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from tlskit.networks.fusion import fold
from tlskit.networks.inputs import fields, room
from tlskit.networks.kept import graphs_path, read_graphs, write_graphs
from tlskit.networks.runtimes import MAX_STREAMS, Applied, Decoding, Encoding, Engine, streams

__all__ = ["OpenVinoEngine", "import_openvino"]

log = logging.getLogger(__name__)


def import_openvino():
    """OpenVINO without its telemetry, which would tell a server outside of every import and conversion.

    It does so from forked copies of this process: where the network is closed, as in hospitals, they pile up, and each
    costs as much as copying a process of gigabytes. Without the module OpenVINO falls back to a stub of its own.
    """
    sys.modules.setdefault("openvino_telemetry", None)
    import openvino

    return openvino


class OpenVinoEngine(Engine):
    """OpenVINO on the CPU: single windows, as many at a time as it has streams.

    Streams of one window each beat batches on CPUs: no barriers between cores, and a result never depends on how
    windows happened to be grouped. Where a folder `keep` is given, what was compiled for this network before is loaded
    from there, and what is compiled here is kept there (`tlskit.networks.kept`).
    """

    name, device, depth = "openvino", "cpu", 2

    def __init__(self, checkpoint, precision: str, window_px: int, threads: int | None, keep=None):
        super().__init__(checkpoint)
        openvino = import_openvino()
        start = time.perf_counter()
        self.precision = precision
        threads = threads or torch.get_num_threads()
        config = {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": streams(threads, window_px) if threads <= MAX_STREAMS else "AUTO",
        }
        hints = {"mixed": ["f32", "bf16"], "exact": ["f32"]}.get(precision, ["bf16"])
        configs = [{**config, "INFERENCE_PRECISION_HINT": hint} for hint in hints]
        core, path = openvino.Core(), None
        if keep and getattr(checkpoint, "sha256", ""):
            how = {"window_px": window_px, "context_px": self.context_px, "configs": configs}
            path = graphs_path(keep, checkpoint, openvino=openvino.get_version(), **how)
        compiled = path and _found(path, core, configs)
        self.is_loaded = bool(compiled)
        if not compiled:
            graphs = self._graphs(checkpoint, window_px)
            compiled = [core.compile_model(*one) for one in zip(graphs, ["CPU"] * len(configs), configs, strict=True)]
            if path:
                _keep(path, core, compiled, configs, room(1, window_px, self.context_px))
        count = int(compiled[0].get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        # Twice as many as run at once: a stream that has finished finds its next window waiting.
        self._requests = [_Chain(compiled) for _ in range(2 * max(1, count))]
        self._owners: list = [None] * len(self._requests)
        self._next = 0
        self.compile_s = time.perf_counter() - start

    def _graphs(self, checkpoint, window_px: int) -> list:
        """The network converted: one graph, or two, one after the other."""
        applied = Applied(fold(checkpoint.model), checkpoint.normalisation).eval()
        seen = [([1, side, side, 3], torch.uint8) for side in (window_px, self.context_px) if side]
        if self.precision != "mixed":
            return [_convert(applied, seen)]
        # OpenVINO's precision is that of a whole graph.
        encoder = _convert(Encoding(applied), seen)
        shapes = [list(output.get_shape()) for output in encoder.outputs]
        return [encoder, _convert(Decoding(applied), [(shape, torch.float32) for shape in shapes])]

    def submit(self, windows):
        ticket = np.empty(fields(windows)[0].shape[:3], np.float32)
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
        self._requests[0].start_async(list(fields(window)), share_inputs=True)

    def run(self, window: np.ndarray) -> np.ndarray:
        """The probability of one window, ``(S, S) float32``."""
        self.start(window)
        return self.wait().copy()

    def wait(self) -> np.ndarray:
        """The probability, ``(S, S) float32``: a view that holds until the next `start`."""
        for request in self._requests:  # a request is done after its callback, which has started the next one
            request.wait()
        if self._failure is not None:
            raise self._failure
        return self._requests[-1].get_output_tensor().data[0]


def _found(path, core, configs: list[dict]) -> list | None:
    """The compiled graphs that were kept; None where there are none that can be loaded."""
    try:
        return _loaded(core, read_graphs(path, len(configs)), configs)
    except FileNotFoundError:
        return None
    except Exception as error:  # a damaged file fails in any way, in zipfile or in OpenVINO
        log.info("%s cannot be loaded (%s); the network is compiled again", path.name, error)
        return None


def _loaded(core, blobs: list[bytes], configs: list[dict]) -> list:
    """Compiled graphs of what was exported."""
    return [core.import_model(*one) for one in zip(blobs, ["CPU"] * len(blobs), configs, strict=True)]


def _keep(path, core, compiled: list, configs: list[dict], window: np.ndarray) -> None:
    """Keep compiled graphs, but only where what is loaded gives the bytes of what was compiled.

    OpenVINO does not promise it: a network that is saved before it is compiled (``save_model``) loses marks on its
    operations, and then gives probabilities that differ in their last bit.
    """
    try:
        exported = [io.BytesIO() for _ in compiled]
        for graph, buffer in zip(compiled, exported, strict=True):
            graph.export_model(buffer)
        blobs = [buffer.getvalue() for buffer in exported]
        for field in fields(window):
            field[...] = np.random.default_rng(0).integers(0, 256, field.shape, np.uint8)
        again = _loaded(core, blobs, configs)
        if not np.array_equal(*(_Chain(graphs).run(window) for graphs in (compiled, again))):
            raise ValueError("once loaded it does not give the same bytes")
        write_graphs(path, blobs)
    except Exception as error:  # the network is compiled and runs, whatever becomes of a copy of it
        log.info("What OpenVINO compiled is not kept (%s)", error)


def _convert(module: nn.Module, inputs: list[tuple[list[int], torch.dtype]]):
    """A module as an OpenVINO model for inputs of these shapes and types.

    Traced with small inputs where there is one image, then given its size: tracing runs the network a few times. Where
    two images meet, what is cut out of one depends on the sizes of both.
    """
    openvino = import_openvino()

    examples = [torch.zeros(shape, dtype=dtype) for shape, dtype in inputs]
    if len(inputs) == 1:
        examples = [examples[0][:, :64, :64]]
    types = {torch.uint8: openvino.Type.u8, torch.float32: openvino.Type.f32}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # notices about tracing that a user can do nothing about
        with torch.inference_mode():
            traced = torch.jit.trace(module.eval(), tuple(examples), check_trace=False)  # `engines.choose` compares
        with _own_logging():
            return openvino.convert_model(traced, input=[(shape, types[dtype]) for shape, dtype in inputs])


@contextlib.contextmanager
def _own_logging() -> Iterator[None]:
    """Where a conversion fails, OpenVINO leaves the root logger mute below errors, for the rest of the process."""
    root = logging.getLogger()
    level, filters, handlers = root.level, root.filters[:], root.handlers[:]
    try:
        yield
    finally:
        root.setLevel(level)
        root.filters[:], root.handlers[:] = filters, handlers
