"""A run folder says what it is, continues what it began, and is never overwritten."""

import json

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
