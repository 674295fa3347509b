"""Settings: which source wins, what is refused, and how the command line shows it."""

from __future__ import annotations

import dataclasses
import re
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

from api.answer_formats import answer_formats
from api.errors import SettingsError
from api.process.cli import serve_command
from api.process.launch import bind, model_options
from api.server_settings import Settings
from api.settings import NIM_HOME_VARIABLE, models_home, resolve_settings
from runtime.commands.surroundings import Surroundings
from runtime.errors import UnknownParser
from runtime.text.chat_template import ChatTemplate
from runtime.text.template.process import TemplateWorker
from runtime.text.tokenizer import Tokenizer
from tests.api.programs import TEMPLATE, VOCAB_SIZE, tokenizer_json
from tests.paths import ROOT

SEVERAL = {"POWERTRAIN_MODEL": "a", "POWERTRAIN_MORE_MODELS": "b"}


def test_precedence(tmp_path: Path) -> None:
    file = tmp_path / "serve.toml"
    file.write_text('port = 1\nid_prefix = "file-"\nmax_queue = 7\nlog_level = "error"\n')
    environ = {
        "NIM_SERVER_PORT": "2",
        "NIM_LOG_LEVEL": "WARNING",
        "NIM_JSONL_LOGGING": "1",
        "POWERTRAIN_PORT": "3",
        "POWERTRAIN_MAX_QUEUE": "8",
        "NIM_UNKNOWN_TO_US": "x",
    }
    resolved = resolve_settings({"port": 4}, file, environ)
    settings = resolved.settings
    assert (settings.port, settings.max_queue, settings.id_prefix) == (4, 8, "file-")
    assert (settings.log_level, settings.log_format) == ("warning", "json")
    assert resolved.origins["port"] == "--port"
    assert resolved.origins["max_queue"] == "POWERTRAIN_MAX_QUEUE"
    assert resolved.origins["log_level"] == "NIM_LOG_LEVEL"
    assert resolved.origins["id_prefix"] == "serve.toml"
    assert resolved.origins["host"] == "default"
    assert resolved.unused_nim_names == ("NIM_UNKNOWN_TO_US",)


def test_the_newer_nim_port_wins() -> None:
    environ = {"NIM_HTTP_API_PORT": "1", "NIM_SERVER_PORT": "2"}
    assert resolve_settings({}, environ=environ).settings.port == 2


def test_a_nim_s_manifest_is_understood_and_the_rest_of_it_named() -> None:
    environ = {
        "NGC_API_KEY": "x",
        "NIM_MODEL_NAME": "hf://Qwen/Qwen3-0.6B",
        "NIM_LOG_LEVEL": "DEFAULT",
        "NIM_CACHE_PATH": "/model-store",
        "NIM_TENSOR_PARALLEL_SIZE": "2",
        "OUTLINES_CACHE_DIR": "/outlines",
    }
    resolved = resolve_settings({}, environ=environ)
    assert resolved.settings.model == "Qwen/Qwen3-0.6B"
    assert resolved.settings.log_level == "info"
    assert resolved.unused_nim_names == ("NGC_API_KEY", "NIM_TENSOR_PARALLEL_SIZE")
    environ |= {"NIM_MODEL_PATH": "/models/a", "NIM_LOG_LEVEL": "TRACE"}
    resolved = resolve_settings({}, environ=environ)
    assert (resolved.settings.model, resolved.settings.log_level) == ("/models/a", "debug")
    assert resolve_settings({}, environ={"NIM_LOG_LEVEL": "CRITICAL"}).settings.log_level == "error"
    assert models_home(environ) == Path("/model-store")
    assert models_home(environ | {"POWERTRAIN_HOME": "/ours"}) == Path("/ours")


def test_the_documented_nim_variables_are_those_that_are_read() -> None:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    table = text.partition("| NIM variable | setting |")[2].partition("\n\n")[0]
    said = {name for row in table.splitlines() for name in re.findall(r"NIM_[A-Z_]+", row.split("|")[1] if row else "")}
    read = {name for item in dataclasses.fields(Settings) for name in item.metadata["nim"]} | {NIM_HOME_VARIABLE}
    assert said == read
    others = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8").partition("## A NIM's manifest")[2]
    crossed = {name for row in others.splitlines() if "\u2717" in row for name in re.findall(r"NIM_[A-Z_]+", row)}
    assert len(crossed) > 20
    assert crossed & read == set()


