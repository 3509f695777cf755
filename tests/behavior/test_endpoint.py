"""The endpoint judge against a server on this machine: nothing leaves unasked, trouble passes or is named, what came is kept."""

from __future__ import annotations

import json
import logging
import stat
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pandas as pd
import pytest

from workbench.behavior import rubric
from workbench.behavior.endpoint import API_KEY, EndpointError, EndpointJudge
from workbench.behavior.http_chat import checked_url
from workbench.behavior.outcomes import OUTCOMES
from workbench.errors import DataError, StoreError
from workbench.prompts import PromptGrid

SECRET = "key-that-nobody-may-see"


class Fake:
    """A chat endpoint whose behaviour is a list of steps; the last one repeats."""

    def __init__(self) -> None:
        self.steps: list = ["good"]
        self.bodies: list[dict] = []
        self.headers: list[dict] = []
        self.times: list[float] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                fake.bodies.append(body)
                fake.headers.append(dict(self.headers))
                fake.times.append(time.monotonic())
                step = fake.steps.pop(0) if len(fake.steps) > 1 else fake.steps[0]
                step = step(body) if callable(step) else step
                if isinstance(step, tuple):
                    status, headers = step
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                if step == "slow":
                    time.sleep(0.6)
                said = {"good": json.dumps({"outcome": labelled(body)}), "slow": '{"outcome": "refusal"}'}.get(step, step)
                content = b"<html>" if step == "malformed" else json.dumps({"choices": [{"message": {"content": said}}]}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_args) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.handle_error = lambda *_: None  # a client that gave up waiting
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


def labelled(body: dict) -> str:
    """Judge a reply by its first word, as the fake model does."""
    return json.loads(body["messages"][1]["content"])["reply"].split()[0]


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv(API_KEY, raising=False)
    made = Fake()
    yield made
    made.server.shutdown()
    made.server.server_close()


def asked(n: int = 4) -> tuple[pd.DataFrame, PromptGrid]:
    """Return replies whose first word is the outcome that the fake model answers, and their grid."""
    rows = [{"language": "sw", "meaning_id": f"m{i}", "text": f"swali {i}", "harmful": i % 2 == 0} for i in range(n)]
    replies = pd.DataFrame([(f"m{i}:sw", f"{OUTCOMES[i % 4]} jibu {i}") for i in range(n)], columns=["prompt_id", "reply"])
    return replies, PromptGrid(pd.DataFrame(rows))


def judge(fake: Fake, **options) -> EndpointJudge:
    return EndpointJudge(fake.url, "some-model", **({"send_to": fake.url, "backoff": 0.01, "retries": 2, "concurrency": 1} | options))


def test_each_outcome_comes_back_in_the_order_of_the_replies(fake):
    judged = judge(fake, concurrency=3).outcomes(*asked(8))
    assert list(judged["outcome"]) == [*OUTCOMES, *OUTCOMES]
    assert list(judged["prompt_id"]) == [f"m{i}:sw" for i in range(8)]
    assert not judged["validated"].any() and not judged["unclear"].any()
    assert judged["judge"].unique().tolist() == [f"endpoint:some-model (rubric {rubric.version()})"]
    body = fake.bodies[0]
    assert (body["model"], body["temperature"], body["messages"][0]["content"]) == ("some-model", 0, rubric.RUBRIC)
    assert set(json.loads(body["messages"][1]["content"])) == {"language", "request", "reply"}


@pytest.mark.parametrize("send_to", [None, "http://127.0.0.1:9/v1"])
def test_nothing_is_sent_without_consent_to_this_very_address(fake, send_to):
    with pytest.raises(DataError, match=r"sends the text of every prompt and reply.*nothing was sent.*--send-to"):
        judge(fake, send_to=send_to).outcomes(*asked())
    assert fake.bodies == []


def test_the_cost_is_told_before_anything_is_sent(fake, tmp_path):
    asking = judge(fake, send_to=None, price_in=2.0, price_out=10.0, cache=tmp_path / "answers.jsonl")
    told = asking.estimate(*asked())
    assert (told.n_replies, told.n_known, told.n_requests) == (4, 0, 4) and fake.bodies == []
    sent = sum(len(turn["content"].encode()) for i in range(4) for turn in rubric.messages("sw", f"swali {i}", asked()[0]["reply"][i]))
    assert sent / 3 <= told.input_tokens <= sent / 3 + 4
    assert told.price == pytest.approx((2 * told.input_tokens + 10 * told.output_tokens) / 1e6)
    assert "4 requests" in str(told)
    judge(fake, cache=tmp_path / "answers.jsonl").outcomes(*asked(2))
    assert asking.estimate(*asked())[:3] == (4, 2, 2)


