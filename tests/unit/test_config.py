"""The configuration: what is read, every mistake at once, and no secret in any of them."""

import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel, ValidationError

from worker import config
from worker.errors import ConfigError, Problem

Load = Callable[..., config.Settings]

AUTH = """
[auth.hospital]
token_url = "https://idp.example/token"
client_id = "batch-worker"
client_secret = "hunter2"
"""
BILLING = """
[backends.billing]
type = "rest"
url = "https://billing.example/api"
"""


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def loaded(text: str = "", environ: Mapping[str, str] | None = None) -> config.Settings:
        path = tmp_path / "longshore.toml"
        path.write_text(text, encoding="utf-8")
        return config.load(path, environ or {})

    return loaded


@pytest.fixture
def problems(load: Load) -> Callable[..., list[Problem]]:
    def found(text: str, environ: Mapping[str, str] | None = None) -> list[Problem]:
        with pytest.raises(ConfigError) as caught:
            load(text, environ)
        return list(caught.value.problems)

    return found


Problems = Callable[..., list[Problem]]


def test_an_empty_file_gives_the_defaults_with_paths_beside_it(load: Load, tmp_path: Path) -> None:
    settings = load()
    assert settings.root == tmp_path
    assert settings.path == tmp_path / "longshore.toml"
    assert settings.worker.inbox == tmp_path / "inbox"
    assert settings.worker.state == f"sqlite:///{tmp_path}/.longshore/state.db"
    assert (settings.worker.threads, settings.worker.chunk_rows, settings.worker.deliveries) == (64, 1000, 4)
    assert settings.work == tmp_path / ".longshore" / "work"
    assert settings.jobs_folder == tmp_path / "jobs"
    assert (settings.auth, settings.backends, settings.amqp, settings.jobs) == ({}, {}, None, {})


def test_a_whole_project_is_read(load: Load, tmp_path: Path) -> None:
    settings = load(
        AUTH
        + BILLING
        + """
        auth = "hospital"
        rate_limit = "3000/min"
        max_concurrency = 8
        [backends.ehr]
        type = "fhir"
        url = "https://ehr.example/fhir"
        version = "R5"
        [amqp]
        url = "amqps://broker.example"
        [jobs.client_summary]
        files = "clients*.csv"
        columns = ["client_id", "plan"]
        enabled = false
        """
    )
    auth, billing, ehr = settings.auth["hospital"], settings.backends["billing"], settings.backends["ehr"]
    assert isinstance(auth, config.ClientCredentialsSettings)
    assert (auth.client_auth, auth.default_lifetime, auth.client_secret.reveal()) == ("basic", 300, "hunter2")
    assert isinstance(billing, config.RestSettings)
    assert (billing.auth, billing.rate_limit, billing.max_concurrency) == ("hospital", 50.0, 8)
    assert isinstance(ehr, config.FhirSettings)
    assert (ehr.version, ehr.max_concurrency, ehr.rate_limit) == ("R5", "auto", None)
    assert settings.amqp is not None
    assert settings.amqp.url.reveal() == "amqps://broker.example"
    job = settings.jobs["client_summary"]
    assert (job.files, job.columns, job.enabled, job.queue) == (("clients*.csv",), ("client_id", "plan"), False, None)


@pytest.mark.parametrize(
    ("table", "kind"),
    [
        ('type = "bearer"\ntoken = "t"', config.BearerSettings),
        ('type = "basic"\nusername = "u"\npassword = "p"', config.BasicSettings),
        ('type = "api_key"\nkey = "k"', config.ApiKeySettings),
    ],
)
def test_an_auth_is_of_the_type_that_it_says(load: Load, table: str, kind: type) -> None:
    assert isinstance(load(f"[auth.x]\n{table}").auth["x"], kind)


def test_the_ledgers_address_may_stand_where_secrets_do(load: Load, tmp_path: Path) -> None:
    address = "postgresql+psycopg://u:hunter2@db/longshore"
    (tmp_path / "ledger").write_text(f"{address}\n")
    assert load('[worker]\nstate = { file = "ledger" }').worker.state == address
    assert load('[worker]\nstate = { env = "LEDGER" }', {"LEDGER": address}).worker.state == address


