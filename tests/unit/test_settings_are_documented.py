"""docs/reference/settings.md and the models say the same."""

import json
import re
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from worker import config

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "settings.md"
HEADING = re.compile(r"^##+ (.+)$", re.MULTILINE)
ROW = re.compile(r"^\| `(\w+)` \| (.+) \| (.+) \| (.*) \| `(.+)` \|$", re.MULTILINE)

SECTIONS: dict[str, tuple[type[BaseModel], ...]] = {
    "worker": (config.WorkerSettings,),
    "auth.NAME": get_args(config.AuthSettings),
    "backends.NAME": get_args(config.BackendSettings),
    "amqp": (config.AmqpSettings,),
    "jobs.NAME": (config.JobSettings,),
}
# Settings that exclude each other: the examples of each group are tried without those of the others.
ALTERNATIVES: dict[type[BaseModel], list[tuple[str, set[str]]]] = {
    config.ClientCredentialsSettings: [
        ("basic", {"token_url", "client_secret", "raw_basic"}),
        ("private_key_jwt", {"issuer", "key", "key_id", "algorithm", "assertion_audience"}),
        ("tls", {"token_url", "client_cert", "client_key"}),
    ]
}
MODELS = [(section, model) for section, models in SECTIONS.items() for model in models]


def documented(section: str, model: type[BaseModel]) -> dict[str, tuple[str, str]]:
    """Setting -> its default and its example, as the page has them."""
    kind = model.model_fields.get("type")
    heading = f'type = "{kind.default}"' if kind else f"[{section}]"
    _, *parts = HEADING.split(PAGE.read_text(encoding="utf-8"))
    text = dict(zip(parts[::2], parts[1::2], strict=True))[heading]
    return {name: (default, example) for name, _, default, _, example in ROW.findall(text)}


def default(name: str, field: FieldInfo) -> str:
    if field.is_required() or (name == "type" and field.default != "client_credentials"):
        return "required"
    return "none" if field.default is None else f"`{json.dumps(field.default, default=str)}`"


@pytest.mark.parametrize(("section", "model"), MODELS)
def test_each_setting_is_documented_and_nothing_else_is(section: str, model: type[BaseModel]) -> None:
    assert documented(section, model).keys() == model.model_fields.keys()


@pytest.mark.parametrize(("section", "model"), MODELS)
def test_each_documented_default_is_the_real_one(section: str, model: type[BaseModel]) -> None:
    written = {name: given for name, (given, _) in documented(section, model).items()}
    assert written == {name: default(name, field) for name, field in model.model_fields.items()}


def examples(section: str, model: type[BaseModel]) -> list[list[str]]:
    """The examples of a table, in groups that may stand together."""
    found = {name: example for name, (_, example) in documented(section, model).items()}
    groups = ALTERNATIVES.get(model, [])
    exclusive = set().union(*(names for _, names in groups))
    tables = []
    for method, names in groups:
        chosen = {name: example for name, example in found.items() if name in names or name not in exclusive}
        tables.append(list((chosen | {"client_auth": f'client_auth = "{method}"'}).values()))
    return tables or [list(found.values())]


@pytest.mark.parametrize(
    ("section", "table"), [(section, table) for section, model in MODELS for table in examples(section, model)]
)
def test_the_documented_examples_are_accepted(section: str, table: list[str], tmp_path: Path) -> None:
    for file in ("token", "hospital-ca.pem", "broker-ca.pem", "private-key.jwk", "client-cert.pem", "client-key.pem"):
        (tmp_path / file).write_text("made up")
    environ = dict.fromkeys(("HOSPITAL_SECRET", "BILLING_PASSWORD", "BILLING_KEY"), "made up")
    written = [example.replace("/run/secrets/", "") for example in table]
    hospital = ["[auth.hospital]", 'type = "bearer"', 'token = "made up"']
    path = tmp_path / "longshore.toml"
    path.write_text("\n".join([*hospital, f"[{section}]", *written]), encoding="utf-8")
    config.load(path, environ | {"AMQP_URL": "amqp://broker.example", "AMQP_URL_2": "amqp://other.example"})


def test_the_documented_variables_are_accepted(tmp_path: Path) -> None:
    variables = re.findall(r"^(LONGSHORE_\w+)='?(.+?)'?$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    path = tmp_path / "longshore.toml"
    path.write_text(
        """
        [auth.hospital]
        token_url = "https://idp.example/token"
        client_id = "batch-worker"
        client_secret = "made up"
        [backends.billing]
        type = "rest"
        url = "https://billing.example/api"
        """
    )
    settings = config.load(path, dict(variables))
    assert settings.worker.threads == 16
    assert settings.backends["billing"].url == "https://billing.test.example/api"
