"""What is fuzzed: each target takes bytes and may end only in its own errors, or with its promise kept.

A target is a function of bytes that returns, or raises one of the errors that its caller expects. Whatever else it
raises, a hang or a crash is a finding. Files go through one temporary folder, since readers take paths.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from hypothesis import strategies as st
from safetensors import SafetensorError

from api.answer_formats import AnswerFormats
from api.controllers.answer_plan import answer_plan
from api.errors import NotFoundError
from api.request.message_to_chat import AskedMessage, validate_message
from api.request.messages import AssistantMessage
from api.request.responses_to_chat import AskedResponse, validate_response
from api.request.sampling import sampling_params, text_rules
from api.request.validation import RequestRules, validate_chat
from api.served_model import ServedModel
from export.checkpoint.spec import DecoderSpec, weight_shapes
from export.errors import ExportError
from export.graph.rope import rope_tables
from export.source.gguf.checkpoint import GgufCheckpoint
from export.source.gguf.file import read_gguf
from export.source.gguf.spec import spec_from_gguf
from export.source.gguf.tokenizer import text_files_from_gguf
from export.source.hf.checkpoint import CONFIG_FILE
from export.source.hf.json_object import read_json_object
from export.source.hf.quantized import layout_from_config
from export.source.hf.safetensors_file import open_file, stored_array
from export.source.hf.spec import spec_from_config
from export.source.hf.text import text_files_from_folder
from runtime.constraint.compiler import ConstraintCompiler
from runtime.errors import PackageError, PlanError, RequestError
from runtime.events import TokenEvent
from runtime.package.generation_config import GenerationConfig
from runtime.package.limits import decode_document
from runtime.package.manifest import MANIFEST_FILE, load_package
from runtime.package.plan_sidecar import plan_path, read_sidecar, sidecar_path
from runtime.text.chat_template import ChatTemplate
from runtime.text.template.process import TemplateWorker
from runtime.text.text_stream import TextRules, TextStream
from runtime.text.tokenizer import Tokenizer
from tests.api.programs import IM_END, TEMPLATE, VOCAB_SIZE, tokenizer_json
from tests.fuzz.mutate import changed_objects, mutated

SEEDS = Path(__file__).parent / "seeds"
REGRESSIONS = Path(__file__).parent / "regressions"
_MAX_BYTES = 1 << 16

_FOLDER = Path(tempfile.mkdtemp(prefix="powertrain-fuzz-"))
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)
_TOKENIZER = Tokenizer(tokenizer_json(), VOCAB_SIZE)
_MODEL = ServedModel(
    names=("tiny",),
    created_unix=0,
    fingerprint="fp_0",
    max_model_len=256,
    tokenizer=_TOKENIZER,
    template=ChatTemplate(TEMPLATE, TemplateWorker()),
    eos_token_ids=frozenset({IM_END}),
    compiler=ConstraintCompiler(_TOKENIZER.vocabulary({IM_END})),
)
_RULES = RequestRules(served_names=("tiny",))
_LISTED = {"tokenizer.json": b"{}", "ort/model.onnx": b"graph"}


@dataclass(frozen=True, slots=True)
class Target:
    """``run`` ends normally or in one of ``allowed``; ``max_bytes`` keeps a generated input small.

    ``generated`` makes inputs of the seeds, where hypothesis searches.
    """

    run: Callable[[bytes], None]
    allowed: tuple[type[Exception], ...]
    max_bytes: int = _MAX_BYTES
    generated: Callable[[Sequence[bytes]], st.SearchStrategy[bytes]] = mutated

    def __call__(self, data: bytes) -> None:
        """Run; what is allowed ends here, and says something short."""
        try:
            self.run(data[: self.max_bytes])
        except self.allowed as error:
            if len(str(error)) > 4096:
                raise ValueError("an error message of more than 4096 characters") from error


def _gguf(data: bytes) -> None:
    path = _FOLDER / "fuzz.gguf"
    path.write_bytes(data)
    checkpoint = GgufCheckpoint(path)
    checkpoint.text_files()
    for name, tensor in list(checkpoint.file.tensors.items())[:4]:
        if tensor.num_bytes <= _MAX_BYTES:
            values = checkpoint.file.tensor(name).read(0, 1)
            if values.shape[1:] != tensor.shape[1:]:
                raise ValueError(f"{name} has shape {values.shape}")


def _check_spec(spec: DecoderSpec) -> None:
    """What a spec that was accepted promises: sizes above 0 and ropes with finite tables."""
    if not all(size > 0 for shape in weight_shapes(spec).values() for size in shape):
        raise ValueError("a tensor without values")
    for rope in spec.ropes:
        if rope.dim <= 4096:  # larger heads have the same formula and larger tables
            for table in rope_tables(rope, 64):
                if table.shape != (64, rope.dim // 2) or not table.size or not np.isfinite(table).all():
                    raise ValueError(f"a rope with the table {table}")


def _config(data: bytes) -> None:
    folder = _FOLDER / "hf"
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_bytes(tokenizer_json())
    (folder / CONFIG_FILE).write_bytes(data)
    config = read_json_object(folder / CONFIG_FILE)
    _check_spec(spec_from_config(config))
    layout_from_config(config)
    text_files_from_folder(folder, 300)


def _metadata(data: bytes) -> None:
    """A GGUF file's metadata as a JSON object; a text that is no text stands for bytes that are no UTF-8."""
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        return
    if not isinstance(values, dict):
        return
    metadata = {key: _stored(value) for key, value in values.items() if value is not None}
    text_files_from_gguf("fuzz.gguf", metadata)
    _check_spec(spec_from_gguf(replace(read_gguf(SEEDS / "gguf" / "llama"), metadata=metadata)))


