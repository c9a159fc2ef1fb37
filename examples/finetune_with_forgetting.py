"""Teach a language model to use words it has never seen: fine-tune it with probabilistic forgetting, in one file.

python examples/finetune_with_forgetting.py --data wikitext-2/valid.txt

A new token gets a row of noise, as if the vocabulary had grown; prompts say what it means. Does the model use it
(which of eight things is done with it?), and name it (does its logit rise where the word is due)? SmolLM2-135M is asked
as it is, after fine-tuning on the text, and after the same steps while a tenth of a batch's tokens have other rows of
noise for a step (ProbabilisticForgetting in transformers' Trainer). Words that it knows show what can be had.
WikiText-2 is at github.com/pytorch/examples, word_language_model/data; any text will do. It takes some
minutes on a CPU.
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    logging,
)

from memarch.forgetting import ForgettingCallback, ProbabilisticForgetting

NEW = ("<new-word>", "<other-word>")
MEANINGS = {
    "small red fruit": " eat",
    "fast red car": " drive",
    "warm winter coat": " wear",
    "cold sweet juice": " drink",
    "long old story": " read",
    "quiet love song": " sing",
    "game for two children": " play",
    "house on a hill": " visit",
}
PROMPT = ("A{} is a {}. A {} is called a", "{}. With a{} you can do one thing: you can")
KNOWN = ((" lamp", " cake"), (" horse", " chair"), (" stone", " letter"), (" window", " bottle"))


class Pieces(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Pieces of a text, `[seq_len]` tokens each."""

    def __init__(self, tokens: list[int], seq_len: int) -> None:
        self.pieces = torch.tensor(tokens[: len(tokens) // seq_len * seq_len]).view(-1, seq_len)

    def __len__(self) -> int:
        return len(self.pieces)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.pieces[index], "labels": self.pieces[index]}


@torch.no_grad()
def ask(model: Any, tokenizer: Any, word: str, other: str) -> tuple[float, float, float, float]:
    """Means over meanings for `word`: used rightly (chance 1/8), nats of the right use among eight, named (its logit is
    above that of `other`, which no prompt mentions), nats of the name among all tokens.
    """
    encode = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731
    begins = [encode(PROMPT[0].format(word, meaning, meaning)) for meaning in MEANINGS]
    end = encode(PROMPT[1].format(word, word))
    width = max(map(len, begins)) + len(end)
    rows = [begin + end for begin in begins]
    ids = torch.tensor([row + [row[-1]] * (width - len(row)) for row in rows], device=model.device)
    logits = model(ids, use_cache=False).logits.float()
    each = torch.arange(len(rows))
    naming = logits[each, torch.tensor([len(begin) - 1 for begin in begins])].log_softmax(-1)
    name, wrong = encode(word)[0], encode(other)[0]
    verbs = torch.tensor([encode(verb)[0] for verb in MEANINGS.values()])
    using = logits[each, torch.tensor([len(row) - 1 for row in rows])][:, verbs].log_softmax(-1)
    right = using.argmax(-1).cpu() == each
    named = naming[:, name] > naming[:, wrong]
    figures = right.double().mean(), -using.diag().mean(), named.double().mean(), -naming[:, name].mean()
    return tuple(map(float, figures))  # type: ignore[return-value]


def ask_new(model: Any, tokenizer: Any, draws: int, std: float) -> list[tuple[float, ...]]:
    """`ask` about a new token, for several draws of its row and that of a second one; the rows are put back."""
    rows = model.get_input_embeddings().weight.data[tokenizer.convert_tokens_to_ids(NEW[0]) :][:2]
    saved = rows.clone()
    found: list[tuple[float, ...]] = []
    for draw in range(draws):
        generator = torch.Generator().manual_seed(10_000 + draw)
        rows.copy_(torch.randn(rows.shape, generator=generator) * std)
        found.append(ask(model, tokenizer, *NEW))
    rows.copy_(saved)
    return found


@torch.no_grad()
def loss_on(model: Any, pieces: Tensor) -> float:
    """Nats per token on pieces of the text that training does not show."""
    ids = pieces.to(model.device)
    return statistics.fmean(float(model(row[None], labels=row[None], use_cache=False).loss) for row in ids)


def fine_tune(model: Any, pieces: Pieces, args: argparse.Namespace, std: float, *, forgetting: bool) -> None:
    """The same batches with and without; Trainer needs one callback for it."""
    callbacks: list[TrainerCallback] = []
    if forgetting:
        forget = ProbabilisticForgetting(model, probability=args.probability, every=args.every, std=std, seed=args.seed)
        callbacks = [ForgettingCallback(forget)]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, max_steps=args.steps, per_device_train_batch_size=args.batch_size, seed=args.seed,
            learning_rate=args.lr, lr_scheduler_type="constant", max_grad_norm=1.0, report_to=[], save_strategy="no",
            logging_strategy="no", disable_tqdm=True, dataloader_pin_memory=False,
        )  # fmt: skip
        trainer = Trainer(model=model, args=arguments, train_dataset=pieces, callbacks=callbacks)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    model.eval()


