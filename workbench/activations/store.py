"""Activations on disk: a Zarr array, a table of prompts without texts, and a manifest of what is finished.

A store is a directory::

    manifest.json     whose activations these are, which shards are finished, the sha256 of each of their chunk files
    prompts.parquet   one row per prompt: ids, languages, labels, lengths; no text
    residual/         Zarr v3 (prompt, layer, position, hidden); one chunk per shard, layer and position, with crc32c

A shard enters the manifest only once its chunks are on disk, and the manifest is replaced in one step, so a process may
be killed at any moment. Chunks that were never written read as NaN, which no finished shard contains.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
import zarr
from xarray.backends import BackendArray
from xarray.core import indexing
from zarr.codecs import BytesCodec, Crc32cCodec

from workbench.activations.plan import Plan
from workbench.errors import StoreError, StoreMismatchError

FORMAT, VERSION = "workbench activations", 1
DIMS = ("prompt", "layer", "position", "hidden")
MANIFEST, TABLE, ARRAY = "manifest.json", "prompts.parquet", "residual"


class Damage(NamedTuple):
    """A finished shard that is no longer what was written."""

    shard: int
    first_prompt: int
    file: str
    what: str


class Store:
    """One store directory, open for writing shard by shard.

    Parameters
    ----------
    path : Path
        An existing store; :meth:`create` makes one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = read_manifest(path)
        self.plan = Plan(**{k: tuple(v) if isinstance(v, list) else v for k, v in self.manifest["identity"]["plan"].items()})
        self._array = _open_array(path)

    @classmethod
    def create(cls, path: Path, *, plan: Plan, identity: Mapping[str, Any], provenance: Mapping[str, Any], table: pd.DataFrame, hidden: int) -> Store:
        """Make an empty store; it appears at ``path`` complete or not at all."""
        draft = path.with_name(path.name + ".draft")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        table.to_parquet(draft / TABLE, index=False)
        shape = (len(table), len(plan.layers), len(plan.positions), hidden)
        zarr.create_array(
            store=str(draft / ARRAY),
            shape=shape,
            chunks=(min(plan.shard_size, len(table)), 1, 1, hidden),
            dtype=plan.dtype,
            fill_value=np.nan,
            serializer=BytesCodec(),
            compressors=[Crc32cCodec()],
            dimension_names=DIMS,
        )
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "status": "started",
            "identity": dict(identity),
            "provenance": dict(provenance),
            "shape": list(shape),
            "table_sha256": _sha256(draft / TABLE),
            "shards": {},
        }
        _write_whole(draft / MANIFEST, manifest)
        draft.rename(path)
        return cls(path)

    @property
    def finished(self) -> set[int]:
        """Shards recorded as written."""
        return {int(key) for key in self.manifest["shards"]}

    def write(self, shard: int, rows: range, block: np.ndarray, *, token_budget: int) -> None:
        """Write one shard and record it, in this order.

        Parameters
        ----------
        shard : int
            Number of the shard.
        rows : range
            Its prompts.
        block : array [prompt, layer, position, hidden]
            Finite values in the store's precision.
        token_budget : int
            The budget it was read with (smaller than planned after an out-of-memory).

        Raises
        ------
        StoreError
            If the disk is full; what was recorded before is kept.
        """
        try:
            self._array[rows.start : rows.stop] = block
            files = {name: _sha256(self.path / ARRAY / name, sync=True) for name in self._chunk_files(shard)}
            self.manifest["shards"][str(shard)] = {"rows": [rows.start, rows.stop], "token_budget": token_budget, "chunks": files}
            self._record()
        except OSError as error:
            self.manifest["shards"].pop(str(shard), None)
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise StoreError(
                f"The disk is full while writing shard {shard} of {self.path}: {_size(block.nbytes)} needed, {_size(free_space(self.path))} free. "
                f"The {len(self.finished)} finished shards are kept: free some space and run the same capture again, it continues there."
            ) from error

    def forget(self, shards: set[int]) -> None:
        """Take shards back out of the record, so that they are captured again."""
        for shard in shards:
            self.manifest["shards"].pop(str(shard), None)
        self.manifest["status"] = "started"
        self._record()

    def finish(self) -> None:
        """Mark the store complete."""
        self.manifest["status"] = "finished"
        self._record()

    def _record(self) -> None:
        _write_whole(self.path / MANIFEST, self.manifest)

    def _chunk_files(self, shard: int) -> list[str]:
        return [f"c/{shard}/{layer}/{position}/0" for layer in range(len(self.plan.layers)) for position in range(len(self.plan.positions))]

    def damage(self) -> list[Damage]:
        """Compare every recorded chunk file with its sha256."""
        found = []
        for shard, entry in sorted(self.manifest["shards"].items(), key=lambda item: int(item[0])):
            for name, expected in entry["chunks"].items():
                file = self.path / ARRAY / name
                what = "missing" if not file.exists() else "changed" if _sha256(file) != expected else ""
                if what:
                    found.append(Damage(int(shard), entry["rows"][0], f"{ARRAY}/{name}", what))
        return found


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
            f"The store {path} was made with another {', another '.join(differences)}. Expected the same of each, or values of two measurements would mix. "
            "Give another store path, repeat what it was made with, or pass overwrite=True to start it over."
        )


