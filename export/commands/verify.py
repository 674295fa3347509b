"""``powertrain verify``: is every byte of a package, or of an adapter, what a trusted key signed?"""

from __future__ import annotations

from pathlib import Path

import rich_click as click
from runtime.commands.help_text import examples
from runtime.commands.model_argument import MODEL
from runtime.errors import PowertrainError


@click.command(
    epilog=examples(
        "powertrain verify smollm2-135m-instruct --trust-file trust.toml",
        "powertrain verify --adapter adapters/math --trust-file trust.toml",
    )
)
@click.argument("model", type=MODEL, required=False)
@click.option("--adapter", type=click.Path(path_type=Path), help="Folder of an adapter to check instead of a package.")
@click.option("--trust-file", type=click.Path(path_type=Path), required=True, help="TOML file of the keys that count.")
def verify_command(model: Path | None, adapter: Path | None, trust_file: Path) -> None:
    """Check that a trusted key signed the package MODEL as it is now: every file, TensorRT plans included. Or an
    adapter."""
    if (model is None) == (adapter is None):
        raise click.UsageError("Give MODEL or --adapter FOLDER.")
    try:
        signers, kernels = _verified(model, adapter, trust_file)
    except PowertrainError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{model or adapter} is whole, and signed by {', '.join(signers)}")
    for path in kernels:
        click.echo(f"not covered: {path.name}, compiled on this machine; a server that requires signatures removes it")


def _verified(model: Path | None, adapter: Path | None, trust_file: Path) -> tuple[tuple[str, ...], tuple[Path, ...]]:
    """Who signed one of the two, and what nobody signs."""
    import datetime

    from runtime.trust.trust_file import read_trust_file
    from runtime.trust.verify import verify_package

    from export.provenance.signing import adapter_signers

    trusted, today = read_trust_file(trust_file), datetime.datetime.now(datetime.UTC).date()
    if adapter is not None:
        return adapter_signers(adapter, trusted, today), ()
    verified = verify_package(Path(model or ""), trusted, today)
    return verified.signers, verified.kernels
