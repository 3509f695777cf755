"""What a training repairs, what it costs and what it rests on, in a few sentences computed from the tables."""

from __future__ import annotations

from workbench.report.record import RunRecord
from workbench.report.repair_rows import SEEN_OR_NOT, Compared, seen_in
from workbench.report.repair_verdict import difference, points, rate
from workbench.report.wording import listed, number

SEEN, UNSEEN, EVERY = SEEN_OR_NOT
NAMES = {"lasa": "LASA", "msd": "MSD", "dpo": "DPO", "kto": "KTO", "sft": "SFT", "mpo": "MPO", "mlc": "MLC"}


def method_name(run: RunRecord) -> str:
    """Return the training's name as papers write it."""
    method = str(run.find("summary.method", "manifest.method", "manifest.spec.method") or "training")
    return NAMES.get(method, method)


def main_place(run: RunRecord) -> str | None:
    """Return what the sentences speak of first: the mean of all languages, else the only language that was measured; None without rates."""
    rates = run.table("repair_rates")
    if rates is None:
        return None
    places = list(dict.fromkeys(rates["language"].astype(str)))
    return next((place for place in (EVERY, *places) if place in places), None)


def where(place: str) -> str:
    """Return a place in words."""
    told = {EVERY: "on average over all languages", SEEN: "in languages seen in training", UNSEEN: "in languages unseen in training"}
    if place.startswith("mean ") and place not in told:
        return f"on average over {place.removeprefix('mean ')}-tier languages"
    return told.get(place, f"in {place}")


def training_verdict(run: RunRecord) -> list[str]:
    """Say what becomes of harmful requests and of harmless ones, in languages seen in training and in others; whether weights were written."""
    compared, place = Compared.of(run), main_place(run)
    if compared is None or place is None:
        return ["Rates before and after the training were not counted in this run, so what it repairs cannot be said.", *_guarded(run), *_warned(run)]
    said = [_complied(run, compared, place, first=True)]
    said += [_complied(run, compared, one, first=False) for one in (UNSEEN, SEEN)]
    said += [_cost(run, compared, place), _alone(run, compared, place), _rests_on(run), *_guarded(run), *_warned(run), _effort(run, compared)]
    return [sentence for sentence in said if sentence]


def _complied(run: RunRecord, compared: Compared, place: str, *, first: bool) -> str:
    """Say how many harmful requests are not refused, before and after; of the first place with the ratio of both."""
    before, after = (rate(run, method, place, "harmful_refusal") for method in (compared.plain, compared.gate))
    if before is None or after is None:
        return ""
    failed = [1 - row["value"] for row in (before, after)]
    told = f"{number(100 * failed[0], '.1f')} to {_missed(after)} %"
    apart = difference(run, compared, compared.plain, place, "harmful_refusal")
    if apart is not None:
        turned = {"value": 0.0 - apart["value"], "low": 0.0 - apart["high"], "high": 0.0 - apart["low"]}
        told += f" ({points(turned)} points)"
    if not first:
        return f"{_upper(where(place))}{_tags(run, place)} it goes from {told}."
    whole = f"{method_name(run)}: the share of harmful requests that are not refused"
    if apart is not None and apart["low"] <= 0 <= apart["high"]:
        return f"{whole} does not clearly change, {where(place)}: {told}."
    falls = failed[1] < failed[0]
    ratio = f", {number(100 * failed[1] / failed[0], '.0f')} % of what it was" if falls else ""
    return f"{whole} {'falls' if falls else 'rises'} from {told}{ratio}, {where(place)}."


def _missed(row: dict) -> str:
    return points({"value": 1 - row["value"], "low": 1 - row["high"], "high": 1 - row["low"]}, signed=False)


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]


def _tags(run: RunRecord, place: str) -> str:
    seen = seen_in(run)
    if seen is None or place not in (SEEN, UNSEEN):
        return ""
    tags = [tag for tag in run.tiers if (tag in seen) == (place == SEEN)]
    return f" ({', '.join(tags)})" if tags else ""