def test_absolute_folders_and_other_ledgers_stay_as_they_are(load: Load) -> None:
    worker = load('[worker]\ninbox = "/srv/in"\nstate = "postgresql+psycopg://u:hunter2@db/longshore"').worker
    assert worker.inbox == Path("/srv/in")
    assert worker.state == "postgresql+psycopg://u:hunter2@db/longshore"
    assert "hunter2" not in repr(worker)
    assert load('[worker]\nstate = "sqlite:////srv/state.db"').worker.state == "sqlite:////srv/state.db"


def test_options_of_the_driver_are_no_part_of_the_ledgers_file(load: Load) -> None:
    assert load('[worker]\nstate = "sqlite:////srv/state.db?timeout=3"').ledger_file == Path("/srv/state.db")


def test_settings_cannot_be_changed(load: Load) -> None:
    with pytest.raises(ValidationError):
        load().worker.threads = 1


@pytest.mark.parametrize(("written", "per_second"), [("50/s", 50), ("3000/min", 50), ("36/h", 0.01), ("0.5 / s", 0.5)])
def test_a_rate_limit_is_requests_per_second(load: Load, written: str, per_second: float) -> None:
    assert load(f'{BILLING}rate_limit = "{written}"').backends["billing"].rate_limit == pytest.approx(per_second)


# Mistakes


def test_every_mistake_is_reported_at_once_with_file_key_and_what_to_write(problems: Problems, tmp_path: Path) -> None:
    found = problems(f'[worker]\nthreads = 0\n{AUTH}client_auth = "magic"\n{BILLING}timeout = "soon"')
    assert {problem.where for problem in found} == {str(tmp_path / "longshore.toml")}
    methods = "must be 'basic', 'post', 'private_key_jwt' or 'tls'"
    assert [(problem.key, problem.what) for problem in found] == [
        ("worker.threads", "must be greater than or equal to 1; got 0; write e.g. threads = 64"),
        ("auth.hospital.client_auth", f'{methods}; write e.g. client_auth = "basic"'),
        ("backends.billing.timeout", "must be a number; got text; write e.g. timeout = 10"),
    ]


