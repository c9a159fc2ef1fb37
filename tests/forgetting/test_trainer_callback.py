"""Forgetting inside transformers' Trainer: gradient accumulation, checkpoints, both kinds."""

from __future__ import annotations

import pytest
import torch

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate", reason="transformers' Trainer needs accelerate")

from memarch.forgetting import (  # noqa: E402
    EmbeddingForgetting,
    ForgettingCallback,
    ProbabilisticForgetting,
    give_own_group,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*before.*optimizer.step:UserWarning"),
]
VOCAB = 31


class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, index):
        ids = torch.randint(0, VOCAB, (8,), generator=torch.Generator().manual_seed(index))
        return {"input_ids": ids, "labels": ids}


def model():
    torch.manual_seed(6)
    config = transformers.LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        tie_word_embeddings=True,
    )
    return transformers.LlamaForCausalLM(config)


def trainer(directory, network, forget, *, optimizers=(None, None), steps=8, **options):
    arguments = transformers.TrainingArguments(
        output_dir=str(directory),
        max_steps=steps,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        save_strategy="steps",
        save_steps=3,
        logging_strategy="no",
        **options,
    )
    return transformers.Trainer(
        model=network,
        args=arguments,
        train_dataset=Rows(),
        callbacks=[ForgettingCallback(forget)],
        optimizers=optimizers,
    )


def make(kind, network):
    if kind == "embedding":
        return EmbeddingForgetting(network, every=4, seed=3)
    return ProbabilisticForgetting(network, probability=0.3, every=2, seed=3)


@pytest.mark.parametrize("kind", ["embedding", "probabilistic"])
def test_steps_are_counted_and_a_resumed_run_is_the_same_to_the_bit(kind, tmp_path, capsys):
    whole = model()
    forget = make(kind, whole)
    trainer(tmp_path / "whole", whole, forget).train()
    assert forget.num_steps == 8
    if kind == "embedding":
        assert forget.num_resets == 2

    again = model()
    forget = make(kind, again)
    trainer(tmp_path / "again", again, forget).train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert forget.num_steps == 8
    for (name, a), b in zip(whole.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_it_changes_training_and_accumulation_counts_optimizer_steps(tmp_path, capsys):
    trained = []
    for kind in (None, "embedding", "probabilistic"):
        network = model()
        forget = EmbeddingForgetting(network, every=100) if kind is None else make(kind, network)
        trainer(tmp_path / str(kind), network, forget, gradient_accumulation_steps=3, steps=4).train()
        assert forget.num_steps == 4
        trained.append(network.model.embed_tokens.weight.detach().clone())
    assert not torch.equal(trained[0], trained[1]) and not torch.equal(trained[0], trained[2])
    # The reset was the last thing that happened.
    expected = torch.zeros_like(trained[1])
    from memarch.ops import embedding_reset

    embedding_reset(expected, std=0.02, seed=3, step=4)
    assert torch.equal(trained[1], expected)


def test_the_schedule_is_replayed_over_the_trainers_own_steps(tmp_path, capsys):
    network = model()
    forget = EmbeddingForgetting(network, every=4, lr="replay")
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    give_own_group(optimizer, forget.weight)
    used = []
    optimizer.register_step_post_hook(lambda opt, *_: None)
    run = trainer(tmp_path, network, forget, optimizers=(optimizer, None), warmup_steps=2, lr_scheduler_type="linear")

    class Watch(transformers.TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            if state.global_step == 1:  # hooked after the plug-in's hook
                kwargs["optimizer"].optimizer.register_step_pre_hook(
                    lambda opt, *_: used.append([group["lr"] for group in opt.param_groups])
                )

    run.add_callback(Watch())
    run.train()
    factor = lambda n: n / 2 if n < 2 else (8 - n) / 6  # noqa: E731
    assert [u[1] for u in used] == pytest.approx([1e-2 * factor(n * 2 % 8) for n in range(1, 8)])
    assert [u[0] for u in used] == pytest.approx([1e-2 * factor(n) for n in range(1, 8)])


def test_another_object_is_refused():
    with pytest.raises(ValueError, match="expected an EmbeddingForgetting or a ProbabilisticForgetting; got int"):
        ForgettingCallback(3)
