"""Any causal language model of transformers, on this machine, from a folder or the local Hugging Face cache."""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from memarch.dialogue._quiet import no_bar, quiet
from memarch.dialogue.errors import ContextExceeded, GeneratorError, ModelMissing, ModelOutOfMemory
from memarch.dialogue.prompt import Message
from memarch.dialogue.records import Hit

from ._decoding import PromptCache, TextPieces, next_token
from ._watched import Watcher
from .base import Generator, Progress, StopSignal, check_request

if TYPE_CHECKING:
    import torch

# Tokens of a prompt that are read at once: between two such steps an answer can be stopped.
_STEP_TOKENS = 256
_MANY_TOKENS = 1 << 30
_ROLE_NAMES = {"system": "System", "user": "User", "assistant": "Assistant"}


class TransformersGenerator(Generator):
    """A causal language model that runs in this process; tokenizer and model are loaded when they are first needed.

    model: a folder, or a name whose files are in the local Hugging Face cache: nothing is downloaded, no pickle is
    read, no code of a model is run. name: how to call it; None takes `model`. device: None takes a GPU if there is one.
    dtype: "auto" computes in bfloat16 where the processor has instructions for it, else in float32. num_threads: of
    torch on a CPU; None leaves one core to the rest of the machine. top_p, repetition_penalty: for sampling at a
    temperature above 0, and for tokens of the answer itself. timeout_seconds: longest wait for a token, the first one
    too, for which the prompt is read. seed: of sampling; asking again goes on in the same random sequence.

    Answers come one at a time; what a prompt has in common with the last one is not read again.
    Raises: ValueError for a bad argument; on use ModelMissing, ModelOutOfMemory, GenerationTimeout, ContextExceeded.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        name: str | None = None,
        device: str | None = None,
        dtype: Literal["auto", "float32", "bfloat16"] = "auto",
        num_threads: int | None = None,
        top_p: float = 0.9,
        repetition_penalty: float = 1.1,
        timeout_seconds: float = 120.0,
        seed: int = 0,
    ) -> None:
        if dtype not in ("auto", "float32", "bfloat16"):
            raise ValueError(f'dtype must be "auto", "float32" or "bfloat16"; got {dtype!r}')
        if num_threads is not None and num_threads < 1:
            raise ValueError(f"num_threads must be at least 1; got {num_threads}")
        if not 0 < top_p <= 1 or repetition_penalty < 1:
            raise ValueError(f"top_p must be in (0, 1], repetition_penalty >= 1; got {top_p}, {repetition_penalty}")
        self.model = str(Path(model).expanduser() if str(model).startswith("~") else model)
        self._name = name or self.model
        self._device, self._dtype, self._num_threads = device, dtype, num_threads
        self._top_p, self._penalty, self._seed = top_p, repetition_penalty, seed
        self._lock = threading.RLock()
        self._tokenizer: Any = None
        self._network: Any = None
        self._rng: torch.Generator | None = None
        self._context: int | None = None
        self._seen = PromptCache()
        self._watcher = Watcher(self._name, timeout_seconds)

    @property
    def name(self) -> str:
        """As given, else the model's."""
        return self._name

    @property
    def context_tokens(self) -> int:
        """Positions that the model was made for; the tokenizer's limit if the model names none."""
        if self._context is None:
            config = self._load_part("AutoConfig")
            text = config.get_text_config() if hasattr(config, "get_text_config") else config
            limit = getattr(text, "max_position_embeddings", None) or self._tokens().model_max_length
            self._context = min(int(limit), _MANY_TOKENS)
        return self._context

    def count_tokens(self, text: str) -> int:
        """Tokens of a text by itself."""
        return len(self._tokens()(text, add_special_tokens=False)["input_ids"])

    def count_prompt(self, messages: list[Message]) -> int:
        """Tokens of all messages with the model's chat template and the opening of the answer."""
        return len(self.prompt_ids(messages))

    def prompt_ids(self, messages: list[Message]) -> list[int]:
        """Tokens that the model reads; a model without a chat template gets lines `User: ...`."""
        tokenizer = self._tokens()
        if not tokenizer.chat_template:
            lines = [f"{_ROLE_NAMES[message['role']]}: {message['content']}" for message in messages]
            return list(tokenizer("\n\n".join([*lines, "Assistant:"]))["input_ids"])
        from jinja2 import TemplateError

        try:
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except TemplateError:
            # Some templates know no system role.
            text = tokenizer.apply_chat_template(_without_system(messages), tokenize=False, add_generation_prompt=True)
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    def load(self, progress: Progress | None = None) -> None:
        """Load tokenizer and model."""
        if progress is not None and self._network is None:
            progress(f"load {self.name}", 0, 1)
        self._tokens()
        self._model()
        if progress is not None:
            progress(f"load {self.name}", 1, 1)

    def stream(
        self,
        messages: list[Message],
        *,
        hits: Sequence[Hit] = (),
        max_tokens: int = 512,
        temperature: float = 0.0,
        stop: StopSignal | None = None,
    ) -> Iterator[str]:
        """See `Generator`. An answer is at most what the context leaves, however many tokens are asked for."""
        del hits
        check_request(max_tokens, temperature)
        prompt = self.prompt_ids(messages)
        room = self.context_tokens - len(prompt)
        if room < 1:
            raise ContextExceeded(
                f"the prompt has {len(prompt)} tokens, but {self.name} reads at most {self.context_tokens} with the "
                "answer: shorten it or its budget"
            )

        def make(over: threading.Event) -> Iterator[str]:
            return self._answer(prompt, min(max_tokens, room), temperature, over)

        return self._watcher.pieces(make, stop)

    def _answer(self, prompt: list[int], max_tokens: int, temperature: float, over: threading.Event) -> Iterator[str]:
        import torch

        model, tokenizer = self._model(), self._tokens()
        if self._rng is None:
            self._rng = torch.Generator().manual_seed(self._seed)
        if self._runs_on_cpu():
            torch.set_num_threads(self._num_threads or max(1, (os.cpu_count() or 2) - 1))
        ends = _end_tokens(model, tokenizer)
        text = TextPieces(lambda ids: tokenizer.decode(ids, skip_special_tokens=True))
        made: list[int] = []
        cache, read = self._seen.begin(prompt, self._new_cache)
        ids = list(prompt)
        try:
            with torch.inference_mode():
                while True:
                    # The prompt in steps, then one token at a time.
                    step = torch.tensor([ids[read : read + _STEP_TOKENS]], device=model.device)
                    output = model(input_ids=step, past_key_values=cache, use_cache=True, logits_to_keep=1)
                    read += step.shape[1]
                    if over.is_set():
                        break
                    if read < len(ids):
                        continue
                    token = next_token(
                        output.logits[0, -1], temperature=temperature, top_p=self._top_p, penalty=self._penalty,
                        made=made, rng=self._rng,
                    )  # fmt: skip
                    if token in ends:
                        break
                    made.append(token)
                    if piece := text.add(token):
                        yield piece
                    if len(made) == max_tokens:
                        break
                    ids.append(token)
            self._seen.keep(cache, ids[:read])
            if rest := text.rest():
                yield rest
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise GeneratorError(f"{self.name} failed: {_short(error)}") from error
            raise ModelOutOfMemory(
                f"{len(ids)} tokens with {self.name} do not fit into memory ({_short(error)}): lower the budget, close "
                "other programs, or take a smaller model"
            ) from error

    def _new_cache(self) -> Any:
        return importlib.import_module("transformers").DynamicCache(config=self._model().config)

    def _runs_on_cpu(self) -> bool:
        return str(self._model().device) == "cpu"

    def _tokens(self) -> Any:
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = self._load_part("AutoTokenizer")
                # Its warning that a text is longer than the model reads is ours to give.
                self._tokenizer.model_max_length = max(self._tokenizer.model_max_length, _MANY_TOKENS)
            return self._tokenizer

    def _model(self) -> Any:
        with self._lock:
            if self._network is None:
                torch = importlib.import_module("torch")
                device = self._device or ("cuda" if torch.cuda.is_available() else "cpu")
                dtype = _best_dtype(torch, device) if self._dtype == "auto" else getattr(torch, self._dtype)
                network = self._load_part("AutoModelForCausalLM", dtype=dtype, use_safetensors=True)
                try:
                    self._network = network.to(device).eval()
                except RuntimeError as error:
                    raise ModelOutOfMemory(f"{self.name} does not fit on {device}: {_short(error)}") from error
            return self._network

    def _load_part(self, kind: str, **options: object) -> Any:
        with quiet():
            try:
                transformers = importlib.import_module("transformers")
                loader = getattr(transformers, kind)
            except ImportError as error:
                raise ModelMissing(
                    f"{self.name} needs transformers ({error}): pip install 'memarch[chat]', or take another model"
                ) from error
            with no_bar():
                try:
                    return loader.from_pretrained(self.model, local_files_only=True, trust_remote_code=False, **options)
                except MemoryError as error:
                    raise ModelOutOfMemory(f"{self.name} does not fit into memory: take a smaller model") from error
                except Exception as error:  # whatever the loaders raise: missing, damaged, of another kind
                    if _is_out_of_memory(error):
                        raise ModelOutOfMemory(f"{self.name} does not fit into memory: take a smaller model") from error
                    raise ModelMissing(
                        f"cannot load {self.model!r} ({_short(error)}). Expected a folder of a causal language model "
                        "with safetensors, or the name of one that was downloaded to the Hugging Face cache before"
                    ) from error


def _best_dtype(torch: Any, device: str) -> Any:
    if device != "cpu":
        return torch.bfloat16
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return torch.bfloat16 if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else torch.float32


def _end_tokens(model: Any, tokenizer: Any) -> set[int]:
    """Tokens that end an answer, wherever model and tokenizer name them."""
    named = (getattr(model.generation_config, "eos_token_id", None), tokenizer.eos_token_id)
    return {int(token) for ids in named if ids is not None for token in (ids if isinstance(ids, list) else [ids])}


def _without_system(messages: list[Message]) -> list[Message]:
    """The system's text at the head of the first message."""
    if len(messages) < 2 or messages[0]["role"] != "system":
        return messages
    first = {"role": messages[1]["role"], "content": f"{messages[0]['content']}\n\n{messages[1]['content']}"}
    return [first, *messages[2:]]


def _is_out_of_memory(error: BaseException) -> bool:
    text = f"{type(error).__name__} {error}".lower()
    return (
        isinstance(error, MemoryError) or "out of memory" in text or "outofmemory" in text or "can't allocate" in text
    )


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}".rstrip(": ")[:300]
