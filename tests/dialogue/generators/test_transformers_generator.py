"""Models of transformers in this process, on one of two layers: what it says, stopping, hanging, running out."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from memarch.dialogue.errors import (
    ContextExceeded,
    GenerationTimeout,
    GeneratorError,
    ModelMissing,
    ModelOutOfMemory,
)
from memarch.dialogue.generators._decoding import TextPieces, next_token
from memarch.dialogue.generators.transformers_generator import TransformersGenerator

from ._tiny_model import CONTEXT, save_tiny_model

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello, ž 👩‍👧!"}]
LONG = [{"role": "user", "content": "one two " * 70}]


def generator(folder: Path, **options) -> TransformersGenerator:
    return TransformersGenerator(folder, **{"dtype": "float32", "repetition_penalty": 1.0, "num_threads": 1, **options})


def expected(folder: Path, messages: list[dict[str, str]], max_tokens: int) -> str:
    """The same by transformers' own loop."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")
    made = model.generate(**ids, max_new_tokens=max_tokens, do_sample=False, pad_token_id=0)
    return tokenizer.decode(made[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize("messages", [MESSAGES, LONG], ids=["short", "in steps"])
def test_greedy_answers_are_those_of_transformers(tiny_model: Path, messages: list[dict[str, str]]) -> None:
    made = list(generator(tiny_model).stream(messages, max_tokens=40))
    assert len(made) > 2 and "".join(made) == expected(tiny_model, messages, 40)


def test_what_a_prompt_shares_with_the_last_one_is_not_read_again(tiny_model: Path) -> None:
    model = generator(tiny_model)
    read: list[int] = []
    first = "".join(model.stream(LONG, max_tokens=5))
    network = model._model()
    network.register_forward_pre_hook(
        lambda _, __, options: read.append(options["input_ids"].shape[1]), with_kwargs=True
    )
    for messages in (
        [*LONG, {"role": "assistant", "content": first}, {"role": "user", "content": "And?"}],
        LONG,  # shorter than what is kept
        [{"role": "user", "content": "one two threе"}],
    ):
        read.clear()
        assert "".join(model.stream(messages, max_tokens=12)) == expected(tiny_model, messages, 12)
        prompt = model.count_prompt(messages)
        assert sum(read) < min(prompt, 80)


def test_tokens_of_texts_and_prompts_are_counted(tiny_model: Path) -> None:
    model = generator(tiny_model)
    assert model.context_tokens == CONTEXT and model.name == str(tiny_model)
    assert model.count_tokens("až") == 3
    assert model.count_prompt([{"role": "user", "content": "až"}]) == len("<user\naž<\n<assistant\n") + 1


def test_an_answer_ends_where_the_context_does(tiny_model: Path) -> None:
    model = generator(tiny_model)
    filler = CONTEXT - 4 - model.count_prompt([{"role": "user", "content": ""}])
    messages = [{"role": "user", "content": "x" * filler}]
    assert model.count_prompt(messages) == CONTEXT - 4
    assert "".join(model.stream(messages, max_tokens=50)) == expected(tiny_model, messages, 4)


def test_a_prompt_of_ten_thousand_tokens_is_refused_before_anything_is_computed(tiny_model: Path) -> None:
    model = generator(tiny_model)
    with pytest.raises(ContextExceeded, match=r"the prompt has 100\d\d tokens, but .* reads at most 700 .*shorten it"):
        list(model.stream([{"role": "user", "content": "x" * 10_000}]))
    assert model._network is None


def test_sampling_follows_its_seed_and_goes_on(tiny_model: Path) -> None:
    def three(seed: int) -> list[str]:
        model = generator(tiny_model, seed=seed)
        return ["".join(model.stream(MESSAGES, max_tokens=12, temperature=2.0)) for _ in range(3)]

    once = three(5)
    assert once == three(5) and once != three(6) and len(set(once)) == 3


def test_next_token_by_hand() -> None:
    rng = torch.Generator().manual_seed(0)
    logits = torch.tensor([1.0, 4.0, 3.9, -1.0])

    def pick(**options) -> int:
        return next_token(
            logits, **{"temperature": 0.0, "top_p": 1.0, "penalty": 1.0, "made": [], "rng": rng, **options}
        )

    assert pick() == 1 and pick(penalty=1.1, made=[1]) == 2
    assert pick(penalty=1.1, made=[1, 2]) == 1
    drawn = {pick(temperature=1.0, top_p=0.6) for _ in range(60)}
    assert drawn == {1, 2} and {pick(temperature=1.0, top_p=0.5) for _ in range(20)} == {1}


def test_characters_of_several_tokens_come_whole() -> None:
    data = "ž👩‍👧.".encode()
    pieces = TextPieces(lambda ids: bytes(ids).decode("utf-8", "replace"))
    shown = [pieces.add(byte) for byte in data]
    assert [piece for piece in shown if piece] == list("ž👩‍👧.") and pieces.rest() == ""
    cut = TextPieces(lambda ids: bytes(ids).decode("utf-8", "replace"))
    assert [cut.add(byte) for byte in b"a\xf0\x9f"] == ["a", "", ""] and cut.rest() == "\ufffd"


def test_a_stop_ends_the_answer_between_two_tokens(tiny_model: Path) -> None:
    model, stop = generator(tiny_model), threading.Event()
    before, come = expected(tiny_model, MESSAGES, 100), []
    for piece in model.stream(MESSAGES, max_tokens=100, stop=stop):
        come.append(piece)
        if len(come) == 3:
            stop.set()
    assert len(come) == 3 and before.startswith("".join(come)) and before != "".join(come)
    assert "".join(model.stream(MESSAGES, max_tokens=9)) == expected(tiny_model, MESSAGES, 9)


@pytest.fixture
def hanging(tiny_model: Path) -> Iterator[tuple[TransformersGenerator, threading.Event]]:
    """A model whose second step hangs until the event."""
    model, go_on, steps = generator(tiny_model, timeout_seconds=0.4), threading.Event(), []

    def wait(*_: object) -> None:
        steps.append(1)
        if len(steps) == 2:
            assert go_on.wait(30)

    model._model().register_forward_pre_hook(wait)
    yield model, go_on
    go_on.set()


def test_a_hanging_model_ends_in_a_time_out_and_is_not_asked_again_before_it_is_back(hanging) -> None:
    model, go_on = hanging
    stream = model.stream(MESSAGES, max_tokens=9)
    assert next(stream)
    with pytest.raises(GenerationTimeout, match="gave no token for 0.4 s"):
        next(stream)
    with pytest.raises(GenerationTimeout, match="still hangs in an earlier answer"):
        list(model.stream(MESSAGES))
    go_on.set()
    assert list(model.stream(MESSAGES, max_tokens=3))


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (MemoryError(), ModelOutOfMemory, "do not fit into memory .*lower the budget"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), ModelOutOfMemory, "can't allocate"),
        (torch.OutOfMemoryError("CUDA out of memory."), ModelOutOfMemory, "smaller model"),
        (RuntimeError("size mismatch"), GeneratorError, "failed: RuntimeError: size mismatch"),
    ],
    ids=["python", "cpu", "gpu", "other"],
)
def test_running_out_of_memory_is_told_from_other_failures(tiny_model: Path, error, kind, says) -> None:
    model = generator(tiny_model)

    def fail(*_: object) -> None:
        raise error

    hook = model._model().register_forward_pre_hook(fail)
    with pytest.raises(kind, match=says) as caught:
        list(model.stream(MESSAGES))
    assert type(caught.value) is kind
    hook.remove()
    assert list(model.stream(MESSAGES, max_tokens=3))


