"""Values that a config may hold and no model has: each is one error that says what is wrong with which file."""

from __future__ import annotations

from typing import Any

import pytest

from export.errors import SourceError
from export.source.hf.json_object import JsonObject
from export.source.hf.spec import spec_from_config
from tests.export.tiny_models import tiny_config

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
ODD: list[tuple[str, dict[str, Any], str]] = [
    ("granite", {"logits_scaling": 0}, "'logits_scaling' is 0, a number above 0"),
    ("granite", {"logits_scaling": 1e-300}, "logits scaled by 1e+300"),
    ("granite", {"attention_multiplier": 0}, "'attention_multiplier' is 0, a number above 0"),
    ("granite", {"attention_multiplier": -0.1}, "'attention_multiplier' is -0.1"),
    ("granite", {"residual_multiplier": 0.0}, "residual scaled by 0"),
    ("granite", {"embedding_multiplier": -12.0}, "embedding scaled by -12"),
    ("gemma2", {"query_pre_attn_scalar": 0}, "'query_pre_attn_scalar' is 0, a number above 0"),
    ("gemma3", {"query_pre_attn_scalar": -256}, "'query_pre_attn_scalar' is -256, a number above 0"),
    ("gemma2", {"query_pre_attn_scalar": 1e-300}, "attention scaled by 1e+150"),
    ("gemma2", {"final_logit_softcapping": -30.0}, "logits' softcap scaled by -30"),
    ("gemma2", {"attn_logit_softcapping": 1e-300}, "attention's softcap scaled by 1e-300"),
    ("llama", {"rms_norm_eps": 0}, "norms add 0"),
    ("llama", {"rms_norm_eps": -1e-5}, "norms add -1e-05"),
    ("llama-yarn", {"rope_theta": 1}, "a rope base of 1, it must be above 1"),
    ("llama", {"rope_theta": 0}, "a rope base of 0"),
    ("llama", {"rope_theta": -10000.0}, "a rope base of -10000"),
    ("llama-yarn", {"rope_scaling": YARN | {"factor": 0}}, "rope is scaled by 0"),
    ("llama-yarn", {"rope_scaling": YARN | {"original_max_position_embeddings": 1}}, "yarn from a context of 1"),
    ("llama-linear", {"rope_scaling": {"rope_type": "linear", "factor": 0}}, "rope is scaled by 0"),
    ("llama-linear", {"rope_scaling": {"rope_type": "linear", "factor": -2}}, "rope is scaled by -2"),
    ("phi3-longrope", {"original_max_position_embeddings": 1}, "longrope from a context of 1"),
    ("phi3-longrope", {"partial_rotary_factor": 1.0}, "a list of 16 numbers"),
    ("llama", {"partial_rotary_factor": 1e9}, "heads of 16 cannot be rotated over 16000000000 dimensions"),
    ("llama", {"partial_rotary_factor": 1.5}, "heads of 16 cannot be rotated over 24 dimensions"),
    ("llama", {"partial_rotary_factor": -0.5}, "heads of 16 cannot be rotated over -8 dimensions"),
    ("llama", {"partial_rotary_factor": 0}, "heads of 16 cannot be rotated over 0 dimensions"),
    ("llama", {"head_dim": 15, "partial_rotary_factor": 0.95}, "heads of 15 dimensions, an even number is needed"),
    ("llama", {"num_attention_heads": 4, "num_key_value_heads": 3}, "4 heads cannot share 3 key heads"),
    ("qwen2", {"use_sliding_window": True, "max_window_layers": "x"}, "'max_window_layers' is 'x'"),
    ("smollm3", {"no_rope_layers": [1, "x", {}, 0]}, "a list of 4 zeros and ones"),
]


@pytest.mark.parametrize(("name", "changes", "words"), ODD)
def test_an_odd_value_is_one_clear_error(name: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SourceError) as caught:
        spec_from_config(JsonObject("config.json", tiny_config(name) | changes))
    assert words in str(caught.value)
    assert str(caught.value).startswith("config.json: ")
    assert "\n" not in str(caught.value)
