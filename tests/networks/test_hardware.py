"""Device, precision and allocator."""

import json
import subprocess
import sys

import pytest
import torch

from tlskit.errors import ParameterError
from tlskit.networks import hardware


def test_auto_takes_a_device_that_computes():
    device = hardware.pick_device("auto")
    assert torch.ones(2, device=device).sum().item() == 2
    assert hardware.pick_device("cpu") == torch.device("cpu")
    assert hardware.pick_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "", "meta"])
def test_a_device_that_is_not_there_is_an_error_that_says_so(device):
    with pytest.raises(ParameterError, match="device"):
        hardware.pick_device(device)


def test_auto_precision_is_bf16_only_where_the_processor_multiplies_bf16(monkeypatch):
    for avx512, amx, expected in ((True, False, "bf16"), (False, True, "bf16"), (False, False, "exact")):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda avx512=avx512: avx512)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx)
        assert hardware.pick_precision("auto", "cpu") == expected


@pytest.mark.parametrize(
    "capability, expected", [((6, 1), "exact"), ((7, 5), "fp16"), ((8, 6), "bf16"), ((9, 0), "bf16")]
)
def test_auto_precision_on_a_gpu_follows_its_generation(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert hardware.pick_precision("auto", "cuda") == expected


def test_a_precision_asked_for_is_taken_and_an_unknown_one_refused():
    assert hardware.pick_precision("exact", "cpu") == "exact"
    assert hardware.pick_precision("bf16", "cpu") == "bf16"
    with pytest.raises(ParameterError, match="exact, bf16"):
        hardware.pick_precision("fp32", "cpu")
    with pytest.raises(ParameterError, match="needs a CUDA GPU"):
        hardware.pick_precision("fp16", "cpu")


def test_hardware_is_plain_json_without_the_name_of_the_machine():
    import getpass
    import socket

    record = hardware.describe_hardware()
    text = json.dumps(record)
    assert record["cpu"] and record["cpu_count"] >= 1 and record["threads"] >= 1 and record["memory_gb"] > 0
    assert socket.gethostname() not in text and getpass.getuser() not in text


def test_the_tuned_allocator_keeps_freed_memory_and_so_spares_page_faults():
    """Freeing and taking 64 MB again: with glibc as it comes every round faults its pages in anew."""
    script = """
import resource, sys
import numpy as np
from tlskit.networks import hardware
if sys.argv[1] == "tuned":
    print("tuned" if hardware.tune_allocator() else "other libc")
for i in range(12):
    if i == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(64 << 20, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    if not sys.platform.startswith("linux"):
        pytest.skip("mallopt is glibc's: Linux only")
    outputs = {
        kind: subprocess.run(
            [sys.executable, "-c", script, kind], capture_output=True, text=True, check=True
        ).stdout.split("\n")
        for kind in ("default", "tuned")
    }
    if outputs["tuned"][0] != "tuned":
        pytest.skip("this Linux has no glibc, so there is nothing to tune")
    # 10 rounds of 64 MB are 163,840 pages of 4 kB (fewer with huge pages).
    assert int(outputs["tuned"][1]) < 0.1 * int(outputs["default"][0])


def test_importing_hardware_loads_no_torch():
    script = "import sys, tlskit.networks.hardware; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


@pytest.mark.parametrize("wanted", [True, False])
def test_float32_is_whole_within_and_as_before_afterwards(wanted):
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = True
        with pytest.raises(KeyError), hardware.whole_float32(wanted):
            assert [backend.allow_tf32 for backend in backends] == [not wanted] * 2
            raise KeyError
        assert all(backend.allow_tf32 for backend in backends)
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed
