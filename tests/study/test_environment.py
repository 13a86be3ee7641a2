"""pyproject.toml, requirements.lock and environment.yml say the same."""

import re
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]


def pins() -> dict[str, str]:
    lock = (ROOT / "requirements.lock").read_text()
    return dict(re.findall(r"^([a-z0-9][a-z0-9._-]*)==([^ ;\\]+)", lock, re.M))


def direct_requirements() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    return [Requirement(text) for requirements in lists for text in requirements]


def test_the_lock_satisfies_every_direct_dependency():
    locked = pins()
    for requirement in direct_requirements():
        assert requirement.specifier.contains(locked[requirement.name.lower()]), requirement


def test_the_conda_environment_holds_the_locks_versions_of_every_direct_dependency():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    listed = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    found = {Requirement(line).name.lower(): str(Requirement(line).specifier) for line in listed}
    locked = pins()
    assert found == {r.name.lower(): f"=={locked[r.name.lower()]}" for r in direct_requirements()}


def test_the_lock_has_a_hash_for_every_package_and_no_address():
    lock = (ROOT / "requirements.lock").read_text()
    for block in re.split(r"\n(?=[a-z0-9])", lock):
        if re.match(r"[a-z0-9]", block):
            assert "--hash=sha256:" in block, block.splitlines()[0]
    assert "://" not in lock and "--index-url" not in lock and "--find-links" not in lock


def test_torch_and_torchvision_are_pinned_as_a_pair():
    locked = pins()
    assert (locked["torch"], locked["torchvision"]) == ("2.15.0", "0.29.2")
