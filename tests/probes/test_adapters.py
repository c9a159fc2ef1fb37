"""Real memories behind the protocol: a fine-tuned model, states of Yaad and HCAM, a dialogue memory."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import memarch
from memarch.data.sentences import memory_sentences
from memarch.models import MemoryLMConfig, MemoryLMForCausalLM
from memarch.probes import FewShotMemory, FineTunedLM, SearchedMemory, StateMemory

VOCAB = 40


def token_items(count, seed, length=8):
    generator = torch.Generator().manual_seed(seed)
    return [tuple(torch.randint(1, VOCAB, (length,), generator=generator).tolist()) for _ in range(count)]


def language_model(mixer="yaad"):
    torch.manual_seed(3)
    config = MemoryLMConfig(vocab_size=VOCAB, d_model=32, num_layers=1, num_heads=2, mixer=mixer, chunk_size=4)
    return MemoryLMForCausalLM(config)


def test_a_fine_tuned_model_learns_recognises_and_recalls():
    study = token_items(6, seed=1)
    probe = FewShotMemory(study, foils={"novel": token_items(6, seed=2)}, others=token_items(12, seed=3))
    memory = FineTunedLM(language_model("attention"), lr=1e-2, batch_size=3, prefix=(0,))
    report = probe.run(memory, exposures=(0, 1, 40), updates=(30,), update_items=6)
    before, once, often, later = report.rows
    assert before.recall < 0.3 and before.change["novel"] == 0.5
    assert once.change["novel"] > 0.7
    assert often.recognition["novel"] == 1.0 and often.recall > 0.9 and often.recall_exact > 0.6
    assert later.recall < often.recall - 0.2  # sixty steps on other items


def test_scores_of_a_fine_tuned_model_are_likelihoods_and_leave_no_trace():
    model = language_model("attention")
    memory = FineTunedLM(model, prefix=(0, 5))
    before = copy.deepcopy(model.state_dict())
    item = token_items(1, seed=4)[0]
    logits = model(torch.tensor([[0, 5, *item]])).logits
    losses = F.cross_entropy(logits[0, :-1], torch.tensor([5, *item]), reduction="none")[1:]
    assert memory.score(item) == pytest.approx(-float(losses.detach().mean()), rel=1e-5)
    memory.recall(item[:4], 4)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    # Items of different length in one step: padding is not scored.
    one, other = memory._token_losses([item, item[:3]])
    torch.testing.assert_close(one, losses)
    torch.testing.assert_close(other, losses[:3])


class LogitsOnly(nn.Module):
    """Hides a model's cache or state: it has to read everything again for every token."""

    def __init__(self, model):
        super().__init__()
        self.model, self.num_read = model, 0

    def forward(self, ids, **options):
        assert not options
        self.num_read += ids.numel()
        return self.model(ids).logits


class Counting(LogitsOnly):
    def forward(self, ids, **options):
        self.num_read += ids.numel()
        return self.model(ids, **options)


def llama():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(3)
    sizes = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(vocab_size=VOCAB, initializer_range=0.3, num_key_value_heads=1, **sizes)
    )


@pytest.mark.parametrize("make", [llama, lambda: language_model("attention"), lambda: language_model("yaad")])
def test_recall_with_a_cache_in_batches_is_recall_without_one_by_one(make):
    model = make()
    cues = [item[: 3 + place % 3] for place, item in enumerate(token_items(7, seed=5))]
    lengths = [5, 2, 7, 4, 6, 1, 3]
    quick, slow = Counting(model), LogitsOnly(model)
    learned = FineTunedLM(quick, lr=3e-2, batch_size=4, prefix=(0,))
    for _ in range(5):
        learned.write(token_items(7, seed=5))
    quick.num_read = 0
    found = learned.recall_many(cues, lengths)
    plain = FineTunedLM(slow, prefix=(0,))
    assert found == [plain.recall(cue, length) for cue, length in zip(cues, lengths, strict=True)]
    assert [len(each) for each in found] == lengths and len(set(found)) == 7
    # Cues of 3, 4 and 5 tokens and the prefix: each is read once, then one token after the other for its group.
    assert quick.num_read == 3 * (4 + 4) + 2 * (5 + 5) + 2 * (6 + 6)
    assert slow.num_read > 2 * quick.num_read


