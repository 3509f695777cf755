"""What a gate decided about each prompt of a run: the record that a routed edit leaves behind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import pandas as pd

from workbench.errors import DataError, did_you_mean

#: What a gate can say about a prompt.
OUTCOMES = ("unflagged", "unsure", "flagged")


class Decision(NamedTuple):
    """What was decided about one prompt.

    Attributes
    ----------
    prompt_id : str or None
        None where the pass did not say which prompts it had.
    row : int
        Row of its batch.
    language : str
        The tag whose threshold was used, or ``"unknown"``.
    score, threshold : float
        In units of the gate's score; the gate fires at ``score >= threshold``. A threshold of NaN is a policy that abstains.
    decision : str
        ``"flagged"``, ``"unflagged"`` or ``"unsure"``.
    """

    prompt_id: str | None
    row: int
    language: str
    score: float
    threshold: float
    decision: str


@dataclass(frozen=True, eq=False)
class Decisions:
    """The decisions of one run, each prompt once: its last one.

    Attributes
    ----------
    made : tuple of Decision
        In the order made. Rows without a prompt id are those of the last such batch.
    """

    made: tuple[Decision, ...]

    def __len__(self) -> int:
        return len(self.made)

    def __iter__(self) -> Iterator[Decision]:
        return iter(self.made)

    def __getitem__(self, prompt_id: str) -> Decision:
        known = {d.prompt_id: d for d in self.made if d.prompt_id is not None}
        if prompt_id not in known:
            raise DataError(
                f"Nothing was decided about {prompt_id!r} in the last run ({len(known)} prompts with an id).{did_you_mean(str(prompt_id), known)} "
                "Run it through generate(), or pass prompt_ids."
            )
        return known[prompt_id]

    def rows(self, *outcomes: str) -> dict[str, bool]:
        """Say per prompt id whether it was decided so, as ``rows=`` of an edit takes it.

        Parameters
        ----------
        *outcomes : str
            One or several of ``"flagged"``, ``"unflagged"``, ``"unsure"``.

        Raises
        ------
        DataError
            For an unknown outcome, or decisions about rows without prompt ids.
        """
        unknown = [name for name in outcomes if name not in OUTCOMES]
        if unknown or not outcomes:
            raise DataError(f"{outcomes!r}: expected one or several of {', '.join(OUTCOMES)}.{did_you_mean(str(unknown[:1]), OUTCOMES)}")
        nameless = sum(d.prompt_id is None for d in self.made)
        if nameless:
            raise DataError(f"{nameless} rows were decided without a prompt id. Expected names: run them through generate(), or pass prompt_ids.")
        return {str(d.prompt_id): d.decision in outcomes for d in self.made}

    def to_frame(self) -> pd.DataFrame:
        """Return one row per prompt: prompt_id, row, language, score, threshold, decision."""
        return pd.DataFrame(list(self.made), columns=list(Decision._fields))

    def summary(self) -> pd.DataFrame:
        """Count decisions per language: columns flagged, unsure, unflagged (prompts)."""
        counted = pd.crosstab(self.to_frame()["language"], self.to_frame()["decision"])
        return counted.reindex(columns=list(reversed(OUTCOMES)), fill_value=0)

    def _repr_html_(self) -> str:
        return self.summary().to_html(border=0)


@dataclass(eq=False)
class Log:
    """Collects the decisions of one run while it goes on."""

    _made: dict[str | int, Decision] = field(default_factory=dict)

    def note(self, decisions: Sequence[Decision], *, fresh: bool) -> None:
        """Keep decisions; rows without a name replace those of the batch before when a new one begins."""
        if fresh and any(d.prompt_id is None for d in decisions):
            for row in [key for key in self._made if isinstance(key, int)]:
                del self._made[row]
        for d in decisions:
            self._made[d.row if d.prompt_id is None else d.prompt_id] = d

    def taken(self) -> Decisions:
        """Return what was decided so far."""
        return Decisions(tuple(self._made.values()))
