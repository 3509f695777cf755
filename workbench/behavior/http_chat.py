"""One request to an OpenAI-compatible chat endpoint, tried again while that may help; what it sends and receives is never shown."""

from __future__ import annotations

import email.utils
import http.client
import json
import logging
import os
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any

from workbench.errors import DataError

logger = logging.getLogger(__name__)

#: Statuses that may pass by themselves.
PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
#: Statuses that are about what was sent, as content filters answer: the next prompt may do.
ABOUT_THE_PROMPT = frozenset({400, 413, 422, 451})
LONGEST_WAIT = 120.0
_MOST_BYTES = 1 << 20


class EndpointError(DataError):
    """The endpoint refused, or stayed down through all tries."""


class Declined(EndpointError):
    """The endpoint would not, or could not, answer about this one prompt."""


def checked_url(url: str) -> str:
    """Return the address of an API's ``chat/completions``.

    Raises
    ------
    DataError
        For something else than http(s), or an address that carries a user name, password or query (they would stand in manifests).

    Examples
    --------
    >>> checked_url("https://host/v1/")
    'https://host/v1/chat/completions'
    """
    parts = urllib.parse.urlsplit(str(url).strip())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise DataError("The judge's address is no http(s) URL. Expected one such as https://host/v1 or http://localhost:8000/v1.")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise DataError(
            f"The judge's address at {parts.hostname} carries a user, password or query. Expected a bare address; the key comes from an environment "
            "variable."
        )
    path = parts.path.rstrip("/")
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc, path if path.endswith("/chat/completions") else f"{path}/chat/completions", "", ""))


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry prompts and key to an address that nobody agreed to."""

    def redirect_request(self, *_args: Any, **_options: Any) -> None:
        return None


class _Passing(Exception):
    """A failure that may pass: what it was, how long the server asks to wait, and whether the server itself is well."""

    def __init__(self, told: str, after: float | None = None, *, up: bool = False) -> None:
        super().__init__(told)
        self.after, self.up = after, up


@dataclass(frozen=True)
class Server:
    """An endpoint and how patient to be with it; ``stopped`` ends all waits."""

    url: str
    api_key_env: str
    timeout: float
    retries: int
    backoff: float
    stopped: threading.Event

    def answer(self, body: dict[str, Any], prompt_id: str) -> str:
        """Return what the model says.

        Raises
        ------
        EndpointError
            Naming status and prompt id; neither the key nor any text. :class:`Declined` where it is about this prompt alone.
        """
        told, up = "it was not asked", False
        for attempt in range(self.retries + 1):
            if self.stopped.is_set():
                break
            try:
                return self._once(body, prompt_id)
            except _Passing as failure:
                told, up = str(failure), failure.up
                pause = self.backoff * 2**attempt if failure.after is None else failure.after
                logger.debug("prompt %s: %s; try %d of %d", prompt_id, told, attempt + 1, self.retries + 1)
                if attempt < self.retries:
                    self.stopped.wait(min(pause, LONGEST_WAIT))
        raise (Declined if up else EndpointError)(
            f"{self._host} did not answer about prompt {prompt_id} in {self.retries + 1} tries: {told}. Expected an OpenAI-compatible chat endpoint; "
            "look whether it is up, and how many requests it allows."
        )

    @property
    def _host(self) -> str:
        return urllib.parse.urlsplit(self.url).netloc

    def _once(self, body: dict[str, Any], prompt_id: str) -> str:
        headers = {"Content-Type": "application/json", "User-Agent": "multilingual-safety-workbench"}
        key = (os.environ.get(self.api_key_env) or "").strip()
        if key:
            if not (key.isascii() and key.isprintable()):  # http.client would repeat it in its complaint
                raise EndpointError(f"The key in {self.api_key_env} holds a line break or other characters that no key has. Set it anew.")
            headers["Authorization"] = f"Bearer {key}"
        try:
            request = urllib.request.Request(checked_url(self.url), json.dumps(body).encode(), headers)
            with urllib.request.build_opener(_NoRedirect).open(request, timeout=self.timeout) as response:
                content = response.read(_MOST_BYTES)
        except urllib.error.HTTPError as error:
            with error:
                told = f"status {error.code}"
                if error.code in PASSING:
                    raise _Passing(told, _seconds(error.headers.get("Retry-After"))) from None
            kind = Declined if error.code in ABOUT_THE_PROMPT else EndpointError
            raise kind(f"{self._host} refused the request about prompt {prompt_id}: {told}. {self._remedy(error.code, bool(key))}") from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise _Passing(f"{type(reason).__name__}") from None
        try:
            said = json.loads(content)["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError):
            raise _Passing("its answer is no chat completion", up=True) from None
        return said if isinstance(said, str) else ""

    def _remedy(self, status: int, with_key: bool) -> str:
        if status in (401, 403):
            return f"Expected a valid key in the environment variable {self.api_key_env}, which {'is set' if with_key else 'is not set'}."
        if status == 404:
            return "Expected the base address of an OpenAI-compatible API (https://host/v1) and a model that it serves."
        if 300 <= status < 400:
            return "It points elsewhere, which is not followed: give the final address."
        return "Expected an OpenAI-compatible chat endpoint that takes model, messages, temperature and max_tokens."


def _seconds(value: str | None) -> float | None:
    """Read Retry-After: seconds, or a date."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except (TypeError, ValueError):
        return None
