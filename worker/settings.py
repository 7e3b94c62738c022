"""What the configuration may say: one frozen model for each table of longshore.toml.

No sentence in here quotes a text that was given: it may be a secret that was pasted under the wrong key.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from worker.broker_address import Address
from worker.http_terms import address, travels_open
from worker.secret import BearerToken, Place, Secret, SecretDocument, sentence


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: ``; did you mean 'x'?`` or ``; known are: a, b, c``."""
    names = sorted(known)
    if close := difflib.get_close_matches(name, names, n=1):
        return f"; did you mean {close[0]!r}?"
    return f"; known are: {', '.join(names)}" if names else "; none is known"


def _not_a_flag(value: object) -> object:
    if isinstance(value, bool):  # which Python takes for 0 and 1
        raise ValueError("must be a number; got true or false")
    return value


def _several(value: object) -> object:
    return value if isinstance(value, list | tuple) else (value,)


def _revealed(value: object, info: ValidationInfo) -> object:
    return Secret(value, Place.of(info), str(info.field_name)).usable() if isinstance(value, dict) else value


def _file(path: Path | None, info: ValidationInfo) -> Path | None:
    if path is not None and not (Place.of(info).root / path).is_file():
        raise sentence("names no file; put the PEM file there")
    return path and Place.of(info).root / path


def _server_url(text: str) -> str:
    if travels_open(address(text)):
        raise ValueError("must be https, as the client's secret is sent there (http is for loopback hosts only)")
    return text


def _issuer(text: str) -> str:
    if address(_server_url(text)).query:
        raise ValueError("must not have a query (?): the addresses of its metadata are made from it")
    return text


def _backend_url(text: str) -> str:
    if address(text).query:
        raise ValueError("must not have a query (?): a call gives its own params")
    return text


def _proxy(secret: Secret | None) -> Secret | None:
    if secret is not None and not re.fullmatch(r"http://([^\s/@]+@)?[^\s/@?#]+/?", secret.usable()):
        raise sentence(
            "must be the http address of a proxy; write http://PROXY:3128, or http://USER:PASSWORD@PROXY:3128"
        )
    return secret


_PER_SECOND = {"s": 1, "min": 60, "h": 3600}


def _rate(value: object) -> object:
    if not isinstance(value, str):
        return _not_a_flag(value)
    written = re.fullmatch(r"(\d+(?:\.\d+)?) ?/ ?(s|min|h)", value)
    if not written:
        raise ValueError("must be a number of requests per s, min or h")
    return float(written[1]) / _PER_SECOND[written[2]]


def _concurrency(value: object) -> object:
    if value == "auto":
        return value
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if type(value) is not int or not 1 <= value <= 1024:
        raise ValueError('must be "auto" or a whole number from 1 to 1024')
    return value


Text = Annotated[str, Field(min_length=1)]
Whole = Annotated[int, BeforeValidator(_not_a_flag)]
Seconds = Annotated[float, BeforeValidator(_not_a_flag)]
Texts = Annotated[tuple[Text, ...], BeforeValidator(_several)]
PemFile = Annotated[Path | None, AfterValidator(_file)]
Scope = Annotated[str, Field(pattern=r"^[\x21\x23-\x5B\x5D-\x7E]+$")]


class _Table(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, hide_input_in_errors=True
    )


