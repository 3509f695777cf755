"""Made-up tables of what compares languages and models, for fake_run: they measure nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import pandas as pd

FACTORS = ("language", "harm", "language x harm", "meaning", "rest")
SIMILAR = {"mexa": 0.6, "adjusted_cosine": 0.3, "p_at_1": 0.7, "p_at_1_uncentred": 0.6, "cka": 0.5, "procrustes": 0.4, "principal_angle": 40.0}
SEPARATES = {"between_class_share": 0.3, "bhattacharyya": 0.6, "silhouette": 0.2, "probe_auroc": 0.9}


def fake_geometry(
    tiers: Mapping[str, str], positions: Sequence[str], layers: int, meanings: int, models: Sequence[str], rng: np.random.Generator
) -> dict[str, pd.DataFrame]:
    """Make harm_variance, similarity, language_track and, with two models, separation_change and separation_contrast."""

    def around(value: float, half: float) -> dict[str, float]:
        value = value * (1 + rng.normal(0, 0.02))
        return {"value": value, "low": value - half, "high": value + half}

    def renamed(entry: dict[str, float], name: str) -> dict[str, float]:
        return {name: entry["value"], f"{name}_low": entry["low"], f"{name}_high": entry["high"]}

    places = list(product(positions, range(layers)))
    rise = {layer: layer / max(layers - 1, 1) for layer in range(layers)}
    harm = []
    for model, (position, layer), factor in product(models, places, FACTORS):
        entry = around(0.15 if factor == "harm" else 0.05, 0.02)
        row = dict(model=model, position=position, scaling="unit", layer=layer, factor=factor, share=entry["value"], low=entry["low"])
        row |= dict(high=entry["high"], component=0.2, null_share=0.02, null_95=0.03, p=0.01, n=meanings, defined=True)
        harm.append(row | renamed(around(0.2, 0.05), "index"))
    similar = [
        dict(model=model, position=position, layer=layer, language=tag, tier=tier, statistic=statistic, n=meanings, chance=0.01, null_95=0.05)
        | dict(control=0.1 * most, ceiling=np.nan)
        | around(most * rise[layer], 0.1 * most)
        for model, (position, layer), (tag, tier), (statistic, most) in product(models, places, tiers.items(), SIMILAR.items())
    ]
    spoken = []
    for (position, layer), (tag, tier), (name, most) in product(places, tiers.items(), {"own": 0.6, "reference": 0.2, "other": 0.1}.items()):
        entry, share = around(most, 0.05), around(most, 0.05)
        row = dict(position=position, layer=layer, language=tag, tier=tier, kind="rollup", spoken=name, share=share["value"], low=share["low"])
        row |= dict(high=share["high"], n=meanings, chance=1 / len(tiers), control=0.1, control_95=0.15, control_top_95=0.2)
        row |= dict(attributed_control_95=0.14) | renamed(entry, "attributed") | renamed(around(0.1, 0.02), "unseen")
        spoken.append(row | renamed(around(6.0, 0.5), "entropy") | dict(entropy_max=10.0))
    tables = {"harm_variance": harm, "similarity": similar, "language_track": spoken}
    if len(models) > 1:
        change, contrast = [], []
        for basis, (position, layer), (statistic, most) in product(("own", "common"), places, SEPARATES.items()):
            cell = dict(basis=basis, position=position, layer=layer, statistic=statistic)
            if (basis, statistic) == ("common", "probe_auroc"):
                continue
            for tag, tier in tiers.items():
                found = around(most * rise[layer] * (0.5 if tier == "high" else 0.1), 0.1 * most)
                row = cell | dict(language=tag, tier=tier, change=found["value"], low=found["low"], high=found["high"], n=meanings)
                change.append(row | dict(p=0.01, p_adjusted=0.04, defined=True))
            found = around(most * rise[layer] * 0.4, 0.1 * most)
            row = cell | dict(tuned="qaa, qab, qac", others="the rest", tuned_change=0.5 * most, others_change=0.1 * most, contrast=found["value"])
            contrast.append(row | dict(low=found["low"], high=found["high"], n=meanings, p=0.01, p_adjusted=0.04, defined=True))
        tables |= {"separation_change": change, "separation_contrast": contrast}
    return {name: pd.DataFrame(rows) for name, rows in tables.items()}
