"""Which language a token belongs to, estimated from texts of known language.

Bayes with a uniform prior over languages (arXiv:2411.04986 counts 100,000 web texts per language; here it is the user's prompts)::

    P(language | token) = (m f_l + s / L) / (m sum_l f_l + s),      f_l = share of the token among language l's tokens

L languages, s the smoothing in tokens, m the harmonic mean of the languages' token counts; s = 0 is plain Bayes. Tokens that
languages share (punctuation, digits, names) are split by it, tokens never seen are spread evenly: 1/L each. Without smoothing
a token seen once would belong wholly to one language; docs/lens.md has what was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from workbench.errors import DataError

#: Tokens added to each token's counts, spread evenly over the languages.
SMOOTHING = 0.25


@dataclass(frozen=True)
class TokenLanguages:
    """P(language | token) for the tokens seen; made by :func:`token_languages`.

    Attributes
    ----------
    languages : tuple of str
    tokens : int array (token,)
        Ids seen, ascending.
    probability : float64 array (token, language)
        Rows sum to one. Tokens not listed have 1/L for each of the L languages.
    n_vocab : int
        Size of the vocabulary that logits have.
    counts : dict
        Tokens counted, by language.
    smoothing : float
    """

    languages: tuple[str, ...]
    tokens: Int[np.ndarray, " token"]
    probability: Float[np.ndarray, "token language"]
    n_vocab: int
    counts: dict[str, int]
    smoothing: float

    def dense(self) -> Float[np.ndarray, "vocab language"]:
        """Return the row of every token of the vocabulary, unseen ones spread evenly."""
        whole = np.full((self.n_vocab, len(self.languages)), 1 / len(self.languages))
        whole[self.tokens] = self.probability
        return whole

    def shares(self, ids: Sequence[int]) -> Float[np.ndarray, " language"]:
        """Attribute a text: the mean row of its tokens. A language's own text says how high its share can get."""
        return self.dense()[np.asarray(ids, dtype=np.int64)].mean(axis=0)


def token_languages(ids: Sequence[Sequence[int]], languages: Sequence[str], n_vocab: int, *, smoothing: float = SMOOTHING) -> TokenLanguages:
    """Estimate which language a token belongs to, from texts of known language.

    Parameters
    ----------
    ids : sequence of sequences of int
        Tokens of each text; of a prompt the user's text only, without the template.
    languages : sequence of str
        Language of each text.
    n_vocab : int
        Size of the vocabulary that logits have.
    smoothing : float
        Tokens, spread evenly over the languages, added to each token's (rescaled) counts; 0 is plain Bayes, for which it does
        not matter how much text a language has.

    Raises
    ------
    DataError
        Fewer than two languages, a language without tokens, a token outside the vocabulary, or a negative smoothing.

    References
    ----------
    Semantic hub, arXiv:2411.04986 (uniform prior, unknown tokens even). The smoothing is this workbench's choice.

    Examples
    --------
    >>> known = token_languages([[0, 1], [0, 2]], ["en", "sw"], 4, smoothing=0)
    >>> known.dense().tolist()
    [[0.5, 0.5], [1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]
    """
    if len(ids) != len(languages):
        raise DataError(f"Got {len(ids)} texts and {len(languages)} languages. Expected one language per text.")
    if not smoothing >= 0 or not np.isfinite(smoothing):
        raise DataError(f"smoothing is {smoothing}; expected a number of tokens, 0 or more.")
    names = tuple(dict.fromkeys(str(language) for language in languages))
    if len(names) < 2:
        raise DataError(f"Got texts in {len(names)} language(s): {list(names)}. Telling languages apart needs at least two; add another's prompts.")
    count = np.zeros((len(names), n_vocab))
    for line, language in zip(ids, languages, strict=True):
        given = np.asarray(line, dtype=np.int64)
        if len(given) and not (0 <= given.min() and given.max() < n_vocab):
            raise DataError(f"Tokens from {given.min()} to {given.max()} in a vocabulary of {n_vocab}. Pass the number of logits as n_vocab.")
        count[names.index(str(language))] += np.bincount(given, minlength=n_vocab)
    totals = count.sum(axis=1)
    if (totals == 0).any():
        empty = [name for name, total in zip(names, totals, strict=True) if total == 0]
        raise DataError(f"No tokens of {empty}. Expected text in every language; add prompts to the split that is counted.")
    seen = np.flatnonzero(count.sum(axis=0))
    weight = (count[:, seen] / totals[:, None]).T * (len(names) / (1 / totals).sum())
    probability = (weight + smoothing / len(names)) / (weight.sum(axis=1, keepdims=True) + smoothing)
    return TokenLanguages(names, seen, probability, n_vocab, dict(zip(names, totals.astype(int).tolist(), strict=True)), float(smoothing))
