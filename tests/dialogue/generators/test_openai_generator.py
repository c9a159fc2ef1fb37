"""A generator behind a URL, against a real server on this machine: good, slow, broken, refusing and absent."""

import logging
import socket
import threading

import pytest

from memarch.dialogue.errors import (
    BackendDown,
    ContextExceeded,
    GenerationTimeout,
    GeneratorError,
    ModelMissing,
)
from memarch.dialogue.generators.openai_generator import API_KEY_VARIABLE, OpenAIGenerator

from ._chat_server import breaking_off, chat_server, failing, hanging, resetting, saying

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say ž 👩‍👧."}]


def generator(url: str, model: str | None = "tiny", **options: float | str | int) -> OpenAIGenerator:
    return OpenAIGenerator(url, model, **{"retry_seconds": 0.01, "api_key": "", **options})  # type: ignore[arg-type]


def test_pieces_come_as_they_were_sent_and_the_request_is_what_the_api_wants() -> None:
    with chat_server(saying("ž ", "👩‍👧", "\n", "end")) as server:
        pieces = list(generator(server.url).stream(MESSAGES, max_tokens=7, temperature=0.25))
        assert pieces == ["ž ", "👩‍👧", "\n", "end"]
        assert server.requests == [
            {
                "path": "/v1/chat/completions",
                "model": "tiny",
                "messages": MESSAGES,
                "max_tokens": 7,
                "temperature": 0.25,
                "stream": True,
            }
        ]


def test_a_server_that_does_not_stream_answers_at_once() -> None:
    reply = {"choices": [{"message": {"role": "assistant", "content": "All of it."}, "finish_reason": "stop"}]}
    with chat_server(failing(200, reply)) as server:
        assert list(generator(server.url).stream(MESSAGES)) == ["All of it."]


def test_the_only_model_is_taken_and_more_must_be_chosen_from() -> None:
    with chat_server(saying("hi")) as server:
        server.models = [{"id": "only", "max_model_len": 77}]
        alone = generator(server.url, None)
        assert alone.context_tokens == 4096 and list(alone.stream(MESSAGES)) == ["hi"]
        assert server.requests[0]["model"] == "only" and alone.context_tokens == 77
        assert alone.name == f"{server.url}#only" and alone.models() == ["only"]
        server.models = [{"id": "first:latest"}, {"id": "second"}]
        with pytest.raises(ModelMissing, match="first:latest, second: choose one"):
            list(generator(server.url, None).stream(MESSAGES))
        with pytest.raises(ModelMissing, match="no model 'third'; it has first:latest, second"):
            generator(server.url, "third").load()
        generator(f"{server.url}#first", None).load()


@pytest.mark.parametrize("trouble", [failing(503, {"error": "starting"}), failing(429, {}, Retry_After="0"), resetting])
def test_trouble_before_the_first_token_is_tried_again(trouble) -> None:
    with chat_server(trouble, trouble, saying("at last")) as server:
        assert list(generator(server.url).stream(MESSAGES)) == ["at last"]
        assert len(server.requests) == 3
    with chat_server(trouble) as server:
        with pytest.raises(BackendDown):
            list(generator(server.url, retries=1).stream(MESSAGES))
        assert len(server.requests) == 2


def test_trouble_after_the_first_token_is_not_tried_again_and_keeps_what_came() -> None:
    with chat_server(breaking_off("half ", "an")) as server:
        pieces = []
        with pytest.raises(BackendDown, match="broke off in the middle"):
            for piece in generator(server.url).stream(MESSAGES):
                pieces.append(piece)
        assert pieces == ["half ", "an"] and len(server.requests) == 1


def test_silence_ends_in_a_time_out_although_the_server_keeps_the_line_open() -> None:
    with chat_server(hanging("one")) as server:
        stream = generator(server.url, timeout_seconds=0.3).stream(MESSAGES)
        assert next(stream) == "one"
        with pytest.raises(GenerationTimeout, match="no token for 0.3 s"):
            next(stream)
        assert server.hung_up.wait(5)