def test_missing_models_say_what_was_expected(tmp_path: Path, tiny_model: Path) -> None:
    with pytest.raises(ModelMissing, match="Expected a folder of a causal language model"):
        list(generator(tmp_path / "nowhere").stream(MESSAGES))
    (tmp_path / "config.json").write_text('{"model_type": "no such"}')
    with pytest.raises(ModelMissing, match="cannot load"):
        generator(tmp_path).load()
    pickled = save_tiny_model(tmp_path / "pickled")
    torch.save({}, pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    with pytest.raises(ModelMissing, match="cannot load"):
        generator(pickled).load()


def test_models_without_a_template_or_a_system_role(tmp_path: Path) -> None:
    bare = generator(save_tiny_model(tmp_path / "bare", template=None))
    assert bare.count_prompt(MESSAGES) == len("System: Be brief.\n\nUser: Hello, ž 👩‍👧!\n\nAssistant:".encode())
    assert list(bare.stream(MESSAGES, max_tokens=3))
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    rest = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{% endfor %}"
    folded = generator(save_tiny_model(tmp_path / "folded", template=refusing + rest))
    assert folded.count_prompt(MESSAGES) == len("user: Be brief.\n\nHello, ž 👩‍👧!".encode())


@pytest.mark.parametrize("options", [{"dtype": "int8"}, {"num_threads": 0}, {"top_p": 0.0}, {"timeout_seconds": 0}])
def test_bad_options_are_refused(options) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        TransformersGenerator("x", **options)


@pytest.mark.parametrize("options", [{"max_tokens": 0}, {"temperature": -1.0}])
def test_bad_requests_are_refused(tiny_model: Path, options) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        generator(tiny_model).stream(MESSAGES, **options)
