import re
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement

from forget_mi.runs.project import ROOT


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
DIRECT = [
    Requirement(line)
    for lines in (PROJECT["dependencies"], *(EXTRAS[name] for name in EXTRAS if name != "all"))
    for line in lines
]
LOCK = {
    canonical(line.split("==")[0]): line.strip().split("==")[1]
    for line in (ROOT / "requirements.lock").read_text().splitlines()
    if line.strip() and not line.startswith("#")
}
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
CONDA_PINS = {
    canonical(line.split("==")[0]): line.split("==")[1]
    for line in ENVIRONMENT[-1]["pip"]
    if not line.startswith("-")
}


@pytest.mark.parametrize("requirement", DIRECT, ids=lambda r: r.name)
def test_pyproject_the_lock_and_environment_agree(requirement):
    name = canonical(requirement.name)
    assert name in LOCK, f"{name} is in pyproject.toml, not in requirements.lock: run make lock"
    assert requirement.specifier.contains(LOCK[name]), (
        f"{name} {LOCK[name]} is outside {requirement.specifier}"
    )
    assert CONDA_PINS.get(name) == LOCK[name], (
        f"{name}: environment.yml says {CONDA_PINS.get(name)}"
    )


def test_environment_has_nothing_else():
    assert set(CONDA_PINS) == {canonical(r.name) for r in DIRECT}
    assert "python=3.11" in ENVIRONMENT
    assert {"-c requirements.lock", "-e ."} <= set(ENVIRONMENT[-1]["pip"])


def test_all_is_every_extra_and_no_package_is_in_two():
    assert EXTRAS["all"] == [f"forget-mi[{','.join(name for name in EXTRAS if name != 'all')}]"]
    assert len({canonical(r.name) for r in DIRECT}) == len(DIRECT)


def test_torch_and_torchvision_are_an_exact_pair():
    assert (LOCK["torch"], LOCK["torchvision"]) == ("2.14.1", "0.29.1")


def test_the_installed_versions_are_the_pinned_ones():
    from importlib.metadata import version

    for requirement in DIRECT:
        assert version(requirement.name).split("+")[0] == LOCK[canonical(requirement.name)]
