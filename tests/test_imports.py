"""Importing the library changes nothing in the process that does, and brings nothing that was not
asked for."""

import json
import subprocess
import sys

import pytest

from forget_mi.runs.project import ROOT

PACKAGES = sorted(
    ".".join(path.parent.relative_to(ROOT / "lib").parts)
    for path in (ROOT / "lib" / "forget_mi").rglob("__init__.py")
)
# What a process has besides its modules: prints it before and after an import.
STATE = """
import atexit, gc, json, locale, logging, os, random, signal, sys, warnings
import matplotlib, numpy, torch
import accelerate, transformers, safetensors.torch, pydantic, scipy.stats, sklearn.svm, pandas
import tqdm.auto, filelock, joblib
import seaborn, torchvision.models, jinja2, yaml

def state():
    return {
        "garbage": [gc.get_threshold(), gc.isenabled(), gc.get_freeze_count()],
        "at exit": atexit._ncallbacks(),
        "environment": dict(os.environ),
        "threads": [torch.get_num_threads(), torch.get_num_interop_threads()],
        "warnings": [str(f) for f in warnings.filters],
        "matplotlib": [str(matplotlib.rcParams), matplotlib.get_backend()],
        "torch": [torch.get_default_dtype(), torch.get_deterministic_debug_mode(),
                  torch.backends.cudnn.benchmark,
                  torch.backends.cudnn.deterministic, torch.get_float32_matmul_precision(),
                  torch.is_grad_enabled(),
                  torch.backends.mkldnn.enabled,
                  torch.utils.deterministic.fill_uninitialized_memory,
                  torch.random.initial_seed(), torch.random.get_rng_state().sum().item()],
        "random": [hash(random.getstate()), numpy.random.get_state()[1].sum().item()],
        "numpy": [numpy.geterr(), numpy.get_printoptions()],
        "pandas": pandas.get_option("display.max_rows"),
        "signals": [str(signal.getsignal(s))
                    for s in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)],
        "logging": [logging.root.level, len(logging.root.handlers)],
        "path": sys.path,
        "locale": locale.getlocale(),
        "hooks": [str(sys.excepthook), str(sys.displayhook)],
    }
"""


def printed(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.strip()


def differences(imports: str) -> dict:
    """What of the process's state differs after some imports."""
    code = f"{STATE}\nbefore = state()\n{imports}\nafter = state()\n"
    code += (
        "print(json.dumps({k: [str(before[k]), str(after[k])] for k in before if str(before[k]) != "
        "str(after[k])}))"
    )
    return json.loads(printed(code))


def test_importing_every_module_changes_nothing():
    modules = [
        ".".join(path.relative_to(ROOT / "lib").with_suffix("").parts)
        for path in sorted((ROOT / "lib" / "forget_mi").rglob("*.py"))
        if path.name not in ("__init__.py", "__main__.py")
    ]
    assert differences("\n".join(f"import {name}" for name in [*PACKAGES, *modules])) == {}


def test_the_check_sees_a_change():
    assert set(differences("import gc; gc.set_threshold(50_000, 20, 20)")) == {"garbage"}
    assert set(differences("import os; os.environ['SEEN'] = '1'")) == {"environment"}
    assert set(differences("import seaborn; seaborn.set_theme()")) == {"matplotlib"}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_alone_brings_nothing_heavy(package):
    heavy = ("torch", "transformers", "pandas", "matplotlib", "scipy", "sklearn")
    assert (
        printed(f"import sys, {package}; print([m for m in {heavy} if m in sys.modules])") == "[]"
    )


@pytest.mark.parametrize("package", PACKAGES)
def test_what_a_package_exports_is_there(package):
    """Each name that __init__ lists can be imported, and is no module of the package (which would
    hide it)."""
    code = (
        f"import json, {package} as p; print(json.dumps({{n: type(getattr(p, n)).__name__ for n in "
        "p.__all__}))"
    )
    found = json.loads(printed(code)) if package != "forget_mi" else {}
    folder = ROOT / "lib" / "/".join(package.split("."))
    assert "module" not in found.values()
    assert not set(found) & {path.stem for path in folder.iterdir()}


def test_a_bad_parameter_is_named_before_torch_is_imported():
    code = (
        "import sys; from forget_mi.cli import main; main(['run', 'tiny', '--set', "
        "'training.epochs=0']); "
    )
    assert printed(code + "print('torch' in sys.modules)") == "False"
