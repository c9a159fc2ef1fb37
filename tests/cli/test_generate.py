"""`memarch generate`: streaming, seeds, split characters, damage, a reader that leaves."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from memarch.cli.app import app
from memarch.data import TextSource
from memarch.models import MemoryLMConfig, MemoryLMForCausalLM
from memarch.training import prepare_text
from memarch.training.checkpoint import save_model

from ._transcript import TEXT, command, environment


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved, untrained bpe model."""
    directory = tmp_path_factory.mktemp("model")
    data = prepare_text(TextSource(TEXT, "cats", "CC0"), vocab_size=270)
    torch.manual_seed(0)
    config = MemoryLMConfig(data.tokenizer.vocab_size, d_model=16, num_layers=1, num_heads=2, tokenizer="bpe")
    save_model(directory, MemoryLMForCausalLM(config), data.tokenizer)
    return directory


def generate(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["generate", *map(str, arguments)])


def test_a_seed_gives_the_same_text_and_options_reach_the_model(saved: Path) -> None:
    texts = [generate(saved, "--prompt", "The naïve", "--max-tokens", 30, "--seed", seed).stdout for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert texts[0].startswith("The naïve") and texts[0].endswith("\n") and len(texts[0]) > 30
    greedy = {generate(saved, "--prompt", "The", "--temperature", 0, "--max-tokens", 9).stdout}
    greedy |= {generate(saved, "--prompt", "The", "--top-k", 1, "--max-tokens", 9).stdout}
    greedy |= {generate(saved, "--prompt", "The", "--top-p", 1e-9, "--max-tokens", 9).stdout}
    assert len(greedy) == 1
    assert generate(saved, "--prompt", "The", "--max-tokens", 0).stdout == "The\n"


def test_bytes_of_one_character_arrive_together(tmp_path: Path) -> None:
    config = MemoryLMConfig(256, d_model=8, num_layers=1, num_heads=2, mixer="attention", tokenizer="byte")
    model = MemoryLMForCausalLM(config)
    emoji = "🙂".encode()
    with torch.no_grad():
        for parameter in model.model.layers.parameters():
            parameter.zero_()
        # Greedy decoding walks through the emoji's bytes for ever: each byte's embedding points at the next.
        model.model.embedding.weight.zero_()
        untied = MemoryLMForCausalLM(
            MemoryLMConfig(256, d_model=8, num_layers=1, num_heads=2, mixer="attention", tie_embeddings=False)
        )
        untied.load_state_dict({**model.state_dict(), "lm_head.weight": torch.zeros(256, 8)})
        for i, byte in enumerate(emoji):
            untied.model.embedding.weight[byte, i] = 1.0
            untied.lm_head.weight[emoji[(i + 1) % 4], i] = 1.0
    from memarch.data import ByteTokenizer

    save_model(tmp_path, untied, ByteTokenizer())
    result = generate(tmp_path, "--prompt", "🙂", "--max-tokens", 10, "--temperature", 0)
    assert result.stdout == "🙂🙂🙂\ufffd\n"


def test_a_reader_that_leaves_is_no_error(saved: Path) -> None:
    process = subprocess.Popen(
        command("generate", str(saved), "--prompt", "The", "--max-tokens", "100000"),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.read(20).startswith(b"The")
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert process.stderr.read() == b""
    process.stderr.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompt", ""], "--prompt is empty"),
        (["--prompt", "x", "--temperature", "-1"], "temperature must be 0"),
        (["--prompt", "x", "--top-k", "0"], "top_k must be at least 1"),
        (["--prompt", "x", "--top-p", "2"], "top_p must be in"),
        (["--prompt", "x", "--max-tokens", "-5"], "--max-tokens must be at least 0; got -5"),
    ],
)
def test_bad_usage(saved: Path, options: list[str], message: str) -> None:
    result = generate(saved, *options)
    assert result.exit_code == 2 and result.stderr.startswith("error: ") and message in result.stderr


def test_damage_is_one_line(saved: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "model"
    for name, content, message in [
        ("model.safetensors", lambda b: b[:-7], "model.safetensors should be a safetensors file"),
        ("config.json", lambda b: b[:30], "config.json should be JSON"),
        ("config.json", lambda b: b.replace(b'"d_model": 16', b'"d_model": 32'), "does not fit the configuration"),
        ("config.json", lambda b: b.replace(b"d_model", b"d_modul"), "unknown key 'd_modul'"),
        ("tokenizer.json", lambda b: b[:99], "tokenizer.json is truncated or corrupt"),
        ("tokenizer.json", None, "tokenizer.json does not exist"),
    ]:
        shutil.copytree(saved, damaged)
        if content is None:
            (damaged / name).unlink()
        else:
            (damaged / name).write_bytes(content((damaged / name).read_bytes()))
        result = generate(damaged, "--prompt", "x")
        assert result.exit_code == 1 and message in result.stderr and result.stderr.count("\n") == 1, result.output
        shutil.rmtree(damaged)
    result = generate(tmp_path / "none", "--prompt", "x")
    assert result.exit_code == 1 and "none holds no checkpoint" in result.stderr
