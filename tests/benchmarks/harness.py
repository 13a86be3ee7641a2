"""What every benchmark shares: interleaved repeats, medians, printed lines, one JSON per benchmark.

A benchmark is a file ``bench_<name>.py`` here with a function ``main(repeats)`` that calls `report`.
"""

import ctypes
import gc
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OUTPUTS = ROOT / "outputs" / "benchmarks"

#: Slides and other things that a benchmark makes once and keeps between runs.
WORK = OUTPUTS / "work"

PACKAGES = ("numpy", "opencv-python-headless", "openslide-python", "openslide-bin", "simplejpeg", "numba",
            "imagecodecs", "tifffile", "torch", "segmentation-models-pytorch", "openvino")  # fmt: skip


def interleaved(candidates: dict[str, Callable[[], object]], *, repeats: int = 5, warm_up: bool = True) -> dict:
    """Seconds of each candidate in each round, all candidates taking turns, so that a noisy minute hits all alike.

    Returns ``{name: [seconds, ...]}``. A candidate that returns a float is taken to have timed itself (without its
    preparations); other results are dropped at once.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(-1 if warm_up else 0, repeats):
        for name, candidate in candidates.items():
            gc.collect()
            start = time.perf_counter()
            own = candidate()
            if turn >= 0:
                seconds[name].append(own if isinstance(own, float) else time.perf_counter() - start)
    return seconds


def report_parts(name: str, parts: list[Callable[[int], tuple[dict, dict]]], repeats: int) -> None:
    """`report` of the parts of a benchmark, each of which gives its figures and its seconds, as soon as it has them."""
    figures, seconds = {}, {}
    for part in parts:
        found, took = part(repeats)
        figures |= found
        seconds |= took
        report(name, figures, seconds=seconds, told=found)


def ratio(slow: list[float], fast: list[float]) -> float:
    """Median over rounds of slow / fast within the same round."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def rate(amount: float, seconds: list[float]) -> float:
    """Amount per second at the median time."""
    return amount / statistics.median(seconds)


def peak_mb() -> float:
    """Peak resident memory of this process. Not ru_maxrss: that of a new process starts at its parent's."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def pool_allocations() -> None:
    """What `tlskit.networks.hardware.tune_allocator` does, for the peers of the race, which do not know tlskit."""
    libc = ctypes.CDLL("libc.so.6")
    for name, value in ((-4, 0), (-1, 2**31 - 1), (-2, 64 << 20)):
        libc.mallopt(name, value)


def report(
    name: str, figures: dict[str, float | str], *, seconds: dict[str, list[float]] | None = None,
    told: dict[str, float | str] | None = None,
) -> Path:  # fmt: skip
    """Print ``name: value`` lines, of `told` alone where it is given, and write ``outputs/benchmarks/<name>.json`` with
    versions and hardware."""
    for key, value in (figures if told is None else told).items():
        print(f"{key}: {value:.4g}" if isinstance(value, float) else f"{key}: {value}", flush=True)
    OUTPUTS.mkdir(parents=True, exist_ok=True)
    path = OUTPUTS / f"{name}.json"
    content = {
        "benchmark": name,
        "figures": figures,
        "seconds": seconds or {},
        "versions": versions(),
        "hardware": hardware(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return path


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, object]:
    """Processor, cores, memory, accelerator and load, as far as the system tells."""
    found: dict[str, object] = {"machine": platform.machine(), "system": platform.system(), "cores": os.cpu_count()}
    if hasattr(os, "sched_getaffinity"):
        found["cores_usable"] = len(os.sched_getaffinity(0))
    if hasattr(os, "getloadavg"):
        found["load_1min"] = round(os.getloadavg()[0], 2)
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        found["cpu"] = next(x.split(":")[1].strip() for x in text.splitlines() if x.startswith("model name"))
        text = Path("/proc/meminfo").read_text(encoding="utf-8")
        found["memory_gib"] = round(int(text.split()[1]) / 2**20, 1)
    except (OSError, StopIteration, ValueError, IndexError):
        found["cpu"] = platform.processor()
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        found["gpu"] = sys.modules["torch"].cuda.get_device_name(0)
    return found
