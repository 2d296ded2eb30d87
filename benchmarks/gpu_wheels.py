"""`make gpu-wheels`: fetch, into .wheels/, what a machine with PyTorch and the usual scientific
packages lacks to run `make gpu` without a network: for Python 3.12 on x86-64 Linux.

The versions are those that are installed here; what they need is read from their metadata.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

WHEELS = Path(__file__).parent.parent / ".wheels"
ROOTS = ("pydantic", "papermill", "ipykernel", "filelock", "optuna", "nbval", "hypothesis")
# Large, or on any machine that has a card and PyTorch.
THERE = (
    "torch", "torchvision", "numpy", "scipy", "pandas", "scikit-learn", "matplotlib", "pillow",
    "transformers", "tokenizers", "accelerate", "safetensors", "huggingface-hub", "joblib",
    "sqlalchemy", "alembic",
)  # fmt: skip
TAGS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
LARGEST_MB = 40


def main() -> None:
    """Fetch them; print how many and how large."""
    shutil.rmtree(WHEELS, ignore_errors=True)
    platform = [part for tag in TAGS for part in ("--platform", tag)]
    names = sorted(needed(ROOTS, set(THERE)))
    pins = [f"{name}=={distribution(name).version}" for name in names]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", WHEELS]
    command += ["--only-binary=:all:", "--python-version", "3.12", "--implementation", "cp"]
    subprocess.run([*command, *platform, *pins], check=True)
    size = sum(path.stat().st_size for path in WHEELS.iterdir()) / 2**20
    print(f"{len(pins)} packages, {size:.1f} MB, in {WHEELS}")
    if size > LARGEST_MB:
        raise SystemExit(f"more than {LARGEST_MB} MB: put what any such machine has into THERE")


def needed(names: tuple[str, ...], left_out: set[str]) -> set[str]:
    """The packages and, in turn, what they need, as far as it is installed here."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found or name in left_out:
            continue
        try:
            requirements = distribution(name).requires or []
        except PackageNotFoundError:  # for another platform or Python
            continue
        found.add(name)
        waiting += [re.split(r"[^\w.-]", r)[0] for r in requirements if "extra ==" not in r]
    return found


if __name__ == "__main__":
    main()
