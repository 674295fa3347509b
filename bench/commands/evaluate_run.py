"""What `powertrain eval` does: opens a package, evaluates it, prints the tables and holds them to the gates."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import rich_click as click
from rich.console import Console
from runtime.errors import PowertrainError
from runtime.loading.backend import backend_choices
from runtime.loading.first_that_loads import FirstThatLoads
from runtime.loading.model_loader import ModelOptions
from runtime.package.manifest import MANIFEST_FILE, Package, load_package
from runtime.package.package_file import sha256_of_file
from runtime.session.session import Session
from runtime.text.tokenizer import Tokenizer

from bench.commands.progress import progress
from bench.commands.written import say_written
from bench.environment import environment
from bench.errors import BenchError
from bench.evaluation.evaluate import Evaluation, evaluate, paired_change
from bench.evaluation.scorer import Scorer
from bench.evaluation.tables import change_table, evaluation_table, load_evaluation
from bench.evaluation.task import prose, questions
from bench.report.exports import check_writable, write_whole
from bench.report.tables import Table, report_console

EXIT_WORSE = 4
RESULT_FILE = "eval.json"
_MODEL_LEN, _LM_EVAL_MODEL_LEN = 1024, 4096


class EvalFlags(msgspec.Struct, frozen=True):
    """The options of the command as given; one field per option."""

    min_accuracy: float | None
    max_perplexity: float | None
    max_bits_per_byte: float | None
    baseline: Path | None
    max_lost: int | None
    lm_eval_tasks: str | None
    include_path: Path | None
    limit: int | None
    num_fewshot: int | None
    backend: str
    threads: int | None
    max_model_len: int | None
    output: Path | None
    output_format: str | None


def run_eval(path: Path, flags: EvalFlags) -> None:
    """Evaluate, write and print. Ends the process with ``EXIT_WORSE`` when a gate does not hold."""
    try:
        check_writable(flags.output)
        broken = _run_lm_eval(path, flags) if flags.lm_eval_tasks else _run_own(path, flags)
    except OSError as error:
        raise click.ClickException(f"cannot write the result: {error.strerror}") from error
    except PowertrainError as error:
        raise click.ClickException(str(error)) from error
    if broken:
        Console(stderr=True, soft_wrap=True, highlight=False).print("\n".join(broken), markup=False)
        sys.exit(EXIT_WORSE)


def _run_own(path: Path, flags: EvalFlags) -> list[str]:
    if flags.max_lost is not None and flags.baseline is None:
        raise click.UsageError("--max-lost counts against a --baseline: name one")
    for name in ("include_path", "limit", "num_fewshot"):
        if getattr(flags, name) is not None:
            raise click.UsageError(f"--{name.replace('_', '-')} is for --lm-eval: name its tasks")
    baseline = load_evaluation(flags.baseline) if flags.baseline else None
    package = load_package(path)
    with _opened(package, flags, _MODEL_LEN) as (session, scorer, _), progress() as show:
        result = evaluate(
            scorer,
            questions(),
            prose(),
            model=package.manifest.name,
            manifest_sha256=sha256_of_file(package.root / MANIFEST_FILE),
            backend=session.info.backend,
            environment=environment(),
            show=show,
        )
    if flags.output is not None:
        target = flags.output / RESULT_FILE
        write_whole(target, msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
        say_written(target)
    _print(result, baseline, flags)
    return broken_gates(result, baseline, flags)


def broken_gates(result: Evaluation, baseline: Evaluation | None, flags: EvalFlags) -> list[str]:
    """A line for each gate that does not hold."""
    lines = []
    if flags.min_accuracy is not None and result.accuracy < flags.min_accuracy:
        lines.append(f"accuracy is {result.accuracy:.3f}, at least {flags.min_accuracy} is asked for")
    for name, limit in (("perplexity", flags.max_perplexity), ("bits_per_byte", flags.max_bits_per_byte)):
        value = getattr(result, name)
        if limit is not None and value > limit:
            lines.append(f"{name.replace('_', ' ')} is {value:.4f}, at most {limit} is allowed")
    if baseline is not None and flags.max_lost is not None:
        change = paired_change(result, baseline)
        if change.lost - change.gained > flags.max_lost:
            lines.append(
                f"{change.lost} questions are lost and {change.gained} gained, a loss of {flags.max_lost} is allowed"
            )
    return lines


def _print(result: Evaluation, baseline: Evaluation | None, flags: EvalFlags) -> None:
    tables = [evaluation_table(result)]
    if baseline is not None:
        tables.append(change_table(paired_change(result, baseline), baseline))
    if flags.output_format == "json":
        sys.stdout.buffer.write(msgspec.json.encode(result) + b"\n")
    else:
        _print_tables(tables, flags)


def _print_tables(tables: list[Table], flags: EvalFlags) -> None:
    if flags.output_format == "markdown":
        sys.stdout.write("\n".join(table.markdown() for table in tables))
        return
    console = report_console()
    for table in tables:
        console.print(table.rich())


def _run_lm_eval(path: Path, flags: EvalFlags) -> list[str]:
    for name in ("min_accuracy", "max_perplexity", "max_bits_per_byte", "baseline", "max_lost"):
        if getattr(flags, name) is not None:
            raise click.UsageError(f"--{name.replace('_', '-')} holds for the questions that come with powertrain only")
    try:
        from lm_eval import simple_evaluate
        from lm_eval.tasks import TaskManager

        from bench.evaluation.greedy_text import GreedyText
        from bench.evaluation.lm_eval_model import ScoredModel
    except ImportError as error:
        raise BenchError("lm-eval is not installed beside powertrain; run 'pip install lm-eval' there") from error
    tasks = [task.strip() for task in (flags.lm_eval_tasks or "").split(",") if task.strip()]
    manager = TaskManager(include_path=str(flags.include_path) if flags.include_path else None)
    unknown = [task for task in tasks if task not in manager.all_tasks]
    if unknown:
        raise BenchError(f"lm-eval knows no task {unknown[0]!r}; --include-path names a folder of task files")
    package = load_package(path)
    with _opened(package, flags, _LM_EVAL_MODEL_LEN) as (session, scorer, tokenizer):
        writer = GreedyText(session, tokenizer, frozenset(package.manifest.stop_token_ids))

        def generate(context: str, stops: Sequence[str], max_tokens: int) -> str:
            scorer.forget()
            return writer.after(context, stops, max_tokens)

        found = simple_evaluate(
            model=ScoredModel(scorer, generate),
            tasks=tasks,
            task_manager=manager,
            limit=flags.limit,
            num_fewshot=flags.num_fewshot,
        )
    results = found["results"] if found else {}
    if flags.output is not None:
        write_whole(flags.output / RESULT_FILE, msgspec.json.encode({"results": results}, enc_hook=_plain) + b"\n")
        say_written(flags.output / RESULT_FILE)
    if flags.output_format == "json":
        sys.stdout.buffer.write(msgspec.json.encode(results, enc_hook=_plain) + b"\n")
    else:
        _print_tables([_lm_eval_table(package.manifest.name, results)], flags)
    return []


def _plain(value: object) -> object:
    """What is not JSON in lm-eval's results: numbers of numpy, functions of metrics."""
    return value.item() if isinstance(value, np.generic) else str(value)


