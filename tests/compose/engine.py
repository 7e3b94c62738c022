"""The Docker engine that the walkthrough uses: the one that answers, else one of its own, which goes with it."""

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from servers.programs import without

START_SECONDS = 60
STOP_SECONDS = 120
FREE_BYTES = 6 * 2**30
FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")


class Engine:
    """What ``docker`` talks to; ``host`` is its address, "" for the one that it finds by itself."""

    def __init__(self, host=""):
        # Its own builder is enough for this Dockerfile, and is there without a plug-in.
        self._environment = {**os.environ, "DOCKER_BUILDKIT": "0", "COMPOSE_DOCKER_CLI_BUILD": "0"}
        if host:
            self._environment["DOCKER_HOST"] = host

    def docker(self, *arguments, **options):
        return self.run("docker", *arguments, **options)

    def run(self, *command, **options):
        """The finished process, whose output is text; it is for the caller to look at the exit code."""
        return subprocess.run(
            list(map(str, command)), env=self._environment, **{"capture_output": True, "text": True, **options}
        )

    def begin(self, *command, **options):
        """The process, with pipes for its text."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        return subprocess.Popen(list(map(str, command)), env=self._environment, **pipes, **options)

    def answers(self):
        return self.docker("info", timeout=START_SECONDS).returncode == 0


@contextlib.contextmanager
def engine():
    if not shutil.which("docker"):
        without("docker not installed")
    found = Engine()
    if found.answers():
        yield found
        return
    with _our_own() as made:
        yield made


@contextlib.contextmanager
def _our_own():
    if os.getuid() != 0 or not shutil.which("dockerd"):
        without("no Docker engine answers, and only root can start one, with dockerd installed")
    with tempfile.TemporaryDirectory(prefix="longshore-docker-") as name, _network_as_it_was():
        folder = Path(name)
        if shutil.disk_usage(folder).free < FREE_BYTES:
            without(f"less than {FREE_BYTES // 2**30} GiB free in {folder.parent} for a Docker engine's data")
        host = f"unix://{folder}/docker.sock"
        command = ["dockerd", "--host", host, "--data-root", folder / "data", "--exec-root", folder / "run"]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [*command, "--pidfile", folder / "docker.pid"], stdout=log, stderr=log, start_new_session=True
            )
        try:
            yield _started(Engine(host), process, folder / "log")
        finally:
            process.terminate()
            process.wait(STOP_SECONDS)


def _started(engine, process, log):
    deadline = time.monotonic() + START_SECONDS
    while not engine.answers():
        if process.poll() is not None or time.monotonic() > deadline:
            without(f"dockerd does not start: {log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.5)
    return engine


@contextlib.contextmanager
def _network_as_it_was():
    """An engine leaves its bridge, its rules and forwarding behind; no other engine is there to need them."""
    before = {table: _iptables("save", "-t", table).stdout for table in ("filter", "nat")}
    forwarding = FORWARDING.read_text()
    try:
        yield
    finally:
        subprocess.run(["ip", "link", "delete", "docker0"], capture_output=True)
        for rules in before.values():
            _iptables("restore", input=rules)
        FORWARDING.write_text(forwarding)


def _iptables(verb, *arguments, **options):
    return subprocess.run([f"iptables-{verb}", *arguments], capture_output=True, text=True, check=True, **options)
