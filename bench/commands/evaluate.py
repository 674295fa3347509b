"""`powertrain eval`: its words and flags. Evaluating is evaluate_run's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click
from runtime.commands.comma_list import COMMA_LIST
from runtime.commands.help_text import examples
from runtime.commands.model_argument import MODEL

_GATES, _LM_EVAL, _MACHINE, _RESULT = "Gates", "Tasks of lm-eval", "Machine", "Result"


@click.command(
    "eval",
    epilog=examples(
        "powertrain eval smollm2-135m-instruct",
        "powertrain eval models/mine --min-accuracy 0.6 --max-bits-per-byte 1.2",
        "powertrain eval models/mine-int4 --baseline results/eval.json --max-lost 3",
        "powertrain eval models/mine --lm-eval arc_easy,hellaswag --limit 200",
    ),
)
@click.argument("model", type=MODEL)
@click.option("--min-accuracy", panel=_GATES, type=click.FloatRange(0, 1), help="Status 4 below this share.")
@click.option("--max-perplexity", panel=_GATES, type=click.FloatRange(1), help="Status 4 above it.")
@click.option("--max-bits-per-byte", panel=_GATES, type=click.FloatRange(0), help="Status 4 above it.")
@click.option("--baseline", panel=_GATES, type=click.Path(path_type=Path),
              help="Compare with this result, question by question.")  # fmt: skip
@click.option("--max-lost", panel=_GATES, type=click.IntRange(0),
              help="Status 4 if more questions than this are lost than gained against the baseline.")  # fmt: skip
@click.option("--lm-eval", "lm_eval_tasks", panel=_LM_EVAL, **COMMA_LIST,
              help="Run these tasks of lm-eval, which must be installed beside powertrain, instead.")  # fmt: skip
@click.option("--include-path", panel=_LM_EVAL, type=click.Path(path_type=Path), help="Folder of task files.")
@click.option("--limit", panel=_LM_EVAL, type=click.IntRange(1), help="Documents of each task.")
@click.option("--num-fewshot", panel=_LM_EVAL, type=click.IntRange(0), help="Examples before each document.")
@click.option("--backend", panel=_MACHINE, default="cpu", show_default=True,
              help="What runs the model, as in 'powertrain serve'.")  # fmt: skip
@click.option("--threads", "-t", panel=_MACHINE, type=click.IntRange(1), show_default="physical cores",
              help="Threads of the arithmetic.")  # fmt: skip
@click.option("--max-model-len", panel=_MACHINE, type=click.IntRange(128), show_default="1024; 4096 with --lm-eval",
              help="Tokens that a text may have.")  # fmt: skip
@click.option("--output", "-o", panel=_RESULT, type=click.Path(path_type=Path),
              help="Write eval.json into this folder.")  # fmt: skip
@click.option("--markdown", "output_format", panel=_RESULT, flag_value="markdown", help="Print Markdown.")
@click.option("--json", "output_format", panel=_RESULT, flag_value="json", help="Print JSON.")
def eval_command(model: Path, **values: Any) -> None:  # noqa: ANN401 - typed by EvalFlags at once
    """Ask MODEL 120 questions and let it predict some prose: what a build may not lose."""
    from bench.commands.evaluate_run import EvalFlags, run_eval

    run_eval(model, EvalFlags(**values))
