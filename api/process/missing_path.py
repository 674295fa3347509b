"""What to say of a path that does not exist: the one that was meant, or that this server has no such endpoint.

Knows the routes that it is given and the endpoints that other servers have; knows no request.
"""

from __future__ import annotations

from collections.abc import Collection

_MAX_SHOWN_CHARS = 128
_ELSEWHERE = (
    "/v1/embeddings", "/v1/responses/", "/v1/messages/batches", "/v1/audio", "/v1/images", "/v1/moderations",
    "/v1/files", "/v1/batches", "/v1/fine_tuning", "/v1/assistants", "/v1/threads", "/v1/vector_stores", "/v1/uploads",
    "/v1/realtime", "/v1/rerank", "/rerank", "/v2/rerank", "/v1/score", "/score", "/pooling", "/classify",
    "/v1/ranking", "/v1/infer", "/generate", "/generate_stream", "/completion", "/infill", "/api/chat",
    "/api/generate", "/api/tags", "/api/embed", "/v2/models", "/v2/health", "/v2/repository", "/invocations",
    "/apply-template", "/props", "/slots", "/load", "/server_info", "/get_server_info",
    "/get_model_info", "/model_info", "/flush_cache", "/health_generate",
)  # fmt: skip
"""What OpenAI, Anthropic, vLLM, NIM, SGLang, TGI, llama.cpp, Ollama and KServe have; longer paths begin with them."""
_ADAPTERS = ("/v1/load_lora_adapter", "/v1/unload_lora_adapter")


def explain_missing(path: str, routes: Collection[str]) -> str:
    """The message of a 404 for ``path``, of bounded length."""
    plain = path.rstrip("/")
    for meant in (f"/v1{plain}", plain.removeprefix("/v1"), plain.removeprefix("/api"), f"/v1{plain}".lower()):
        if meant != plain and meant in routes:
            option = " The option --unversioned-paths serves such paths too." if meant == f"/v1{plain}" else ""
            return f"The requested path does not exist; did you mean {meant}?{option}"
    if plain in _ADAPTERS:
        needs = "--allow-runtime-lora-updating and --lora-source"
        return f"This server loads no adapters while it runs: {plain} is there when it is started with {needs}."
    where = "/docs lists" if "/docs" in routes else "its documentation lists"
    wanted = plain if plain.startswith(_ELSEWHERE) else f"/v1{plain}"
    if wanted.startswith(_ELSEWHERE):
        shown = next(known for known in _ELSEWHERE if wanted.startswith(known))
        return (
            f"This server has no {shown[:_MAX_SHOWN_CHARS]}: it serves text generation, at /v1/chat/completions and "
            f"/v1/completions; {where} every path."
        )
    return f"The requested path does not exist; {where} those that do."
