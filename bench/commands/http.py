"""`powertrain bench http` and `powertrain bench compare`: their words and flags. Measuring is http_run's."""

from __future__ import annotations

from typing import Any

import rich_click as click
from runtime.commands.help_text import examples

from bench.commands.http_options import shared_options

_EXAMPLES = (
    "powertrain bench http http://127.0.0.1:8000",
    "powertrain bench http http://127.0.0.1:8000 -c 1,4,16 --isl 130 --osl 64 --ignore-eos -o results",
    "powertrain bench http http://127.0.0.1:8000 --request-rate 2,4 --goodput 'ttft:200 tpot:50'",
)


@click.command("http", epilog=examples(*_EXAMPLES))
@click.argument("url", required=False)
@shared_options
def http_command(url: str | None, **values: Any) -> None:  # noqa: ANN401 - typed by HttpFlags at once
    """Measure an OpenAI-compatible chat endpoint at URL (http://HOST:PORT[/v1])."""
    from bench.commands.http_flags import flags_from
    from bench.commands.http_run import print_formulas, run_command
    from bench.report.tables import report_console

    flags = flags_from(values)
    if url is None:
        if not flags.explain:
            raise click.UsageError("give the endpoint's URL, such as http://127.0.0.1:8000")
        print_formulas(report_console())
        return
    run_command([url], flags)


@click.command("compare", epilog=examples("powertrain bench compare a=http://127.0.0.1:8000 b=http://127.0.0.1:8001"))
@click.argument("urls", nargs=-1, required=True)
@shared_options
def compare_command(urls: tuple[str, ...], **values: Any) -> None:  # noqa: ANN401 - typed by HttpFlags at once
    """Measure several endpoints in one interleaved run; each is URL or LABEL=URL, the first is the baseline."""
    from bench.commands.http_flags import flags_from
    from bench.commands.http_run import run_command

    if len(urls) < 2:
        raise click.UsageError("give at least two endpoints to compare")
    run_command(urls, flags_from(values))
