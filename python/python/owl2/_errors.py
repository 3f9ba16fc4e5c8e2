"""Exceptions. Each is an `Error`, and one of Python's own kinds too."""

from __future__ import annotations

from typing import Optional


class Error(Exception):
    """What owl2 raises.

    ``kind`` is the kind of failure in a word, ``file`` and ``parameter`` are what it is about, where
    that is known.

    >>> import owl2
    >>> try:
    ...     owl2.Model("missing.gguf")
    ... except owl2.Error as error:
    ...     print(error.kind, error.file)
    io missing.gguf
    """

    kind: str = "bug"
    file: Optional[str] = None
    parameter: Optional[str] = None


class UsageError(Error, ValueError):
    """A parameter is wrong, or contradicts another."""

    kind = "usage"


class InputError(Error, ValueError):
    """A picture, a prompt or other input cannot be used."""

    kind = "input"


class ModelError(Error, ValueError):
    """The model file is malformed, incomplete or of another kind."""

    kind = "model"


class FileError(Error, OSError):
    """The operating system refused to read a file.

    It is a `FileNotFoundError` or a `PermissionError` too, where that is the reason.
    """

    kind = "io"

    # OSError takes messages apart.
    def __str__(self) -> str:
        return str(self.args[-1])


class MissingFileError(FileError, FileNotFoundError):
    """There is no such file."""


class ForbiddenFileError(FileError, PermissionError):
    """The file may not be read."""


class CapacityError(Error, MemoryError):
    """More memory or context would be needed than there is."""

    kind = "capacity"


class UnfinishedError(Error):
    """An answer was cut before it was what its constraint asks for."""

    kind = "unfinished"


class BugError(Error, RuntimeError):
    """owl2 itself is wrong."""

    kind = "bug"


_OF_KIND = {
    of.kind: of
    for of in (
        UsageError,
        InputError,
        ModelError,
        FileError,
        CapacityError,
        UnfinishedError,
        BugError,
    )
}


def of_kind(
    kind: str,
    message: str,
    file: Optional[str],
    parameter: Optional[str],
    errno: Optional[int],
) -> Error:
    """The exception for an error of the native half."""
    error: Error
    if kind == "io" and errno is not None:
        # Python knows which of its own classes a number belongs to.
        of = type(OSError(errno, message))
        classes = {FileNotFoundError: MissingFileError, PermissionError: ForbiddenFileError}
        error = classes.get(of, FileError)(errno, message)
    else:
        error = _OF_KIND[kind](message)
    error.file = file
    error.parameter = parameter
    return error
