"""Which values the server's settings may have, and which of them may stand together. Knows no source of values."""

from __future__ import annotations

import re

from runtime.loopback import is_loopback

from api.errors import SettingsError
from api.server_settings import Settings

_ROOT_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)*")

_LEAST = {
    "port": 0, "max_model_len": 1, "num_slots": 1, "max_queue": 0, "max_predicted_wait_s": 0,
    "max_queue_time_s": 0, "kv_cache_bytes": 1,
    "threads": 1, "prefill_chunk_tokens": 16, "max_draft_tokens": 0,
    "watchdog_s": 1, "memory_bytes": 1, "max_stop_strings": 1, "max_body_bytes": 1, "max_in_flight_bytes": 1,
    "keep_alive_s": 0, "drain_timeout_s": 0, "management_port": 0, "max_connections": 1,
    "max_header_bytes": 1024, "header_timeout_s": 0.01, "body_timeout_s": 0.01, "idle_timeout_s": 0.01,
    "write_timeout_s": 0.01, "max_loras": 0, "replicas": 1, "max_replicas": 1, "resident_models": 1,
    "scale_up_delay_s": 0, "scale_down_delay_s": 0,
}  # fmt: skip
"""The least value of each setting that has one; all are finite."""


def check_settings(settings: Settings) -> None:
    """Raise SettingsError for a value out of range or two settings that contradict each other."""
    _check_ranges(settings)
    if settings.gpu is not None and settings.backend == "cpu":
        raise SettingsError(f"gpu {settings.gpu} is set but backend is cpu; leave one of them out")
    if settings.allow_runtime_lora_updating and settings.lora_source is None and not settings.more_models:
        raise SettingsError("allow_runtime_lora_updating is on but lora_source names no folder to load from")
    if settings.otel_endpoint is not None and not settings.otel:
        raise SettingsError("otel_endpoint is set but otel is off; add --otel")
    _check_models(settings)
    _check_replicas(settings)
    if settings.require_signature != (settings.trust_file is not None):
        given, missing = ("require_signature", "trust_file")[:: 1 if settings.require_signature else -1]
        raise SettingsError(f"{given} is set but {missing} is not; signatures are required by both")
    settings.sampling_defaults  # noqa: B018 - raises for a value out of range
    _check_access(settings)


def _check_ranges(settings: Settings) -> None:
    for name, bound in _LEAST.items():
        value = getattr(settings, name)
        if value is not None and not bound <= value < float("inf"):
            raise SettingsError(f"{name}: {value} is below {bound} or not finite")
    if settings.kv_cache_share is not None and not 0 < settings.kv_cache_share <= 1:
        raise SettingsError(f"kv_cache_share: {settings.kv_cache_share} is not above 0 and at most 1")
    for name in ("port", "management_port"):
        if (getattr(settings, name) or 0) > 65535:
            raise SettingsError(f"{name}: {getattr(settings, name)} is above 65535")


def _check_models(settings: Settings) -> None:
    several = bool(settings.more_models)
    if several and settings.model is None:
        raise SettingsError("more_models is set but model is not; name the first model, too")
    asked = {"model_setting": bool(settings.model_setting), "memory_bytes": settings.memory_bytes is not None,
             "load_models": settings.load_models != "start"}  # fmt: skip
    for name, is_asked in asked.items():
        if is_asked and not several:
            raise SettingsError(f"{name} is for several models, and there is one; set the model's own settings")
    for name in ("served_model_name", "chat_template", "lora_modules", "lora_source"):
        if getattr(settings, name) and several and settings.replicas is None:
            raise SettingsError(f"{name} is one model's, and there are several; say --model-setting MODEL:{name}=...")
    if several and settings.kv_cache_share is not None and settings.replicas is None:
        raise SettingsError("kv_cache_share is for one model; several share memory_bytes")


def _check_replicas(settings: Settings) -> None:
    if settings.replicas is None:
        if settings.max_replicas:
            raise SettingsError("max_replicas is set but replicas is not; add --replicas")
    elif settings.max_replicas is not None and settings.max_replicas < settings.replicas:
        raise SettingsError(f"max_replicas: {settings.max_replicas} is below replicas, {settings.replicas}")


def _check_access(settings: Settings) -> None:
    if settings.host.startswith("["):
        raise SettingsError(f"host {settings.host}: an IPv6 address stands without brackets here, as ::1")
    for name in ("api_key", "admin_key", "served_model_name", "cors_allow_origin", "allowed_host", "trusted_proxy"):
        if any(not item.strip() for item in getattr(settings, name)):
            raise SettingsError(f"{name}: an empty value is not allowed")
    if not _ROOT_PATH.fullmatch(settings.root_path):
        raise SettingsError(f"root_path: {settings.root_path!r} is not a path such as /llm or /team/llm")
    for name in ("api_key", "admin_key"):
        if any(not key.isascii() or not key.isprintable() for key in getattr(settings, name)):
            raise SettingsError(f"{name}: keys are printable ASCII")
    if (settings.tls_cert is None) != (settings.tls_key is None):
        given, missing = ("tls_cert", "tls_key") if settings.tls_key is None else ("tls_key", "tls_cert")
        raise SettingsError(f"{given} is set but {missing} is not; HTTPS needs both")
    if not settings.needs_key and not settings.allow_public_without_key and not is_loopback(settings.host):
        raise SettingsError(
            f"host {settings.host} is reachable from other machines and no --api-key, --api-key-file or --keys-file is "
            "set; set a key, or say --allow-public-without-key"
        )
