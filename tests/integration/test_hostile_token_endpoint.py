"""Every answer that a token endpoint may give leads to one of three decisions: go on, wait, or fail with a reason.

Each is sent as bytes over a real socket, and none may make the worker say what it sent.
"""

import gzip
import json
import re
import time
import zlib

import pytest
from servers.raw import answering, raw_server
from structlog.testing import capture_logs

from worker.auth import MemoryTokenStore, open_credential
from worker.config import ClientCredentialsSettings
from worker.errors import Unauthorized, Unavailable
from worker.records import Meter

SECRET = "canary-secret"
TIMEOUT = 0.4
GOOD = {"access_token": "canary-token", "token_type": "Bearer", "expires_in": 600}
DEFAULT_LIFETIME, DAY = 300, 86_400


def body(content, *lines, status="200 OK"):
    """An answer with a body of bytes, or of what is JSON for a value."""
    content = content if isinstance(content, bytes) else json.dumps(content).encode()
    return answering("\n".join([f"HTTP/1.1 {status}", *lines, f"Content-Length: {len(content)}"]), content)


def good(**members):
    return body(GOOD | members)


def expiring(text):
    """A good answer whose ``expires_in`` is this JSON, to the letter."""
    return body(f'{{"access_token": "canary-token", "token_type": "Bearer", "expires_in": {text}}}'.encode())


def refusing(status, code, *lines):
    return body({"error": code, "error_description": f"you sent {SECRET}"}, *lines, status=status)


def status_only(status, *lines):
    return body(b"", *lines, status=status)


def chunked(*pieces):
    return answering("HTTP/1.1 200 OK\nTransfer-Encoding: chunked", *pieces)


def unframed(*pieces, pause=0.0, lines=()):
    return answering("\n".join(["HTTP/1.1 200 OK", *lines, "Connection: close"]), *pieces, pause=pause)


TEXT = json.dumps(GOOD).encode()
CHUNK = b"%x\r\n%b\r\n" % (len(TEXT), TEXT)

GO_ON = {
    "plain": (good(), 600),
    "in chunks": (chunked(CHUNK, b"0\r\n\r\n"), 600),
    "in chunks with extensions and trailers": (chunked(CHUNK.replace(b"\r", b";a=b\r", 1), b"0\r\nX: y\r\n\r\n"), 600),
    "until the end of the connection": (unframed(TEXT), 600),
    "in HTTP/1.0": (answering("HTTP/1.0 200 OK", TEXT), 600),
    "compressed, though nobody asked": (body(gzip.compress(TEXT), "Content-Encoding: gzip"), 600),
    "deflated": (body(zlib.compress(TEXT), "Content-Encoding: deflate"), 600),
    "as text": (body(GOOD, "Content-Type: text/html"), 600),
    "with a charset": (body(GOOD, "Content-Type: application/json; charset=iso-8859-1"), 600),
    "with a cookie": (body(GOOD, "Set-Cookie: a=b"), 600),
    "as created": (body(GOOD, status="201 Created"), 600),
    "after a continue": (answering("HTTP/1.1 100 Continue\n\nHTTP/1.1 200 OK\nConnection: close", TEXT), 600),
    "with much beside it": (good(refresh_token="x" * 9000, deep=json.loads("[" * 99 + "]" * 99)), 600),
    "with a member twice": (body(TEXT[:-1] + b', "expires_in": 60}'), 60),
    "with a token type in capitals": (good(token_type="BEARER"), 600),
    "with a long token": (good(access_token="x" * 40_000), 600),
    "with an error beside the token": (good(error="none"), 600),
    "for a text of seconds": (expiring('"600"'), 600),
    "for a fraction": (expiring("59.5"), 59.5),
    "for an exponent": (expiring("6e2"), 600),
    "for thirty years": (expiring("1e9"), DAY),
    "for more digits than an integer has": (expiring("9" * 60), DAY),
    "for a very long text": (expiring(f'"{"9" * 5000}"'), DAY),
    "for no time": (expiring("0"), DEFAULT_LIFETIME),
    "for a time before now": (expiring("-600"), DEFAULT_LIFETIME),
    "for a moment": (expiring("0.001"), DEFAULT_LIFETIME),
    "for null": (expiring("null"), DEFAULT_LIFETIME),
    "for true": (expiring("true"), DEFAULT_LIFETIME),
    "for words": (expiring('"an hour"'), DEFAULT_LIFETIME),
    "for an empty text": (expiring('""'), DEFAULT_LIFETIME),
    "for a text that is no number": (expiring('"NaN"'), DEFAULT_LIFETIME),
    "for a list": (expiring("[600]"), DEFAULT_LIFETIME),
    "for an object": (expiring('{"seconds": 600}'), DEFAULT_LIFETIME),
}