class WorkerSettings(_Table):
    """``[worker]``: folders, the ledger, and how much is done at once. Paths are absolute, times are seconds."""

    inbox: Path = Path("inbox")
    outbox: Path = Path("outbox")
    archive: Path = Path("archive")
    failed: Path = Path("failed")
    # PostgreSQL's may hold a password. It is read at the start only, as no worker moves to another ledger.
    state: Annotated[str, BeforeValidator(_revealed)] = Field("sqlite:///.longshore/state.db", repr=False)
    deliveries: Whole = Field(4, ge=1, le=256)
    threads: Whole = Field(64, ge=1, le=1024)
    chunk_rows: Whole = Field(1000, ge=1, le=100_000)
    settle_seconds: Seconds = Field(1, ge=0, le=3600)
    lease_seconds: Seconds = Field(30, ge=1, le=3600)
    stop_seconds: Seconds = Field(25, ge=0, le=3600)
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("inbox", "outbox", "archive", "failed")
    @classmethod
    def _a_folder_of_its_own(cls, path: Path, info: ValidationInfo) -> Path:
        root = Place.of(info).root.resolve()
        given, kept = (root / path).resolve(), (root / "jobs", root / ".longshore")
        if given in {other.resolve() for other in (root, *kept, *info.data.values())}:
            raise ValueError("must be a folder of its own")
        if root.is_relative_to(given):  # all that lies there would be taken away, or be among the results
            raise ValueError("must be a folder of its own, and not one that the project is in")
        if given.is_relative_to((root / ".longshore").resolve()):
            raise ValueError(
                "must be a folder of its own, and not in .longshore, where the worker keeps what is under way"
            )
        if path.parts[0] == "~":
            raise ValueError("must be written out, as nobody's ~ is known here")
        return Place.of(info).root / path

    @field_validator("state")
    @classmethod
    def _durable(cls, url: str, info: ValidationInfo) -> str:
        scheme, _, rest = url.partition("://")
        if scheme == "postgresql+psycopg" and rest:
            return url
        if scheme == "sqlite" and rest.startswith("/") and rest.strip("/") and ":memory:" not in rest:
            return f"sqlite:///{Place.of(info).root / rest[1:]}"
        raise ValueError("must be sqlite:///PATH, or postgresql+psycopg://USER@HOST/DATABASE for a fleet")


_Proof = TypeVar("_Proof")
_OWN_PARAMETERS = {
    *("grant_type", "scope", "audience", "resource"),
    *("client_id", "client_secret", "client_assertion", "client_assertion_type"),
}
_PROOFS = {
    "basic": {"client_secret"},
    "post": {"client_secret"},
    "private_key_jwt": {"key"},
    "tls": {"client_cert", "client_key"},
}


class ClientCredentialsSettings(_Table):
    """``[auth.NAME]``: the worker is an OAuth client (RFC 6749 section 4.4). Times are seconds.

    Either ``token_url`` is written, or the metadata of ``issuer`` say it. ``client_auth`` says which of the proofs are
    needed: ``client_secret``, ``key`` (several: the newest first), or ``client_cert`` and ``client_key``. ``raw_basic``
    sends Basic credentials without the form-encoding of RFC 6749 section 2.3.1, ``assertion_audience`` is the token
    endpoint's address unless it is given, and ``default_lifetime`` is for a token that comes without ``expires_in``.
    """

    type: Literal["client_credentials"] = "client_credentials"
    issuer: Annotated[str, AfterValidator(_issuer)] | None = Field(None, examples=['"https://idp.example"'])
    token_url: Annotated[str, AfterValidator(_server_url)] | None = Field(
        None, examples=['"https://idp.example/oauth2/token"']
    )
    client_id: Text = Field(examples=['"batch-worker"'])
    client_auth: Literal["basic", "post", "private_key_jwt", "tls"] = "basic"
    client_secret: Secret | None = Field(None, examples=['{ env = "HOSPITAL_SECRET" }'])
    raw_basic: bool = False
    key: Annotated[tuple[SecretDocument, ...], BeforeValidator(_several)] = Field(
        (), max_length=4, examples=['{ file = "private-key.jwk" }']
    )
    key_id: Text | None = Field(None, examples=['"2026-11"'])
    algorithm: Literal["RS256", "RS384", "PS256", "ES256", "ES384"] | None = Field(None, examples=['"RS384"'])
    assertion_audience: Text | None = Field(None, examples=['"https://idp.example"'])
    client_cert: PemFile = Field(None, examples=['"client-cert.pem"'])
    client_key: PemFile = Field(None, examples=['"client-key.pem"'])
    ca_file: PemFile = Field(None, examples=['"hospital-ca.pem"'])
    scopes: tuple[Scope, ...] = Field((), examples=['["billing.read", "system/*.read"]'])
    audience: Text | None = Field(None, examples=['"https://billing.example"'])
    resource: Text | None = Field(None, examples=['"https://billing.example/api"'])
    extra: Mapping[str, str] = Field({}, examples=['{ tenant = "north" }'])
    default_lifetime: Seconds = Field(300, gt=0, le=86_400)
    timeout: Seconds = Field(10, gt=0, le=600)

    @property
    def server(self) -> str:
        """The OAuth server as it was configured: its issuer, or its token endpoint."""
        return self.issuer or self.token_url or ""

    @field_validator("token_url")
    @classmethod
    def _unless_the_issuer_says_it(cls, url: str | None, info: ValidationInfo) -> str | None:
        issuer = info.data.get("issuer", "")
        if issuer and url:
            raise sentence("is of no use beside issuer; remove one of the two")
        if issuer is None and url is None:
            raise ValueError("is missing, and so is issuer, whose metadata would tell it")
        return url

    @field_validator("client_secret", "key", "client_cert", "client_key")
    @classmethod
    def _as_client_auth_needs(cls, proof: _Proof, info: ValidationInfo) -> _Proof:
        name, method = str(info.field_name), info.data.get("client_auth")
        if method and not proof and name in _PROOFS[method]:
            raise ValueError("is missing")
        if method and proof and name not in _PROOFS[method]:
            raise sentence(f'is of no use with client_auth = "{method}"; remove one of the two')
        return proof

    @field_validator("key_id")
    @classmethod
    def _of_one_key(cls, key_id: str | None, info: ValidationInfo) -> str | None:
        if key_id and len(info.data.get("key", ())) > 1:
            raise sentence("is for a single key; write each of several keys as a JWK that holds its own kid")
        return key_id

    @field_validator("extra")
    @classmethod
    def _beside_the_standard_ones(cls, extra: Mapping[str, str]) -> Mapping[str, str]:
        own = _OWN_PARAMETERS & extra.keys()
        if own:
            raise ValueError(f"must not hold {', '.join(sorted(own))}: the worker sends it from its own setting")
        return extra