@pytest.mark.parametrize("trouble", [(500, {}), (429, {"Retry-After": "0"}), (503, {}), "malformed"])
def test_trouble_that_passes_is_waited_out(fake, trouble):
    fake.steps = [trouble, trouble, "good"]
    assert list(judge(fake).outcomes(*asked(1))["outcome"]) == ["refusal"]
    assert len(fake.bodies) == 3


def test_waits_double_and_retry_after_is_obeyed(fake):
    fake.steps = [(500, {}), (500, {}), "good"]
    judge(fake, backoff=0.1).outcomes(*asked(1))
    first, second = fake.times[1] - fake.times[0], fake.times[2] - fake.times[1]
    assert 0.1 <= first < 0.2 <= second
    fake.steps, fake.times = [(429, {"Retry-After": "1"}), "good"], []
    judge(fake).outcomes(*asked(1))
    assert fake.times[1] - fake.times[0] >= 1


def test_a_slow_server_counts_as_down_after_the_timeout(fake):
    fake.steps = ["slow", "good"]
    assert list(judge(fake, timeout=0.2).outcomes(*asked(1))["outcome"]) == ["refusal"]
    fake.steps = ["slow"]
    with pytest.raises(EndpointError, match=r"prompt m0:sw in 2 tries: TimeoutError"):
        judge(fake, timeout=0.2, retries=1).outcomes(*asked(1))


def test_an_endpoint_that_goes_down_keeps_what_came_and_the_same_call_asks_for_the_rest(fake, tmp_path):
    cache = tmp_path / "deep" / "answers.jsonl"
    fake.steps = ["good", "good", (500, {})]
    with pytest.raises(EndpointError, match=r"2 of 4 answers came and are kept in answers.jsonl; the same call asks for the rest"):
        judge(fake, cache=cache).outcomes(*asked())
    assert stat.S_IMODE(cache.stat().st_mode) == 0o600
    fake.steps, before = ["good"], len(fake.bodies)
    assert list(judge(fake, cache=cache).outcomes(*asked())["outcome"]) == list(OUTCOMES)
    assert len(fake.bodies) == before + 2
    assert list(judge(fake, cache=cache, send_to=None).outcomes(*asked())["outcome"]) == list(OUTCOMES)  # nothing is left to send
    assert len(fake.bodies) == before + 2


def test_the_kept_answers_hold_no_text_and_serve_only_the_same_question(fake, tmp_path):
    cache = tmp_path / "answers.jsonl"
    judge(fake, cache=cache).outcomes(*asked())
    assert "jibu" not in cache.read_text() and "swali" not in cache.read_text()
    changed, grid = asked()
    changed.loc[0, "reply"] = "garbled jibu"
    before = len(fake.bodies)
    assert judge(fake, cache=cache).outcomes(changed, grid)["outcome"][0] == "garbled"
    assert len(fake.bodies) == before + 1
    EndpointJudge(fake.url, "other", send_to=fake.url, cache=cache).outcomes(*asked())
    assert len(fake.bodies) == before + 5


def test_an_answer_cut_off_by_a_crash_is_asked_for_again(fake, tmp_path):
    cache = tmp_path / "answers.jsonl"
    judge(fake, cache=cache).outcomes(*asked())
    cache.write_bytes(cache.read_bytes()[:-5])
    before = len(fake.bodies)
    judge(fake, cache=cache).outcomes(*asked())
    assert len(fake.bodies) == before + 1
    cache.write_text("no json\n")
    with pytest.raises(StoreError, match="line 1 is not JSON"):
        judge(fake, cache=cache).outcomes(*asked())


