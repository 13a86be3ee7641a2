"""A sweep whose slides are copied to a local folder ahead of their use: the same tables, and nothing is left there."""

import subprocess

import pandas as pd
import pytest
from made_project import PARAMETERS, notebook, sweep_command, workers_environment, write_project
from made_slides import picture, vips_slide

READ = """
import os
import pandas as pd
from tlskit import cohort
from tlskit.study import runs
run = runs.open_run(run_name, "01_tiling", arm=arm, outputs_dir=outputs_dir, given=globals())
rows, stage = [], os.path.expandvars(os.environ.get("TLSKIT_STAGE", ""))
for row in cohort.slide_rows(cohort.read_manifest(manifest)):
    with cohort.open_row(row) as slide:
        assert bool(stage) == str(slide.path).startswith(stage or "none"), "it is not read from the stage"
        rows.append({"slide_id": row.slide_id, "mean": slide.read(0, 0, 200, 200, mpp=1.0).mean()})
run.table(pd.DataFrame(rows), "means")
run.record(staged=bool(stage))
"""


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--on", "local:1"]])
def test_a_sweep_with_a_stage_gives_the_same_tables_and_leaves_the_stage_empty(tmp_path, more):
    write_project(tmp_path, notebook(PARAMETERS, (READ, [])), *[notebook(PARAMETERS)] * 2)
    rows = ["slide_id,patient_id,cancer_type,slide_path,annotation_path"]
    for n in range(2):
        path = vips_slide(tmp_path / f"s{n}.tif", picture(600, 500, seed=n))
        rows.append(f"s{n},p{n},lung,{path.name},")
    (tmp_path / "manifest.csv").write_text("\n".join(rows) + "\n")
    env = workers_environment(tmp_path) | {"FAST": str(tmp_path / "fast")}
    (tmp_path / "fast").mkdir()

    def sweep(name, *options):
        command = sweep_command("-p", f"run_name={name}", "--arm", "4x", "--step", "01_tiling", *options)
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return (tmp_path / f"outputs/{name}/4x/tables/01_means.csv").read_bytes()

    staged = sweep("staged", "--stage", "$FAST", *more)
    assert staged == sweep("plain") and len(pd.read_csv(tmp_path / "outputs/plain/4x/tables/01_means.csv")) == 2
    assert not [path for path in (tmp_path / "fast").rglob("*") if path.is_file()]
    # No result depends on it: what was read from the stage is what would be made.
    plan = subprocess.run(
        [word if word != "sweep" else "plan" for word in sweep_command("-p", "run_name=staged", "--arm", "4x")],
        cwd=tmp_path, env=env, capture_output=True, text=True,
    )  # fmt: skip
    assert "4x  01_tiling                 done" in plan.stdout, plan.stdout + plan.stderr
