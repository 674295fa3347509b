"""``powertrain engine``: reads the command line, builds one plan per target, prints one line for each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click
from runtime.defaults import DEFAULT_SLOTS
from runtime.errors import PowertrainError

if TYPE_CHECKING:
    from export.plan.store import StoredPlan


@click.command()
@click.argument("package", type=click.Path(path_type=Path))
@click.option("--target", required=True, help="GPUs such as sm80,sm89 (no GPU needed), or current.")
@click.option(
    "--library", type=click.Choice(["tensorrt", "tensorrt-rtx"]), help="Which TensorRT [default: the one that can]."
)
@click.option("--max-slots", default=DEFAULT_SLOTS, show_default=True, help="Sequences that decode together.")
@click.option("--prefill-tokens", default=512, show_default=True, help="Prompt tokens computed in one call.")
@click.option(
    "--optimization-level", type=click.IntRange(0, 5), default=3, show_default=True, help="Build time for speed."
)
@click.option("--workspace-mib", type=click.IntRange(0), default=0, help="Scratch memory of a kernel [default: any].")
@click.option(
    "--hardware-compatibility",
    type=click.Choice(["none", "ampere_plus", "same_compute_capability"]),
    default="none",
    show_default=True,
    help="Run on other GPUs too (tensorrt only).",
)
@click.option("--timing-cache", type=click.Path(path_type=Path), help="File of measured kernels (tensorrt only).")
@click.option("--force", is_flag=True, help="Build even if memory or disk look too small.")
def engine_command(
    *,
    package: Path,
    target: str,
    library: str | None,
    max_slots: int,
    prefill_tokens: int,
    optimization_level: int,
    workspace_mib: int,
    hardware_compatibility: str,
    timing_cache: Path | None,
    force: bool,
) -> None:
    """Compile a package's graph into TensorRT plans, one per target.

    PACKAGE is a folder made by 'powertrain export SOURCE --dialect ort,trt'.
    """
    from functools import partial

    from rich.console import Console

    from export.plan.progress import shown_progress
    from export.plan.settings import PlanSettings
    from export.plan.store import ensure_plan
    from export.plan.targets import parse_targets

    console = Console(stderr=True)
    settings = PlanSettings(
        max_slots=max_slots,
        prefill_tokens=prefill_tokens,
        optimization_level=optimization_level,
        workspace_bytes=workspace_mib * 2**20,
        hardware_compatibility=hardware_compatibility,  # type: ignore[arg-type]  # click checked the choice
        timing_cache=timing_cache,
    )
    try:
        name = library.replace("-", "_") if library else None
        for one in parse_targets(target, name):  # type: ignore[arg-type]  # click checked the choice
            stored = ensure_plan(package, one, settings, partial(shown_progress, console), force=force)
            for line in _lines(stored):
                console.print(line, highlight=False)
    except PowertrainError as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        raise click.ClickException("cancelled; the package is as it was") from None


def _lines(stored: StoredPlan) -> list[str]:
    """What was done, and why."""
    if not stored.reasons:
        return [f"{stored.path} is up to date"]
    sidecar = stored.sidecar
    size, peak = sidecar.plan_bytes / 2**20, sidecar.peak_memory_bytes / 2**30
    return [
        f"built because {'; '.join(stored.reasons)}",
        f"{stored.path}: {size:.0f} MiB in {sidecar.build_seconds:.1f} s, peak memory {peak:.1f} GiB",
    ]
