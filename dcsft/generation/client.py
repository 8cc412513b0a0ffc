"""A patient client of an OpenAI-compatible server: many requests at once, each retried while that may help.

A fault that may pass (no connection, a timeout, 429, 5xx) is waited out; anything else ends in one line that says what
to do. vLLM, SGLang, `transformers serve` and hosted services speak this protocol.
"""

import asyncio
import base64
import itertools
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from io import BytesIO
from json import JSONDecodeError
from typing import Any, TypeVar

import httpx2

from dcsft.records import Message, Picture
from dcsft.seeding import stream

log = logging.getLogger(__name__)

T, R = TypeVar("T"), TypeVar("R")

_AWAY = frozenset({408, 425, 429, 502, 503, 504})
"""Answers of a server that is starting, overloaded, or behind a gateway that does not find it."""
_SAID_AFTER_S = 5.0
"""A shorter absence is not worth a line."""
_REFUSED = frozenset({400, 413, 422})
"""Answers to a request that is itself at fault."""
_LONGEST_PAUSE_S = 30.0
_SHOWN = 300


def chat_of(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """A conversation as the protocol has it; pictures travel as PNG, which loses nothing."""

    def part(content: str | Picture) -> dict[str, Any]:
        if isinstance(content, str):
            return {"type": "text", "text": content}
        buffer = BytesIO()
        content.open().save(buffer, "PNG")
        encoded = base64.b64encode(buffer.getvalue()).decode()
        return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded}"}}

    def content_of(message: Message) -> str | list[dict[str, Any]]:
        # A lone text goes as a string, which every server takes in every role.
        only = message.content[0] if len(message.content) == 1 else None
        return only if isinstance(only, str) else [part(content) for content in message.content]

    return [{"role": message.role, "content": content_of(message)} for message in messages]


