"""From outcomes of exchanges to the rows of a restoration map: changes, increments between layers and peaks, with intervals over meanings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from workbench.diagnosis.exchanges import RESTORE, TWIN
from workbench.diagnosis.interchanged import OUTCOMES, PERMUTED, RANDOM, STATE, Interchanged
from workbench.statistics import Estimate, bootstrap_weights, jackknife_interval, newcombe_paired

#: Resamples of meanings that say how sure a peak's layer is.
RESAMPLES = 1000
_UNKNOWN = Estimate(float("nan"), float("nan"), float("nan"))


class _Cell(NamedTuple):
    """Exchanges that are averaged: several series (languages, draws) over the same meanings."""

    labels: dict[str, Any]
    before: Float[np.ndarray, "series meaning"]
    after: Float[np.ndarray, "layer series meaning"]
    goal: float
    length: Float[np.ndarray, " layer"]
    draws: Float[np.ndarray, "layer draw"] | None


def map_rows(table: pd.DataFrame, found: Interchanged, *, n_layers: int, confidence: float, rng: np.random.Generator) -> pd.DataFrame:
    """Lay out every language (and the mean over each tier's), kind, way, layer and outcome, with estimates."""
    rows: list[dict[str, Any]] = []
    for which, outcome in enumerate(OUTCOMES):
        for cell in _cells(table, found, which):
            rows += _rows(cell, found, outcome, n_layers, confidence, rng)
    return pd.DataFrame(rows)


def _cells(table: pd.DataFrame, found: Interchanged, which: int) -> Iterator[_Cell]:
    kinds = list(dict.fromkeys((variant.kind, variant.matched) for variant in found.variants))
    for labels, members in _groups(table):
        for kind, matched in kinds:
            chosen = [v for v, variant in enumerate(found.variants) if (variant.kind, variant.matched) == (kind, matched)]
            after = np.stack([found.after[which][:, v][:, rows] for rows in members for v in chosen], axis=1)
            before = np.stack([found.before[which, rows] for rows in members for _ in chosen])
            goal = np.mean([found.before[which, table["mirror"].to_numpy()[rows]] for rows in members])
            length = np.mean([found.length[:, v][:, rows] for rows in members for v in chosen], axis=(0, 2))
            draws = (after - before).mean(axis=2).reshape(len(after), len(members), len(chosen)).mean(axis=1) if len(chosen) > 1 else None
            yield _Cell({**labels, "kind": kind, "matched": matched}, before, after, float(goal), length, draws)


def _groups(table: pd.DataFrame) -> Iterator[tuple[dict[str, Any], list[np.ndarray]]]:
    """Yield each language and way by itself, then each tier's languages on the meanings that all of them have."""
    for (tag, tier, pair, way), part in table.groupby(["language", "tier", "pair", "way"], sort=False, dropna=False):
        yield {"language": tag, "tier": None if pd.isna(tier) else tier, "pair": pair, "way": way}, [part.index.to_numpy()]
    for (tier, way), part in table[table["pair"] == TWIN].groupby(["tier", "way"], sort=False):
        languages = list(dict.fromkeys(part["language"]))
        counts = part["meaning_id"].value_counts()
        shared = sorted(counts.index[counts == len(languages)])
        if len(languages) > 1 and len(shared) > 2:
            by_language = [part[part["language"] == tag].reset_index().set_index("meaning_id")["index"] for tag in languages]
            yield {"language": f"mean {tier}", "tier": tier, "pair": TWIN, "way": way}, [rows.loc[shared].to_numpy() for rows in by_language]


def _rows(cell: _Cell, found: Interchanged, outcome: str, n_layers: int, confidence: float, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    earlier = _earlier(cell, found.layers)
    control = cell.labels["kind"] in (RANDOM, PERMUTED)
    towards = 1 if cell.labels["way"] == RESTORE else -1
    # at the last layer no block is left to read anything
    allowed = [k for k, layer in enumerate(found.layers) if earlier[k] is not None and layer < n_layers and not control]
    steps = {k: towards * (cell.after[k] - earlier[k]).mean(axis=0) for k in allowed}
    best = max(steps, key=lambda k: steps[k].mean(), default=None)
    best = best if best is not None and steps[best].mean() > 0 else None  # no layer leads towards the donor
    shares = {} if best is None else _first_places(steps, rng)
    for k, layer in enumerate(found.layers):
        before, now = earlier[k], cell.after[k]
        value = change(now, cell.before, outcome, confidence) if np.isfinite(now).all() else _UNKNOWN
        step = change(now, before, outcome, confidence) if before is not None else _UNKNOWN
        ends = {} if cell.draws is None else {"draw_low": float(cell.draws[k].min()), "draw_high": float(cell.draws[k].max())}
        yield {
            **cell.labels, "layer": layer, "outcome": outcome, "value": value.value, "low": value.low, "high": value.high,
            "increment": step.value, "increment_low": step.low, "increment_high": step.high, "n": cell.before.shape[1],
            "trivial": cell.labels["kind"] == STATE and found.final and layer == n_layers,
            "before": float(cell.before.mean()), "goal": cell.goal, "length": float(cell.length[k]), "peak": k == best,
            "peak_share": shares.get(k, float("nan")), "draw_low": float("nan"), "draw_high": float("nan"), **ends,
        }  # fmt: skip


def change(
    after: Float[np.ndarray, "series meaning"], before: Float[np.ndarray, "series meaning"], outcome: str, confidence: float = 0.95
) -> Estimate:
    """Return the mean change of an outcome, paired by prompt, with its interval over meanings.

    Log-odds are averaged over the series of each meaning first (Student's t over meanings). Shares carry Newcombe's paired interval,
    which has a width where no reply changed; the ends are averaged over series, as wide as if all of them erred together.

    Parameters
    ----------
    after, before : arrays [series meaning]
        Series are languages, or draws of a control, over the same meanings; for "refusal" 0 or 1.
    """
    if outcome == "log_odds":
        each = (after - before).mean(axis=0)
        low, high = jackknife_interval(each.mean(), each - each.mean(), confidence)
        return Estimate(float(each.mean()), float(low), float(high))
    parts = [newcombe_paired(now > 0.5, then > 0.5, confidence) for now, then in zip(after, before, strict=True)]
    return Estimate(*(float(np.mean([part[i] for part in parts])) for i in range(3)))


def _earlier(cell: _Cell, layers: Sequence[int]) -> list[Float[np.ndarray, "series meaning"] | None]:
    """Return what each layer's increment is counted from: the layer before; nothing exchanged where prompts do not differ below; None if unknown."""
    defined = np.isfinite(cell.after).all(axis=(1, 2))
    found: list[np.ndarray | None] = []
    for k, layer in enumerate(layers):
        first = not defined[:k].any() and (layer == 0 or k > 0)
        found.append(None if not defined[k] else cell.before if first else cell.after[k - 1] if k and defined[k - 1] else None)
    return found


def _first_places(steps: dict[int, np.ndarray], rng: np.random.Generator) -> dict[int, float]:
    """Return the share of resamples of meanings in which each layer has the largest mean increment."""
    if not steps:
        return {}
    stacked = np.stack(list(steps.values()))
    winners = (bootstrap_weights(stacked.shape[1], RESAMPLES, rng) @ stacked.T).argmax(axis=1)
    return dict(zip(steps, (np.bincount(winners, minlength=len(stacked)) / RESAMPLES).tolist(), strict=True))
