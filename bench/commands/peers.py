"""`powertrain bench peers`: this runtime against others on the same weights; its words and flags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click
from runtime.commands.comma_list import COMMA_LIST
from runtime.commands.help_text import examples
from runtime.commands.model_argument import MODEL

_HTTP, _IN_PROCESS = "Over HTTP, beside llama.cpp's server", "In process, beside OpenVINO and ONNX Runtime GenAI"


@click.command("peers", epilog=examples("powertrain bench peers smollm2-135m-instruct --gguf smollm2.gguf"))
@click.argument("model", type=MODEL)
@click.option("--gguf", type=click.Path(path_type=Path), required=True, help="The checkpoint that MODEL was made of.")
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True, help="Rounds.")
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), default=Path("bench/results/peers"), show_default=True,
    help="Folder of the report, where the peers are also built or installed, once.",
)  # fmt: skip
@click.option("--markdown", "output_format", flag_value="markdown", help="Print Markdown.")
@click.option("--formats", panel=_HTTP, default=("same-file,Q8_0",), **COMMA_LIST, show_default=True,
              help="What llama.cpp reads; Q4_0, Q8_0, ...")  # fmt: skip
@click.option("--concurrency", "-c", panel=_HTTP, default=("1,16",), **COMMA_LIST, show_default=True,
              help="Users at a time.")  # fmt: skip
@click.option("--request-count", panel=_HTTP, type=click.IntRange(1), default=32, show_default=True,
              help="Requests per load.")  # fmt: skip
@click.option("--in-process", panel=_IN_PROCESS, is_flag=True, help="One request at a time, without HTTP.")
@click.option("--genai", "precisions", panel=_IN_PROCESS, default=("int8,int4",), **COMMA_LIST, show_default=True,
              help="What ONNX Runtime GenAI's builder makes; int8, int4 or none.")  # fmt: skip
def peers_command(model: Path, **values: Any) -> None:  # noqa: ANN401 - typed by PeersFlags at once
    """Measure MODEL and other runtimes, built or installed here in pinned versions, in one interleaved run."""
    from bench.commands.peers_run import PeersFlags, run_peers

    run_peers(model, PeersFlags(**values))
