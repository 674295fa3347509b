"""The model that a body names, read before the rest."""

from __future__ import annotations

import pytest

from api.request.body_limits import body_limits
from api.request.json_body import parse_object
from api.request.named_model import named_model


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b'{"messages": [{"model": "inner"}], "model": "a"}', "a"),
        (b'\xef\xbb\xbf{"model": "a\\/b\\u00e9"}', "a/b\u00e9"),
        (b'{"messages": []}', None),
        (b'{"model": null}', None),
        (b'{"model": 5}', 5),
        (b'{"model": "a"', None),
        (b"[]", None),
        (b"", None),
        (b'{"model": "\xff"}', None),
        (b'{"model": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", None),
    ],
)
def test_a_body_names_a_model_or_none(body: bytes, name: object) -> None:
    assert named_model(body) == name


def test_of_two_names_the_one_counts_that_counts_later() -> None:
    body = b'{"model": "a", "model": "b"}'
    assert named_model(body) == parse_object(body, body_limits(256, None))["model"] == "b"
