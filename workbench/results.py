"""What every analysis returns: one tidy table with its provenance.

A result is saved as one Parquet file whose schema metadata carries the provenance, so a figure or another program can
be built from the file alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import pandas as pd

from workbench.errors import DataError, writing

_KEY = b"workbench.provenance"


@dataclass(frozen=True)
class Result:
    """A tidy table (one row per case) and where it came from.

    Parameters
    ----------
    table : DataFrame
        One row per case; estimates carry ``value``, ``low``, ``high`` and a count where they have them.
    provenance : dict
        Model, template, data hash, seed and options; JSON-serialisable.
    """

    table: pd.DataFrame
    provenance: dict[str, Any] = field(default_factory=dict)

    #: Columns that ``table`` must have; subclasses name theirs.
    required: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        missing = [c for c in self.required if c not in self.table.columns]
        if missing:
            raise DataError(
                f"{type(self).__name__} needs the columns {list(self.required)}; {missing} missing from {list(self.table.columns)}. "
                "Build it with the function that returns it, or load a file that it saved."
            )

    def to_frame(self) -> pd.DataFrame:
        """Return a copy of the table."""
        return self.table.copy()

    def summary(self) -> pd.DataFrame:
        """Return the rows worth reading first (subclasses narrow it down)."""
        return self.table.head(20)

    def _repr_html_(self) -> str:
        return self.summary().to_html(index=False, float_format=lambda v: f"{v:.3f}", border=0)

    def save(self, path: str | Path) -> Path:
        """Write the table and its provenance to one Parquet file.

        Parameters
        ----------
        path : path
            Ends in ``.parquet``; replaced only once the new file is complete.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = Path(path)
        arrow = pa.Table.from_pandas(self.table, preserve_index=False)
        metadata = dict(arrow.schema.metadata or {})
        metadata[_KEY] = json.dumps(self.provenance, default=str).encode()
        draft = path.with_suffix(path.suffix + ".draft")
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(arrow.replace_schema_metadata(metadata), draft)
            draft.replace(path)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file that :meth:`save` wrote.

        Raises
        ------
        DataError
            If there is none, or it is damaged.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = Path(path)
        if not path.exists():
            raise DataError(
                f"There is no result at {path}. Expected a .parquet file of a run folder's results/: give the workbench command that makes it."
            )
        try:
            arrow = pq.read_table(path)
            provenance = json.loads((arrow.schema.metadata or {}).get(_KEY, b"{}"))
        except (OSError, ValueError, pa.ArrowException) as error:
            reason = str(error).splitlines()[0]
            raise DataError(
                f"{path} is damaged ({reason}). Expected what save() wrote: delete it, and give the command that made the run again."
            ) from error
        return cls(arrow.to_pandas(), provenance)
