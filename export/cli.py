"""``powertrain export``: reads the command line, builds one package, prints one line."""

from __future__ import annotations

from pathlib import Path

import rich_click as click
from rich.console import Console
from runtime.errors import PowertrainError


@click.command()
@click.argument("source")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder of the package [default: models/NAME].")
@click.option("--precision", help="int8, int4, fp32, fp16 or bf16 [default: the recipe's, else int8].")
def export_command(source: str, output: Path | None, precision: str | None) -> None:
    """Turn a checkpoint into a model package.

    SOURCE is a recipe (models/NAME.toml) or a GGUF file.
    """
    import msgspec

    from export.package_builder import build_package
    from export.progress import TerminalReporter
    from export.recipe import FileSource, Recipe, load_recipe

    reporter = TerminalReporter(Console(stderr=True))
    path = Path(source)
    try:
        if path.suffix == ".toml":
            recipe, base = load_recipe(path), path.parent
        else:
            recipe, base = Recipe(name=path.stem, source=FileSource(path=str(path.absolute()))), Path("models")
        if precision:
            recipe = msgspec.structs.replace(recipe, precision=precision)
        result = build_package(recipe, base, output or base / recipe.name, reporter)
    except PowertrainError as error:
        raise click.ClickException(str(error)) from error
    manifest = result.manifest
    if result.was_up_to_date:
        reporter.say(f"{result.root} is up to date")
        return
    size_mib = sum(info.size for info in manifest.files.values()) / 2**20
    quality = manifest.quality
    against = f", mean KL {quality.mean_kl:.4f}, top-1 {quality.top1_agreement:.1%} against float32" if quality else ""
    reporter.say(f"{result.root}: {size_mib:.0f} MiB in {manifest.build_seconds:.1f} s{against}")
