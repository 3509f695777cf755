"""What a gate is compared with: always, never, random directions, permuted labels, permuted decisions, and the true labels.

All follow the gates' protocol, so a runner can loop over them; ``labels_used_`` says which labels of a language each has used.

==================== ========================================================================= ========================================
control              decides                                                                   what it shows
==================== ========================================================================= ========================================
always               fires on every prompt                                                     what the edit does without any gate
never                on none                                                                   what the other branch does by itself
random direction     by a random unit vector, its threshold and sign from the source labels     what any direction and a tuned threshold do
permuted labels      by the same kind of gate fitted on labels shuffled within each class       what fitting finds where there is nothing
permuted decisions   as often as the gate in each language, on other prompts                    whether it matters *which* prompts
oracle               by the true labels                                                        the most that deciding rightly can give
==================== ========================================================================= ========================================
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, Self

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from workbench.directions.nulls import shuffle_by_meaning
from workbench.errors import DataError, shown_list
from workbench.gates.place import GateData
from workbench.gates.policy import Scores, ThresholdPolicy
from workbench.gates.protocol import Gate
from workbench.gates.rowwise import row_dots
from workbench.gates.thresholds import BalancedF1

#: Random directions and permuted fits that evidence asks for at least.
FEWEST_SEEDS = 5


class _Fixed(Gate):
    """A gate that no example changes."""

    def recalibrate(self, X: Any, y: Any = None, *, language: str | None = None, policy: ThresholdPolicy | None = None) -> Self:
        """Return a copy that knows the language, decides as before, and has used none of the labels given now."""
        check_is_fitted(self)
        tag, _ = self._examples(X, y, language, BalancedF1() if policy is None else policy)
        found = copy.deepcopy(self)
        found.thresholds_[tag] = self.fallback_
        found.labels_used_.setdefault(tag, 0)
        return found


class AlwaysGate(_Fixed):
    """Fires on every prompt (or, with ``fires=False``, on none)."""

    def __init__(self, *, fires: bool = True):
        self.fires = fires

    def fit(self, X: Any, y: Any = None, language: Any = None) -> Self:
        """Check the states like any gate; nothing is learnt from them."""
        super().fit(X, y, language)
        self.fallback_ = 0.5
        self.thresholds_ = dict.fromkeys(self.thresholds_, self.fallback_)
        return self

    def _learn(self, X: np.ndarray, y: np.ndarray, language: np.ndarray) -> None:
        pass

    def _score(self, X: np.ndarray, language: np.ndarray) -> np.ndarray:
        return np.full(len(X), 1.0 if self.fires else 0.0)


class RandomDirectionGate(Gate):
    """Decides by the projection on a random unit vector, as a tuned gate would: sign and threshold come from the source labels.

    Parameters
    ----------
    random_state : int

    Attributes
    ----------
    unit_ : array (hidden,)
        Uniform on the sphere, turned so that the mean harmful source state lies higher.
    """

    learned = ("unit_",)

    def __init__(self, *, random_state: int = 0):
        self.random_state = random_state

    def _learn(self, X: np.ndarray, y: np.ndarray, language: np.ndarray) -> None:
        raw = np.random.default_rng(self.random_state).normal(size=X.shape[1])
        unit = np.asarray(raw / np.linalg.norm(raw))
        higher = float(unit @ (X[y].mean(axis=0) - X[~y].mean(axis=0)))
        self.unit_ = unit if higher >= 0 else np.negative(unit)

    def _score(self, X: np.ndarray, language: np.ndarray) -> np.ndarray:
        return row_dots(X, self.unit_)


class KnownDecisions(_Fixed):
    """Looks each prompt's decision up by its id: the oracle gate, and a gate's own decisions permuted.

    Decides GateData only, for a bare state does not say which prompt it belongs to; while a prompt passes through the model, give an edit
    the decisions as ``rows`` instead (:func:`decided_rows`).

    Attributes
    ----------
    prompt_ids_ : list of str
    decisions_ : bool array (prompt,)
    """

    learned = ("prompt_ids_", "decisions_")

    def fit(self, X: Any, y: Any = None, language: Any = None, *, decisions: Bool[np.ndarray, " prompt"] | None = None) -> Self:
        """Remember the decisions of the prompts that will be scored: the true labels, or those given.

        Parameters
        ----------
        X : GateData
        decisions : bool array (prompt,), optional
            None: the labels, which makes it the oracle; ``labels_used_`` then counts all of each language's.

        Raises
        ------
        DataError
            No GateData, a prompt twice, or decisions that are not one per prompt.
        """
        if not isinstance(X, GateData):
            raise DataError("Decisions are remembered by prompt, and an array does not name its prompts. Expected GateData: gate_data(acts, ...).")
        told = X.y if decisions is None else np.asarray(decisions, dtype=bool)
        if told.shape != X.y.shape or len(set(X.prompt_id)) < len(X):
            raise DataError(f"Got {told.shape} decisions for {len(X)} prompts, {len(set(X.prompt_id))} of them different. Expected one for each.")
        self.prompt_ids_, self.decisions_ = [str(name) for name in X.prompt_id], told
        super().fit(X)
        self.fallback_ = 0.5
        self.thresholds_ = dict.fromkeys(self.thresholds_, self.fallback_)
        scores, here = told.astype(np.float64), {tag: X.language == tag for tag in X.languages}
        self.source_scores_ = {tag: Scores(scores[rows & X.y], scores[rows & ~X.y]) for tag, rows in here.items()}
        if decisions is None:
            self.labels_used_ = {tag: int(rows.sum()) for tag, rows in here.items()}
        return self

    def _learn(self, X: np.ndarray, y: np.ndarray, language: np.ndarray) -> None:
        pass

    def _score(self, X: np.ndarray, language: np.ndarray) -> np.ndarray:
        return np.zeros(len(X))  # of a bare state nothing is known: it does not fire

    def decision_function(self, X: Any, language: Any = None) -> Float[np.ndarray, " prompt"]:
        """Return 1 where the prompt is decided to fire, else 0.

        Raises
        ------
        DataError
            No GateData, or prompts that were not given to ``fit``.
        """
        check_is_fitted(self)
        if not isinstance(X, GateData):
            raise DataError(
                f"{type(self).__name__} decides by prompt id, and an array names no prompts. Expected GateData; while a model runs, give its edits "
                "rows=decided_rows(gate, data)."
            )
        super().decision_function(X, language)  # refuses another place or width
        row_of = {name: i for i, name in enumerate(self.prompt_ids_)}
        unknown = [str(name) for name in X.prompt_id if str(name) not in row_of]
        if unknown:
            raise DataError(f"{len(unknown)} prompts have no decision: {shown_list(unknown[:3])}. Expected only prompts that fit() was given.")
        return np.asarray(self.decisions_, dtype=np.float64)[[row_of[str(name)] for name in X.prompt_id]]

    def predict(self, X: Any, language: Any = None) -> Bool[np.ndarray, " prompt"]:
        """Return the decisions, which no threshold changes."""
        return self.decision_function(X, language) > 0.5


def permuted_labels(data: GateData, rng: np.random.Generator) -> GateData:
    """Return the same states under labels that share nothing with the true ones: half of each class is called harmful.

    Meanings are shuffled, so translations of one keep one label. Any gate can be fitted on it.

    Raises
    ------
    DataError
        Fewer than two meanings of a class: no half of them.
    """
    labels = pd.DataFrame({"meaning_id": data.meaning_id, "harmful": data.y})
    counts = {label: len(set(data.meaning_id[data.y == label])) for label in (True, False)}
    if min(counts.values()) < 2:
        raise DataError(f"Got {counts[True]} harmful and {counts[False]} harmless meanings. Expected at least two of each to permute labels.")
    return replace(data, y=shuffle_by_meaning(labels, np.arange(len(data)), 1, rng, within_class=True)[0])


def shuffled_decisions(fires: Bool[np.ndarray, "draw prompt"], language: np.ndarray, rng: np.random.Generator) -> Bool[np.ndarray, "draw prompt"]:
    """Give each draw's decisions to other prompts of the same language, as many as before."""
    out = np.array(fires)
    for tag in dict.fromkeys(language):
        rows = np.flatnonzero(language == tag)
        out[:, rows] = rng.permuted(out[:, rows], axis=1)
    return out