@pytest.mark.parametrize("way", ["stop", "close"])
def test_stopping_hangs_up_and_the_next_answer_comes(way: str) -> None:
    stop = threading.Event()
    with chat_server(hanging("one"), saying("two")) as server:
        model = generator(server.url, timeout_seconds=60)
        stream = model.stream(MESSAGES, stop=stop)
        assert next(stream) == "one"
        if way == "stop":
            stop.set()
            assert list(stream) == []
        else:
            stream.close()  # type: ignore[attr-defined]
        assert server.hung_up.wait(5)
        assert list(model.stream(MESSAGES)) == ["two"]


def test_no_server_says_so_with_the_url() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        for use in (lambda m: list(m.stream(MESSAGES)), lambda m: m.load()):
            with pytest.raises(BackendDown, match=rf"cannot reach the model's server {url} .*is it running"):
                use(generator(url, retries=0))


@pytest.mark.parametrize(
    ("reply", "kind", "says"),
    [
        (failing(404, {"error": {"message": "model 'tiny' not found"}}), ModelMissing, "model 'tiny' not found"),
        (failing(401, {"error": "who are you?"}), GeneratorError, f"another one, in {API_KEY_VARIABLE}"),
        (failing(400, {"error": {"message": "maximum context length is 9"}}), ContextExceeded, "shorten the prompt"),
        (failing(400, {"detail": "no such option"}), GeneratorError, "no such option"),
        (failing(307, {}, Location="http://127.0.0.1:1/"), GeneratorError, "redirects are not followed"),
        (failing(200, {"error": {"message": "out of slots"}}), GeneratorError, "reports: out of slots"),
        (lambda h: (h.start(), h.raw("data: <html>\n\n")), GeneratorError, "should send JSON objects .*<html>"),
        (lambda h: (h.start(), h.raw('data: {"choices": [3]}\n\n')), GeneratorError, "should send chat completions"),
        (lambda h: (h.start(), h.raw('data: {"error": "lost"}\n\n')), GeneratorError, "reports: lost"),
        (lambda h: (h.start(), h.raw("x" * (2 << 20))), GeneratorError, "line of more than"),
    ],
)  # fmt: skip
def test_refusals_and_nonsense_are_told_apart(reply, kind, says) -> None:
    with chat_server(reply) as server:
        with pytest.raises(kind, match=says) as caught:
            list(generator(server.url, retries=0).stream(MESSAGES))
        assert type(caught.value) is kind


def test_a_key_goes_to_the_server_and_nowhere_else(caplog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(API_KEY_VARIABLE, "sk-secret")
    caplog.set_level(logging.DEBUG)
    with chat_server(failing(401, {"error": "bad key sk-secret"})) as server:
        model = OpenAIGenerator(server.url, "tiny", retries=0)
        with pytest.raises(GeneratorError) as caught:
            list(model.stream(MESSAGES))
        assert server.keys == ["Bearer sk-secret"] and "bad key ***" in str(caught.value)
        assert "sk-secret" not in f"{caught.value}{caplog.text}{model.name}{model!r}"
        list(generator(server.url, api_key="").models())
        assert server.keys[1] is None


def test_a_prompt_that_cannot_fit_is_not_sent() -> None:
    with chat_server(saying("no")) as server:
        model = generator(server.url, context_tokens=4000)
        with pytest.raises(ContextExceeded, match="reads 4000: shorten"):
            list(model.stream([{"role": "user", "content": "word " * 10_000}]))
        assert server.requests == []


@pytest.mark.parametrize(
    "url", ["localhost:11434", "ftp://host/v1", "http://", "http://me:pw@host/v1", "http://h/?k=1"]
)
def test_what_is_no_url_is_refused_without_showing_a_password(url: str) -> None:
    with pytest.raises(ValueError, match="expected a server's URL") as caught:
        OpenAIGenerator(url)
    assert "pw" not in str(caught.value)


def test_urls_are_completed() -> None:
    assert OpenAIGenerator("http://host:1/").url == "http://host:1/v1"
    assert OpenAIGenerator("https://host/openai/v1/chat/completions#m").name == "https://host/openai/v1#m"
    assert OpenAIGenerator("http://[::1]:8080").url == "http://[::1]:8080/v1"
