"""Every setting of the server: its type, default, meaning and names. Values only.

Where values come from and which one wins is ``api.settings``; the rules between settings are ``check``.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from runtime.defaults import DEFAULT_SLOTS

from api.errors import SettingsError

if TYPE_CHECKING:
    from runtime.package.generation_config import SamplingDefaults


def _setting(default: Any, meaning: str, *nim_names: str, secret: bool = False) -> Any:  # noqa: ANN401 - any type
    return field(default=default, metadata={"help": meaning, "nim": nim_names, "secret": secret})


_ROOT_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)*")

GROUPS = {
    "model": "Model",
    "lora_modules": "Adapters",
    "host": "Address and access",
    "max_connections": "Connections",
    "backend": "Engine",
    "max_queue": "Queue and cache",
    "chat_template": "Templates, tools and sampling",
    "trust_request_chat_template": "Requests and answers",
    "replicas": "Replicas (Ray Serve)",
    "vllm_metrics": "Logs, metrics and traces",
}
"""The setting that a group begins with, and the group's name; it goes on to where the next begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The server's settings. Each is a flag, a ``POWERTRAIN_*`` variable and a key of the TOML file, by one name."""

    model: str | None = _setting(
        None, "A package, by folder or name, or what one is built from.", "NIM_MODEL_PATH", "NIM_MODEL_NAME"
    )
    more_models: tuple[str, ...] = _setting(
        (), "Models beside the first; a request's model names the one that answers it."
    )
    model_setting: tuple[str, ...] = _setting(
        (), "One model's own value of a setting, as MODEL:SETTING=VALUE, such as small:num_slots=4."
    )
    load_models: Literal["start", "demand", "admin"] = _setting(
        "start",
        "When several load: at the start as far as they fit, else when a request names them; all but the first on "
        "demand; or by an admin's request alone.",
    )
    memory_bytes: int | None = _setting(
        None, "Memory for weights and KV caches of several models together; default: 0.8 of what is free."
    )
    served_model_name: tuple[str, ...] = _setting(
        (), "Names to serve the model by, the first is shown.", "NIM_SERVED_MODEL_NAME"
    )
    require_signature: bool = _setting(
        False, "Serve a package only if a key of the trust file signed every byte of it, see 'powertrain verify'."
    )
    trust_file: str | None = _setting(None, "TOML file of the keys whose signatures count, see 'powertrain sign'.")
    lora_modules: tuple[str, ...] = _setting(
        (), "Adapters to serve as NAME=FOLDER, where the package has room for them."
    )
    lora_source: str | None = _setting(
        None, "Folder whose folders are adapters: all are served, each by its name.", "NIM_PEFT_SOURCE"
    )
    allow_runtime_lora_updating: bool = _setting(
        False, "Let admins load adapters from lora_source, and take some out, while the server runs."
    )
    max_loras: int = _setting(16, "Most adapters loaded at once.", "NIM_MAX_CPU_LORAS")
    host: str = _setting("127.0.0.1", "Address to listen on.")
    port: int = _setting(8000, "Port to listen on; 0 takes a free one.", "NIM_SERVER_PORT", "NIM_HTTP_API_PORT")
    management_port: int | None = _setting(None, "A second port, for health and metrics only.")
    api_key: tuple[str, ...] = _setting(
        (), "Keys that clients must send, as SECRET or NAME=SECRET; none: no key is needed.", secret=True
    )
    api_key_file: str | None = _setting(None, "File with such keys, one a line.")
    keys_file: str | None = _setting(
        None, "TOML file of hashed keys with roles and limits, see 'powertrain key'; read again on SIGHUP."
    )
    admin_key: tuple[str, ...] = _setting(
        (),
        "Keys that open what lies below /v1/admin, as SECRET or NAME=SECRET, and nothing else; none: it is off.",
        secret=True,
    )
    admin_key_file: str | None = _setting(None, "File with such keys, one a line; read again on SIGHUP.")
    tls_cert: str | None = _setting(
        None, "Certificate (PEM, its chain behind it) to serve HTTPS with; read on SIGHUP.", "NIM_SSL_CERT_PATH"
    )
    tls_key: str | None = _setting(None, "The certificate's private key (PEM, not encrypted).", "NIM_SSL_KEY_PATH")
    allowed_host: tuple[str, ...] = _setting(
        (), "Names besides addresses and localhost to answer to, * for all; default with a key: all."
    )
    trusted_proxy: tuple[str, ...] = _setting((), "Addresses of proxies whose X-Forwarded-For is believed.")
    root_path: str = _setting("", "Prefix, such as /llm, that a proxy in front puts before every path.")
    unversioned_paths: bool = _setting(False, "Serve what is below /v1 without it too, such as /chat/completions.")
    allow_public_without_key: bool = _setting(False, "Listen beyond this machine without a key.")
    docs: Literal["open", "key", "off"] = _setting(
        "open", "Whether /docs and / need a key where there is one; off: no /docs and no /openapi.json."
    )
    playground: bool = _setting(True, "Show browsers a page at / where the model can be tried.")
    cors_allow_origin: tuple[str, ...] = _setting(
        (), "Origins that browsers may call from; * for all.", "NIM_CORS_ALLOW_ORIGINS"
    )

    max_connections: int = _setting(1024, "Connections at once; beyond, whoever waits longest makes room.")
    max_header_bytes: int = _setting(64 * 1024, "Largest request line and headers together.")
    header_timeout_s: float = _setting(10.0, "Time for a request's headers to arrive.")
    body_timeout_s: float = _setting(60.0, "Time for a request's body to arrive.")
    idle_timeout_s: float = _setting(65.0, "Time that a connection without a request stays open.")
    write_timeout_s: float = _setting(30.0, "Time that a client may leave its answer unread.")

    backend: Literal["auto", "cpu", "cuda", "tensorrt", "tensorrt-rtx", "ort-tensorrt", "ort-tensorrt-rtx"] = _setting(
        "auto", "What runs the model."
    )
    gpu: str | None = _setting(
        None, "Which GPU: its number in nvidia-smi, or its UUID; default: the first that CUDA shows."
    )
    self_test: bool = _setting(True, "Compare a GPU's logits with the package's golden rows before serving.")
    max_model_len: int | None = _setting(None, "Longest prompt plus answer, in tokens.", "NIM_MAX_MODEL_LEN")
    num_slots: int | None = _setting(
        None,
        f"Choices generated at once; default: {DEFAULT_SLOTS}, or as many as fit.",
        "NIM_MAX_NUM_SEQS",
        "NIM_MAX_BATCH_SIZE",
    )
    kv_cache_bytes: int | None = _setting(None, "Memory for the KV cache; default: a share of what is free.")
    kv_cache_share: float | None = _setting(
        None, "That share, above 0, at most 1; default: 0.4 of the machine's, or 0.8 of the GPU's."
    )
    threads: int | None = _setting(None, "Threads of the model's arithmetic; default: the physical cores.")
    max_queue: int = _setting(256, "Choices that may wait; more are refused with 429.")
    max_predicted_wait_s: float = _setting(
        3.0, "A request that would wait longer to begin is refused with 429; 0: no limit."
    )
    max_queue_time_s: float = _setting(10.0, "Longest wait before a request is given up; 0: no limit.")
    prefill_chunk_tokens: int | None = _setting(
        None, "Prompt tokens computed per step while others decode; default: 128, or a full call of the GPU's graph."
    )
    prefix_cache: bool = _setting(True, "Reuse the cache of earlier prompts.", "NIM_ENABLE_KV_CACHE_REUSE")
    prefix_cache_salt: Literal["optional", "required"] = _setting(
        "optional", "Whether requests without a cache_salt share cached prefixes: with required, with nobody."
    )
    share_prefix_cache: bool = _setting(False, "Let clients with different API keys share cached prefixes.")
    deterministic: bool = _setting(
        False,
        "Cached answers equal uncached ones bit by bit.",
        "NIM_FORCE_DETERMINISTIC",
    )
    max_draft_tokens: int = _setting(0, "Tokens that prompt lookup may guess ahead of a lone stream; 0: off.")
    run_ahead: bool = _setting(
        True, "Begin the next step before this one is told: on a GPU that chooses tokens, and with decode_thread."
    )
    decode_thread: bool = _setting(False, "Run a CPU's decode steps on a thread of their own.")
    watchdog_s: float = _setting(120.0, "Seconds without progress after which the engine counts as hung.")

    chat_template: str | None = _setting(None, "File with a chat template instead of the model's.", "NIM_CHAT_TEMPLATE")
    tool_call_parser: str | None = _setting(
        None, "How calls of tools are read; none: not at all; default: by the template.", "NIM_TOOL_CALL_PARSER"
    )
    reasoning_parser: str | None = _setting(
        None, "How reasoning is told from an answer; none: not at all; default: by the template."
    )
    exclude_tools_when_tool_choice_none: bool = _setting(False, "Tell the model of no tools that it may not call.")
    package_sampling_defaults: bool = _setting(True, "Sample as the package says where a request says nothing.")
    default_temperature: float | None = _setting(
        None, "Temperature of requests that name none; default: the package's."
    )
    default_top_p: float | None = _setting(None, "The same for top_p.")
    default_top_k: int | None = _setting(None, "The same for top_k.")
    default_min_p: float | None = _setting(None, "The same for min_p.")
    default_repetition_penalty: float | None = _setting(None, "The same for repetition_penalty.")
    trust_request_chat_template: bool = _setting(False, "Run chat templates that requests bring.")
    trust_special_tokens_in_content: bool = _setting(False, "Let message text make control tokens.")
    strict_fields: bool = _setting(False, "Refuse unknown request fields instead of ignoring them.")
    max_stop_strings: int = _setting(16, "Most stop strings of a request.")
    max_body_bytes: int | None = _setting(None, "Largest request body; default: 32 bytes per token of the context.")
    max_in_flight_bytes: int | None = _setting(None, "Bodies and prompts in memory; default: 64 largest bodies.")
    id_prefix: str = _setting("chat-", "Start of chat answers' ids; NIM 2.x uses chatcmpl-.")
    openai_strict_responses: bool = _setting(
        False, "Add what OpenAI's schema requires beyond NIM's answers: refusal (null) and system_fingerprint."
    )
    force_include_usage: bool = _setting(False, "End every stream with usage.")
    prompt_tokens_details: bool = _setting(True, "Report cached prompt tokens in usage.")
    per_request_stats: bool = _setting(False, "Add stats to plain answers.", "NIM_PER_REQ_METRICS_ENABLE")
    keep_alive_s: float = _setting(15.0, "Silence after which a stream sends a comment; 0 for never.")
    drain_timeout_s: float = _setting(30.0, "Time for running answers to end at shutdown.")

    replicas: int | None = _setting(
        None, "Engines behind one address, each with a cache of its own (extra ray); default: one, without Ray."
    )
    max_replicas: int | None = _setting(None, "As many as requests may have started; default: no more than replicas.")
    scale_up_delay_s: float = _setting(30.0, "How long more requests must wait for slots before a replica is added.")
    scale_down_delay_s: float = _setting(600.0, "How long fewer replicas must be enough before one ends.")
    resident_models: int = _setting(1, "Packages that a replica holds at once; least recently used makes room.")

    vllm_metrics: bool = _setting(False, "Also expose metrics under vLLM's names.")
    nvtx: bool = _setting(False, "Mark each step's calls for NVIDIA's profilers (extra nvtx).")
    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "info", "Least severity logged.", "NIM_LOG_LEVEL"
    )
    log_format: Literal["text", "json"] = _setting("text", "Form of log lines.", "NIM_JSONL_LOGGING")
    otel: bool = _setting(False, "Export OpenTelemetry traces (extra otel).", "NIM_ENABLE_OTEL")
    otel_endpoint: str | None = _setting(None, "OTLP/HTTP collector of traces.", "NIM_OTEL_EXPORTER_OTLP_ENDPOINT")
    otel_service_name: str = _setting("powertrain", "Service name in traces.", "NIM_OTEL_SERVICE_NAME")

    @property
    def needs_key(self) -> bool:
        """True when requests need an API key."""
        return bool(self.api_key) or self.api_key_file is not None or self.keys_file is not None

    @property
    def has_admin_key(self) -> bool:
        """True when models may be loaded and unloaded by request."""
        return bool(self.admin_key) or self.admin_key_file is not None

    @property
    def sampling_defaults(self) -> SamplingDefaults:
        """The operator's own defaults of requests. Raises SettingsError for one out of range."""
        import msgspec  # here, because a help page needs the settings and not their ranges
        from runtime.package.generation_config import SamplingDefaults

        names = SamplingDefaults.__struct_fields__
        values = {name: getattr(self, f"default_{name}") for name in names}
        for name, value in values.items():
            try:
                msgspec.convert({name: value}, SamplingDefaults)
            except msgspec.ValidationError as error:
                raise SettingsError(f"default_{name}: {value} is out of range: {error}") from error
        return SamplingDefaults(**values)

    def check(self) -> None:
        """Raise SettingsError for a value out of range or two settings that contradict each other."""
        least = {
            "port": 0, "max_model_len": 1, "num_slots": 1, "max_queue": 0, "max_predicted_wait_s": 0,
            "max_queue_time_s": 0, "kv_cache_bytes": 1,
            "threads": 1, "prefill_chunk_tokens": 16, "max_draft_tokens": 0,
            "watchdog_s": 1, "memory_bytes": 1, "max_stop_strings": 1, "max_body_bytes": 1, "max_in_flight_bytes": 1,
            "keep_alive_s": 0, "drain_timeout_s": 0, "management_port": 0, "max_connections": 1,
            "max_header_bytes": 1024, "header_timeout_s": 0.01, "body_timeout_s": 0.01, "idle_timeout_s": 0.01,
            "write_timeout_s": 0.01, "max_loras": 0, "replicas": 1, "max_replicas": 1, "resident_models": 1,
            "scale_up_delay_s": 0, "scale_down_delay_s": 0,
        }  # fmt: skip
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and not bound <= value < float("inf"):
                raise SettingsError(f"{name}: {value} is below {bound} or not finite")
        if self.kv_cache_share is not None and not 0 < self.kv_cache_share <= 1:
            raise SettingsError(f"kv_cache_share: {self.kv_cache_share} is not above 0 and at most 1")
        for name in ("port", "management_port"):
            if (getattr(self, name) or 0) > 65535:
                raise SettingsError(f"{name}: {getattr(self, name)} is above 65535")
        if self.gpu is not None and self.backend == "cpu":
            raise SettingsError(f"gpu {self.gpu} is set but backend is cpu; leave one of them out")
        if self.allow_runtime_lora_updating and self.lora_source is None and not self.more_models:
            raise SettingsError("allow_runtime_lora_updating is on but lora_source names no folder to load from")
        if self.otel_endpoint is not None and not self.otel:
            raise SettingsError("otel_endpoint is set but otel is off; add --otel")
        self._check_models()
        self._check_replicas()
        if self.require_signature != (self.trust_file is not None):
            given, missing = ("require_signature", "trust_file")[:: 1 if self.require_signature else -1]
            raise SettingsError(f"{given} is set but {missing} is not; signatures are required by both")
        self.sampling_defaults  # noqa: B018 - raises for a value out of range
        self._check_access()

    def _check_models(self) -> None:
        several = bool(self.more_models)
        if several and self.model is None:
            raise SettingsError("more_models is set but model is not; name the first model, too")
        asked = {"model_setting": bool(self.model_setting), "memory_bytes": self.memory_bytes is not None,
                 "load_models": self.load_models != "start"}  # fmt: skip
        for name, is_asked in asked.items():
            if is_asked and not several:
                raise SettingsError(f"{name} is for several models, and there is one; set the model's own settings")
        for name in ("served_model_name", "chat_template", "lora_modules", "lora_source"):
            if getattr(self, name) and several and self.replicas is None:
                raise SettingsError(
                    f"{name} is one model's, and there are several; say --model-setting MODEL:{name}=..."
                )
        if several and self.kv_cache_share is not None and self.replicas is None:
            raise SettingsError("kv_cache_share is for one model; several share memory_bytes")

    def _check_replicas(self) -> None:
        if self.replicas is None:
            if self.max_replicas:
                raise SettingsError("max_replicas is set but replicas is not; add --replicas")
        elif self.max_replicas is not None and self.max_replicas < self.replicas:
            raise SettingsError(f"max_replicas: {self.max_replicas} is below replicas, {self.replicas}")

    def _check_access(self) -> None:
        if self.host.startswith("["):
            raise SettingsError(f"host {self.host}: an IPv6 address stands without brackets here, as ::1")
        for name in ("api_key", "admin_key", "served_model_name", "cors_allow_origin", "allowed_host", "trusted_proxy"):
            if any(not item.strip() for item in getattr(self, name)):
                raise SettingsError(f"{name}: an empty value is not allowed")
        if not _ROOT_PATH.fullmatch(self.root_path):
            raise SettingsError(f"root_path: {self.root_path!r} is not a path such as /llm or /team/llm")
        for name in ("api_key", "admin_key"):
            if any(not key.isascii() or not key.isprintable() for key in getattr(self, name)):
                raise SettingsError(f"{name}: keys are printable ASCII")
        if (self.tls_cert is None) != (self.tls_key is None):
            given, missing = ("tls_cert", "tls_key") if self.tls_key is None else ("tls_key", "tls_cert")
            raise SettingsError(f"{given} is set but {missing} is not; HTTPS needs both")
        if not self.needs_key and not self.allow_public_without_key and not is_loopback(self.host):
            raise SettingsError(
                f"host {self.host} is reachable from other machines and no --api-key, --api-key-file or --keys-file is "
                "set; set a key, or say --allow-public-without-key"
            )


def is_loopback(host: str) -> bool:
    """True when only programs on this machine reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
