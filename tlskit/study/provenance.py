"""What made the numbers: versions, code, machine, time. No user, no host, no path of the machine."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path

from tlskit import __version__

__all__ = ["provenance"]

_PACKAGES = (
    "torch", "torchvision", "segmentation-models-pytorch", "openslide-python", "openslide-bin", "numpy",
    "pandas", "papermill", "openvino",
)  # fmt: skip


def provenance() -> dict:
    """Versions of the packages, state of the code, the machine, and the time (UTC).

    The GPU and the threads are named where this process has loaded torch: a step without a network loads none for it.
    """
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    found = {
        "tlskit": __version__,
        "code": _git_state(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cpu_count": os.cpu_count(),
        "packages": versions,
        "time_utc": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    if "torch" in sys.modules:
        from tlskit.networks import describe_hardware

        found["hardware"] = describe_hardware()
    return found


def _git_state() -> dict | None:
    """Commit, and whether the package or its notebooks were changed since; None where git or its folder is missing.

    A preset or a manifest of one's own is no change of the code.
    """
    root = Path(__file__).resolve().parents[2]

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, check=True, timeout=20
        ).stdout.strip()

    try:
        if not (root / ".git").exists():
            return None
        changed = git("status", "--porcelain", "--", "tlskit", "notebooks")
        return {"commit": git("rev-parse", "HEAD"), "uncommitted_changes": bool(changed)}
    except (OSError, subprocess.SubprocessError):
        return None


def _cpu_name() -> str:
    if sys.platform.startswith("linux"):
        try:
            for line in Path("/proc/cpuinfo").read_text().splitlines():
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
        except OSError:
            pass
    return platform.processor() or platform.machine()
