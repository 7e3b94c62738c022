"""A server that answers with exactly the bytes that a test wants, whether they are HTTP or not."""

import re
import socket
import threading
import time
from contextlib import contextmanager, suppress


@contextmanager
def raw_server(respond):
    """Answers every connection with ``respond(connection)``; yields its origin and the list of requests it got."""
    seen, listener = [], socket.create_server(("127.0.0.1", 0))

    def serve():
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, suppress(OSError):
                    connection.settimeout(5)
                    seen.append(_request(connection))
                    respond(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", seen
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


def _request(connection):
    received = b""
    while b"\r\n\r\n" not in received:
        received += _some(connection)
    head, _, body = received.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    while length and len(body) < int(length[1]):
        body += _some(connection)
    return head + b"\r\n\r\n" + body


def _some(connection):
    if not (piece := connection.recv(65536)):
        raise ConnectionError
    return piece


def answering(head, *pieces, pause=0.0):
    """The head's lines, then the pieces of the body, each after a pause in seconds."""

    def respond(connection):
        connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n")
        for piece in pieces:
            time.sleep(pause)
            connection.sendall(piece)

    return respond
