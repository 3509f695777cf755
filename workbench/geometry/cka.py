"""Linear CKA: do the same meanings lie in the same arrangement in two languages, wherever the arrangement sits?

CKA compares the two meaning x meaning matrices of inner products (Kornblith et al. 2019, arXiv:1905.00414)::

    CKA(X, Y) = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)),      K = X X^T,  L = Y Y^T

A rotation or a scale of either language changes nothing, so languages that share the shape of meaning but no coordinates
score high, where a cosine is near zero.

Biased HSIC (centred rows) counts the diagonal, on which a state is compared with itself. With more dimensions than
meanings the diagonal dominates and CKA tends to 1 for independent noise: .98 for 40 rows of 2,000 dimensions. The unbiased
HSIC (Song et al. 2012, J. Mach. Learn. Res. 13:1393, eq. 5) leaves it out and stays near 0. It is the inner product of the
"U-centred" matrices (Szekely and Rizzo 2014, Ann. Stat. 42:2382)::

    U_ij = K_ij - k_i/(n-2) - k_j/(n-2) + k/((n-1)(n-2))  off the diagonal, 0 on it;   HSIC = sum(U_K * U_L) / (n(n-3))

so unbiased CKA is a cosine: -1 to 1, chance 0, and a permutation of rows permutes U.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from workbench.errors import DataError

LEAST = 4  # n(n-3) in the denominator


def centred_gram(states: Float[np.ndarray, "meaning hidden"]) -> Float[np.ndarray, "meaning meaning"]:
    """Return the inner products of states whose mean was subtracted."""
    centred = np.asarray(states, dtype=np.float64)
    centred = centred - centred.mean(axis=0)
    return centred @ centred.T


def u_centred(gram: Float[np.ndarray, "meaning meaning"]) -> Float[np.ndarray, "meaning meaning"]:
    """Return the matrix whose inner products, divided by n(n-3), are the unbiased HSIC; its diagonal is zero."""
    n = len(gram)
    if n < LEAST:
        raise DataError(f"Unbiased HSIC of {n} meanings divides by zero. Expected at least {LEAST}; capture more, or leave out 'cka'.")
    bare = gram - np.diag(np.diag(gram))
    sums = bare.sum(axis=1)
    out = bare - sums[:, None] / (n - 2) - sums[None, :] / (n - 2) + sums.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(out, 0.0)
    return out


def linear_cka(first: Float[np.ndarray, "meaning hidden"], second: Float[np.ndarray, "meaning other"], *, unbiased: bool = True) -> float:
    """Return the linear CKA of two sets of states of the same meanings.

    Parameters
    ----------
    first, second : array (meaning, hidden)
        Widths may differ.
    unbiased : bool
        False gives the biased form, which tends to 1 with more dimensions than meanings; for comparison only.

    Returns
    -------
    float
        1 for the same shape. Chance 0 (unbiased, which may be negative). NaN where a language has one state only.

    Raises
    ------
    DataError
        Different numbers of meanings, or fewer than four.
    """
    if len(first) != len(second):
        raise DataError(f"Got {len(first)} and {len(second)} meanings. Expected the same meanings in both languages, in the same order.")
    one, two = centred_gram(first), centred_gram(second)
    return cosine_of(u_centred(one), u_centred(two)) if unbiased else cosine_of(one, two)


def cosine_of(first: np.ndarray, second: np.ndarray) -> float:
    """Return the cosine of two matrices; NaN where one is zero."""
    norm = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(np.vdot(first, second)) / norm if norm > 0 else float("nan")


def hsic_without(first: Float[np.ndarray, "meaning meaning"], second: Float[np.ndarray, "meaning meaning"]) -> Float[np.ndarray, " meaning"]:
    """Return the unbiased HSIC of two Gram matrices with each meaning left out, from sums over the whole ones."""
    m = len(first) - 1
    if m < LEAST:
        return np.full(len(first), np.nan)
    one, two = first - np.diag(np.diag(first)), second - np.diag(np.diag(second))
    rows_one, rows_two, both = one.sum(axis=1), two.sum(axis=1), (one * two).sum(axis=1)
    trace = both.sum() - 2 * both
    sums = (rows_one.sum() - 2 * rows_one) * (rows_two.sum() - 2 * rows_two)
    cross = rows_one @ rows_two - one @ rows_two - two @ rows_one + both - rows_one * rows_two
    return (trace + sums / ((m - 1) * (m - 2)) - 2 * cross / (m - 2)) / (m * (m - 3))


def cka_without(first: Float[np.ndarray, "meaning meaning"], second: Float[np.ndarray, "meaning meaning"]) -> Float[np.ndarray, " meaning"]:
    """Return unbiased CKA of two Gram matrices with each meaning left out (NaN for fewer than five)."""
    norms = np.sqrt(np.maximum(hsic_without(first, first) * hsic_without(second, second), 0.0))
    together = hsic_without(first, second)
    return np.divide(together, norms, out=np.full(len(first), np.nan), where=norms > 0)


def permuted(u: Float[np.ndarray, "meaning meaning"], shuffles: Int[np.ndarray, "draw meaning"]) -> Float[np.ndarray, "draw pair"]:
    """Return a U-centred matrix with its rows and columns permuted, flattened, once per draw.

    The product with another language's flattened matrix is the numerator of CKA under permuted translations; the
    denominator does not change. float32: a null distribution needs no more.
    """
    compact = u.astype(np.float32)
    return np.stack([compact[np.ix_(s, s)].ravel() for s in shuffles]) if len(shuffles) else np.zeros((0, u.size), dtype=np.float32)
