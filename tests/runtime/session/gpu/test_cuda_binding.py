"""The double of CUDA's binding has the real one's names, numbers and arguments, where the real one is installed."""

from __future__ import annotations

import inspect
from enum import IntEnum
from typing import Any

import pytest

from runtime.session.cuda_errors import LOST
from tests import host_cuda_names as names
from tests.host_cuda import HostCuda

FUNCTIONS = [name for name in dir(HostCuda) if name.startswith("cuda")]


@pytest.fixture(scope="module")
def real() -> Any:
    return pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_takes_what_the_real_one_takes(real: Any, name: str) -> None:
    ours = inspect.signature(getattr(HostCuda(), name))
    assert list(ours.parameters) == list(inspect.signature(getattr(real, name)).parameters)


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if "GetError" not in name])
def test_a_function_answers_with_as_many_values_as_the_real_one(real: Any, name: str) -> None:
    """Without a driver every function of the real binding answers, with a status and nothing behind it."""
    if not int(real.cudaGetDeviceCount()[0]):
        pytest.skip("on a machine with a GPU these calls would do something")
    kinds = {"kind": real.cudaMemcpyKind.cudaMemcpyHostToDevice, "mode": real.cudaStreamCaptureMode(1)}
    args = [kinds.get(name, 0) for name in inspect.signature(getattr(real, name)).parameters]
    answer = getattr(real, name)(*args)
    double = HostCuda()
    double.poisoned = int(answer[0])
    assert getattr(double, name)(*args) == tuple(answer)


@pytest.mark.parametrize("kind", [names.cudaError_t, names.cudaMemcpyKind, names.cudaStreamCaptureMode])
def test_numbers_are_the_real_ones(real: Any, kind: type[IntEnum]) -> None:
    theirs = getattr(real, kind.__name__)
    assert {member.name: member.value for member in kind} == {
        member.name: getattr(theirs, member.name).value for member in kind
    }


def test_constants_and_properties_are_the_real_ones(real: Any) -> None:
    assert names.cudaStreamNonBlocking == int(real.cudaStreamNonBlocking)
    assert names.cudaHostAllocDefault == int(real.cudaHostAllocDefault)
    assert names.cudaEventDisableTiming == int(real.cudaEventDisableTiming)
    properties = real.cudaDeviceProp()
    assert len(properties.uuid.bytes) == 16
    for name in ("name", "major", "minor", "totalGlobalMem", "integrated"):
        assert hasattr(properties, name)


def test_every_error_that_poisons_is_taken_for_the_end(real: Any) -> None:
    """By the real binding's own documentation of each status."""
    poisoning = {
        error.value
        for error in real.cudaError_t
        if "the process must be terminated and relaunched" in " ".join((error.__doc__ or "").split())
    }
    assert len(poisoning) >= 12
    assert poisoning <= set(LOST)
    assert all(real.cudaError_t(number).name == name for number, name in LOST.items())
