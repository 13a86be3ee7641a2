"""Write environment.yml: the direct dependencies for conda users, at the versions that the lock has for its Python.

A lock for several Pythons pins some packages twice, because their newest releases have left an older Python behind.
"""

import sys
import tomllib
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

#: The Python of the conda environment.
PYTHON = "3.11"
#: Where a conda environment may be made: platform, os, machine.
PLATFORMS = (
    ("linux", "posix", "x86_64"), ("linux", "posix", "aarch64"), ("darwin", "posix", "arm64"),
    ("win32", "nt", "AMD64"),
)  # fmt: skip
ROOT = Path(__file__).resolve().parent.parent


def pins(lock: str, python: str) -> dict[str, str]:
    """Version of each package that a lock installs under the newest release of a Python, on every platform alike."""
    found: dict[str, set[str]] = {}
    for line in lock.splitlines():
        if not line or line[0] in " #-":
            continue
        requirement = Requirement(line.rstrip("\\ "))
        for platform, os_name, machine in PLATFORMS:
            environment = default_environment() | {
                "python_version": python, "python_full_version": f"{python}.99", "sys_platform": platform,
                "os_name": os_name, "platform_machine": machine,
            }  # fmt: skip
            if requirement.marker is None or requirement.marker.evaluate(environment):
                (version,) = requirement.specifier
                found.setdefault(canonicalize_name(requirement.name), set()).add(version.version)
    several = {name: versions for name, versions in found.items() if len(versions) > 1}
    if several:
        sys.exit(f"environment.yml has one version for all platforms; the lock has several: {several}")
    return {name: versions.pop() for name, versions in found.items()}


def environment(project: dict, locked: dict[str, str]) -> str:
    """The text of environment.yml."""
    listed = [
        *project["dependencies"],
        *(name for names in project["optional-dependencies"].values() for name in names),
    ]
    lines = []
    for requirement in map(Requirement, listed):
        extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
        lines.append(f"      - {requirement.name}{extras}=={locked[canonicalize_name(requirement.name)]}")
    return (
        "# conda env create -f environment.yml && conda activate tlskit && pip install --no-deps -e .\n"
        "# Written by `make lock`; the versions are those of requirements.lock for this Python, held by a test.\n"
        "name: tlskit\n"
        "channels:\n  - conda-forge\n  - nodefaults\n"
        f"dependencies:\n  - python={PYTHON}\n  - make\n  - pip\n  - pip:\n" + "\n".join(sorted(set(lines))) + "\n"
    )


if __name__ == "__main__":
    made = environment(
        tomllib.loads((ROOT / "pyproject.toml").read_text())["project"],
        pins((ROOT / "requirements.lock").read_text(), PYTHON),
    )
    (ROOT / "environment.yml").write_text(made)