NO_TOKEN = "the token endpoint's answer is not a token response; check token_url"
BROKEN = "the token endpoint cannot be reached, or broke off"
TOO_LONG = "the answer of the token endpoint is longer than 64 KiB"
TOO_SLOW = "the token endpoint did not answer within 0.4 s"
NO_DECODING = "the token endpoint cannot be asked (DecodeError)"

WAIT = {
    "a page": (body(b"<html>We are back soon</html>"), NO_TOKEN),
    "nothing": (body(b""), NO_TOKEN),
    "no content": (answering("HTTP/1.1 204 No Content"), NO_TOKEN),
    "null": (body(b"null"), NO_TOKEN),
    "a list": (body([GOOD]), NO_TOKEN),
    "a text": (body("canary-token"), NO_TOKEN),
    "an object without a token": (body({"token_type": "Bearer"}), NO_TOKEN),
    "an empty token": (good(access_token=""), NO_TOKEN),
    "a number as token": (good(access_token=7), NO_TOKEN),
    "a list as token": (good(access_token=["canary-token"]), NO_TOKEN),
    "a form instead of JSON": (body(b"access_token=canary-token&token_type=bearer"), NO_TOKEN),
    "JSON in UTF-16": (body(json.dumps(GOOD).encode("utf-16")), NO_TOKEN),
    "JSON with bytes that are no UTF-8": (body(TEXT.replace(b"Bearer", b"\xff")), NO_TOKEN),
    "JSON behind a guard": (body(b")]}'\n" + TEXT), NO_TOKEN),
    "JSON cut short by its length": (answering("HTTP/1.1 200 OK\nContent-Length: 9", TEXT), NO_TOKEN),
    "a number beyond all floats": (expiring("1e999"), NO_TOKEN),
    "numbers that are none": (expiring("NaN"), NO_TOKEN),
    "brackets without end": (body(b"[" * 60_000), NO_TOKEN),
    "a compression that is unknown": (body(TEXT[::-1], "Content-Encoding: br"), NO_TOKEN),
    "a compression that is none": (body(TEXT, "Content-Encoding: gzip"), NO_DECODING),
    "a body that is too long": (unframed(b" " * 70_000), TOO_LONG),
    "a bomb": (body(gzip.compress(b" " * 20_000_000), "Content-Encoding: gzip"), TOO_LONG),
    "chunks without end": (chunked(*[b"8000\r\n" + b" " * 0x8000 + b"\r\n"] * 4), TOO_LONG),
    "a body that trickles": (unframed(*[b" "] * 20, pause=0.05), TOO_SLOW),
    "silence": (lambda _: time.sleep(1), TOO_SLOW),
    "silence after the head": (unframed(b"", pause=1), TOO_SLOW),
    "a cut before anything": (lambda _: None, BROKEN),
    "a cut in the head": (lambda connection: connection.sendall(b"HTTP/1.1 200 OK\r\nContent-"), NO_TOKEN),
    "a cut in the body": (answering("HTTP/1.1 200 OK\nContent-Length: 900", TEXT), BROKEN),
    "a cut in a chunk": (chunked(CHUNK[:20]), BROKEN),
    "a chunk of no size": (chunked(b"many\r\n" + TEXT + b"\r\n"), BROKEN),
    "no HTTP": (lambda connection: connection.sendall(TEXT), BROKEN),
    "a status that is none": (answering("HTTP/1.1 OK 200\nConnection: close", TEXT), BROKEN),
    "a header that is too long": (unframed(TEXT, lines=["X: " + "x" * 70_000]), BROKEN),
    "too many headers": (unframed(TEXT, lines=["X: x"] * 200), BROKEN),
    "a server error": (status_only("500 Oops"), "the token endpoint answered 500"),
    "a server error with a name": (
        refusing("500 Oops", "server_error"),
        "the token endpoint answered 500, server_error",
    ),
    "a server error with a token": (body(GOOD, status="500 Oops"), "the token endpoint answered 500"),
    "a bad gateway": (body(b"<html>", status="502 Bad Gateway"), "the token endpoint answered 502"),
    "a gateway that waited too long": (status_only("504 Timeout"), "the token endpoint answered 504"),
    "a timeout": (status_only("408 Timeout"), "the token endpoint answered 408"),
    "a refusal for now": (refusing("400 No", "temporarily_unavailable"), "answered 400, temporarily_unavailable"),
    "a refusal for speed": (refusing("400 No", "slow_down"), "the token endpoint answered 400, slow_down"),
}

