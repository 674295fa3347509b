"""``powertrain key``: makes keys for the keys file, and says whether such a file is right."""

from __future__ import annotations

import hashlib
import re
import secrets
from pathlib import Path

import rich_click as click
from runtime.commands.help_text import examples
from runtime.errors import PowertrainError

_SECRET_BYTES = 32
_LIMITS = ("requests_per_minute", "tokens_per_minute", "max_concurrency")


@click.group("key", epilog=examples("powertrain key new team-a >> keys.toml", "powertrain key check keys.toml"))
def key_group() -> None:
    """API keys with names, roles and limits, kept as hashes in a file that 'serve --keys-file' reads."""


@key_group.command("new", epilog=examples("powertrain key new team-a --tokens-per-minute 100000 >> keys.toml"))
@click.argument("name")
@click.option("--role", type=click.Choice(["client", "metrics", "admin"]), default="client", show_default=True,
              help="What it opens.")  # fmt: skip
@click.option("--requests-per-minute", type=click.IntRange(min=1), help="Requests that it may send.")
@click.option("--tokens-per-minute", type=click.IntRange(min=1), help="Tokens of prompts and answers together.")
@click.option("--max-concurrency", type=click.IntRange(min=1), help="Requests at once.")
def new_command(name: str, role: str, **limits: int | None) -> None:
    """Make a key for NAME: its entry for the keys file goes to standard output, the key itself to standard error.

    The key is shown this once: the file holds its hash alone.
    """
    from api.edge.keys_file import NAME

    if not re.fullmatch(NAME, name):
        raise click.UsageError(f"NAME is a letter, then up to 31 letters, digits, _ . or -; got {name!r}")
    secret = f"pt-{secrets.token_urlsafe(_SECRET_BYTES)}"
    digest = hashlib.sha256(secret.encode("ascii")).hexdigest()
    lines = ["[[key]]", f'name = "{name}"', f'sha256 = "{digest}"', f'role = "{role}"']
    lines += [f"{limit} = {limits[limit]}" for limit in _LIMITS if limits[limit] is not None]
    click.echo("\n".join([*lines, ""]))
    click.echo(f"The key of {name}, shown this once: {secret}", err=True)


@key_group.command("check", epilog=examples("powertrain key check keys.toml"))
@click.argument("file", type=click.Path(path_type=Path))
def check_command(file: Path) -> None:
    """Say which keys FILE holds, or what is wrong with it."""
    from api.edge.keys import key_ring
    from api.server_settings import Settings

    try:
        ring = key_ring(Settings(keys_file=str(file)))
    except PowertrainError as error:
        raise click.ClickException(str(error)) from error
    for key in ring.keys:
        given = [f"{limit} {value}" for limit in _LIMITS if (value := getattr(key.limits, limit)) is not None]
        click.echo(f"{key.name}: {key.role}, {', '.join(given) or 'no limits'}")
