"""What can go wrong between a checkpoint and a package.

ExportError                 a package cannot be built as asked
├── RecipeError             a recipe file is unreadable or contradicts itself
├── SourceError             the checkpoint is missing, damaged, altered or hostile
├── UnsupportedError        the checkpoint is whole but nothing here can express it; says what can be
├── QualityError            the package was built and measured, and is worse than its recipe allows
├── PipelineError           a pipeline file is unreadable, contradicts itself or cannot be meant for this machine
├── CacheError              the cache of steps cannot be used, or what it holds was altered
├── TransferError           a package cannot be pushed or pulled: the place, its answer or what lies there
└── StepError               a step of a pipeline ended without a result
"""

from __future__ import annotations

from runtime.errors import PowertrainError


class ExportError(PowertrainError):
    """A package cannot be built as asked."""


class RecipeError(ExportError):
    """A recipe file is unreadable or contradicts itself."""


class SourceError(ExportError):
    """The checkpoint is missing, damaged, altered or hostile."""


class UnsupportedError(ExportError):
    """The checkpoint is whole but nothing here can express it."""


class QualityError(ExportError):
    """The package was built and measured, and is worse than its recipe allows."""


class PipelineError(ExportError):
    """A pipeline file is unreadable, contradicts itself or cannot be meant for this machine."""


class CacheError(ExportError):
    """The cache of steps cannot be used, or what it holds was altered."""


class TransferError(ExportError):
    """A package cannot be pushed or pulled: the place, its answer or what lies there; never holds a credential."""


class StepError(ExportError):
    """A step of a pipeline ended without a result."""
