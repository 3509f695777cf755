"""Two scores of one matrix of cosines between translations: MEXA and the baseline-adjusted cosine; and how tokens are pooled.

Row i and column i of the matrix are the same meaning in two languages.

* MEXA (arXiv:2410.05873): the share of meanings whose diagonal entry is strictly larger than every other entry of its
  row *and* of its column. 1 where every prompt and its translation find each other, 0 where nothing stands out.
* adjusted cosine (arXiv:2411.04986): mean of the diagonal minus mean of the rest. States of one model all point roughly
  the same way, so two unrelated prompts may have a cosine of .9; the difference takes that baseline away.

Leaving out a meaning changes both by sums alone, so their jackknife needs no second matrix.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from workbench.errors import DataError, did_you_mean
from workbench.geometry.retrieval import TIE, unit_states

POOLINGS = ("weighted", "last", "mean")


def cosines(first: Float[np.ndarray, "meaning hidden"], second: Float[np.ndarray, "meaning hidden"]) -> Float[np.ndarray, "meaning meaning"]:
    """Return the cosine of each state of one language (rows) with each of another (columns), nothing subtracted.

    Raises
    ------
    DataError
        The two languages differ in meanings or width.
    """
    if first.ndim != 2 or first.shape != second.shape:
        raise DataError(
            f"Got states of shape {first.shape} and {second.shape}. Expected the same meanings in both languages: cut both to those shared."
        )
    one, two = (unit_states(np.asarray(states, dtype=np.float64)[None], centre=False)[0] for states in (first, second))
    return one @ two.T


def _square(similar: np.ndarray) -> np.ndarray:
    similar = np.asarray(similar, dtype=np.float64)
    if similar.ndim != 2 or similar.shape[0] != similar.shape[1]:
        raise DataError(f"Got a similarity matrix of shape {similar.shape}. Expected meaning x meaning, the same meanings in the same order.")
    if len(similar) < 2:
        raise DataError("Got 1 meaning, and with nothing beside it nothing stands out. Expected at least 2; capture more.")
    return similar


def mutual_best(similar: Float[np.ndarray, "meaning meaning"]) -> Bool[np.ndarray, "meaning meaning"]:
    """Mark the entries that are strictly larger than every other entry of their row and of their column.

    Strictly means by more than rounding (1e-9, as in retrieval), so copies of one state never win. A row or column with
    a NaN has no largest entry.
    """
    at = np.arange(len(similar))
    best = similar.argmax(axis=1)
    won = np.zeros(similar.shape, dtype=bool)
    won[at, best] = _lead(similar) & _lead(similar.T)[best] & (similar.argmax(axis=0)[best] == at)
    return won


def _lead(similar: np.ndarray) -> np.ndarray:
    """Say for each row whether one entry is above all others."""
    at, best = np.arange(len(similar)), similar.argmax(axis=1)
    rest = similar.copy()
    rest[at, best] = -np.inf
    return similar[at, best] - rest.max(axis=1) > TIE


def mexa(similar: Float[np.ndarray, "meaning meaning"]) -> float:
    """Return the share of meanings whose translation pair stands out in both languages (0 to 1).

    Parameters
    ----------
    similar : array (meaning, meaning)
        Cosines; rows are one language, columns the other, meanings in the same order.

    Returns
    -------
    float
        Chance, with translations permuted: the marked entries of :func:`mutual_best` over n^2, at most 1/n.

    Raises
    ------
    DataError
        Not square, or a single meaning.

    References
    ----------
    MEXA, arXiv:2410.05873, ``compute_mexa.py``.

    Examples
    --------
    >>> mexa(np.eye(5)), mexa(np.ones((5, 5)))
    (1.0, 0.0)
    """
    return float(np.diag(mutual_best(_square(similar))).mean())


def mexa_without(similar: Float[np.ndarray, "meaning meaning"]) -> Float[np.ndarray, " meaning"]:
    """Return MEXA with each meaning left out: a meaning that stood behind that one alone now stands out."""
    own = np.diag(similar)
    behind = own[:, None] - similar <= TIE
    behind |= own[:, None] - similar.T <= TIE
    np.fill_diagonal(behind, False)
    rivals = behind.sum(axis=1)
    right = rivals == 0
    gain = behind[rivals == 1].sum(axis=0)
    return (right.sum() - right + gain) / (len(similar) - 1)


def adjusted_per_pair(similar: Float[np.ndarray, "meaning meaning"]) -> Float[np.ndarray, " meaning"]:
    """Return each meaning's cosine with its translation minus the mean cosine of all pairs that are no translations.

    Raises
    ------
    DataError
        Not square, or a single meaning.

    References
    ----------
    Semantic hub, arXiv:2411.04986, ``lib/utils.py``.
    """
    similar = _square(similar)
    n, own = len(similar), np.diag(similar)
    return own - (similar.sum() - own.sum()) / (n * (n - 1))


def adjusted_cosine(similar: Float[np.ndarray, "meaning meaning"]) -> float:
    """Return the mean of :func:`adjusted_per_pair`; chance is 0, the range -2 to 2."""
    return float(adjusted_per_pair(similar).mean())


def adjusted_without(similar: Float[np.ndarray, "meaning meaning"]) -> Float[np.ndarray, " meaning"]:
    """Return the adjusted cosine with each meaning left out (NaN for fewer than three)."""
    n, own = len(similar), np.diag(similar)
    if n < 3:
        return np.full(n, np.nan)
    paired = own.sum() - own
    all_left = similar.sum() - similar.sum(axis=0) - similar.sum(axis=1) + own
    return paired / (n - 1) - (all_left - paired) / ((n - 1) * (n - 2))


def pool_tokens(
    states: Float[np.ndarray, "prompt token hidden"], mask: Int[np.ndarray, "prompt token"] | Bool[np.ndarray, "prompt token"], how: str = "weighted"
) -> Float[np.ndarray, "prompt hidden"]:
    """Reduce the states of a text's tokens to one state per prompt, as MEXA does.

    Parameters
    ----------
    states : array (prompt, token, hidden)
    mask : array (prompt, token)
        1 at real tokens, 0 at padding on either side.
    how : str
        "weighted": mean with weights 1 to T, so that later tokens, which have read more, count more; "last": the last
        real token; "mean": equal weights.

    Returns
    -------
    array (prompt, hidden), float64

    Notes
    -----
    MEXA feeds the bare sentence. Its "last" is what ``t_inst`` holds (last token of the user's text), apart from the
    chat template around it; ``mean_inst`` is "mean" over the user's text. No captured position is "weighted", which
    needs the states of all tokens.

    Raises
    ------
    DataError
        Unknown pooling, shapes that differ, or a prompt without a token.

    References
    ----------
    MEXA, arXiv:2410.05873, ``embed_extractor.py``.

    Examples
    --------
    >>> pool_tokens(np.array([[[0.0], [3.0], [9.0]]]), np.array([[1, 1, 0]])).tolist()
    [[2.0]]
    """
    if how not in POOLINGS:
        raise DataError(f"Unknown pooling {how!r}; expected one of {list(POOLINGS)}.{did_you_mean(how, POOLINGS)}")
    mask = np.asarray(mask)
    if states.ndim != 3 or mask.shape != states.shape[:2]:
        raise DataError(
            f"Got states of shape {states.shape} with a mask of shape {mask.shape}. Expected (prompt, token, hidden) and (prompt, token)."
        )
    real = mask != 0
    if not real.any(axis=1).all():
        raise DataError(f"Prompt {int(np.flatnonzero(~real.any(axis=1))[0])} has no token. Expected at least one per prompt; drop empty texts.")
    place = np.where(real, np.cumsum(real, axis=1), 0).astype(np.float64)
    if how == "last":
        weights = (place == place.max(axis=1, keepdims=True)).astype(np.float64)
    else:
        weights = place if how == "weighted" else real.astype(np.float64)
    # padding may hold anything, NaN included
    kept = np.where(real[:, :, None], states, 0.0).astype(np.float64)
    return np.einsum("pt,pth->ph", weights, kept) / weights.sum(axis=1, keepdims=True)
