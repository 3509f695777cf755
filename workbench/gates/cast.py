"""CAST: fire where a prompt's pooled state is (un)like a condition vector.

    published:  sim = cos(x, tanh(P x)),  P = c c^T / (c.c)      blind to the sign: the same for x, -x and -c
    ours:       sim = cos(x, c)                                  ``signed=True``

While the projection is small tanh is linear and the published form is |cos(x, c)|, so that a prompt on the harmless side is as similar as one on
the harmful side; that is why the tuned comparator flips between data sets. Large projections saturate: every entry of tanh(P x) becomes +-1,
and what counts is how many signs agree.

References
----------
Lee et al. 2025, CAST, arXiv:2409.05907; released code IBM/activation-steering.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Bool, Float
from sklearn.base import clone

from workbench.directions.paired import paired_component, pairs_of
from workbench.errors import DataError
from workbench.gates.condition_point import ConditionPoint, condition_point
from workbench.gates.inputs import as_rows
from workbench.gates.place import gate_data
from workbench.gates.policy import Context, Scores, ThresholdChoice, ThresholdPolicy, both_or_none
from workbench.gates.protocol import Gate
from workbench.gates.rowwise import row_cosines, row_dots

#: What the released demo and the ports add: 1.5 unit vectors at layers 15 to 23, whatever the states' length.
RELEASED_STRENGTH = 1.5


def cast_similarity(
    states: Float[np.ndarray, "prompt hidden"], condition: Float[np.ndarray, " hidden"], *, signed: bool = False
) -> Float[np.ndarray, " prompt"]:
    """Return the similarity of pooled states with a condition vector, -1 to 1, in float64; NaN where a state (or its projection) is zero.

    Parameters
    ----------
    condition : array (hidden,)
        Need not be of unit length.
    signed : bool
        False: the published cos(x, tanh(P x)), equal for x and -x bit for bit. True: cos(x, c), which tells the two apart (*ours*).

    Raises
    ------
    DataError
        Widths that differ, or a zero condition vector.

    Notes
    -----
    The authors' bfloat16 is off by up to .024 on the stored cases, a large part of their demo's thresholds (0 to .06).

    Examples
    --------
    >>> x = np.array([[0.1, 0.1], [-0.1, -0.1]])
    >>> cast_similarity(x, np.array([1.0, 0.0])).round(3).tolist(), cast_similarity(x, np.array([1.0, 0.0]), signed=True).round(3).tolist()
    ([0.707, 0.707], [0.707, -0.707])
    """
    states, condition = np.ascontiguousarray(states, dtype=np.float64), np.asarray(condition, dtype=np.float64)
    if states.ndim != 2 or condition.shape != states.shape[1:]:
        raise DataError(f"Got states {states.shape} and a condition vector {condition.shape}. Expected (prompt, hidden) and (hidden,).")
    if not condition.any():
        raise DataError("The condition vector is zero. Expected one along which the pairs differ; take another layer or position.")
    if signed:
        return row_cosines(states, condition)
    squared = float((condition * condition).sum())
    projected = (row_dots(states, condition) / squared)[:, None] * condition
    # odd to the last bit, whichever tanh numpy was built with
    return row_cosines(states, np.copysign(np.tanh(np.abs(projected)), projected))


def pooled(
    states: Float[np.ndarray, "prompt token hidden"], real: Bool[np.ndarray, "prompt token"], *, count_padding: bool = False
) -> Float[np.ndarray, "prompt hidden"]:
    """Return the mean state over each prompt's tokens: CAST's x.

    Parameters
    ----------
    real : bool array (prompt, token)
        False where padded.
    count_padding : bool
        Average the padding too, as the port of the low-resource comparison does while generating (it masks padding while it
        fits). A prompt's decision then depends on the length of what is batched with it.

    Raises
    ------
    DataError
        Shapes that do not fit, or a prompt without tokens.
    """
    states, real = np.asarray(states, dtype=np.float64), np.asarray(real, dtype=bool)
    if states.ndim != 3 or real.shape != states.shape[:2] or not real.any(axis=1).all():
        raise DataError(f"Got states {states.shape} and tokens {real.shape}. Expected (prompt, token, hidden), (prompt, token), and a token in each.")
    used = np.ones_like(real) if count_padding else real
    return np.where(used[:, :, None], states, 0.0).sum(axis=1) / used.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class ConditionSearch:
    """CAST's own rule for a threshold: the first of a grid with the best F1; fires strictly above it.

    Parameters
    ----------
    as_released : bool
        Round to three decimals after the search.

    Notes
    -----
    Of equally good thresholds the lowest wins, so it lies just above the highest harmless example and flags more than a midpoint would.
    """

    as_released: bool = False
    name: ClassVar[str] = "cast_search"
    needs_labels: ClassVar[bool] = True

    def choose(self, scores_harmful: np.ndarray, scores_harmless: np.ndarray, context: Context) -> ThresholdChoice:
        """Search the grid on the examples, on the source scores where there are none."""
        examples = both_or_none(scores_harmful, scores_harmless, context.language)
        used = examples if len(examples.harmful) else context.required_sources("ConditionSearch without examples")
        scores, harmful = np.concatenate(used), np.arange(len(used.harmful) + len(used.harmless)) < len(used.harmful)
        point = condition_point(scores[:, None], harmful, comparators=("smaller",), as_released=self.as_released)
        caution = ""
        if point.threshold < scores.min():
            caution = (
                f"The examples of {context.language!r} are not in order (F1 is best when all of them are flagged), so the gate will flag nearly "
                "everything. Draw other or more examples, or pass another policy."
            )
        reason = f"best F1 {point.f1:.3f} of a grid on {len(scores)} scores"
        return ThresholdChoice(_at_or_above(point.threshold), "none", reason=reason, caution=caution)


class CastGate(Gate):
    """Fires where the similarity with the condition vector lies on the harmful side of a threshold.

    Parameters
    ----------
    centring : {"pairwise", "center", "diff"}
        Of the pairs whose first principal component is the condition vector (:mod:`workbench.directions.paired`).
    signed : bool
        Similarity that knows the sign (*ours*) instead of the published one.
    grid : (start, stop, step), optional
        Thresholds searched; None spans the similarities found. The released demo's is ``RELEASED_GRID``.
    as_released : bool
        Round the threshold to three decimals after the search.
    first_row_only : bool
        Decide the first row only and leave all others alone, as the released code does with a batch.
    random_state : int
        For drawing pairs within a language.

    Attributes
    ----------
    condition_ : array (hidden,)
    comparator_ : str
        "smaller" (fires above: the score is the similarity) or "larger" (fires below: the score is minus the similarity).
    point_threshold_ : float
        The threshold as a similarity.
    f1_, f1_running_ : float
        See :class:`~workbench.gates.condition_point.ConditionPoint`.

    Notes
    -----
    States: mean-pooled over the user's text is position ``mean_inst`` (the release averages the template's tokens too), its last token
    ``t_inst``, the last token of the rendered prompt ``t_post_inst``. A state of zero has no similarity (NaN) and never fires.
    ``recalibrate`` keeps vector and comparator and searches the threshold anew (:class:`ConditionSearch`), or takes any policy.

    References
    ----------
    Lee et al. 2025, arXiv:2409.05907.
    """

    learned = ("condition_", "comparator_", "point_threshold_", "f1_", "f1_running_")

    def __init__(
        self,
        *,
        centring: str = "pairwise",
        signed: bool = False,
        grid: Sequence[float] | None = None,
        as_released: bool = False,
        first_row_only: bool = False,
        random_state: int = 0,
    ):
        self.centring = centring
        self.signed = signed
        self.grid = grid
        self.as_released = as_released
        self.first_row_only = first_row_only
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None, language: Any = None, *, condition_states: Any = None) -> Self:
        """Learn condition vector, comparator and threshold.

        Parameters
        ----------
        X, y, language
            As in :meth:`Gate.fit`.
        condition_states : array (prompt, hidden) or GateData, optional
            The same prompts elsewhere, if the vector is to come from there. The released code takes it from the output of a block and
            tests the input of that block, one layer lower: give layer k + 1 here to a gate at layer k.

        Raises
        ------
        DataError
            As :meth:`Gate.fit`; fewer than two pairs; pairs that do not differ; a state without a similarity.
        """
        self._elsewhere = None if condition_states is None else as_rows(condition_states).X
        try:
            super().fit(X, y, language)
        finally:
            del self._elsewhere
        self._set_thresholds()
        return self

    def _learn(self, X: np.ndarray, y: np.ndarray, language: np.ndarray) -> None:
        source = X if self._elsewhere is None else self._elsewhere
        if source.shape != X.shape:
            raise DataError(f"condition_states has shape {source.shape}, X {X.shape}. Expected the same prompts in the same order, and one width.")
        labels = pd.DataFrame({"language": language, "meaning_id": np.arange(len(y)).astype(str)})
        pairs = pairs_of(labels, y, np.random.default_rng(self.random_state))
        self.condition_ = paired_component(source[pairs.positive], source[pairs.negative], self.centring)
        similarity = cast_similarity(X, self.condition_, signed=self.signed)
        undefined = int((~np.isfinite(similarity)).sum())
        if undefined:
            raise DataError(
                f"{undefined} of {len(X)} states have no similarity (they are zero, or have no component along the condition vector). Expected none "
                "to fit on; leave these prompts out."
            )
        self._take(condition_point(similarity[:, None], y, thresholds=_grid(self.grid), as_released=self.as_released))

    def _take(self, point: ConditionPoint) -> None:
        self.comparator_, self.point_threshold_ = point.comparator, point.threshold
        self.f1_, self.f1_running_ = point.f1, point.f1_running

    def _set_thresholds(self) -> None:
        self.fallback_ = _at_or_above(self.point_threshold_ if self.comparator_ == "smaller" else -self.point_threshold_)
        self.thresholds_ = dict.fromkeys(self.thresholds_, self.fallback_)

    def _score(self, X: np.ndarray, language: np.ndarray) -> np.ndarray:
        similarity = cast_similarity(X, self.condition_, signed=self.signed)
        return similarity if self.comparator_ == "smaller" else -similarity

    def predict(self, X: Any, language: Any = None) -> Bool[np.ndarray, " prompt"]:
        """Say for each row whether the gate fires; see :meth:`Gate.predict`."""
        fires = super().predict(X, language)
        return fires & (np.arange(len(fires)) == 0) if self.first_row_only else fires

    def recalibrate(self, X: Any, y: Any = None, *, language: str | None = None, policy: ThresholdPolicy | None = None) -> Self:
        """Return a copy with a new threshold for one language; by default CAST's own search on the examples. See :meth:`Gate.recalibrate`."""
        rule: ThresholdPolicy = ConditionSearch(self.as_released) if policy is None else policy
        return super().recalibrate(X, y, language=language, policy=rule)


