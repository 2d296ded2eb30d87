"""An environment for each peer: its packages on top of this project's own, without touching it."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[2]


def python_of(package: str, alone: tuple[str, ...], whole: tuple[str, ...] = ()) -> Path:
    """The Python of a peer's environment, made the first time, in .peers/<package>.

    alone: pinned packages, without what they ask for; whole: with it. torch and what we need it
    takes from the environment that runs this, so a peer's own pins don't decide: the row says what
    was passed over. Raises SystemExit with pip's last line where a package or version can't be had.
    """
    folder = ROOT / ".peers" / package
    python, complete = folder / "bin" / "python", folder / "complete"
    pins = "\n".join((*alone, "", *whole))
    if not complete.is_file() or complete.read_text() != pins:
        subprocess.run(
            [sys.executable, "-m", "venv", "--clear", "--without-pip", folder], check=True
        )
        for names, how in ((alone, ["--no-deps"]), (whole, [])):
            command = [sys.executable, "-m", "pip", "--python", python, "install", *how, *names]
            found = subprocess.run(command, capture_output=True, text=True) if names else None
            if found and found.returncode:
                reason = found.stderr.strip().splitlines()[-1]
                raise SystemExit(f"{package}: can't be installed: {reason}")
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        site = folder / "lib" / version / "site-packages"
        paths = (sysconfig.get_paths()["purelib"], ROOT / "lib")
        (site / "forget_mi.pth").write_text("".join(f"{path}\n" for path in paths))
        complete.write_text(pins)
    return python
