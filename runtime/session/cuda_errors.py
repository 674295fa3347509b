"""What a CUDA error means for those who go on: nothing, one call's failure, or the end of this process' use of the GPU.

Owns the numbers and the names of ``cudaError_t`` that matter here, so that a number in the text of a library that uses
CUDA (ONNX Runtime) is judged as CUDA's own status is. Imports no CUDA.
"""

from __future__ import annotations

from runtime.errors import DeviceError, DeviceLost, DeviceOutOfMemory

NO_DEVICE = 100
"""``cudaErrorNoDevice``: there is none, or CUDA_VISIBLE_DEVICES hides them all."""
_OUT_OF_MEMORY = 2

# "This leaves the process in an inconsistent state and any further CUDA work will return the same error. To continue
# using CUDA, the process must be terminated and relaunched", says the documentation of cudaError_t.
_POISONING = {
    226: "cudaErrorContained",
    700: "cudaErrorIllegalAddress",
    702: "cudaErrorLaunchTimeout",
    710: "cudaErrorAssert",
    714: "cudaErrorHardwareStackError",
    715: "cudaErrorIllegalInstruction",
    716: "cudaErrorMisalignedAddress",
    717: "cudaErrorInvalidAddressSpace",
    718: "cudaErrorInvalidPc",
    719: "cudaErrorLaunchFailure",
    721: "cudaErrorTensorMemoryLeak",
    810: "cudaErrorMpsClientTerminated",
    911: "cudaErrorExternalDevice",
}
# The hardware reported damage, or the device, its context or the driver below it is not there (any more).
_GONE = {
    3: "cudaErrorInitializationError",
    4: "cudaErrorCudartUnloading",
    46: "cudaErrorDevicesUnavailable",
    NO_DEVICE: "cudaErrorNoDevice",
    201: "cudaErrorDeviceUninitialized",
    214: "cudaErrorECCUncorrectable",
    220: "cudaErrorNvlinkUncorrectable",
    802: "cudaErrorSystemNotReady",
    803: "cudaErrorSystemDriverMismatch",
    806: "cudaErrorMpsRpcFailure",
    807: "cudaErrorMpsServerNotReady",
}
LOST = _POISONING | _GONE
"""Number and name of every error after which no call of this process on its GPU can succeed."""

_RESTART = "no call of this process can use the GPU any more, restart the server; the kernel's log (NVRM: Xid) says why"


def device_failure(number: int, text: str) -> DeviceError:
    """The error to raise for a status of ``cudaError_t`` that is not success; ``text`` names call and status."""
    if number in LOST:
        return DeviceLost(f"{text}; {_RESTART}")
    if number == _OUT_OF_MEMORY:
        return DeviceOutOfMemory(text)
    return DeviceError(text)
