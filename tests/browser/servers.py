"""Servers that are started, and asked until they answer."""

import contextlib
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pytest


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def server(command: list[str], ask: str, log, cwd):
    """A server process, once the address `ask` answers; stopped at the end."""
    environment = {**os.environ, "JUPYTER_PREFER_ENV_PATH": "1", "FORGET_MI_PROGRESS": "0"}
    with open(log, "w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env=environment, cwd=cwd)
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(ask, timeout=2)
                break
            except urllib.error.HTTPError:  # it answers, if only that there is nothing
                break
            except OSError:
                time.sleep(0.5)
        else:
            pytest.fail(log.read_text()[-3000:])
        yield process
    finally:
        process.terminate()
        process.wait(20)
