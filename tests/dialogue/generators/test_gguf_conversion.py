"""GGUF to safetensors: the same model comes out, whole or not at all."""

import json
import threading
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from memarch.dialogue.errors import GeneratorError
from memarch.dialogue.generators.gguf_conversion import MANIFEST, convert, damaged_files, is_converted

from ._tiny_model import CONTEXT, CONTROL, TEMPLATE, TOKENS, tiny_llama

NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(path: Path, *, architecture: str = "llama", split: str = "smollm") -> Path:
    """The tiny Llama as llama.cpp's converter writes it: rows of queries and keys in pairs."""
    model = tiny_llama()
    config = model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split)
    writer.add_token_list([*TOKENS, "ab"])
    writer.add_token_types([3] * len(CONTROL) + [1] * (len(TOKENS) - len(CONTROL) + 1))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_chat_template(TEMPLATE)
    for name, value in model.state_dict().items():
        data = value.numpy()
        if name == "lm_head.weight":
            continue
        if name == "model.embed_tokens.weight":
            writer.add_tensor("token_embd.weight", np.vstack([data, data[:1]]))
            continue
        if name == "model.norm.weight":
            writer.add_tensor("output_norm.weight", data)
            continue
        _, _, block, part = name.removesuffix(".weight").split(".", 3)
        for key, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
            if key in part:
                data = data.reshape(heads, 2, -1, data.shape[1]).swapaxes(1, 2).reshape(data.shape)
        writer.add_tensor(f"blk.{block}.{NAMES[part]}.weight", np.ascontiguousarray(data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def test_the_model_that_comes_out_computes_the_same(source: Path, tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    convert(source, tmp_path / "out", progress=lambda what, done, total: steps.append((what, done, total)))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    ids = torch.tensor([[1, 17, 99, 5, 201, 64, 2]])
    with torch.inference_mode():
        expected, got = tiny_llama()(ids).logits, model(ids).logits[..., :-1]
    assert (got - expected).abs().max() < 0.01 * expected.abs().max()
    assert model.config.max_position_embeddings == CONTEXT and model.generation_config.eos_token_id == 2
    converted = [step for step in steps if step[0] == "convert"]
    assert [step[1] for step in converted] == list(range(1, 21)) and steps[-1] == ("write", 1, 1)


def test_the_tokenizer_that_comes_out_splits_digits_merges_and_knows_its_template(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.tokenize("ab 12") == ["ab", "Ġ", "1", "2"] or tokenizer.tokenize("ab 12") == ["ab", "Ġ1", "2"]
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "ab"}], tokenize=False, add_generation_prompt=True
    )
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == 1 and ids.count(2) == 1 and len(TOKENS) in ids
    assert tokenizer.decode(ids) == text and tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.decode(tokenizer("ž 👩‍👧 <x>")["input_ids"]) == "ž 👩‍👧 <x>"


@pytest.mark.parametrize("at", ["convert", "write"])
def test_an_interrupted_conversion_leaves_nothing_and_the_next_one_works(source: Path, tmp_path: Path, at: str) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        if what == at and (done == 5 or what == "write"):
            raise KeyboardInterrupt

    killed = tmp_path / ".out.killed.tmp"
    killed.mkdir()
    (killed / "model.safetensors").write_bytes(b"half")
    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "out", progress=interrupt)
    assert not is_converted(tmp_path / "out") and [path.name for path in tmp_path.iterdir()] == [".out.lock"]
    convert(source, tmp_path / "out")
    assert is_converted(tmp_path / "out") and damaged_files(tmp_path / "out") == []


def test_damage_is_noticed_and_converting_again_mends_it(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    convert(source, folder)
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert is_converted(folder) and damaged_files(folder) == ["model.safetensors"]
    weights.write_bytes(whole[:-1])
    assert not is_converted(folder)
    convert(source, folder)
    assert weights.read_bytes() == whole
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "format": 0}))
    assert not is_converted(folder)


def test_two_that_convert_at_once_do_it_once(source: Path, tmp_path: Path) -> None:
    done: list[str] = []

    def work() -> None:
        convert(source, tmp_path / "out", progress=lambda what, number, total: done.append(what))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done.count("read") == 1 and is_converted(tmp_path / "out")


def test_what_cannot_be_converted_is_refused(tmp_path: Path) -> None:
    (tmp_path / "no.gguf").write_bytes(b"GGUF no")
    other = write_gguf(tmp_path / "bert.gguf", architecture="bert")
    unknown = write_gguf(tmp_path / "split.gguf", split="tekken")
    whole = write_gguf(tmp_path / "short.gguf").read_bytes()
    (tmp_path / "short.gguf").write_bytes(whole[: len(whole) // 2])
    for source, says in (
        (tmp_path / "no.gguf", "no.gguf cannot be converted"),
        (other, "expected a Llama .* got 'bert'"),
        (unknown, "'smollm' or 'gpt-2'; got 'tekken'"),
        (tmp_path / "short.gguf", "short.gguf cannot be converted"),
    ):
        with pytest.raises(GeneratorError, match=says):
            convert(source, tmp_path / "out")
        assert not (tmp_path / "out").exists()
