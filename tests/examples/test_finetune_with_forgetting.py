"""The fine-tuning examples run: Trainer on a tiny random model, accelerate's loop as it stands."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate", reason="transformers' Trainer needs accelerate")

ROOT = Path(__file__).parents[2]
WORDS = (
    "A is a called With you can do one thing : . , small red fruit fast car warm winter coat cold sweet juice long old"
)
WORDS += " story quiet love song game for two children house on hill eat drive wear drink read sing play visit"
WORDS += " lamp cake horse chair stone letter window bottle"


def run(script: str, *arguments: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, f"examples/{script}", *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def tiny_model(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {word: place for place, word in enumerate(["<s>", "<unk>", *dict.fromkeys(WORDS.split())])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", unk_token="<unk>")
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.LlamaConfig(vocab_size=len(vocabulary), tie_word_embeddings=True, **sizes)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_new_tokens_are_asked_before_and_after_both_ways_of_fine_tuning(tmp_path):
    tiny_model(tmp_path)
    text = tmp_path / "text.txt"
    text.write_text(" ".join(WORDS.split()[i * 7919 % 50] for i in range(6000)))
    options = ["--steps", "6", "--seq-len", "16", "--lr", "0.01", "--draws", "3", "--std", "0.1"]
    lines = run("finetune_with_forgetting.py", "--data", str(text), "--model", str(tmp_path), *options)
    found = {}
    for line in lines[2:-1]:
        name, _, rest = line.partition(" word") if " word" in line else line.partition(" token")
        found[name] = [float(figure) for figure in re.findall(r"\d+\.\d+", rest)]
    arms = ("before", "fine-tuned", "with forgetting")
    assert list(found) == [f"{arm}, {kind}" for arm in arms for kind in ("new", "known")]
    assert all(len(figures) == 9 for figures in found.values())  # four means, their intervals, the loss
    losses = [found[f"{arm}, new"][-1] for arm in arms]
    assert losses[1] < losses[0] - 0.05 and losses[2] < losses[0] - 0.05 and losses[1] != losses[2]
    named = [found[f"{arm}, new"][6] for arm in arms]
    # Training never shows the new rows, so the tied output layer learns not to say them.
    assert named[1] > named[0]
    gain = float(re.search(r"row by row: (-?\d+\.\d+)", lines[-1])[1])
    assert gain == pytest.approx(named[1] - named[2], abs=0.02)


def test_accelerate_forgets_by_optimizer_steps_and_learns_again():
    lines = run("forgetting_with_accelerate.py", "--steps", "45", "--every", "20", "--accumulate", "2")
    found = [(int(line.split()[1]), float(line.split()[3]), line.split("  ")[2:]) for line in lines]
    assert [step for step, _, note in found if note] == [20, 40] and found[-1][0] == 40
    losses = {step: loss for step, loss, _ in found}
    assert losses[20] < losses[10] - 0.1  # the reset comes after the step
    assert losses[30] > losses[20] - 0.5
