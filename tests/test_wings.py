"""The tower of wings: imports run downwards and through doors, and the lower wings load nothing heavy."""

import ast
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "tlskit"

#: From the ground up: a wing imports only from wings that stand above it in this list.
WINGS = """
slides
outlines
metrics
cohort
synthetic
tiles
networks
maps
evaluation
figures
study
explore
""".split()
GROUND = ["errors", "files", "jit", "sources", "units"]
ORDER = [*GROUND, *WINGS, "__main__"]

#: Too heavy for `import tlskit`, and for the wings up to `tiles`.
HEAVY = ("torch", "matplotlib", "ipywidgets", "papermill", "openvino", "scipy", "skimage", "numba")
LIGHT = [*GROUND, *WINGS[: WINGS.index("tiles") + 1]]

SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def wing_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.Module) -> list[tuple[str, tuple[str, ...], str]]:
    """``(wing or ground module, rest of the module's path, imported name)`` of everything imported from tlskit."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide which wing they reach"
            head, *rest = (node.module or "").split(".")
            if head == "tlskit":
                for alias in node.names:
                    path = [*rest, alias.name]
                    found.append((path[0], tuple(rest[1:]), path[1] if len(path) > 1 else ""))
        elif isinstance(node, ast.Import):
            assert not any(a.name.startswith("tlskit.") for a in node.names), "write `from tlskit...`"
    return [entry for entry in found if not entry[0].startswith("__") or entry[0] == "__main__"]


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_every_module_stands_in_a_wing():
    assert {wing_of(path) for path in SOURCES} == set(ORDER)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_run_downwards_and_through_doors(path):
    mine = wing_of(path)
    for wing, rest, name in imports(parse(path)):
        assert ORDER.index(wing) <= ORDER.index(mine), f"{wing} does not stand below {mine}"
        if wing != mine and wing in WINGS and name:
            door = import_module(f"tlskit.{wing}").__all__
            assert not rest and name in door, f"{'.'.join((wing, *rest, name))} is not named at the door of {wing}"


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_use_what_doors_name(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    tree = ast.parse("\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"))
    wings = set()
    for wing, _, name in imports(tree):
        assert wing in WINGS and not name, "a notebook imports wings"
        wings.add(wing)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in wings:
            assert node.attr in import_module(f"tlskit.{node.value.id}").__all__, f"{node.value.id}.{node.attr}"
        assert not (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in wings), node.id


@pytest.mark.parametrize("wing", WINGS)
def test_a_door_opens(wing):
    door = import_module(f"tlskit.{wing}")
    assert door.__doc__ and all(hasattr(door, name) for name in door.__all__)


def test_importing_loads_nothing_heavy():
    light = ["tlskit", *(f"tlskit.{name}" for name in LIGHT)]
    below_tensors = light[:-1]
    code = (
        "import importlib, sys\n"
        f"for name in {light!r}:\n"
        "    module = importlib.import_module(name)\n"
        f"    if name in {below_tensors!r}:\n"
        "        for attr in getattr(module, '__all__', ()): getattr(module, attr)\n"
        f"    heavy = [m for m in {HEAVY!r} if m in sys.modules]\n"
        "    if heavy: sys.exit(f'{name} loads {heavy}')\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
