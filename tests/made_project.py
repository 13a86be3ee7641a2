"""A project of two small steps and a comparison that real kernels run in seconds, for tests of the sweep."""

import json
import os
import sys
from pathlib import Path

from tlskit.study.ledger import ATTEMPT

PARAMETERS = """run_name = "r"  # name of the run
manifest = "manifest.csv"  # the cohort
outputs_dir = "outputs"  # folder of all runs
magnification = 4  # working magnification
arm = ""  # folder of the arm
"""
STEPS = ("01_tiling", "02_patient_split")

#: Sweeps the project with `STEPS` alone, in a process of its own.
_SWEEP = f"from tlskit.study import keys; keys.STEPS = {STEPS!r}; from tlskit.__main__ import main; main()"

#: What the archiving project does: tables, one after the other, then a map, block by block, that is taken up where it
#: was left.
_TABLES = """
import time
import pandas as pd
from tlskit.study import runs
run = runs.open_run(run_name, "01_tiling", arm=arm, outputs_dir=outputs_dir, given=globals())
for number in range(12):
    run.table(pd.DataFrame({"n": range(4000)}).assign(v=lambda t: (t["n"] * magnification + number) ** 2), f"t{number}")
    time.sleep(0.03)
run.save(pd.DataFrame({"slide_id": ["s1"]}), "tiles")
run.record(magnification=magnification)
"""
_MAP = """
import time
import numpy as np
import pandas as pd
from tlskit.maps import map_writer, probmaps
from tlskit.study import runs
run = runs.open_run(run_name, "02_patient_split", arm=arm, outputs_dir=outputs_dir, given=globals())
options = {"mpp": 1.0, "block_px": 256, "metadata": {"magnification": magnification}, "resume": True}
with map_writer.MapWriter(run.maps_dir / "s1.tif", (256 * blocks, 256), **options) as writer:
    for column in range(blocks):
        if column not in writer.notes:
            block = np.random.default_rng(column).integers(1, 255, (256, 256), dtype=np.uint8)
            writer.write_block(256 * column, 0, block)
            writer.commit(column)
            time.sleep(0.02)
with probmaps.open_map(run.maps_dir / "s1.tif") as found:
    run.table(pd.DataFrame(found.read(0, 0, 256 * blocks, 256)[::8, ::8]), "map")
"""
_COMPARE = """
import pandas as pd
from tlskit.study import runs
run = runs.open_run(run_name, "compare_magnifications", outputs_dir=outputs_dir, given=globals())
sums = [pd.read_csv(path).sum().sum() for path in sorted(run.dir.glob("*x/tables/*.csv"))]
run.table(pd.DataFrame({"sum": sums}), "sums")
"""


def notebook(parameters: str, *cells: tuple[str, list[str]]) -> str:
    """A notebook as JSON, from the text of its parameters cell and (text, tags) of the others."""
    sources = [(parameters, ["parameters"]), *cells]
    return json.dumps(
        {
            "cells": [
                {
                    "cell_type": "code", "id": f"c{i}", "metadata": {"tags": tags}, "execution_count": None,
                    "outputs": [], "source": text.splitlines(keepends=True),
                }
                for i, (text, tags) in enumerate(sources)
            ],
            "metadata": {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}},
            "nbformat": 4, "nbformat_minor": 5,
        }
    )  # fmt: skip


def write_project(folder: Path, first: str, second: str, compare: str) -> None:
    """A project of three notebooks, one slide and the preset ``params/p.yaml`` with the arms 4x and 1x."""
    (folder / "notebooks").mkdir()
    (folder / "params").mkdir()
    (folder / "slide.svs").write_text("pixels")
    (folder / "manifest.csv").write_text(
        "slide_id,patient_id,cancer_type,slide_path,annotation_path\ns1,p1,lung,slide.svs,outlines.geojson\n"
    )
    (folder / "outlines.geojson").write_text("outlines")
    (folder / "params/p.yaml").write_text("run_name: r\nsweep: {magnification: [4, 1]}\n")
    for name, text in zip((*STEPS, "compare_magnifications"), (first, second, compare), strict=True):
        (folder / "notebooks" / f"{name}.ipynb").write_text(text)


def write_archiving_project(folder: Path) -> None:
    """A project whose notebooks leave tables, a table in Parquet, a record and a map of some MB."""
    second = PARAMETERS + "blocks = 30  # blocks of the map\n"
    write_project(
        folder, notebook(PARAMETERS, (_TABLES, [])), notebook(second, (_MAP, [])), notebook(PARAMETERS, (_COMPARE, []))
    )


def sweep_command(*options: str) -> list[str]:
    """Sweep the project in the working folder."""
    return [sys.executable, "-c", _SWEEP, "sweep", "params/p.yaml", *options]


def sweep_environment() -> dict[str, str]:
    """The environment for `sweep_command`: this checkout's package, whatever is installed."""
    root = str(Path(__file__).resolve().parents[1])
    return os.environ | {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}


def workers_environment(folder: Path) -> dict[str, str]:
    """The environment for workers and kernels of a project that has `STEPS` alone; one thread each."""
    (folder / "sitecustomize.py").write_text(f"from tlskit.study import keys; keys.STEPS = {STEPS!r}\n")
    env = sweep_environment()
    return env | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(folder), env["PYTHONPATH"]])}


def run_by_hand(step: str, *, between: dict | None = None, leave_out: list | None = None, **given) -> dict:
    """Run a notebook of the project in the working folder as a person does in JupyterLab, without a kernel.

    Parameters
    ----------
    step
        Name of the notebook.
    between
        Cells of one's own, by the number of the notebook's cell (after its parameters) before which they are run.
    leave_out
        Numbers of cells that are not run.
    given
        Values that are set in the parameters cell.

    Returns
    -------
    dict
        The names that the notebook leaves.
    """
    names: dict = {"In": []}

    def run(source: str) -> None:
        names["In"].append(source)
        exec(compile(source, step, "exec"), names)

    cells = json.loads((Path("notebooks") / f"{step}.ipynb").read_text())["cells"]
    sources = ["".join(cell["source"]) for cell in cells]
    run("\n".join([sources[0], *(f"{name} = {value!r}" for name, value in given.items())]))
    for number, source in enumerate(sources[1:]):
        if number in (between or {}):
            run(between[number])
        if number not in (leave_out or []):
            run(source)
    return names


def run_in_process(step: str, output: Path, parameters: dict, *, attempt: str, title: str) -> str:
    """As `tlskit.study.kernel.execute`, without a kernel: for tests of what a sweep runs, when, and what follows."""
    found = json.loads((Path("notebooks") / f"{step}.ipynb").read_text())
    passed_over = [n for n, cell in enumerate(found["cells"][1:]) if "skip-execution" in cell["metadata"]["tags"]]
    os.environ[ATTEMPT] = attempt
    try:
        run_by_hand(step, leave_out=passed_over, **parameters)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        del os.environ[ATTEMPT]
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(found))
    return ""
