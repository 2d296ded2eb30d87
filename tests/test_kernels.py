"""Forked kernels: what an ordinary kernel would give, and nothing left running."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import small_notebook

from forget_mi import kernels
from forget_mi.runs import chain as pipeline
from forget_mi.runs.chain import NotebookError, execute
from forget_mi.runs.notebooks import clean_notebook

SHOW = "import json, os; json.dump({}, open({!r}, 'w'))"


def seen(folder: Path, name: str, expression: str) -> dict:
    """What a kernel says of itself: the value of an expression that makes a dict."""
    told = folder / f"{name}.json"
    source = folder / f"{name}.ipynb"
    source.write_text(small_notebook("import os, sys", SHOW.format(expression, str(told))))
    execute(source, folder / f"{name}.executed.ipynb", {}, progress=False)
    return json.loads(told.read_text())


def runs(pid: int) -> bool:
    """Whether a process is there, and not only its record."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(holds, seconds: float = 60) -> bool:
    until = time.monotonic() + seconds
    while not holds() and time.monotonic() < until:
        time.sleep(0.1)
    return holds()


forks = pytest.mark.skipif(
    sys.platform != "linux" or torch.cuda.is_available(), reason="kernels are forked on Linux without CUDA"
)


@forks
def test_kernels_are_forks_of_one_process_that_has_imported_torch(tmp_path, monkeypatch):
    what = (
        "{'parent': os.getppid(), 'pid': os.getpid(), 'torch': 'torch' in sys.modules, "
        "'v': os.environ.get('FORGET_MI_PROGRESS')}"
    )
    monkeypatch.setenv("FORGET_MI_PROGRESS", "0")
    first = seen(tmp_path, "first", what)
    monkeypatch.setenv("FORGET_MI_PROGRESS", "1")
    second = seen(tmp_path, "second", what)
    assert first["torch"]
    assert first["parent"] == second["parent"] != os.getpid()
    assert first["pid"] != second["pid"]
    assert (first["v"], second["v"]) == ("0", "1")
    assert not any(runs(one["pid"]) for one in (first, second))


@forks
def test_an_environment_that_libraries_read_at_import_has_a_process_of_its_own(tmp_path, monkeypatch):
    what = "{'parent': os.getppid(), 'threads': __import__('torch').get_num_threads()}"
    found = {}
    for threads in (1, 2):
        monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
        found[threads] = seen(tmp_path, f"with_{threads}", what)
    assert {threads: one["threads"] for threads, one in found.items()} == {1: 1, 2: 2}
    assert found[1]["parent"] != found[2]["parent"]


@forks
def test_a_forked_kernel_is_as_an_ordinary_one(tmp_path, monkeypatch):
    source = tmp_path / "n.ipynb"
    source.write_text(
        small_notebook(
            "import os, subprocess, sys\nprint(os.getcwd(), __name__, sys.path, sys.stdin.read())",
            "print('said'); print('warned', file=sys.stderr); os.system('echo from a child')",
            # A child's exit code, and a figure that nobody has to ask for.
            "subprocess.run([sys.executable, '-c', 'raise SystemExit(3)']).returncode",
            "import matplotlib.pyplot as plt\nplt.plot([0, 1]);",
            "import torch; torch.manual_seed(0); torch.randn(2)",
            "from concurrent.futures import ProcessPoolExecutor\nimport math\n"
            "with ProcessPoolExecutor(2) as pool: print(list(pool.map(math.sqrt, [4, 9])))",
            f"print('ordinary' if os.getppid() == {os.getpid()} else 'forked')",
        )
    )
    found = {}
    for kind in ("forked", "ordinary"):
        execute(source, tmp_path / f"{kind}.ipynb", {}, progress=False)
        cells = json.loads(clean_notebook((tmp_path / f"{kind}.ipynb").read_text()))["cells"]
        found[kind] = [cell["outputs"] for cell in cells]
        monkeypatch.setattr(kernels, "can_fork", lambda cmd: False)
    kinds = [outputs.pop()[0]["text"] for outputs in found.values()]
    assert kinds == [["forked\n"], ["ordinary\n"]]
    assert found["forked"] == found["ordinary"]
    assert found["forked"][2][0]["data"]["text/plain"] == ["3"]
    assert "image/png" in found["forked"][3][0]["data"]


@forks
def test_other_interpreters_and_cards_are_not_forked(monkeypatch):
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "file"]
    assert kernels.can_fork(command)
    assert not kernels.can_fork(["/usr/bin/python3", *command[1:]])
    assert not kernels.can_fork([sys.executable, "-m", "another_kernel", "-f", "file"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert not kernels.can_fork(command)


def test_a_kernel_that_dies_is_said_to_have_died(tmp_path):
    source = tmp_path / "n.ipynb"
    source.write_text(small_notebook("import os; os.kill(os.getpid(), 9)"))
    with pytest.raises(NotebookError, match=r"^n: its kernel died"):
        execute(source, tmp_path / "executed.ipynb", {}, progress=False)


@forks
def test_a_warm_process_that_died_is_started_again(tmp_path):
    first = seen(tmp_path, "first", "{'parent': os.getppid()}")["parent"]
    os.kill(first, signal.SIGKILL)
    assert wait_until(lambda: not runs(first))
    assert seen(tmp_path, "second", "{'parent': os.getppid()}")["parent"] != first


def test_a_warm_process_that_cannot_import_is_named(monkeypatch):
    with pytest.raises(RuntimeError, match=r"kernels are forked from ended with code 1"):
        kernels.WarmProcess({**os.environ, "MPLBACKEND": "none such"}).fork([], "/", {})


def test_when_one_of_two_stops_the_other_is_stopped(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    told = tmp_path / "pid"
    waits = f"import os, pathlib, time; pathlib.Path({str(told)!r}).write_text(str(os.getpid())); time.sleep(600)"
    fails = f"import os, time\nwhile not os.path.exists({str(told)!r}): time.sleep(0.1)\nraise OSError"
    source = small_notebook("code = ''", "exec(code)", tag="parameters")
    (tmp_path / "notebooks" / "n.ipynb").write_text(source)
    monkeypatch.setattr(pipeline, "ROOT", tmp_path)
    jobs = [(tmp_path / f"{i}.ipynb", {"code": code}) for i, code in enumerate((waits, fails))]
    started = time.monotonic()
    with pytest.raises(NotebookError, match="OSError"):
        pipeline._run_together("n", jobs, 2, progress=False)
    assert time.monotonic() - started < 300  # the other one sleeps for 600
    assert wait_until(lambda: not runs(int(told.read_text())))


def test_no_kernel_outlives_a_chain_that_is_killed(tmp_path):
    told = tmp_path / "pid"
    (tmp_path / "n.ipynb").write_text(
        small_notebook(
            f"import os, time; open({str(tmp_path / 'part')!r}, 'w').write(str(os.getpid()))\n"
            f"os.rename({str(tmp_path / 'part')!r}, {str(told)!r}); time.sleep(600)"
        )
    )
    code = f"from pathlib import Path; from forget_mi.pipeline import execute; f = Path({str(tmp_path)!r}); "
    chain = subprocess.Popen([sys.executable, "-c", code + "execute(f / 'n.ipynb', f / 'x.ipynb', {}, False)"])
    assert wait_until(told.exists, 120)
    kernel = int(told.read_text())
    assert runs(kernel)
    chain.kill()
    chain.wait()
    assert wait_until(lambda: not runs(kernel))
