"""A store's manifest: whose activations these are and which shards are finished, replaced in one step."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from workbench.errors import StoreError, StoreMismatchError, writing

FORMAT, VERSION = "workbench activations", 1
MANIFEST, LOCK = "manifest.json", ".lock"


def read_manifest(path: Path) -> dict[str, Any]:
    """Read a store's manifest.

    Raises
    ------
    StoreError
        If there is no store at ``path``, or another version's.
    """
    file = Path(path) / MANIFEST
    if not file.exists():
        raise StoreError(f"There is no activation store at {path}: expected a directory with {MANIFEST}. capture(..., store=PATH) makes one.")
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        known = manifest["format"] == FORMAT
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{file} is damaged ({error}). Expected the JSON that capture writes; capture again with overwrite=True.") from error
    if not known or manifest["version"] != VERSION:
        raise StoreError(
            f"{path} holds {manifest['format']!r} version {manifest.get('version')}; expected {FORMAT!r} version {VERSION}. "
            "Use the workbench version that wrote it, or capture again with overwrite=True."
        )
    return manifest


def require_same(path: Path, stored: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuse a store whose identity differs, naming each difference.

    Parameters
    ----------
    path : Path
        For the message.
    stored, given : mapping of str to mapping
        Identity by subject (model, template, grid, plan, ...).

    Raises
    ------
    StoreMismatchError
        If anything differs.
    """
    differences = []
    for subject in [*given, *(s for s in stored if s not in given)]:
        old, new = _flat(stored.get(subject)), _flat(given.get(subject))
        changed = [key for key in [*new, *(k for k in old if k not in new)] if old.get(key) != new.get(key)]
        if changed:
            differences.append(f"{subject} ({'; '.join(f'{key}: stored {_short(old.get(key))}, given {_short(new.get(key))}' for key in changed)})")
    if differences:
        raise StoreMismatchError(
            f"The store {path} was made with another {', another '.join(differences)}. Expected the same of each: values "
            "of two measurements must not mix. Give another store path, repeat what it was made with, or pass overwrite=True to start it over."
        )


def write_whole(path: Path, content: Mapping[str, Any]) -> None:
    """Replace a file in one step: draft, flush to disk, rename."""
    draft = path.with_suffix(".draft")
    with draft.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def sha256(path: Path, *, sync: bool = False) -> str:
    with path.open("rb") as file:
        if sync:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def free_space(path: Path) -> int:
    """Free bytes on the disk of a path that need not exist yet."""
    while not path.exists():
        path = path.absolute().parent
    return shutil.disk_usage(path).free


@contextmanager
def disk_full_named(path: Path, doing: str, n_bytes: int, finished: int) -> Iterator[None]:
    """Turn a disk that fills up, or a path that cannot be written, into an error that says what is needed and what is kept."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(
                f"{path} cannot be written ({error.strerror or error}, while {doing}). Expected a directory with write permission: "
                f"give another path, or the permission. The {finished} finished shards are kept."
            ) from error
        raise StoreError(
            f"The disk is full while {doing} of {path}: {size(n_bytes)} needed, {size(free_space(path))} free. The {finished} finished shards are "
            "kept: free some space and run the same capture again, it continues there."
        ) from error


@contextmanager
def one_writer(path: Path) -> Iterator[None]:
    """Refuse a second process that writes the same store; the lock dies with its process."""
    try:
        import fcntl
    except ImportError:  # no such locks on Windows
        yield
        return
    with writing(path / LOCK):
        lock = (path / LOCK).open("w", encoding="utf-8")
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreError(
                f"Another process is writing {path}. Expected one at a time: wait until it is done, or give another store path."
            ) from error
        yield


def size(n_bytes: int) -> str:
    """Write a number of bytes for people."""
    return f"{n_bytes / 1e9:.2f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:.2f} MB"


def _flat(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {"": value}


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
