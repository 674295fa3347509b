"""``powertrain verify``: is every byte of a package what a trusted key signed?"""

from __future__ import annotations

from pathlib import Path

import rich_click as click
from runtime.commands.help_text import examples
from runtime.commands.model_argument import MODEL
from runtime.errors import PowertrainError


@click.command(epilog=examples("powertrain verify smollm2-135m-instruct --trust-file trust.toml"))
@click.argument("model", type=MODEL)
@click.option("--trust-file", type=click.Path(path_type=Path), required=True, help="TOML file of the keys that count.")
def verify_command(model: Path, trust_file: Path) -> None:
    """Check that a trusted key signed the package MODEL as it is now: every file, TensorRT plans included."""
    import datetime

    from runtime.trust.trust_file import read_trust_file
    from runtime.trust.verify import verify_package

    try:
        verified = verify_package(model, read_trust_file(trust_file), datetime.datetime.now(datetime.UTC).date())
    except PowertrainError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{model} is whole, and signed by {', '.join(verified.signers)}")
    for path in verified.kernels:
        click.echo(f"not covered: {path.name}, compiled on this machine; a server that requires signatures removes it")
