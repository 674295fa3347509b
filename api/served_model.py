"""What the server knows of its model: names, limits, defaults, tokenizer, template. Knows nothing of the engine."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version

import msgspec
from runtime.constraint.compiler import ConstraintCompiler
from runtime.errors import PackageError
from runtime.package.generation_config import GenerationConfig
from runtime.package.limits import decode_document
from runtime.package.manifest import CHAT_TEMPLATE_FILE, GENERATION_CONFIG_FILE, LICENSE_FILE, Manifest, Package
from runtime.text.chat_template import ChatTemplate
from runtime.text.template.process import TemplateWorker
from runtime.text.tokenizer import Tokenizer

from api.answer_formats import AnswerFormats, answer_formats
from api.server_settings import Settings

NO_TEMPLATE = """{{ raise_exception('this model has no chat template, so it continues text but answers no chat: \
use /v1/completions, or give it a template with powertrain serve --chat-template FILE or, for good, with powertrain \
export --chat-template FILE') }}"""
"""The template of a base model: it refuses every conversation and says what to do."""
_MAX_GUEST_RENDERINGS = 8  # each may take as long as the limits allow


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """One model as requests see it. ``names[0]`` is the base name; the others are aliases.

    ``fingerprint`` changes when the package's files or this server's version do.
    ``special_tokens`` (``bos_token``, ...) are handed to the template. Templates that requests bring are rendered by
    ``guest_worker``, which delays nobody who uses the model's own. ``answers`` says how its answers are read,
    ``compiler`` makes constraints on them. ``defaults`` count where a request names no value. ``license_text`` and
    ``manifest`` are what the management endpoints show.
    """

    names: tuple[str, ...]
    created_unix: int
    fingerprint: str
    max_model_len: int
    tokenizer: Tokenizer
    template: ChatTemplate
    eos_token_ids: frozenset[int]
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    defaults: GenerationConfig = field(default_factory=GenerationConfig)
    license_name: str = ""
    license_text: str = ""
    manifest: Manifest | None = None
    compiler: ConstraintCompiler
    answers: AnswerFormats = field(default_factory=AnswerFormats)
    guest_worker: TemplateWorker = field(
        default_factory=lambda: TemplateWorker("guest-templates", queue=_MAX_GUEST_RENDERINGS)
    )

    def close(self) -> None:
        """End the threads that compile constraints, for good, and the processes that render templates."""
        self.compiler.close()
        self.template.worker.close()
        self.guest_worker.close()

    @property
    def base_name(self) -> str:
        """The name that absent ``model`` fields and listings use."""
        return self.names[0]


def served_model_from_package(
    package: Package,
    *,
    settings: Settings,
    max_model_len: int,
    template_source: str | None = None,
) -> ServedModel:
    """The model of a verified package. Raises PackageError or TemplateError when a text file of it is unusable,
    UnknownParser when settings name a parser that there is not."""
    manifest = package.manifest
    names, eos_token_ids = settings.served_model_name, frozenset(manifest.stop_token_ids)
    has_own = CHAT_TEMPLATE_FILE in manifest.files
    source = template_source or (package.read_text(CHAT_TEMPLATE_FILE) if has_own else NO_TEMPLATE)
    template = ChatTemplate(source, TemplateWorker("template"))
    proof = template.submit_proof()
    tokenizer = Tokenizer.from_package(package)  # while the template's process starts
    proof.result()
    license_text = package.read_text(LICENSE_FILE) if LICENSE_FILE in manifest.files else ""
    return ServedModel(
        names=names or manifest.served_names or (manifest.name,),
        created_unix=manifest.created_unix,
        fingerprint=_fingerprint(manifest),
        max_model_len=max_model_len,
        tokenizer=tokenizer,
        template=template,
        eos_token_ids=eos_token_ids,
        compiler=ConstraintCompiler(tokenizer.vocabulary(eos_token_ids)),
        answers=answer_formats(settings, template, tokenizer),
        special_tokens=manifest.special_tokens,
        defaults=_defaults(package, settings),
        license_name=manifest.source.license,
        license_text=license_text,
        manifest=manifest,
    )


def _fingerprint(manifest: Manifest) -> str:
    """``fp_`` and ten hex digits of a digest over this server's version and the package's files."""
    digest = hashlib.sha256(version("powertrain").encode())
    for name, info in sorted(manifest.files.items()):
        digest.update(f"\n{name} {info.sha256}".encode())
    return f"fp_{digest.hexdigest()[:10]}"


def _defaults(package: Package, settings: Settings) -> GenerationConfig:
    """The operator's values before the package's, which the operator may leave aside."""
    config = _generation_config(package)
    if not settings.package_sampling_defaults:
        config = GenerationConfig(max_new_tokens=config.max_new_tokens)
    return msgspec.structs.replace(config, **settings.sampling_defaults.given())


def _generation_config(package: Package) -> GenerationConfig:
    if GENERATION_CONFIG_FILE not in package.manifest.files:
        return GenerationConfig()
    what = f"{package.manifest.name}: {GENERATION_CONFIG_FILE}"
    try:
        defaults = decode_document(package.read_bytes(GENERATION_CONFIG_FILE), GenerationConfig)
    except ValueError as error:
        raise PackageError(f"{what} is not readable ({error})") from error
    given, size = defaults.eos_token_id, package.manifest.shape.vocab_size
    outside = [token_id for token_id in (given if isinstance(given, list) else [given or 0]) if token_id >= size]
    if outside:
        raise PackageError(f"{what}: eos_token_id {outside[0]} is not in the vocabulary of {size} tokens")
    return defaults
