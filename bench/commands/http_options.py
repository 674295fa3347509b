"""The options that `bench http` and `bench compare` share, named as in AIPerf and vLLM's benchmark where those agree.

Declares them only; bench/commands/http_flags.py gives them meaning.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import rich_click as click
from runtime.commands.comma_list import COMMA_LIST
from runtime.commands.model_argument import MODEL_OR_FILE

_Command = TypeVar("_Command", bound=Callable[..., Any])

_POSITIVE = click.FloatRange(0, min_open=True)
_NOT_NEGATIVE = click.FloatRange(0)
_COUNT = click.IntRange(1)
_COUNT_OR_NONE = click.IntRange(0)
_PATH = click.Path(path_type=Path)

ARRIVAL_PATTERNS = ("poisson", "constant", "gamma")
"""The values of ``bench.http.arrivals.ArrivalPattern``, which would cost a help page the import of numpy."""


def _opt(*names: str, **more: Any) -> tuple[tuple[str, ...], dict[str, Any]]:  # noqa: ANN401 - click's own
    return names, more


_OPTIONS = {
    "Endpoint": (
        _opt("--model", "-m", multiple=True, help="Model name to ask for; once, or once per target."),
        _opt("--api-key-file", type=_PATH, help="File whose first line is sent as bearer token."),
        _opt("--header", "-H", multiple=True, help="Extra header 'Name: value'."),
        _opt("--insecure", is_flag=True, help="Do not verify the endpoint's TLS certificate."),
        _opt("--timeout", type=_POSITIVE, default=600.0, help="Seconds per request."),
        _opt("--connection-reuse/--no-connection-reuse", default=True, help="Keep connections open between requests."),
    ),
    "Load": (
        _opt(
            "--concurrency",
            "-c",
            **COMMA_LIST,
            help="Closed loop: that many at once; a list such as 1,4,16 is a sweep.",
            show_default="1",
        ),
        _opt("--request-rate", **COMMA_LIST, help="Open loop: requests per second; a list is a sweep."),
        _opt(
            "--arrival-pattern",
            type=click.Choice(ARRIVAL_PATTERNS),
            default="poisson",
            help="How requests of an open loop are spaced.",
        ),
        _opt("--burstiness", type=_POSITIVE, default=1.0, help="Gamma shape; 1 = Poisson."),
        _opt("--max-concurrency", type=_COUNT, help="Bound of an open loop; the rest waits in the client."),
        _opt("--ramp-up", type=_NOT_NEGATIVE, default=0.0, help="Seconds until full concurrency or rate."),
        _opt(
            "--request-count",
            "--num-prompts",
            "request_count",
            type=_COUNT,
            help="Measured requests.",
            show_default="20, or 4 per user or 10 s of a rate",
        ),
        _opt("--benchmark-duration", type=_POSITIVE, help="Seconds of issuing requests."),
        _opt("--benchmark-grace-period", type=_NOT_NEGATIVE, default=30.0, help="Seconds for the last ones."),
        _opt(
            "--warmup-request-count",
            "--num-warmups",
            "warmup_request_count",
            type=_COUNT_OR_NONE,
            default=0,
            help="Unmeasured requests at the start.",
        ),
        _opt("--cooldown-request-count", type=_COUNT_OR_NONE, default=0, help="Unmeasured requests at the end."),
        _opt("--repeats", "--num-profile-runs", "repeats", type=_COUNT, default=1, help="Interleaved."),
        _opt("--seed", type=int, default=0, help="Of prompts, lengths and arrivals."),
        _opt("--max-errors", type=_COUNT, help="Stop after that many failures; results are kept."),
    ),
    "Prompts and answers": (
        _opt("--prompt-tokens", "--isl", "prompt_tokens", default="128", help="Prompt length: N, LOW-HIGH, MEAN+-STD."),
        _opt(
            "--output-tokens",
            "--osl",
            "output_tokens",
            help="Answer limit, same forms.",
            show_default="64, or as recorded",
        ),
        _opt("--prompt-file", type=_PATH, help="Prompts are pieces of this text file."),
        _opt("--chats", type=_PATH, help="Recorded chats in JSONL (ShareGPT, messages or prompt)."),
        _opt("--trace", type=_PATH, help="Trace in JSONL with timestamps (ms) to replay."),
        _opt("--trace-speedup", type=_POSITIVE, default=1.0, help="Replay so many times as fast."),
        _opt("--turns", type=_COUNT, default=1, help="Turns per conversation, with history."),
        _opt("--think-time", type=_NOT_NEGATIVE, default=0.0, help="Seconds between turns."),
        _opt("--shared-prefix-tokens", type=_COUNT_OR_NONE, default=0, help="Length of a common system message."),
        _opt("--shared-prefix-share", type=click.FloatRange(0, 1), default=1.0, help="Share of requests with it."),
        _opt("--tokenizer", type=MODEL_OR_FILE, help="tokenizer.json or package: exact lengths and own token counts."),
    ),
    "Request body": (
        _opt("--ignore-eos/--no-ignore-eos", default=False, help="Ask for answers of exactly the asked length."),
        _opt("--temperature", type=float, default=0.0, help="Sent with every request."),
        _opt("--no-temperature", is_flag=True, help="Do not send a temperature."),
        _opt("--usage/--no-usage", default=True, help="Ask for token counts with stream_options."),
        _opt("--continuous-usage", is_flag=True, help="Ask for running counts: exact tokens per chunk."),
        _opt("--extra-body", help="JSON object merged into every request body."),
    ),
    "Disturbances": (
        _opt("--request-cancellation-rate", type=click.FloatRange(0, 100), default=0.0, help="Per cent that leave."),
        _opt("--request-cancellation-delay", type=_NOT_NEGATIVE, default=0.0, help="Seconds until they do."),
        _opt("--stall-probe-tokens", type=_COUNT_OR_NONE, default=0, help="Long prompts sent beside the load."),
        _opt("--stall-probe-interval", type=_POSITIVE, default=2.0, help="Seconds between."),
    ),
    "Objectives and results": (
        _opt(
            "--server-metrics/--no-server-metrics",
            default=True,
            help="Read the endpoint's /metrics once a second, for the report.",
        ),
        _opt("--goodput", **COMMA_LIST, help="Objectives in ms, such as 'ttft:200 tpot:50'."),
        _opt("--slo", help="Objectives by preset, such as mlperf-llama3.1-8b-server."),
        _opt(
            "--percentile-metrics",
            **COMMA_LIST,
            help="Rows of the latency table, such as ttft,tpot,itl,request_latency.",
        ),
        _opt("--metric-percentiles", **COMMA_LIST, help="Columns, such as mean,p50,p99 or 50,99."),
        _opt(
            "--output",
            "-o",
            type=_PATH,
            help="Write report.json, .html, .csv, .md and requests.jsonl into this folder.",
        ),
        _opt("--markdown", "output_format", flag_value="markdown", help="Print Markdown."),
        _opt("--json", "output_format", flag_value="json", help="Print the report as JSON."),
        _opt("--plots", is_flag=True, help="Also write PNG and SVG files (needs matplotlib)."),
        _opt("--explain", is_flag=True, help="Print each metric's formula with the tables."),
        _opt("--title", help="Title of the report."),
    ),
}
"""A panel of the help page, and the names and settings of its options."""


def shared_options(command: _Command) -> _Command:
    """Attach every shared option to a command; the help page shows each default."""
    options = [(panel, names, more) for panel, members in _OPTIONS.items() for names, more in members]
    for panel, names, more in reversed(options):
        shown = {"show_default": "default" in more, **more}
        command = click.option(*names, panel=panel, **shown)(command)
    return command
