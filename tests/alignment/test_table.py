"""One table of all repairs: counted from judged replies, paired with the start, and only of runs that can be compared."""

from __future__ import annotations

import json

import numpy as np
import pytest
from finished_repairs import MODEL, PROMPTS, REFERENCE, TIERS, scored, write_gate, write_training

from workbench.alignment.measured import EVERY, SEEN, UNSEEN, rates_of
from workbench.alignment.table import RepairTable, repair_table
from workbench.errors import DataError
from workbench.repair.replies import answers_of
from workbench.results import Result

GATE = "gate, shrinkage"


def value(table, method, language, column):
    return table.table.set_index(["method", "language"])[column][method, language]


def test_rates_are_shares_of_the_judged_replies_and_changes_are_against_the_start(tmp_path):
    table = repair_table([write_training(tmp_path / "msd", over=0.2)])
    assert value(table, "unrepaired", "mean low", "attack_success") == pytest.approx(0.7)
    assert value(table, "msd", "mean low", "attack_success") == pytest.approx(0.1)
    assert value(table, "msd", EVERY, "attack_success") == pytest.approx(0.05)
    assert value(table, "msd", EVERY, "attack_success_change") == pytest.approx(-0.3)
    assert value(table, "msd", EVERY, "harmless_refusal") == pytest.approx(0.2)
    assert value(table, "msd", EVERY, "answer_accuracy_change") == pytest.approx(-0.2)
    assert value(table, "msd", "qad", "selectivity_change") == pytest.approx(0.6 - 0.2)
    for share in ("attack_success", "harmless_refusal", "answer_accuracy", "selectivity", "attack_success_change", "selectivity_change"):
        known = table.table[table.table[share].notna()]
        assert (known[f"{share}_low"] <= known[share] + 1e-12).all() and (known[share] <= known[f"{share}_high"] + 1e-12).all()
    assert np.isnan(value(table, "unrepaired", EVERY, "selectivity_change"))


def test_a_training_has_the_numbers_of_its_own_run(tmp_path):
    folder = write_training(tmp_path / "msd", over=0.1)
    table = repair_table([folder], seed=3)
    answered = answers_of(Result.load(folder / "results" / "answers.parquet").table)
    rates, contrasts = rates_of(
        answered, start="unrepaired", seen=["qad"], reference=REFERENCE, labels=dict.fromkeys(answered.actions, "queries"), seed=3
    )
    for own, mine in ((rates.table, table.rates()), (contrasts.table, table.contrasts())):
        both = mine.merge(own, on=["method", "language", "statistic"], suffixes=("", "_own"))
        assert len(both) == len(mine) and (mine["method"] == "msd").any()
        for end in ("value", "low", "high"):
            assert np.allclose(both[end], both[f"{end}_own"], atol=1e-12), end


def test_a_gate_is_counted_over_its_draws(tmp_path):
    harmful = scored()["harmful"].to_numpy()
    table = repair_table([write_gate(tmp_path / "gate", flagged=[harmful, np.zeros_like(harmful)])])
    assert value(table, GATE, "mean low", "attack_success") == pytest.approx((0.0 + 0.7) / 2)
    assert value(table, GATE, EVERY, "draws") == 2 and value(table, GATE, EVERY, "labels") == "4 + 4"
    one = repair_table([write_gate(tmp_path / "two", flagged=[np.zeros_like(harmful)] * 2)])
    assert value(one, GATE, EVERY, "selectivity_change") == 0.0


def test_each_repair_has_the_means_over_languages_it_saw_and_over_the_others(tmp_path):
    folders = [
        write_training(tmp_path / "msd", seen=("qad", "qae")),
        write_training(tmp_path / "dpo", "dpo", seen=("qaa",)),
        write_gate(tmp_path / "gate"),
    ]
    table = repair_table(folders)
    assert value(table, "msd", SEEN, "attack_success") == value(table, "msd", "mean low", "attack_success")
    assert value(table, "dpo", UNSEEN, "attack_success") == pytest.approx((0.0 + 0.1 + 0.1) / 3)
    places = {method: set(part["language"]) - set(TIERS) for method, part in table.table.groupby("method")}
    assert places["unrepaired"] == {EVERY, "mean high", "mean low"} and places[GATE] == places["unrepaired"] | {SEEN}
    assert table.seen == {"msd": ["qad", "qae"], "dpo": ["qaa"]}


