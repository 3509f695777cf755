"""The errors the workbench raises, and the spelling help they carry.

Every message names what was given, what is expected and the remedy. All of them are ``ValueError`` too, so code that
guards an analysis with ``except ValueError`` keeps working.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


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


class TrainingError(WorkbenchError, ValueError):
    """A training cannot go on; what it had reached is kept."""


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


def shown(value: Any, at_most: int = 24) -> str:
    """Spell a user's cell for a message, unless it may be a prompt: a prompt in the wrong column is never repeated.

    Parameters
    ----------
    value : object
        What the cell holds.
    at_most : int
        Longest value repeated, in characters; derived ids are longer than labels.

    Returns
    -------
    str
        The value in quotes if it is short, without blanks, and in a script that puts blanks between words (a short Chinese or
        Thai sentence has none); else its length.

    Examples
    --------
    >>> shown("maybe"), shown("How do I bake bread?")
    ("'maybe'", 'a text of 20 characters')
    """
    text = str(value)
    # below U+0E00 lie the scripts from Latin to Sinhala, all of them written with blanks; Thai comes next
    if len(text) <= at_most and text.isprintable() and not any(c.isspace() or ord(c) >= 0x0E00 for c in text):
        return repr(value)
    return f"a text of {len(text)} characters"


def shown_list(values: Iterable[Any]) -> str:
    """Spell several cells as :func:`shown` does, with commas between them."""
    return ", ".join(shown(value) for value in values)


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
