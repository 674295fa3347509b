"""Which GPUs compute with the forms that weights are stored in, where not all of them do. Knows no graph."""

from __future__ import annotations

from collections.abc import Iterable

from runtime.errors import PlanError

from export.plan.targets import Target

_LEAST = {"nvfp4": 100, "fp8": 89}
"""Compute capability, times ten, of the first GPUs with such numbers, the most demanding first. TensorRT refuses to
compile for older ones."""


def check_hardware(forms: Iterable[str], target: Target) -> None:
    """Raise PlanError if ``target`` lacks a type of ``forms``, the manifest's words for how a graph's weights lie.

    The message names the form, the GPUs that have it and what else can be done.
    """
    words = {word for form in forms for word in form.split()}
    for form, least in _LEAST.items():
        if form in words and int(target.sm[2:]) < least:
            named = [sm for sm in target.library.ahead_targets() if int(sm[2:]) >= least]
            which = f" ({', '.join(named)})" if named else ""
            raise PlanError(
                f"{target.sm} has no {form} arithmetic, and weights of this package are {form}; choose a --target of "
                f"compute capability {least // 10}.{least % 10} or newer{which}, or export for {target.sm} with "
                "--precision int8 --dialect ort,trt"
            )
