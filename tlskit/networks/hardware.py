"""What the networks run on: device, precision, memory allocator. Importing this loads no torch."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import os
import platform
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tlskit.errors import ParameterError

if TYPE_CHECKING:
    import torch

__all__ = [
    "PRECISIONS",
    "cores",
    "describe_hardware",
    "free_memory",
    "is_out_of_memory",
    "memory_format",
    "pick_device",
    "pick_precision",
    "threads_beside",
    "tune_allocator",
    "whole_float32",
]

log = logging.getLogger(__name__)

#: ``exact`` is float32 throughout; ``bf16`` and ``fp16`` are mixed precision (weights stay float32).
PRECISIONS = ("auto", "exact", "bf16", "fp16")

# glibc's mallopt parameters (malloc.h) and the values that keep freed memory in the process.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_NEVER_TRIM = 2**31 - 1
_GROW_BYTES = 64 << 20

_allocator_tuned: bool | None = None


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """The device to compute on: ``auto`` takes an NVIDIA or AMD GPU, else the CPU.

    Apple's GPU is taken by name only: PyTorch's operations for it have given wrong gradients and wrong convolutions
    without an error [1]_, and no result of this package was ever compared on one.

    Parameters
    ----------
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``.

    Raises
    ------
    ParameterError
        If the device is unknown, or not in this machine.

    References
    ----------
    .. [1] PyTorch's issues 175189 (BatchNorm's gradients, channels last) and 192212 (convolutions), both of 2026.
    """
    import torch

    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        if torch.backends.mps.is_available():
            _say_why_not_apples()
        return torch.device("cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ParameterError(
            f"`device` should be 'auto', 'cpu', 'cuda', 'cuda:1' (the second GPU) or 'mps', not {device!r}."
        ) from error
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (chosen.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(chosen.type, False):
        raise ParameterError(
            f"`device` is {device!r}, but torch finds no such device on this machine ({torch.cuda.device_count()} CUDA "
            "devices). Use 'auto' or 'cpu', or install the torch build that matches the GPU's driver."
        )
    return chosen


@functools.cache
def _say_why_not_apples() -> None:
    log.warning(
        "This machine has an Apple GPU, which is not used: PyTorch has given wrong results on it without an error, and "
        "tlskit was never compared on one. The CPU computes; `device: mps` takes the GPU all the same."
    )


def memory_format(device: torch.device) -> torch.memory_format:
    """How images and weights lie in memory: channels last, which CPUs and tensor cores compute in.

    On Apple's GPU it has cost correctness (see `pick_device`), and is not used.
    """
    import torch

    return torch.contiguous_format if device.type == "mps" else torch.channels_last


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_beside(device: str | torch.device) -> dict[str, int]:
    """Threads that read a slide, and that finish and compress its map, beside a network on a device.

    Returns
    -------
    dict
        ``readers, writers``: 2 and 0 (none but the one that writes) where the network computes on the same cores;
        beside a GPU, which waits for them, all cores, and up to eight.
    """
    if str(device) == "cpu":
        return {"readers": 2, "writers": 0}
    return {"readers": max(2, cores()), "writers": min(8, cores() // 2)}


def pick_precision(precision: str = "auto", device: str | torch.device = "auto") -> str:
    """``exact``, ``bf16`` or ``fp16``: ``auto`` takes the fastest one that the device computes natively.

    bf16 has float32's range, so it needs no loss scaling. It is taken where the hardware multiplies it (x86 with
    AVX-512 BF16 or AMX, NVIDIA from Ampere on); emulated it would be slower than float32. fp16 is taken on NVIDIA GPUs
    from Volta to Turing. Everything else computes in float32.

    Parameters
    ----------
    precision
        One of `PRECISIONS`.
    device
        As for `pick_device`.

    Raises
    ------
    ParameterError
        If the precision is unknown, or ``fp16`` is asked of a device other than a CUDA GPU.
    """
    import torch

    if precision not in PRECISIONS:
        raise ParameterError(f"`precision` should be one of {', '.join(PRECISIONS)}, not {precision!r}.")
    device = pick_device(device)
    if precision == "fp16" and device.type != "cuda":
        raise ParameterError(
            f"`precision: fp16` needs a CUDA GPU; the device is {device.type}. Use 'auto', 'bf16' or 'exact'."
        )
    if precision != "auto":
        return precision
    if device.type == "cuda":
        major, _ = torch.cuda.get_device_capability(device)
        return "bf16" if major >= 8 else "fp16" if major == 7 else "exact"
    if device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return "bf16"
    return "exact"


@contextlib.contextmanager
def whole_float32(wanted: bool = True) -> Iterator[None]:
    """float32 on a GPU means float32: no products of 10 bits (TF32) within, unless `wanted` is false."""
    import torch

    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    try:
        if wanted:
            for backend in backends:
                backend.allow_tf32 = False
        yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is that memory ran out: Python's, torch's on a CPU or GPU, OpenVINO's."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(
        words in text for words in ("out of memory", "allocate memory", "bad_alloc", "not enough memory")
    )


def free_memory() -> None:
    """Give back what torch holds of a GPU without using it."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def tune_allocator() -> bool:
    """Keep freed memory in the process instead of returning it to the kernel; True where that could be set.

    glibc gives every large activation its own ``mmap`` and unmaps it at once; on a CPU the page faults of the next
    layer can cost more than its arithmetic. Three ``mallopt`` calls stop that, for this process and from now on. The
    price is that the process keeps its peak memory until it ends. Elsewhere than on glibc nothing is changed.
    Calling it again does nothing.
    """
    global _allocator_tuned
    if _allocator_tuned is None:
        _allocator_tuned = _mallopt()
    return _allocator_tuned


def _mallopt() -> bool:
    if not sys.platform.startswith("linux"):
        return False
    preloaded = os.environ.get("LD_PRELOAD", "")
    if "jemalloc" in preloaded or "tcmalloc" in preloaded:
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
        settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _NEVER_TRIM), (_M_TOP_PAD, _GROW_BYTES))
        return all([libc.mallopt(name, value) == 1 for name, value in settings])
    except (OSError, AttributeError):  # musl has no libc.so.6, and no mallopt
        return False


def describe_hardware(device: str | torch.device = "auto") -> dict:
    """What a measured time stands on, as plain values for a record. No name of the machine or its user.

    Returns
    -------
    dict
        ``cpu, cpu_count`` (cores that this process may use), ``threads`` (torch's), ``memory_gb, gpu`` ("" without
        one), ``gpu_memory_gb, device, precision`` (what ``auto`` means here), ``allocator`` ("tuned" or "default"),
        ``torch``.
    """
    import psutil
    import torch

    device = pick_device(device)
    is_cuda = device.type == "cuda"
    return {
        "cpu": torch.cpu.get_capabilities().get("cpu_name") or platform.processor() or platform.machine(),
        "cpu_count": cores(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": torch.cuda.get_device_name(device) if is_cuda else "",
        "gpu_memory_gb": round(torch.cuda.get_device_properties(device).total_memory / 2**30, 1) if is_cuda else 0.0,
        "device": device.type,
        "precision": pick_precision("auto", device),
        "allocator": "tuned" if _allocator_tuned else "default",
        "torch": torch.__version__,
    }
