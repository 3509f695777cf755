"""The errors the workbench raises, and the spelling help they carry.

Every message names what was given, what is expected and the remedy. All of them are ``ValueError`` too, so code that
guards an analysis with ``except ValueError`` keeps working.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class WorkbenchError(Exception):
    """Anything the workbench refuses, with the remedy in the message."""


class PromptError(WorkbenchError, ValueError):
    """A prompt set or one of its cells is not usable."""


class ModelError(WorkbenchError, ValueError):
    """A model cannot be loaded or used as asked."""


class ModelCheckError(ModelError):
    """A loaded model breaks an assumption that the measurements rest on."""


class StoreError(WorkbenchError, ValueError):
    """An activation store cannot be read or written."""


class StoreMismatchError(StoreError):
    """A store belongs to another model, template, grid or plan."""


class DataError(WorkbenchError, ValueError):
    """The input of an analysis does not allow it."""


def did_you_mean(given: str, options: Iterable[str]) -> str:
    """Name the nearest known spellings, or nothing.

    Parameters
    ----------
    given : str
        What the user wrote.
    options : iterable of str
        What would have been accepted.

    Returns
    -------
    str
        ``""`` or a sentence that starts with a space, ready to append to a message.

    Examples
    --------
    >>> did_you_mean("multijial", ["multijail", "xsafety"])
    " Did you mean 'multijail'?"
    """
    near = difflib.get_close_matches(given, [str(o) for o in options], n=3, cutoff=0.55)
    return f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn what the operating system refuses while a file is written into an error that names the file and the remedy.

    Parameters
    ----------
    path : path
        What is being written; for the message.

    Raises
    ------
    StoreError
        For a full disk, a missing permission, a file where a folder is needed.
    """
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{path} cannot be written: {error.strerror or error}. Expected a place with write permission and free space: free some, or give "
            "another place, and repeat the call; what was finished before is kept."
        ) from error
