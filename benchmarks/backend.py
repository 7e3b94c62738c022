"""A REST and FHIR backend that is not the bottleneck: asyncio, no framework, every answer after a fixed latency.

Run as a program it prints its port and serves until its standard input closes.
"""

from __future__ import annotations

import asyncio
import sys
from urllib.parse import parse_qs, unquote, urlsplit

import orjson


def answer(target: str) -> bytes:
    """The JSON for a GET."""
    url = urlsplit(target)
    query = parse_qs(url.query)
    if url.path == "/api/plans":
        return orjson.dumps({"client_id": query["client_id"][0], "name": "basic", "active": True})
    if url.path == "/fhir/Practitioner":
        ids = [identity for value in query["_id"] for identity in unquote(value).split(",")]
        entries = [{"resource": practitioner(identity), "search": {"mode": "match"}} for identity in ids]
        link = [{"relation": "self", "url": target}]
        return orjson.dumps({"resourceType": "Bundle", "type": "searchset", "link": link, "entry": entries})
    return orjson.dumps(practitioner(url.path.rsplit("/", 1)[1]))


def practitioner(identity: str) -> dict[str, object]:
    """A resource of about the size of a real one."""
    return {
        "resourceType": "Practitioner",
        "id": identity,
        "meta": {"profile": ["http://hl7.org/fhir/us/core/StructureDefinition/us-core-practitioner"]},
        "identifier": [{"system": "http://hl7.org/fhir/sid/us-npi", "value": "9999992198"}],
        "active": True,
        "name": [{"family": "Bergstrom287", "given": ["Randy380"], "prefix": ["Dr."], "text": "Dr. Bergstrom287"}],
        "address": [{"line": ["8929 PARALLEL PARKWAY"], "city": "LEAWOOD", "state": "KS", "country": "US"}],
        "gender": "female",
    }


class Backend(asyncio.Protocol):
    """One connection: pipelining is not expected, keep-alive is."""

    def __init__(self, latency: float) -> None:
        self.latency = latency
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Called by asyncio; a request without a body ends with an empty line."""
        self.buffer += data
        while b"\r\n\r\n" in self.buffer:
            head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
            target = head.split(b" ", 2)[1].decode()
            asyncio.get_running_loop().call_later(self.latency, self.send, target)

    def send(self, target: str) -> None:
        """Answer."""
        body = answer(target)
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        self.transport.write(head + body)  # type: ignore[attr-defined]


async def main(latency: float) -> None:
    """Serve until standard input closes."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Backend(latency), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1])))
