"""What `powertrain bench peers` does: this runtime against others on the same weights, in one interleaved run."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

import msgspec
import rich_click as click
from rich.console import Console
from runtime.defaults import DEFAULT_SLOTS
from runtime.errors import PowertrainError
from runtime.loading.model_loader import default_threads
from runtime.package.manifest import read_manifest
from runtime.package.package_file import sha256_of_file

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


class PeersFlags(msgspec.Struct, frozen=True, kw_only=True):
    """The options of the command as given; one field per option."""

    gguf: Path
    formats: str
    concurrency: str
    request_count: int
    in_process: bool
    precisions: str
    repeats: int
    output: Path
    output_format: str | None


def run_peers(package: Path, flags: PeersFlags) -> None:
    """Build or install the peers below ``--output`` if need be, measure, print. A failure is one line."""
    try:
        check_checkpoint(package, flags.gguf)
        flags.output.mkdir(parents=True, exist_ok=True)
        if flags.in_process:
            _compare_in_process(package, flags)
        else:
            load = ["-c", flags.concurrency, "--request-count", str(flags.request_count)]
            load += ["--repeats", str(flags.repeats)]
            load += ["--markdown"] if flags.output_format == "markdown" else []
            _compare_over_http(package, flags.gguf, flags.output, flags.formats.split(","), load)
    except PowertrainError as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"cannot use {error.filename or flags.output}: {error.strerror}") from error


def _compare_in_process(package: Path, flags: PeersFlags) -> None:
    threads, chosen = default_threads(), genai.parse_precisions(flags.precisions)
    table = compare_in_process(
        package, flags.gguf, flags.output, precisions=chosen, threads=threads, rounds=flags.repeats, say=_say
    )
    if flags.output_format == "markdown":
        sys.stdout.write(table.markdown())
    else:
        report_console().print(table.rich())


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
