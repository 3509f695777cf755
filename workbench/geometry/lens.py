"""Which language do the tokens belong to that a layer would say?

With p the softmax of the lens' logits and P(language | token) from :mod:`workbench.geometry.tokens`::

    share of l at a layer = mean over prompts of sum_token p(token) P(l | token)

Tokens never seen in the texts counted have P = 1/L for each of the L languages, so a share of 1/L is no information. On a small
prompt set most of p may lie on such tokens: that mass is reported beside every share, and where it exceeds one half no
language is named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from workbench.errors import DataError, did_you_mean
from workbench.geometry.tokens import SMOOTHING, TokenLanguages, token_languages
from workbench.results import Result
from workbench.statistics import jackknife_interval, max_quantile

__all__ = ["MOST_UNSEEN", "SMOOTHING", "LanguageTrack", "TokenLanguages", "bounded_interval", "language_track", "read_tokens", "token_languages"]

#: Mass on tokens never seen above which no language is named.
MOST_UNSEEN = 0.5
_CHUNK = 64  # states whose whole vocabulary is worked on at once


class Logits(Protocol):
    """What the track reads: logits [prompt layer position vocab] of some ``rows`` of the labels at some ``layers``."""

    @property
    def rows(self) -> np.ndarray: ...
    @property
    def layers(self) -> tuple[int, ...]: ...
    @property
    def positions(self) -> tuple[str, ...]: ...
    @property
    def logits(self) -> np.ndarray: ...


@dataclass(frozen=True)
class LanguageTrack(Result):
    """The language of what each layer would say: one row per position, layer, language of the prompt and language spoken.

    * ``kind``: "language" (``spoken`` is a tag) or "rollup" (``spoken`` is "own", "reference": the reference languages except the
      prompt's own, or "other": all that are left);
    * ``share``: tokens never seen count evenly, so ``chance`` (1/L per language) is no information;
    * ``attributed``: the same without them; own, reference, other and ``unseen`` add up to one;
    * ``control``, ``control_95``: mean and 95 % quantile of the share when the languages of the seen tokens are permuted;
      ``control_top_95``: the quantile of the highest language's; ``attributed_control_95``: ``control_95`` without the unseen;
    * ``entropy``: of the whole distribution, in bits; at most ``entropy_max``, log2 of the vocabulary.

    NaN where every prompt reads the same (a constant token).
    """

    required: ClassVar[tuple[str, ...]] = (
        *("position", "layer", "language", "tier", "kind", "spoken", "share", "low", "high", "n", "chance", "control", "control_95"),
        *("control_top_95", "attributed", "attributed_low", "attributed_high", "attributed_control_95"),
        *("unseen", "unseen_low", "unseen_high", "entropy", "entropy_low", "entropy_high", "entropy_max"),
    )

    def rollup(self) -> pd.DataFrame:
        """Return the rows that put languages together: own, reference, other."""
        return self.table[self.table["kind"] == "rollup"].reset_index(drop=True)

    def spoken(self) -> pd.DataFrame:
        """Name the language spoken at each place, or say why none is named.

        A language is named where at most half of the probability lies on tokens never seen, and its share's lower bound is
        above every other language's upper bound and above ``control_top_95``. The bars hold for one place at a time.

        Returns
        -------
        DataFrame
            position, layer, language, tier, spoken (None: not named), share, low, high, unseen, reason.
        """
        rows = []
        each = self.table[self.table["kind"] == "language"].groupby(["position", "layer", "language"], sort=False)
        for (position, layer, language), part in each:
            top = part.sort_values("share", ascending=False).iloc[0]
            name, reason = _named(part, top)
            found = {"position": position, "layer": layer, "language": language, "tier": top["tier"], "spoken": name}
            rows.append({**found, **{c: top[c] for c in ("share", "low", "high", "unseen")}, "reason": reason})
        table = pd.DataFrame(rows)
        return table.assign(spoken=table["spoken"].astype(object).where(table["spoken"].notna(), None))

    def summary(self) -> pd.DataFrame:
        """Return what is spoken at the last layer."""
        last = self.table[self.table["layer"] == self.table["layer"].max()]
        return LanguageTrack(last).spoken()


def _named(part: pd.DataFrame, top: pd.Series) -> tuple[str | None, str]:
    if not np.isfinite(top["share"]):
        return None, "every prompt reads the same here"
    if top["unseen"] > MOST_UNSEEN:
        return None, f"{top['unseen']:.2f} of the probability is on tokens never seen in the texts counted; more text would decide"
    said = f"{top['spoken']} has {top['share']:.2f} [{top['low']:.2f}, {top['high']:.2f}]"
    others = part[part["spoken"] != top["spoken"]]
    rival = others.loc[others["high"].idxmax()] if others["high"].notna().any() else None
    if not np.isfinite(top["low"]) or rival is None:
        return None, f"{said}: no interval (fewer than three prompts)"
    if not top["low"] > rival["high"]:
        return None, f"{said}, {rival['spoken']} up to {rival['high']:.2f}"
    if not top["low"] > top["control_top_95"]:
        return None, f"{said}, and with permuted tokens some language has up to {top['control_top_95']:.2f}"
    return str(top["spoken"]), f"{said}, above every other language and above permuted tokens ({top['control_top_95']:.2f})"


def read_tokens(
    logits: Float[np.ndarray, "state vocab"], tokens: Int[np.ndarray, " token"]
) -> tuple[Float[np.ndarray, "state token"], Float[np.ndarray, " state"]]:
    """Return the probability of chosen tokens and the entropy in bits of the whole distribution, summed in float64."""
    below = logits - logits.max(axis=1, keepdims=True)
    weights = np.exp(below)
    total = weights.sum(axis=1, dtype=np.float64)
    nats = np.log(total) - (weights * below).sum(axis=1, dtype=np.float64) / total
    return weights[:, tokens].astype(np.float64) / total[:, None], np.maximum(nats, 0.0) / np.log(2)


class _Sums:
    """What is kept while batches pass: one row of shares per prompt, and sums of the control's shares."""

    def __init__(self, labels: pd.DataFrame, known: TokenLanguages, permutations: int, rng: np.random.Generator) -> None:
        self.ids, self.known = labels["prompt_id"].astype(str).to_numpy(), known
        self.languages = list(dict.fromkeys(labels["language"].astype(str)))
        self.group = labels["language"].astype(str).map(self.languages.index).to_numpy()
        self.draws = [rng.permutation(len(known.tokens)) for _ in range(permutations)]
        self.positions: tuple[str, ...] = ()
        self.readings: dict[int, np.ndarray] = {}  # layer -> [prompt position (languages attributed, unseen, entropy)]
        self.control: dict[int, np.ndarray] = {}  # layer -> [draw position language spoken], summed over prompts

    def add(self, batch: Logits) -> None:
        """Read one batch and let it go."""
        rows, logits = np.asarray(batch.rows), np.asarray(batch.logits)
        self.positions = self.positions or tuple(batch.positions)
        expected = (len(rows), len(batch.layers), len(self.positions), self.known.n_vocab)
        if tuple(batch.positions) != self.positions or logits.shape != expected:
            raise DataError(
                f"A batch has logits of shape {logits.shape} at {list(batch.positions)}; expected {expected} (prompt, layer, position, vocabulary) "
                f"at {list(self.positions)}. Read all batches with one call, and pass that vocabulary's size to token_languages."
            )
        if len(rows) and not (0 <= rows.min() and rows.max() < len(self.ids)):
            raise DataError(f"A batch has rows {rows.min()} to {rows.max()}; expected rows of the {len(self.ids)} labels.")
        for index, layer in enumerate(batch.layers):
            kept = self.readings.setdefault(int(layer), np.full((len(self.ids), len(self.positions), len(self.known.languages) + 2), np.nan))
            if np.isfinite(kept[rows, 0, 0]).any():
                again = self.ids[rows[np.isfinite(kept[rows, 0, 0])][0]]
                raise DataError(f"Prompt {again} comes twice at layer {layer}. Expected every prompt and layer once; read them with one call.")
            for position in range(len(self.positions)):
                for start in range(0, len(rows), _CHUNK):
                    some = rows[start : start + _CHUNK]
                    self._read(logits[start : start + _CHUNK, index, position], some, int(layer), position)

    def _read(self, logits: np.ndarray, rows: np.ndarray, layer: int, position: int) -> None:
        if not np.isfinite(logits).all():
            first = self.ids[rows[~np.isfinite(logits).all(axis=1)][0]]
            raise DataError(f"Logits of prompt {first} at layer {layer} are not finite. Expected numbers; load the model in float32.")
        mass, entropy = read_tokens(logits, self.known.tokens)
        unseen = np.maximum(1 - mass.sum(axis=1), 0.0)
        self.readings[layer][rows, position] = np.column_stack([mass @ self.known.probability, unseen, entropy])
        shape = (len(self.draws), len(self.positions), len(self.languages), len(self.known.languages))
        control = self.control.setdefault(layer, np.zeros(shape))
        groups, member = np.unique(self.group[rows], return_inverse=True)
        together = np.eye(len(groups))[member].T @ mass
        for draw, order in enumerate(self.draws):
            control[draw, position, groups] += together[:, order] @ self.known.probability

    def require_all(self) -> None:
        """Refuse a track in which some prompt was not read at some layer."""
        if not self.readings:
            raise DataError("No batch came. Expected logits of every prompt; the iterator may have been used up before.")
        for layer, kept in self.readings.items():
            absent = self.ids[np.isnan(kept[:, 0, 0])]
            if len(absent):
                raise DataError(f"{len(absent)} prompts have no logits at layer {layer} (first: {absent[0]}). Expected every prompt at every layer.")


def bounded_interval(values: Float[np.ndarray, "prompt ..."]) -> tuple[np.ndarray, np.ndarray]:
    """95 % interval of the mean of values between 0 and 1: the jackknife's with one more observation at each end of the scale.

    Shares crowd at 0 and 1, where the plain jackknife covers far too seldom (.25 to .64 of the time for beta shares of mean
    .02, 8 to 40 prompts) and ten equal values would be certainty. Fewer than three values: NaN.
    """
    shape = values.shape[1:]
    padded = np.concatenate([values, np.zeros((1, *shape)), np.ones((1, *shape))])
    low, high = jackknife_interval(padded.mean(axis=0), padded - padded.mean(axis=0))
    if len(values) < 3:
        return np.full(shape, np.nan), np.full(shape, np.nan)
    return np.clip(low, 0.0, 1.0), np.clip(high, 0.0, 1.0)


def language_track(
    batches: Iterable[Logits],
    labels: pd.DataFrame,
    known: TokenLanguages,
    *,
    reference: Sequence[str],
    permutations: int = 100,
    rng: np.random.Generator | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> LanguageTrack:
    """Follow through the layers which language the lens' tokens belong to.

    Batches are read one after another. Kept in float64: L + 2 numbers per prompt, layer and position, and the control's sums
    (draw x layer x position x language x L).

    Parameters
    ----------
    batches : iterable of Logits
        For example from ``workbench.models.lens.lens_logits``; every prompt at every layer once, in any order.
    labels : DataFrame
        One row per prompt: prompt_id, meaning_id, language, and tier where known. A language may lack some meanings.
    known : TokenLanguages
        From texts other than these prompts, or their own tokens are attributed to them.
    reference : sequence of str
        High-resource languages, for the roll-up.
    permutations : int
        Draws of the control: which languages a seen token has is permuted among the seen tokens. A layer that says one token
        to every prompt cannot beat it.

    Returns
    -------
    LanguageTrack
        Chance is ``chance``, an even spread. Intervals (95 %) over meanings, at one place at a time: of shares see
        :func:`bounded_interval`, of the entropy the jackknife's.

    Raises
    ------
    DataError
        Logits that are missing, doubled, not finite or of another vocabulary; a language without known tokens or with fewer
        than two meanings; an unknown reference language.

    References
    ----------
    Semantic hub, arXiv:2411.04986 (share by Bayes); Wendler et al. 2024, arXiv:2402.10588 (lens, entropy in bits).
    """
    labels = labels.reset_index(drop=True)
    _require_labels(labels, known, reference)
    if permutations < 1:
        raise DataError(f"permutations is {permutations}; expected at least 1: a share needs its control beside it.")
    sums = _Sums(labels, known, permutations, rng or np.random.default_rng(0))
    for batch in batches:
        sums.add(batch)
    sums.require_all()
    tiers = labels["tier"].astype(object).where(labels["tier"].notna(), None) if "tier" in labels else [None] * len(labels)
    tier_of = dict(zip(labels["language"].astype(str), tiers, strict=True))
    rows = []
    for p, position in enumerate(sums.positions):
        for layer in sorted(sums.readings):
            everyone = sums.readings[layer][:, p]
            if np.ptp(everyone, axis=0).max() < 1e-6:
                everyone = np.full_like(everyone, np.nan)
            for g, language in enumerate(sums.languages):
                mine = sums.group == g
                control = sums.control[layer][:, p, g] / mine.sum()
                place = {"position": position, "layer": layer, "language": language, "tier": tier_of[language]}
                rows += [{**place, **row} for row in _rows(everyone[mine], control, known, language, reference)]
    options = {
        "reference": list(reference),
        "token_languages": {"languages": list(known.languages), "tokens": known.counts, "kinds": len(known.tokens), "smoothing": known.smoothing},
        "permutations": permutations,
        "interval": "over meanings; shares with one observation added at each end, entropy by the jackknife",
        "control": "languages permuted among the seen tokens",
    }
    return LanguageTrack(pd.DataFrame(rows), {**(provenance or {}), **options})


def _rows(values: np.ndarray, control: np.ndarray, known: TokenLanguages, language: str, reference: Sequence[str]) -> list[dict[str, Any]]:
    """Return one language's rows at one place; ``values`` are (prompt, languages attributed + unseen + entropy)."""
    n, size = len(values), len(known.languages)
    attributed, unseen, entropy = values[:, :-2], values[:, -2], values[:, -1]
    column = {tag: i for i, tag in enumerate(known.languages)}
    others = [tag for tag in known.languages if tag != language and tag not in reference]
    together = {"own": [language], "reference": [tag for tag in reference if tag != language], "other": others}
    groups = [("language", tag, [tag]) for tag in known.languages] + [("rollup", name, tags) for name, tags in together.items() if tags]
    picked = np.zeros((size, len(groups)))
    for i, (_, _, tags) in enumerate(groups):
        picked[[column[tag] for tag in tags], i] = 1
    chance = picked.sum(axis=0) / size
    part = attributed @ picked
    share = part + unseen[:, None] * chance
    defined = np.isfinite(entropy).all()
    drawn = control @ picked if defined else np.full((len(control), len(groups)), np.nan)
    spread = unseen.mean() * chance
    bounds = {"": bounded_interval(share), "attributed_": bounded_interval(part)}
    bits_low, bits_high = jackknife_interval(entropy.mean(), entropy - entropy.mean())
    unseen_low, unseen_high = bounded_interval(unseen)
    bits = {"entropy": entropy.mean(), "entropy_low": np.maximum(bits_low, 0.0), "entropy_high": bits_high, "entropy_max": np.log2(known.n_vocab)}
    upper, highest = max_quantile(drawn), max_quantile(drawn[:, :size].max(axis=1)) + unseen.mean() / size
    same = {"unseen": unseen.mean(), "unseen_low": unseen_low, "unseen_high": unseen_high, "control_top_95": highest, **bits}
    rows = []
    for i, (kind, name, _) in enumerate(groups):
        row = {"kind": kind, "spoken": name, "share": share[:, i].mean(), "n": n, "chance": chance[i], "attributed": part[:, i].mean()}
        row |= {f"{what}{end}": ends[i] for what, pair in bounds.items() for end, ends in zip(("low", "high"), pair, strict=True)}
        row |= {"control": drawn[:, i].mean() + spread[i], "control_95": upper[i] + spread[i], "attributed_control_95": upper[i]}
        rows.append({key: value if isinstance(value, str | int) else float(value) for key, value in (row | same).items()})
    return rows


def _require_labels(labels: pd.DataFrame, known: TokenLanguages, reference: Sequence[str]) -> None:
    missing = [name for name in ("prompt_id", "meaning_id", "language") if name not in labels]
    if missing or labels.empty:
        raise DataError(f"The labels have {len(labels)} rows and lack the columns {missing}. Expected prompt_id, meaning_id and language per prompt.")
    spoken = list(dict.fromkeys(labels["language"].astype(str)))
    for language in [*spoken, *reference]:
        if language not in known.languages:
            raise DataError(
                f"No token of language {language!r} is known; known: {list(known.languages)}.{did_you_mean(language, known.languages)} "
                "Expected text of every language of the prompts and of the reference; add some to token_languages, or leave the language out."
            )
    if not reference:
        raise DataError("No reference language given. Expected at least one; pass reference=['en'].")
    twice = labels[labels.duplicated(["language", "meaning_id"])]
    if len(twice):
        meaning, language = twice[["meaning_id", "language"]].iloc[0]
        raise DataError(f"Meaning {meaning!r} appears twice in {language!r}. Expected one prompt per meaning and language; drop one.")
    few = labels["language"].value_counts()
    if (few < 2).any():
        raise DataError(f"Languages {few[few < 2].index.tolist()} have one meaning only. Expected at least two each (three for an interval).")
