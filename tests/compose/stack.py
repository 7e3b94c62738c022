"""What docker-compose.yml brings up, as the walkthrough handles it."""

import contextlib
import json
import time

from documentation import ROOT
from servers.programs import need

PROJECT = "longshore-walkthrough"
UP_SECONDS = 900
SECONDS = 120
FOLDER = "/srv/longshore"


class Stack:
    """The services of the compose file, with the test's own settings over them."""

    def __init__(self, engine, *files):
        self.engine = engine
        plugin = engine.docker("compose", "version").returncode == 0
        self._program = "docker compose" if plugin else "docker-compose"
        if not plugin:
            need("docker-compose")
        self._command = [*self._program.split(), "--project-name", PROJECT, "--project-directory", ROOT]
        for file in (ROOT / "docker-compose.yml", *files):
            self._command += ["--file", file]

    @contextlib.contextmanager
    def up(self):
        try:
            self.compose("up", "--build", "--detach", timeout=UP_SECONDS)
            yield self
        finally:
            self.compose("down", "--volumes", "--remove-orphans")

    def compose(self, *arguments, timeout=SECONDS, **options):
        """What a command of docker compose says; it has to succeed."""
        done = self.engine.run(*self._command, *arguments, cwd=ROOT, timeout=timeout, **options)
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def as_written(self, command):
        """What becomes of a command of the documentation, in a project of its own."""
        command = command.replace("docker compose", f"{self._program} --project-name {PROJECT}-page")
        return self.engine.run("bash", "-c", command, cwd=ROOT, timeout=UP_SECONDS)

    def docker(self, *arguments, **options):
        done = self.engine.docker(*arguments, **{"timeout": SECONDS, **options})
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def workers(self):
        """The workers' containers that run."""
        labels = [f"label=com.docker.compose.{name}" for name in (f"project={PROJECT}", "service=worker")]
        return self.docker("ps", "--quiet", "--filter", labels[0], "--filter", labels[1]).split()

    def log(self, container):
        done = self.engine.docker("logs", container)
        return done.stdout + done.stderr

    def inside(self, *command, **options):
        """What a command says in a worker's container."""
        return self.docker("exec", "--interactive", self.workers()[0], *command, **options)

    def drop(self, path, name=""):
        self.docker("cp", path, f"{self.workers()[0]}:{FOLDER}/inbox/{name or path.name}")

    def delivery(self, source):
        """What the ledger says of a file; None as long as it has not heard of it."""
        deliveries = json.loads(self.inside("longshore", "status", "--json"))["deliveries"]
        return next((each for each in deliveries if each["source"] == source), None)

    def settled(self, source):
        """The delivery of a file, when it is done or has failed."""
        return self.wait(lambda: (each := self.delivery(source)) and each["state"] in ("done", "failed") and each)

    def manifest(self, delivery):
        name = f"outbox/*-{delivery['delivery']}.manifest.json"
        return json.loads(self.inside("sh", "-c", f"cat {name}"))

    def wait(self, condition):
        """What the condition says as soon as it is true."""
        deadline = time.monotonic() + SECONDS
        while not (value := condition()):
            assert time.monotonic() < deadline, self.compose("logs", "--tail=50")
            time.sleep(0.5)
        return value
