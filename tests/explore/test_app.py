"""The page as a whole: one broken run takes nothing else away."""

import json

import pytest
from made_run import make_run

from tlskit.explore import app


@pytest.fixture
def outputs(tmp_path):
    return make_run(tmp_path, n_slides=1, size_mm=(1.9, 1.5), magnifications=(1,)).parent


@pytest.mark.parametrize(
    ("broken", "content"),
    [
        ("run.yaml", "manifest: [unfinished"),
        ("1x/records/01_tiling.json", "[1, 2]"),
        ("1x/records/01_tiling.json", "{"),
        ("split.csv", "patient_id\n"),
        ("1x/work/maps/S1.tif", "no map"),
        ("1x/tables/05_histograms.csv", "a,b\n1,2\n"),
    ],
)
def test_a_broken_run_leaves_the_page_and_the_other_runs(outputs, broken, content):
    made = outputs / "made"
    other = outputs / "broken"
    for path in made.rglob("*"):
        if path.is_file():
            copy = other / path.relative_to(made)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    (other / broken).write_text(content)
    page = app.page(outputs_dir=outputs)
    run = page.pages["run"]
    assert set(run.runs.options) == {"made", "broken"}
    run.runs.value = "broken"
    run.runs.value = "made"
    assert run.desk.sheet.slide_id == "S1" and list(run.desk.sheet.maps) == ["1x"]
    assert "Something went wrong" not in page.children[2].value


def test_a_run_that_cannot_be_opened_leaves_nothing_of_the_one_before(outputs):
    page = app.page(outputs_dir=outputs)
    run = page.pages["run"]
    assert run.desk is not None and "synthetic" in run.caption.value
    (outputs / "second" / "1x" / "records").mkdir(parents=True)
    (outputs / "second" / "1x" / "records" / "01_tiling.json").write_text(json.dumps({"values": {}}))
    run.runs.options = ["made", "second"]
    run.runs.value = "second"
    assert run.desk is None and len(run.children) == 1 and run.caption.value == ""
    assert "no arm that was tiled" in run.message.value


def test_train_again_turns_to_a_study_of_the_run_and_its_corrections(outputs):
    page = app.page(outputs_dir=outputs)
    page.pages["run"].again.click()
    study = page.pages["study"]
    assert page.children[-1].children == (study,) and study.form.source.value == "run"
    assert study.form.corrections.run.value == "made" and [row["slide_id"] for row in study.form.rows] == ["S1"]
