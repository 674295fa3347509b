"""What holds for one of several models: the server's settings with the model's own in their place. Values only."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Sequence
from typing import Any

from runtime.did_you_mean import did_you_mean

from api.errors import SettingsError
from api.server_settings import GROUPS, Settings
from api.settings import converted
from api.settings_rules import check_settings

_WRITTEN = re.compile(r"(?P<model>.+?):(?P<setting>[a-z_]+)=(?P<value>.*)", re.DOTALL)
_OF_MODELS = ("Engine", "Queue and cache", "Templates, tools and sampling")
_OF_THE_SERVER = frozenset({"gpu", "kv_cache_share", "share_prefix_cache", "prefix_cache_salt"})


def own_names() -> list[str]:
    """The settings that each model may have a value of its own of."""
    group, found = "", ["served_model_name", "lora_modules", "lora_source", "max_loras"]
    for item in dataclasses.fields(Settings):
        group = GROUPS.get(item.name, group)
        if group in _OF_MODELS and item.name not in _OF_THE_SERVER:
            found.append(item.name)
    return found


def settings_of_models(settings: Settings, models: Sequence[Collection[str]]) -> list[Settings]:
    """The settings of each model, in order; ``models`` are the words that ``MODEL`` may be for each.

    Raises SettingsError for what is not written as MODEL:SETTING=VALUE, a MODEL that is none of these words, a SETTING
    that is the server's or nobody's, or a VALUE that does not fit.
    """
    own: list[dict[str, Any]] = [{} for _ in models]
    for text in settings.model_setting:
        written = _WRITTEN.fullmatch(text)
        if written is None:
            raise SettingsError(f"model_setting: {text!r} is not MODEL:SETTING=VALUE, such as small:num_slots=4")
        word, name = written["model"], written["setting"]
        meant = [at for at, words in enumerate(models) if word in words]
        if not meant:
            known = ", ".join(min(words, key=len) for words in models)
            raise SettingsError(f"model_setting: {text!r}: no model is called {word!r}; there are {known}")
        if name not in own_names():
            near = did_you_mean(name, own_names())
            raise SettingsError(f"model_setting: {text!r}: {name} is not a setting of one model.{near}")
        value = converted(name, "model_setting", written["value"])
        before = own[meant[0]].get(name, ())
        own[meant[0]][name] = (*before, *value) if isinstance(value, tuple) else value
    plain = dataclasses.replace(settings, more_models=(), model_setting=(), memory_bytes=None)
    found = [_checked(dataclasses.replace(plain, **values), values) for values in own]
    if settings.allow_runtime_lora_updating and not any(one.lora_source for one in found):
        raise SettingsError(
            "allow_runtime_lora_updating is on but no model has a lora_source to load from; say --model-setting "
            "MODEL:lora_source=FOLDER"
        )
    return found


def _checked(settings: Settings, own: dict[str, Any]) -> Settings:
    if own:  # what is the server's to say was checked with the server's settings
        check_settings(dataclasses.replace(settings, load_models="start", allow_runtime_lora_updating=False))
    return settings
