"""From a GGUF file of a small Llama to what transformers opens in a moment: safetensors, tokenizer, chat template.

transformers reads GGUF files too, but it takes long, every time, and its tokenizer for them splits numbers otherwise
than the model learned. The names and the order of rows follow llama.cpp's converter for LlamaForCausalLM.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memarch.dialogue.errors import GeneratorError, ModelMissing

from .base import Progress

MANIFEST = "memarch.json"
_WEIGHTS = "model.safetensors"
_FORMAT = 1
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOP_NAMES = {
    "token_embd": "model.embed_tokens.weight",
    "output_norm": "model.norm.weight",
    "output": "lm_head.weight",
}
_CONTROL = 3  # GGUF's type of tokens such as <|im_end|>


def is_converted(folder: Path) -> bool:
    """Whether the folder holds a whole conversion: every file there, and as long as it was written."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        sizes = {name: entry["bytes"] for name, entry in manifest["files"].items()}
        return manifest["format"] == _FORMAT and all((folder / n).stat().st_size == size for n, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def damaged_files(folder: Path) -> list[str]:
    """Names of the files of a conversion whose content is not what was written (reads all of them)."""
    files = json.loads((folder / MANIFEST).read_text("utf-8"))["files"]
    return [
        name
        for name, entry in files.items()
        if not (folder / name).is_file() or sha256_of(folder / name) != entry["sha256"]
    ]


def convert(source: Path, folder: Path, *, progress: Progress | None = None) -> None:
    """Convert the GGUF file `source` into `folder`, which appears when all of it is written, or not at all.

    A process that converts the same waits for the other. What was interrupted is removed by the next conversion.
    Raises: ModelMissing without the packages; GeneratorError for a file that is no Llama with a GPT-2 style tokenizer,
    or is damaged; OSError, for example of a full disk.
    """
    import filelock

    folder.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder.parent / f".{folder.name}.lock"):
        if is_converted(folder):
            return
        for left in folder.parent.glob(f".{folder.name}.*.tmp"):
            shutil.rmtree(left, ignore_errors=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
        try:
            _write(source, staging, progress or (lambda what, done, total: None))
            if folder.exists():
                shutil.rmtree(folder)
            staging.rename(folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _write(source: Path, folder: Path, progress: Progress) -> None:
    try:
        import gguf
        import torch
        from safetensors.torch import save_file
    except ImportError as error:
        raise ModelMissing(f"converting a model needs a package ({error}): pip install 'memarch[chat]'") from error

    progress("read", 0, 1)
    with _as_generator_error(source):
        reader = gguf.GGUFReader(source)
        fields = {name: field for name, field in reader.fields.items()}

        def get(name: str, default: Any = None) -> Any:
            return fields[name].contents() if name in fields else default

        config = _config(get)
        tokenizer = _tokenizer(get)
        tensors: dict[str, Any] = {}
        total = len(reader.tensors)
        for done, tensor in enumerate(reader.tensors, 1):
            values = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(tensor.shape[::-1].tolist())
            tensors[_name(tensor.name)] = torch.from_numpy(_rows(tensor.name, values, config).astype(np.float16))
            progress("convert", done, total)
        config["tie_word_embeddings"] = "lm_head.weight" not in tensors
    progress("write", 0, 1)
    save_file(tensors, folder / _WEIGHTS, metadata={"format": "pt"})
    template = get("tokenizer.chat_template")
    ids = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": config["max_position_embeddings"],
        **({"chat_template": template} if template else {}),
        **{key.removesuffix("_id"): tokenizer[0][number] for key, number in ids.items() if number is not None},
    }
    for name, value in (
        ("config.json", config),
        ("generation_config.json", ids),
        ("tokenizer_config.json", settings),
        ("tokenizer.json", tokenizer[1]),
    ):
        (folder / name).write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    files = {path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in sorted(folder.iterdir())}
    manifest = {"format": _FORMAT, "source": source.name, "source_sha256": sha256_of(source), "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    progress("write", 1, 1)


def _config(get: Callable[..., Any]) -> dict[str, Any]:
    if get("general.architecture") != "llama" or get("tokenizer.ggml.model") != "gpt2":
        raise ValueError(
            f"expected a Llama with a byte-level tokenizer; got {get('general.architecture')!r} with "
            f"{get('tokenizer.ggml.model')!r}"
        )
    width, heads = get("llama.embedding_length"), get("llama.attention.head_count")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float16",
        "hidden_act": "silu",
        "hidden_size": width,
        "head_dim": get("llama.attention.key_length", width // heads),
        "intermediate_size": get("llama.feed_forward_length"),
        "max_position_embeddings": get("llama.context_length"),
        "num_attention_heads": heads,
        "num_hidden_layers": get("llama.block_count"),
        "num_key_value_heads": get("llama.attention.head_count_kv", heads),
        "rms_norm_eps": get("llama.attention.layer_norm_rms_epsilon"),
        "rope_parameters": {"rope_type": "default", "rope_theta": get("llama.rope.freq_base", 10000.0)},
        "vocab_size": len(get("tokenizer.ggml.tokens")),
        "bos_token_id": get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": get("tokenizer.ggml.eos_token_id"),
        "pad_token_id": get("tokenizer.ggml.padding_token_id"),
    }


def _tokenizer(get: Callable[..., Any]) -> tuple[list[str], dict[str, Any]]:
    """The tokens, and the content of tokenizer.json: byte-level BPE; "smollm" splits off every digit."""
    tokens, kinds, split = get("tokenizer.ggml.tokens"), get("tokenizer.ggml.token_type"), get("tokenizer.ggml.pre")
    if split not in ("smollm", "gpt-2"):
        raise ValueError(f"expected the tokenizer's splitting to be 'smollm' or 'gpt-2'; got {split!r}")
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    digits = [{"type": "Digits", "individual_digits": True}] if split == "smollm" else []
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return tokens, {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": token, **flags}
            for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
            if kind == _CONTROL
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*digits, byte_level]},
        "post_processor": None,
        "decoder": {**byte_level, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in get("tokenizer.ggml.merges")],
        },
    }


def _name(name: str) -> str:
    stem = name.removesuffix(".weight")
    if stem in _TOP_NAMES:
        return _TOP_NAMES[stem]
    block, _, part = stem.removeprefix("blk.").partition(".")
    if not block.isdigit() or part not in _LAYER_NAMES:
        raise ValueError(f"expected the tensors of a Llama; got {name!r}")
    return f"model.layers.{block}.{_LAYER_NAMES[part]}.weight"


def _rows(name: str, values: NDArray[np.float32], config: dict[str, Any]) -> NDArray[np.float32]:
    """Queries and keys back from llama.cpp's order (neighbouring rows are pairs) to transformers' (halves are)."""
    heads = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}.get(name.split(".")[-2])
    if heads is None:
        return values
    return values.reshape(config[heads], -1, 2, values.shape[-1]).swapaxes(1, 2).reshape(values.shape)


@contextmanager
def _as_generator_error(source: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise GeneratorError(f"{source} cannot be converted ({type(error).__name__}: {error})") from error


def sha256_of(path: Path) -> str:
    """Hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
