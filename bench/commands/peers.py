"""`powertrain bench peers`: this runtime against others on the same weights, in one interleaved run."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

import rich_click as click
from rich.console import Console
from runtime.defaults import DEFAULT_SLOTS
from runtime.errors import PowertrainError
from runtime.loading.model_loader import default_threads
from runtime.package.manifest import read_manifest, sha256_of_file

from bench.commands.http import compare_command
from bench.errors import BenchError
from bench.http.server_process import free_port, own_server, running_server
from bench.peers import genai, llama_cpp
from bench.peers.in_process import compare_in_process
from bench.peers.terms import OUTPUT_TOKENS, PROMPT_TOKENS
from bench.report.tables import report_console

_SLOT_TOKENS = 512
_OURS = "powertrain"
_LENGTHS = ("--prompt-tokens", str(PROMPT_TOKENS), "--output-tokens", str(OUTPUT_TOKENS), "--ignore-eos")
_REQUEST = (*_LENGTHS, "--warmup-request-count", "2")
SAME_FILE = "same-file"


@click.command("peers")
@click.argument("package", type=click.Path(path_type=Path))
@click.option("--gguf", type=click.Path(path_type=Path), required=True, help="The checkpoint that PACKAGE was made of.")
@click.option(
    "--formats", default=f"{SAME_FILE},Q8_0", show_default=True, help="HTTP: what llama.cpp reads; Q4_0, Q8_0, ..."
)
@click.option("--concurrency", "-c", default="1,16", show_default=True, help="HTTP: users at a time.")
@click.option("--request-count", type=click.IntRange(1), default=32, show_default=True, help="HTTP: requests per load.")
@click.option(
    "--in-process", is_flag=True, help="One request at a time, without HTTP: OpenVINO and ONNX Runtime GenAI."
)
@click.option(
    "--genai", "precisions", default="int8,int4", show_default=True,
    help="In process: what ONNX Runtime GenAI's builder makes; int8, int4 or none.",
)  # fmt: skip
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True, help="Rounds.")
@click.option(
    "--work-dir", type=click.Path(path_type=Path), default=Path("bench/results/peers"), show_default=True,
    help="Where the peers are built or installed, once.",
)  # fmt: skip
@click.option("--markdown", "output_format", flag_value="markdown", help="Print Markdown.")
def peers_command(
    package: Path,
    gguf: Path,
    work_dir: Path,
    output_format: str | None,
    *,
    formats: str,
    concurrency: str,
    request_count: int,
    in_process: bool,
    precisions: str,
    repeats: int,
) -> None:
    """Measure PACKAGE and other runtimes, built or installed here in pinned versions, in one interleaved run."""
    try:
        check_checkpoint(package, gguf)
        work_dir.mkdir(parents=True, exist_ok=True)
        if in_process:
            threads, chosen = default_threads(), genai.parse_precisions(precisions)
            table = compare_in_process(
                package, gguf, work_dir, precisions=chosen, threads=threads, rounds=repeats, say=_say
            )
            if output_format == "markdown":
                sys.stdout.write(table.markdown())
            else:
                report_console().print(table.rich())
        else:
            load = ["-c", concurrency, "--request-count", str(request_count), "--repeats", str(repeats)]
            load += ["--markdown"] if output_format == "markdown" else []
            _compare_over_http(package, gguf, work_dir, formats.split(","), load)
    except PowertrainError as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"cannot use {error.filename or work_dir}: {error.strerror}") from error


def check_checkpoint(package: Path, gguf: Path) -> None:
    """Raise BenchError unless ``gguf`` is there and, if the package came of a GGUF file, is that file."""
    if not gguf.is_file():
        raise BenchError(f"no checkpoint at {gguf}; give the GGUF file that the package was made of")
    source = read_manifest(package).source
    if source.kind == "gguf" and sha256_of_file(gguf) != source.sha256:
        raise BenchError(f"{gguf.name} is not the checkpoint that {package.name} was made of ({source.name})")


def _compare_over_http(package: Path, gguf: Path, work_dir: Path, formats: list[str], load: list[str]) -> None:
    llama = llama_cpp.build(work_dir, _say)
    served = {
        f"llama.cpp-{kind}": gguf if kind == SAME_FILE else llama.quantize(gguf, kind, work_dir) for kind in formats
    }
    with ExitStack() as stack:
        words = _start(stack, package, llama, served)
        words += [*load, "--cooldown-request-count", str(DEFAULT_SLOTS), *_REQUEST, "--tokenizer", str(package)]
        words += ["-o", str(work_dir / "report"), "--title", f"{package.name} and its peers"]
        compare_command.main(words, standalone_mode=False)


def _say(text: str) -> None:
    Console(stderr=True).print(text, highlight=False, markup=False)


def _start(stack: ExitStack, package: Path, llama: llama_cpp.LlamaCpp, served: dict[str, Path]) -> list[str]:
    """Start every server; what compares them: labelled URLs and a model name for each. Idle servers use no CPU."""
    threads = default_threads()
    port = free_port()
    words = [f"{_OURS}={stack.enter_context(running_server(own_server(package, port), port, '/health/ready'))}"]
    models = ["-m", read_manifest(package).served_names[0]]
    for label, model in served.items():
        port = free_port()
        command = llama.server(model, label, port, slots=DEFAULT_SLOTS, slot_tokens=_SLOT_TOKENS, threads=threads)
        words.append(f"{label}={stack.enter_context(running_server(command, port, '/health'))}")
        models += ["-m", label]
    return [*words, *models]
