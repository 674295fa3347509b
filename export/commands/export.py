"""``powertrain export``: reads the command line, builds or explains one package, prints one line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click
from rich.console import Console
from rich.table import Table
from runtime.errors import PowertrainError

if TYPE_CHECKING:
    from export.package.builder import BuildResult
    from export.source.recipe import Recipe


@click.command()
@click.argument("source")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder of the package [default: models/NAME].")
@click.option("--precision", help="int8, int4, fp32, fp16, bf16, w8a8 or auto [default: the recipe's, else int8].")
@click.option("--dialect", help="ort, or ort,trt to add TensorRT's graph [default: the recipe's, else ort].")
@click.option("--block", type=int, help="Columns per scale: 16, 32, 64 or 128 [default: 64 at 8 bits, 32 at 4].")
@click.option(
    "--kv-cache", type=click.Choice(["float", "int8"]), help="Form of the cache [default: the recipe's, else float]."
)
@click.option("--max-model-len", type=int, help="Longest context in tokens [default: the model's, at most 8192].")
@click.option("--max-kl", type=float, help="Fail above this mean KL in nats per token; the budget of w8a8 and auto.")
@click.option("--no-quality", is_flag=True, help="Skip the quality report.")
@click.option("--served-model-name", help="Names that a server answers to, separated by commas.")
@click.option("--license", "license_name", help="SPDX name of the weights' licence, for the manifest.")
@click.option("--revision", default="main", help="Branch, tag or commit of a hub repository.")
@click.option("--remeasure", is_flag=True, help="Search anew for what auto or w8a8 chooses; print what pins it.")
@click.option("--via", type=click.Choice(["native", "optimum"]), default="native", help="Who writes the graph.")
@click.option("--optimum-python", help="Python that has Optimum installed [default: this one].")
@click.option("--explain", "explain_only", is_flag=True, help="Print spec, sizes and memory needs; build nothing.")
@click.option(
    "--dry-run", is_flag=True, help="Open and check the checkpoint, say what would be written, write nothing."
)
def export_command(source: str, output: Path | None, revision: str, **options: Any) -> None:  # noqa: ANN401
    """Turn a checkpoint into a model package.

    SOURCE is a recipe (models/NAME.toml), a GGUF file, a Hugging Face folder or a hub repository (owner/name).
    """
    from export.package.builder import build_package
    from export.package.optimum import build_optimum_package
    from export.progress import TerminalReporter
    from export.source.argument import recipe_from_argument

    reporter = TerminalReporter(Console(stderr=True))
    try:
        recipe, base = recipe_from_argument(source, revision)
        recipe = _with_options(recipe, options)
        root = output or base / recipe.name
        if options["explain_only"] or options["dry_run"]:
            _explain(recipe, base, root if options["dry_run"] else None)
            return
        if options["via"] == "optimum":
            result = build_optimum_package(recipe, base, root, reporter, options["optimum_python"])
        else:
            result = build_package(recipe, base, root, reporter, remeasure=options["remeasure"])
    except PowertrainError as error:
        raise click.ClickException(str(error)) from error
    reporter.say(_closing_line(result))
    if options["remeasure"] and result.pin_text:
        click.echo(result.pin_text)


def _with_options(recipe: Recipe, options: dict[str, Any]) -> Recipe:
    """The recipe with what the command line says otherwise."""
    import msgspec

    from export.source.recipe import QualityLimits, check_recipe

    changes: dict[str, Any] = {
        key: options[key] for key in ("precision", "block", "kv_cache", "max_model_len") if options[key]
    }
    if options["dialect"]:
        changes["dialects"] = tuple(options["dialect"].split(","))
    if options["license_name"]:
        changes["license"] = options["license_name"]
    if options["served_model_name"]:
        changes["served_names"] = tuple(name for name in options["served_model_name"].split(",") if name)
    if options["max_kl"] is not None:
        changes["quality"] = QualityLimits(max_mean_kl=options["max_kl"])
    if options["no_quality"]:
        changes["quality"] = None
    changed = msgspec.structs.replace(recipe, **changes)
    check_recipe(changed)
    return changed


def _explain(recipe: Recipe, base: Path, root: Path | None) -> None:
    """Print the sections; with ``root``, also check every tensor's shape and say what a build would write there."""
    from export.checkpoint.checkpoint import check_shapes
    from export.checkpoint.explain import estimate, explain
    from export.checkpoint.precision_policy import plan_keeping
    from export.checkpoint.quantized_tensor import stored_formats
    from export.package.builder import chosen_max_model_len
    from export.progress import SilentReporter
    from export.source.opener import open_source

    checkpoint = open_source(recipe, base, SilentReporter()).checkpoint
    max_model_len = chosen_max_model_len(recipe, checkpoint.spec)
    console = Console()
    for title, rows in explain(checkpoint, max_model_len).items():
        table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
        for key, value in rows.items():
            table.add_row(key, value)
        console.print(table, "", sep="\n")
    if root is not None:
        check_shapes(checkpoint)
        plan = plan_keeping(recipe.precision, recipe.block, stored_formats(checkpoint))
        costs = estimate(checkpoint.spec, plan, max_model_len)
        console.print(
            f"would write {costs.graph_bytes / 2**20:,.0f} MiB to {root}; nothing was written", soft_wrap=True
        )


def _closing_line(result: BuildResult) -> str:
    if result.was_up_to_date:
        return f"{result.root} is up to date"
    manifest, quality = result.manifest, result.manifest.quality
    size_mib = sum(info.size for info in manifest.files.values()) / 2**20
    against = f", mean KL {quality.mean_kl:.4f}, top-1 {quality.top1_agreement:.1%} against float32" if quality else ""
    return f"{result.root}: {size_mib:.0f} MiB in {manifest.build_seconds:.1f} s{against}"
