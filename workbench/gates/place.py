"""Where a gate reads, and the labelled states it reads there.

A gate fitted at one layer and position of one model says nothing about the states of another, so each carries its place and
refuses what comes from elsewhere.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float

from workbench.errors import DataError, did_you_mean
from workbench.geometry.cells import each_layer, labels_of, positions_of, rows_of


@dataclass(frozen=True)
class Place:
    """One layer and position of one model under one template.

    Parameters
    ----------
    layer : int
        Residual stream after that many blocks.
    position : str
        ``t_inst``, ``t_post_inst``, ``post[i]`` or ``mean_inst``.
    fingerprint, template, system : str or None
        Hash of the model's configuration and weights, hash of its chat template, system prompt. None is "not known", and is not compared.
    """

    layer: int
    position: str
    fingerprint: str | None = None
    template: str | None = None
    system: str | None = None

    @classmethod
    def of(cls, acts: xr.Dataset | xr.DataArray, layer: int, position: str) -> Self:
        """Return the place of some activations, read from their provenance."""
        known = {name: acts.attrs.get(name) for name in ("fingerprint", "template", "system")}
        return cls(int(layer), str(position), **{name: None if value is None else str(value) for name, value in known.items()})

    def unlike(self, other: Place) -> list[str]:
        """Return the names of what differs, as far as both know it."""
        mine, theirs = asdict(self), asdict(other)
        return [name for name in mine if None not in (mine[name], theirs[name]) and mine[name] != theirs[name]]

    def require_same(self, other: Place) -> None:
        """Refuse states from another place than this one.

        Raises
        ------
        DataError
            Naming what differs, both values, and what to do about it.
        """
        differing = self.unlike(other)
        if not differing:
            return
        told = ", ".join(_difference(name, getattr(self, name), getattr(other, name)) for name in differing)
        if {"layer", "position"} & set(differing):
            remedy = f"Read them with gate_data(acts, layer={self.layer}, position={self.position!r}), or fit a gate there."
        else:
            remedy = "Capture this model with the template and system prompt the gate was fitted on, or fit a gate on these activations."
        raise DataError(f"The gate was fitted elsewhere than these states come from: it expects {told}. {remedy}")


def _difference(name: str, mine: Any, theirs: Any) -> str:
    """Tell two values apart; what a system prompt says is not repeated."""
    if name != "system":
        return f"{name} {mine!r} and not {theirs!r}"
    mine, theirs = (f"{len(text)} characters" if text else "empty" for text in (mine, theirs))
    return f"system prompt as fitted ({mine}) and not another one ({theirs})"


@dataclass(frozen=True, eq=False)
class GateData:
    """Labelled states at one place: what gates are fitted, recalibrated and scored on.

    Parameters
    ----------
    X : array (prompt, hidden), float64
    y : bool array (prompt,)
        True where harmful.
    language, meaning_id, prompt_id : str array (prompt,)
    split : str array (prompt,)
        ``fit``, ``select`` or ``score``; ``""`` where none was declared.
    place : Place

    Raises
    ------
    DataError
        Lengths that differ, or states that are not finite.
    """

    X: Float[np.ndarray, "prompt hidden"]
    y: Bool[np.ndarray, " prompt"]
    language: np.ndarray
    meaning_id: np.ndarray
    prompt_id: np.ndarray
    split: np.ndarray
    place: Place

    def __post_init__(self) -> None:
        lengths = {f.name: len(getattr(self, f.name)) for f in fields(self) if f.name != "place"}
        if np.ndim(self.X) != 2 or len(set(lengths.values())) > 1:
            raise DataError(f"Got states of shape {np.shape(self.X)} and {lengths} entries. Expected one row, label and name per prompt.")
        finite = np.isfinite(self.X).all(axis=1)
        if not finite.all():
            raise DataError(
                f"{int((~finite).sum())} of {len(finite)} states are not finite (first: prompt {self.prompt_id[~finite][0]}). "
                "Expected finite numbers; capture again in float32, or leave these prompts out."
            )

    def __len__(self) -> int:
        return len(self.y)

    @property
    def languages(self) -> list[str]:
        """The languages present, in order of first appearance."""
        return [str(tag) for tag in dict.fromkeys(self.language)]

    def take(self, rows: Any) -> GateData:
        """Return some rows (numbers or a mask)."""
        parts = {f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name != "place"}
        return GateData(**parts, place=self.place)

    def select(self, *, split: str | None = None, languages: Sequence[str] | str | None = None, meanings: Collection[str] | None = None) -> GateData:
        """Return the rows of a split, of some languages and of some meanings, in their order.

        Raises
        ------
        DataError
            A split, language or meaning that is not there.
        """
        keep = np.ones(len(self), dtype=bool)
        wanted = {"split": split, "language": languages, "meaning_id": meanings}
        for name, value in wanted.items():
            if value is None:
                continue
            asked, here = [value] if isinstance(value, str) else list(value), getattr(self, name)
            known = list(dict.fromkeys(str(v) for v in here))
            for one in asked:
                if one not in set(known):
                    present = known if name != "meaning_id" else f"{len(known)} meanings"
                    raise DataError(f"No prompt has {name} {one!r}; present: {present}.{did_you_mean(str(one), known)}")
            keep &= np.isin(here, asked)
        return self.take(keep)

    def draw(self, k: int, language: str, rng: np.random.Generator) -> GateData:
        """Draw the k harmful and k harmless examples of a language that a gate is recalibrated with, each of another meaning.

        Which meanings are drawn depends on the generator and on what is there, not on the order of the rows.

        Parameters
        ----------
        k : int
            Examples per class; 0 gives none.

        Raises
        ------
        DataError
            k is negative, the language unknown, or there are fewer than k meanings of a class (both counts are given).
        """
        if k < 0 or k != int(k):
            raise DataError(f"k={k} examples per class were asked for. Expected a whole number, 0 or more.")
        part = self.select(languages=language)
        members = {label: sorted({str(m) for m in part.meaning_id[part.y == label]}) for label in (True, False)}
        counts = {label: len(found) for label, found in members.items()}
        if min(counts.values()) < k:
            raise DataError(
                f"{k} harmful and {k} harmless examples of {language!r} were asked for, but there are {counts[True]} and {counts[False]} meanings. "
                f"Expected k <= {min(counts.values())}; ask for fewer, or add prompts in this language."
            )
        rows: list[int] = []
        for label, found in members.items():
            for meaning in rng.permutation(len(found))[:k]:
                here = np.flatnonzero((part.meaning_id == found[meaning]) & (part.y == label))
                rows.append(int(here[np.argsort(part.prompt_id[here], kind="stable")[0]]))
        return part.take(np.array(rows, dtype=int))


def gate_data(acts: xr.Dataset, layer: int, position: str, split: str | None = None, languages: Sequence[str] | None = None) -> GateData:
    """Read the states of one layer and position with their labels; nothing else is read.

    Parameters
    ----------
    acts : Dataset
        What ``capture`` returns or ``open_store`` opens.
    layer : int
        Residual stream after that many blocks.
    split : str, optional
        Only these meanings.

    Raises
    ------
    DataError
        A layer, position, split or language that was not captured; states that are not finite.
    """
    labels = labels_of(acts)
    rows = rows_of(labels, split=split, languages=languages)
    positions_of(acts, [position])
    _, _, states = next(iter(each_layer(acts, rows, layers=[layer], positions=[position])))
    part = labels.iloc[rows]
    names = {name: part[name].to_numpy().astype(str) for name in ("language", "meaning_id", "prompt_id")}
    given = part["split"].map(lambda value: "" if value is None else str(value)).to_numpy().astype(str)
    place = Place.of(acts, layer, position)
    return GateData(np.array(states, dtype=np.float64), part["harmful"].to_numpy(dtype=bool), **names, split=given, place=place)
