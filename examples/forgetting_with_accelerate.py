"""Active forgetting in a loop of accelerate's, in one file: python examples/forgetting_with_accelerate.py

A small language model learns the bytes of a text, and its token embedding is reset every so many optimiser steps.
`accelerate launch` runs the same file on several processes: the noise is counted by seed, step, row and column, so
that all of them reset to the same rows without a message.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, TensorDataset
from transformers import LlamaConfig, LlamaForCausalLM

from memarch.data import default_text
from memarch.forgetting import EmbeddingForgetting


def main() -> None:
    """Learn, forget at every --every'th step, learn again; the last reset leaves a whole episode to learn in."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--every", type=int, default=50, help="optimiser steps from one reset to the next")
    parser.add_argument("--accumulate", type=int, default=1, help="batches per optimiser step")
    args = parser.parse_args()
    torch.manual_seed(0)
    accelerator = Accelerator(gradient_accumulation_steps=args.accumulate)
    sizes: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    model = LlamaForCausalLM(LlamaConfig(vocab_size=256, tie_word_embeddings=True, **sizes))
    tokens = torch.tensor(list(default_text().text.encode())[: 64 * 3000]).view(-1, 64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    loader = DataLoader(TensorDataset(tokens), batch_size=16, shuffle=True)
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)

    forget = EmbeddingForgetting(accelerator.unwrap_model(model), every=args.every, stop_after=args.steps - 1)
    accelerator.register_for_checkpointing(forget)  # accelerator.save_state() keeps its count, load_state() goes on
    while forget.num_steps < args.steps:
        for (ids,) in loader:
            with accelerator.accumulate(model):
                loss = model(input_ids=ids, labels=ids).loss
                accelerator.backward(loss)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            if not accelerator.sync_gradients:
                continue
            was_reset = forget.step(optimizer, scheduler)
            if was_reset or forget.num_steps % 10 == 0:
                note = f"  forgotten {forget.num_resets} times" if was_reset else ""
                accelerator.print(f"step {forget.num_steps}  loss {float(loss):.3f}{note}")
            if forget.num_steps == args.steps:
                break


if __name__ == "__main__":
    main()
