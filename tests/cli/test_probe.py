"""`memarch probe memory` on a dialogue memory, on a model of ours by weights and by state, on a transformers model."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from memarch.cli.app import app
from memarch.data.tokenizer import ByteTokenizer
from memarch.models import MemoryLMConfig, MemoryLMForCausalLM

RUNNER = CliRunner()
FEW = ["probe", "memory", "--items", "3", "--exposures", "0,1", "--updates", "1", "--batch-size", "2"]


def run(*arguments, code=0):
    result = RUNNER.invoke(app, [*FEW, *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def ours(directory):
    torch.manual_seed(0)
    config = MemoryLMConfig(vocab_size=ByteTokenizer().vocab_size, d_model=16, num_layers=1, num_heads=2, chunk_size=4)
    MemoryLMForCausalLM(config).save_pretrained(directory)
    return directory


def test_a_dialogue_memory_as_a_table_with_curves(tmp_path):
    result = run("--model", "dialogue", "--plot", tmp_path / "new" / "curves.png")
    assert "exposure 1 ..." in result.stderr and "update 1 ..." in result.stderr
    lines = [line for line in result.stdout.splitlines() if "\u2502" in line]
    assert len(lines) == 2 * 3
    assert "curves:" in result.stdout
    assert (tmp_path / "new" / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("by", ["weights", "state"])
def test_a_model_of_ours_as_json(by, tmp_path):
    result = run("--model", ours(tmp_path / "run"), "--by", by, "--json", "--lr", "0.01")
    found = json.loads(result.stdout)
    assert result.stderr == "" and found["by"] == by
    assert [(row["exposures"], row["updates"]) for row in found["rows"]] == [(0, 0), (1, 0), (1, 1)]
    assert set(found["rows"][1]["change"]) == {"novel", "paraphrase", "synonym", "random"}
    assert found["rows"][1]["change"]["novel"] > 0.5  # reading or learning three sentences shows


def test_sentences_of_a_text(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"The year {i} saw {i * 7919 % 1000} of them leave the city ." for i in range(100)))
    result = run("--model", "dialogue", "--data", text, "--json")
    found = json.loads(result.stdout)
    assert found["data"] == [str(text)]
    assert [set(row["recognition"]) for row in found["rows"]] == [{"novel", "random"}] * 3
    assert found["rows"][1]["recall"] > 0.8


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_a_transformers_model(tmp_path):
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    from memarch.data.sentences import _LEXICON

    words = sorted(
        {word for pairs in _LEXICON.values() for pair in pairs for word in pair} | {"the", "near", "was", "by"}
    )
    vocabulary = {word: place for place, word in enumerate(["<s>", "<unk>", *words])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", unk_token="<unk>")
    tokenizer.save_pretrained(tmp_path)
    config = transformers.LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    rows = json.loads(run("--model", tmp_path, "--json", "--exposures", "0,60", "--lr", "0.01").stdout)["rows"]
    assert rows[1]["change"]["novel"] == 1.0 and rows[1]["recall"] > rows[0]["recall"] + 0.5


@pytest.mark.parametrize(
    "arguments, message, code",
    [
        (["--by", "heart"], "--by must be weights or state; got 'heart'", 2),
        (["--items", "1"], "--items must be at least 2", 2),
        (["--exposures", "1,x"], "--exposures must be whole numbers with commas between; got '1,x'", 2),
        (["--model", "dialogue", "--exposures", "3,1"], "exposures must ascend from 0 or more; got (3, 1)", 2),
        (["--model", "dialogue", "--data", "/nowhere.txt"], "/nowhere.txt does not exist; expected a UTF-8 text", 1),
        (["--model", "/nowhere"], "--model /nowhere is no directory with a config.json", 1),
        (["--model", "smollm2", "--by", "state"], "--by state reads a run of `memarch train lm`; smollm2 is none", 1),
    ],
)
def test_bad_arguments(arguments, message, code):
    result = RUNNER.invoke(app, ["probe", "memory", *arguments])
    assert (result.exit_code, message in result.stderr) == (code, True), result.output
    assert "Traceback" not in result.output
