"""What the evidence of a run cannot say, from what the run contains."""

from __future__ import annotations

from workbench.report.record import RunRecord
from workbench.report.repair_rows import seen_in
from workbench.report.wording import listed, number

ORGANISM = "This is a controlled model with invented languages: nothing here says anything about real ones."


def limits(run: RunRecord) -> list[tuple[str, str]]:
    """Return (subject, sentence) pairs, the organism's note first."""
    if run.is_repair:
        return _of_repair(run)
    if run.is_training:
        return _of_training(run)
    said: list[tuple[str, str]] = []
    if run.is_organism:
        said.append(("Organism", ORGANISM))
    said.append(
        (
            "Translation quality",
            "A poor translation and a model that understands poorly look the same here; the quality of the translations was not measured.",
        )
    )
    said += [_surface(run), _tokens(run), _judge(run)]
    said.append(("One template", "One chat template and one system prompt were used; another wording around the request can move every number."))
    said.append(_languages(run))
    said += _nulls(run)
    said.append(("Sample", _sample(run)))
    if run.repair is not None:
        said += _repair(run.repair)
    if run.training is not None:
        said += _training(run.training)
    if run.before is None:
        said.append(("No model before alignment", "Without one, nothing is said about what alignment changed."))
    return said


def _of_repair(run: RunRecord) -> list[tuple[str, str]]:
    """What a repair alone cannot say."""
    rates = run.table("repair_rates")
    n = "The number of meanings was not recorded" if rates is None else f"{int(rates['n'].max())} meanings were scored"
    return [
        *([("Organism", ORGANISM)] if run.is_organism else []),
        ("One judge", "One judge decided for every method what a refusal is, of replies given under an edit as well; another can count differently."),
        *_repair(run),
        ("One template", "One chat template and one system prompt were used; a gate reads the rendered prompt, so another can move every score."),
        _languages(run),
        ("Sample", f"{n}; intervals are 95 % per number and do not account for how many methods and languages the page shows."),
    ]


def _of_training(run: RunRecord) -> list[tuple[str, str]]:
    """What a repair by training alone cannot say."""
    rates = run.table("repair_rates")
    n = "The number of meanings was not recorded" if rates is None else f"{int(rates['n'].max())} meanings were scored"
    return [
        *([("Organism", ORGANISM)] if run.is_organism else []),
        ("One judge", "One judge decided for the model before and after what a refusal is; another can count differently."),
        *_training(run),
        ("One template", "One chat template and one system prompt were used; another wording around the request can move every number."),
        _languages(run),
        ("Sample", f"{n}; intervals are 95 % per number and do not account for how many methods and languages the page shows."),
    ]


def _training(run: RunRecord) -> list[tuple[str, str]]:
    """What the evidence for a repair by training cannot say."""
    said = [
        (
            "One training",
            "One seed was trained: its intervals are over meanings, and another order of the rows or start of an adapter can end elsewhere.",
        ),
        (
            "What was trained on",
            "Training and scored prompts come from one set and differ in meaning only: requests of another kind, several turns and attacks were not "
            "asked.",
        ),
    ]
    seen = seen_in(run)
    if seen is not None and set(seen) >= set(run.tiers):
        said.append(("Unseen languages", "Training saw texts of every language shown, so nothing is said of languages that it did not see."))
    return said


def _repair(run: RunRecord) -> list[tuple[str, str]]:
    """What the evidence for a repair by a gate cannot say."""
    k = run.find("summary.k", "manifest.spec.k")
    told = "A few" if k is None else f"{k} harmful and {k} harmless"
    return [
        (
            "Strength of the repair",
            "All methods push with one strength, chosen on the select split with true labels in the gate's place. That is fair between methods, but "
            "needs more labels than the gate itself, and a method could do better with a strength of its own.",
        ),
        (
            "Examples of the repair",
            f"{told} labelled examples per language, drawn from the same set that is scored: examples of another kind, or wrongly labelled ones, can "
            "fit worse. The layer was chosen on the reference languages.",
        ),
    ]


def _surface(run: RunRecord) -> tuple[str, str]:
    table = run.table("harm_represented")
    subject = "Surface of the classes"
    if table is None or "surface" not in table or not table["surface"].notna().any():
        return subject, "Harmful and harmless prompts may differ in length and final character; how far that alone separates them was not measured."
    return subject, (
        f"Harmful and harmless prompts differ on the surface: length and final character alone rank them with "
        f"AUROC up to {number(table['surface'].max())}. Other surface differences are not controlled."
    )


def _tokens(run: RunRecord) -> tuple[str, str]:
    table = run.table("tokens_per_character")
    if table is None or not table["value"].notna().any():
        return "Tokens per character", "How finely the tokenizer cuts each language was not measured."
    low, high = table.loc[table["value"].idxmin()], table.loc[table["value"].idxmax()]
    ratio = f", {number(high['value'] / low['value'], '.1f')} times as many" if low["value"] > 0 else ""
    return "Tokens per character", (
        f"From {number(low['value'])} ({low['language']}) to {number(high['value'])} ({high['language']}){ratio}: languages differ in "
        "how much computation a request gets, apart from how well they are known."
    )


def _judge(run: RunRecord) -> tuple[str, str]:
    table = run.table("refusal", model=None)
    if table is None or "judge" not in table:
        return "Judge", "No replies were judged in this run."
    judges = list(dict.fromkeys(table["judge"].astype(str)))
    said = f"Refusal was decided by one judge ({judges[0]})" if len(judges) == 1 else f"Refusal was decided by {listed(judges)}"
    doubtful = list(dict.fromkeys(table.loc[~table["validated"].astype(bool), "language"])) if "validated" in table else []
    if doubtful:
        return "Judge", f"{said}; it was not validated in {listed(doubtful)} (marked †), where its rates may be wrong in either direction."
    return "Judge", f"{said}, validated in every language shown; another judge can count differently."


def _languages(run: RunRecord) -> tuple[str, str]:
    n = len(run.tiers)
    if n >= 12:
        return "Number of languages", f"{n} languages: intervals are over meanings, so they describe these languages, not languages in general."
    return (
        "Number of languages",
        f"{n} languages are too few (fewer than 12) to claim anything about languages in general; intervals are over meanings only.",
    )


def _nulls(run: RunRecord) -> list[tuple[str, str]]:
    table = run.table("nulls")
    if table is None:
        return [("Nulls", "No nulls were computed in this run, so no claim that harm is represented can be made from it.")]
    untrained = table[table["null"] == "untrained model"]
    if untrained.empty:
        return [("Nulls", "No untrained model was measured; part of the AUROC may need no training at all.")]
    seeds = untrained["seed"].nunique()
    told = f"{seeds} random initialisation{'s' if seeds != 1 else ''}"
    return [("Nulls", f"The untrained control is {told} of the same configuration; others could score higher.")]


def _sample(run: RunRecord) -> str:
    auroc, prompts = run.table("auroc"), run.table("prompts")
    said = []
    if prompts is not None and "meaning_id" in prompts:
        said.append(f"{prompts['meaning_id'].nunique()} meanings in all")
    if auroc is not None and {"n_harmful", "n_harmless"} <= set(auroc.columns):
        said.append(f"AUROC scored on {auroc['n_harmful'].min()} harmful and {auroc['n_harmless'].min()} harmless meanings in the smallest language")
    told = ", ".join(said) if said else "The number of meanings was not recorded"
    return f"{told}; intervals are 95 % per number and do not account for how many numbers the page shows."