RETRY_AFTER = {
    "in seconds": (status_only("503 Busy", "Retry-After: 120"), 120),
    "when there are too many requests": (status_only("429 Busy", "Retry-After: 7"), 7),
    "in no time": (status_only("503 Busy", "Retry-After: 0"), 1),
    "in a year": (status_only("503 Busy", "Retry-After: 31536000"), 300),
    "in more digits than time has": (status_only("503 Busy", f"Retry-After: {'9' * 99}"), 300),
    "at a date": (
        status_only("503 Busy", "Retry-After: Mon, 23 Nov 2026 02:01:00 GMT", "Date: Mon, 23 Nov 2026 02:00:00 GMT"),
        60,
    ),
    "at a date that is over": (
        status_only("503 Busy", "Retry-After: Mon, 23 Nov 2026 01:00:00 GMT", "Date: Mon, 23 Nov 2026 02:00:00 GMT"),
        1,
    ),
    "at some time": (status_only("503 Busy", "Retry-After: later"), 1),
    "in a negative time": (status_only("503 Busy", "Retry-After: -5"), 1),
    "in a fraction": (status_only("503 Busy", "Retry-After: 1.5"), 1),
}

BAD_TOKEN = "the access token holds characters that may not stand in a header (RFC 6750)"
NO_BEARER = "the token is not a bearer token"
FINAL = "redirects are not followed with a secret: write the final address as token_url"

FAIL = {
    "a wrong client": (refusing("401 No", "invalid_client"), "answered 401, invalid_client; check client_id"),
    "a wrong client, otherwise": (refusing("400 No", "unauthorized_client"), "check the secret or key"),
    "a wrong scope": (refusing("400 No", "invalid_scope"), "answered 400, invalid_scope; check scopes"),
    "a wrong resource": (refusing("400 No", "invalid_target"), "check resource and audience"),
    "a wrong grant": (refusing("400 No", "unsupported_grant_type"), "must allow the client credentials grant"),
    "an error of its own": (refusing("400 No", "AADSTS7000215"), "answered 400, AADSTS7000215; check this auth's"),
    "an error with a good status": (refusing("200 OK", "invalid_scope"), "answered 200, invalid_scope"),
    "an error that is a sentence": (
        refusing("400 No", f"sent {SECRET}"),
        "answered 400, an error without a proper name",
    ),
    "an error that is a number": (refusing("400 No", 7), "answered 400, an error without a proper name"),
    "an error that is a page": (body(f"<p>{SECRET}</p>".encode(), status="400 No"), "answered 400; check this auth's"),
    "a challenge": (status_only("401 No", f'WWW-Authenticate: Basic realm="{SECRET}"'), "answered 401; check"),
    "a prohibition": (status_only("403 No"), "answered 403; check this auth's settings"),
    "no such address": (status_only("404 Not Found"), "answered 404; check token_url"),
    "no such method": (status_only("405 No"), "answered 405; check token_url"),
    "no such media type": (status_only("415 No"), "answered 415; check this auth's settings"),
    "a choice": (status_only("300 Choices"), FINAL),
    "a teapot with a token": (body(GOOD, status="418 Teapot"), "answered 418; check this auth's settings"),
    "a token with a line break": (good(access_token="canary\r\nX-Evil: 1"), BAD_TOKEN),
    "a token with a space": (good(access_token="canary token"), BAD_TOKEN),
    "a token that is not ASCII": (good(access_token="canarý"), BAD_TOKEN),
    "a token with a zero": (good(access_token="canary\0"), BAD_TOKEN),
    "a token that is half of a pair": (body(TEXT.replace(b"canary-token", b"canary\\u212a")), BAD_TOKEN),
    "a token of another type": (good(token_type="DPoP"), NO_BEARER),
    "a token of a type that is none": (good(token_type=None), NO_BEARER),
    "a token without a type": (body({"access_token": "canary-token"}), NO_BEARER),
    "a token of two types": (good(token_type=["Bearer"]), NO_BEARER),
}


