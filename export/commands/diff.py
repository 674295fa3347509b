"""``powertrain diff``: what two packages hold differently, for a person or as JSON, with a status for pipelines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click
from runtime.commands.help_text import examples
from runtime.commands.model_argument import MODEL
from runtime.errors import PowertrainError

if TYPE_CHECKING:
    from export.compare.difference import PackageDifference, WeightDifference

_DIFFERENT = 3
"""Apart from 1 and 2, which say that a package or the command line cannot be read."""
_MAX_WEIGHTS_SHOWN = 20
_MAX_NAMES_SHOWN = 3
_NOTHING = "(nothing)"


@click.command(epilog=examples("powertrain diff smollm2-135m-instruct models/mine", "powertrain diff A B --json"))
@click.argument("models", type=MODEL, nargs=2, metavar="MODEL MODEL")
@click.option("--json", "as_json", is_flag=True, help="Print the differences as JSON.")
@click.pass_context
def diff_command(context: click.Context, models: tuple[Path, Path], as_json: bool) -> None:
    """Show in what two packages differ.

    Manifest, precision, quality, template, tokenizer, files, graphs, and how far weights lie apart. Ends with status
    0 when nothing differs and 3 when something does.
    """
    import msgspec
    from runtime.package.manifest import load_package

    from export.compare.packages import compare

    try:
        found = compare(*map(load_package, models))
    except PowertrainError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found)).decode())
    else:
        _show(found, *models)
    context.exit(0 if found.is_empty else _DIFFERENT)


def _show(found: PackageDifference, a: Path, b: Path) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True, highlight=False)
    console.print(Text(f"from {a} to {b}"))
    for section in dict.fromkeys(one.section for one in found.differences):
        console.print(Text(section, "bold"))
        for one in (each for each in found.differences if each.section == section):
            console.print(Text(f"  {one.what}: {one.a or _NOTHING} -> {one.b or _NOTHING}"))
    for graph in dict.fromkeys(one.graph for one in found.weights):
        console.print(Text(f"weights of graph {graph}", "bold"))
        for line in _weight_lines([one for one in found.weights if one.graph == graph]):
            console.print(Text("  " + line))
    console.print(f"{found.num_equal_weights} weights are equal, {len(found.weights)} differ")


def _weight_lines(weights: list[WeightDifference]) -> Iterator[str]:
    """What only one side has, in a line each; then the rest, the farthest apart first."""
    for side, names in (
        ("first", [one.name for one in weights if not one.b]),
        ("second", [one.name for one in weights if not one.a]),
    ):
        if names:
            yield f"only in the {side}: {len(names)}, such as {', '.join(names[:_MAX_NAMES_SHOWN])}"
    both = [one for one in weights if one.a and one.b]
    for one in both:
        if one.relative is None:
            yield f"{one.name}: {one.a} -> {one.b}"
    apart = sorted((one for one in both if one.relative is not None), key=lambda one: -(one.relative or 0.0))
    for one in apart[:_MAX_WEIGHTS_SHOWN]:
        forms = "" if one.a == one.b else f", {one.a} -> {one.b}"
        yield f"{one.name}: {one.relative:.3g} of its norm apart, at most {one.largest:.3g}{forms}"
    if len(apart) > _MAX_WEIGHTS_SHOWN:
        yield f"and {len(apart) - _MAX_WEIGHTS_SHOWN} more, which lie closer"
