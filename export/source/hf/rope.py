"""Rotary settings of a Hugging Face config -> RopeSpec, in the old spelling (``rope_theta``, ``rope_scaling``) and the
new one (``rope_parameters``). Formulas: transformers' ``modeling_rope_utils.py``.
"""

from __future__ import annotations

import math

from export.checkpoint.spec import RopeScaling, RopeSpec
from export.errors import UnsupportedError
from export.source.hf.json_object import JsonObject

_SUPPORTED = ("default", "linear", "llama3", "yarn", "longrope")


def rope_from_config(config: JsonObject, head_dim: int, *, parameters: JsonObject | None, theta: float) -> RopeSpec:
    """The RopeSpec of ``parameters`` (``rope_parameters`` or ``rope_scaling``); ``theta`` holds if they name none."""
    partial = config.number("partial_rotary_factor", 1.0)
    if parameters is None:
        return RopeSpec(theta, int(head_dim * partial))
    dim = int(head_dim * parameters.number("partial_rotary_factor", partial))
    theta = parameters.number("rope_theta", theta)
    kind = parameters.text("rope_type") or parameters.text("type") or "default"
    match kind:
        case "default":
            return RopeSpec(theta, dim)
        case "linear":
            return RopeSpec(theta, dim, RopeScaling("linear", factor=parameters.number("factor")))
        case "llama3":
            return RopeSpec(theta, dim, _llama3(parameters))
        case "yarn" if "short_factor" not in parameters:  # which Phi-3 first called its longrope
            return RopeSpec(theta, dim, _yarn(config, parameters))
        case "longrope" | "su" | "yarn":
            return RopeSpec(theta, dim, _longrope(config, parameters, dim))
        case _:
            raise UnsupportedError(
                f"{config.name}: rope type {kind!r} cannot be written as a fixed table; "
                f"supported: {', '.join(_SUPPORTED)}"
            )


def _llama3(parameters: JsonObject) -> RopeScaling:
    return RopeScaling(
        "llama3",
        factor=parameters.number("factor"),
        low_freq_factor=parameters.number("low_freq_factor"),
        high_freq_factor=parameters.number("high_freq_factor"),
        original_max_positions=parameters.size("original_max_position_embeddings"),
    )


def _yarn(config: JsonObject, parameters: JsonObject) -> RopeScaling:
    if "mscale" in parameters or "mscale_all_dim" in parameters:
        raise UnsupportedError(f"{config.name}: yarn with 'mscale' is not supported; plain yarn is")
    factor = parameters.number("factor")
    default = 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0  # arXiv:2309.00071, equation 22
    return RopeScaling(
        "yarn",
        factor=factor,
        original_max_positions=parameters.size(
            "original_max_position_embeddings", config.size("max_position_embeddings")
        ),
        beta_fast=parameters.number("beta_fast", 32.0),
        beta_slow=parameters.number("beta_slow", 1.0),
        truncate=parameters.flag("truncate", default=True),
        attention_factor=parameters.number("attention_factor", default),
    )


def _longrope(config: JsonObject, parameters: JsonObject, dim: int) -> RopeScaling:
    """Phi-3's two tables; which one holds depends on the longest context that is wanted."""
    limit = config.size("max_position_embeddings")
    original = parameters.size(
        "original_max_position_embeddings", config.size("original_max_position_embeddings", limit)
    )
    stretch = parameters.number("factor", limit / original)
    default = math.sqrt(1 + math.log(stretch) / math.log(original)) if stretch > 1 < original else 1.0
    return RopeScaling(
        "longrope",
        original_max_positions=original,
        attention_factor=parameters.number("attention_factor", default),
        factors=parameters.numbers("short_factor", dim // 2),
        long_factors=parameters.numbers("long_factor", dim // 2),
    )
