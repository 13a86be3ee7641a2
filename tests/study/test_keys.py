"""An archive that cannot lie: what a step wrote stands under its key, whoever ran it."""

import io
import json
import logging
import os
import shutil
import tokenize

import pandas as pd
import pytest
from made_project import PARAMETERS, STEPS, notebook, run_by_hand, write_project

from tlskit import sources
from tlskit.errors import ComparisonError, ParameterError, RunError
from tlskit.study import keys, standing, status, sweep

OPEN = """
run = study.open_run(
    run_name, "01_tiling", arm=arm, magnification=magnification, outputs_dir=outputs_dir, given=globals()
)
"""
FIRST = 'run.table(pd.DataFrame({"tile_id": [f"t{n}" for n in range(level)]}), "tiles")'
TILES = 'run.save(pd.DataFrame({"level": [level]}), "tiles")'
RECORD = "run.record(level=level, magnification=magnification)"
SECOND = """
run = study.open_run(
    run_name, "02_patient_split", arm=arm, magnification=magnification, outputs_dir=outputs_dir, given=globals()
)
run.table(run.load("tiles", made_by="01_tiling"), "seen")
"""
COMPARE = """
run = study.open_run(
    run_name, "compare_magnifications", outputs_dir=outputs_dir, given=globals(), arms=compare_arms
)
tables = [pd.read_csv(path) for path in sorted(run.dir.glob("*x/tables/02_*.csv"))]
run.table(pd.concat(tables, ignore_index=True), "seen")
"""
IMPORTS = "import pandas as pd\nfrom tlskit import study"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project whose notebooks archive a table, a Parquet and a record; nothing in it was run."""
    folder = tmp_path / "project"
    folder.mkdir()
    first = PARAMETERS + "level = 3  # tiles\noverlap = 0.5  # share\n"
    write_project(
        folder,
        notebook(first, (IMPORTS, []), (OPEN, []), (FIRST, []), (TILES, []), (RECORD, ["record"])),
        notebook(PARAMETERS + "rate = 0.001  # of Adam\n", (IMPORTS, []), (SECOND, []), ("run.record(seen=1)", [])),
        notebook(
            PARAMETERS + 'compare_arms = "all"  # or ready\n', (IMPORTS, []), (COMPARE, []), ("run.record(n=1)", [])
        ),
    )
    monkeypatch.chdir(folder)
    monkeypatch.setattr(keys, "STEPS", STEPS)
    return folder


def prepared(**overrides):
    return sweep.prepare("params/p.yaml", overrides)


def left(preset):
    return {f"{job.arm} {job.step}": job.why for job in sweep.plan(preset) if not job.done}


@pytest.fixture
def swept(project):
    """Both arms, and the comparison, as a sweep leaves them, run without kernels."""
    make(project)
    return project


def make(project, **given):
    sweep.hold(sweep.run_dir_of(prepared()), prepared())
    for arm in (4, 1):
        for step in STEPS:
            run_by_hand(step, run_name="r", magnification=arm, arm=f"{arm}x", **given)
    run_by_hand("compare_magnifications", run_name="r")


def test_a_step_is_done_whoever_ran_it(swept):
    assert left(prepared()) == {}


def test_a_notebook_opened_by_hand_leaves_the_sweeps_run_alone(swept):
    before = {path: path.read_bytes() for path in (swept / "outputs/r").rglob("*") if path.is_file()}
    run_by_hand("01_tiling", run_name="by_hand", level=1)
    assert {path: path.read_bytes() for path in before} == before
    assert (swept / "outputs/by_hand/4x/tables/01_tiles.csv").is_file()


def test_what_is_run_by_hand_with_other_values_is_seen_by_the_sweep(swept):
    run_by_hand("01_tiling", run_name="r", magnification=1, arm="1x", level=1, overlap=0.0)
    found = left(prepared())
    assert found["1x 01_tiling"] == "run by hand: `level` was 1, is 3; `overlap` was 0, is 0.5"
    assert found["1x 02_patient_split"] == "after 01_tiling" and "4x 01_tiling" not in found
    assert found["compare compare_magnifications"] == "after 1x 01_tiling"
    with pytest.raises(ComparisonError, match=r"1x is out of date: 02_patient_split was made of another 01_tiling"):
        standing.choose_arms(swept / "outputs/r")


def test_values_changed_after_the_run_was_opened_are_refused(project):
    with pytest.raises(RunError, match=r"`level` was 3 when the run was opened, and is 9 now"):
        run_by_hand("01_tiling", run_name="r", between={2: "level = 9"})


def test_cells_of_ones_own_and_cells_left_out_are_told(project):
    preset = prepared(magnification=4)
    run_by_hand("01_tiling", run_name="r", arm="4x", between={3: "level.bit_length()"})
    assert "run by hand with cells of its own (level.bit_length())" in left(preset)["4x 01_tiling"]
    run_by_hand("01_tiling", run_name="r", arm="4x", leave_out=[3])
    assert 'run by hand without some cells (run.save(pd.DataFrame({"level"' in left(preset)["4x 01_tiling"]
    run_by_hand("01_tiling", run_name="r", arm="4x", between={3: "run\nprint(level)"})  # who looks changes nothing
    assert "4x 01_tiling" not in left(preset)


@pytest.mark.parametrize("lost", ["work/tiles.parquet", "tables/01_tiles.csv", "records/01_tiling.json", "work"])
def test_a_product_that_is_deleted_makes_its_step_undone(swept, lost):
    path = swept / "outputs/r/4x" / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert "is gone" in left(prepared())["4x 01_tiling"]


def test_a_table_changed_by_hand_is_seen_and_kept_when_the_step_is_run_again(swept, caplog):
    path = swept / "outputs/r/4x/tables/01_tiles.csv"
    path.write_text("tile_id\nmine\n")
    assert left(prepared())["4x 01_tiling"] == "tables/01_tiles.csv was changed by another hand"
    with pytest.raises(ComparisonError, match="4x is out of date: tables/01_tiles.csv was changed by another hand"):
        standing.choose_arms(swept / "outputs/r")
    with caplog.at_level(logging.WARNING):
        run_by_hand("01_tiling", run_name="r", arm="4x")
    assert (swept / "outputs/r/4x/set_aside/tables/01_tiles.csv").read_text() == "tile_id\nmine\n"
    assert "was moved to set_aside/tables/01_tiles.csv" in caplog.text


def test_a_step_that_is_opened_and_not_run_loses_nothing(swept):
    run_by_hand("01_tiling", run_name="r", arm="4x", leave_out=[2, 3, 4])
    assert left(prepared()) == {}


@pytest.mark.parametrize(
    ("form", "encoding"), [(";", "utf-8"), (",", "utf-16"), (";", "utf-16-le"), (";", "cp1252"), ("\t", "utf-8-sig")]
)
def test_an_outline_exported_anew_is_seen_whatever_wrote_the_manifest(project, form, encoding):
    rows = [
        ["slide_id", "patient_id", "cancer_type", "slide_path", "annotation_path"],
        ["s1", "p1", "Müllerstraße", "slide.svs", "outlines.geojson"],
    ]
    (project / "manifest.csv").write_bytes("\r\n".join(form.join(row) for row in rows).encode(encoding))
    make(project)
    assert left(prepared()) == {}
    (project / "outlines.geojson").write_text("other outlines")
    assert left(prepared())["4x 01_tiling"] == "run by hand: outlines of s1 changed"
    # The notebook after it would mix tiles of the old with masks of the new outlines.
    with pytest.raises(RunError, match=r"outlines of s1 changed since 01_tiling was run in arm 4x"):
        run_by_hand("02_patient_split", run_name="r", arm="4x")


def test_a_second_reader_counts_where_two_are_compared_and_makes_no_other_step_again(project, monkeypatch):
    assert keys.SECOND_READER == "05_wsi_evaluation"
    monkeypatch.setattr(keys, "SECOND_READER", "02_patient_split")  # this project has no more steps
    header = "slide_id,patient_id,cancer_type,slide_path,annotation_path"
    (project / "manifest.csv").write_text(f"{header}\ns1,p1,lung,slide.svs,outlines.geojson\n")
    make(project)
    (project / "second.geojson").write_text("what another person outlined")
    text = f"{header},annotation_path_2\ns1,p1,lung,slide.svs,outlines.geojson,second.geojson\n"
    (project / "manifest.csv").write_text(text)
    said = left(prepared())
    assert said["4x 02_patient_split"] == "run by hand: the second reader's outlines of s1 changed"
    assert not [step for step in said if "01_tiling" in step]
    for arm in (4, 1):
        run_by_hand("02_patient_split", run_name="r", magnification=arm, arm=f"{arm}x")
    assert set(left(prepared())) <= {"compare compare_magnifications"}
    (project / "second.geojson").write_text("drawn anew")
    assert "1x 02_patient_split" in left(prepared())


def test_moving_the_project_or_touching_a_slide_changes_nothing(swept, monkeypatch):
    os.utime(swept / "slide.svs", (1, 1))
    assert left(prepared()) == {}
    moved = swept.parent / "other disk"
    swept.rename(moved)
    monkeypatch.chdir(moved)
    assert left(prepared()) == {}
    (moved / "slides").mkdir()
    (moved / "slide.svs").rename(moved / "slides/renamed.svs")
    text = (moved / "manifest.csv").read_text().replace("slide.svs", "slides/renamed.svs")
    (moved / "manifest.csv").write_text(text)
    assert left(prepared()) == {}


def test_a_patient_changed_in_the_manifest_is_named(swept):
    (swept / "manifest.csv").write_text((swept / "manifest.csv").read_text().replace("p1", "p7"))
    assert left(prepared())["1x 01_tiling"] == "run by hand: the manifest's row of s1 changed"


def test_threads_are_no_part_of_a_key_and_4_is_4_0():
    made = [keys.plain_value(value) for value in (4, 4.0, (1, 2.0), True)]
    assert made == [4, 4, [1, 2], True] and "workers" in keys.PLACES


def test_an_arm_that_lost_its_tables_is_named_and_left_out_on_request(swept):
    shutil.rmtree(swept / "outputs/r/1x/tables")
    with pytest.raises(ComparisonError, match="1x is missing: it has no tables"):
        standing.choose_arms(swept / "outputs/r")
    assert standing.choose_arms(swept / "outputs/r", "ready") == ["4x"]
    assert (swept / "outputs/r/compare/left_out.csv").read_text() == "arm,state,why\n1x,missing,it has no tables\n"
    with pytest.raises(ParameterError, match="all or ready"):
        standing.choose_arms(swept / "outputs/r", "some")


def test_an_arm_that_failed_and_an_arm_of_another_preset_are_named(swept):
    run_dir = swept / "outputs/r"
    found = status.read_step(run_dir / "4x", "02_patient_split") | {"state": "failed", "reason": "no room"}
    status.write_step(run_dir / "4x", "02_patient_split", found)
    (run_dir / "run.yaml").write_text((run_dir / "run.yaml").read_text() + "level: 5\n")
    with pytest.raises(ComparisonError) as caught:
        standing.choose_arms(run_dir)
    assert "4x is out of date: 01_tiling was run with `level` 3; the run's preset has 5" in str(caught.value)
    (run_dir / "run.yaml").write_text((run_dir / "run.yaml").read_text().replace("level: 5\n", ""))
    with pytest.raises(ComparisonError, match="4x is failed: 02_patient_split failed: no room"):
        standing.choose_arms(run_dir)


def test_a_step_is_not_run_on_what_a_failed_one_left(swept):
    found = status.read_step(swept / "outputs/r/4x", "01_tiling") | {"state": "failed"}
    status.write_step(swept / "outputs/r/4x", "01_tiling", found)
    with pytest.raises(RunError, match="01_tiling failed in arm 4x of run r: run it first"):
        run_by_hand("02_patient_split", run_name="r", arm="4x")


def test_a_step_that_is_being_run_elsewhere_is_not_run_by_hand(project):
    from tlskit.files import Claims

    other = Claims(project / "outputs/r/.claims")
    other.take("4x/01_tiling")
    with pytest.raises(RunError, match="being run by somebody else"):
        run_by_hand("01_tiling", run_name="r", arm="4x")
    other.release("4x/01_tiling")


def test_a_number_that_plain_papermill_reads_as_text_is_refused_in_the_kernel(swept):
    with pytest.raises(ParameterError, match=r"`rate` should be a number \(as in 0.001\), not '1e-3'"):
        run_by_hand("02_patient_split", run_name="r", arm="4x", rate="1e-3")


def test_no_word_about_the_machine_is_in_the_archive(swept):
    for path in (swept / "outputs/r").rglob("*"):
        if path.suffix in (".json", ".csv", ".yaml"):
            assert str(swept) not in path.read_text() and os.uname().nodename not in path.read_text(), path


def test_a_preset_of_ones_own_is_no_uncommitted_change(monkeypatch):
    from tlskit.study import provenance

    asked = []
    monkeypatch.setattr(provenance.subprocess, "run", lambda words, **_: asked.append(words) or _Said())
    provenance._git_state()
    assert asked[0][-3:] == ["--", "tlskit", "notebooks"]


class _Said:
    stdout = ""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the package whose files can be changed."""
    copy = tmp_path / "tlskit"
    shutil.copytree(sources._PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(sources, "_PACKAGE", copy)
    return copy


def code_of(step):
    cells = "\n".join(keys.cells_that_run(step))
    return sources.code_state(cells, without=keys.PLUMBING)


def test_a_new_colour_in_a_chart_trains_no_network_again(package):
    before = {step: code_of(step) for step in keys.STEPS}
    for path in (package / "figures").glob("*.py"):
        path.write_text(path.read_text() + "\nCOLOUR = 'teal'\n")
    assert {step: code_of(step) for step in keys.STEPS} == before
    model = package / "networks/models.py"
    model.write_text(model.read_text() + "\n# a comment, and\n\n")
    assert {step: code_of(step) for step in keys.STEPS} == before
    model.write_text(model.read_text() + "WIDTH = 2\n")
    after = {step: code_of(step) for step in keys.STEPS}
    changed = {step for step in keys.STEPS if before[step] != after[step]}
    assert {"03_training", "04_tile_evaluation", "05_wsi_evaluation"} <= changed and "01_tiling" not in changed


def test_imports_are_followed_through_doors_and_into_functions(package):
    assert "tiles.tiling" in code_of("01_tiling") and "outlines.truth" in code_of("01_tiling")
    assert "networks.models" in code_of("05_wsi_evaluation")  # maps reaches it inside functions
    reached = sources.reached("from tlskit import figures\nfigures.score_bars(1)")
    assert "figures.style" in reached and "figures.comparecharts" not in reached
    whole = sources.reached("from tlskit import cohort\nuse(cohort)")  # handed on as a value: all of it
    assert {"cohort.splitting", "cohort.checks"} <= set(whole)


def test_the_comparison_reaches_its_charts_and_the_page(package):
    cells = "\n".join(keys.cells_that_run("compare_magnifications"))
    reached = sources.code_state(cells, without=("errors", "files", "sources"))
    assert "figures.comparecharts" in reached and "study.report" in reached and "study.report.report.html.j2" in reached


def test_figures_decide_no_number_of_a_numbered_step():
    """What a notebook takes out of `figures` goes into figures again: that is why their code is in no key."""
    import ast

    for step in keys.STEPS:
        tree = ast.parse("\n".join(keys.cells_that_run(step)))
        drawn = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and "figures." in ast.unparse(node.value):
                assert ast.unparse(node.value).startswith("figures."), ast.unparse(node)
                drawn |= {name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and not ast.unparse(node.func).startswith(("figures.", "run.figure")):
                taken = {n.id for a in [*node.args, *node.keywords] for n in ast.walk(a) if isinstance(n, ast.Name)}
                assert not drawn & taken, ast.unparse(node)


def test_archives_of_earlier_versions_are_told_so(project):
    arm = project / "outputs/r/4x"
    (arm / "tables").mkdir(parents=True)
    (arm / "tables/02_seen.csv").write_text("level\n3\n")
    pd.DataFrame([["4x", "01_tiling", "", "done", "", "7.3", "e466"]], columns=status.STATUS_COLUMNS).to_csv(
        project / "outputs/r/status.csv", index=False
    )
    assert left(prepared())["4x 01_tiling"] == "made by an earlier version, its key is unknown"
    assert standing.standing(project / "outputs/r")["state"].tolist() == ["unknown"]
    assert status.read_status(project / "outputs/r")["key"].tolist() == ["e466"]


def test_a_narrowed_sweep_keeps_the_runs_other_arms(swept):
    sweep.hold(swept / "outputs/r", prepared(magnification=4))
    assert standing.arm_names(swept / "outputs/r") == ["4x", "1x"]
    jobs = sweep.plan(prepared(magnification=4))
    assert {job.arm for job in jobs} == {"4x", "compare"} and all(job.done for job in jobs)
    sweep.hold(swept / "outputs/r", prepared(magnification=2))
    assert standing.arm_names(swept / "outputs/r") == ["4x", "1x", "2x"]


def test_a_refused_sweep_changes_nothing(swept):
    from tlskit.files import Claims

    other = Claims(swept / "outputs/r/.claims")
    other.take("4x/01_tiling")
    before = (swept / "outputs/r/run.yaml").read_bytes()
    partial = swept / "outputs/r/4x/.tmp-ffffffff-1-aa-01_tiling.ipynb"
    partial.write_text("{}")
    with pytest.raises(RunError, match=r"Another preset is being swept into the run r at this moment \(4x 01_tiling\)"):
        sweep.run_sweep(prepared(level=9))
    assert (swept / "outputs/r/run.yaml").read_bytes() == before and partial.is_file()
    other.release("4x/01_tiling")


def test_the_status_file_says_what_made_the_numbers(swept):
    found = json.loads((swept / "outputs/r/4x/status/01_tiling.json").read_text())
    assert found["ingredients"]["cohort"]["s1"]["outlines"].endswith(".geojson")
    assert found["provenance"]["packages"]["numpy"] and found["by"] == "hand"
    record = json.loads((swept / "outputs/r/4x/records/01_tiling.json").read_text())
    assert record["key"] == found["key"]


def test_comments_are_what_the_tokenizer_says():
    def plainly(source):
        lines = source.splitlines()
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                row, column = token.start
                lines[row - 1] = lines[row - 1][:column]
        return lines

    tricky = "a = '#' # b\nb = \"\"\"x # 'y\n\"\"\" # c'\nc = r'\\'# d\nd = f\"{a}#{'#'}\" # \"\"\"\ne = 'it\\'s # x'\n"
    for source in [tricky, *(path.read_text(encoding="utf-8") for path in sources._PACKAGE.rglob("*.py"))]:
        assert sources.without_comments(source).splitlines() == plainly(source)


def test_what_05_chose_is_read_by_06_where_it_is_to_be_taken_from_there():
    timing = "06_wsi_inference_timing"
    assert keys.reads(timing, {"window_overlap": 0.5}) == ["02_patient_split", "03_training"]
    assert keys.reads(timing, {"window_overlap": "auto"})[-1] == "05_wsi_evaluation"
    assert "05_wsi_evaluation" not in keys.reads("05_wsi_evaluation", {"window_overlap": "auto"})
