"""``powertrain cache``: lists, checks and shrinks the store that builds share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click
from runtime.commands.help_text import examples
from runtime.commands.surroundings import surroundings
from runtime.errors import PowertrainError

if TYPE_CHECKING:
    from export.pipeline.cache import Cache

_FOLDER = click.option(
    "--cache", "folder", type=click.Path(path_type=Path), show_default=".steps among the packages", help="The store."
)
_MIB = 2**20


@click.group()
def cache_group() -> None:
    """The store of steps' results that builds share: list, verify, prune."""


@cache_group.command("list", epilog=examples("powertrain cache list", "powertrain cache list --json"))
@_FOLDER
@click.option("--json", "as_json", is_flag=True, help="Print every entry, with all that its key depends on, as JSON.")
@click.pass_context
def list_command(context: click.Context, folder: Path | None, *, as_json: bool) -> None:
    """Show what the cache holds, the entry that was unused for longest first."""
    import time

    import msgspec
    from rich.console import Console
    from rich.table import Table

    cache = _cache(context, folder)
    entries = list(cache.entries())
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode([stored.entry for stored in entries])).decode())
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("key", "kind", "of", "size", "took", "last used"):
        table.add_column(title, justify="right" if title in {"size", "took"} else "left")
    for stored in entries:
        entry, used = stored.entry, time.strftime("%Y-%m-%d %H:%M", time.localtime(stored.last_used_unix))
        size, took = f"{entry.size_bytes / _MIB:,.1f} MiB", f"{entry.seconds:.1f} s"
        table.add_row(entry.key[:12], entry.kind, entry.label, size, took, used)
    console = Console()
    console.print(table)
    total = sum(stored.entry.size_bytes for stored in entries)
    said = f"{len(entries)} entries, {total / _MIB:,.1f} MiB in {cache.root}"
    console.print(said, markup=False, highlight=False, soft_wrap=True)


@cache_group.command("verify", epilog=examples("powertrain cache verify", "powertrain cache verify --remove"))
@_FOLDER
@click.option("--remove", is_flag=True, help="Remove what is damaged, so that the next build makes it anew.")
@click.pass_context
def verify_command(context: click.Context, folder: Path | None, *, remove: bool) -> None:
    """Read every file in the cache and compare it with its digest. Ends with 1 if one is missing or altered."""
    from export.pipeline.upkeep import damaged_entries

    cache = _cache(context, folder)
    count = 0

    def counted(_stored: object) -> None:
        nonlocal count
        count += 1

    try:
        damaged = damaged_entries(cache, counted)
    except (PowertrainError, OSError) as error:
        raise click.ClickException(str(error)) from error
    for one in damaged:
        fate = ""
        if remove:
            fate = "; removed" if cache.remove(one.stored.entry.key) else "; in use, so not removed"
        entry = one.stored.entry
        click.echo(f"{entry.key[:12]} {entry.kind} {entry.label}: {', '.join(one.files)} missing or altered{fate}")
    click.echo(f"{count} entries, {len(damaged)} damaged")
    context.exit(1 if damaged else 0)


@cache_group.command(
    "prune", epilog=examples("powertrain cache prune --older-than 30", "powertrain cache prune --max-gib 50 --dry-run")
)
@_FOLDER
@click.option("--older-than", type=click.FloatRange(0), help="Remove what no build took for so many days.")
@click.option("--max-gib", type=click.FloatRange(0), help="Remove what is unused for longest until the rest fits.")
@click.option("--dry-run", is_flag=True, help="Say what would go.")
@click.pass_context
def prune_command(
    context: click.Context, folder: Path | None, older_than: float | None, max_gib: float | None, *, dry_run: bool
) -> None:
    """Remove entries, and what killed builds left. Packages that were built stay as they are."""
    from export.pipeline.upkeep import prune, superfluous

    if older_than is None and max_gib is None:
        raise click.UsageError("say what is to go: --older-than DAYS, --max-gib GIB, or both")
    cache = _cache(context, folder)
    max_bytes = None if max_gib is None else int(max_gib * 2**30)
    chosen = superfluous(cache, older_than_days=older_than, max_bytes=max_bytes)
    if dry_run:
        for stored in chosen:
            click.echo(f"would remove {stored.entry.kind} {stored.entry.label} ({stored.entry.size_bytes:,} bytes)")
        click.echo(f"{len(chosen)} entries, {sum(one.entry.size_bytes for one in chosen) / _MIB:,.1f} MiB")
        return
    done = prune(cache, chosen)
    for stored in done.in_use:
        click.echo(f"kept {stored.entry.kind} {stored.entry.label}: in use")
    left = f", and what {len(done.leftovers)} killed steps left" if done.leftovers else ""
    click.echo(f"removed {len(done.gone)} entries, {done.freed_bytes / _MIB:,.1f} MiB{left}")


def _cache(context: click.Context, folder: Path | None) -> Cache:
    from export.pipeline.cache import Cache
    from export.pipeline.setup import cache_folder

    found = folder or cache_folder(surroundings(context).home())
    if folder is not None and not folder.is_dir():
        raise click.ClickException(f"there is no cache at {folder}")
    return Cache(found.absolute())
