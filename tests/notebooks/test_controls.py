"""The notebook of the controls over a run of made-up tables: what it writes, and what it says."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from made_controls import PRESET, write_controls

from tlskit.study import status

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks" / "controls.ipynb"


def run_notebook(outputs: Path, manifest: Path, **given) -> dict:
    """Run its cells one after the other, with these parameters; the names that they leave."""
    names, given = {}, {"outputs_dir": str(outputs), "manifest": str(manifest)} | given
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), "controls", "exec"), names)
            if "parameters" in cell["metadata"].get("tags", []):
                names |= given
    plt.close("all")
    return names


@pytest.fixture
def manifest(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    path = tmp_path / "manifest.csv"
    path.write_text(
        "slide_id,patient_id,cancer_type,slide_path,annotation_path,source\np00,p00,lung,a.tif,,synthetic\n"
    )
    return path


def test_the_notebook_writes_its_tables_and_figures_and_says_what_they_show(tmp_path, manifest):
    run_dir = write_controls(tmp_path / "outputs" / "c")
    run_notebook(tmp_path / "outputs", manifest, run_name="c")
    folder = run_dir / "controls"
    tables = {path.stem for path in (folder / "tables").iterdir()}
    assert tables == {
        "arms", "trainings", "scores", "effects", "within_magnification", "two_by_two", "context", "ladder", "why",
    }  # fmt: skip
    assert {path.stem for path in (folder / "figures").iterdir()} == {
        "scores", "effects", "two_by_two", "context", "context_fields", "ladder",
    }  # fmt: skip
    said = pd.read_csv(folder / "tables" / "why.csv").set_index("question")["answer"]
    assert "The coarser one is shown to do better" in said.iloc[0]
    record = json.loads((folder / "records" / "controls.json").read_text())
    assert record["values"]["answers"] == said.to_dict() and record["caption"].startswith("synthetic")
    assert status.read_step(folder, "controls")["state"] == "done"


def test_a_run_of_few_arms_gives_words_and_no_error(tmp_path, manifest):
    for number, sweep in enumerate(
        (
            [{"magnification": [20, 4]}],
            [{"magnification": 20, "negatives_per_batch": [0, 4]}],
            [{"magnification": 20, "detail_mpp": [2.5, 10.0]}],
            [{"magnification": 4, "tile_px": [64, 128]}, {"magnification": 20}],
        )
    ):
        write_controls(tmp_path / "outputs" / f"c{number}", preset=PRESET | {"sweep": sweep}, n_patients=3)
        names = run_notebook(tmp_path / "outputs", manifest, run_name=f"c{number}")
        assert len(names["answers"]) >= 4
