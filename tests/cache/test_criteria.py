import pytest
import torch

from memarch.cache import consolidate

from ._tiny_models import make_model, make_processor, prompts


def test_stops_nothing_and_checks_the_length():
    model = make_model()
    with consolidate(model, make_processor(model), trigger=3) as c:
        with pytest.raises(RuntimeError, match="has not used a cache that consolidate watches"):
            c.criteria(torch.zeros(2, 8), None)
        model(**prompts(7), past_key_values=c.new_cache())
        assert c.criteria(torch.zeros(2, 8), None).tolist() == [False, False]
        with pytest.raises(RuntimeError, match="the cache holds 7 entries while the text has 5 tokens; expected 4"):
            c.criteria(torch.zeros(2, 5), None)


def test_prompts_as_embeddings():
    """Their tokens are not among the ids that generate reports."""
    model, inputs = make_model(), prompts(7)
    given = {"inputs_embeds": model.get_input_embeddings()(inputs["input_ids"]), "max_new_tokens": 9}
    with consolidate(model, make_processor(model), trigger=3, top_k=2) as c:
        options = {"do_sample": False, "stopping_criteria": [c.criteria]}
        ours = model.generate(**given, **options, past_key_values=c.new_cache())
        ids = model.generate(**inputs, **options, max_new_tokens=9, past_key_values=c.new_cache())
        assert torch.equal(ours, ids[:, 7:]) and c.num_rewrites == 4
        with pytest.raises(ValueError, match="inputs_embeds say no token"):
            cache = c.new_cache()
            for _ in range(2):
                model(inputs_embeds=given["inputs_embeds"], past_key_values=cache)
