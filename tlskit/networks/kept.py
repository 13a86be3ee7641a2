"""Compiled graphs beside a checkpoint: what one step compiled, the next ones load.

A file is found by its name alone: a hash of all that decides what is in it. It holds the graphs as OpenVINO exports
them; its zip holds a checksum of each, so that a file that was cut off or has a flipped bit is seen.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import segmentation_models_pytorch
import timm
import torch

from tlskit.files import writing
from tlskit.sources import code_state

__all__ = ["graphs_path", "read_graphs", "write_graphs"]

#: Files that a folder holds at most, each as large as its network: of networks, windows and machines that were.
MOST = 4
#: What makes the graphs, of our own code.
CODE = "from tlskit.networks import compiled, context"


def graphs_path(folder: str | Path, checkpoint, **how) -> Path:
    """Where graphs lie that are made of this network in this way, by this code, on this kind of machine.

    Parameters
    ----------
    checkpoint
        With ``model``, ``normalisation`` and ``sha256``. The tensors count as they are now, not as they were saved.
    how
        Plain values: sides of the windows, OpenVINO's configuration and version.
    """
    tensors = hashlib.sha256()
    for name, value in checkpoint.model.state_dict().items():
        tensors.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        tensors.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    decides = {
        "network": [checkpoint.sha256, repr(checkpoint.model), tensors.hexdigest(), checkpoint.normalisation],
        "how": how,
        "code": code_state(CODE),
        "packages": [package.__version__ for package in (torch, segmentation_models_pytorch, timm)],
        "cpu": torch.cpu.get_capabilities(),
    }
    key = hashlib.sha256(json.dumps(decides, sort_keys=True, default=str).encode()).hexdigest()
    return Path(folder) / f"compiled-{key[:32]}.zip"


def read_graphs(path: Path, count: int) -> list[bytes]:
    """The graphs of a file; raises an error of any kind unless it is whole and was written under this name."""
    with zipfile.ZipFile(path) as kept:
        return [kept.read(f"{path.stem}-{n}") for n in range(count)]


def write_graphs(path: Path, graphs: list[bytes]) -> None:
    """Keep graphs, and of those kept before only the newest."""
    with writing(path) as temporary, zipfile.ZipFile(temporary, "w") as kept:
        for n, graph in enumerate(graphs):
            kept.writestr(f"{path.stem}-{n}", graph)
    found = sorted(path.parent.glob("compiled-*.zip"), key=lambda one: one.stat().st_mtime)
    for old in found[:-MOST]:
        old.unlink(missing_ok=True)