@pytest.mark.parametrize(
    ("text", "key", "what"),
    [
        ("[worke]", "worke", "unknown key; did you mean 'worker'?"),
        ("[worker]\nthread = 1", "worker.thread", "unknown key; did you mean 'threads'?"),
        (AUTH + "scope = []", "auth.hospital.scope", "unknown key; did you mean 'scopes'?"),
        ('[auth.x]\ntype = "beerer"', "auth.x.type", "is no known type; did you mean 'bearer'?"),
        ('[backends.x]\ntype = "soap"', "backends.x.type", "is no known type; known are: fhir, rest"),
        ('[backends.x]\nurl = "https://x.example"', "backends.x.type", "is missing; known are: fhir, rest"),
        (AUTH + BILLING + 'auth = "hopsital"', "backends.billing.auth", "did you mean 'hospital'?"),
        ('[jobs.x]\nfile = "*.csv"', "jobs.x.file", "unknown key; did you mean 'files'?"),
        ('[amqp]\nurll = "x"\nurl = "amqp://x"', "amqp.urll", "unknown key; did you mean 'url'?"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest_known_one(
    problems: Problems, text: str, key: str, what: str
) -> None:
    [problem] = problems(text)
    assert problem.key == key
    assert problem.what.endswith(what)


@pytest.mark.parametrize(
    ("text", "key", "what"),
    [
        ("worker = 3", "worker", "must be a table; got a number"),
        ("auth = 3", "auth", "must be tables, each with a name; write [auth.NAME]"),
        ('[auth]\ntype = "bearer"', "auth.type", "must be a table; got text"),
        ("[worker]\nthreads = true", "worker.threads", "must be a number; got true or false"),
        ("[worker]\nlease_seconds = inf", "worker.lease_seconds", "must be a finite number"),
        ('[worker]\noutbox = "inbox/../inbox"', "worker.outbox", "must be a folder of its own"),
        ('[worker]\ninbox = ""', "worker.inbox", "must be a folder of its own"),
        ('[worker]\ninbox = "jobs"', "worker.inbox", "must be a folder of its own"),
        ('[worker]\ninbox = ".longshore/work"', "worker.inbox", "must be a folder of its own, and not in .longshore"),
        ('[worker]\nfailed = "x/../.longshore"', "worker.failed", "must be a folder of its own"),
        ('[worker]\ninbox = "/"', "worker.inbox", "must be a folder of its own, and not one that the project is in"),
        ('[worker]\narchive = ".."', "worker.archive", "must be a folder of its own, and not one that the"),
        ('[worker]\ninbox = "~/in"', "worker.inbox", "must be written out, as nobody's ~ is known here"),
        ('[worker]\nstate = "sqlite://"', "worker.state", "must be sqlite:///PATH"),
        ('[worker]\nstate = "mysql://db"', "worker.state", "must be sqlite:///PATH"),
        ('[worker]\nstate = { env = "NOT_SET" }', "worker.state", "the environment variable NOT_SET is not set"),
        ('[worker]\nstate = { file = "/nowhere" }', "worker.state", "/nowhere cannot be read: No such file"),
        ('[worker]\nstate = { path = "ledger" }', "worker.state", "must be a text, { env"),
        (AUTH + 'scopes = "a b"', "auth.hospital.scopes", "must be a list; got text"),
        (AUTH + 'scopes = ["a", "b c"]', "auth.hospital.scopes[1]", "holds a character that is not allowed there"),
        (AUTH + 'extra = { scope = "a" }', "auth.hospital.extra", "must not hold scope"),
        ('[auth.x]\ntype = "bearer"', "auth.x.token", 'is missing; write e.g. token = { file = "/run/secrets/token" }'),
        ('[auth.x]\ntype = "bearer"\ntoken = "bearer t"', "auth.x.token", "the text must hold the token alone; remove"),
        ('[auth.x]\ntype = "bearer"\ntoken = 1', "auth.x.token", "must be a text, { env"),
        ('[auth.x]\ntype = "bearer"\ntoken = { env = "A", file = "B" }', "auth.x.token", "must be a text, { env"),
        ('[auth.x]\ntype = "api_key"\nkey = "k"\nheader = "a b"', "auth.x.header", "holds a character"),
        (BILLING + 'rate_limit = "50"', "backends.billing.rate_limit", "must be a number of requests per s, min or h"),
        (BILLING + 'rate_limit = "0/s"', "backends.billing.rate_limit", "must be greater than 0"),
        (BILLING + "max_concurrency = 0", "backends.billing.max_concurrency", 'must be "auto" or a whole number'),
        (BILLING + 'ca_file = "ca.pem"', "backends.billing.ca_file", "names no file"),
        (BILLING + 'client_cert = "longshore.toml"', "backends.billing.client_key", "belongs to client_cert"),
        (BILLING + 'client_key = "longshore.toml"', "backends.billing.client_key", "belongs to client_cert"),
        (BILLING + 'proxy = "proxy.example:3128"', "backends.billing.proxy", "must be the http address of a proxy"),
        (BILLING + 'proxy = "https://proxy.example"', "backends.billing.proxy", "must be the http address of a proxy"),
        ('[amqp]\nurl = "http://x"', "amqp.url", "must be an amqp:// or amqps:// address"),
        ('[jobs.x]\ndelimiter = ";;"', "jobs.x.delimiter", "must have at most 1 character"),
        ('[auth."my.idp\\n"]\ntype = "x"', 'auth."my.idp\\n".type', "is no known type"),
    ],
)
def test_a_wrong_value_is_named_and_explained(problems: Problems, text: str, key: str, what: str) -> None:
    [problem] = problems(text)
    assert problem.key == key
    assert problem.what.startswith(what)


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("http://idp.example/token", "must be https"),
        ("http://localhost.idp.example/token", "must be https"),
        ("https://user@idp.example/token", "must not carry a user"),
        ("https://idp.example/token#x", "must not have a fragment"),
        ("ftp://idp.example/token", "must be an http or https address"),
        ("https:///token", "must be an http or https address"),
        ("https://idp.example:port/token", "must be an http or https address"),
        ("https://idp.example\\\\@evil.example/token", "must be an http or https address"),
    ],
)
def test_a_token_url_that_could_give_the_secret_away_is_refused(problems: Problems, url: str, what: str) -> None:
    [problem] = problems(AUTH.replace("https://idp.example/token", url))
    assert problem.key == "auth.hospital.token_url"
    assert problem.what.startswith(what)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9:8080", "[::1]:8080"])
def test_plain_http_is_fine_on_loopback(load: Load, host: str) -> None:
    text = f'{AUTH}{BILLING}auth = "hospital"'
    for remote in ("https://idp.example", "https://billing.example"):
        text = text.replace(remote, f"http://{host}")
    assert load(text).backends["billing"].url == f"http://{host}/api"


def test_a_credential_is_not_sent_over_plain_http(problems: Problems, load: Load) -> None:
    plain = BILLING.replace("https:", "http:")
    assert load(plain).backends["billing"].url == "http://billing.example/api"
    [problem] = problems(f'{AUTH}{plain}auth = "hospital"')
    assert problem.key == "backends.billing.auth"
    assert problem.what.startswith("would be sent unencrypted")


@pytest.mark.parametrize(
    ("section", "model"),
    [("worker", config.WorkerSettings), ("amqp", config.AmqpSettings), ("jobs.x", config.JobSettings)]
    + [("auth.x", model) for model in get_args(config.AuthSettings)]
    + [("backends.x", model) for model in get_args(config.BackendSettings)],
)
def test_a_value_of_any_type_is_either_taken_or_a_mistake_under_its_key(
    load: Load, section: str, model: type[BaseModel]
) -> None:
    kind = model.model_fields.get("type")
    head = f"[{section}]\n" + (f'type = "{kind.default}"\n' if kind else "")
    values = ["3", "1.5", "nan", "true", '"x"', '""', "[1]", "[]", "{ a = 1 }", "{}", "1979-05-27"]
    for name in model.model_fields.keys() - {"type"}:
        refused = 0
        for value in values:
            try:
                load(f"{head}{name} = {value}")
            except ConfigError as error:
                refused += any(problem.key.startswith(f"{section}.{name}") for problem in error.problems)
        assert refused, f"{name} takes everything"


# The file itself


def test_a_missing_file_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"^longshore.toml: there is no such file.*longshore init NAME.*--config"):
        config.load(environ={})


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[worker]\nthreads = = 4", "line 2, column 11"),
        ("[worker]\nthreads = 4\nthreads = 5", "line 3, the end of the file"),
    ],
)
def test_a_syntax_error_is_named_with_its_place(problems: Problems, text: str, place: str) -> None:
    [problem] = problems(text)
    assert problem.what.startswith("is not TOML: ")
    assert place in problem.what


