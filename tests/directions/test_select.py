"""The choice among swept directions: the released runs of arXiv:2406.11717, their rule's edges, and what an empty choice says."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from workbench.directions.select import RULES, DirectionScores, Selection, SelectionRule, read_scores, select_direction
from workbench.errors import DataError

RUNS = ("gemma-2b-it", "llama-2-7b-chat-hf", "meta-llama-3-8b-instruct", "qwen-1_8b-chat", "yi-6b-chat")
#: The authors' names of what a rule sets, and ours.
OPTIONS = {"kl_threshold": "kl_max", "induce_refusal_threshold": "induce_min", "prune_layer_percentage": "depth"}


def scored(rows, **provenance) -> DirectionScores:
    table = pd.DataFrame(rows, columns=["position", "layer", "bypass", "induce", "kl"])
    table = table.astype({"layer": int, "bypass": float, "induce": float, "kl": float})
    return DirectionScores(table.assign(n_harmful=32, n_harmless=32, criterion="refusal_tokens"), provenance)


@pytest.mark.parametrize("run", RUNS)
def test_the_released_runs_select_what_their_authors_selected(shared_dir, run):
    folder = shared_dir / "data" / "refusal_direction" / "runs" / run
    found = select_direction(read_scores(folder / "select_direction" / "direction_evaluations.json"))
    metadata = json.loads((folder / "direction_metadata.json").read_text())
    assert (found.position, found.layer) == (metadata["pos"], metadata["layer"])
    released = json.loads((folder / "select_direction" / "direction_evaluations_filtered.json").read_text())
    named = found.survivors.rename(columns={"bypass": "refusal_score", "induce": "steering_score", "kl": "kl_div_score"})
    assert named[list(released[0])].to_dict("records") == released


def test_every_stored_selection_of_the_authors_code_is_reproduced(shared_dir):
    with np.load(shared_dir / "reference" / "refusal_direction.npz") as file:
        stored = dict(file)
    cases = json.loads(str(stored["meta_json"]))["select"]["cases"]
    assert len(cases) == 22
    for case in cases:
        table = pd.DataFrame(stored[f"select/{case['name']}"], columns=["position", "layer", "bypass", "induce", "kl"])
        scores = scored(table.astype({"position": int, "layer": int}))
        rule = replace(RULES["arditi"], **{OPTIONS[name]: value for name, value in case.get("kwargs", {}).items()})
        if case["selected"] == [None, None]:
            with pytest.raises(DataError, match="All 12 candidates were dropped"):
                select_direction(scores, n_layers=case["n_layer"], rule=rule)
            continue
        found = select_direction(scores, n_layers=case["n_layer"], rule=rule)
        assert [found.position, found.layer] == case["selected"], case["name"]
        assert found.survivors[["position", "layer"]].to_numpy().tolist() == case["survivors_sorted"], case["name"]


def test_the_table_keeps_every_candidate_and_names_all_filters_that_drop_it():
    found = select_direction(scored([(-1, 0, np.nan, 1, 0), (-1, 1, -1, 1, 0.1), (-1, 2, -9, -1, 0.2), (-1, 9, -9, 0, 0)]), n_layers=10)
    assert list(found.table["removed_by"]) == ["nan", "", "kl+induce", "layer"]
    assert list(found.table["selected"]) == [False, True, False, False]
    assert list(found.table["rank"].fillna(0)) == [0, 1, 0, 0]
    assert found.provenance["kl_max"] == 0.1 and found.provenance["rule"] == "arditi"


def test_polyrefuse_asks_for_no_induction_and_allows_twice_the_divergence():
    scores = scored([(-1, 1, -1, 1, 0.05), (-1, 2, -9, -5, 0.2), (-1, 3, -10, 1, 0.21)], n_layers=10)
    assert select_direction(scores).layer == 1
    assert select_direction(scores, rule="polyrefuse").layer == 2


def test_named_positions_are_ordered_as_in_the_prompt_when_candidates_tie():
    rows = [(position, 1, -2.0, 1.0, 0.0) for position in ("t_post_inst", "post[10]", "post[2]", "t_inst")]
    scores = scored(rows, n_layers=10)
    assert list(select_direction(scores).survivors["position"]) == ["t_inst", "post[2]", "post[10]", "t_post_inst"]


def test_a_selection_survives_saving(tmp_path):
    found = select_direction(scored([("t_inst", 1, -1, 1, 0), ("t_inst", 2, -2, 1, 0)], n_layers=10))
    again = Selection.load(found.save(tmp_path / "selection.parquet"))
    assert (again.position, again.layer) == ("t_inst", 2)
    pd.testing.assert_frame_equal(again.table, found.table)


def test_the_scores_of_one_language_may_decide():
    both = pd.concat([scored([(-1, 1, -1, 1, 0), (-1, 2, -2, 1, 0)]).table.assign(language="all")])
    other = both.assign(language="sw", bypass=[-9.0, -2.0])
    scores = DirectionScores(pd.concat([both, other]), {"n_layers": 10})
    assert select_direction(scores).layer == 2
    assert select_direction(scores, language="sw").layer == 1
    with pytest.raises(DataError, match=r"Nothing was scored for language 'sww'.*Did you mean 'sw'"):
        select_direction(scores, language="sww")


def test_an_empty_choice_says_which_filter_dropped_what_and_what_would_keep_the_nearest():
    scores = scored([(-1, 1, -5, 1, 0.15), (-1, 2, -4, 1, 0.9), (-1, 3, -8, -3, 0.5), (-1, 9, -8, 2, 0.0)], n_layers=10)
    with pytest.raises(DataError) as raised:
        select_direction(scores, rule=SelectionRule(0.1, 0.0, 0.1))
    assert "layer 1 or deeper: 4 (1 by nothing else)" in str(raised.value)
    with pytest.raises(DataError) as raised:
        select_direction(scored(scores.table.iloc[:3, :5]), n_layers=10)
    told = str(raised.value)
    assert "KL above 0.1: 3 (2 by nothing else); induce below 0.0: 1 (0 by nothing else)" in told
    assert "Nearest is -1, layer 1 (bypass -5, induce 1, KL 0.15): it stays with kl_max=0.15" in told
    assert select_direction(scored(scores.table.iloc[:3, :5]), n_layers=10, rule=SelectionRule(0.15, 0.0)).layer == 1


def test_following_the_advice_of_an_empty_choice_keeps_what_it_names(rng):
    for _ in range(50):
        rows = [(-1, layer, *rng.normal(size=2), rng.uniform(0.1001, 3)) for layer in range(7)]
        with pytest.raises(DataError, match="it stays with") as raised:
            select_direction(scored(rows), n_layers=7, rule=SelectionRule(0.1, 1.0, 0.3))
        named = re.search(r"Nearest is -1, layer (\d+) .* it stays with (.*)\. Relax", str(raised.value))
        rule = replace(SelectionRule(0.1, 1.0, 0.3), **{k: float(v) for k, v in (part.split("=") for part in named[2].split(" and "))})
        found = select_direction(scored(rows), n_layers=7, rule=rule)
        assert int(named[1]) in list(found.survivors["layer"])


def test_scores_that_are_all_undefined_say_so():
    table = scored([(-1, 1, np.nan, np.nan, np.nan)]).table.assign(reason="the direction is zero")
    with pytest.raises(DataError, match=r"none has finite scores \(the direction is zero"):
        select_direction(DirectionScores(table), n_layers=10)


def test_a_rule_that_does_not_exist_a_depth_that_is_not_known_and_a_candidate_given_twice_are_refused():
    scores = scored([(-1, 1, -1, 1, 0)])
    with pytest.raises(DataError, match="Did you mean 'arditi'"):
        select_direction(scores, n_layers=10, rule="ardity")
    with pytest.raises(DataError, match="Pass n_layers="):
        select_direction(scores)
    with pytest.raises(DataError, match="has two rows"):
        select_direction(DirectionScores(pd.concat([scores.table, scores.table])), n_layers=10)


def test_a_file_that_holds_no_scores_is_refused(tmp_path):
    path = tmp_path / "direction_evaluations.json"
    with pytest.raises(DataError, match="cannot be read as JSON"):
        read_scores(path)
    path.write_text('[{"position": -1}]')
    with pytest.raises(DataError, match="holds no list of scores"):
        read_scores(path)


def test_a_released_file_of_some_candidates_does_not_pretend_to_know_the_depth(tmp_path):
    path = tmp_path / "direction_evaluations.json"
    row = {"refusal_score": -1.0, "steering_score": 1.0, "kl_div_score": 0.0}
    path.write_text(json.dumps([{"position": -1, "layer": layer, **row} for layer in (0, 2)]))
    assert "n_layers" not in read_scores(path).provenance