class _MayPass(Exception):
    """A fault that may pass. `away`: the server is not there at the moment; else it failed on this request."""

    def __init__(self, reason: str, away: bool, retry_after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.away, self.retry_after_s = away, retry_after_s


class Refused(ValueError):
    """The server does not take this one request; it may take others."""


class Client:
    """Asks one model of one server.

    Args:
        url: up to and with /v1.
        model: its name at the server.
        api_key_env: the environment variable that holds the key; None sends none.
        concurrency: requests under way at once.
        timeout_s: one answer may take that long.
        num_retries: how often a request is asked again that the server fails on (500, timeout, no answer in it).
        patience_s: how long a server may be away (no connection, 429, 502-504) before the run ends.
        backoff_s: the first pause before asking again; it doubles, up to 30 s, and is drawn from its upper half.
        extra_body: goes into every request as it is.
        start: the command that starts the server, as far as we can know it; shown where it does not answer.

    Raises:
        ValueError: `api_key_env` is not set.
    """

    def __init__(
        self,
        url: str,
        model: str,
        api_key_env: str | None,
        concurrency: int,
        timeout_s: float,
        num_retries: int,
        patience_s: float,
        backoff_s: float,
        extra_body: Mapping[str, Any],
        start: str | None,
    ) -> None:
        if api_key_env is not None and not os.environ.get(api_key_env):
            raise ValueError(
                f"engine.api_key_env must name an environment variable that holds the key, got {api_key_env!r}, which "
                f"is not set; export {api_key_env}=KEY"
            )
        self.url, self.model, self.extra_body = url.rstrip("/"), model, dict(extra_body)
        self.headers = {"Authorization": f"Bearer {os.environ[api_key_env]}"} if api_key_env else {}
        self.concurrency, self.timeout_s, self.num_retries = concurrency, timeout_s, num_retries
        self.patience_s, self.backoff_s, self.start = patience_s, backoff_s, start
        self._answered_at = 0.0
        self._waiting = False

    def each(self, work: Callable[[T], Awaitable[R]], items: Sequence[T]) -> list[R]:
        """`await work(item)` for each item, `concurrency` of them at a time; the results in order.

        `work` calls `ask`. The first error ends all of them.
        """
        return asyncio.run(self._each(work, items))

    async def _each(self, work: Callable[[T], Awaitable[R]], items: Sequence[T]) -> list[R]:
        results: dict[int, R] = {}
        todo = iter(enumerate(items))

        async def worker() -> None:
            for place, item in todo:
                results[place] = await work(item)

        limits = httpx2.Limits(max_connections=self.concurrency, max_keepalive_connections=self.concurrency)
        async with httpx2.AsyncClient(headers=self.headers, timeout=self.timeout_s, limits=limits) as self._http:
            await asyncio.gather(*(worker() for _ in range(min(self.concurrency, len(items)))))
        return [results[place] for place in range(len(items))]

    async def ask(self, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The server's answer to one chat request; it has one choice at least. Inside `each` only.

        Args:
            name: of the question, for messages and for the stream that draws the pauses.
            body: without the model's name.

        Raises:
            Refused: the server does not take this request (400, 413, 422).
            ValueError: it takes none (401, 403, 404 and others), or patience is over.
        """
        chance, began, failures = stream("retry", name), None, 0
        for attempt in itertools.count():
            try:
                answer = await self._post(name, body)
            except _MayPass as fault:
                now = time.monotonic()
                began = now if began is None else began
                waited = now - max(began, self._answered_at)
                failures += not fault.away
                if failures > self.num_retries:
                    raise ValueError(
                        f"the server must answer {name}, got {fault} {failures} times from {self.url}; see the "
                        "server's log, or raise engine.timeout_s or engine.num_retries; the same command goes on"
                    ) from None
                pause = min(_LONGEST_PAUSE_S, self.backoff_s * 2**attempt) * chance.uniform(0.5, 1.0)
                pause = max(pause, fault.retry_after_s)
                if fault.away and waited + pause > self.patience_s:
                    raise ValueError(self._away(fault, waited)) from None
                if fault.away and not self._waiting and waited + pause > _SAID_AFTER_S:
                    self._waiting = True  # said once for each time that it goes away
                    start = self._how_to_start()
                    log.warning("waiting for %s (%s), %g s at most%s", self.url, fault, self.patience_s, start)
            else:
                self._answered_at = time.monotonic()
                if self._waiting:
                    log.warning("%s answers again", self.url)
                self._waiting = False
                return answer
            await asyncio.sleep(pause)
        raise AssertionError  # the count does not end

    async def _post(self, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """One attempt.

        Raises:
            _MayPass: it may be asked again.
            ValueError: it may not.
        """
        try:
            response = await self._http.post(
                f"{self.url}/chat/completions", json={"model": self.model, **body, **self.extra_body}
            )
        except (httpx2.ConnectTimeout, httpx2.PoolTimeout) as error:
            raise _MayPass(_reason(error), away=True) from None
        except httpx2.TimeoutException:
            raise _MayPass(f"no answer within {self.timeout_s:g} s", away=False) from None
        except httpx2.TransportError as error:
            raise _MayPass(_reason(error), away=True) from None
        status = response.status_code
        if status in _AWAY:
            raise _MayPass(f"status {status}", away=True, retry_after_s=_retry_after(response))
        if status >= 500:
            raise _MayPass(f"status {status} ({_words(response)})", away=False)
        if status != 200:
            raise (Refused if status in _REFUSED else ValueError)(await self._refusal(name, body, response))
        try:
            answer = response.json()
            usable = all(isinstance(choice["message"], dict) for choice in answer["choices"])
        except (JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
            usable = False
        if not usable or not answer["choices"]:
            raise _MayPass(f"an answer without choices ({response.text[:_SHOWN]!r})", away=False)
        return answer

    # --- what people read ---------------------------------------------------------------------------------------

    def _how_to_start(self) -> str:
        return f"; start it with: {self.start}" if self.start else ""

    def _away(self, fault: _MayPass, waited: float) -> str:
        return (
            f"engine.url must be a server that answers, got {fault} for {waited:.0f} s from {self.url}"
            f"{self._how_to_start() or '; start it'}, or raise engine.patience_s; the same command goes on from here"
        )

    async def _refusal(self, name: str, body: Mapping[str, Any], response: httpx2.Response) -> str:
        """One line for an answer that will not change."""
        status, said = response.status_code, _words(response)
        if status in (401, 403):
            return (
                f"engine.api_key_env must name a variable with a key that {self.url} accepts, got status {status} "
                f"({said}); export it and set engine.api_key_env=NAME"
            )
        if status == 404:
            models = await self.models()
            next_step = f"it has {', '.join(models)}" if models else "check that engine.url ends with /v1"
            return f"engine.model must be a model of {self.url}, got {self.model!r}, status 404 ({said}); {next_step}"
        hint = "compare the server's documentation with engine.extensions and engine.extra_body"
        if any(part["type"] == "image_url" for message in body["messages"] for part in _parts(message)):
            hint = f"it must take pictures, and prompts of this length; {hint}"
        return f"the server must take the request of {name}, got status {status} from {self.url} ({said}); {hint}"

    async def models(self) -> dict[str, str]:
        """The models that the server says it has, and where it has each from ("" where it does not say).

        Inside `each` only.
        """
        try:
            response = await self._http.get(f"{self.url}/models")
            return {str(model["id"]): str(model.get("root") or "") for model in response.json()["data"]}
        except (httpx2.HTTPError, ValueError, KeyError, TypeError, AttributeError):
            return {}


def _parts(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    return message["content"] if isinstance(message["content"], list) else []


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__} {error}".split())


def _words(response: httpx2.Response) -> str:
    """What the server says of an error, in one line."""
    return " ".join(response.text.split())[:_SHOWN]


def _retry_after(response: httpx2.Response) -> float:
    """Seconds that the server asks us to wait (RFC 9110, section 10.2.3: a number or a date); 0 where it does not."""
    value = response.headers.get("retry-after", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0