def _cost(run: RunRecord, compared: Compared, place: str) -> str:
    parts = []
    for statistic, what in (("harmless_refusal", "harmless prompts refused"), ("answer_accuracy", "harmless prompts answered right")):
        before, after = (rate(run, method, place, statistic) for method in (compared.plain, compared.gate))
        apart = difference(run, compared, compared.plain, place, statistic)
        if before is not None and after is not None:
            told = "" if apart is None else f" ({points(apart)} points)"
            parts.append(f"{what} {number(100 * before['value'], '.1f')} %, then {number(100 * after['value'], '.1f')} %{told}")
    return f"What it costs, {where(place)}: {'; '.join(parts)}." if parts else ""


def _alone(run: RunRecord, compared: Compared, place: str) -> str:
    row = rate(run, f"{compared.gate}, weights alone", place, "harmful_refusal")
    if row is None:
        return ""
    return f"Of the weights alone, without the sentence that its interpreter puts in front of replies, {_missed(row)} % are not refused."


def _rests_on(run: RunRecord) -> str:
    """Say how well what the method builds on works: its interpreter, or its teacher."""
    from workbench.plots.style import span

    scores, flips = run.table("interpreter"), run.results.get("flip_rates")
    if scores is not None:
        rows = scores[(scores["statistic"] == "accuracy") & scores["value"].notna()]
        rows = rows[rows["set"] == rows["set"].iloc[0]] if "set" in rows and len(rows) else rows
        told = [
            f"{number(part['value'].min())} to {number(part['value'].max())} in {name} languages"
            for name, part in (("its own", rows[rows["seen"].astype(bool)]), ("other", rows[~rows["seen"].astype(bool)]))
            if len(part)
        ]
        return f"Its interpreter, layer {int(rows['layer'].iloc[0])}, tells harm with accuracy {' and '.join(told)}." if told else ""
    if flips is not None:
        overall = flips.provenance.get("overall")
        share = points(overall, signed=False) if isinstance(overall, dict) else span(100 * flips.table["value"], ".0f")
        return (
            f"Before training, {share} % of harmful requests were not refused by the model and refused by its teacher: what there is to carry over."
        )
    return ""


def _guarded(run: RunRecord) -> list[str]:
    """Say whether held-out refusal fell anywhere, which decides over the weights."""
    table = run.table("guard")
    if table is None:
        return []
    lowered = table[table["lowered"].astype(bool)]
    if lowered.empty:
        return [f"Held-out harmful refusal (select split) is below its start in none of {len(table)} languages."]
    told = listed(f"{row.language} ({100 * row.before:.1f} to {100 * row.after:.1f} %)" for row in lowered.itertuples())
    written = run.find("summary.repaired")
    ending = "That was allowed, and the weights were written." if written else "No weights were written."
    return [f"Held-out harmful refusal (select split) falls in {told}. {ending}"]


def _warned(run: RunRecord) -> list[str]:
    """Repeat what the training itself warned of: replies that collapsed, or languages that its interpreter cannot read."""
    found = run.find("summary.warnings", "manifest.warnings")
    return [f"Warning: {sentence}" for sentence in found if isinstance(sentence, str)] if isinstance(found, list) else []


def _effort(run: RunRecord, compared: Compared) -> str:
    table = run.table("cost")
    if table is None:
        return ""
    rows = table[table["method"] == compared.gate] if "method" in table else table
    return f"Training took {effort(rows.iloc[0].to_dict())}." if len(rows) else ""


def effort(row: dict) -> str:
    """Return ``4 minutes: 120 steps, 52,000 tokens, 1.9 million parameters trained``."""
    trained = float(row["trained_parameters"])
    many = f"{trained / 1e6:,.1f} million" if trained >= 1e5 else f"{trained:,.0f}"
    return f"{duration(row['seconds'])}: {int(row['steps']):,} steps, {int(row['tokens']):,} tokens, {many} parameters trained"


def duration(seconds: float) -> str:
    """Return seconds, minutes or hours in words."""
    for least, unit in ((7200, 3600), (120, 60)):
        if seconds >= least:
            return f"{seconds / unit:.1f} {'hours' if unit == 3600 else 'minutes'}"
    return f"{seconds:.0f} seconds"


__all__ = ["EVERY", "SEEN", "UNSEEN", "duration", "effort", "main_place", "method_name", "training_verdict", "where"]
