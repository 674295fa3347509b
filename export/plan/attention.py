"""The attentions of a parsed network: what each may see, how many rows are filled, and the proof that it was told.

How many cache rows of a sequence are filled after a call is computed in the network, ``write_indices`` plus the tokens
of the call, by layers that are added behind the parser; so a plan has the same inputs in every form, and what runs it
need not know. That number covers the padding of a prompt's last chunk, whose rows the call writes as well: a prompt's
own tokens never see them, since they come later, and a mask or a diagonal hides what comes later. Knows no weights.
"""

from __future__ import annotations

from typing import Any

from runtime.errors import PlanError
from runtime.package import graph_io
from runtime.package.attention_form import AttentionForm

from export.graph.trt.causal_masks import CAUSAL_MASK
from export.plan.library import Library

LENGTHS = "key_value_lengths"
"""Name of the tensor of filled rows, int32 [B], and of what takes it."""

_PASS_THROUGH = {"CAST", "IDENTITY", "SHUFFLE"}


def supported_form(library: Library, wanted: AttentionForm) -> AttentionForm:
    """``wanted``, or the mask alone where the library takes no lengths. Raises PlanError if that is not the same."""
    if wanted == "mask" or library.takes_lengths:
        return wanted
    if wanted == "mask+lengths":
        return "mask"
    raise PlanError(
        f"{library.name} {library.version} takes no lengths of attention's keys; build with --attention mask, "
        "or with a newer version of the library"
    )


def attentions(library: Library, network: Any) -> list[Any]:  # noqa: ANN401 - TensorRT's objects
    """The network's fused attentions, ``IAttention``, in its order."""
    found = []
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type.name == "ATTENTION_OUTPUT":
            layer.__class__ = library.module.IAttentionOutputLayer  # the network hands out base classes
            found.append(layer.attention)
    return found


def allow_unfused_attention(library: Library, network: Any) -> None:  # noqa: ANN401 - TensorRT's objects
    """Let an attention be computed in parts where the library has no fused kernel for its shape, rather than fail.

    TensorRT for RTX 1.7.1 has them for up to some 20,000 rows of a cache slot, and takes them where it has them.
    """
    for attention in attentions(library, network):
        attention.decomposable = True


def set_lengths(library: Library, network: Any, unmasked: frozenset[str]) -> None:  # noqa: ANN401
    """Tell every attention how many rows are filled; those named in ``unmasked`` get a diagonal that ends there.

    Raises PlanError with the attention that the library refuses it for.
    """
    found = attentions(library, network)
    if not found:
        return
    lengths = _filled_rows(library, network)
    for attention in found:
        try:
            attention.key_value_lengths = lengths
            if attention.name in unmasked:
                attention.causal_kind = library.module.CausalMaskKind.LOWER_RIGHT
        except RuntimeError as error:
            raise PlanError(
                f"{library.name} {library.version} refuses lengths for attention {attention.name!r} ({error}); "
                "build with --attention mask"
            ) from error


def _filled_rows(library: Library, network: Any) -> Any:  # noqa: ANN401
    """Adds layers for int32 [B]: the row of each sequence's first token plus the number of tokens of the call."""
    trt = library.module
    inputs = {network.get_input(index).name: network.get_input(index) for index in range(network.num_inputs)}
    for name in (graph_io.INPUT_IDS, graph_io.WRITE_INDICES):
        if name not in inputs:
            raise PlanError(f"the graph has no input {name!r}; export the package again")
    shape = network.add_shape(inputs[graph_io.INPUT_IDS]).get_output(0)
    tokens = network.add_slice(shape, (1,), (1,), (1,)).get_output(0)
    total = network.add_elementwise(inputs[graph_io.WRITE_INDICES], tokens, trt.ElementWiseOperation.SUM)
    lengths = network.add_cast(total.get_output(0), trt.int32).get_output(0)
    lengths.name = LENGTHS
    return lengths


def check_attention(library: Library, attention: Any, form: AttentionForm, makers: dict[str, Any]) -> None:  # noqa: ANN401
    """Raise PlanError unless an attention sees what ``form`` says and no more. ``makers`` maps tensors to layers."""
    kind, mask = _causal_kind(attention), attention.mask
    if form == "lengths" and mask is None and kind == "LOWER_RIGHT":
        pass  # the diagonal ends at the lengths, which are checked below
    elif kind != "NONE":
        raise PlanError(
            f"attention {attention.name!r} got a causal mask ({kind}) that the graph does not ask for; "
            "use another version of the library"
        )
    elif mask is None or mask.dtype.name != "BOOL":
        raise PlanError(f"attention {attention.name!r} lost its mask in the parser; use another version of the library")
    elif form == "lengths" and mask.name == CAUSAL_MASK:
        raise PlanError(f"attention {attention.name!r} kept its mask; build with --attention mask+lengths")
    if form != "mask":
        _check_lengths(library, attention, makers)
    elif getattr(attention, LENGTHS, None) is not None:
        raise PlanError(f"attention {attention.name!r} has lengths that were not asked for; export the package again")


def _causal_kind(attention: Any) -> str:  # noqa: ANN401
    if hasattr(attention, "causal_kind"):
        name: str = attention.causal_kind.name
        return name
    return "ANY" if attention.causal else "NONE"


def _check_lengths(library: Library, attention: Any, makers: dict[str, Any]) -> None:  # noqa: ANN401
    lengths = attention.key_value_lengths
    if lengths is None:
        raise PlanError(f"attention {attention.name!r} has no lengths; build with --attention mask")
    if lengths.dtype.name != "INT32" or not _are_filled_rows(library, lengths, makers):
        raise PlanError(
            f"attention {attention.name!r} takes its lengths from {lengths.name!r}, which is not "
            f"{graph_io.WRITE_INDICES} plus the call's tokens; build with --attention mask"
        )


def _are_filled_rows(library: Library, lengths: Any, makers: dict[str, Any]) -> bool:  # noqa: ANN401
    total = makers.get(origin(lengths, makers).name)
    if total is None or total.type.name != "ELEMENTWISE":
        return False
    total.__class__ = library.module.IElementWiseLayer
    starts = origin(total.get_input(0), makers)
    return (
        total.op == library.module.ElementWiseOperation.SUM
        and starts.name == graph_io.WRITE_INDICES
        and _is_num_tokens(library, total.get_input(1), makers)
    )


def _is_num_tokens(library: Library, tensor: Any, makers: dict[str, Any]) -> bool:  # noqa: ANN401
    """Whether a tensor is the second number of the shape of ``input_ids``."""
    part = makers.get(tensor.name)
    if part is None or part.type.name != "SLICE" or part.num_inputs != 1:
        return False
    part.__class__ = library.module.ISliceLayer
    shape = makers.get(part.get_input(0).name)
    if shape is None or shape.type.name != "SHAPE" or shape.get_input(0).name != graph_io.INPUT_IDS:
        return False
    return tuple(part.start) == (1,) and tuple(part.shape) == (1,)


def origin(tensor: Any, makers: dict[str, Any]) -> Any:  # noqa: ANN401
    """The tensor whose values ``tensor`` has, before layers that change only type or shape."""
    while tensor.name in makers and makers[tensor.name].type.name in _PASS_THROUGH:
        tensor = makers[tensor.name].get_input(0)
    return tensor
