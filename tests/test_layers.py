"""A module imports only from lower layers, and importing the package loads nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "tlskit"

#: Every module of the package, lowest layer first. A module may import those of lower lines only. Where a room has
#: several modules, the parts lie on a line of their own below the one that is its door.
LAYERS = [
    # words, and arithmetic on arrays that knows nothing of slides
    ["errors"],
    ["files", "batching", "grids", "nuclei", "rasters", "resample", "shapes", "stains", "textures"],
    ["units", "bands", "blending", "cells", "normalisation", "architectures"],
    # files: presets, slides, outlines, maps, the archive
    ["scans", "outlines", "qupath", "histology"],
    ["jpegs", "colours", "geojson", "markups", "anatomy"],
    ["params", "slides", "annotations", "tiffs", "probmaps", "runs"],
    ["cohort", "oracle"],
    # steps that know no torch
    ["tissue", "metrics", "objects", "splitting", "truth"],
    ["tiling", "thresholds", "published", "bootstrap", "synthetic"],
    ["predictions", "summaries", "inspection"],
    # tensors: networks, training, inference
    ["compute", "encoders", "folding"],
    ["models", "learner", "runtimes", "streaming"],
    ["datasets", "compiled"],
    ["engines"],
    ["training", "slidemaps"],
    ["inference"],
    # judging
    ["evaluation", "timing", "armtables", "windowing", "checks"],
    ["comparison"],
    ["costs"],
    # showing
    ["chartstyle"],
    ["auditcharts", "charts", "comparecharts", "plots", "reportpage", "stepcharts"],
    ["report"],
    # using
    ["handles", "archive", "viewer", "segmenting", "sweep"],
    ["findings", "chooser"],
    ["desk"],
    ["views"],
    ["explore"],
    ["app"],
    ["__main__"],
]
#: How many of the lines above load no torch and nothing else that is heavy.
LIGHT = 10
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


def test_importing_loads_nothing_heavy():
    light = ["tlskit", *(f"tlskit.{module}" for layer in LAYERS[:LIGHT] for module in layer)]
    code = (
        "import importlib, sys\n"
        f"for name in {light!r}:\n"
        "    importlib.import_module(name)\n"
        f"    heavy = [m for m in {HEAVY!r} if m in sys.modules]\n"
        "    if heavy: sys.exit(f'importing {name} loads {heavy}')\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
