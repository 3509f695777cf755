"""A plausible, seeded, synthetic run folder with every table of docs/run-folder.md, for the tests of plots and report.

Its numbers are made up from a seed: it measures nothing.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
from fake_geometry import fake_geometry
from fake_steering import fake_steering
from fake_verdicts import fake_verdicts

from workbench.results import Result

POSITIONS = ("t_inst", "t_post_inst")
NULLS = ("permuted test labels", "permuted training labels", "untrained model", "surface")


def fake_tables(*, languages: int = 8, layers: int = 9, meanings: int = 24, before: bool = True, seed: int = 0) -> dict[str, pd.DataFrame]:
    """Make every results table; ``layers`` counts the embedding."""
    rng = np.random.default_rng(seed)
    tags = [f"qa{chr(97 + i)}" for i in range(languages)]
    tiers = ["high" if i < 3 else "mid" if i < 5 else "low" for i in range(languages)]
    weakness = np.array([{"high": 0.0, "mid": 0.35, "low": 0.8}[t] + rng.uniform(0, 0.15) for t in tiers])
    depth = np.linspace(0, 1, layers)
    models = ["before", "after"] if before else ["after"]
    cells = [(tag, tier, weak) for tag, tier, weak in zip(tags, tiers, weakness, strict=True)]
    out: dict[str, list[dict]] = {}

    def put(name: str, **row: object) -> None:
        out.setdefault(name, []).append(row)

    def around(value: float, half: float = 0.06, lower: float = 0.0, upper: float = 1.0) -> dict[str, float]:
        value = float(np.clip(value + rng.normal(0, 0.01), lower, upper))
        return {"value": value, "low": max(lower, value - half * rng.uniform(0.7, 1.3)), "high": min(upper, value + half * rng.uniform(0.7, 1.3))}

    prompts = [
        dict(
            prompt_id=f"fake:{m}:{tag}",
            meaning_id=f"fake:{m}",
            language=tag,
            tier=tier,
            harmful=m % 2 == 0,
            split=("fit", "fit", "select", "score")[m // 2 % 4],
            category="made up",
            source="fake",
        )
        for tag, tier, _ in cells
        for m in range(meanings)
    ]
    out["prompts"] = [dict(p, n_tokens=int(rng.integers(6, 30)), n_chars=int(rng.integers(30, 90))) for p in prompts]
    put("dropped", what="meaning", language=tags[-1], n=3, reason="no text in this language")
    put("dropped", what="prompt", language=tags[-2], n=1, reason="longer than the model's context")

    for tag, tier, weak in cells:
        put("tokens_per_character", language=tag, tier=tier, n=meanings, **around(0.25 + 0.4 * weak, 0.03, 0, 3))
        put("bits_per_byte", language=tag, tier=tier, n=meanings, **around(0.9 + 1.2 * weak, 0.1, 0, 8))
        accuracy = around(0.98 - 0.12 * weak, 0.08)
        put(
            "understanding",
            language=tag,
            tier=tier,
            statistic="harmless answer accuracy",
            n=meanings,
            **accuracy,
            control=0.06,
            criterion="lower bound above 0.5",
            understood="yes",
            reason="lower bound above the criterion",
        )

    for position in POSITIONS:
        for model in models:
            for scaling in ("raw", "unit", "standardised"):
                for layer, d in enumerate(depth):
                    dip = 0.45 * np.exp(-((d - 0.5) ** 2) / 0.03) if model == "after" and position == "t_inst" else 0.1
                    language = 0.62 - dip
                    defined = not (position == "t_post_inst" and layer == 0)
                    for factor, share in (("language", language), ("meaning", 0.2 + 0.8 * dip), ("interaction", 0.8 - language + dip * 0.2 - 0.2)):
                        e = around(share if defined else np.nan, 0.04)
                        put(
                            "variance_shares",
                            model=model,
                            position=position,
                            scaling=scaling,
                            layer=layer,
                            factor=factor,
                            share=e["value"],
                            low=e["low"],
                            high=e["high"],
                            component=e["value"] * 10,
                            null_share=1 / languages if factor == "language" else 1 / meanings,
                        )
            for layer, d in enumerate(depth):
                dip = 0.4 * np.exp(-((d - 0.5) ** 2) / 0.03) if model == "after" and position == "t_inst" else 0.05
                defined = not (position == "t_post_inst" and layer == 0)
                for statistic, value in (("language", 0.3 - dip), ("meaning", -0.1 + dip), ("difference", -0.4 + 2 * dip)):
                    e = around(value, 0.05, -1, 1) if defined else {"value": np.nan, "low": np.nan, "high": np.nan}
                    put("silhouettes", model=model, position=position, layer=layer, statistic=statistic, n=meanings * languages, defined=defined, **e)
            found = model == "after" and position == "t_inst"
            put(
                "bottleneck",
                model=model,
                position=position,
                layer=layers // 2 if found else -1,
                low=layers // 2 - 1 if found else -1,
                high=layers // 2 + 1 if found else -1,
                verdict="bottleneck" if found else "no bottleneck",
                difference=0.39,
                beats_first=0.7,
                beats_first_low=0.6,
                beats_first_high=0.8,
                beats_last=0.6,
                beats_last_low=0.5,
                beats_last_high=0.7,
                null_95=0.05,
                p=0.005 if found else 0.4,
                reason="beats both ends and the null" if found else "does not beat the last layer by 0.05",
            )

        chosen = round(0.7 * (layers - 1))
        for tag, tier, weak in cells:
            for layer, d in enumerate(depth):
                if position == "t_post_inst" and layer == 0:
                    e = {"value": np.nan, "low": np.nan, "high": np.nan}
                else:
                    e = around(0.5 + 0.49 * (1 - np.exp(-4 * d)) * (1 - 0.25 * weak), 0.05)
                put(
                    "retrieval",
                    position=position,
                    layer=layer,
                    language=tag,
                    tier=tier,
                    n=meanings,
                    chance=1 / meanings,
                    null_95=0.1,
                    control=0.12,
                    **around(0.9 * np.sin(np.pi * d) * (1 - 0.5 * weak) + 0.05, 0.06),
                )
                for model in models:
                    shrink = 1.0 if model == "after" else 0.7
                    put(
                        "auroc",
                        model=model,
                        position=position,
                        layer=layer,
                        language=tag,
                        tier=tier,
                        n_harmful=meanings // 2,
                        n_harmless=meanings // 2,
                        value=0.5 + (e["value"] - 0.5) * shrink,
                        low=0.5 + (e["low"] - 0.5) * shrink,
                        high=0.5 + (e["high"] - 0.5) * shrink,
                    )
                    share = 0.7 * d * (1 - 0.9 * weak if model == "after" else 0.25)
                    put(
                        "separation",
                        model=model,
                        position=position,
                        layer=layer,
                        language=tag,
                        tier=tier,
                        statistic="between_class_share",
                        n=meanings,
                        **around(share, 0.05),
                    )
                for null in NULLS if layer == chosen else ():
                    for s in range(3 if null == "untrained model" else 1):
                        put("nulls", null=null, seed=s, position=position, layer=layer, language=tag, value=float(rng.uniform(0.45, 0.66)))
            best = around(0.985 - 0.24 * weak, 0.05)
            represented = best["low"] > 0.68
            put(
                "harm_represented",
                position=position,
                layer=chosen,
                language=tag,
                tier=tier,
                auroc=best["value"],
                low=best["low"],
                high=best["high"],
                null_labels_95=0.61,
                null_direction_95=0.63,
                untrained=0.58,
                untrained_high=0.66,
                surface=0.55,
                represented=represented,
                reason="lower bound above every null" if represented else "lower bound does not beat the untrained model",
            )
            own, transferred = around(0.97 - 0.08 * weak, 0.05), around(0.97 - 0.35 * weak, 0.06)
            gap = own["value"] - transferred["value"]
            put(
                "thresholds",
                position=position,
                layer=chosen,
                language=tag,
                tier=tier,
                transferred_threshold=0.0,
                own_threshold=-1.6 * weak,
                balanced_accuracy_transferred=transferred["value"],
                transferred_low=transferred["low"],
                transferred_high=transferred["high"],
                balanced_accuracy_own=own["value"],
                own_low=own["low"],
                own_high=own["high"],
                gap=gap,
                gap_low=gap - 0.07,
                gap_high=gap + 0.07,
                n=meanings,
            )
        for p in prompts:
            weak = weakness[tags.index(p["language"])]
            centre = (1.6 if p["harmful"] else -1.6) * (1 - 0.25 * weak) - 1.6 * weak
            put(
                "projections",
                prompt_id=p["prompt_id"],
                position=position,
                layer=chosen,
                language=p["language"],
                tier=p["tier"],
                harmful=p["harmful"],
                split=p["split"],
                projection=float(rng.normal(centre, 0.6)),
            )
        for model in models:
            for layer, d in enumerate(depth):
                for component, ratio in ((1, 0.4), (2, 0.2)):
                    put("cluster_axes", model=model, position=position, layer=layer, component=component, ratio=ratio)
                for p in prompts:
                    i = tags.index(p["language"])
                    apart = (4 if p["harmful"] else -4) * d * ((1 - weakness[i]) if model == "after" else 0.2)
                    put(
                        "clusters",
                        model=model,
                        position=position,
                        layer=layer,
                        prompt_id=p["prompt_id"],
                        language=p["language"],
                        tier=p["tier"],
                        harmful=p["harmful"],
                        pc1=float(rng.normal(apart, 1)),
                        pc2=float(rng.normal(1.5 * np.cos(i), 1)),
                    )

    for model in models:
        for tag, tier, weak in cells:
            harmful = (0.98 - weak if tier != "mid" else 0.7) if model == "after" else 0.04
            rates = {"harmful_refusal": harmful, "harmless_refusal": 0.03 + 0.05 * weak, "answer_accuracy": 0.97 - 0.1 * weak, "garbled": 0.02 * weak}
            rates["selectivity"] = rates["harmful_refusal"] - rates["harmless_refusal"]
            for statistic, value in rates.items():
                put(
                    "refusal",
                    model=model,
                    language=tag,
                    tier=tier,
                    statistic=statistic,
                    n=meanings // 2,
                    judge="refusal markers",
                    validated=tier == "high",
                    **around(value, 0.09, -1 if statistic == "selectivity" else 0),
                )
        for p in prompts:
            put(
                "outcomes",
                model=model,
                prompt_id=p["prompt_id"],
                language=p["language"],
                harmful=p["harmful"],
                outcome="refusal" if p["harmful"] and rng.random() > weakness[tags.index(p["language"])] else "compliance",
                correct=None if p["harmful"] else True,
            )
    tables = {name: pd.DataFrame(rows) for name, rows in out.items()}
    tier_of = {tag: tier for tag, tier, _ in cells}
    geometry, steered = fake_geometry(tier_of, POSITIONS, layers, meanings, models, rng), fake_steering(tier_of, POSITIONS, layers, meanings, rng)
    return tables | geometry | steered | fake_verdicts(tier_of, layers)


def write_fake_run(folder: Path, *, without: tuple[str, ...] = (), organism: bool = True, **options: int | bool) -> Path:
    """Write a run folder; ``without`` names tables to leave out."""
    tables = fake_tables(**options)  # type: ignore[arg-type]
    provenance = {"model": "fake", "seed": 0}
    for name, table in tables.items():
        if name not in without:
            Result(table, provenance).save(folder / "results" / f"{name}.parquet")
    first = tables["prompts"]
    name, base = ("organism:aligned", "organism:helpful") if organism else ("made/up-model", "made/up-base")
    manifest = {
        "schema": "workbench-run/1",
        "status": "finished",
        "spec": {
            "model": {
                "model": name,
                "fingerprint": "a" * 64,
                "architecture": "LlamaForCausalLM",
                "dtype": "float32",
                "device": "cpu",
                "template": {"kind": "own", "hash": "f" * 64},
                "system": None,
            },
            "before": base if options.get("before", True) else None,
            "prompts": {"source": "organism" if organism else "fake", "hash": "0" * 64},
            "limit": 12,
            "null_seeds": 3,
            "seed": 0,
        },
        "before": {"model": base} if options.get("before", True) else None,
        "reference": ["qaa", "qab", "qac"],
        "languages": {
            tag: {"name": f"Name of {tag}", "tier": tier} for tag, tier in first[["language", "tier"]].drop_duplicates().to_numpy().tolist()
        },
        "organism": organism,
        "versions": {"python": "3.11.7", "torch": "2.13.0", "transformers": "5.23.0"},
        "updated": "2026-01-01T00:00:00+00:00",
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    (folder / "summary.json").write_text(
        json.dumps({"schema": "workbench-summary/1", "model": {"name": name, "fingerprint": "a" * 64}}), encoding="utf-8"
    )
    return folder