def permuted_decisions(gate: Gate, data: GateData, rng: np.random.Generator) -> KnownDecisions:
    """Return a gate that fires as often as another one in each language, on prompts drawn at random among both classes.

    Parameters
    ----------
    gate : Gate
        Fitted, with a threshold for each language of ``data``; the result carries its ``labels_used_``.
    data : GateData
        The prompts that will be scored.
    """
    found = KnownDecisions().fit(data, decisions=shuffled_decisions(np.asarray(gate.predict(data), dtype=bool)[None], data.language, rng)[0])
    found.labels_used_ = dict(gate.labels_used_)
    return found


def decided_rows(gate: Any, data: GateData, language: Any = None) -> dict[str, bool]:
    """Return each prompt's decision by its id, as ``rows`` of an edit."""
    fires = gate.predict(data, language)
    return {str(name): bool(fired) for name, fired in zip(data.prompt_id, fires, strict=True)}


def fit_controls(
    gate: Gate, source: GateData, scored: GateData, *, rng: np.random.Generator, seeds: int = FEWEST_SEEDS, recalibrated: Gate | None = None
) -> dict[str, Gate]:
    """Fit every control of a gate, by name.

    Parameters
    ----------
    gate : Gate
        The kind that "permuted labels" is fitted of (parameters only; it need not be fitted).
    source : GateData
        What the gate itself was fitted on.
    scored : GateData
        The prompts that will be scored: for the controls that go by prompt.
    seeds : int
        Random directions, and permuted fits.
    recalibrated : Gate, optional
        The fitted gate as it is used on ``scored``; with it "permuted decisions" are among the controls.

    Returns
    -------
    dict of name to fitted Gate
        Those that can be recalibrated (random direction, permuted labels) still have to be, with the labels the gate gets; the others
        use none (``labels_used_``), but for the oracle, which uses all.

    Raises
    ------
    DataError
        Fewer than one seed; what a control's fit refuses.
    """
    if seeds < 1:
        raise DataError(f"seeds={seeds}: expected at least 1, and {FEWEST_SEEDS} for evidence.")
    found: dict[str, Gate] = {"always": AlwaysGate().fit(source), "never": AlwaysGate(fires=False).fit(source)}
    drawn = [int(rng.integers(2**31)) for _ in range(seeds)]
    found |= {f"random direction {i}": RandomDirectionGate(random_state=seed).fit(source) for i, seed in enumerate(drawn)}
    found |= {f"permuted labels {i}": clone(gate).fit(permuted_labels(source, rng)) for i in range(seeds)}
    if recalibrated is not None:
        found["permuted decisions"] = permuted_decisions(recalibrated, scored, rng)
    return found | {"oracle": KnownDecisions().fit(scored)}
