"""Contract case 99: our own description, fuzzed; no 5xx, no undocumented answer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.specs.openapi import checks as openapi_checks

from api.controllers.openapi import OPERATIONS, openapi_document
from api.controllers.openapi_schemas import Interface
from tests.api.scripted_server import NAMES, RunningServer

DOCUMENT = openapi_document()
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
CHECKS = [
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_schema_conformance,
]


def test_every_route_is_described(server: RunningServer) -> None:
    assert server.get("/openapi.json").json() == openapi_document(Interface(model=NAMES[0]))
    for operation in OPERATIONS:
        response = server.http.options(operation.path.replace("{model_id}", "x"))
        assert operation.method.upper() in response.headers["allow"]


def test_ranges_are_described() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    properties = schemas["ChatRequest"]["properties"]
    assert properties["temperature"] == {
        "type": ["number", "null"], "minimum": 0, "maximum": 2, "default": None,
        "description": "Below 0.00001 the most likely token is taken.",
    }  # fmt: skip
    assert properties["truncation_side"]["enum"] == ["left", "right", None]
    assert schemas["ChatRequest"]["required"] == ["messages"]
    few = openapi_document(Interface(max_stop_strings=3))["components"]["schemas"]
    assert few["ChatRequest"]["properties"]["stop"]["anyOf"][1]["maxItems"] == 3
    assert few["MessageRequest"]["properties"]["stop_sequences"]["maxItems"] == 3


def test_the_description_is_a_valid_one_that_leads_to_its_own_server() -> None:
    assert DOCUMENT["servers"] == [{"url": "./"}]
    assert {"key": []} in DOCUMENT["security"]
    assert {} in DOCUMENT["security"]
    assert {} not in openapi_document(Interface(needs_key=True))["security"]
    tags = {tag["name"] for tag in DOCUMENT["tags"]}
    for methods in DOCUMENT["paths"].values():
        for operation in methods.values():
            assert operation["summary"]
            assert operation["description"]
            assert set(operation["tags"]) <= tags
            assert ("401" in operation["responses"]) == (operation.get("security") != [])
    named = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(DOCUMENT)))
    assert named <= set(DOCUMENT["components"]["schemas"])


def test_chunks_of_streams_are_described() -> None:
    found = {}
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"):
        schema = DOCUMENT["paths"][path]["post"]["responses"]["200"]["content"]["text/event-stream"]["schema"]
        names = [kind["$ref"].rpartition("/")[2] for kind in schema["anyOf"]]
        assert set(names) <= set(DOCUMENT["components"]["schemas"])
        found[path] = names
    assert found["/v1/chat/completions"] == ["ChatChunk", "ErrorBody"]
    assert found["/v1/completions"] == ["Completion", "ErrorBody"]
    assert {"ResponseEvent", "TextDeltaEvent"} < set(found["/v1/responses"])
    assert {"MessageStart", "BlockDelta", "MessageStop", "MessageError"} < set(found["/v1/messages"])


def test_statuses_before_any_route_are_described() -> None:
    for path, methods in DOCUMENT["paths"].items():
        for operation in methods.values():
            wanted = {"408", "414", "431"} if path.startswith("/v1/health") else {"401", "403", "408", "414", "431"}
            assert wanted <= set(operation["responses"]), path


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    """One connection for thousands of cases. Each case would make its own, and read the environment for proxies."""
    with requests.Session() as made:
        made.trust_env = False
        yield made


@pytest.mark.timeout(100)
# Long to sample: tests/fuzz has such bodies, and rendering takes those of chat completions.
@SCHEMA.exclude(path_regex="/v1/(responses|messages|.*/render)").parametrize()
@settings(
    max_examples=12,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_case_099_fuzzing_finds_no_5xx(
    case: schemathesis.Case[Any], server: RunningServer, session: requests.Session
) -> None:
    response = case.call(base_url=server.base_url, session=session)
    assert response.status_code < 500, response.text
    if response.status_code == 204 or response.headers["content-type"][0].startswith("text/event-stream"):
        return
    if response.status_code == 405:  # the fuzzer also tries methods that no operation describes
        assert "OPTIONS" in response.headers["allow"][0]
    else:
        case.validate_response(response, checks=CHECKS)
    if response.status_code >= 400 and case.method != "HEAD":
        assert list(response.json()) == ["error"]
