"""RabbitMQ, from Debian's package, on a folder, a node name and a port mapper of its own that go with it."""

import contextlib
import itertools
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pika
from pika.exceptions import AMQPError
from servers.programs import free_ports, without

PROGRAMS = Path("/usr/lib/rabbitmq/bin")
START_SECONDS = 90
STOP_SECONDS = 30
SETTLE_SECONDS = 10
USER, PASSWORD = "longshore", "made-up"
VHOSTS_AT_ONCE = 20  # a command takes longer than all of them
MAKE_VHOSTS = """
    [begin
        Name = list_to_binary("test-" ++ integer_to_list(Number)),
        rabbit_vhost:add(Name, <<"tests">>),
        rabbit_auth_backend_internal:set_permissions(
            <<"%(user)s">>, Name, <<".*">>, <<".*">>, <<".*">>, <<"tests">>)
    end || Number <- %(numbers)s].
"""


@contextlib.contextmanager
def rabbitmq(tls=None, **settings):
    """A running broker; ``settings`` are lines of rabbitmq.conf, with ``__`` for a dot.

    ``tls``: an authority's file and a pair of files of the broker's own, to speak TLS with clients of that authority.
    """
    # Not below pytest's own folder, which nobody else may enter.
    with tempfile.TemporaryDirectory(prefix="longshore-rabbitmq-", ignore_cleanup_errors=True) as folder:
        broker = RabbitMQ(Path(folder), settings, tls)
        try:
            broker.start()
            yield broker
        finally:
            broker.close()


