"""Activations on disk: a Zarr array, a table of prompts without texts, and a manifest of what is finished.

A store is a directory::

    manifest.json     whose activations these are, which shards are finished, the sha256 of each of their chunk files
    prompts.parquet   one row per prompt: ids, languages, labels, lengths; no text
    residual/         Zarr v3 (prompt, layer, position, hidden); one chunk per shard, layer and position, with crc32c

A shard enters the manifest only once its chunks are on disk, and the manifest is replaced in one step, so a process may
be killed at any moment. Chunks that were never written read as NaN, which no finished shard contains.
"""

from __future__ import annotations

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

from workbench.activations.labels import DIMS, dataset
from workbench.activations.manifest import FORMAT, MANIFEST, VERSION, disk_full_named, read_manifest, sha256, write_whole
from workbench.activations.plan import Plan
from workbench.errors import StoreError, writing

TABLE, ARRAY = "prompts.parquet", "residual"


class Damage(NamedTuple):
    """A finished shard that is no longer what was written."""

    shard: int
    first_prompt: int
    file: str
    what: str


class Store:
    """One store directory, shard by shard.

    Parameters
    ----------
    path : Path
        An existing store; :meth:`create` makes one.
    writable : bool
        Allow :meth:`write`.
    """

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        self.path = path
        self.manifest = read_manifest(path)
        self.plan = Plan.from_dict(self.manifest["identity"]["plan"])
        self._array = _open_array(path, "r+" if writable else "r")

    @classmethod
    def create(cls, path: Path, *, plan: Plan, identity: Mapping[str, Any], provenance: Mapping[str, Any], table: pd.DataFrame, hidden: int) -> Store:
        """Make an empty store; it appears at ``path`` complete or not at all."""
        draft = path.with_name(path.name + ".draft")
        shutil.rmtree(draft, ignore_errors=True)
        with disk_full_named(path.parent, f"starting {path.name}", 0, 0):
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
                "table_sha256": sha256(draft / TABLE),
                "shards": {},
            }
            write_whole(draft / MANIFEST, manifest)
        draft.rename(path)
        return cls(path, writable=True)

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
        with disk_full_named(self.path, f"writing shard {shard}", block.nbytes, len(self.finished)):
            self._array[rows.start : rows.stop] = block
            files = {name: sha256(self.path / ARRAY / name, sync=True) for name in self._chunk_files(shard)}
            entry = {"rows": [rows.start, rows.stop], "token_budget": token_budget, "chunks": files}
            self._record({**self.manifest, "shards": {**self.manifest["shards"], str(shard): entry}})

    def restore_table(self, table: pd.DataFrame) -> None:
        """Write the table of prompts anew if it is missing or changed."""
        file = self.path / TABLE
        if not file.exists() or sha256(file) != self.manifest["table_sha256"]:
            with writing(file):
                table.to_parquet(file, index=False)
            self._record({**self.manifest, "table_sha256": sha256(file)})

    def sweep(self) -> None:
        """Remove what a killed write left half done."""
        for file in (self.path / ARRAY).rglob("*.partial"):
            file.unlink(missing_ok=True)

    def forget(self, shards: set[int]) -> None:
        """Take shards back out of the record, so that they are captured again."""
        kept = {key: entry for key, entry in self.manifest["shards"].items() if int(key) not in shards}
        self._record({**self.manifest, "status": "started", "shards": kept})

    def finish(self) -> None:
        """Mark the store complete."""
        with disk_full_named(self.path, "finishing the manifest", 0, len(self.finished)):
            self._record({**self.manifest, "status": "finished"})

    def _record(self, manifest: dict[str, Any]) -> None:
        write_whole(self.path / MANIFEST, manifest)
        self.manifest = manifest  # only once it is on disk

    def _chunk_files(self, shard: int) -> list[str]:
        return [f"c/{shard}/{layer}/{position}/0" for layer in range(len(self.plan.layers)) for position in range(len(self.plan.positions))]

    def damage(self) -> list[Damage]:
        """Compare every recorded chunk file with its sha256."""
        found = []
        for shard, entry in sorted(self.manifest["shards"].items(), key=lambda item: int(item[0])):
            for name, expected in entry["chunks"].items():
                file = self.path / ARRAY / name
                what = "missing" if not file.exists() else "changed" if sha256(file) != expected else ""
                if what:
                    found.append(Damage(int(shard), entry["rows"][0], f"{ARRAY}/{name}", what))
        return found


def is_store(path: Path) -> bool:
    """Say whether a directory looks like a store, damaged or not."""
    return (path / MANIFEST).exists() and (path / ARRAY / "zarr.json").exists()


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
            f"{path} is unfinished: {len(store.finished)} of {total} shards. Expected a finished store: run the same capture again, it continues "
            "where it stopped. allow_unfinished=True opens what there is."
        )
    if not (path / TABLE).exists() or sha256(path / TABLE) != store.manifest["table_sha256"]:
        raise StoreError(f"{path / TABLE} is missing or changed, so rows cannot be labelled. Run the same capture again: it writes the table anew.")
    residual = xr.Variable(DIMS, indexing.LazilyIndexedArray(_Checked(store)))
    budgets = [entry["token_budget"] for entry in store.manifest["shards"].values()]
    provenance = {**store.manifest["provenance"], "token_budget": min(budgets, default=store.plan.token_budget)}
    return dataset(residual, store.plan, pd.read_parquet(path / TABLE), provenance)


class _Checked(BackendArray):
    """Reads the Zarr array and refuses damaged or missing chunks by name."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.shape = store._array.shape
        self.dtype = store._array.dtype

    def __getitem__(self, key: Any) -> np.ndarray:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> np.ndarray:
        shards = set((np.atleast_1d(np.arange(self.shape[0])[key[0]]) // self._store.plan.shard_size).tolist())
        if missing := sorted(shards - self._store.finished):
            raise StoreError(
                f"{self._store.path}: shards {missing[:5]} were never finished, so their prompts cannot be read. Expected finished shards only: "
                "run the same capture again, it continues where it stopped."
            )
        try:
            block = np.asarray(self._store._array.oindex[key])
        except (ValueError, OSError) as error:
            raise self._refusal(str(error).split("\n")[0]) from error
        # a chunk that is not there reads as NaN throughout, so one number of each state tells
        if np.isnan(block if np.ndim(key[3]) == 0 and not isinstance(key[3], slice) else block[..., :1]).any():
            raise self._refusal("values are missing")
        return block

    def _refusal(self, reason: str) -> StoreError:
        damaged = self._store.damage()
        named = ", ".join(f"shard {d.shard} (prompts from row {d.first_prompt}): {d.file} {d.what}" for d in damaged[:3])
        return StoreError(
            f"{self._store.path} cannot be read here ({reason}): {named or 'no chunk differs from the manifest'}. Expected every chunk as it was "
            "written. Run the same capture again: it writes the damaged shards anew and keeps the others."
        )


def _open_array(path: Path, mode: Any) -> Any:
    try:
        return zarr.open_array(store=str(path / ARRAY), mode=mode)
    except (FileNotFoundError, ValueError, KeyError) as error:
        raise StoreError(f"{path / ARRAY} is no Zarr array ({error}). Expected what capture writes; capture again with overwrite=True.") from error
