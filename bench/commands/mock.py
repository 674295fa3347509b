"""`powertrain bench mock`: a chat endpoint with exact latencies or chosen faults; its words and flags."""

from __future__ import annotations

from typing import Any

import rich_click as click
from runtime.commands.help_text import examples

_TIMES, _ANSWERS, _FAULTS = "Times", "Answers", "Faults"


@click.command(
    "mock", epilog=examples("powertrain bench mock --ttft-ms 50 --itl-ms 12.8", "powertrain bench mock --port 0")
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8001, show_default=True, help="0 chooses a free one.")
@click.option("--ttft-ms", panel=_TIMES, type=click.FloatRange(0), default=10.0, show_default=True,
              help="Time to first token.")  # fmt: skip
@click.option("--itl-ms", panel=_TIMES, type=click.FloatRange(0), default=5.0, show_default=True,
              help="Time between tokens.")  # fmt: skip
@click.option("--output-tokens", panel=_ANSWERS, type=click.IntRange(1), default=64, show_default=True,
              help="Where the request names no limit.")  # fmt: skip
@click.option("--tokens-per-chunk", panel=_ANSWERS, type=click.IntRange(1), default=1, show_default=True,
              help="Tokens sent in one event.")  # fmt: skip
@click.option("--reasoning-tokens", panel=_ANSWERS, type=click.IntRange(0), default=0, show_default=True,
              help="First tokens sent as reasoning.")  # fmt: skip
@click.option("--model", panel=_ANSWERS, default="mock", show_default=True, help="The name that is served.")
@click.option("--usage/--no-usage", panel=_ANSWERS, default=True, show_default=True, help="Report token counts.")
@click.option("--stream/--no-stream", panel=_ANSWERS, default=True, show_default=True, help="Honour stream=true.")
@click.option("--metrics/--no-metrics", panel=_ANSWERS, default=True, show_default=True, help="Serve /metrics.")
@click.option("--max-concurrency", panel=_FAULTS, type=click.IntRange(0), default=0, show_default=True,
              help="Answer 429 above it; 0 is no limit.")  # fmt: skip
@click.option("--cut-after-chunks", panel=_FAULTS, type=click.IntRange(-1), default=-1, show_default=True,
              help="Break the connection there; -1 never.")  # fmt: skip
@click.option("--error-after-chunks", panel=_FAULTS, type=click.IntRange(-1), default=-1, show_default=True,
              help="Send an error event there; -1 never.")  # fmt: skip
@click.option("--fault-every", panel=_FAULTS, type=click.IntRange(1), default=1, show_default=True,
              help="Only every k-th request misbehaves.")  # fmt: skip
def mock_command(host: str, port: int, **values: Any) -> None:  # noqa: ANN401 - the fields of MockBehaviour
    """Serve a chat endpoint with exact latencies, or with chosen faults, to try a client or this benchmark on."""
    from bench.commands.mock_run import run_mock
    from bench.proof.mock_server import MockBehaviour

    run_mock(host, port, MockBehaviour(**values))