class RabbitMQ:
    """A broker that can be killed and started again; its ports, and what it holds, stay the same.

    A quorum queue that was declared less than ``SETTLE_SECONDS`` ago does not survive a ``kill``.
    """

    def __init__(self, folder, settings, tls):
        self._folder = folder
        self._programs = _programs()
        self._numbers = itertools.count(1)
        self._server = None
        self._speaks_tls = bool(tls)
        self._vhosts = []
        self.vhost = "/"  # the one that was made last
        self._log = folder / "log.txt"
        self.port, self.tls_port, self._distribution, self._mapper_port = free_ports(4)
        self._node = f"longshore-{secrets.token_hex(4)}@localhost"
        self._configure({**self._secured(tls), **settings} if tls else settings)
        self._mapper = self._start("epmd", "-port", self._mapper_port, "-address", "127.0.0.1")

    def _secured(self, tls):
        ca_file, pair = tls
        named = {"cacertfile": ca_file, "certfile": pair.certificate, "keyfile": pair.key}
        for name, file in named.items():
            shutil.copy(file, self._folder / name)
        options = {f"ssl_options__{name}": self._folder / name for name in named}
        asking = {"ssl_options__verify": "verify_peer", "ssl_options__fail_if_no_peer_cert": "true"}
        return {"listeners__ssl__1": f"127.0.0.1:{self.tls_port}", **options, **asking}

    def _configure(self, settings):
        lines = {
            "listeners__tcp__1": f"127.0.0.1:{self.port}",
            "default_user": USER,
            "default_pass": PASSWORD,
            "vm_memory_high_watermark__absolute": "1GB",
            "disk_free_limit__absolute": "1MB",
            "log__file__level": "warning",
            **settings,
        }
        text = "".join(f"{key.replace('__', '.')} = {value}\n" for key, value in lines.items())
        (self._folder / "rabbitmq.conf").write_text(text)
        (self._folder / "enabled_plugins").write_text("[].\n")
        cookie = self._folder / ".erlang.cookie"
        cookie.write_text(secrets.token_hex(16))
        cookie.chmod(0o400)
        if os.getuid() == 0:
            for path in (self._folder, *self._folder.iterdir()):
                shutil.chown(path, "nobody", "nogroup")

    def _environment(self):
        folder = str(self._folder)
        return {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": folder,
            "ERL_EPMD_PORT": str(self._mapper_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self._node,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._distribution),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +S 2:2",
            "RABBITMQ_CONF_ENV_FILE": f"{folder}/no-such-file",
            "RABBITMQ_CONFIG_FILE": f"{folder}/rabbitmq.conf",
            "RABBITMQ_ADVANCED_CONFIG_FILE": f"{folder}/advanced.config",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/enabled_plugins",
            "RABBITMQ_MNESIA_BASE": f"{folder}/data",
            "RABBITMQ_LOG_BASE": f"{folder}/log",
            "RABBITMQ_PID_FILE": f"{folder}/pid",
            "RUNNING_UNDER_SYSTEMD": "yes",  # no shell between it and what ends it with the tests
        }

    def _start(self, program, *arguments):
        command = _as_nobody(program, *arguments)
        with self._log.open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env=self._environment(),
                start_new_session=True,
            )

    def url(self, vhost="%2F", user=USER, password=PASSWORD):
        return f"amqp://{user}:{password}@127.0.0.1:{self.port}/{vhost}"

    def tls_url(self):
        return f"amqps://{USER}:{PASSWORD}@127.0.0.1:{self.tls_port}/"

    @property
    def group(self):
        """The process group of the server and what it started."""
        return self._server.pid

    def new_vhost(self):
        """The URL of an empty virtual host: as good as a broker of its own."""
        if not self._vhosts:
            numbers = list(itertools.islice(self._numbers, VHOSTS_AT_ONCE))
            self.ctl("eval", MAKE_VHOSTS % {"user": USER, "numbers": numbers})
            self._vhosts = [f"test-{number}" for number in numbers]
        self.vhost = self._vhosts.pop(0)
        return self.url(self.vhost)

    def connect(self, url=None):
        """A blocking connection of pika's."""
        return pika.BlockingConnection(pika.URLParameters(url or self.url()))

    def ctl(self, *arguments, program="rabbitmqctl"):
        """What ``rabbitmqctl`` answers, read as JSON where the command can write it."""
        listing = ["--formatter=json"] if arguments[0].startswith("list_") else []
        command = _as_nobody(self._programs / program, "--quiet", *arguments, *listing)
        done = subprocess.run(
            command, cwd=self._folder, env=self._environment(), capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout) if listing else done.stdout

    def close_connections(self, reason="closed by a test"):
        """Close all of them, as an operator does for maintenance."""
        self.ctl("close_all_connections", "--global", reason)

    @contextlib.contextmanager
    def alarm(self):
        """No memory left: those who publish are blocked."""
        self.ctl("set_vm_memory_high_watermark", "absolute", "1")
        try:
            yield
        finally:
            self.ctl("set_vm_memory_high_watermark", "absolute", "1GB")

    def start(self):
        """Return when it takes connections."""
        self._server = self._start(self._programs / "rabbitmq-server")
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            assert self._server.poll() is None, self._log.read_text(errors="replace")
            assert time.monotonic() < deadline, self._log.read_text(errors="replace")
            time.sleep(0.1)

    def _answers(self):
        """It opens the port for TLS after the other one, and ends where it cannot."""
        try:
            self.connect().close()
            if self._speaks_tls:
                socket.create_connection(("127.0.0.1", self.tls_port)).close()
        except (AMQPError, OSError):
            return False
        return True

    def kill(self):
        """As a crash does: the server and what it started are gone at once."""
        self._end(signal.SIGKILL)

    def stop(self):
        """Shut it down, in order."""
        self._end(signal.SIGTERM)

    def _end(self, number):
        if self._server:
            for each in (number, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._server.pid, each)
                self._server.wait(STOP_SECONDS)
            self._server = None

    def close(self):
        """End all of it; nothing of it is wanted any more."""
        self.kill()
        self._mapper.kill()
        self._mapper.wait(STOP_SECONDS)


def _programs():
    if not (PROGRAMS / "rabbitmq-server").exists():
        without("RabbitMQ's server (Debian's rabbitmq-server) not installed")
    return PROGRAMS


def _as_nobody(*command):
    """It does not run as root; what is started here ends with the tests, however they end."""
    someone_else = ["--reuid=nobody", "--regid=nogroup", "--clear-groups"] if os.getuid() == 0 else []
    return ["setpriv", *someone_else, "--pdeathsig=KILL", *map(str, command)]
