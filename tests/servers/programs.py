"""Programs that tests talk to: kept in a cache, started on loopback, and stopped with the tests."""

import contextlib
import ctypes
import fcntl
import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "longshore-tests"
START_SECONDS = 240
STOP_SECONDS = 30
LOG_TAIL = 2000
LENT_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")

_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_libc = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def without(reason):
    """Skip, but fail where everything has to be there."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def need(*programs):
    missing = [program for program in programs if not shutil.which(program)]
    if missing:
        without(f"{' and '.join(missing)} not installed")


def installed(name, install):
    """The folder of that name in the cache; where it is missing, ``install`` fills it, once and whole."""
    CACHE.mkdir(parents=True, exist_ok=True)
    folder = CACHE / name
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
                install(Path(scratch))
                (Path(scratch) / name).rename(folder)
    return folder


def run(*command, cwd=None, env=None):
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=env, capture_output=True, text=True)
    if done.returncode:
        without(f"{command[0]} failed: {(done.stdout + done.stderr)[-LOG_TAIL:]}")


def free_ports(count):
    """Ports that nobody has, below those that the system lends to connections.

    A server that is stopped and started again would else find one of its ports in use by somebody's connection.
    """
    below = int(LENT_PORTS.read_text().split()[0])
    with contextlib.ExitStack() as opened:
        candidates = (random.randrange(below // 2, below) for _ in itertools.count())
        found = (port for port in candidates if _bound(port, opened))
        return list(itertools.islice(found, count))


def _bound(port, opened):
    try:
        opened.enter_context(socket.socket()).bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


@contextlib.contextmanager
def running(*command, cwd, ready):
    """A program, from when ``ready`` (an address) answers with JSON; yields that."""
    log = cwd / "log.txt"
    with log.open("wb") as output:
        program = subprocess.Popen(
            list(map(str, command)),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            preexec_fn=_die_with_us,
        )
    try:
        yield _wait(program, ready, log)
    finally:
        program.terminate()
        try:
            program.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            program.kill()
            program.wait()


def _die_with_us():
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait(program, ready, log):
    deadline = time.monotonic() + START_SECONDS
    while program.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            return ask(ready)
        time.sleep(0.2)
    pytest.fail(f"{program.args[0]} did not start: {log.read_text(errors='replace')[-LOG_TAIL:]}")


def ask(url, form=None, headers=None):
    """The JSON at an address; raises ``OSError``."""
    with _direct.open(urllib.request.Request(url, form, headers or {}), timeout=30) as answer:
        return json.loads(answer.read())
