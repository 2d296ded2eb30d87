"""A run that the tests in a browser look at."""

import pytest

from forget_mi.pipeline import run_chain


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """The folder of a tiny run, unlearned and not audited."""
    folder = tmp_path_factory.mktemp("explored") / "run"
    overrides = {"shadows.count": 0}
    return run_chain("tiny", folder, overrides, ["01_cohort", "02_train", "03_unlearn"], progress=False).folder