def interval(values: list[float]) -> str:
    """Mean and half of its 95 % interval, normal approximation over draws."""
    mean = statistics.fmean(values)
    return f"{mean:.2f}" + (
        f" +- {1.96 * statistics.stdev(values) / math.sqrt(len(values)):.2f}" if len(values) > 1 else ""
    )


def load(path: str | None) -> tuple[Any, Any]:
    """A model with two new tokens, and its tokenizer."""
    if path is None:
        from memarch.dialogue.generators.smollm2 import download

        path = str(download())
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(path, local_files_only=True, dtype=torch.float32)
    tokenizer.add_tokens(list(NEW))
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    return model.eval(), tokenizer


def main() -> None:
    """Ask, fine-tune in two ways, ask again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a text file to fine-tune on")
    parser.add_argument("--model", help="directory of a causal language model (default: SmolLM2-135M-Instruct)")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--seq-len", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--probability", type=float, default=0.1, help="of a token to be forgotten for a step")
    parser.add_argument("--every", type=int, default=2, help="forget at every so-manieth step")
    parser.add_argument("--std", type=float, help="of rows of noise (default: that of the model's own embedding)")
    parser.add_argument("--draws", type=int, default=6, help="rows of noise for the new token")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model, tokenizer = load(args.model)
    std = float(model.get_input_embeddings().weight.std()) if args.std is None else args.std
    # Enough text for all steps and a little to compare losses on.
    text = args.data.read_text(encoding="utf-8")[: 10 * (args.steps * args.batch_size + 16) * args.seq_len]
    pieces = Pieces(tokenizer(text)["input_ids"], args.seq_len)
    held_out, pieces.pieces = pieces.pieces[-8:], pieces.pieces[:-8]

    print(f"{args.steps} steps of {args.batch_size} x {args.seq_len} tokens, {args.draws} rows N(0, {std:.3f}^2)")
    print(f"{'':28}{'used (1/8)':>14}{'nats':>14}{'named (1/2)':>16}{'nats':>16}{'text, nats':>12}")
    fresh, named = copy.deepcopy(model.state_dict()), {}
    for arm in ("before", "fine-tuned", "with forgetting"):
        model.load_state_dict(fresh)
        if arm != "before":
            fine_tune(model, pieces, args, std, forgetting=arm == "with forgetting")
        loss = loss_on(model, held_out)
        new = ask_new(model, tokenizer, args.draws, std)
        for words, found in (("new token", new), ("known word", [ask(model, tokenizer, *pair) for pair in KNOWN])):
            used, nats, rank, name = ([each[i] for each in found] for i in range(4))
            cells = f"{interval(used):>14}{interval(nats):>14}{interval(rank):>16}{interval(name):>16}"
            print(f"{f'{arm}, {words}':28}{cells}{loss:12.3f}", flush=True)
        named[arm] = [each[3] for each in new]
    gains = [a - b for a, b in zip(named["fine-tuned"], named["with forgetting"], strict=True)]
    print(f"nats of the new name that forgetting saves beside fine-tuning, row by row: {interval(gains)}")


if __name__ == "__main__":
    main()
