"""PostgreSQL, from Debian's package, on a folder of its own that goes with it."""

import contextlib
import itertools
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg
from servers.programs import free_ports, without

USER = "longshore"
START_SECONDS = 30
SETTINGS = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off"}


@contextlib.contextmanager
def postgresql():
    """A running server."""
    # Not below pytest's own folder, which nobody else may enter.
    with tempfile.TemporaryDirectory(prefix="longshore-postgresql-") as folder:
        server = PostgreSQL(Path(folder), _programs())
        server.start()
        try:
            yield server
        finally:
            server.stop()


class PostgreSQL:
    """A server that can be stopped and started again; its port, and what it holds, stay the same."""

    def __init__(self, folder, programs):
        self._folder = folder
        self._programs = programs
        self._process = None
        self._numbers = itertools.count(1)
        self._log = folder / "log.txt"
        (self.port,) = free_ports(1)
        self.password = secrets.token_hex(8)
        self._initialize()

    def _initialize(self):
        file = self._folder / "password"
        file.write_text(self.password)
        if os.getuid() == 0:
            for path in (self._folder, file):
                shutil.chown(path, "nobody", "nogroup")
        options = ["-A", "scram-sha-256", "-U", USER, "--pwfile", file, "-E", "UTF8", "--locale=C", "--no-sync"]
        command = _as_nobody(self._programs / "initdb", "-D", self._folder / "data", *options)
        subprocess.run(command, check=True, capture_output=True, cwd=self._folder)

    def url(self, database="postgres"):
        return f"postgresql+psycopg://{USER}:{self.password}@127.0.0.1:{self.port}/{database}"

    def new_database(self, options=""):
        """The URL of an empty database; ``options`` are SQL."""
        name = self._create("DATABASE", options)
        return self.url(name)

    def new_schema(self):
        """The URL of an empty schema: as good as a database, and made in a tenth of the time."""
        return f"{self.url()}?options=-csearch_path%3D{self._create('SCHEMA')}"

    def _create(self, kind, options=""):
        name = f"ledger_{next(self._numbers)}"
        with self.connect() as connection:
            connection.execute(f"CREATE {kind} {name} {options}")
        return name

    def connect(self, url=None):
        """A connection that commits each statement."""
        return psycopg.connect((url or self.url()).replace("+psycopg", ""), autocommit=True)

    def cut_connections(self):
        """End all sessions, whatever they are doing; returns how many there were."""
        with self.connect() as connection:
            ended = connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            )
            return len(ended.fetchall())

    def start(self):
        """Return when it answers."""
        command = [self._programs / "postgres", "-D", self._folder / "data", "-p", self.port]
        for name, value in SETTINGS.items():
            command += ["-c", f"{name}={value}"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(_as_nobody(*command), stdout=log, stderr=log, cwd=self._folder)
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.05)

    def _answers(self):
        try:
            self.connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self):
        """End it with all its sessions."""
        if self._process:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(START_SECONDS)
            self._process = None


def _programs():
    """The folder of the newest version that Debian installed, else the one that PATH leads to."""
    versions = sorted(Path("/usr/lib/postgresql").glob("[0-9]*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("postgres")
    if not versions and not on_path:
        without("PostgreSQL's server not installed")
    return versions[-1].parent if versions else Path(on_path).resolve().parent


def _as_nobody(*command):
    """Neither program runs as root; the server ends with the tests, however they end."""
    someone_else = ["--reuid=nobody", "--regid=nogroup", "--clear-groups"] if os.getuid() == 0 else []
    return ["setpriv", *someone_else, "--pdeathsig=INT", *map(str, command)]
