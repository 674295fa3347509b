"""``powertrain push``: a package to a registry or a store."""

from __future__ import annotations

from pathlib import Path

import rich_click as click
from runtime.commands.help_text import examples
from runtime.commands.model_argument import MODEL
from runtime.commands.surroundings import surroundings
from runtime.errors import PowertrainError


@click.command(
    epilog=examples(
        "powertrain push smollm2-135m-instruct oci://registry.example/models/smollm2:1.0",
        "powertrain push models/mine s3://bucket/models/mine:1.0",
    )
)
@click.argument("model", type=MODEL)
@click.argument("url")
@click.option("--plain-http", is_flag=True, help="Speak HTTP to a registry beyond this machine.")
@click.pass_context
def push_command(context: click.Context, model: Path, url: str, plain_http: bool) -> None:
    """Push the package MODEL, with its plans and signatures, to URL: oci://HOST/NAME:TAG or a store's URL.

    What lies there already is not sent again. The digest that names what was pushed goes to standard output.
    """
    from rich.console import Console
    from runtime.package.manifest import load_package

    from export.progress import TerminalReporter
    from export.ship.places import open_place
    from export.ship.push import push_package
    from export.ship.reference import parse_reference

    try:
        wanted, package = parse_reference(url), load_package(model)
        with open_place(wanted, surroundings(context).docker_config(), plain_http=plain_http) as place:
            pushed = push_package(package, wanted, place, TerminalReporter(Console(stderr=True)))
    except PowertrainError as error:
        raise click.ClickException(str(error)) from error
    sent, known = pushed.sent_bytes / 2**20, pushed.known_bytes / 2**20
    click.echo(f"sent {sent:.1f} MiB; {known:.1f} MiB were there", err=True)
    click.echo(str(pushed.pinned))
