"""Class H, tensors from clients: a request carries text and token ids, never an array or its bytes.

Repeats the cause of CVE-2025-62164, CVE-2026-56340 and CVE-2026-73557 (vLLM: prompt embeddings of a client's making).
"""

from __future__ import annotations

import base64

import msgspec
import pytest

from api.request.chat import ChatRequest
from api.request.completion import CompletionRequest
from tests.api.scripted_server import RunningServer, user
from tests.security.source_code import called, calls, imports_any, trees

READS_ARRAYS = ("frombuffer", "fromfile", "memmap", "load", "fromstring", "b64decode", "unpack", "unpack_from")
TENSORS = {"prompt_embeds": base64.b64encode(b"\x93NUMPY\x01\x00" + b"\xff" * 500).decode(), "mm_data": [[0.5] * 9]}


def test_the_way_of_a_request_reads_no_array() -> None:
    for path, tree in trees("api"):
        assert not imports_any(tree, frozenset({"numpy", "torch", "safetensors", "struct", "base64", "ctypes"})), path
        for call in calls(tree):
            assert called(call).rpartition(".")[2] not in READS_ARRAYS, path


@pytest.mark.parametrize("kind", [ChatRequest, CompletionRequest])
def test_no_field_holds_bytes_or_an_array(kind: type) -> None:
    text = msgspec.json.encode(msgspec.json.schema(kind)).decode()
    assert '"contentEncoding"' not in text  # how msgspec writes bytes
    assert "embeds" not in text


def test_embeddings_are_not_read(server: RunningServer) -> None:
    response = server.post({"messages": [user("ok")], **TENSORS})
    assert response.json()["choices"][0]["message"]["content"] == "ok"
    assert response.headers["x-ignored-fields"] == "prompt_embeds,mm_data"
    response = server.post({"prompt": [0.5, 0.25], "max_tokens": 1}, "/v1/completions")
    assert (response.status_code, response.json()["error"]["param"]) == (400, "prompt")
