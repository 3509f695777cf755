"""Made-up tables of directions and of edits, for fake_run: they measure nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, product

import numpy as np
import pandas as pd


def fake_steering(
    tiers: Mapping[str, str], positions: Sequence[str], layers: int, meanings: int, rng: np.random.Generator
) -> dict[str, pd.DataFrame]:
    """Make direction_cosines, direction_scores, selection, strength and steering."""
    places = list(product(positions, range(layers)))
    cosines = []
    for (position, layer), (tag, other) in product(places, combinations(tiers, 2)):
        value = 0.5 + 0.4 * layer / layers + rng.normal(0, 0.01)
        row = {"across": "languages", "value": value, "low": value - 0.05, "high": min(1.0, value + 0.05), "apart": value - 0.1, "reason": ""}
        for prefix, name in (("", tag), ("other_", other)):
            row |= {f"{prefix}contrast": "harm", f"{prefix}method": "difference_in_means", f"{prefix}language": name, f"{prefix}tier": tiers[name]}
            row |= {f"{prefix}position": position, f"{prefix}layer": layer}
        row |= {"disattenuated": value + 0.02, "disattenuated_low": value - 0.04, "disattenuated_high": min(1.0, value + 0.06), "ceiling": 0.95}
        row |= {"reliability": 0.9, "other_reliability": 0.9, "random_95": 0.2, "permuted_95": 0.3, "permuted_same_95": 0.5, "n": meanings}
        cosines.append(row)
    tried = []
    for position, layer in places:
        steep = layer / max(layers - 1, 1)
        row = {"position": position, "layer": layer, "language": "all", "tier": None, "bypass": 2 - 6 * steep, "induce": -4 + 8 * steep}
        row |= {"kl": 0.3 - 0.25 * steep, "n_harmful": meanings, "n_harmless": meanings, "criterion": "refusal_tokens", "reason": ""}
        for name in ("bypass", "induce", "kl"):
            row |= {f"{name}_low": row[name] - 0.1, f"{name}_high": row[name] + 0.1}
        tried.append(row)
    scores = pd.DataFrame(tried)
    late = scores["layer"] >= int(0.8 * (layers - 1))
    selection = scores.assign(removed_by=np.where(late, "layer", np.where(scores["kl"] > 0.1, "kl", "")))
    survivors = selection.index[selection["removed_by"] == ""]
    rank = selection.loc[survivors, "bypass"].rank(method="first")
    selection["rank"] = rank.reindex(selection.index)
    selection["selected"] = selection["rank"] == 1
    strength = pd.DataFrame(_rates(tiers, (0.0, 0.5, 1.0, 2.0), meanings, rng))
    edits = [_rates(tiers, (0.0, 1.0), meanings, rng, edit=edit) for edit in ("ablate", "add")]
    return {
        "direction_cosines": pd.DataFrame(cosines),
        "direction_scores": scores,
        "selection": selection,
        "strength": strength,
        "steering": pd.DataFrame([row for rows in edits for row in rows]),
    }


def _rates(tiers: Mapping[str, str], strengths: Sequence[float], n: int, rng: np.random.Generator, edit: str | None = None) -> list[dict]:
    rows = []
    kinds = [("direction", "direction", None), *((f"random {seed}", "random", seed) for seed in range(5))]
    for strength, (name, kind, seed), (tag, tier) in product(strengths, kinds, tiers.items()):
        pushed = strength if kind == "direction" else 0.02 * strength
        values = {"harmful_refusal": 1 - pushed if edit == "ablate" else 1.0, "harmless_refusal": 0.0 if edit == "ablate" else pushed}
        for statistic, value in (values | {"answer_accuracy": 1.0, "garbled": 0.0, "off_language": 0.0}).items():
            value = float(np.clip(value, 0, 1))
            row = {"strength": strength, "direction": name, "kind": kind, "seed": seed, "language": tag, "tier": tier, "statistic": statistic}
            row |= {"value": value, "low": max(0.0, value - 0.1), "high": min(1.0, value + 0.1), "n": n, "judge": "exact", "validated": True}
            rows.append(row | ({"edit": edit} if edit else {}))
    return rows
