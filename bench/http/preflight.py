"""Looks at an endpoint before any load: is it there, does it serve the model, does it stream, does it count tokens."""

from __future__ import annotations

import msgspec

from bench.errors import BenchError, StreamError
from bench.http.chat_stream import StreamRecorder, error_text
from bench.http.endpoint import ChatOptions, Message, chat_body
from bench.http.http_client import HttpClient


class _ModelCard(msgspec.Struct):
    id: str
    root: str | None = None  # the model that a name stands for


class _ModelList(msgspec.Struct):
    data: list[_ModelCard]


async def choose_model(client: HttpClient, wanted: str | None) -> str:
    """The model to ask for: ``wanted`` if the endpoint serves it, or the only one that it serves, by its first name.

    Raises BenchError.
    """
    url = client.endpoint.url
    try:
        status, body = await client.get("/models")
        cards = msgspec.json.decode(body, type=_ModelList).data if status == 200 else []
    except StreamError as error:
        raise BenchError(f"{error}; is the server running, and is this its address?") from error
    except msgspec.MsgspecError:
        cards = []
    served = [card.id for card in cards]
    if status in {401, 403}:
        raise BenchError(f"{url} answered HTTP {status}: {error_text(body)}; give --api-key-file")
    if wanted is None:
        is_one_model = len(served) == 1 or (len({card.root for card in cards}) == 1 and cards[0].root is not None)
        if is_one_model:
            return served[0]
        known = f"it serves {', '.join(served)}" if served else f"{url}/models lists none"
        raise BenchError(f"give --model: {known}")
    if served and wanted not in served:
        raise BenchError(f"{url} does not serve {wanted!r}; it serves {', '.join(served)}")
    return wanted


async def preflight(client: HttpClient, options: ChatOptions, timeout_s: float) -> StreamRecorder:
    """One short request before any load. Raises BenchError with what the endpoint did wrong and what to do."""
    recorder = StreamRecorder()
    body = chat_body(options, (Message("user", "Say hello."),), 2)
    await client.chat(body, recorder, timeout_s=timeout_s)
    if recorder.fault is None:
        return recorder
    advice = {
        "not_streaming": "latencies of single tokens cannot be measured there",
        "http_404": "check the URL's path (usually /v1) and --model",
        "http_401": "give --api-key-file",
        "http_400": "if it refuses a field, --no-usage, --no-temperature or --extra-body change the request",
    }.get(recorder.fault.kind, "the benchmark was not started")
    raise BenchError(f"{client.endpoint.url} failed one test request: {recorder.fault}; {advice}")
