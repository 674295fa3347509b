"""``powertrain export``: reads the command line, builds or explains one package, prints one line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click
from runtime.commands.comma_list import COMMA_LIST
from runtime.commands.help_text import examples
from runtime.commands.model_argument import MODEL_WORD
from runtime.commands.surroundings import surroundings
from runtime.errors import PowertrainError

if TYPE_CHECKING:
    from export.package.builder import BuildResult
    from export.source.recipe import LoraRoom, Recipe

_FORM, _QUALITY, _PACKAGE = "Form of the weights and the graph", "Quality", "Package"
_SOURCE, _NOTHING = "Source", "Build nothing"


@click.command(
    epilog=examples(
        "powertrain export smollm2-135m-instruct",
        "powertrain export ~/Downloads/model.gguf --precision int4",
        "powertrain export Qwen/Qwen3-0.6B --dialect ort,trt -o models/qwen3",
    )
)
@click.argument("model", type=MODEL_WORD)
@click.option("--precision", panel=_FORM, show_default="the recipe's, else int8",
              help="int8, int4, fp32, fp16, bf16, w8a8, auto; fp8, nvfp4 for TensorRT.")  # fmt: skip
@click.option("--dialect", panel=_FORM, **COMMA_LIST, show_default="the recipe's, else ort",
              help="ort, ort,trt to add TensorRT's graph, or trt alone.")  # fmt: skip
@click.option("--block", panel=_FORM, type=int, show_default="64 at 8 bits, 32 at 4",
              help="Columns per scale: 16, 32, 64 or 128.")  # fmt: skip
@click.option("--kv-cache", panel=_FORM, type=click.Choice(["float", "int8"]),
              show_default="the recipe's, else float", help="Form of the cache.")  # fmt: skip
@click.option("--max-model-len", panel=_FORM, type=int, show_default="the model's, at most 8192",
              help="Longest context in tokens.")  # fmt: skip
@click.option("--adapter", panel=_FORM, type=click.Path(path_type=Path), show_default="the recipe's, else none",
              help="Folder of a PEFT adapter (LoRA) to merge into the weights.")  # fmt: skip
@click.option("--lora-rank", panel=_FORM, type=int, show_default="the recipe's, else no room",
              help="Make room for adapters of up to this rank, which a server loads by itself.")  # fmt: skip
@click.option("--lora-targets", panel=_FORM, **COMMA_LIST, show_default="all seven",
              help="What those may change: q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj.")  # fmt: skip
@click.option("--max-kl", panel=_QUALITY, type=float, show_default="the recipe's, else 0.05",
              help="Fail above this mean KL in nats per token; the budget of w8a8 and auto.")  # fmt: skip
@click.option("--remeasure", panel=_QUALITY, is_flag=True,
              help="Search anew for what w8a8 or auto chooses, and print what pins it.")  # fmt: skip
@click.option("--no-quality", panel=_QUALITY, is_flag=True, help="Skip the quality report.")
@click.option("-o", "--output", panel=_PACKAGE, type=click.Path(path_type=Path), show_default="NAME among the packages",
              help="Folder of the package.")  # fmt: skip
@click.option("--chat-template", panel=_PACKAGE, type=click.Path(path_type=Path), show_default="the checkpoint's",
              help="File with a chat template; a model without one serves completions only.")  # fmt: skip
@click.option("--served-model-name", panel=_PACKAGE, **COMMA_LIST,
              help="Names that a server answers to, separated by commas.")  # fmt: skip
@click.option("--license", "license_name", panel=_PACKAGE, help="SPDX name of the weights' licence, for the manifest.")
@click.option("--revision", panel=_SOURCE, default="main", show_default=True,
              help="Branch, tag or commit of a hub repository.")  # fmt: skip
@click.option("--via", panel=_SOURCE, type=click.Choice(["native", "optimum"]), default="native", show_default=True,
              help="Who writes the graph.")  # fmt: skip
@click.option("--optimum-python", panel=_SOURCE, show_default="this one", help="Python that has Optimum installed.")
@click.option("--explain", "explain_only", panel=_NOTHING, is_flag=True, help="Print spec, sizes and memory needs.")
@click.option("--dry-run", panel=_NOTHING, is_flag=True,
              help="Open and check the checkpoint, and say what would be written.")  # fmt: skip
@click.pass_context
def export_command(
    context: click.Context,
    /,
    model: str,
    output: Path | None,
    revision: str,
    **options: Any,  # noqa: ANN401
) -> None:
    """Turn the checkpoint MODEL into a model package.

    MODEL is a recipe (its file or its name), a GGUF file, a Hugging Face folder, a hub repository (owner/name), or a
    folder with a graph of ONNX Runtime GenAI or Optimum, which is taken as it is.
    """
    from rich.console import Console

    from export.errors import ExportError
    from export.interop.package import build_foreign_package
    from export.package.builder import build_package
    from export.package.optimum import build_optimum_package
    from export.progress import TerminalReporter
    from export.source.argument import recipe_from_argument

    reporter = TerminalReporter(Console(stderr=True))
    try:
        recipe, base = recipe_from_argument(model, surroundings(context).home(), revision)
        recipe = _with_options(recipe, options)
        root = output or base / recipe.name
        if _is_graph(recipe, base):
            if options["explain_only"] or options["dry_run"] or options["via"] == "optimum":
                raise ExportError(
                    "--explain, --dry-run and --via optimum look into a checkpoint, and the folder holds a finished "
                    "graph; export it without them"
                )
            reporter.say(_closing_line(build_foreign_package(recipe, base, root, reporter)))
            return
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


def _is_graph(recipe: Recipe, base: Path) -> bool:
    """Whether the source is a folder with a graph that others wrote."""
    from export.interop.source_folder import holds_foreign_graph
    from export.source.recipe import FolderSource

    return isinstance(recipe.source, FolderSource) and holds_foreign_graph(base / recipe.source.path)


def _with_options(recipe: Recipe, options: dict[str, Any]) -> Recipe:
    """The recipe with what the command line says otherwise."""
    import msgspec

    from export.checkpoint.precision_policy import FOR_TENSORRT
    from export.source.recipe import QualityLimits, check_recipe

    changes: dict[str, Any] = {
        key: options[key] for key in ("precision", "block", "kv_cache", "max_model_len") if options[key]
    }
    if options["dialect"]:
        changes["dialects"] = tuple(options["dialect"].split(","))
    elif options["precision"] in FOR_TENSORRT:
        changes["dialects"] = ("trt",)
    if options["chat_template"]:
        changes["chat_template"] = str(options["chat_template"].absolute())
    if options["adapter"]:
        changes["adapter"] = str(options["adapter"].absolute())
    if options["lora_rank"] is not None or options["lora_targets"]:
        changes["lora"] = _lora_room(recipe, options["lora_rank"], options["lora_targets"])
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


def _lora_room(recipe: Recipe, rank: int | None, targets: str | None) -> LoraRoom:
    """The recipe's room for adapters with what the command line says otherwise. Raises RecipeError."""
    import msgspec

    from export.errors import RecipeError
    from export.source.recipe import LoraRoom

    values: dict[str, Any] = msgspec.to_builtins(recipe.lora or LoraRoom())
    if rank is not None:
        values["rank"] = rank
    if targets:
        values["targets"] = targets.split(",")
    try:
        return msgspec.convert(values, LoraRoom)
    except msgspec.ValidationError as error:
        raise RecipeError(f"--lora-rank {rank}: {error}") from error