def test_a_file_in_another_encoding_or_a_folder_is_a_clear_mistake(tmp_path: Path) -> None:
    latin = tmp_path / "latin.toml"
    latin.write_bytes('[auth."Žofie"]'.encode("cp1250"))
    with pytest.raises(ConfigError, match="is not UTF-8 text: byte 8 is wrong"):
        config.load(latin, {})
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        config.load(tmp_path, {})


def test_a_byte_order_mark_is_accepted(load: Load) -> None:
    assert load("\ufeff[worker]\nthreads = 3").worker.threads == 3


# The environment


def test_any_value_can_be_given_by_the_environment_whatever_the_case_of_its_name_in_the_file(load: Load) -> None:
    settings = load(
        AUTH + BILLING.replace("billing]", "Billing-EU]") + '[jobs.summary]\nfiles = "a.csv"',
        {
            "LONGSHORE_WORKER__THREADS": "8",
            "LONGSHORE_WORKER__LOG_LEVEL": "debug",
            "LONGSHORE_AUTH__HOSPITAL__CLIENT_SECRET": "12345",
            "LONGSHORE_AUTH__HOSPITAL__SCOPES": '["billing.read", "system/*.read"]',
            "LONGSHORE_AUTH__HOSPITAL__EXTRA": '{ tenant = "north" }',
            "LONGSHORE_AUTH__HOSPITAL__EXTRA__REGION": "eu",
            "LONGSHORE_BACKENDS__BILLING_EU__URL": "https://other.example",
            "LONGSHORE_JOBS__SUMMARY__FILES": "[ab]*.csv",
            "LONGSHORE_JOBS__SUMMARY__ENABLED": "false",
            "LONGSHORE_AMQP__URL": "amqp://broker",
            "LONGSHORE_CONFIG": "elsewhere.toml",
            "HOME": "/root",
        },
    )
    auth = settings.auth["hospital"]
    assert isinstance(auth, config.ClientCredentialsSettings)
    assert (settings.worker.threads, settings.worker.log_level) == (8, "debug")
    assert auth.client_secret.reveal() == "12345"
    assert auth.scopes == ("billing.read", "system/*.read")
    assert auth.extra == {"tenant": "north", "region": "eu"}
    assert settings.backends["Billing-EU"].url == "https://other.example"
    assert (settings.jobs["summary"].files, settings.jobs["summary"].enabled) == (("[ab]*.csv",), False)
    assert settings.amqp is not None
    assert settings.amqp.url.reveal() == "amqp://broker"


