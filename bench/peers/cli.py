"""`powertrain bench peers`: this runtime against llama.cpp's server on the same weights, in one interleaved run."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

import rich_click as click
from rich.console import Console
from runtime.errors import PowertrainError
from runtime.manifest import read_manifest
from runtime.model_loader import default_threads

from bench.errors import BenchError
from bench.http_cli import compare_command
from bench.peers import llama_cpp
from bench.peers.in_process import compare_in_process
from bench.server_process import free_port, running_server

_SLOTS = 16
_SLOT_TOKENS = 512
_OURS = "powertrain"
_REQUEST = ("--prompt-tokens", "130", "--output-tokens", "64", "--ignore-eos", "--warmup-request-count", "2")
SAME_FILE = "same-file"


@click.command("peers")
@click.argument("package", type=click.Path(path_type=Path))
@click.option("--gguf", type=click.Path(path_type=Path), required=True, help="The checkpoint that PACKAGE was made of.")
@click.option("--formats", default=f"{SAME_FILE},Q8_0", show_default=True, help="What llama.cpp reads; Q4_0, Q8_0, ...")
@click.option("--work-dir", type=click.Path(path_type=Path), default=Path("bench/results/peers"), show_default=True)
@click.option("--concurrency", "-c", default="1,16", show_default=True)
@click.option("--request-count", type=click.IntRange(1), default=32, show_default=True)
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True)
@click.option("--in-process", is_flag=True, help="Single-stream latency beside OpenVINO GenAI, without HTTP.")
@click.option("--markdown", "output_format", flag_value="markdown", help="Print Markdown.")
def peers_command(
    package: Path,
    gguf: Path,
    formats: str,
    work_dir: Path,
    *,
    concurrency: str,
    request_count: int,
    repeats: int,
    in_process: bool,
    output_format: str | None,
) -> None:
    """Measure PACKAGE and llama.cpp (built here from its pinned sources) in one interleaved run over HTTP."""
    console = Console(stderr=True)
    try:
        if not gguf.is_file():
            raise BenchError(f"no checkpoint at {gguf}; give the GGUF file that the package was made of")
        if in_process:
            table = compare_in_process(
                package, gguf, work_dir, threads=default_threads(), rounds=repeats, say=lambda text: _say(console, text)
            )
            Console().print(table.markdown() if output_format == "markdown" else table.rich())
            return
        llama = llama_cpp.build(work_dir, lambda text: _say(console, text))
        served = {}
        for kind in formats.split(","):
            model = gguf if kind == SAME_FILE else llama.quantize(gguf, kind, work_dir)
            served[f"llama.cpp-{kind}"] = model
        load = ["-c", concurrency, "--request-count", str(request_count), "--cooldown-request-count", str(_SLOTS)]
        with ExitStack() as stack:
            words = _start(stack, package, llama, served)
            words += [*load, *_REQUEST, "--tokenizer", str(package), "--repeats", str(repeats)]
            words += ["-o", str(work_dir / "report"), "--title", f"{package.name} and its peers"]
            if output_format == "markdown":
                words.append("--markdown")
            compare_command.main(words, standalone_mode=False)
    except PowertrainError as error:
        raise click.ClickException(str(error)) from error


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False)


def _start(stack: ExitStack, package: Path, llama: llama_cpp.LlamaCpp, served: dict[str, Path]) -> list[str]:
    """Start every server; what compares them: labelled URLs and a model name for each. Idle servers use no CPU."""
    threads = default_threads()
    port = free_port()
    ours = [sys.executable, "-m", "powertrain", "serve", str(package), "--host", "127.0.0.1", "--port", str(port)]
    words = [f"{_OURS}={stack.enter_context(running_server(ours, port, '/health/ready'))}"]
    models = ["-m", read_manifest(package).served_names[0]]
    for label, model in served.items():
        port = free_port()
        command = llama.server(model, label, port, slots=_SLOTS, slot_tokens=_SLOT_TOKENS, threads=threads)
        words.append(f"{label}={stack.enter_context(running_server(command, port, '/health'))}")
        models += ["-m", label]
    return [*words, *models]
