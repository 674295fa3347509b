"""``powertrain serve``: flags to settings. Flags are made from ``Settings`` itself; serving is ``serving``'s."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import rich_click as click
from runtime.commands.comma_list import COMMA_LIST
from runtime.commands.help_text import examples
from runtime.commands.model_argument import MODEL_WORD
from runtime.commands.surroundings import surroundings
from runtime.errors import PowertrainError

from api.server_settings import GROUPS, Settings

_Command = Callable[..., None]


def _settings_options(command: _Command) -> _Command:
    """One option per setting; an option that is not given leaves the value to the other sources."""
    hints = get_type_hints(Settings)
    group, options = "", []
    for item in dataclasses.fields(Settings):
        group = GROUPS.get(item.name, group)
        if item.name not in {"model", "more_models"}:
            options.append(_option(item, hints[item.name], group))
    for option in reversed(options):
        command = option(command)
    return command


def _option(item: dataclasses.Field[Any], hint: Any, group: str) -> Callable[[_Command], _Command]:  # noqa: ANN401
    flag = "--" + item.name.replace("_", "-")
    more: dict[str, Any] = {"panel": group, "default": None, "help": item.metadata["help"] + _shown_default(item)}
    if hint is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", item.name, **more)
    if get_origin(hint) is Literal:
        return click.option(flag, item.name, type=click.Choice(get_args(hint)), **more)
    if get_origin(hint) is tuple:
        return click.option(flag, item.name, **COMMA_LIST, **more)
    kinds = {int: int, float: float}
    kind = next((kinds[part] for part in (hint, *get_args(hint)) if part in kinds), str)
    return click.option(flag, item.name, type=kind, **more)


def _shown_default(item: dataclasses.Field[Any]) -> str:
    if item.default in {None, ()} or item.metadata["secret"]:
        return ""
    shown = ("off", "on")[item.default] if isinstance(item.default, bool) else item.default
    return f" [default: {shown}]"


@click.command(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples(
        "powertrain serve smollm2-135m-instruct",
        "powertrain serve ~/Downloads/model.gguf --port 9000",
        "powertrain serve small large --model-setting small:num_slots=4 --memory-bytes 8000000000",
        "powertrain serve models/mine --host 0.0.0.0 --api-key team=SECRET",
        "powertrain serve models/mine --replicas 2",
        "powertrain serve --print-config > serve.toml; powertrain serve --config serve.toml",
    ),
)
@click.argument("models", metavar="[MODEL]...", nargs=-1, type=MODEL_WORD)
@click.option("--config", "config_file", panel="Model", type=click.Path(path_type=Path), help="TOML file of settings.")
@click.option("--print-config", panel="Model", is_flag=True, help="Print every setting as such a file and exit.")
@_settings_options
@click.pass_context
def serve_command(
    context: click.Context,
    /,
    models: tuple[str, ...],
    config_file: Path | None,
    *,
    print_config: bool,
    **flags: Any,  # noqa: ANN401
) -> None:
    """Serve MODEL, or several, over HTTP, compatible with OpenAI's clients and NVIDIA NIM.

    MODEL is a package (its folder or name) or what one is built from: a recipe (its file or name), a GGUF file, a
    Hugging Face folder or a hub id (owner/name). What is missing is built first. Without MODEL, the only package
    that there is. Of several, a request's model names the one that answers it; the first answers what names none.
    """
    from api.process.serving import serve
    from api.settings import resolve_settings

    given = {name: value for name, value in flags.items() if value is not None}
    if models:
        given["model"] = models[0]
    if models[1:]:
        given["more_models"] = models[1:]
    try:
        resolved = resolve_settings(given, config_file)
        if print_config:
            click.echo("\n".join(resolved.lines()))
            return
        around = surroundings(context)
        if resolved.settings.replicas is not None:
            around.serve_fleet(resolved)
        else:
            serve(resolved, around)
    except PowertrainError as error:
        raise click.ClickException(str(error)) from error