class BearerSettings(_Table):
    """``[auth.NAME]``: a token that somebody else takes care of (RFC 6750)."""

    type: Literal["bearer"] = "bearer"
    token: BearerToken = Field(examples=['{ file = "/run/secrets/token" }'])


class BasicSettings(_Table):
    """``[auth.NAME]``: a user and a password in every request (RFC 7617)."""

    type: Literal["basic"] = "basic"
    username: str = Field(pattern="^[^:]+$", examples=['"batch-worker"'])
    password: Secret = Field(examples=['{ env = "BILLING_PASSWORD" }'])


class ApiKeySettings(_Table):
    """``[auth.NAME]``: a key in a header of every request."""

    type: Literal["api_key"] = "api_key"
    header: str = Field("X-API-Key", pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")
    key: Secret = Field(examples=['{ env = "BILLING_KEY" }'])


AuthSettings = ClientCredentialsSettings | BearerSettings | BasicSettings | ApiKeySettings


class _BackendTable(_Table):
    url: Annotated[str, AfterValidator(_backend_url)] = Field(examples=['"https://billing.example/api"'])
    auth: str | None = Field(None, examples=['"hospital"'])
    timeout: Seconds = Field(10, gt=0, le=600)
    retries: Whole = Field(4, ge=0, le=20)
    max_concurrency: Annotated[Literal["auto"] | int, BeforeValidator(_concurrency)] = "auto"
    rate_limit: Annotated[float | None, BeforeValidator(_rate)] = Field(None, gt=0, examples=['"50/s"'])
    max_body_mib: Whole = Field(64, ge=1, le=4096)
    ca_file: PemFile = Field(None, examples=['"hospital-ca.pem"'])
    client_cert: PemFile = Field(None, examples=['"client-cert.pem"'])
    client_key: PemFile = Field(None, examples=['"client-key.pem"'])
    proxy: Annotated[Secret | None, AfterValidator(_proxy)] = Field(None, examples=['"http://proxy.example:3128"'])

    @field_validator("client_cert", "client_key")
    @classmethod
    def _shown_in_tls_only(cls, file: Path | None, info: ValidationInfo) -> Path | None:
        if file and urlsplit(info.data.get("url", "https:")).scheme != "https":
            raise sentence("is of no use, as url is http; write url with https, or leave it out")
        return file

    @field_validator("client_key")
    @classmethod
    def _beside_its_certificate(cls, key: Path | None, info: ValidationInfo) -> Path | None:
        if bool(key) != bool(info.data.get("client_cert")) and "client_cert" in info.data:
            raise sentence("belongs to client_cert: give both, or none of them")
        return key

    @field_validator("auth")
    @classmethod
    def _known_and_encrypted(cls, name: str | None, info: ValidationInfo) -> str | None:
        auths, url = Place.of(info).auths, info.data.get("url", "")
        if name is not None and auths is not None and name not in auths:
            raise sentence(f"names no [auth.NAME] table{nearest(name, auths)}")
        if name is not None and travels_open(urlsplit(url)):
            raise sentence("would be sent unencrypted, as url is http; write url with https, or leave auth out")
        return name


class RestSettings(_BackendTable):
    """``[backends.NAME]``: JSON over HTTP. Times are seconds, ``rate_limit`` is requests per second."""

    type: Literal["rest"] = "rest"


class FhirSettings(_BackendTable):
    """``[backends.NAME]``: HL7 FHIR over HTTP; ``version`` is the FHIR release that the server speaks."""

    type: Literal["fhir"] = "fhir"
    version: Literal["R4", "R4B", "R5", "STU3"] = "R4"


BackendSettings = RestSettings | FhirSettings


class AmqpSettings(_Table):
    """``[amqp]``: the broker; ``max_body`` is the largest message that is taken, unfolded, in MiB. Times are seconds.

    ``other_urls`` are further nodes of the same cluster. A secret is checked again whenever it is read, as it may have
    been rotated.
    """

    url: Secret = Field(examples=['{ env = "AMQP_URL" }'])
    other_urls: tuple[Secret, ...] = Field((), max_length=16, examples=['[{ env = "AMQP_URL_2" }]'])
    max_body: Whole = Field(16, ge=1, le=1024)
    heartbeat: Whole = Field(30, ge=5, le=3600)
    ca_file: PemFile = Field(None, examples=['"broker-ca.pem"'])
    client_cert: PemFile = Field(None, examples=['"client-cert.pem"'])
    client_key: PemFile = Field(None, examples=['"client-key.pem"'])

    @property
    def urls(self) -> tuple[Secret, ...]:
        """All nodes, the first one first."""
        return (self.url, *self.other_urls)

    @field_validator("url")
    @classmethod
    def _amqp(cls, url: Secret) -> Secret:
        Address.read(url.reveal())
        return url

    @field_validator("other_urls")
    @classmethod
    def _amqp_too(cls, urls: tuple[Secret, ...]) -> tuple[Secret, ...]:
        return tuple(map(cls._amqp, urls))

    @field_validator("client_key")
    @classmethod
    def _both_or_none(cls, key: Path | None, info: ValidationInfo) -> Path | None:
        if bool(key) != bool(info.data.get("client_cert")):
            raise ValueError("is missing" if key is None else "is of no use without client_cert")
        return key


class JobSettings(_Table):
    """``[jobs.NAME]``: overrides what ``@job`` says; None means that ``@job`` decides."""

    enabled: bool = True
    files: Texts | None = Field(None, examples=['"clients*.csv"'])
    queue: Text | None = Field(None, examples=['"clients.summary"'])
    reply_queue: Text | None = Field(None, examples=['"clients.summary.replies"'])
    prefetch: Whole | None = Field(None, ge=1, le=65_535, examples=["300"])
    max_attempts: Whole | None = Field(None, ge=1, le=1_000_000, examples=["10"])
    retry_delay: Whole | None = Field(None, ge=1, le=30, examples=["5"])
    max_message_bytes: Whole | None = Field(None, ge=1, le=2**30, examples=["1000000"])
    declare: Literal["active", "passive"] | None = Field(None, examples=['"passive"'])
    schedule: Text | None = Field(None, examples=['"0 2 * * *"'])
    timezone: Text | None = Field(None, examples=['"Europe/Prague"'])
    misfire: Literal["once", "skip", "all"] | None = Field(None, examples=['"once"'])
    overlap: Literal["skip", "queue"] | None = Field(None, examples=['"queue"'])
    columns: Texts | None = Field(None, examples=['["client_id", "plan"]'])
    encoding: Text | None = Field(None, examples=['"cp1250"'])
    delimiter: str | None = Field(None, min_length=1, max_length=1, examples=['";"'])
    done_suffix: Text | None = Field(None, examples=['".done"'])
    spreadsheet_safe: bool | None = Field(None, examples=["true"])
    concurrency: Whole | None = Field(None, ge=1, le=1024, examples=["8"])
