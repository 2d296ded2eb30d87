"""Kernels for the chain that need not import torch: forked from a process that has done so.

To import torch, transformers and their like takes longer than most of what a notebook does beside training, and the
chain's notebooks all need them. So the first one starts a warm process (`python -m forget_mi.kernels`), which imports
them and waits; a kernel is then a fork of it. Jupyter knows such ways to start a kernel as provisioners; this one is
registered in pyproject.toml, and `pipeline.execute` asks for it. Whoever opens a notebook in JupyterLab has an ordinary
kernel.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from contextlib import suppress
from typing import Any, ClassVar

from jupyter_client.provisioning import LocalProvisioner

NAME = "forget-mi-forked"


# What of the environment changes from notebook to notebook; it is read when it is used, and not at an import.
READ_LATE = ("FORGET_MI_", "JPY_", "PYTEST_")


# What notebooks import, from the heaviest on.
IMPORTED = (
    "transformers.models.bert.modeling_bert",
    "seaborn",
    "sklearn.linear_model",
    "sklearn.model_selection",
    "sklearn.svm",
    "ipykernel.kernelapp",
    "forget_mi.runs.run",
    "forget_mi.studies.sweep",
    "forget_mi.plots.audit",
)


Environment = dict[str, str]


class ForkedProvisioner(LocalProvisioner):
    """Forks the kernel from the warm process, where that can be done; else starts it as Jupyter does.

    CUDA cannot be used in a fork of a process that has asked for its cards, as the libraries may when they are
    imported; and systems other than Linux do not stand a fork of what torch loads.
    """

    started: ClassVar[weakref.WeakSet[ForkedProvisioner]] = weakref.WeakSet()

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        """Start the kernel that Jupyter's command describes. Raises RuntimeError where the warm process died."""
        self.started.add(self)
        if not can_fork(cmd):
            return await super().launch_kernel(cmd, **kwargs)
        self.cwd = str(kwargs.get("cwd") or os.getcwd())
        argv = cmd[cmd.index("ipykernel_launcher") + 1 :]
        self.process = Forked(warm_process(kwargs["env"]).fork(argv, self.cwd, kwargs["env"]))
        # The kernel makes a group of its own, which also holds what it starts; a signal sent before goes to it alone.
        self.pid = self.pgid = self.process.pid
        return self.connection_info

    @classmethod
    def stop_all(cls) -> None:
        """Kill every kernel that runs, and what it started: whoever waits for one sees it dead."""
        for provisioner in list(cls.started):
            process = provisioner.process
            if process and process.poll() is None:
                with suppress(ProcessLookupError):  # it has not made its group yet
                    os.killpg(provisioner.pgid, signal.SIGKILL)
                with suppress(ProcessLookupError):
                    process.kill()


def can_fork(cmd: list[str]) -> bool:
    """Whether a kernel that Jupyter would start by this command can be a fork instead."""
    import torch

    ours = cmd[0] == sys.executable and "ipykernel_launcher" in cmd
    return ours and sys.platform == "linux" and not torch.cuda.is_available()


class Forked:
    """A forked kernel, as far as Jupyter asks for a `subprocess.Popen`. It is no child of this process but of the warm
    one, so that its exit code is not known here: 0 is said of all."""

    stdin = stdout = stderr = None

    def __init__(self, pid: int):
        self.pid = pid

    def poll(self) -> int | None:
        """None while it runs."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return 0
        return None

    def wait(self) -> int:
        """Return when it has ended."""
        while self.poll() is None:
            time.sleep(0.02)
        return 0

    def send_signal(self, signum: int) -> None:
        """Raises ProcessLookupError where it has ended."""
        os.kill(self.pid, signum)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


class WarmProcess:
    """The warm process, seen from here; it ends when this one does, and its forks with it."""

    def __init__(self, environment: Environment):
        answers, its_end = os.pipe()  # its standard output is ours, for the kernels
        self.process = subprocess.Popen(
            [sys.executable, "-m", "forget_mi.kernels", str(its_end)],
            stdin=subprocess.PIPE,
            pass_fds=[its_end],
            env=environment,
            text=True,
            start_new_session=True,  # an interrupt from the terminal is for whoever waits for the notebooks
        )
        os.close(its_end)
        self.answers = os.fdopen(answers)
        self.lock = threading.Lock()

    def fork(self, argv: list[str], cwd: str, environment: Environment) -> int:
        """Start a kernel; its process id. Raises RuntimeError where the warm process has died."""
        with self.lock:
            try:
                print(json.dumps({"argv": argv, "cwd": cwd, "environment": environment}), file=self.process.stdin)
                self.process.stdin.flush()
                pid = self.answers.readline()
            except BrokenPipeError:
                pid = ""
        if not pid:
            raise RuntimeError(f"the process that kernels are forked from ended with code {self.process.wait()}")
        return int(pid)


_warm: dict[frozenset, WarmProcess] = {}


_warm_lock = threading.Lock()


def warm_process(environment: Environment) -> WarmProcess:
    """The warm process of an environment, started where there is none: libraries read at their import how many threads
    to take and which instructions to use, so that each environment has its own."""
    key = frozenset((name, value) for name, value in environment.items() if not name.startswith(READ_LATE))
    with _warm_lock:
        if key not in _warm or _warm[key].process.poll() is not None:
            _warm[key] = WarmProcess(environment)
        return _warm[key]


def main() -> None:
    """The warm process: imports, then forks a kernel for each line it reads, until there are none to come."""
    del sys.path[0]  # the folder that this was started in: no place to find modules
    # Before a library looks: figures are shown in the notebook, as a kernel asks when it starts.
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    answers = os.fdopen(int(sys.argv.pop()), "w")
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()  # who looks for garbage in a fork need not look here, nor copy the pages it touches
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # whoever ended is gone
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            answers.close()
            run_kernel(**json.loads(line))
            return
        print(pid, file=answers, flush=True)


def run_kernel(argv: list[str], cwd: str, environment: Environment) -> None:
    """In a fork: be a kernel until it is shut down."""
    from ipykernel.kernelapp import launch_new_instance

    parent = os.getppid()
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[1:] = argv
    # It ends when the warm process does.
    launch_new_instance(argv=[*argv, f"--IPKernelApp.parent_handle={parent}"])


if __name__ == "__main__":
    main()
