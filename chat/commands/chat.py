"""``powertrain chat``: flags, and which of three it is: a terminal, a pipe, an address or a model of this machine."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import rich_click as click
from runtime.commands.help_text import examples
from runtime.commands.model_argument import MODEL_WORD
from runtime.commands.surroundings import Surroundings, surroundings
from runtime.errors import PowertrainError

if TYPE_CHECKING:
    from rich.console import Console

    from chat.endpoint import Endpoint

_INTERRUPTED = 130


@click.command(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples(
        "powertrain chat smollm2-135m-instruct",
        "powertrain chat http://127.0.0.1:8000 --system 'Answer in one sentence.'",
        "echo 'Name three rivers.' | powertrain chat",
    ),
)
@click.argument("model", required=False, type=MODEL_WORD, metavar="[MODEL|URL]")
@click.option("--system", panel="Conversation", help="System prompt.")
@click.option("--json-schema", panel="Conversation", metavar="FILE", help="Answers satisfy this JSON schema.")
@click.option("--temperature", panel="Sampling", type=float, help="0 takes the likeliest token.")
@click.option("--max-tokens", panel="Sampling", type=click.IntRange(1), help="Longest answer, in tokens.")
@click.option("--seed", panel="Sampling", type=int, help="The same seed and question draw the same answer.")
@click.option("--model", "name", panel="Endpoint", metavar="NAME", help="The model to ask; else the endpoint's first.")
@click.option("--api-key", panel="Endpoint", metavar="KEY", help="Key of the endpoint; else that in OPENAI_API_KEY.")
@click.option("--no-stream", panel="Endpoint", is_flag=True, help="Wait for whole answers.")
@click.pass_context
def chat_command(context: click.Context, /, model: str | None, **flags: Any) -> None:  # noqa: ANN401
    """Talk to MODEL, or to the OpenAI-compatible endpoint at URL.

    MODEL is what `serve` takes, built first where it is missing; without it, the only package that there is. It is
    served for this conversation alone. A pipe in gives a plain answer out. In a terminal, /help lists the commands.
    """
    around, given = surroundings(context), _Flags(**flags)
    try:
        question = None if sys.stdin.isatty() and sys.stdout.isatty() else _piped_question()
        with _endpoint(model, given, around, is_talk=question is None) as endpoint:
            if question is None:
                _talk(endpoint, given)
            else:
                _answer(endpoint, given, question)
    except KeyboardInterrupt:
        context.exit(_INTERRUPTED)
    except PowertrainError as error:
        # Not in a box: in a pipe, it is one line of a log.
        click.echo(f"powertrain: {error}", err=True)
        context.exit(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Flags:
    system: str | None
    json_schema: str | None
    temperature: float | None
    max_tokens: int | None
    seed: int | None
    name: str | None
    api_key: str | None
    no_stream: bool


def _piped_question() -> str:
    from chat.errors import ChatError

    try:
        question = sys.stdin.read().strip("\n")
    except UnicodeDecodeError as error:
        raise ChatError(f"standard input is not UTF-8: {error}") from error
    if not question.strip():
        raise ChatError("standard input is empty; pipe a question in, or start it in a terminal")
    return question


@contextmanager
def _endpoint(model: str | None, flags: _Flags, around: Surroundings, *, is_talk: bool) -> Iterator[Endpoint]:
    """Where the answers come from; a server of one's own for a model of this machine."""
    from dataclasses import replace

    from chat.endpoint import endpoint_from_url, is_url
    from chat.own_server import own_server

    if model is not None and is_url(model):
        endpoint = endpoint_from_url(model, flags.api_key)
        if flags.api_key is None and endpoint.is_private:
            endpoint = replace(endpoint, key=around.client_key())
        yield endpoint
        return
    launch = around.server(model)
    if is_talk:
        click.echo("Loading the model …", err=True)
    with own_server(launch) as endpoint:
        yield endpoint


def _talk(endpoint: Endpoint, flags: _Flags) -> None:
    from rich.console import Console

    from chat.client import ChatClient
    from chat.editor import ask_secret, terminal_reader
    from chat.plain_text import one_line
    from chat.screen import Screen
    from chat.session import Session
    from chat.slash import slash_words
    from chat.start import ask_models, conversation_for

    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal's
    screen = Screen(sys.stdout, style=_wants_style(Console()))

    def ask_key() -> str:
        return ask_secret(f"Key for {endpoint.url}: ")

    with ChatClient(endpoint) as client:
        entry = ask_models(client, flags.name, ask_key)
        conversation = conversation_for(entry.name, flags.system, flags.json_schema, _params(flags))
        screen.note(f"{one_line(entry.name)} at {endpoint.url}. /help lists commands, Ctrl-D leaves.")
        session = Session(
            client, conversation, screen, stream=not flags.no_stream, ask_key=ask_key, context=entry.context
        )
        session.run(terminal_reader(slash_words()))


def _wants_style(console: Console) -> bool:
    """False with NO_COLOR or TERM=dumb, which rich reads."""
    return not console.no_color and not console.is_dumb_terminal


def _answer(endpoint: Endpoint, flags: _Flags, question: str) -> None:
    from chat.client import ChatClient
    from chat.screen import Screen
    from chat.session import Session
    from chat.start import ask_models, conversation_for

    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # a file's
    with ChatClient(endpoint) as client:
        entry = ask_models(client, flags.name, None)
        conversation = conversation_for(entry.name, flags.system, flags.json_schema, _params(flags))
        screen = Screen(sys.stdout, sys.stderr)
        Session(client, conversation, screen, stream=not flags.no_stream).answer_once(question)


def _params(flags: _Flags) -> dict[str, Any]:
    named = {"temperature": flags.temperature, "max_tokens": flags.max_tokens, "seed": flags.seed}
    return {name: value for name, value in named.items() if value is not None}
