"""``powertrain convert``: writes a package in the form that another program reads."""

from __future__ import annotations

from pathlib import Path

import rich_click as click
from runtime.commands.help_text import examples
from runtime.commands.model_argument import MODEL
from runtime.errors import PowertrainError


@click.command(
    epilog=examples(
        "powertrain convert smollm2-135m-instruct --to genai -o smollm2-genai",
        "powertrain convert models/mine --to triton -o model_repository",
    )
)
@click.argument("model", type=MODEL)
@click.option("--to", "form", type=click.Choice(["genai", "triton"]), required=True,
              help="genai: a folder that ONNX Runtime GenAI runs; triton: a model repository.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True,
              help="Folder to write; a new or an empty one.")  # fmt: skip
def convert_command(model: Path, form: str, output: Path) -> None:
    """Write the package MODEL in the form that another program reads.

    Weights are copied, not converted, so answers are those of the package.
    """
    from runtime.package.manifest import load_package
    from runtime.package.plan_sidecar import plan_targets

    from export.interop.folder import convert

    try:
        package = load_package(model)
        convert(package, form, output)
    except PowertrainError as error:
        raise click.ClickException(str(error)) from error
    size_mib = sum(path.stat().st_size for path in output.rglob("*") if path.is_file()) / 2**20
    click.echo(f"{output}: {size_mib:.0f} MiB")
    if targets := plan_targets(package.root):
        click.echo(
            f"Left out: the TensorRT plans for {', '.join(targets)}, which write into their caches in place, as "
            "nothing but powertrain serve has them; docs/interoperability.md says more",
            err=True,
        )