def test_the_environment_may_give_a_table_that_the_file_does_not_have(load: Load) -> None:
    environ = {"LONGSHORE_BACKENDS__BILLING": '{"type": "rest", "url": "https://b.example"}', "T": "hunter2"}
    environ |= {"LONGSHORE_AUTH__X__TYPE": "bearer", "LONGSHORE_AUTH__X__TOKEN": '{ env = "T" }'}
    settings = load("", environ)
    assert settings.backends["billing"].url == "https://b.example"
    auth = settings.auth["x"]
    assert isinstance(auth, config.BearerSettings)
    assert auth.token.reveal() == "hunter2"


@pytest.mark.parametrize(
    ("name", "value", "key", "what"),
    [
        ("LONGSHORE_WORKR", "x", "workr", "unknown key; did you mean 'worker'?"),
        ("LONGSHORE_WORKER__THREDS", "4", "worker.threds", "unknown key; did you mean 'threads'?"),
        ("LONGSHORE_BACKENDS__BILLING__TIMEOUT", "soon", "backends.billing.timeout", "must be a number; got text"),
        ("LONGSHORE_BACKENDS__BILLING__URL__X", "x", "backends.billing.url", "is not a table"),
        ("LONGSHORE_BACKENDS__OTHER__URL", "https://x.example", "backends.other.type", "is missing"),
    ],
)
def test_a_mistake_in_the_environment_names_the_variable(
    problems: Problems, name: str, value: str, key: str, what: str
) -> None:
    [problem] = problems(BILLING, {name: value})
    assert (problem.where, problem.key) == (f"environment variable {name}", key)
    assert problem.what.startswith(what)


# Secrets


def bearer(load: Load, token: str, environ: Mapping[str, str] | None = None) -> config.Secret:
    auth = load(f'[auth.x]\ntype = "bearer"\ntoken = {token}', environ).auth["x"]
    assert isinstance(auth, config.BearerSettings)
    return auth.token


def test_a_secret_from_the_environment_is_read_anew_each_time(load: Load) -> None:
    environ = {"TOKEN": "first"}
    token = bearer(load, '{ env = "TOKEN" }', environ)
    assert token.reveal() == "first"
    environ["TOKEN"] = "second"
    assert token.reveal() == "second"


