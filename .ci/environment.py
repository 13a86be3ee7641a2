"""Write environment.yml: pyproject's direct dependencies at the lock's versions, for conda users."""

import re
import tomllib
from pathlib import Path

root = Path(__file__).resolve().parent.parent
project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
pins = dict(re.findall(r"^([a-z0-9][a-z0-9._-]*)==([^ ;\\]+)", (root / "requirements.lock").read_text(), re.M))
extras = project["optional-dependencies"]
wanted = sorted({*project["dependencies"], *(name for names in extras.values() for name in names)})
lines = []
for requirement in wanted:
    name, extra = re.match(r"([A-Za-z0-9._-]+)(\[[a-z]+\])?", requirement).groups()
    lines.append(f"      - {name}{extra or ''}=={pins[name.lower()]}")
(root / "environment.yml").write_text(
    "# conda env create -f environment.yml && conda activate tlskit && pip install --no-deps -e .\n"
    "# Written by `make lock`; the versions are those of requirements.lock, and a test holds them together.\n"
    "name: tlskit\n"
    "channels:\n  - conda-forge\n  - nodefaults\n"
    "dependencies:\n  - python=3.11\n  - make\n  - pip\n  - pip:\n" + "\n".join(lines) + "\n"
)
