"""The notebooks keep the rules that make them readable, injectable and thin."""

import ast
import json
import re
from pathlib import Path

import pytest

from tlskit.study import declarations, params
from tlskit.study.keys import COMPARE, STEPS
from tlskit.study.planning import ASKED_BY

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
STUDY = [path for path in NOTEBOOKS if path.stem in (*STEPS, COMPARE, *ASKED_BY)]

#: Names whose call in a notebook means that a function is missing in the package.
NUMERIC = ("np", "plt", "torch")

#: Where a researcher's own line of seaborn is shown.
WITH_SEABORN = COMPARE


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def code_cells(path: Path) -> list[dict]:
    return [cell for cell in read(path)["cells"] if cell["cell_type"] == "code"]


def tags(cell: dict) -> list[str]:
    return cell["metadata"].get("tags", [])


def source(cell: dict) -> str:
    return "".join(cell["source"])


def by_name(path: Path) -> str:
    return path.stem


def test_the_notebooks_of_the_study_are_all_there():
    assert {*STEPS, COMPARE, "controls", "cascade"} <= {path.stem for path in STUDY}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=by_name)
def test_nothing_but_input_is_kept(path):
    notebook = read(path)
    for cell in code_cells(path):
        assert not cell["outputs"] and cell["execution_count"] is None
        assert set(cell["metadata"]) <= {"tags"}
    assert set(notebook["metadata"]) <= {"kernelspec", "language_info"}
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=by_name)
def test_cells_are_short_and_define_nothing(path):
    for number, cell in enumerate(code_cells(path)):
        lines = [line for line in source(cell).splitlines() if line.strip()]
        if "parameters" not in tags(cell):
            assert len(lines) <= 10, f"code cell {number} has {len(lines)} lines: a call is missing in the package"
        for node in ast.walk(ast.parse(source(cell))):
            assert not isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Lambda)), f"code cell {number} defines"
        assert not re.search(r"^\s*[!%]", source(cell), re.M), f"code cell {number} has a magic or a shell line"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=by_name)
def test_only_tlskit_is_imported_and_no_path_is_absolute(path):
    for cell in code_cells(path):
        for node in ast.walk(ast.parse(source(cell))):
            if isinstance(node, ast.Import):
                own = {"seaborn"} if path.stem == WITH_SEABORN else set()
                assert {alias.name for alias in node.names} <= {"pandas"} | own
            if isinstance(node, ast.ImportFrom):
                assert node.module.split(".")[0] in ("tlskit", "pandas")
            if isinstance(node, ast.Name):
                assert node.id not in NUMERIC
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not re.match(r"(/|[A-Za-z]:\\|~)", node.value), node.value


@pytest.mark.parametrize("path", STUDY, ids=by_name)
def test_the_cells_stand_in_the_agreed_order(path):
    cells = read(path)["cells"]
    assert cells[0]["cell_type"] == "markdown" and source(cells[0]).startswith("# ")
    assert "| reads |" in source(cells[0]) and "| writes |" in source(cells[0]) and "| time |" in source(cells[0])
    code = code_cells(path)
    assert source(code[0]).startswith("from tlskit import")
    assert tags(code[1]) == ["parameters"]
    assert sum("parameters" in tags(cell) for cell in code) == 1
    assert sum("record" in tags(cell) for cell in code) == 1
    assert 7 <= len(code) <= (16 if path.stem == WITH_SEABORN else 15)
    assert "What to look at" in source(cells[-1])


@pytest.mark.parametrize("path", STUDY, ids=by_name)
def test_every_declared_parameter_has_a_help_text_and_is_used(path):
    declared = declarations.notebook_parameters(path)
    later = "\n".join(source(cell) for cell in code_cells(path)[2:])
    used = {node.id for node in ast.walk(ast.parse(later)) if isinstance(node, ast.Name)}
    for name, parameter in declared.items():
        assert parameter.help, f"{name} has no help text"
        assert name in used, f"{name} is declared and never used"


@pytest.mark.parametrize("path", STUDY, ids=by_name)
def test_papermill_reads_the_same_parameters(path):
    import papermill

    seen = papermill.inspect_notebook(str(path))
    declared = declarations.notebook_parameters(path)
    assert set(seen) == set(declared)
    for name, parameter in declared.items():
        assert ast.literal_eval(seen[name]["default"]) == parameter.default
        assert seen[name]["help"] == parameter.help


@pytest.mark.parametrize("preset", sorted((ROOT / "params").glob("*.yaml")), ids=by_name)
def test_every_preset_names_only_known_parameters(preset):
    declarations.check(params.read_preset(preset), STUDY)


def test_a_parameter_has_the_same_default_in_every_notebook():
    defaults = {}
    for path in STUDY:
        for name, parameter in declarations.notebook_parameters(path).items():
            assert defaults.setdefault(name, parameter.default) == parameter.default, (path.name, name)


def test_the_defaults_are_the_demos():
    """A notebook opened in JupyterLab runs what `make demo` runs."""
    demo = params.read_preset(ROOT / "params" / "demo.yaml")
    for path in STUDY:
        for name, parameter in declarations.notebook_parameters(path).items():
            if name in demo and name != "run_name":  # by hand one works on a run of one's own
                assert parameter.default == demo[name], (path.name, name)
