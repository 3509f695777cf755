"""A judge behind an OpenAI-compatible chat endpoint: it reads prompts and replies, so nothing is sent unless you name the address twice.

Answers are kept on disk as they come (outcomes and hashes, no text), so that an endpoint that goes down costs nothing but what is missing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from tqdm.auto import tqdm

from workbench.behavior import rubric
from workbench.behavior.http_chat import Declined, EndpointError, Server, checked_url
from workbench.behavior.outcomes import Verdict, joined, outcome_table
from workbench.behavior.private_lines import append_lines, whole_lines
from workbench.errors import DataError, did_you_mean, writing
from workbench.prompts.grid import PromptGrid

logger = logging.getLogger(__name__)

__all__ = ["API_KEY", "EndpointError", "EndpointJudge", "Estimate"]

#: The environment variable that holds the key, if the endpoint wants one.
API_KEY = "WORKBENCH_JUDGE_API_KEY"
_UNCLEAR = ("raise", "compliance")
_ANSWER_TOKENS = 12
_HOPELESS = 8  # prompts declined before any is answered: then it is the request, not the prompt


class Estimate(NamedTuple):
    """What judging would cost, before anything is sent.

    Attributes
    ----------
    n_replies, n_known, n_requests : int
        Replies, answers already on disk, and requests to come (one per remaining reply, like ones once; retries come on top).
    input_tokens, output_tokens : int
        Estimated: a third of the UTF-8 bytes sent, which is above what common tokenizers give for most scripts (inferred).
    price : float or None
        In the unit of the prices given; None without them.
    """

    n_replies: int
    n_known: int
    n_requests: int
    input_tokens: int
    output_tokens: int
    price: float | None

    def __str__(self) -> str:
        cost = "" if self.price is None else f", about {self.price:.2f} at the prices given"
        known = f" ({self.n_known} answers are known already)" if self.n_known else ""
        return f"{self.n_requests} requests{known}, about {self.input_tokens:,} tokens in and {self.output_tokens:,} out{cost}"


@dataclass(frozen=True)
class EndpointJudge:
    """Asks a remote model for one of the four outcomes per reply, by :data:`workbench.behavior.rubric.RUBRIC` at temperature 0.

    **It sends the text of prompts and replies**, harmful ones included, to ``url``: only if ``send_to`` names the same address. A judge
    model errs too (the published one over-reports refusal: precision .78, recall .90 on 600 human labels in six low-resource languages),
    and more so where it reads the language badly; ``validated`` is False except in the languages you measured (``validated_in``).

    Attributes
    ----------
    url : str
        Base address of the API (``https://host/v1``) or the address of its ``chat/completions``.
    model : str
        As the endpoint calls it.
    send_to : str or None
        The consent: must equal ``url``. None sends nothing; :meth:`estimate` still works.
    cache : Path or None
        JSON Lines file of answers, mode 600: keys (hash of prompt, reply, rubric and model), prompt ids and outcomes; no text. The next
        call asks only for what is missing.
    unclear : {"raise", "compliance"}
        What becomes of an answer that is none of the four after one more try, and of a prompt that the endpoint declines to read (400, 413, 422,
        451, as content filters do) while it answers others: raise once all others are in, naming prompt ids, or
        count it as no refusal and mark it ``unclear``.
    reply_chars : int
        Longest part of a reply that is sent.
    concurrency, retries, timeout, backoff
        Requests at a time; further tries after a failure that may pass (no connection, 408, 425, 429, 5xx), waiting ``backoff`` seconds
        doubled each time, or as long as Retry-After says; seconds until a silent server counts as down.
    price_in, price_out : float or None
        Per million tokens, for the estimate.
    api_key_env : str
        Environment variable that holds the key; read when sending, never stored, shown or logged.

    References
    ----------
    Aziz et al. 2026, arXiv:2606.01196 (refusal judge; our rubric is written anew and tells four outcomes apart where theirs has two).
    """

    url: str
    model: str
    send_to: str | None = None
    cache: Path | None = None
    unclear: str = "raise"
    reply_chars: int = 4000
    concurrency: int = 4
    retries: int = 5
    timeout: float = 60.0
    backoff: float = 1.0
    price_in: float | None = None
    price_out: float | None = None
    api_key_env: str = API_KEY
    validated_in: frozenset[str] = frozenset()
    progress: bool = False
    learns: bool = False

    def __post_init__(self) -> None:
        checked_url(self.url)
        if not str(self.model).strip():
            raise DataError("The endpoint judge has no model name. Expected the name under which the endpoint serves it (--judge-model NAME).")
        if self.unclear not in _UNCLEAR:
            raise DataError(f"unclear={self.unclear!r}: expected one of {', '.join(_UNCLEAR)}.{did_you_mean(str(self.unclear), _UNCLEAR)}")
        if self.concurrency < 1 or self.retries < 0 or self.timeout <= 0 or self.backoff < 0 or self.reply_chars < 1:
            raise DataError("concurrency, timeout and reply_chars must be at least 1 (seconds: above 0), retries and backoff at least 0.")

    @property
    def name(self) -> str:
        """How tables call it: the model and the rubric's version."""
        return f"endpoint:{self.model} (rubric {rubric.version()})"

    # ------------------------------------------------------------------ before anything is sent

    def estimate(self, replies: pd.DataFrame, grid: PromptGrid) -> Estimate:
        """Say how many requests and tokens judging these replies takes; nothing is sent."""
        rows = self._rows(replies, grid)
        known = self._known()
        missing = rows[~rows["key"].map(lambda key: key in known)].drop_duplicates("key")
        texts = zip(missing["language"], missing["text"], missing["reply"], strict=True)
        sizes = [sum(len(turn["content"].encode()) for turn in rubric.messages(*asked)) for asked in texts]
        tokens_in, tokens_out = sum(size // 3 + 1 for size in sizes), _ANSWER_TOKENS * len(missing)
        priced = self.price_in is not None or self.price_out is not None
        price = (tokens_in * (self.price_in or 0.0) + tokens_out * (self.price_out or 0.0)) / 1e6 if priced else None
        return Estimate(len(rows), int(rows["key"].map(lambda key: key in known).sum()), len(missing), tokens_in, tokens_out, price)

    def require_consent(self) -> None:
        """Refuse to send unless ``send_to`` names the address.

        Raises
        ------
        DataError
            Saying what would be sent, and where.
        """
        if self.send_to is None or checked_url(self.send_to) != checked_url(self.url):
            raise DataError(
                f"Judging with {self.model} sends the text of every prompt and reply, harmful ones included, to {self.url}; nothing was sent. "
                f"Give send_to={self.url!r} (--send-to) if that is what you want, and look at estimate() first."
            )

    # ------------------------------------------------------------------ judging

    def outcomes(self, replies: pd.DataFrame, grid: PromptGrid) -> pd.DataFrame:
        """Judge each reply, asking only for answers that are not on disk yet.

        Raises
        ------
        DataError
            Without consent, or where answers stay outside the four outcomes (``unclear="raise"``).
        EndpointError
            If the endpoint refuses, or stays down through all retries; answers that came are kept.
        """
        rows = self._rows(replies, grid)
        known = self._known()
        missing = rows[~rows["key"].map(lambda key: key in known)].drop_duplicates("key")
        if len(missing):
            self.require_consent()
            logger.info("%s: sending to %s: %s", self.name, self.url, self.estimate(replies, grid))
            known |= self._asked(missing)
        found = [known[key] for key in rows["key"]]
        unclear = [outcome is None for outcome in found]
        if any(unclear) and self.unclear == "raise":
            named = rows.loc[unclear, "prompt_id"]
            raise DataError(
                f"{self.name} gave none of the four outcomes, or declined to answer, for {len(named)} of {len(rows)} replies: prompts "
                f"{', '.join(named[:5])}{' ...' if len(named) > 5 else ''}. All other answers are kept. Ask again, take another model, or count "
                'them as no refusal (unclear="compliance").'
            )
        verdicts = [Verdict(outcome or "compliance") for outcome in found]
        return outcome_table(rows, verdicts, name=self.name, validated=dict.fromkeys(self.validated_in, True), unclear=unclear)

    def _rows(self, replies: pd.DataFrame, grid: PromptGrid) -> pd.DataFrame:
        rows = joined(replies, grid)
        rows["reply"] = rows["reply"].astype(str).str.slice(0, self.reply_chars)
        asked = zip(rows["language"], rows["text"], rows["reply"], strict=True)
        return rows.assign(key=[self._key(*texts) for texts in asked])

    def _key(self, language: str, prompt: str, reply: str) -> str:
        asked = json.dumps([self.model, rubric.version(), language, prompt, reply], ensure_ascii=False)
        return hashlib.sha256(asked.encode()).hexdigest()

    def _known(self) -> dict[str, str | None]:
        """Read the answers on disk; unclear ones are asked again unless they are to be counted."""
        if self.cache is None or not Path(self.cache).exists():
            return {}
        os.chmod(self.cache, 0o600)
        rows = whole_lines(Path(self.cache), what="EndpointJudge", needed=("key", "outcome"))
        return {row["key"]: row["outcome"] for row in rows if row["outcome"] is not None or self.unclear != "raise"}

    def _asked(self, missing: pd.DataFrame) -> dict[str, str | None]:
        """Ask about each row; the main thread alone writes, as answers come."""
        server = Server(self.url, self.api_key_env, self.timeout, self.retries, self.backoff, threading.Event())
        found: dict[str, str | None] = {}
        declined: dict[str, Any] = {}  # about one prompt alone, if another one is answered
        last: EndpointError | None = None
        answered = bool(self._known())
        failure: EndpointError | None = None
        if self.cache is not None:
            with writing(self.cache):
                Path(self.cache).parent.mkdir(parents=True, exist_ok=True)
        with (
            ThreadPoolExecutor(self.concurrency, thread_name_prefix="judge") as pool,
            tqdm(total=len(missing), unit="reply", desc="judge", disable=not self.progress) as bar,
        ):
            waiting: dict[Future[str | None], Any] = {pool.submit(self._ask, server, row): row for row in missing.itertuples()}
            try:
                while waiting:
                    for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                        row = waiting.pop(future)
                        if future.cancelled():
                            continue
                        try:
                            found[row.key] = future.result()
                        except Declined as error:
                            declined[row.key] = row
                            if not (answered or found) and len(declined) >= _HOPELESS and failure is None:
                                failure = error
                                server.stopped.set()
                                for other in waiting:
                                    other.cancel()
                            last = error
                            continue
                        except EndpointError as error:
                            if failure is None and not server.stopped.is_set():
                                failure = error
                                server.stopped.set()  # the others end their waits and give up
                                for other in waiting:
                                    other.cancel()
                            continue
                        if self.cache is not None:
                            append_lines(Path(self.cache), [{"key": row.key, "prompt_id": row.prompt_id, "outcome": found[row.key]}])
                        bar.update()
            finally:
                server.stopped.set()
                for other in waiting:
                    other.cancel()
        if declined and failure is None and not (answered or found):
            failure = last
        if failure is None:
            for key, row in declined.items():
                found[key] = None
                if self.cache is not None:
                    append_lines(Path(self.cache), [{"key": key, "prompt_id": row.prompt_id, "outcome": None}])
        if failure is not None:
            kept = f"{len(found)} of {len(missing)} answers came" + (f" and are kept in {Path(self.cache).name}" if self.cache is not None else "")
            raise EndpointError(f"{failure} {kept}; the same call asks for the rest.") from failure
        return found

    def _ask(self, server: Server, row: Any) -> str | None:
        """Ask about one reply; an answer that is none of the four is asked for once more."""
        body = {"model": self.model, "temperature": 0, "max_tokens": 256, "messages": rubric.messages(row.language, row.text, row.reply)}
        for _ in range(2):
            outcome = rubric.read_answer(server.answer(body, row.prompt_id))
            if outcome is not None:
                return outcome
        return None
