"""The judge asked for reaches the diagnosis: refused early, told before it sends, checked after it spoke, part of the request."""

from __future__ import annotations

import json
import logging
import stat
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pandas as pd
import pytest

from tests.tiny import build_grid
from workbench.behavior.choice import JudgeChoice
from workbench.behavior.judges import MarkerJudge, PerLanguageJudge, StereotypeJudge, choose_judge
from workbench.diagnosis import measure
from workbench.diagnosis.diagnose import diagnose
from workbench.errors import DataError, StoreMismatchError
from workbench.runs.folder import Run

URL = "http://127.0.0.1:9/v1"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(judge="endpoint", judge_model="m"), "nothing was sent.*--send-to URL"),
        (dict(judge="endpoint", judge_model="m", send_to=URL, redact=True), "A redacted run keeps no reply.*nothing was sent"),
        (dict(judge="markers", judge_fallback="endpoint", judge_model="m", send_to=URL, redact=True), "A redacted run keeps no reply"),
        (dict(judge="marker"), "Did you mean 'markers'"),
        (dict(judge="markers", send_to=URL), "which sends nothing"),
        (dict(judge=MarkerJudge(), send_to=URL), "given together with a judge in memory"),
    ],
)
def test_a_judge_that_cannot_be_had_is_refused_before_anything_is_loaded_or_written(tmp_path, options, message):
    with pytest.raises(DataError, match=message):
        diagnose("no/model", prompts="no set", out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def endpoint(monkeypatch):
    """Answer "refusal" to everything and count."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    asked: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            content = json.dumps({"choices": [{"message": {"content": '{"outcome": "refusal"}'}}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_args) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1", asked
    server.shutdown()
    server.server_close()


def test_what_is_sent_is_told_first_kept_privately_and_not_sent_again(tiny_model, tmp_path, caplog, endpoint):
    url, asked = endpoint
    chat, grid = tiny_model("llama"), build_grid(24).with_splits()
    run = Run.start(tmp_path / "run", {"judge": "x"})
    choice = JudgeChoice("endpoint", model="m", send_to=url, cache=run.folder / "judge.jsonl")
    options = dict(new_tokens=4, redact=False, progress=False)
    with caplog.at_level(logging.INFO, logger="workbench.diagnosis"):
        outcomes, rates = measure.behaviour(run, chat, grid, judge=choose_judge(grid, chat, judge=choice), **options)
    n = len(grid.select(split="score"))
    (told,) = [record.getMessage() for record in caplog.records if record.name == "workbench.diagnosis.measure"]
    assert told.startswith(f"Sending the text of {n} prompts and replies to {url} (m): ") and "tokens in" in told
    assert len(outcomes) == n and set(outcomes["outcome"]) == {"refusal"} and not rates["validated"].any()
    assert len(asked) <= n and stat.S_IMODE((run.folder / "judge.jsonl").stat().st_mode) == 0o600
    before = len(asked)
    again, _ = measure.behaviour(run, chat, grid, judge=choose_judge(grid, chat, judge=choice), **options)
    assert len(asked) == before and again["outcome"].tolist() == outcomes["outcome"].tolist()


def test_a_judge_outside_the_four_outcomes_stops_the_diagnosis_by_prompt_id(tiny_model, tmp_path):
    class Odd:
        name, learns = "odd", False

        def outcomes(self, replies: pd.DataFrame, grid) -> pd.DataFrame:
            return replies[["prompt_id"]].assign(outcome="perhaps", correct=None, judge="odd", validated=False, reply_language=None)

    chat, grid = tiny_model("llama"), build_grid(24).with_splits()
    run = Run.start(tmp_path / "run", {})
    with pytest.raises(DataError, match=r"judge 'odd' gave \d+ of \d+ replies something else than refusal.* prompt 'en-\d+' has 'perhaps'"):
        measure.behaviour(run, chat, grid, judge=choose_judge(grid, judge=Odd()), new_tokens=2, redact=False, progress=False)


def test_only_a_judge_that_learns_is_given_replies_outside_the_score_split():
    grid = build_grid(24).with_splits()
    replies = grid.frame[["prompt_id"]].assign(reply="bread")
    judge = choose_judge(grid, judge=PerLanguageJudge({"en": StereotypeJudge(), "fr": MarkerJudge()}))
    kept = grid.frame[grid.frame["prompt_id"].isin(measure.to_judge(judge, replies, grid)["prompt_id"])]
    assert len(kept[kept["language"] == "en"]) == 24 and set(kept.loc[kept["language"] == "fr", "split"]) == {"score"}


def test_another_judge_is_another_request(tmp_path):
    Run.start(tmp_path / "run", {"model": "m", "judge": JudgeChoice("markers").spec()})
    with pytest.raises(StoreMismatchError, match=r"judge.name: 'markers' there, 'guard' asked"):
        Run.start(tmp_path / "run", {"model": "m", "judge": JudgeChoice("guard:g").spec()})
    Run.start(tmp_path / "old", {"model": "m"})  # a run from before there was a choice
    Run.start(tmp_path / "old", {"model": "m", "judge": JudgeChoice().spec()})


def test_nothing_is_told_where_nothing_leaves_the_machine(tiny_model):
    grid = build_grid(6)
    replies = grid.frame[["prompt_id"]].assign(reply="bread")
    assert measure.sending(choose_judge(grid), replies, grid) is None
    assert measure.sending(PerLanguageJudge({}), replies.iloc[:0], grid.select(languages=["en"])) is None
