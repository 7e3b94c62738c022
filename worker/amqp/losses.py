"""What ends a connection or a channel, in our words: a library's or a broker's may hold anything."""

from __future__ import annotations

import ssl

from pika import exceptions

START = "start it, or correct [amqp] url"
SIGN_IN = "correct user and password in [amqp] url"
ALLOW = "make it, and allow this user to use it, or correct the end of [amqp] url"
TRUST = "name whoever signed it in [amqp] ca_file"
SPEAK = "correct host and port in [amqp] url, or name our certificate in [amqp] client_cert"


class Lost(Exception):
    """The connection is gone, or there can be none; a sentence says why, ``advice`` what to do about the latter."""

    def __init__(self, why: str, advice: str = START) -> None:
        super().__init__(why)
        self.advice = advice


class Declined(Exception):
    """The broker closed the channel or connection for what was asked: its code (AMQP 0-9-1 section 1.3), its words."""

    def __init__(self, code: int, said: str) -> None:
        self.code = code
        self.said = said
        super().__init__(f"{code} {said}")


def translated(error: BaseException) -> Exception:
    """What pika says, as one of ours; its own text may hold anything."""
    match error:
        case exceptions.ProbableAuthenticationError():
            return Lost("the broker does not take this user and password", SIGN_IN)
        case exceptions.ProbableAccessDeniedError():
            return Lost("the broker has no such virtual host, or not for this user", ALLOW)
        case exceptions.ConnectionClosedByBroker() | exceptions.ChannelClosedByBroker():
            return Declined(error.reply_code, error.reply_text)
        case exceptions.ConnectionClosedByClient() | exceptions.ChannelClosedByClient():
            return Lost("closed by this worker")
        case exceptions.ConnectionBlockedTimeout():
            return Lost("the broker blocked it for too long")
        case exceptions.AMQPHeartbeatTimeout():
            return Lost("the broker has gone silent")
        case exceptions.IncompatibleProtocolError():
            return Lost("what answers there speaks no AMQP 0-9-1, or does not take our certificate", SPEAK)
    return _lost_by_the_system(error)


def _lost_by_the_system(error: BaseException) -> Lost:
    for inner in _chain(error):
        if isinstance(inner, ssl.SSLCertVerificationError):
            return Lost(f"its certificate is not trusted: {inner.verify_message}", TRUST)
        if isinstance(inner, ssl.SSLError):
            return Lost(f"TLS failed: {inner.reason or 'broken off'}", SPEAK)
        if isinstance(inner, OSError) and inner.strerror:
            return Lost(inner.strerror)
        if isinstance(inner, TimeoutError):
            return Lost("no answer in time")
    return Lost("the connection was cut")


def _chain(error: BaseException) -> list[BaseException]:
    """An error and those that it was made from, outermost first: pika keeps them in one place or another."""
    inner = [*error.args, *getattr(error, "exceptions", ()), getattr(error, "exception", None), error.__cause__]
    return [error, *(found for each in inner if isinstance(each, BaseException) for found in _chain(each))]
