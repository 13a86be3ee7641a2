"""A module imports only from lower layers, and importing the package loads nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "tlskit"

#: Every module of the package, lowest layer first. A module may import those of lower lines only.
LAYERS = [
    ["errors", "files"],
    ["units"],
    ["params", "cohort", "slides", "annotations", "tiffs", "runs"],
    ["tissue", "tiling", "splitting", "probmaps", "metrics", "synthetic"],
    ["datasets", "models"],
    ["training", "inference"],
    ["evaluation", "timing", "comparison"],
    ["plots", "charts"],
    ["explore", "sweep"],
    ["__main__"],
]
LEVEL = {module: level for level, modules in enumerate(LAYERS) for module in modules}
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")

#: Too heavy for `import tlskit`, and for the modules below the layer of tensors.
HEAVY = ("torch", "lightning", "matplotlib", "ipywidgets", "papermill", "openvino")


def imported_modules(module: str) -> set[str]:
    """tlskit modules that `module` imports anywhere, in a function too."""
    tree = ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "tlskit":
            found |= {alias.name for alias in node.names if not alias.name.startswith("_")}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tlskit."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("tlskit.")}
    return found


def test_every_module_has_a_layer():
    assert set(MODULES) == set(LEVEL)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_lower_layers(module):
    upward = sorted(other for other in imported_modules(module) if LEVEL[other] >= LEVEL[module])
    assert not upward, f"tlskit.{module} imports {upward}, which do not lie below it"


@pytest.mark.parametrize("module", ["", *(m for layer in LAYERS[:4] for m in layer)])
def test_importing_loads_nothing_heavy(module):
    name = f"tlskit.{module}" if module else "tlskit"
    code = f"import sys, {name}; print([m for m in {HEAVY!r} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
