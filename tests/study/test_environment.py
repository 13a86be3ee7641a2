"""pyproject.toml, requirements.lock and environment.yml say the same, for each Python that the kit runs on."""

import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
PLATFORMS = {"linux": "posix", "darwin": "posix", "win32": "nt"}


def pins(python: str, platform: str = "linux") -> dict[str, str]:
    """Versions that pip would take from the lock under a Python."""
    env = {"python_version": python, "python_full_version": f"{python}.99", "sys_platform": platform}
    env = default_environment() | env | {"os_name": PLATFORMS[platform]}
    found = {}
    for line in re.findall(r"^[a-z0-9][^\\\n]*", (ROOT / "requirements.lock").read_text(), re.M):
        requirement = Requirement(line.strip())
        if requirement.marker is None or requirement.marker.evaluate(env):
            assert requirement.name not in found, f"{requirement.name} twice under Python {python}"
            found[requirement.name] = str(requirement.specifier).removeprefix("==")
    return found


def direct_requirements() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    return [Requirement(text) for requirements in lists for text in requirements]


def conda_environment() -> tuple[str, dict[str, str]]:
    """The Python of environment.yml, and what it pins."""
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    python = next(entry for entry in dependencies if str(entry).startswith("python=")).removeprefix("python=")
    listed = next(entry["pip"] for entry in dependencies if isinstance(entry, dict))
    return python, {Requirement(line).name: str(Requirement(line).specifier) for line in listed}


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_satisfies_every_direct_dependency(python, platform):
    locked = pins(python, platform)
    for requirement in direct_requirements():
        assert requirement.specifier.contains(locked[requirement.name.lower()]), requirement


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_conda_environment_holds_what_the_lock_has_for_its_python(platform):
    python, found = conda_environment()
    locked = pins(python, platform)
    assert found == {r.name: f"=={locked[r.name.lower()]}" for r in direct_requirements()}
    # Where the newest release of a package has left this Python behind, the lock has another version of it.
    newer = pins(PYTHONS[-1], platform)
    assert any(found[name] != f"=={newer[name.lower()]}" for name in found)


def test_what_is_installed_is_what_the_lock_says_for_this_python():
    """What pip could install under this Python exists for it."""
    locked, wrong = pins("{}.{}".format(*sys.version_info[:2]), sys.platform), []
    for requirement in direct_requirements():
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            pytest.skip(f"{requirement.name} is not installed: this environment was not made from the lock")
        if found.split("+")[0] != locked[requirement.name.lower()]:
            wrong.append(f"{requirement.name} {found}, not {locked[requirement.name.lower()]}")
    assert not wrong


def test_the_lock_has_a_hash_for_every_package_and_no_address():
    lock = (ROOT / "requirements.lock").read_text()
    for block in re.split(r"\n(?=[a-z0-9])", lock):
        if re.match(r"[a-z0-9]", block):
            assert "--hash=sha256:" in block, block.splitlines()[0]
    assert "://" not in lock and "--index-url" not in lock and "--find-links" not in lock


def test_torch_and_torchvision_are_pinned_as_a_pair():
    for python in PYTHONS:
        assert (pins(python)["torch"], pins(python)["torchvision"]) == ("2.15.0", "0.29.2")
