"""One model's own settings among several's."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from api.errors import SettingsError
from api.model_settings import own_names, settings_of_models
from api.process.cli import serve_command
from api.server_settings import Settings
from api.settings import resolve_settings

MODELS = [{"models/a", "a"}, {"b:7b", "b"}]


def own(*written: str) -> list[Settings]:
    return settings_of_models(Settings(model="a", more_models=("b",), model_setting=written, max_queue=9), MODELS)


def test_a_model_has_its_own_value_and_the_others_the_servers() -> None:
    one, other = own("b:7b:num_slots=4", "b:prefix_cache=off", "models/a:default_temperature=0.5", "a:max_model_len=64")
    assert (one.num_slots, one.prefix_cache, one.default_temperature, one.max_model_len) == (None, True, 0.5, 64)
    assert (other.num_slots, other.prefix_cache, other.default_temperature, other.max_queue) == (4, False, None, 9)
    servers = Settings(model="a", more_models=("b",), model_setting=("b:num_slots=4",), load_models="demand")
    assert [one.load_models for one in settings_of_models(servers, MODELS)] == ["demand", "demand"]
    assert own("b:chat_template=/x:y=z")[1].chat_template == "/x:y=z"


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("num_slots=4", "'num_slots=4' is not MODEL:SETTING=VALUE, such as small:num_slots=4"),
        ("c:num_slots=4", "no model is called 'c'; there are a, b"),
        ("a:port=4", "port is not a setting of one model"),
        ("a:num_slot=4", "num_slot is not a setting of one model. Did you mean 'num_slots'?"),
        ("a:num_slots=many", "num_slots .from model_setting.: 'many' does not fit"),
        ("a:num_slots=0", "num_slots: 0 is below 1"),
        ("a:kv_cache_share=0.5", "kv_cache_share is not a setting of one model"),
    ],
)
def test_what_cannot_be_meant_is_an_error(written: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        own(written)


def test_models_are_named_on_the_command_line_and_in_the_environment() -> None:
    words = ["a", "b", "c", "--model-setting", "b:num_slots=4", "--model-setting", "c:max_queue=1,c:threads=2"]
    shown = CliRunner().invoke(serve_command, [*words, "--print-config"]).output
    for line in (
        'model = "a"  # --model',
        'more_models = ["b","c"]  # --more-models',
        'model_setting = ["b:num_slots=4","c:max_queue=1","c:threads=2"]  # --model-setting',
        "# admin_key_file =  # default",
    ):
        assert line in shown.splitlines()
    environ = {"POWERTRAIN_MODEL": "a", "POWERTRAIN_MORE_MODELS": "b,c", "POWERTRAIN_MODEL_SETTING": "b:num_slots=4"}
    settings = resolve_settings({}, environ=environ).settings
    assert (settings.more_models, settings.model_setting) == (("b", "c"), ("b:num_slots=4",))
    assert resolve_settings({"model": "a"}, environ={}).settings.more_models == ()


def test_what_holds_for_the_process_is_no_models() -> None:
    assert {"num_slots", "max_model_len", "max_queue", "backend", "chat_template", "served_model_name"} <= set(
        own_names()
    )
    assert not {"port", "api_key", "model", "memory_bytes", "load_models", "gpu", "log_level"} & set(own_names())