def test_lists_and_switches_from_the_environment() -> None:
    environ = {"NIM_SERVED_MODEL_NAME": "a, b", "POWERTRAIN_PREFIX_CACHE": "off", "NIM_FORCE_DETERMINISTIC": "1"}
    settings = resolve_settings({}, environ=environ).settings
    assert settings.served_model_name == ("a", "b")
    assert settings.prefix_cache is False
    assert settings.deterministic is True


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"POWERTRAIN_PROT": "1"}, "unknown settings in the environment: POWERTRAIN_PROT"),
        ({"POWERTRAIN_PROT": "1"}, "Did you mean 'POWERTRAIN_PORT'?"),
        ({"POWERTRAIN_PORT": "abc"}, "port .from POWERTRAIN_PORT.: 'abc' does not fit"),
        ({"POWERTRAIN_PORT": "70000"}, "port: 70000 is above 65535"),
        ({"POWERTRAIN_PREFIX_CACHE": "maybe"}, "prefix_cache .from POWERTRAIN_PREFIX_CACHE."),
        ({"POWERTRAIN_API_KEY": ""}, "api_key: an empty value is not allowed"),
        ({"POWERTRAIN_API_KEY": "a,,b"}, "api_key: an empty value is not allowed"),
        ({"POWERTRAIN_HOST": "0.0.0.0"}, "no --api-key, --api-key-file or --keys-file is set"),
        ({"POWERTRAIN_MANAGEMENT_PORT": "70000"}, "management_port: 70000 is above 65535"),
        ({"POWERTRAIN_MAX_CONNECTIONS": "0"}, "max_connections: 0 is below 1"),
        ({"POWERTRAIN_HEADER_TIMEOUT_S": "0"}, "header_timeout_s: 0.0 is below 0.01 or not finite"),
        ({"POWERTRAIN_WRITE_TIMEOUT_S": "inf"}, "write_timeout_s: inf is below 0.01 or not finite"),
        ({"POWERTRAIN_ALLOWED_HOST": "a,"}, "allowed_host: an empty value is not allowed"),
        ({"POWERTRAIN_NUM_SLOTS": "0"}, "num_slots: 0 is below 1"),
        ({"POWERTRAIN_KV_CACHE_SHARE": "0"}, "kv_cache_share: 0.0 is not above 0"),
        ({"POWERTRAIN_PREFIX_CACHE_SALT": "always"}, "prefix_cache_salt .from POWERTRAIN_PREFIX_CACHE_SALT."),
        ({"POWERTRAIN_DEFAULT_TEMPERATURE": "2.5"}, "default_temperature: 2.5 is out of range: .* <= 2"),
        ({"POWERTRAIN_DEFAULT_TEMPERATURE": "nan"}, "default_temperature: nan is out of range"),
        ({"POWERTRAIN_DEFAULT_TOP_P": "0"}, "default_top_p: 0.0 is out of range"),
        ({"POWERTRAIN_DEFAULT_TOP_K": "-2"}, "default_top_k: -2 is out of range"),
        ({"POWERTRAIN_KEEP_ALIVE_S": "nan"}, "keep_alive_s: nan is below 0 or not finite"),
        ({"POWERTRAIN_GPU": "1", "POWERTRAIN_BACKEND": "cpu"}, "gpu 1 is set but backend is cpu"),
        ({"POWERTRAIN_OTEL_ENDPOINT": "http://x"}, "otel_endpoint is set but otel is off"),
        ({"POWERTRAIN_MORE_MODELS": "b"}, "more_models is set but model is not"),
        ({"POWERTRAIN_MODEL_SETTING": "a:num_slots=4"}, "model_setting is for several models, and there is one"),
        ({"POWERTRAIN_MEMORY_BYTES": "9"}, "memory_bytes is for several models"),
        ({"POWERTRAIN_LOAD_MODELS": "demand"}, "load_models is for several models"),
        ({"POWERTRAIN_MEMORY_BYTES": "0", **SEVERAL}, "memory_bytes: 0 is below 1"),
        ({"POWERTRAIN_SERVED_MODEL_NAME": "x", **SEVERAL}, "served_model_name is one model's, and there are several"),
        ({"POWERTRAIN_CHAT_TEMPLATE": "x", **SEVERAL}, "say --model-setting MODEL:chat_template="),
        ({"POWERTRAIN_KV_CACHE_SHARE": "0.5", **SEVERAL}, "kv_cache_share is for one model"),
        ({"POWERTRAIN_MAX_REPLICAS": "2"}, "max_replicas is set but replicas is not; add --replicas"),
        ({"POWERTRAIN_REPLICAS": "3", "POWERTRAIN_MAX_REPLICAS": "2"}, "max_replicas: 2 is below replicas, 3"),
        ({"POWERTRAIN_ADMIN_KEY": "a,"}, "admin_key: an empty value is not allowed"),
        ({"NIM_LOG_LEVEL": "loud"}, "log_level .from NIM_LOG_LEVEL."),
    ],
)
def test_what_cannot_be_meant_is_an_error(environ: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        resolve_settings({}, environ=environ)


def test_as_many_replicas_as_were_started_may_be_the_most() -> None:
    settings = resolve_settings({"replicas": 2, "max_replicas": 2}, environ={}).settings
    assert (settings.replicas, settings.max_replicas) == (2, 2)


def test_public_addresses_need_a_key_or_consent() -> None:
    resolve_settings({"host": "0.0.0.0", "api_key": "k"}, environ={})
    resolve_settings({"host": "0.0.0.0", "api_key_file": "keys"}, environ={})
    resolve_settings({"host": "0.0.0.0", "allow_public_without_key": True}, environ={})
    for host in ("127.0.0.1", "::1", "localhost"):
        resolve_settings({"host": host}, environ={})


def test_files_are_checked(tmp_path: Path) -> None:
    file = tmp_path / "serve.toml"
    file.write_text("prot = 1\n")
    with pytest.raises(SettingsError, match=r"unknown settings: prot\. Did you mean 'port'\?"):
        resolve_settings({}, file, {})
    file.write_text("port = ")
    with pytest.raises(SettingsError, match="not readable"):
        resolve_settings({}, file, {})
    with pytest.raises(SettingsError, match="not readable"):
        resolve_settings({}, tmp_path / "none.toml", {})
    file.write_text('port = "80"\n')
    with pytest.raises(SettingsError, match="port"):
        resolve_settings({}, file, {"POWERTRAIN_CONFIG": str(file), "POWERTRAIN_PORT": "x"})


def test_print_config_is_a_file_that_gives_the_same_settings_and_hides_keys(tmp_path: Path) -> None:
    words = ["--print-config", "--port", "9", "--served-model-name", 'a "b",c\\d', "--kv-cache-share", "0.00001"]
    result = CliRunner().invoke(serve_command, words, env={"POWERTRAIN_API_KEY": "s3cret"})
    assert result.exit_code == 0
    lines = result.output.splitlines()
    at = lines.index("port = 9  # --port")
    assert lines[at - 1] == "# Port to listen on; 0 takes a free one."
    assert '# api_key = "<hidden>"  # POWERTRAIN_API_KEY' in lines
    assert "# max_model_len =  # default" in lines
    assert "max_queue = 256  # default" in lines
    assert "## Engine" in lines
    assert "s3cret" not in result.output
    file = tmp_path / "serve.toml"
    file.write_text(result.output)
    given = {"port": 9, "served_model_name": ('a "b"', "c\\d"), "kv_cache_share": 1e-5}
    assert resolve_settings({}, file, {}).settings == resolve_settings(given, environ={}).settings


def test_flags_of_every_kind() -> None:
    flags = [
        "--allowed-host",
        "a.example",
        "--allowed-host",
        "b.example,c.example",
        "--no-prefix-cache",
        "--api-key",
        "a,b",
        "--served-model-name",
        "m, n",
        "--keep-alive-s",
        "2.5",
    ]
    result = CliRunner().invoke(serve_command, ["--print-config", "--log-format", "json", *flags], env={})
    assert result.exit_code == 0, result.output
    for line in (
        "prefix_cache = false  # --prefix-cache",
        'served_model_name = ["m","n"]  # --served-model-name',
        "keep_alive_s = 2.5  # --keep-alive-s",
        'allowed_host = ["a.example","b.example","c.example"]  # --allowed-host',
        'log_format = "json"  # --log-format',
    ):
        assert line in result.output.splitlines()
    assert CliRunner().invoke(serve_command, ["--log-format", "xml"]).exit_code == 2


def test_the_command_line_fails_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    around = Surroundings(home=lambda: tmp_path)
    result = CliRunner().invoke(serve_command, ["--port", "0"], obj=around)
    assert result.exit_code == 1
    assert "no model package in" in result.output
    assert "'powertrain serve MODEL', for example with" in " ".join(result.output.replace("│", " ").split())
    result = CliRunner().invoke(serve_command, ["nowhere", "--port", "0"], obj=around)
    assert result.exit_code == 1
    assert "there is no package at nowhere" in result.output


def test_a_taken_port_is_one_clear_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
            bind("127.0.0.1", port)


def test_where_packages_lie() -> None:
    assert models_home({"POWERTRAIN_HOME": "/srv/models", "XDG_CACHE_HOME": "/c"}) == Path("/srv/models")
    assert models_home({"POWERTRAIN_HOME": "~/m"}) == Path.home() / "m"
    assert models_home({"XDG_CACHE_HOME": "/c"}).resolve() == ROOT / "models"  # this is a checkout
    resolve_settings({}, environ={"POWERTRAIN_HOME": "/srv/models"})


@pytest.mark.parametrize("settings", [Settings(tool_call_parser="nobody's"), Settings(reasoning_parser="nobody's")])
def test_an_unknown_parser_is_refused_at_start(settings: Settings) -> None:
    tokenizer = Tokenizer(tokenizer_json(), VOCAB_SIZE)
    with pytest.raises(UnknownParser, match="there are: "):
        answer_formats(settings, ChatTemplate(TEMPLATE, TemplateWorker()), tokenizer)


def test_the_thread_of_decode_steps_is_the_loaders() -> None:
    assert [model_options(Settings(decode_thread=on)).decode_thread for on in (False, True)] == [False, True]


def test_an_ipv6_address_in_brackets_is_told_how_to_be_written() -> None:
    with pytest.raises(SettingsError, match=r"^host \[::1\]: an IPv6 address stands without brackets here, as ::1$"):
        resolve_settings({"host": "[::1]"}, environ={})
    assert resolve_settings({"host": "::1"}, environ={}).settings.host == "::1"
