"""``longshore keys``: key pairs for ``client_auth = "private_key_jwt"``."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from worker.commands.arguments import Json, misused

keys = typer.Typer(help="Key pairs for OAuth servers that know the worker by its public key.", no_args_is_help=True)


class Algorithm(StrEnum):
    """What a key will sign with."""

    RS256 = "RS256"
    RS384 = "RS384"
    PS256 = "PS256"
    ES256 = "ES256"
    ES384 = "ES384"


@keys.command()
def new(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where the private key goes.")] = Path("private-key.jwk"),
    json: Json = False,
    alg: Annotated[Algorithm, typer.Option(help="What it will sign with.")] = Algorithm.ES384,
    kid: Annotated[str, typer.Option(metavar="NAME", help="The key's name at the server, else its thumbprint.")] = "",
) -> None:
    """Make a key pair: the private key into FILE, the public one, to register, onto standard output."""
    from worker import exact_json
    from worker.auth.keys import new_key
    from worker.commands import screens

    key = new_key(alg, kid or None)
    _write(file, exact_json.dumps(key.as_dict(private=True)))
    jwks = {"keys": [key.as_dict(private=False)]}
    if json:
        screens.say_json({"file": str(file.resolve()), "jwks": jwks})
        return
    screens.say(screens.as_json(jwks, indent=True))
    screens.say(
        f"\nRegister the above at the OAuth server. {file} is private; in its [auth.NAME] write:\n", stderr=True
    )
    screens.say(f'client_auth = "private_key_jwt"\nkey = {{ file = "{file}" }}', stderr=True)


def _write(file: Path, private_key: bytes) -> None:
    """For its owner only, and never over another: that one may be the last that the server knows."""
    try:
        with open(file, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as opened:
            opened.write(private_key + b"\n")
            opened.flush()
            os.fsync(opened.fileno())
    except FileExistsError:
        misused(f"{file} is there already, and a key is not overwritten; name another FILE")
    except (FileNotFoundError, NotADirectoryError):
        misused(f"{file}: there is no folder {file.parent}; make it, or name another FILE")
