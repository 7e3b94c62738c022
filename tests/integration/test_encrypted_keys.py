"""A key that is replaced by one with a passphrase is refused: nobody types, and OpenSSL would wait for it."""

import subprocess
import sys

import pytest
from certificates import Authority
from servers.tls import tls_server

CALL = """
import sys, threading
from pathlib import Path
from worker.backends import open_backend
from worker.config import RestSettings
from worker.errors import Unavailable
from worker.records import Meter, RowKey

url, ca_file, certificate, key, encrypted = sys.argv[1:]
tls = {"ca_file": Path(ca_file), "client_cert": Path(certificate), "client_key": Path(key)}
backend = open_backend("billing", RestSettings(url=url, retries=0, **tls), None, threads=2)
Path(key).write_bytes(Path(encrypted).read_bytes())
try:
    backend.open(Meter(), threading.Event()).at(RowKey("d" * 64, 2)).get("/plans")
except Unavailable as error:
    print(error.detail)
"""
CONNECT = """
import sys
from pathlib import Path
from worker.amqp.connection import Options

url, ca_file, certificate, key, encrypted = sys.argv[1:]
try:
    Options("name", ca_file=Path(ca_file), client_cert=Path(certificate), client_key=Path(encrypted)).tls()
except OSError as error:
    print(error)
"""


@pytest.mark.parametrize("script", [CALL, CONNECT], ids=["backend", "broker"])
def test_an_encrypted_key_is_refused_at_once_though_somebody_could_type(tmp_path, script):
    authority = Authority(tmp_path)
    pair, encrypted = authority.pair("batch"), authority.pair("encrypted")
    encrypted.encrypt()
    with tls_server(authority.pair("server"), authority.ca_file) as (url, _):
        given = [url.removesuffix("/token"), authority.ca_file, pair.certificate, pair.key, encrypted.key]
        command = [sys.executable, "-c", script, *map(str, given)]
        # Without a terminal, OpenSSL asks standard input, which is open here and says nothing.
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        ) as process:
            try:
                code = process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
            said, errors = process.stdout.read(), process.stderr.read()
    assert (code, errors) == (0, b"")
    assert said.strip()