def test_scores_in_batches_are_scores_one_by_one():
    memory = FineTunedLM(llama(), prefix=(0,))
    items = [item[: 2 + place % 4] for place, item in enumerate(token_items(9, seed=6))]
    one_by_one = [-float(memory._token_losses([item])[0].detach().mean()) for item in items]
    assert memory.score_many(items) == pytest.approx(one_by_one, rel=1e-5)
    assert memory.score(items[4]) == pytest.approx(one_by_one[4], rel=1e-5)


class ReadingModel(nn.Module):
    """Embedding, one memory layer, tied head: trained to say again what it has read before."""

    def __init__(self, layer):
        super().__init__()
        self.embed, self.mix, self.layer = nn.Embedding(VOCAB, 32), nn.Linear(64, 32), layer
        nn.init.normal_(self.embed.weight)

    def forward(self, ids, state):
        inner, last = state if state is not None else (None, torch.zeros(len(ids), 1, dtype=torch.int64))
        previous = torch.cat([last, ids[:, :-1]], 1)
        x = torch.tanh(self.mix(torch.cat([self.embed(ids), self.embed(previous)], -1)))
        y, inner = self.layer(x, inner)
        return (x + y) @ self.embed.weight.T, (inner, ids[:, -1:])


LAYERS = {
    "yaad": lambda: memarch.Yaad(32, 2, chunk_size=1),
    "hcam": lambda: memarch.HCAM(32, 2, chunk_size=9, top_k=2, num_chunks=8, local_window=9),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_state_is_written_and_asked_without_trace(name):
    """Untrained: what the adapter does, not what such a layer can learn."""
    torch.manual_seed(0)
    model = ReadingModel(LAYERS[name]()).eval()
    memory = StateMemory(model, separator=0)
    study = token_items(3, seed=1)
    fresh = memory.score(study[0])
    memory.write(study)
    state = memory.state
    read = memory.score(study[0])
    assert read != fresh
    assert memory.score(study[0]) == read and memory.state is state
    found = memory.recall(study[0][:4], 4)
    assert len(found) == 4 and memory.recall(study[0][:4], 4) == found
    # Item by item is the same reading as all in one sequence.
    whole = torch.tensor([[token for item in study for token in (0, *item)]])
    with torch.no_grad():
        _, state = model(whole, None)
        logits, _ = model(torch.tensor([[0, *study[0]]]), state)
    expected = -float(F.cross_entropy(logits[0, :-1], torch.tensor(study[0])))
    assert read == pytest.approx(expected, rel=1e-4)


def test_a_language_model_of_ours_is_read_by_its_state():
    model = language_model("yaad").eval()
    memory = StateMemory(model, separator=0)
    probe = FewShotMemory(token_items(3, seed=1), foils={"novel": token_items(3, seed=2)})
    rows = probe.run(memory, exposures=(0, 1)).rows
    assert len(rows) == 2 and memory.state is not None


def test_a_dialogue_memory_knows_every_sentence_and_its_foils_apart(tmp_path):
    drawn = memory_sentences(12, num_others=40)
    store = memarch.DialogueMemory(tmp_path, user="probe", embedder=None)
    probe = FewShotMemory(drawn.study, foils=drawn.foils(), others=drawn.others)
    before, once, later = probe.run(SearchedMemory(store), exposures=(0, 1), updates=(5,)).rows
    store.close()
    assert before.recall == 0.0 and set(before.recognition.values()) == {0.5}
    for row in (once, later):
        assert row.recognition == {"novel": 1.0, "paraphrase": 1.0, "synonym": 1.0, "random": 1.0}
        assert row.recall > 0.9


def test_bad_sizes():
    with pytest.raises(ValueError, match="batch_size must be at least 1; got 0"):
        FineTunedLM(nn.Linear(2, 2), batch_size=0)
