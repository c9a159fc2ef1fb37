"""The language model: loss, state, padding, generation, size matching, save and load."""

import errno
import itertools
import os
from pathlib import Path

import pytest
import torch

from memarch.models import MemoryLMConfig, MemoryLMForCausalLM, count_parameters, match_num_parameters, storage

VOCAB = 37
HYBRID = {"mixer": "yaad", "attention_every": 2, "window_tokens": 5}


def make(seed: int = 0, **options: object) -> MemoryLMForCausalLM:
    torch.manual_seed(seed)
    sizes = {"vocab_size": VOCAB, "d_model": 12, "num_layers": 3, "num_heads": 2, "chunk_size": 4, "mlp_dim": 10}
    return MemoryLMForCausalLM(MemoryLMConfig(**{**sizes, **options}))  # type: ignore[arg-type]


def ids(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, VOCAB, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("options", [{"mixer": "attention"}, {"mixer": "yaad"}, HYBRID])
def test_split_anywhere_equals_whole(options: dict) -> None:
    model, x = make(**options), ids(2, 13)
    with torch.no_grad():
        whole = model(x).logits
        for cut in range(1, 13):
            first = model(x[:, :cut])
            second = model(x[:, cut:], first.state.detach())
            torch.testing.assert_close(torch.cat([first.logits, second.logits], 1), whole, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("options", [{"mixer": "attention"}, HYBRID])
def test_padded_rows_equal_rows_alone(options: dict) -> None:
    model, x = make(**options), ids(3, 9)
    mask = torch.ones(3, 9, dtype=torch.bool)
    mask[1, :4] = False
    mask[2, 6:] = False
    padded = x.masked_fill(~mask, -1)
    with torch.no_grad():
        output = model(padded, mask=mask, labels=x)
        assert output.loss is not None and torch.isfinite(output.loss)
        for row in range(3):
            alone = model(x[row : row + 1, mask[row]]).logits[0]
            torch.testing.assert_close(output.logits[row, mask[row]], alone, rtol=1e-3, atol=1e-5)


def test_loss_is_shifted_and_leaves_out_padding_and_minus_100() -> None:
    model, x = make(mixer="attention"), ids(2, 7)
    output = model(x, labels=x)
    log_p = output.logits.log_softmax(-1)
    expected = -torch.stack([log_p[b, t - 1, x[b, t]] for b in range(2) for t in range(1, 7)]).mean()
    torch.testing.assert_close(output.loss, expected)
    labels = x.clone()
    labels[0] = -100
    expected = -torch.stack([log_p[1, t - 1, x[1, t]] for t in range(1, 7)]).mean()
    torch.testing.assert_close(model(x, labels=labels).loss, expected)
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[0, 3:] = False
    kept = [log_p[0, t - 1, x[0, t]] for t in (1, 2)] + [log_p[1, t - 1, x[1, t]] for t in range(1, 7)]
    torch.testing.assert_close(model(x, labels=x, mask=mask).loss, -torch.stack(kept).mean())
    assert model(x).loss is None


@pytest.mark.parametrize("options", [{"mixer": "attention"}, HYBRID])
def test_generate_equals_the_slow_way(options: dict) -> None:
    model, x = make(**options), ids(2, 6)
    streamed = torch.stack(list(model.generate(x, max_new_tokens=9, temperature=0)), 1)
    slow = x
    with torch.no_grad():
        for _ in range(9):
            slow = torch.cat([slow, model(slow).logits[:, -1].argmax(-1, keepdim=True)], 1)
    assert torch.equal(streamed, slow[:, 6:])


def test_generate_from_padded_prompts_and_by_seed() -> None:
    model, x = make(**HYBRID), ids(2, 6)
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[0, 4:] = False
    mask[1, :2] = False
    together = torch.stack(list(model.generate(x, max_new_tokens=5, temperature=0, mask=mask)), 1)
    for row in range(2):
        alone = torch.cat(list(model.generate(x[row : row + 1, mask[row]], max_new_tokens=5, temperature=0)))
        assert torch.equal(together[row], alone)
    draws = [torch.stack(list(model.generate(x, max_new_tokens=12, seed=seed))) for seed in (5, 5, 6)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert list(model.generate(x, max_new_tokens=0)) == []
    assert len(list(itertools.islice(model.generate(x), 4))) == 4
    with pytest.raises(ValueError, match="mask leaves a prompt without a real token"):
        model.generate(x, mask=torch.zeros(2, 6, dtype=torch.bool))
    with pytest.raises(ValueError, match="max_new_tokens must be at least 0.* got -1"):
        model.generate(x, max_new_tokens=-1)
    with pytest.raises(ValueError, match="top_k"):
        model.generate(x, top_k=0)


def test_memory_per_token_is_constant_unless_attention_sees_everything() -> None:
    def bytes_after(num_tokens: int, **options: object) -> int:
        model = make(**options)
        with torch.no_grad():
            state = model(ids(1, num_tokens)).state
            return model(ids(1, 1), state).state.num_bytes()

    for options in ({"mixer": "yaad"}, {"mixer": "attention", "window_tokens": 5}, HYBRID):
        assert bytes_after(20, **options) == bytes_after(75, **options) > 0
    # By hand: 3 layers, key and value of width 12 in float32, a flag and a position for a token; one count.
    full = [bytes_after(n, mixer="attention") for n in (20, 75)]
    assert full == [3 * ((n + 1) * (2 * 12 * 4 + 1 + 8) + 8) for n in (20, 75)]


def test_untied_embeddings_have_their_own_output_layer() -> None:
    tied, untied = make(), make(tie_embeddings=False)
    assert untied.num_parameters() - tied.num_parameters() == VOCAB * 12
    torch.manual_seed(0)
    assert tied.num_parameters() == sum(p.numel() for p in tied.parameters()) == count_parameters(tied.config)
    drawn = torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(3), drawn)


def test_match_num_parameters_is_as_near_as_a_width_allows() -> None:
    memory = make()
    attention = match_num_parameters(make(mixer="attention").config, memory.num_parameters())
    assert attention.mixer == "attention" and attention.mlp_dim != 10
    gap = abs(MemoryLMForCausalLM(attention).num_parameters() - memory.num_parameters())
    assert gap <= 3 * 12 * 3 / 2
    with pytest.raises(ValueError, match="'attention' has .* parameters even with mlp_dim=1, more than the 100"):
        match_num_parameters(attention, 100)


@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_save_and_load(tmp_path: Path, tie_embeddings: bool) -> None:
    model, x = make(tie_embeddings=tie_embeddings, **HYBRID), ids(2, 5)
    model.save_pretrained(tmp_path / "new" / "model")
    assert sorted(p.name for p in (tmp_path / "new" / "model").iterdir()) == ["config.json", "model.safetensors"]
    again = MemoryLMForCausalLM.from_pretrained(str(tmp_path / "new" / "model"))
    assert again.config == model.config and torch.equal(again(x).logits, model(x).logits)


def test_a_full_disk_leaves_the_saved_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = make(seed=0), ids(1, 5)
    model.save_pretrained(tmp_path)

    def no_space(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(storage.safetensors.torch, "save_file", no_space)
    with pytest.raises(OSError, match="cannot write .*model.safetensors: No space left"):
        make(seed=1, d_model=16).save_pretrained(tmp_path)
    monkeypatch.undo()
    assert torch.equal(MemoryLMForCausalLM.from_pretrained(tmp_path)(x).logits, model(x).logits)


def test_files_that_do_not_belong_together(tmp_path: Path) -> None:
    make().save_pretrained(tmp_path / "a")
    make(d_model=16).save_pretrained(tmp_path / "b")
    (tmp_path / "b" / "model.safetensors").replace(tmp_path / "a" / "model.safetensors")
    with pytest.raises(ValueError, match="a/model.safetensors does not fit the configuration beside it"):
        MemoryLMForCausalLM.from_pretrained(tmp_path / "a")
    with pytest.raises(FileNotFoundError, match="b/model.safetensors does not exist"):
        MemoryLMForCausalLM.from_pretrained(tmp_path / "b")


def test_bad_calls() -> None:
    model, x = make(), ids(2, 5)
    for bad, message in [
        (x[:, :0], r"input_ids must be \[B, T\] with B and T at least 1; got \[2, 0\]"),
        (x[0], r"got \[5\]"),
        (x.float(), "int64 or int32; got torch.float32"),
        (x + VOCAB, r"input_ids must be in \[0, 37\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            model(bad)
    with pytest.raises(ValueError, match=r"labels must have input_ids' shape \[2, 5\]; got \[2, 4\]"):
        model(x, labels=x[:, 1:])
    with pytest.raises(ValueError, match="mask must be bool"):
        model(x, mask=torch.ones(2, 5))
    with pytest.raises(ValueError, match="MemoryLMState of 3 layers"):
        model(x, make(num_layers=2)(x).state)
