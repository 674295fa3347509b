"""``powertrain sign``: signs a package or an adapter with a key file, and makes such files."""

from __future__ import annotations

from pathlib import Path

import rich_click as click
from runtime.commands.help_text import examples
from runtime.commands.model_argument import MODEL
from runtime.errors import PowertrainError


@click.command(
    epilog=examples(
        "powertrain sign --new-key release.pem --name release >> trust.toml",
        "powertrain sign smollm2-135m-instruct --key release.pem",
        "powertrain sign --adapter adapters/math --key release.pem",
    )
)
@click.argument("model", type=MODEL, required=False)
@click.option("--adapter", type=click.Path(path_type=Path), help="Folder of an adapter to sign instead of a package.")
@click.option("--key", type=click.Path(path_type=Path), help="File with the key (Ed25519, PEM) to sign with.")
@click.option("--new-key", type=click.Path(path_type=Path), help="Make a key and write it to this file instead.")
@click.option("--name", default="release", show_default=True, help="What a new key is called where it is trusted.")
def sign_command(model: Path | None, adapter: Path | None, key: Path | None, new_key: Path | None, name: str) -> None:
    """Sign the package MODEL, its TensorRT plans included; sign again after building plans. Or sign an adapter.

    With --new-key, what a trust file needs of the new key goes to standard output.
    """
    given = [path for path in (model, adapter) if path is not None]
    if (new_key is None) == (key is None) or len(given) != (key is not None):
        raise click.UsageError(
            "Give MODEL, or --adapter FOLDER, and --key FILE to sign, or --new-key FILE alone to make a key."
        )
    try:
        if new_key is not None:
            _make(new_key, name)
        elif key is not None:
            _sign(given[0], key, is_adapter=model is None)
    except PowertrainError as error:
        raise click.ClickException(str(error)) from error


def _make(path: Path, name: str) -> None:
    from runtime.trust.keys import new_key
    from runtime.trust.trust_file import trust_entry

    key = new_key(path)
    click.echo(trust_entry(name, key.public))
    click.echo(f"{path} holds the key {key.key_id[:12]}; keep it secret", err=True)


def _sign(folder: Path, path: Path, *, is_adapter: bool) -> None:
    from runtime.trust.keys import read_key

    from export.provenance.signing import sign_adapter, sign_package

    key = read_key(path)
    names = sign_adapter(folder, key) if is_adapter else sign_package(folder, key)
    click.echo(f"{folder} is signed with the key {key.key_id[:12]}: {', '.join(names)}")