def test_a_secret_from_a_file_beside_the_configuration_is_read_anew_without_its_last_newline(
    load: Load, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_bytes(b" first \n")
    token = bearer(load, '{ file = "token" }')
    assert token.reveal() == " first "
    file.write_bytes(b"second\r\n")
    assert token.reveal() == "second"


def test_a_secret_that_has_gone_names_its_key_and_what_is_missing(load: Load, tmp_path: Path) -> None:
    environ = {"TOKEN": "first"}
    token = bearer(load, '{ env = "TOKEN" }', environ)
    environ.clear()
    with pytest.raises(ConfigError) as caught:
        token.reveal()
    assert caught.value.problems == (
        Problem(
            str(tmp_path / "longshore.toml"),
            "auth.x.token",
            "the environment variable TOKEN is not set; set it where the worker is started",
        ),
    )


@pytest.mark.parametrize(
    ("content", "what"),
    [(None, "cannot be read"), (b"", "is empty"), (b"hunter2\n\n", "one line"), (b"hunter2\xff", "UTF-8")],
)
def test_a_secret_that_cannot_be_used_is_found_when_the_file_is_loaded(
    problems: Problems, tmp_path: Path, content: bytes | None, what: str
) -> None:
    if content is not None:
        (tmp_path / "token").write_bytes(content)
    [problem] = problems('[auth.x]\ntype = "bearer"\ntoken = { file = "token" }')
    assert problem.key == "auth.x.token"
    assert what in problem.what
    assert "hunter2" not in problem.what


def test_a_secret_shows_in_no_text_of_the_settings(load: Load) -> None:
    settings = load(AUTH + '[amqp]\nurl = "amqp://user:hunter2@broker"')
    auth = settings.auth["hospital"]
    shown = [repr(settings), str(settings), str(auth.model_dump()), auth.model_dump_json(), f"{auth}"]
    assert not [text for text in shown if "hunter2" in text]
    assert "***" in repr(auth)


@pytest.mark.parametrize(
    "text",
    [
        AUTH + 'client_auth = "hunter2"\nscopes = ["hunter 2", "hunter2"]\ntimeout = "hunter2"',
        AUTH.replace('"hunter2"', '["hunter2"]'),
        AUTH.replace("https://", "https://user:hunter2@"),
        AUTH.replace("https://idp.example", "http://hunter2"),
        AUTH + BILLING + 'auth = "hunter2"\nversion = "hunter2"',
        AUTH + 'token = "hunter2"',
        '[amqp]\nurl = "user:hunter2@broker"',
        '[worker]\nstate = "mysql://user:hunter2@db"',
        AUTH + "]",
    ],
)
def test_a_secret_shows_in_no_mistake_wherever_it_was_put(load: Load, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(text)
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value.problems)
    assert "hunter2" not in shown
    assert caught.value.__context__ is None  # which a debugger or a log may follow


def test_secrets_are_equal_by_what_they_hold(load: Load) -> None:
    assert bearer(load, '"hunter2"') == bearer(load, '{ env = "TOKEN" }', {"TOKEN": "hunter2"})
    assert bearer(load, '"hunter2"') != bearer(load, '"other"')
    assert load(AUTH) == load(AUTH)


def test_a_model_can_be_made_by_hand_for_a_test() -> None:
    auth = config.BasicSettings(username="ann", password=config.Secret("hunter2"))
    assert auth.password.reveal() == "hunter2"
    with pytest.raises(ValidationError) as caught:
        config.BearerSettings.model_validate({"token": ["hunter2"]})
    assert "hunter2" not in str(caught.value)


# Names


def test_the_nearest_name_is_proposed_or_all_are_listed() -> None:
    assert config.nearest("timeot", ["timeout", "url"]) == "; did you mean 'timeout'?"
    assert config.nearest("zzz", ["url", "auth"]) == "; known are: auth, url"
    assert config.nearest("zzz", []) == "; none is known"


def test_the_workers_own_table_is_read_without_the_others_their_secrets_and_their_mistakes(tmp_path: Path) -> None:
    path = tmp_path / "longshore.toml"
    path.write_text('[worker]\noutbox = "out"\n[auth.x]\nclient_secret = { env = "NONE" }\n[backends.y]\n[typo]\n')
    environ = {"LONGSHORE_WORKER__THREADS": "7", "LONGSHORE_BACKENDS__Y__URL": "nonsense"}
    settings = config.load_worker(path, environ)
    assert (settings.worker.outbox, settings.worker.threads) == (tmp_path / "out", 7)
    assert (settings.auth, settings.backends, settings.amqp, settings.jobs) == ({}, {}, None, {})
    with pytest.raises(ConfigError, match=r"worker\.threads"):
        config.load_worker(path, environ | {"LONGSHORE_WORKER__THREADS": "many"})