def fit_cast(
    acts: xr.Dataset,
    layers: Sequence[int],
    position: str = "mean_inst",
    *,
    gate: CastGate | None = None,
    languages: Sequence[str] | None = None,
    split: str | None = "fit",
    select: str | None = "select",
    block_input: bool = False,
) -> CastGate:
    """Fit a gate at each of some layers, and return the one that the condition search chooses.

    Parameters
    ----------
    acts : Dataset
        Activations; one layer is read at a time.
    layers : sequence of int
        Where the condition is tested.
    gate : CastGate, optional
        Its options.
    split, select : str or None
        Meanings that give the vectors, and those the point is searched on. The released code uses the same for both.
    block_input : bool
        Take each vector one layer higher than it is tested, as the released code does.

    Raises
    ------
    DataError
        Layers, positions, splits or languages that were not captured; as :meth:`CastGate.fit`.

    Notes
    -----
    Layers are not joined by "or" here, though :func:`condition_point` can: one gate reads one place.
    """
    options = CastGate() if gate is None else gate
    fitted, columns, harmful = [], [], np.empty(0, dtype=bool)
    for layer in layers:
        above = gate_data(acts, layer + 1, position, split, languages) if block_input else None
        fitted.append(clone(options).fit(gate_data(acts, layer, position, split, languages), condition_states=above))
        searched = gate_data(acts, layer, position, select, languages)
        columns.append(cast_similarity(searched.X, fitted[-1].condition_, signed=options.signed))
        harmful = searched.y
    if not fitted:
        raise DataError("No layers given. Expected at least one where the condition may be tested.")
    point = condition_point(np.stack(columns, axis=1), harmful, layers=layers, thresholds=_grid(options.grid), as_released=options.as_released)
    chosen = fitted[list(layers).index(point.layers[0])]
    if point.comparator != chosen.comparator_:
        chosen.source_scores_ = {tag: Scores(-scores.harmful, -scores.harmless) for tag, scores in chosen.source_scores_.items()}
    chosen._take(point)
    chosen._set_thresholds()
    return chosen


def _grid(grid: Sequence[float] | None) -> tuple[float, float, float] | None:
    if grid is None:
        return None
    if len(grid) != 3:
        raise DataError(f"grid={list(grid)}: expected (start, stop, step), or None.")
    return float(grid[0]), float(grid[1]), float(grid[2])


def _at_or_above(threshold: float) -> float:
    """Turn "strictly above" into the protocol's "at or above"."""
    return float(np.nextafter(threshold, np.inf))
