"""What is done for GPUs, as far as it shows without one: a stand-in for CUDA, and counts of what is done how often."""

import contextlib
import logging
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tlskit.networks import agreement, engines, hardware, runtimes
from tlskit.networks.models import build_model

CPU = torch.device("cpu")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")


@pytest.fixture(scope="module")
def network():
    """A UNet++ whose probabilities spread."""
    torch.manual_seed(3)
    model = build_model(encoder="tu-mobilenetv3_small_050", encoder_weights="none").eval()
    model.segmentation_head[0].weight.data *= 20
    assert plain(model, windows(2)).std() > 0.02
    return model


def windows(count, size=96):
    coarse = np.random.default_rng(5).integers(0, 256, (count, size // 16, size // 16, 3), dtype=np.uint8)
    return coarse.repeat(16, 1).repeat(16, 2)


def checkpoint(model, normalisation="divide_255"):
    return SimpleNamespace(model=model, normalisation=normalisation)


def plain(model, stack):
    """Independent of the module under test: torch, one window at a time."""
    with torch.inference_mode():
        each = [model(torch.from_numpy(w).permute(2, 0, 1)[None].float() / 255)[0, 0] for w in stack]
        return torch.stack(each).sigmoid().numpy()


class Calls(TorchDispatchMode):
    """Every operation, its arguments and what it gave."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        self.calls.append((function, args, kwargs or {}, made))
        return made


class Graph(Calls):
    """A CUDA graph's behaviour on a CPU: what was recorded is done again on the very same memory."""

    replays = 0

    def replay(self):
        Graph.replays += 1
        for function, args, kwargs, made in self.calls:
            for old, new in zip(tree_leaves(made), tree_leaves(function(*args, **kwargs)), strict=True):
                if isinstance(old, torch.Tensor):
                    old.copy_(new)


class Nothing:
    def __init__(self, *_, **__):
        pass

    def __getattr__(self, name):
        return lambda *_, **__: None


@pytest.fixture
def cuda(monkeypatch):
    """torch.cuda on a CPU: streams and events that order nothing, since a CPU does one thing after the other."""
    captured = []

    @contextlib.contextmanager
    def graph(made, *, stream, capture_error_mode):
        assert capture_error_mode == "thread_local"
        captured.append(made)
        with made:
            yield

    here = contextlib.nullcontext
    for name, stand_in in {
        "Stream": Nothing, "Event": Nothing, "CUDAGraph": Graph, "graph": graph, "synchronize": lambda *_: None,
        "stream": lambda _: here(), "device": lambda _: here(), "current_stream": Nothing,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda *_: None)
    monkeypatch.setattr(runtimes, "_page_locked", lambda shape, dtype: torch.empty(shape, dtype=dtype))
    monkeypatch.setattr(Graph, "replays", 0)
    return captured


@pytest.mark.parametrize("normalisation", ["divide_255", "imagenet"])
def test_a_graph_computes_every_window_in_batches_of_one_size(cuda, network, normalisation):
    stack, given = windows(7), checkpoint(network, normalisation)
    engine = runtimes._TorchCudaEngine(given, "exact", CPU)
    engine.batch = 3
    expected = engines.eager(given, stack)
    tickets = [engine.submit(stack[:5]), engine.submit(stack[5:])]
    got = np.concatenate([engine.result(ticket) for ticket in tickets])
    assert np.abs(got - expected).max() < agreement.EXACT_DPROB
    assert len(cuda) == 1 and Graph.replays == 3, "5 windows are two batches, 2 are one"
    one_by_one = np.concatenate([engine.predict(stack[n : n + 1]) for n in range(7)])
    assert np.abs(one_by_one - expected).max() < agreement.EXACT_DPROB and len(cuda) == 1
    assert {tuple(one.shape) for one in engine._inputs} == {(3, 96, 96, 3)}


def test_another_batch_is_another_graph(cuda, network):
    stack = windows(4)
    source = engines.EngineSource(checkpoint(network), window_px=96, device="cpu")
    source.made = engine = runtimes._TorchCudaEngine(checkpoint(network), "exact", CPU)
    for batch in (4, 2, 2):
        source.set_batch(batch)
        assert np.abs(engine.predict(stack) - plain(network, stack)).max() < agreement.EXACT_DPROB
    assert len(cuda) == 2 and engine._inputs[0].shape[0] == 2


def test_what_cannot_be_a_graph_is_run_without_one_and_said(cuda, network, monkeypatch, caplog):
    @contextlib.contextmanager
    def refused(*_, **__):
        yield
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(torch.cuda, "graph", refused)
    stack, engine = windows(5), runtimes._TorchCudaEngine(checkpoint(network), "exact", CPU)
    engine.batch = 2
    with caplog.at_level(logging.WARNING):
        got = engine.predict(stack)
    assert np.abs(got - plain(network, stack)).max() < agreement.EXACT_DPROB and not Graph.replays
    assert caplog.text.count("cannot be made one CUDA graph (operation not permitted when stream is capturing)") == 1


def test_no_memory_for_a_graph_is_no_reason_to_do_without(cuda, network, monkeypatch):
    """It is an error, which half the batch may mend: the next try makes a graph."""
    graph = torch.cuda.graph

    @contextlib.contextmanager
    def full(*_, **__):
        yield
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    engine = runtimes._TorchCudaEngine(checkpoint(network), "exact", CPU)
    monkeypatch.setattr(torch.cuda, "graph", full)
    with pytest.raises(torch.OutOfMemoryError):
        engine.predict(windows(2))
    monkeypatch.setattr(torch.cuda, "graph", graph)
    assert np.abs(engine.predict(windows(2)) - plain(network, windows(2))).max() < agreement.EXACT_DPROB
    assert Graph.replays == 1


def operations(engine, stack):
    """How many operations a forward pass is, and how many of them round a weight to half precision."""
    weights = {parameter.data_ptr() for parameter in engine._applied.parameters()}
    with torch.inference_mode(), Calls() as seen:
        engine._probability(torch.from_numpy(stack))
    rounded = [args[0] for function, args, *_ in seen.calls if str(function).startswith(("aten.to.", "aten._to_copy."))]
    return len(seen.calls), sum(one.data_ptr() in weights for one in rounded)


@pytest.mark.parametrize("precision", ["bf16", "mixed"])
def test_weights_are_rounded_once_and_give_the_same_bytes(network, precision, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    stack = windows(2)
    engine = runtimes.TorchEngine(checkpoint(network), precision, CPU)
    monkeypatch.setattr(runtimes, "_halve", lambda *_: None)
    before = runtimes.TorchEngine(checkpoint(network), precision, CPU)
    assert np.array_equal(engine.predict(stack), before.predict(stack))
    (many, roundings), (few, none) = operations(before, stack), operations(engine, stack)
    assert none == 0 and roundings >= 20 and few == many - roundings
    assert {p.dtype for p in network.parameters()} == {torch.float32}, "the checkpoint's own weights changed"


def test_apples_gpu_is_said_to_be_there_and_not_used_unless_by_name(monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    hardware._say_why_not_apples.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert [hardware.pick_device("auto").type for _ in range(2)] == ["cpu"] * 2
    assert caplog.text.count("has an Apple GPU, which is not used") == 1 and "`device: mps`" in caplog.text
    assert hardware.pick_device("mps").type == "mps"
    assert hardware.memory_format(torch.device("mps")) == torch.contiguous_format
    assert hardware.memory_format(CPU) == torch.channels_last
    assert [engines._judge(name).type for name in ("mps", "cuda:1", "cpu")] == ["cpu", "cuda", "cpu"]


@needs_cuda
@pytest.mark.parametrize("precision", ["exact", "mixed"])
def test_on_a_gpu_a_result_does_not_depend_on_its_company(network, precision, caplog):
    engine = engines.EngineSource(checkpoint(network), window_px=96).exactly("torch", precision)
    engine.batch, stack = 4, windows(11)
    whole = engine.predict(stack)
    parts = np.concatenate([engine.predict(part) for part in (stack[:4], stack[4:8], stack[8:])])
    assert np.array_equal(whole, parts) and engine._graph is not None and "CUDA graph" not in caplog.text
    assert np.abs(whole - plain(network, stack)).max() < agreement.MAX_DPROB


@needs_cuda
def test_a_network_that_asks_the_gpu_for_a_number_is_run_without_a_graph(caplog):
    class Asking(nn.Module):
        def forward(self, x):
            return x[:, :1] * float(x.mean() > -1)

    engine = engines.make_engine(checkpoint(Asking()), precision="exact", window_px=96, device="cuda")
    stack = windows(3)
    assert np.abs(engine.predict(stack) - plain(Asking(), stack)).max() < 1e-5
    assert engine._graph is None and "cannot be made one CUDA graph" in caplog.text


def bench(*options):
    command = [sys.executable, "-m", "tests.benchmarks", "gpu", *options]
    return subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU here")
def test_the_benchmark_says_where_there_is_no_gpu():
    done = bench()
    assert done.returncode == 1 and "No CUDA GPU is found by torch" in done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_the_benchmark_runs_to_its_end_on_small_sizes():
    done = bench("--device", "cpu", "--tiny", "--repeats", "1")
    assert done.returncode == 0, done.stderr[-2000:]
    figures = dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line and line[0] != "#")
    for name in (
        "forward_exact_per_s", "slide_1x_pipeline_over_forward", "slide_1x_minutes", "slide_1x_s_per_mm2",
        "batch_2_per_s", "training_tiles_per_s", "training_over_bare",
    ):  # fmt: skip
        assert float(figures[name]) > 0, name
    assert float(figures["forward_exact_largest_difference"]) < agreement.EXACT_DPROB
    assert figures["forward_exact_alone_is_the_same"] == "True" and "race skipped" in done.stdout
    assert [line for line in done.stdout.splitlines() if line.startswith("# training took ")]


def test_a_part_that_is_not_there_is_refused():
    done = bench("--device", "cpu", "--tiny", "--parts", "forward,speed")
    assert done.returncode and "no part called speed" in done.stderr