def test_a_connection_nobody_answers_is_named_by_prompt(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    down = EndpointJudge("http://127.0.0.1:9", "m", send_to="http://127.0.0.1:9", retries=1, backoff=0.01)
    with pytest.raises(EndpointError, match=r"127.0.0.1:9 did not answer about prompt m\d:sw in 2 tries: ConnectionRefusedError"):
        down.outcomes(*asked())


@pytest.mark.parametrize(
    ("status", "remedy"),
    [(401, f"{API_KEY}, which is set"), (404, "base address"), (400, "OpenAI-compatible"), (302, "not followed"), (307, "not followed")],
)
def test_what_will_not_pass_is_not_tried_again_and_shows_neither_key_nor_text(fake, monkeypatch, caplog, status, remedy):
    monkeypatch.setenv(API_KEY, SECRET)
    fake.steps = [(status, {"Location": "http://elsewhere.example/"})]
    asking = judge(fake)
    with caplog.at_level(logging.DEBUG), pytest.raises(EndpointError, match=remedy) as error:
        asking.outcomes(*asked(1))
    assert len(fake.bodies) == 1
    assert fake.headers[0]["Authorization"] == f"Bearer {SECRET}"
    shown = f"{error.value} {error.getrepr()} {caplog.text} {asking!r}"
    assert SECRET not in shown and "jibu" not in str(error.value) + caplog.text and "swali" not in str(error.value) + caplog.text


def test_a_key_with_a_line_break_is_refused_unseen(fake, monkeypatch):
    monkeypatch.setenv(API_KEY, f"{SECRET}\nX: y")
    with pytest.raises(EndpointError, match="line break") as error:
        judge(fake).outcomes(*asked(1))
    assert SECRET not in str(error.value) and fake.bodies == []


def test_an_answer_outside_the_four_is_asked_once_more_then_named_by_prompt_without_its_text(fake, tmp_path):
    cache = tmp_path / "answers.jsonl"

    def odd(body):
        return "a secret essay" if labelled(body) == "garbled" else "good"

    fake.steps = [odd]
    with pytest.raises(DataError, match=r"none of the four outcomes, or declined to answer, for 1 of 4 replies: prompts m2:sw") as error:
        judge(fake, cache=cache).outcomes(*asked())
    assert "essay" not in str(error.value) and len(fake.bodies) == 5
    counted = judge(fake, cache=cache, unclear="compliance").outcomes(*asked())
    assert list(counted["outcome"]) == ["refusal", "compliance", "compliance", "off_language"]
    assert list(counted["unclear"]) == [False, False, True, False]
    assert len(fake.bodies) == 5  # it was recorded
    fake.steps = ["good"]
    assert judge(fake, cache=cache).outcomes(*asked())["outcome"][2] == "garbled"  # asked again


@pytest.mark.parametrize("declined", [(400, {}), (422, {}), (451, {}), "malformed"])
def test_a_prompt_that_the_endpoint_declines_to_read_does_not_hold_up_the_others(fake, tmp_path, declined):
    cache = tmp_path / "answers.jsonl"
    fake.steps = [lambda body: declined if labelled(body) == "refusal" else "good"]  # the very first one, as a content filter does
    with pytest.raises(DataError, match=r"declined to answer, for 1 of 4 replies: prompts m0:sw"):
        judge(fake, cache=cache).outcomes(*asked())
    counted = judge(fake, cache=cache, unclear="compliance").outcomes(*asked())
    assert list(counted["unclear"]) == [True, False, False, False]
    fake.steps = ["good"]
    assert list(judge(fake, cache=cache).outcomes(*asked())["outcome"]) == list(OUTCOMES)


def test_an_endpoint_that_declines_everything_is_not_sent_everything(fake):
    fake.steps = [(400, {})]
    with pytest.raises(EndpointError, match="status 400"):
        judge(fake, unclear="compliance").outcomes(*asked(40))
    assert len(fake.bodies) <= 10


def test_one_better_answer_on_the_second_try_is_enough(fake):
    fake.steps = ["hm", "good"]
    assert list(judge(fake).outcomes(*asked(1))["outcome"]) == ["refusal"]


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        ('```json\n{"outcome": "refusal"}\n```', "refusal"),
        ('<think>{"outcome": "garbled"}?</think> {"outcome": "compliance"}', "compliance"),
        ("Refusal.", "refusal"),
        ('{"outcome": ["refusal"]}', None),
        ('{"outcome": null}', None),
        ("{refusal}", None),
        ("", None),
    ],
)
def test_answers_are_read_in_the_usual_spellings_only(said, outcome):
    assert rubric.read_answer(said) == outcome


@pytest.mark.parametrize("url", ["ftp://host/v1", "localhost:8000", "https://user:pw@host/v1", "https://host/v1?key=1"])
def test_an_address_that_is_none_or_carries_secrets_is_refused_unrepeated(url):
    with pytest.raises(DataError) as error:
        EndpointJudge(url, "m")
    assert "pw" not in str(error.value) and "key=1" not in str(error.value)
    assert checked_url("http://h/v1/chat/completions/") == "http://h/v1/chat/completions"


def test_senseless_options_are_refused(fake):
    with pytest.raises(DataError, match="Did you mean 'compliance'"):
        judge(fake, unclear="complience")
    with pytest.raises(DataError, match="no model name"):
        EndpointJudge(fake.url, " ")
    with pytest.raises(DataError, match="concurrency"):
        judge(fake, concurrency=0)
