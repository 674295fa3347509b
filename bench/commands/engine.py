"""`powertrain bench engine`: its words and flags. Measuring is engine_run's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click
from runtime.commands.comma_list import COMMA_LIST
from runtime.commands.help_text import examples
from runtime.commands.model_argument import MODEL
from runtime.defaults import IDLE_PREFILL_CHUNK_TOKENS

_TESTS, _MACHINE, _RESULT = "What is measured", "Machine", "Result"


@click.command(
    "engine",
    epilog=examples(
        "powertrain bench engine smollm2-135m-instruct",
        "powertrain bench engine models/mine -p 128,512 -b 1,8 -o results",
        "powertrain bench engine models/mine --baseline results/engine.json",
        "powertrain bench engine models/with-room -b 1,8 --adapters 1,8 --no-breakdown",
        "powertrain bench engine --synthetic -b 64",
    ),
)
@click.argument("model", type=MODEL, required=False)
@click.option("--prefill", "-p", panel=_TESTS, default=("128,512",), **COMMA_LIST, show_default=True,
              help="Prefill lengths (pp).")  # fmt: skip
@click.option("--decode", "-n", panel=_TESTS, type=click.IntRange(0), default=64, show_default=True,
              help="Decode steps per repetition (tg).")  # fmt: skip
@click.option("--depth", "-d", panel=_TESTS, default=("0",), **COMMA_LIST, show_default=True,
              help="Tokens already in the context.")  # fmt: skip
@click.option("--batch", "-b", panel=_TESTS, **COMMA_LIST, show_default="1,4,16; 1,16,64,256 with --synthetic",
              help="Sequences decoded together.")  # fmt: skip
@click.option("--adapters", panel=_TESTS, **COMMA_LIST, show_default="none",
              help="Measure again with so many made-up adapters, dealt to the rows in turn.")  # fmt: skip
@click.option("--repetitions", "-r", panel=_TESTS, type=click.IntRange(2), default=5, show_default=True,
              help="After one that warms up.")  # fmt: skip
@click.option("--chunk", panel=_TESTS, type=click.IntRange(2), default=IDLE_PREFILL_CHUNK_TOKENS, show_default=True,
              help="Longest prefill call; the engine's by default.")  # fmt: skip
@click.option("--breakdown/--no-breakdown", panel=_TESTS, default=True, show_default=True,
              help="Also take whole engine steps apart.")  # fmt: skip
@click.option("--breakdown-steps", panel=_TESTS, type=click.IntRange(5), show_default="60; 20 with --synthetic",
              help="Steps of each such test.")  # fmt: skip
@click.option("--schema", is_flag=True, panel=_TESTS,
              help="Also measure steps whose rows are bound to a JSON schema.")  # fmt: skip
@click.option("--synthetic", is_flag=True, panel=_TESTS,
              help="Measure the engine's own work alone, over rows of logits made beforehand: no MODEL.")  # fmt: skip
@click.option("--vocab", panel=_TESTS, default=("49152,151936",), **COMMA_LIST, show_default=True,
              help="Sizes of the vocabulary with --synthetic.")  # fmt: skip
@click.option("--backend", panel=_MACHINE, default="cpu", show_default=True,
              help="What runs MODEL, as in 'powertrain serve'.")  # fmt: skip
@click.option("--threads", "-t", panel=_MACHINE, type=click.IntRange(1), show_default="physical cores",
              help="Threads of the arithmetic.")  # fmt: skip
@click.option("--decode-thread", panel=_MACHINE, is_flag=True,
              help="Take apart steps as 'powertrain serve --decode-thread' runs them.")  # fmt: skip
@click.option("--slots", panel=_MACHINE, type=click.IntRange(1), show_default="the largest batch", help="Cache slots.")
@click.option("--max-model-len", panel=_MACHINE, type=click.IntRange(16), show_default="what the tests need",
              help="Tokens per slot.")  # fmt: skip
@click.option(
    "--output",
    "-o",
    panel=_RESULT,
    type=click.Path(path_type=Path),
    help="Write engine.json or engine-synthetic.json into this folder.",
)
@click.option("--baseline", panel=_RESULT, type=click.Path(path_type=Path),
              help="Compare with this result; exit code 3 if slower.")  # fmt: skip
@click.option("--threshold", panel=_RESULT, type=click.FloatRange(0), default=5.0, show_default=True,
              help="Per cent of change that counts.")  # fmt: skip
@click.option("--markdown", "output_format", panel=_RESULT, flag_value="markdown", help="Print Markdown.")
@click.option("--json", "output_format", panel=_RESULT, flag_value="json", help="Print JSON.")
def engine_command(model: Path | None, **values: Any) -> None:  # noqa: ANN401 - typed by EngineFlags at once
    """Measure the runtime of MODEL: prefill and decode speed, memory, and where each step's time goes."""
    from bench.commands.engine_run import EngineFlags, run_engine

    run_engine(model, EngineFlags(**values))
