"""Any server that speaks OpenAI's chat API: Ollama, llama.cpp, vLLM, LM Studio, or a service on the internet."""

from __future__ import annotations

import http.client
import json
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from memarch.dialogue.errors import BackendDown, ContextExceeded, GeneratorError, ModelMissing
from memarch.dialogue.prompt import Message
from memarch.dialogue.records import Hit
from memarch.dialogue.tokens import estimate_tokens

from ._sse import answer_pieces, error_text, parse, piece_of
from ._watched import Watcher
from .base import Generator, Progress, StopSignal, check_request

API_KEY_VARIABLE = "MEMARCH_API_KEY"
DEFAULT_CONTEXT_TOKENS = 4096
# What is worth another try: too many requests, and a server or a proxy that is starting.
_BUSY = (429, 500, 502, 503, 504)
_MAX_REPLY_BYTES = 1 << 20
_TOO_LONG = ("context", "too long", "maximum length")


class OpenAIGenerator(Generator):
    """A model behind `url`, for example http://localhost:11434/v1; nothing is sent before the first question.

    model: None takes the server's only one. api_key: None reads the environment variable MEMARCH_API_KEY; it is sent to
    this server alone, redirects are not followed, and no message shows it. timeout_seconds: longest wait for a token,
    the first one too, in which the server reads the prompt. retries: only as long as no token came. context_tokens:
    None asks the server, and takes 4096 where it does not say. Proxies of the environment are not used.

    Raises: ValueError for what is no URL; on use GeneratorError (BackendDown, ModelMissing, ContextExceeded, ...).
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        *,
        api_key: str | None = None,
        context_tokens: int | None = None,
        timeout_seconds: float = 120.0,
        connect_seconds: float = 10.0,
        retries: int = 2,
        retry_seconds: float = 0.5,
    ) -> None:
        parts = urlsplit(url.strip())
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username is not None:
            shape = "http://HOST:PORT/v1, without a password or a query (a key goes into " + API_KEY_VARIABLE + ")"
            raise ValueError(f"expected a server's URL like {shape}; got {url.split('@')[-1][:120]!r}")
        path = parts.path.rstrip("/").removesuffix("/chat/completions")
        self._secure, self._host, self._port = parts.scheme == "https", parts.hostname, parts.port
        self._path = path or "/v1"
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        self.url = f"{parts.scheme}://{host}{'' if parts.port is None else f':{parts.port}'}{self._path}"
        self._model, self._context = model or parts.fragment or None, context_tokens
        self._key = os.environ.get(API_KEY_VARIABLE, "") if api_key is None else api_key
        self._timeout, self._connect_seconds = timeout_seconds, connect_seconds
        self._retries, self._retry_seconds = retries, retry_seconds
        self._watcher = Watcher(self.url, timeout_seconds)

    @property
    def name(self) -> str:
        """URL and model."""
        return f"{self.url}#{self._model}" if self._model else self.url

    @property
    def context_tokens(self) -> int:
        """As given, as the server said when it was asked (`load`), or 4096."""
        return self._context or DEFAULT_CONTEXT_TOKENS

    def count_tokens(self, text: str) -> int:
        """An estimate on the safe side: the server's tokenizer is not at hand."""
        return estimate_tokens(text)

    def count_prompt(self, messages: list[Message]) -> int:
        """An estimate on the safe side."""
        return 8 + sum(6 + estimate_tokens(message["content"]) for message in messages)

    def models(self) -> list[str]:
        """Names of the models that the server offers."""
        return [str(entry["id"]) for entry in self._entries()]

    def load(self, progress: Progress | None = None) -> None:
        """Ask the server for its models: is it there, has it this one, how much can it read?"""
        del progress
        entries = self._entries()
        names = [str(entry["id"]) for entry in entries]
        if self._model is None:
            if len(names) != 1:
                raise ModelMissing(f"{self.url} has {_listed(names)}: choose one, {self.url}#NAME")
            self._model = names[0]
        # Ollama also knows a model by its name without ":latest".
        mine = [entry for entry in entries if str(entry["id"]) in (self._model, f"{self._model}:latest")]
        if names and not mine:
            raise ModelMissing(f"{self.url} has no model {self._model!r}; it has {_listed(names)}")
        length = mine[0].get("max_model_len") if mine else None
        if self._context is None and isinstance(length, int) and length > 0:
            self._context = length

    def stream(
        self,
        messages: list[Message],
        *,
        hits: Sequence[Hit] = (),
        max_tokens: int = 512,
        temperature: float = 0.0,
        stop: StopSignal | None = None,
    ) -> Iterator[str]:
        """See `Generator`. A stop closes the connection, on which servers end their work."""
        del hits
        check_request(max_tokens, temperature)
        needed = self.count_prompt(messages)
        if self._context is not None and needed >= self._context:
            raise ContextExceeded(
                f"the prompt has about {needed} tokens, but {self.name} reads {self._context}: shorten it or its budget"
            )
        open_now: list[socket.socket] = []

        def make(over: threading.Event) -> Iterator[str]:
            if self._model is None:
                self.load()
            body = {"model": self._model, "messages": messages, "max_tokens": max_tokens, "temperature": temperature}
            yield from self._answer({**body, "stream": True}, open_now, over)

        def abandon() -> None:
            for opened in open_now:
                with suppress(OSError):  # it may be closed already
                    # Wakes a thread that reads from it, which closing does not; TLS has no say in that.
                    socket.socket.shutdown(opened, socket.SHUT_RDWR)

        return self._watcher.pieces(make, stop, abandon=abandon)

    def _answer(self, body: dict[str, Any], open_now: list[socket.socket], over: threading.Event) -> Iterator[str]:
        has_begun = False
        for attempt in range(self._retries + 1):
            try:
                with self._requested("POST", "/chat/completions", body, open_now) as response:
                    for piece in self._pieces(response):
                        has_begun = True
                        yield piece
                return
            except _Busy as busy:
                if has_begun or attempt == self._retries:
                    raise busy.error from busy.__cause__
                if over.wait(max(busy.wait_seconds, self._retry_seconds * 2**attempt)):
                    return

    def _pieces(self, response: http.client.HTTPResponse) -> Iterator[str]:
        try:
            if "event-stream" in (response.getheader("Content-Type") or ""):
                yield from answer_pieces(response, self.url)
            else:
                # A server that cannot stream sends all at once.
                reply = parse(response.read(_MAX_REPLY_BYTES).decode("utf-8", "replace"), self.url)
                yield piece_of(reply, self.url, key="message")[0]
        except BackendDown as error:
            raise _Busy(error) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            # ValueError: the connection was closed under the reader.
            raise _Busy(BackendDown(f"{self.url} broke off in the middle of the answer ({_short(error)})")) from error

    def _entries(self) -> list[dict[str, Any]]:
        try:
            with self._requested("GET", "/models", None, []) as response:
                reply = parse(response.read(_MAX_REPLY_BYTES).decode("utf-8", "replace"), self.url)
        except _Busy as busy:
            raise busy.error from busy.__cause__
        except (OSError, http.client.HTTPException) as error:
            raise BackendDown(f"{self.url} broke off ({_short(error)})") from error
        data = reply.get("data")
        return [entry for entry in data if isinstance(entry, dict) and "id" in entry] if isinstance(data, list) else []

    @contextmanager
    def _requested(
        self, method: str, path: str, body: dict[str, Any] | None, open_now: list[socket.socket]
    ) -> Iterator[http.client.HTTPResponse]:
        """The response once it is known to be good; `_Busy` where another try may help."""
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream, application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        with closing(kind(self._host, self._port, timeout=self._connect_seconds)) as connection:
            try:
                connection.connect()
                open_now[:] = [connection.sock]
                # Longer than whoever watches waits: that error says more.
                connection.sock.settimeout(2 * self._timeout)
                content = None if body is None else json.dumps(body).encode("utf-8", "replace")
                connection.request(method, self._path + path, body=content, headers=headers)
                response = connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                what = f"cannot reach the model's server {self.url} ({_short(error)})"
                raise _Busy(BackendDown(f"{what}: is it running, is the URL right?")) from error
            with response:
                if response.status != 200:
                    raise self._refused(response)
                yield response

    def _refused(self, response: http.client.HTTPResponse) -> Exception:
        """The error that belongs to a status other than 200."""
        raw = response.read(_MAX_REPLY_BYTES).decode("utf-8", "replace")
        try:
            said = error_text(json.loads(raw))
        except ValueError:
            said = " ".join(raw.split())[:120]
        if self._key:
            said = said.replace(self._key, "***")
        status, what = response.status, f"{self.url} answered {response.status} ({said or response.reason})"
        if status in (401, 403):
            return GeneratorError(f"{what}: it wants a key, or another one, in {API_KEY_VARIABLE}")
        if status == 404:
            return ModelMissing(f"{what}: is {self._model!r} a model that it has, and the URL right?")
        if 300 <= status < 400:
            return GeneratorError(f"{what}: redirects are not followed, give the URL that it leads to")
        if status in (400, 413, 422) and any(word in said.lower() for word in _TOO_LONG):
            return ContextExceeded(f"{what}: shorten the prompt or its budget")
        if status in _BUSY:
            wait = response.getheader("Retry-After") or ""
            return _Busy(BackendDown(f"{what}: try again later"), float(wait) if wait.isdigit() else 0.0)
        return GeneratorError(what)


class _Busy(Exception):
    """Another try may help; the error to raise when there is none left."""

    def __init__(self, error: GeneratorError, wait_seconds: float = 0.0) -> None:
        super().__init__(str(error))
        self.error, self.wait_seconds = error, min(wait_seconds, 30.0)


def _listed(names: Sequence[str]) -> str:
    return (", ".join(names[:8]) + (", ..." if len(names) > 8 else "")) if names else "no models"


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")
