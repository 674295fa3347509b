"""The failures that powertrain expects, and what each asks of its reader.

PowertrainError                an expected failure; its text is one line for a person: what, given, limit, what to do
├── PackageError               a model package is missing, incomplete, altered or unreadable
├── AdapterError               an adapter's files cannot be used, or do not fit the model
├── TrustError                 a package is not signed by a trusted key, or a key or trust file is not usable
├── PlanError                  a TensorRT plan cannot be built or must not be loaded
├── BackendError               the backend that was asked for cannot serve the package here
├── KVBudgetError              the KV cache does not fit the memory given to it
├── DeviceError                the device, or the library that runs graphs on it, refused memory, a copy or a run
│   ├── DeviceOutOfMemory      the device has not the memory that was asked for; other calls may succeed
│   ├── RecordingRefused       the device cannot record a step; run as it is, the step may succeed
│   └── DeviceLost             nothing on this device can succeed in this process any more
├── RequestError               a request cannot be served as it stands; carries the field at fault
│   ├── ContextLengthError     prompt and answer do not fit the model's context
│   └── SchemaRefused          a JSON schema asks for what no answer can be held to; carries the keyword and its place
├── ConstraintFailed           a compiled constraint cannot go on: its budget is spent, or its library failed
├── UnknownParser              no parser of tool calls or reasoning has the given name
├── TemplateError              a chat template refused or failed to render the messages
├── Overloaded                 the bounded queue is full; carries when to try again
└── EngineUnavailable          the engine is loading, draining or dead
    └── ProcessUnavailable     a process that a request needs cannot be started now, or was ended from outside

Knows nothing of HTTP: the API room maps each class to a status.
"""

from __future__ import annotations


class PowertrainError(Exception):
    """An expected failure. ``str(error)`` is fit for a person and never holds a stack trace."""


class PackageError(PowertrainError):
    """A model package is missing, incomplete, altered or unreadable."""


class AdapterError(PowertrainError):
    """An adapter's files are missing, damaged or of a kind that nothing here applies, or they do not fit the model."""


class TrustError(PowertrainError):
    """A package is not signed by a trusted key, or what would tell that is unusable; says which and what to do."""


class PlanError(PowertrainError):
    """A plan cannot be built or must not be loaded; the text names both sides and the command that helps."""


class BackendError(PowertrainError):
    """The backend that was asked for cannot serve the package here; says what is missing and the line that fixes it."""


class KVBudgetError(PowertrainError):
    """Not even one slot fits, or the asked numbers contradict each other."""


class DeviceError(PowertrainError):
    """The device, or the library that runs graphs on it, refused memory, a copy or a run."""


class DeviceOutOfMemory(DeviceError):
    """The device has not the memory that was asked for. What it already does goes on."""


class RecordingRefused(DeviceError):
    """The device cannot record a step. The stream is out of capture, and the step may run unrecorded."""


class DeviceLost(DeviceError):
    """The device's context is poisoned (an illegal address, a lost card): every later call in this process fails."""


class RequestError(PowertrainError):
    """A request cannot be served as it stands. ``field`` is the dotted name of the field at fault."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class ContextLengthError(RequestError):
    """Prompt and requested answer exceed the model's context length."""


class SchemaRefused(RequestError):
    """A JSON schema cannot be enforced. ``keyword`` is at fault; ``place`` is a JSON pointer to the schema with it."""

    def __init__(self, keyword: str, place: str, problem: str) -> None:
        super().__init__(f"{keyword} at {place or 'the top of the schema'}: {problem}")
        self.keyword = keyword
        self.place = place


class ConstraintUntried(RequestError):
    """What a constraint needs was not found out, since whoever tried it was kept waiting: another time it may be."""


class ConstraintFailed(PowertrainError):
    """A compiled constraint cannot go on: its budget is spent, no token is left, or its library failed."""


class UnknownParser(PowertrainError):
    """No parser of tool calls or of reasoning has this name; the text names those that there are."""


class TemplateError(PowertrainError):
    """A chat template refused the messages (``raise_exception``) or failed while rendering them."""


class Overloaded(PowertrainError):
    """The waiting queue is full. ``retry_after_s`` is an estimate of when a place frees."""

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class EngineUnavailable(PowertrainError):
    """The engine is loading, draining or dead; nothing was accepted."""


class ProcessUnavailable(EngineUnavailable):
    """A sealed process cannot be started at the moment, or somebody ended it: no request's fault, and it may pass."""
