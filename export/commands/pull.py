"""``powertrain pull``: a package from a registry or a store."""

from __future__ import annotations

from pathlib import Path

import rich_click as click
from runtime.commands.help_text import examples
from runtime.commands.surroundings import surroundings
from runtime.errors import PowertrainError


@click.command(
    epilog=examples(
        "powertrain pull oci://registry.example/models/smollm2:1.0",
        "powertrain pull oci://registry.example/models/smollm2@sha256:DIGEST -o models/smollm2",
    )
)
@click.argument("url")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Folder of the package, in place of an older one; default: by name and digest.",
)
@click.option("--plain-http", is_flag=True, help="Speak HTTP to a registry beyond this machine.")
@click.pass_context
def pull_command(context: click.Context, url: str, output: Path | None, plain_http: bool) -> None:
    """Pull a package from URL: oci://HOST/NAME:TAG, oci://HOST/NAME@sha256:DIGEST or a store's URL.

    A pull that was cut off goes on where it ended. The package's folder goes to standard output.
    """
    from rich.console import Console

    from export.progress import TerminalReporter
    from export.ship.places import open_place
    from export.ship.pull import pull_package
    from export.ship.reference import parse_reference

    around = surroundings(context)
    try:
        wanted = parse_reference(url)
        with open_place(wanted, around.docker_config(), plain_http=plain_http) as place:
            reporter = TerminalReporter(Console(stderr=True))
            pulled = pull_package(wanted, place, around.home(), reporter, root=output)
    except PowertrainError as error:
        raise click.ClickException(str(error)) from error
    received, known = pulled.received_bytes / 2**20, pulled.known_bytes / 2**20
    what = "was there" if pulled.was_there else f"received {received:.1f} MiB; {known:.1f} MiB were here"
    click.echo(f"{pulled.pinned}: {what}", err=True)
    click.echo(str(pulled.root))