def cases(table):
    return [pytest.param(*case, id=name.replace(" ", "-")) for name, case in table.items()]


def asked(url, meter=None):
    """A token from there, got as the worker does it; what is logged and raised must not show what was sent or given."""
    settings = ClientCredentialsSettings(
        token_url=f"{url}/token", client_id="batch", client_secret=SECRET, client_auth="post", timeout=TIMEOUT
    )
    credential = open_credential("hospital", settings, MemoryTokenStore(), owner="test")
    with capture_logs() as events:
        try:
            return credential.token(meter or Meter())
        except (Unavailable, Unauthorized) as error:
            chain = [error]
            while (error := error.__cause__ or error.__context__) is not None:
                chain.append(error)
            assert "canary" not in repr([(each, vars(each)) for each in chain]) + repr(events)
            raise


@pytest.mark.parametrize(("respond", "lifetime"), cases(GO_ON))
def test_an_answer_that_holds_a_token_is_taken(respond, lifetime):
    with raw_server(respond) as (url, _):
        token = asked(url)
    assert re.fullmatch(r"canary-token|x+", token.access_token)
    assert token.lifetime == lifetime


@pytest.mark.parametrize(("respond", "reason"), cases(WAIT))
def test_an_answer_that_says_nothing_about_us_is_waited_out(respond, reason):
    began = time.monotonic()
    with raw_server(respond) as (url, _), pytest.raises(Unavailable) as raised:
        asked(url)
    assert reason in raised.value.detail
    assert raised.value.retry_after == pytest.approx(1, abs=0.5)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(("respond", "seconds"), cases(RETRY_AFTER))
def test_a_wait_is_as_long_as_the_server_says_within_reason(respond, seconds):
    with raw_server(respond) as (url, _), pytest.raises(Unavailable) as raised:
        asked(url)
    assert raised.value.retry_after == pytest.approx(seconds, abs=0.5)


@pytest.mark.parametrize(("respond", "reason"), cases(FAIL))
def test_a_no_fails_with_its_reason_and_what_to_check(respond, reason):
    with raw_server(respond) as (url, seen), pytest.raises(Unauthorized) as raised:
        asked(url)
    assert raised.value.detail.startswith("hospital: ")
    assert reason in raised.value.detail
    assert len(seen) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_takes_no_secret_along(status):
    with raw_server(good()) as (elsewhere, stolen):
        redirect = status_only(f"{status} Elsewhere", f"Location: {elsewhere}/token")
        with raw_server(redirect) as (url, _), pytest.raises(Unauthorized, match=FINAL):
            asked(url)
    assert not stolen


def test_every_answer_costs_one_request():
    meter = Meter()
    with raw_server(status_only("503 Busy")) as (url, seen), pytest.raises(Unavailable):
        asked(url, meter)
    assert (len(seen), meter.read()[1]) == (1, 1)