def _lm_eval_table(model: str, results: dict[str, dict[str, Any]]) -> Table:
    rows = []
    for task, values in results.items():
        for name, value in values.items():
            metric, _, variant = name.partition(",")
            if isinstance(value, float) and not metric.endswith("_stderr"):
                error = values.get(f"{metric}_stderr,{variant}")
                spread = f"{error:.4f}" if isinstance(error, float) else "-"
                rows.append((task, metric, f"{value:.4f}", spread))
    return Table(f"{model}: lm-eval", ("task", "metric", "value", "standard error"), tuple(rows), left=("metric",))


@contextmanager
def _opened(package: Package, flags: EvalFlags, model_len: int) -> Iterator[tuple[Session, Scorer, Tokenizer]]:
    """The package's session with one slot, what scores with it, and its tokenizer."""
    length = min(flags.max_model_len or model_len, package.manifest.max_model_len)
    options = ModelOptions(num_slots=1, max_model_len=length, threads=flags.threads)
    tokenizer = Tokenizer.from_package(package)

    def encode(text: str) -> list[int]:
        return tokenizer.encode_plain(text, add_special_tokens=True)

    session = FirstThatLoads(package, options, backend_choices(package, flags.backend)).build()
    try:
        yield session, Scorer(session, encode, package.manifest.stop_token_ids[0]), tokenizer
    finally:
        session.close()
