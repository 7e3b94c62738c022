"""What docker-compose.yml brings up, as the walkthrough handles it."""

import contextlib
import json
import time

from documentation import ROOT
from servers.programs import free_ports, need

PROJECT = "longshore-walkthrough"
PORT = "LONGSHORE_RABBITMQ_PORT"
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
        port, self._page_port = free_ports(2)
        self._command = [
            "env",
            f"{PORT}={port}",
            *self._program.split(),
            "--project-name",
            PROJECT,
            "--project-directory",
            ROOT,
        ]
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
        return self.engine.run("env", f"{PORT}={self._page_port}", "bash", "-c", command, cwd=ROOT, timeout=UP_SECONDS)

    def docker(self, *arguments, **options):
        done = self.engine.docker(*arguments, **{"timeout": SECONDS, **options})
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def workers(self):
        """The workers' containers that run."""
        labels = (f"project={PROJECT}", "service=worker", "oneoff=False")
        filters = [f"--filter=label=com.docker.compose.{label}" for label in labels]
        return self.docker("ps", "--quiet", *filters).split()

    @contextlib.contextmanager
    def asking(self, container, body, count):
        """An asker in a container, which sends a message ``count`` times; its output is the replies."""
        asker = ("longshore", "publish", "clients.summary", "-", "--wait", "--json", "--count", count)
        with self.engine.begin("docker", "exec", "--interactive", container, *asker) as process:
            process.stdin.write(body)
            process.stdin.close()
            try:
                yield process
            finally:
                process.kill()

    def scaled(self, count):
        """So many workers; returns their containers when they all work."""
        self.compose("up", "--detach", "--no-build", "--scale", f"worker={count}")
        self.wait(lambda: sum("worker started" in self.log(each) for each in self.workers()) == count)
        return self.workers()

    def log(self, container):
        """What a container has said since it was started last."""
        start = self.docker("inspect", "--format", "{{.State.StartedAt}}", container).strip()
        done = self.engine.docker("logs", "--since", start, container)
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
