"""An evaluation as tables, and as the file that a later one is compared with. Scores and decides nothing."""

from __future__ import annotations

from pathlib import Path

import msgspec

from bench.errors import BenchError, unreadable
from bench.evaluation.evaluate import SCHEMA, SCHEMA_VERSION, Evaluation, PairedChange
from bench.evaluation.task import TASK_NAME
from bench.report.tables import Table


def evaluation_table(result: Evaluation) -> Table:
    """The figures of one package."""
    rows = (
        ("accuracy", f"{result.accuracy:.3f} ± {result.accuracy_error:.3f}", f"{result.num_questions} questions"),
        ("accuracy per byte", f"{result.accuracy_per_byte:.3f}", "log-probabilities / the choices' bytes"),
        ("perplexity", f"{result.perplexity:.2f}", f"{result.num_prose_tokens} tokens of prose"),
        ("bits per byte", f"{result.bits_per_byte:.4f}", "the same, whatever the tokenizer"),
    )
    return Table(f"{result.model} on {result.backend}: {result.task}", ("figure", "value", "of"), rows, left=("of",))


def change_table(change: PairedChange, baseline: Evaluation) -> Table:
    """What changed against the baseline."""
    rows = (
        ("questions lost, gained", f"{change.lost}, {change.gained}"),
        ("p (McNemar, exact)", f"{change.p_value:.3f}"),
        ("perplexity / baseline's", f"{change.perplexity_ratio:.4f}"),
    )
    return Table(f"Against {baseline.model} on {baseline.backend}", ("figure", "value"), rows)


def load_evaluation(path: Path) -> Evaluation:
    """An earlier result. Raises BenchError when the file is none, or of other questions."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Evaluation)
    except OSError as error:
        raise unreadable(path, error) from error
    except msgspec.MsgspecError as error:
        raise BenchError(f"{path.name} is no result of 'powertrain eval --json': {error}") from error
    if (found.schema, found.schema_version, found.task) != (SCHEMA, SCHEMA_VERSION, TASK_NAME):
        raise BenchError(
            f"{path.name} holds {found.task!r} in version {found.schema_version}; it is compared with {TASK_NAME!r} in "
            f"version {SCHEMA_VERSION} only: evaluate the baseline again"
        )
    return found
