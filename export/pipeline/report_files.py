"""Which forms a build's report has, by the ending of a file's name, and its writing. What is in them is theirs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from export.errors import PipelineError, StepError
from export.pipeline.build_report import BuildReport, report_json
from export.pipeline.junit import report_junit
from export.pipeline.markdown import report_markdown

_FORMS: dict[str, Callable[[BuildReport, BuildReport | None], bytes]] = {
    ".json": lambda report, _: report_json(report),
    ".xml": lambda report, _: report_junit(report),
    ".md": lambda report, baseline: report_markdown(report, baseline).encode(),
}


def check_report_path(path: Path) -> None:
    """Raise PipelineError for a name whose ending says no form, and for a folder."""
    if path.suffix.lower() not in _FORMS:
        raise PipelineError(
            f"--report {path}: its ending says no form; give .json, .xml (JUnit) or .md (for a pull request)"
        )
    if path.is_dir():
        raise PipelineError(f"--report {path} is a folder; name a file")


def write_report(path: Path, report: BuildReport, baseline: BuildReport | None) -> None:
    """Write it whole or not at all, its folder made if needed. Raises StepError if that cannot be."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(_FORMS[path.suffix.lower()](report, baseline))
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise StepError(f"--report {path} cannot be written: {error.strerror}") from error