def verify_store(path: str | Path) -> list[Damage]:
    """Check every finished shard of a store against its manifest.

    Parameters
    ----------
    path : path
        A store.

    Returns
    -------
    list of Damage
        Empty if all is well; each entry names the shard, the chunk file and whether it is missing or changed.
    """
    return Store(Path(path)).damage()


def open_store(path: str | Path, *, allow_unfinished: bool = False) -> xr.Dataset:
    """Open activations lazily: values are read from disk when they are used.

    Parameters
    ----------
    path : path
        A store that :func:`workbench.activations.capture.capture` wrote.
    allow_unfinished : bool
        Open a store whose capture was interrupted; reading a shard that is not there is still refused.

    Returns
    -------
    Dataset (prompt, layer, position, hidden)
        Variable ``residual``; labels along ``prompt``; provenance in ``attrs``.

    Raises
    ------
    StoreError
        If it is no store, unfinished, or its table is damaged; on reading values, if a chunk is damaged (naming it).
    """
    path = Path(path)
    store = Store(path)
    total = len(store.plan.shards(store.manifest["shape"][0]))
    if store.manifest["status"] != "finished" and not allow_unfinished:
        raise StoreError(
            f"{path} is unfinished: {len(store.finished)} of {total} shards. Expected a finished store: run the same capture again, it continues where it "
            "stopped. allow_unfinished=True opens what there is."
        )
    if not (path / TABLE).exists() or _sha256(path / TABLE) != store.manifest["table_sha256"]:
        raise StoreError(f"{path / TABLE} is missing or changed, so rows cannot be labelled. Restore it from a copy, or capture again with overwrite=True.")
    residual = xr.Variable(DIMS, indexing.LazilyIndexedArray(_Checked(store)))
    return dataset(residual, store.plan, pd.read_parquet(path / TABLE), store.manifest["provenance"])


def dataset(residual: Any, plan: Plan, table: pd.DataFrame, provenance: Mapping[str, Any]) -> xr.Dataset:
    """Label an array of activations.

    Parameters
    ----------
    residual : Variable or array [prompt, layer, position, hidden]
        The values.
    plan : Plan
        Names layers and positions.
    table : DataFrame
        One row per prompt; ``prompt_id`` becomes the index.
    provenance : mapping
        Goes into ``attrs``.
    """
    variable = residual if isinstance(residual, xr.Variable) else xr.Variable(DIMS, residual)
    coordinates: dict[str, Any] = {"prompt": table["prompt_id"].to_numpy(dtype=object), "layer": list(plan.layers), "position": list(plan.positions)}
    for column in table.columns.drop("prompt_id"):
        kind = table[column].dtype
        values = table[column].to_numpy(dtype=None if kind.kind in "bif" else object)
        if values.dtype == object:
            values = np.array([None if pd.isna(v) else v for v in values], dtype=object)
        coordinates[column] = ("prompt", values)
    return xr.Dataset({"residual": variable}, coords=coordinates, attrs=dict(provenance))


class _Checked(BackendArray):
    """Reads the Zarr array and refuses damaged or missing chunks by name."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.shape = store._array.shape
        self.dtype = store._array.dtype

    def __getitem__(self, key: Any) -> np.ndarray:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> np.ndarray:
        try:
            block = np.asarray(self._store._array.oindex[key])
        except (ValueError, OSError) as error:
            raise self._refusal(str(error).split("\n")[0]) from error
        if np.isnan(block).any():
            raise self._refusal("values are missing")
        return block

    def _refusal(self, reason: str) -> StoreError:
        store = self._store
        damaged = store.damage()
        named = ", ".join(f"shard {d.shard} (prompts from row {d.first_prompt}): {d.file} {d.what}" for d in damaged[:3])
        missing = sorted(set(range(len(store.plan.shards(self.shape[0])))) - store.finished)
        return StoreError(
            f"{store.path} cannot be read here ({reason}): {named or f'shards {missing[:5]} were never finished'}. Expected every chunk as it was written. "
            "Run the same capture again: it writes the damaged and missing shards anew and keeps the others."
        )


def free_space(path: Path) -> int:
    """Free bytes on the disk of a path that need not exist yet."""
    while not path.exists():
        path = path.absolute().parent
    return shutil.disk_usage(path).free


def _open_array(path: Path) -> Any:
    try:
        return zarr.open_array(store=str(path / ARRAY), mode="r+")
    except (FileNotFoundError, ValueError, KeyError) as error:
        raise StoreError(f"{path / ARRAY} is no Zarr array ({error}). Expected what capture writes; capture again with overwrite=True.") from error


def _write_whole(path: Path, content: Mapping[str, Any]) -> None:
    """Replace a file in one step: draft, flush to disk, rename."""
    draft = path.with_suffix(".draft")
    with draft.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _sha256(path: Path, *, sync: bool = False) -> str:
    with path.open("rb") as file:
        if sync:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flat(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {"": value}


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.2f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:.2f} MB"
