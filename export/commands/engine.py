"""``powertrain engine``: its words and flags; builds one plan per target, prints one line for each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import rich_click as click
from runtime.commands.comma_list import COMMA_LIST
from runtime.commands.help_text import examples
from runtime.commands.model_argument import MODEL
from runtime.defaults import DEFAULT_SLOTS
from runtime.errors import PowertrainError
from runtime.package.attention_form import DEFAULT_ATTENTION, AttentionForm

if TYPE_CHECKING:
    from export.plan.settings import PlanSettings
    from export.plan.store import StoredPlan

_WHERE, _SHAPES, _BUILD = "Where the plan is to run", "Shapes", "Building"


@click.command(
    epilog=examples(
        "powertrain engine models/mine --target sm80,sm89",
        "powertrain engine models/mine --target current --library tensorrt",
    )
)
@click.argument("model", type=MODEL)
@click.option("--target", panel=_WHERE, required=True, **COMMA_LIST,
              help="GPUs such as sm80,sm89 (no GPU needed), or current.")  # fmt: skip
@click.option("--library", panel=_WHERE, type=click.Choice(["tensorrt", "tensorrt-rtx"]),
              show_default="the one that can", help="Which TensorRT.")  # fmt: skip
@click.option("--hardware-compatibility", panel=_WHERE, default="none", show_default=True,
              type=click.Choice(["none", "ampere_plus", "same_compute_capability"]),
              help="Run on other GPUs too (tensorrt only).")  # fmt: skip
@click.option("--max-slots", panel=_SHAPES, default=DEFAULT_SLOTS, show_default=True,
              help="Sequences that decode together.")  # fmt: skip
@click.option("--max-model-len", panel=_SHAPES, type=int, show_default="the package's",
              help="Longest context in tokens: the length of a cache slot.")  # fmt: skip
@click.option("--prefill-tokens", panel=_SHAPES, default=512, show_default=True,
              help="Prompt tokens computed in one call.")  # fmt: skip
@click.option("--optimization-level", panel=_BUILD, type=click.IntRange(0, 5), default=3, show_default=True,
              help="Build time for speed.")  # fmt: skip
@click.option("--workspace-mib", panel=_BUILD, type=click.IntRange(0), default=0, show_default="any",
              help="Scratch memory of a kernel.")  # fmt: skip
@click.option("--attention", panel=_BUILD, type=click.Choice(get_args(AttentionForm)), default=DEFAULT_ATTENTION,
              show_default=True, help="How attention knows what a token may see.")  # fmt: skip
@click.option("--timing-cache", panel=_BUILD, type=click.Path(path_type=Path),
              help="File of measured kernels (tensorrt only).")  # fmt: skip
@click.option("--force", panel=_BUILD, is_flag=True, help="Build even if memory or disk look too small.")
def engine_command(model: Path, target: str, library: str | None, *, force: bool, **values: Any) -> None:  # noqa: ANN401
    """Compile the graph of MODEL into TensorRT plans, one per target.

    MODEL is a package, by folder or name, made by 'powertrain export MODEL --dialect ort,trt'.
    """
    from functools import partial

    from rich.console import Console

    from export.plan.progress import shown_progress
    from export.plan.store import ensure_plan
    from export.plan.targets import parse_targets

    console = Console(stderr=True)
    try:
        settings = _settings(**values)
        name = library.replace("-", "_") if library else None
        for one in parse_targets(target, name):  # type: ignore[arg-type]  # click checked the choice
            stored = ensure_plan(model, one, settings, partial(shown_progress, console), force=force)
            for line in _lines(stored):
                console.print(line, highlight=False)
    except PowertrainError as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        raise click.ClickException("cancelled; the package is as it was") from None


def _settings(*, workspace_mib: int, **values: Any) -> PlanSettings:  # noqa: ANN401 - click checked them
    from export.plan.settings import PlanSettings

    return PlanSettings(workspace_bytes=workspace_mib * 2**20, **values)


def _lines(stored: StoredPlan) -> list[str]:
    """What was done, and why, and what it takes on the GPU."""
    sidecar, memory = stored.sidecar, _memory_line(stored)
    if not stored.reasons:
        return [f"{stored.path} is up to date", memory]
    size, peak = sidecar.plan_bytes / 2**20, sidecar.peak_memory_bytes / 2**30
    return [
        f"built because {'; '.join(stored.reasons)}",
        f"{stored.path}: {size:.0f} MiB in {sidecar.build_seconds:.1f} s, peak memory {peak:.1f} GiB",
        memory,
    ]


def _memory_line(stored: StoredPlan) -> str:
    """How slots times length add up: a server takes as many slots as its GPU has room for."""
    sidecar, slots = stored.sidecar, stored.sidecar.key.max_slots
    plan, scratch, slot = sidecar.plan_bytes / 2**20, sidecar.scratch_bytes / 2**20, stored.slot_bytes / 2**20
    return (
        f"on the GPU: {plan:.1f} MiB of plan + {scratch:.1f} MiB of scratch + {slot:.1f} MiB for each slot of "
        f"{sidecar.capacity} tokens = {plan + scratch + slots * slot:.1f} MiB with {slots} slots"
    )