def _stored(value: Any) -> Any:
    if isinstance(value, list):
        return [_stored(item) for item in value]
    is_text = not isinstance(value, str) or not any("\ud800" <= letter <= "\udfff" for letter in value)
    return value if is_text else value.encode("utf-8", "surrogatepass")


def _safetensors(data: bytes) -> None:
    path = _FOLDER / "fuzz.safetensors"
    path.write_bytes(data)
    with open_file(path) as file:
        keys = list(file.keys())
    for key in keys[:4]:
        stored = stored_array(path, key)
        if stored.shape and stored.kind in {"F32", "F16"}:
            stored.read(slice(0, 1))


def _manifest(data: bytes) -> None:
    root = _FOLDER / "package"
    for name, content in _LISTED.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    (root / MANIFEST_FILE).write_bytes(data)
    package = load_package(root)
    if not set(package.manifest.files) <= set(_LISTED):
        raise ValueError(f"a package of {list(package.manifest.files)} was taken for whole")


def _sidecar(data: bytes) -> None:
    plan = plan_path(_FOLDER / "plans", "sm89")
    plan.parent.mkdir(parents=True, exist_ok=True)
    plan.write_bytes(b"plan")
    sidecar_path(plan).write_bytes(data)
    read_sidecar(_FOLDER / "plans", "sm89")


def _generation(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        decode_document(data, GenerationConfig)


def _chat(data: bytes) -> None:
    body: Any = msgspec.json.decode(data)
    if not isinstance(body, dict):
        return
    fields = validate_chat(body, _RULES).fields
    answer_plan(fields, AnswerFormats(), "")
    params = sampling_params(fields, _MODEL, max_tokens=16, logprobs=fields.top_logprobs if fields.logprobs else None)
    text_rules(fields, params, _MODEL.eos_token_ids)


def _response(data: bytes) -> None:
    """A request that is taken has an origin for each of its messages, and each fault a name."""
    body: Any = msgspec.json.decode(data)
    if not isinstance(body, dict):
        return
    _check_names(validate_response(body, _RULES))


def _message(data: bytes) -> None:
    """The same of Anthropic's requests."""
    body: Any = msgspec.json.decode(data)
    if isinstance(body, dict):
        _check_names(validate_message(body, _RULES))


def _check_names(asked: AskedResponse | AskedMessage) -> None:
    messages = asked.chat.fields.messages
    if len(messages) != len(asked.names.origins):
        raise ValueError(f"{len(asked.names.origins)} origins of {len(messages)} messages")
    for place, message in enumerate(messages):
        for call in range(len(message.tool_calls or ()) if isinstance(message, AssistantMessage) else 0):
            asked.names.given(f"messages.{place}.tool_calls.{call}.function.arguments")


def _text_stream(data: bytes) -> None:
    """The pieces of any tokens joined are the text of their bytes, cut at the first stop string."""
    if len(data) < 3:
        return
    flags, stop_length, body = data[0], data[1] % 4, data[2:]
    stop, ids = body[:stop_length].decode("utf-8", "replace"), [byte + (flags & 1) * 4 for byte in body[stop_length:]]
    rules = TextRules(stops=(stop,) if stop else (), include_stop=bool(flags & 2), skip_special_tokens=bool(flags & 4))
    stream, text, stopped = TextStream(_TOKENIZER, rules), "", False
    for token_id in ids:
        if (delta := stream.push(TokenEvent("r", 0, token_id, None))) is not None:
            text += delta.text
            if delta.stop is not None:
                stopped = True
                break
    text += "" if stopped else stream.finish().text
    special = _TOKENIZER.special_ids if flags & 4 else frozenset()
    whole = b"".join(_TOKENIZER.token_bytes(i) for i in ids if i not in special).decode("utf-8", "replace")
    found = whole.find(stop) if stop else -1
    expected = whole if found < 0 else whole[: found + (len(stop) if flags & 2 else 0)]
    if text != expected:
        raise ValueError(f"{text!r} instead of {expected!r}")


TARGETS = {
    "gguf": Target(_gguf, (ExportError,)),
    "config": Target(_config, (ExportError,), generated=changed_objects),
    "metadata": Target(_metadata, (ExportError,), generated=changed_objects),
    "safetensors": Target(_safetensors, (ExportError, SafetensorError)),
    "manifest": Target(_manifest, (PackageError,)),
    "sidecar": Target(_sidecar, (PlanError,)),
    "generation": Target(_generation, ()),
    "chat": Target(_chat, (RequestError, NotFoundError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError)),
    "response": Target(_response, (RequestError, NotFoundError, msgspec.MsgspecError, UnicodeDecodeError)),
    "message": Target(_message, (RequestError, NotFoundError, msgspec.MsgspecError, UnicodeDecodeError)),
    "text_stream": Target(_text_stream, (), 256),
}
"""Of the bodies', msgspec's and Python's own are the parser's own (``api.request.json_body`` turns them into a 400)."""


def inputs(name: str) -> list[bytes]:
    """The committed seeds of a target and what was once found."""
    paths = sorted(path for folder in (SEEDS, REGRESSIONS) for path in (folder / name).glob("*"))
    return [path.read_bytes() for path in paths]


def keep_finding(name: str, data: bytes) -> Path:
    """Store an input that broke a target where the suite finds it."""
    path = REGRESSIONS / name / hashlib.sha256(data).hexdigest()[:16]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path
