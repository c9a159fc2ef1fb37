"""A chat server as OpenAI's API describes it, on this machine, that behaves as a test tells it to."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Behaviour = Callable[["Handler"], None]


@dataclass
class ChatServer:
    """behaviours: one a request, the last for all others. requests: bodies that came; keys: Authorization headers."""

    url: str
    behaviours: list[Behaviour] = field(default_factory=list)
    models: list[dict[str, Any]] = field(default_factory=lambda: [{"id": "tiny"}])
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    hung_up: threading.Event = field(default_factory=threading.Event)


class Handler(BaseHTTPRequestHandler):
    """Answers as `state` says."""

    state: ChatServer

    def do_GET(self) -> None:
        self.state.keys.append(self.headers["Authorization"])
        self.reply(200, {"object": "list", "data": self.state.models})

    def do_POST(self) -> None:
        self.state.keys.append(self.headers["Authorization"])
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.state.requests.append({"path": self.path, **body})
        behaviours = self.state.behaviours
        (behaviours.pop(0) if len(behaviours) > 1 else behaviours[0])(self)

    def reply(self, status: int, value: object, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        self.wfile.write(json.dumps(value).encode())

    def start(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.end_headers()

    def event(self, text: str | None, finish: str | None = None) -> None:
        choice = {"index": 0, "delta": {} if text is None else {"content": text}, "finish_reason": finish}
        self.raw(f"data: {json.dumps({'choices': [choice]})}\n\n")

    def raw(self, text: str) -> None:
        self.wfile.write(text.encode())
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:
        pass


def saying(*pieces: str) -> Behaviour:
    """Streams these as OpenAI does."""

    def behave(handler: Handler) -> None:
        handler.start()
        handler.raw(": ping\n\n")
        handler.event("")
        for piece in pieces:
            handler.event(piece)
        handler.event(None, "stop")
        handler.raw('data: {"choices": [], "usage": {"total_tokens": 3}}\n\ndata: [DONE]\n\n')

    return behave


def failing(status: int, value: object, **headers: str) -> Behaviour:
    """An error as JSON."""
    return lambda handler: handler.reply(status, value, **headers)


def breaking_off(*pieces: str) -> Behaviour:
    """Streams these and closes the connection."""

    def behave(handler: Handler) -> None:
        handler.start()
        for piece in pieces:
            handler.event(piece)

    return behave


def resetting(handler: Handler) -> None:
    """Closes the connection before a status."""
    handler.connection.shutdown(socket.SHUT_RDWR)


def hanging(*pieces: str) -> Behaviour:
    """Streams these and then nothing but comments, until the client hangs up or the test is over."""

    def behave(handler: Handler) -> None:
        handler.start()
        for piece in pieces:
            handler.event(piece)
        try:
            while not handler.state.over.wait(0.01):
                handler.raw(": ping\n\n")
        except OSError:
            handler.state.hung_up.set()

    return behave


@contextmanager
def chat_server(*behaviours: Behaviour) -> Iterator[ChatServer]:
    """A server with these behaviours, on a free port, for as long as the context lasts."""
    handler = type("Bound", (Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    state = ChatServer(f"http://127.0.0.1:{server.server_address[1]}/v1", list(behaviours))
    handler.state = state  # type: ignore[attr-defined]
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.over.set()
        server.shutdown()
        server.server_close()
        thread.join()
