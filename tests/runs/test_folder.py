"""A run folder says what it is, continues what it began, and is never overwritten."""

import json
import re

import pandas as pd
import pytest

from workbench.errors import DataError, StoreError, StoreMismatchError
from workbench.runs.folder import Run


def test_the_same_request_continues_a_run_and_another_is_refused_by_name(tmp_path):
    run = Run.start(tmp_path / "run", {"model": "a", "seed": 0})
    run.save("table", pd.DataFrame({"x": [1.5]}), {"seed": 0})
    again = Run.start(tmp_path / "run", {"model": "a", "seed": 0})
    assert again.result("table").table["x"].tolist() == [1.5]
    assert again.result("table").provenance == {"seed": 0}
    with pytest.raises(StoreMismatchError, match=r"seed: 0 there, 1 asked.*another --out"):
        Run.start(tmp_path / "run", {"model": "a", "seed": 1})
    assert again.results == ["table"]


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(StoreMismatchError, match="holds no run"):
        Run.start(tmp_path, {})
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_run_keeps_itself_out_of_git_and_names_its_versions(tmp_path):
    run = Run.start(tmp_path / "run", {})
    assert (run.folder / ".gitignore").read_text(encoding="utf-8") == "*\n"
    assert {"python", "torch", "numpy"} <= set(run.manifest["versions"])
    assert run.manifest["status"] == "started"


def test_an_unknown_result_or_folder_is_named_with_its_neighbours(tmp_path):
    run = Run.start(tmp_path / "run", {})
    run.save("refusal", pd.DataFrame({"x": [1]}))
    with pytest.raises(DataError, match=r"no result 'refusals'; it has refusal\. Did you mean 'refusal'"):
        run.result("refusals")
    with pytest.raises(DataError, match="is no run folder"):
        Run.open(tmp_path)


def test_a_half_written_manifest_never_replaces_a_whole_one(tmp_path, monkeypatch):
    run = Run.start(tmp_path / "run", {"seed": 0})

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(StoreError, match=r"manifest\.json cannot be written: No space left on device.*free some.*is kept"):
        run.update_manifest(status="finished")
    monkeypatch.undo()
    assert json.loads((run.folder / "manifest.json").read_text(encoding="utf-8"))["status"] == "started"


def test_a_difference_is_told_by_its_own_name_and_nothing_else(tmp_path):
    Run.start(tmp_path / "run", {"prompts": {"hash": "x", "limit": 3}, "seed": 0})
    with pytest.raises(StoreMismatchError, match=r"something else \(prompts\.limit: 3 there, 4 asked\)"):
        Run.start(tmp_path / "run", {"prompts": {"hash": "x", "limit": 4}, "seed": 0})


def test_looking_for_an_earlier_run_touches_nothing(tmp_path):
    assert Run.earlier(tmp_path / "run", {"seed": 0}) is None
    assert not (tmp_path / "run").exists()
    Run.start(tmp_path / "run", {"seed": 0})
    assert Run.earlier(tmp_path / "run", {"seed": 0}) == "started"


@pytest.mark.parametrize(("out", "message"), [("file", "is a file, not a folder"), ("file/run", "cannot be written: Not a directory")])
def test_a_file_in_the_way_is_named_and_kept(tmp_path, out, message):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    with pytest.raises(StoreError, match=message):
        Run.start(tmp_path / out, {})
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


def test_a_damaged_manifest_and_a_missing_summary_say_what_to_do(tmp_path):
    run = Run.start(tmp_path / "run", {})
    with pytest.raises(DataError, match=r"no summary\.json: the run is unfinished"):
        _ = run.summary
    (run.folder / "manifest.json").write_text('{"spec": ', encoding="utf-8")
    with pytest.raises(DataError, match=r"manifest\.json is damaged"):
        Run.start(tmp_path / "run", {})


@pytest.mark.parametrize(
    ("spec", "entries", "command"),
    [
        ({"kind": "gate repair"}, {}, "`workbench repair gate`"),  # an unfinished one may have the kind in its spec only
        ({}, {"kind": "gate repair"}, "`workbench repair gate`"),
        ({"before": "base"}, {}, "`workbench diagnose`"),
        ({"before": "base"}, {"kind": "something newer"}, "the workbench command that wrote it"),
        ({}, {}, "the workbench command that wrote it"),
    ],
)
def test_what_is_missing_or_damaged_names_the_command_that_wrote_the_folder(tmp_path, spec, entries, command):
    run = Run.start(tmp_path / "run", spec)
    run.update_manifest(**entries)
    with pytest.raises(DataError, match=rf"unfinished\. Give {command} again as it was given"):
        _ = run.summary
    (run.folder / "summary.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=rf"is damaged .* give {command} again with a new --out"):
        _ = run.summary
    (run.folder / "summary.json").write_text("[]", encoding="utf-8")
    with pytest.raises(DataError, match=rf"holds no JSON object.* give {command} again"):
        _ = run.summary


def test_without_a_readable_manifest_no_command_is_guessed(tmp_path):
    with pytest.raises(DataError, match=r"no run folder.*--out of a workbench command\.$"):
        Run.open(tmp_path)
    (tmp_path / "manifest.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="give the workbench command that wrote it again"):
        _ = Run.open(tmp_path).manifest


def test_a_repair_shows_the_gate_under_the_model_as_it_is(tmp_path):
    def figures(harmful, harmless):
        return {
            "harmful_refusal": {"value": harmful},
            "harmless_refusal": None if harmless is None else {"value": harmless},
            "selectivity": None if harmless is None else {"value": harmful - harmless},
            "flagged_harmful": {"value": 0.999},
        }

    run = Run.start(tmp_path / "run", {"kind": "gate repair"})
    methods = {"as it is": {"kind": "model", "sw": figures(0.25, 0.05)}, "ours": {"kind": "gate", "sw": figures(0.75, None)}, "other": {}}
    summary = {"languages": {"sw": {"tier": "low"}, "th": {"tier": None}}, "gate": "ours", "unrepaired": "as it is", "methods": methods}
    (run.folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    page = Run.open(run.folder)._repr_html_()
    assert re.findall(r"<th>(.*?)</th>", page) == ["language", "tier", "method", "harmful_refusal", "harmless_refusal", "selectivity"]
    rows = [re.findall(r"<td>(.*?)</td>", row) for row in page.split("<tr>")[1:]]
    assert rows[:2] == [["sw", "low", "as it is", "0.25", "0.05", "0.20"], ["sw", "low", "ours", "0.75", "", ""]]
    assert [row[2:] for row in rows[2:]] == [["as it is", "", "", ""], ["ours", "", "", ""]]


def test_a_diagnosis_shows_its_headline_figures(tmp_path):
    run = Run.start(tmp_path / "run", {"before": "base"})
    summary = {"languages": {"sw": {"tier": "low", "gap": {"value": 0.5}, "note": "x"}}}
    (run.folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    assert "<th>gap</th>" in run._repr_html_() and "0.50" in run._repr_html_() and "note" not in run._repr_html_()
