"""``powertrain inspect``: shows a package's manifest to a person, or as JSON to a program."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click
from runtime.commands.help_text import examples
from runtime.commands.model_argument import MODEL
from runtime.errors import PowertrainError

if TYPE_CHECKING:
    from runtime.package.manifest import Manifest


@click.command(epilog=examples("powertrain inspect smollm2-135m-instruct", "powertrain inspect models/mine --json"))
@click.argument("model", type=MODEL)
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
def inspect_command(model: Path, as_json: bool) -> None:
    """Show what the package MODEL holds, after verifying every file's digest."""
    import msgspec
    from rich.console import Console
    from rich.table import Table
    from runtime.package.manifest import load_package

    from export.plan.summary import describe_plans

    try:
        package = load_package(model)
    except PowertrainError as error:
        raise click.ClickException(str(error)) from error
    manifest = package.manifest
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(manifest)).decode())
        return
    console = Console()
    sections = _sections(manifest)
    if plans := describe_plans(package):
        sections["plans"] = plans
    for title, rows in sections.items():
        table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
        table.add_column()
        table.add_column(overflow="fold")  # digests are words longer than a narrow terminal, and of use only whole
        for key, value in rows.items():
            table.add_row(key, value)
        console.print(table, "", sep="\n")


def _sections(manifest: Manifest) -> dict[str, dict[str, str]]:
    sections = {manifest.name: _summary(manifest)}
    for key, graph in manifest.graphs.items():
        sections[f"graph {key}"] = {
            "file": graph.path,
            "providers": ", ".join(graph.providers),
            "cache": graph.kv_dtype,
            **graph.precision,
            "read per decode step": f"{graph.weight_bytes / 1e6:.1f} MB of weights",
            "nodes": str(graph.num_nodes),
        }
    sections["quality"] = _quality(manifest)
    sections["files"] = {
        name: f"{info.size:>14,} bytes  sha256 {info.sha256}" for name, info in sorted(manifest.files.items())
    }
    return sections


def _summary(manifest: Manifest) -> dict[str, str]:
    shape, spec, source = manifest.shape, manifest.spec, manifest.source
    return {
        "served as": ", ".join(manifest.served_names),
        "source": f"{source.name} ({source.kind}, sha256 {source.sha256})"
        + (f", revision {source.revision}" if source.revision else ""),
        "licence": source.license,
        "architecture": manifest.architecture,
        "layers": f"{shape.num_layers}"
        + (f", hidden {spec['hidden_size']}, MLP {spec['intermediate_size']}" if spec else ""),
        "heads": (f"{spec['num_heads']} query, " if spec else "")
        + f"{shape.num_kv_heads} key and value, of {shape.head_dim}",
        "vocabulary": f"{shape.vocab_size:,} tokens",
        "context": f"{manifest.max_model_len:,} tokens",
        "stop tokens": ", ".join(map(str, manifest.stop_token_ids)),
        "golden rows": _golden(manifest),
        "tokens on a GPU": "chosen there" if manifest.selection else "drawn by the host: there is no selection head",
        "built": f"in {manifest.build_seconds:.1f} s with "
        + ", ".join(f"{name} {version}" for name, version in manifest.tools.items()),
        "recipe digest": manifest.recipe_digest,
    } | _adapters(manifest)


def _adapters(manifest: Manifest) -> dict[str, str]:
    """The adapter that was merged, and the room for others; nothing where there is neither."""
    from msgspec import UnsetType

    merged, room = manifest.source.adapter, manifest.adapters
    rows = {}
    if not isinstance(merged, UnsetType):
        rows["merged adapter"] = f"{merged.name} (sha256 {merged.sha256})"
    if not isinstance(room, UnsetType):
        size = f"{room.adapter_bytes / 1e6:.1f} MB each"
        rows["room for adapters"] = f"rank up to {room.rank} on {', '.join(room.roles)}, {size}"
    return rows


def _golden(manifest: Manifest) -> str:
    from runtime.package.golden import lacks_golden

    if manifest.golden is not None:
        return str(manifest.golden.num_rows)
    return (
        "missing: no GPU serves it before it is exported again" if lacks_golden(manifest) else "none: for a CPU alone"
    )


def _quality(manifest: Manifest) -> dict[str, str]:
    from runtime.package.manifest import ONNX_SOURCE

    quality = manifest.quality
    if manifest.source.kind == ONNX_SOURCE:
        return {"not measured": "foreign graph: its weights are as they came"}
    if quality is None:
        return {"not measured": "the package is float32, or was built without the report"}
    return {
        "mean KL": f"{quality.mean_kl:.4f} nats per token (limit {quality.max_mean_kl:g})",
        "99th percentile": f"{quality.p99_kl:.4f}",
        "top-1 agreement": f"{quality.top1_agreement:.1%}",
        "perplexity": f"{quality.perplexity:.2f} against {quality.reference_perplexity:.2f} in float32",
        "measured on": f"{quality.num_tokens:,} tokens of {quality.text!r}",
    }