def test_what_a_repair_takes_stands_beside_what_it_does(tmp_path):
    folders = [write_training(tmp_path / "lasa", "lasa", more={"lasa, weights alone": {"high": 1.0, "low": 0.5}}), write_gate(tmp_path / "gate")]
    rows = repair_table(folders).table.query("language == 'mean of all'").set_index("method")
    assert rows.loc["lasa", ["seconds", "steps", "tokens", "trained_parameters", "parallel_queries"]].tolist() == [4.0, 12, 900, 70, 8]
    assert rows.loc["lasa", "at_inference"] == "one more prefill, with the start's weights"
    assert rows.loc["lasa, weights alone", "at_inference"] == "nothing"
    assert rows.loc[GATE, "labelled_prompts"] == 2 * 20 + 8 * 2  # two source languages, k = 4 of each class in two others
    assert rows.loc[GATE, "at_inference"].startswith("one reading of the state per prompt") and "1.25" in rows.loc[GATE, "at_inference"]
    assert np.isnan(rows.loc[GATE, "seconds"]) and rows.loc["unrepaired", "at_inference"] == "nothing"


def test_methods_of_one_name_are_told_apart_by_their_folder(tmp_path):
    table = repair_table(
        [write_training(tmp_path / "on"), write_training(tmp_path / "off", after={"high": 1.0, "low": 0.5}), write_gate(tmp_path / "g")]
    )
    assert table.methods == ["msd (on)", "msd (off)", GATE]
    assert value(table, "msd (off)", "mean low", "attack_success") == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"spec": {"model": MODEL | {"fingerprint": "0" * 16}}}, r"model differs.*fingerprint f+; organism:aligned fingerprint 0+.*same model"),
        ({"spec": {"model": MODEL | {"system": "Be kind."}}}, r"system prompt differs.*--system"),
        ({"spec": {"judge": {"name": "markers"}}}, r"the judge differs.*markers.*--judge"),
        ({"spec": {"limit": 5, "prompts": PROMPTS | {"hash": "5"}}, "prompts": scored(5)}, r"80 scored.*limit None; 40 scored.*limit 5.*--limit"),
        ({"prompts": scored(languages={"qaa": "high", "qad": "low"})}, r"in qaa, qab, qad, qae.*; 40 scored prompts in qaa, qad.*--languages"),
        ({"spec": {"prompts": PROMPTS | {"hash": "5"}}}, r"set of prompts differs.*not the same ones.*--prompts"),
        ({"start": {"high": 1.0, "low": 0.6}}, r"unrepaired model answers 7.5% of the prompts otherwise.*--max-new-tokens"),
        ({"status": "started"}, r"not finished.*`workbench repair METHOD` again"),
        ({"kind": None}, r"holds no repair.*`workbench compare`"),
    ],
)  # fmt: skip
def test_runs_that_cannot_be_compared_are_refused_with_the_difference_and_the_remedy(tmp_path, other, said):
    with pytest.raises(DataError, match=said):
        repair_table([write_training(tmp_path / "one"), write_training(tmp_path / "two", **other)])


def test_a_gate_of_an_older_version_is_told_what_it_lacks(tmp_path):
    with pytest.raises(DataError, match=r"lacks the tables decisions.*`workbench repair gate` again"):
        repair_table([write_gate(tmp_path / "gate", without=("decisions",))])


def test_no_run_or_the_same_one_twice_is_refused(tmp_path):
    folder = write_training(tmp_path / "msd")
    with pytest.raises(DataError, match="no run to tabulate"):
        repair_table([])
    with pytest.raises(DataError, match="given twice"):
        repair_table([folder, tmp_path / "." / "msd"])


def test_a_start_that_differs_by_a_reply_is_named_and_each_repair_compared_with_its_own(tmp_path):
    first, second = write_training(tmp_path / "one"), write_training(tmp_path / "two")
    path = second / "results" / "answers.parquet"
    frame = Result.load(path).table
    frame.loc[frame.index[(frame["action"] == "unrepaired") & (frame["prompt_id"] == "m9-1:qad")], "refused"] = True
    Result(frame).save(path)
    table = repair_table([first, second])
    assert value(table, "msd (one)", "qad", "attack_success_change") == pytest.approx(-0.6)
    assert value(table, "msd (two)", "qad", "attack_success_change") == pytest.approx(-0.5)
    assert table.provenance["notes"] == ["two: 1 of 80 replies of the unrepaired model fell otherwise; it is compared with its own start."]


def test_the_table_is_saved_read_back_and_printed_for_programs(tmp_path):
    table = repair_table([write_training(tmp_path / "msd")])
    back = RepairTable.load(table.save(tmp_path / "table.parquet"))
    assert back.methods == ["msd"] and back.seen == table.seen
    told = json.loads(table.to_json())
    start = next(row for row in told["rows"] if row["method"] == "unrepaired" and row["language"] == EVERY)
    assert start["selectivity_change"] is None and start["attack_success"] == pytest.approx(0.35)
    assert told["provenance"]["model"]["fingerprint"] == "f" * 16
