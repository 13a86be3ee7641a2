"""Exceptions. Each derives from `TlskitError` and from the builtin a caller would expect."""

__all__ = [
    "AnnotationError",
    "CheckpointError",
    "ComparisonError",
    "DiskFullError",
    "LeakageError",
    "ManifestError",
    "MapError",
    "ParameterError",
    "OutOfMemoryError",
    "RunError",
    "ScaleError",
    "SlideError",
    "SlideGoneError",
    "TlskitError",
    "TrainingError",
]


class TlskitError(Exception):
    """Base of every error that tlskit raises on purpose."""


class ManifestError(TlskitError, ValueError):
    """The cohort manifest has faults; the message lists all of them with row and column."""


class SlideError(TlskitError, OSError):
    """A slide cannot be opened, or a region of it cannot be read."""


class SlideGoneError(SlideError):
    """A slide that was open can no longer be opened: not a part of it is damaged, all of it is out of reach."""


class ScaleError(TlskitError, ValueError):
    """The um/px of a slide is missing, contradictory, or coarser than what is asked of it."""


class AnnotationError(TlskitError, ValueError):
    """A file of outlines cannot be read, or holds nothing of the class asked for."""


class LeakageError(TlskitError, ValueError):
    """A patient stands in more than one of training, validation and test, or a slide twice in the cohort."""


class ParameterError(TlskitError, ValueError):
    """A preset or a parameter is unknown, of the wrong type, or out of range."""


class CheckpointError(TlskitError, ValueError):
    """A checkpoint cannot be read, or does not fit what it is applied to."""


class TrainingError(TlskitError, RuntimeError):
    """A network cannot be trained on what it is given, or its training went out of bounds."""


class MapError(TlskitError, OSError):
    """A probability map cannot be written or read."""


class DiskFullError(TlskitError, OSError):
    """There is no room left on a disk that has to be written to; nothing that is tried after it can go well."""


class OutOfMemoryError(TlskitError, MemoryError):
    """There is not enough memory, of the machine or of its GPU."""


class RunError(TlskitError, RuntimeError):
    """The archive of a run lacks what a step needs, or contradicts it."""


class ComparisonError(TlskitError, ValueError):
    """The arms of a comparison do not stand on the same patients, slides or target."""
