"""A QuPath project as far as our scripts see one, and the scripts run in it.

The classes of ``outlines/qupath_stub`` bear the names that QuPath 0.3.2 (``0.3``) or 0.7 (``0.7``) gives them.
"""

import functools
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

STUB = Path(__file__).with_name("outlines") / "qupath_stub"
VERSIONS = ("0.3", "0.7")
NO_GROOVY = "needs groovy and java on the PATH (apt install groovy)"


def has_groovy() -> bool:
    return all(map(shutil.which, ("groovy", "groovyc", "java")))


def _environment() -> dict:
    """Groovy's launcher believes JAVA_HOME, which often names a Java that is not there."""
    return os.environ | {"JAVA_HOME": str(Path(shutil.which("java")).resolve().parents[1])}


@functools.cache
def classes() -> tempfile.TemporaryDirectory:
    """The compiled classes, for as long as the tests run."""
    folder = tempfile.TemporaryDirectory(prefix="qupath_stub")
    sources = sorted(map(str, STUB.rglob("*.groovy")))
    done = subprocess.run(
        ["groovyc", "-d", folder.name, *sources], env=_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def image(name: str, **changes) -> dict:
    """One image of a project; see `stub.Entry`."""
    plain = {
        "id": name, "name": f"{name}.tif", "uri": f"file:///data/{name}.tif", "kind": "DefaultImageServerBuilder",
        "args": [], "width": 1200, "height": 960, "mpp": 0.5, "saved": False, "objects": [],
        "metadata": {"patient_id": name, "cancer_type": "lung"},
    }  # fmt: skip
    return plain | changes


def drawn(class_name: str | None, x: float, y: float = 10, side: float = 100) -> dict:
    """A square that somebody drew."""
    return {
        "type": "annotation",
        "class": class_name,
        "ring": [[x, y], [x + side, y], [x + side, y + side], [x, y + side]],
    }


class Project:
    """A project in a folder; what is saved of it stands in ``project.json``."""

    def __init__(self, folder: Path, images: list[dict]):
        self.folder, self.file = folder, folder / "project.json"
        self.write({"path": str(folder / "project.qpproj"), "images": images})

    def write(self, data: dict) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(data))

    @property
    def images(self) -> dict[str, dict]:
        """By name, without suffix."""
        return {Path(entry["name"]).stem: entry for entry in json.loads(self.file.read_text())["images"]}

    def change(self, name: str, **changes) -> None:
        """What a person, or the world, does to an image."""
        data = json.loads(self.file.read_text())
        entry = next(entry for entry in data["images"] if Path(entry["name"]).stem == name)
        entry |= changes
        self.write(data)

    def run(self, script: Path, version: str) -> str:
        """Run a script; what it said."""
        done = subprocess.run(
            ["groovy", "-cp", classes().name, f"-Dqupath={version}", f"-Dproject={self.file}", "-b", "stub.QPScript",
             str(script)], env=_environment(), capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def lay_out_map(path: Path, values: list[list[int]], *, mpp: float | None) -> None:
    """A map as the stub's readers find it: an empty file, and beside it what it holds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    held = {"width": len(values[0]), "height": len(values), "mpp": mpp, "values": values}
    path.with_name(path.name + ".json").write_text(json.dumps(held))