def _explain(recipe: Recipe, base: Path, root: Path | None) -> None:
    """Print the sections; with ``root``, also check every tensor's shape and say what a build would write there."""
    from rich.console import Console
    from rich.table import Table

    from export.checkpoint.checkpoint import check_shapes
    from export.checkpoint.explain import explain, packages_graph_bytes
    from export.checkpoint.precision_policy import check_dialects, plan_keeping
    from export.checkpoint.quantized_tensor import stored_formats
    from export.package.builder import chosen_max_model_len
    from export.progress import SilentReporter
    from export.source.opener import open_source

    check_dialects(recipe.precision, recipe.dialects, int8_cache=recipe.kv_cache == "int8")
    checkpoint = open_source(recipe, base, SilentReporter()).checkpoint
    max_model_len = chosen_max_model_len(recipe, checkpoint.spec)
    console = Console()
    sections = explain(checkpoint, max_model_len)
    sections["this package"] = _chosen(recipe)
    for title, rows in sections.items():
        table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
        for key, value in rows.items():
            table.add_row(key, value)
        console.print(table, "", sep="\n")
    if root is not None:
        check_shapes(checkpoint)
        plan = plan_keeping(recipe.precision, recipe.block, stored_formats(checkpoint))
        size = packages_graph_bytes(checkpoint.spec, plan, max_model_len, recipe.dialects)
        console.print(f"would write {size / 2**20:,.0f} MiB to {root}; nothing was written", soft_wrap=True)


def _chosen(recipe: Recipe) -> dict[str, str]:
    """What the recipe and the command line ask for."""
    limit = "not measured" if recipe.quality is None else f"mean KL of at most {recipe.quality.max_mean_kl:g}"
    return {
        "name": recipe.name,
        "precision": f"{recipe.precision}, block {recipe.block or 'as usual'}, {recipe.kv_cache} cache",
        "quality": limit,
        "graphs": ", ".join(recipe.dialects),
    } | _adapters(recipe)


def _adapters(recipe: Recipe) -> dict[str, str]:
    merged = {} if recipe.adapter is None else {"adapter": f"{Path(recipe.adapter).name}, merged into the weights"}
    room = recipe.lora
    return merged | ({} if room is None else {"room": f"adapters of rank {room.rank} on {', '.join(room.targets)}"})


def _closing_line(result: BuildResult) -> str:
    if result.was_up_to_date:
        return f"{result.root} is up to date"
    manifest, quality = result.manifest, result.manifest.quality
    size_mib = sum(info.size for info in manifest.files.values()) / 2**20
    against = f", mean KL {quality.mean_kl:.4f}, top-1 {quality.top1_agreement:.1%} against float32" if quality else ""
    return f"{result.root}: {size_mib:.0f} MiB in {manifest.build_seconds:.1f} s{against}"
