"""What cannot work is refused before it computes anything wrong, with words that say what to do."""

import pytest
import torch
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    DynamicCache,
    GPT2Config,
    GPT2LMHeadModel,
    MistralForCausalLM,
    QuantizedCache,
    Qwen2VLTextConfig,
    SmolLM3Config,
    SmolLM3ForCausalLM,
    StableLmConfig,
    StableLmForCausalLM,
)

from memarch.cache import CacheProcessor, CacheShape, consolidate

from ._tiny_models import KINDS, SIZES, Characters, make_model, make_processor, prompts


def enter(model, processor=None, **options):
    with consolidate(model, processor or CacheProcessor(model.config), Characters(), **options) as c:
        return c


def generate(model, c, inputs=None, **options):
    options = {"max_new_tokens": 6, "do_sample": False, "past_key_values": c.new_cache(), **options}
    return model.generate(**(inputs or prompts(7)), stopping_criteria=[c.criteria], **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": "line"}, "window must be 'step', 'all' or a number of at least 1; got 'line'"),
        ({"window": 0}, "at least 1; got 0"),
        ({"top_k": -1}, "top_k must be an integer of at least 0; got -1"),
        ({"max_step_tokens": 0}, "max_step_tokens must be an integer of at least 1; got 0"),
        ({"select": "newest"}, "select must be 'attention' or 'random'; got 'newest'"),
        ({"trigger": "line"}, "trigger must be 'newline'"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        enter(make_model(), **options)


def test_sliding_windows():
    model = MistralForCausalLM(KINDS["mistral"][1](**SIZES, sliding_window=8))
    with pytest.raises(ValueError, match="sliding_window=8: a sliding window drops entries"):
        enter(model)
    model = make_model("qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=1)
    with pytest.raises(ValueError, match=r"got layer_types \['full_attention', 'sliding_attention'\]"):
        enter(model)


def test_other_families_and_rotations():
    with pytest.raises(ValueError, match="must be a causal LM of the Llama family .* got GPT2LMHeadModel"):
        enter(GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=9)), CacheShape(1, 1, 2))
    partial = StableLmForCausalLM(StableLmConfig(**SIZES))
    with pytest.raises(ValueError, match=r"only part of each head \(partial_rotary_factor=0.25\)"):
        enter(partial)
    model = make_model()
    model.config.rope_parameters["mrope_section"] = Qwen2VLTextConfig().rope_parameters.get("mrope_section", [1, 1, 1])
    with pytest.raises(ValueError, match="multimodal rotary embeddings"):
        enter(model)


@pytest.mark.parametrize("name", ["neighbours", "unrotated layer"])
def test_a_rotation_unlike_llamas_is_noticed_in_the_first_pass(name):
    if name == "neighbours":
        model = CohereForCausalLM(CohereConfig(**SIZES)).eval()
    else:
        model = SmolLM3ForCausalLM(SmolLM3Config(**SIZES, no_rope_layers=[1, 0, 1])).eval()
    layer = 0 if name == "neighbours" else 1
    with consolidate(model, CacheProcessor(model.config), trigger=3) as c:
        with pytest.raises(ValueError, match=f"layer {layer} of .* does not cache keys rotated as Llama rotates them"):
            generate(model, c)


def test_a_processor_that_does_not_fit():
    with pytest.raises(ValueError, match=r"processor fits CacheShape\(num_layers=1.*this model's caches are"):
        enter(make_model(), CacheProcessor(CacheShape(1, 2, 6)))
    with pytest.raises(ValueError, match="processor must be on the model's device, cpu; got meta"):
        enter(make_model(), make_processor(make_model()).to("meta"))


def test_compiled_models():
    model = make_model()
    with pytest.raises(ValueError, match="model was compiled by torch.compile"):
        enter(torch.compile(model, backend="eager"), CacheProcessor(model.config))
    model.compile(backend="eager")
    with pytest.raises(ValueError, match="the model is compiled, and compiled code does not call hooks"):
        enter(model)


def test_chunked_prefill_is_refused():
    model = make_model()
    model.generation_config.prefill_chunk_size = 4
    with pytest.raises(ValueError, match="prefill_chunk_size splits the prompt"):
        enter(model)


def test_caches_of_other_kinds_and_histories():
    model = make_model()
    used = model(**prompts(7), past_key_values=DynamicCache(config=model.config)).past_key_values
    with consolidate(model, make_processor(model), trigger=3) as c:
        with pytest.raises(ValueError, match="filled with 7 entries outside of consolidate"):
            model(torch.tensor([[3]]), past_key_values=used)
        with pytest.raises(ValueError, match="needs a cache: pass past_key_values"):
            model(**prompts(7))
        with pytest.raises(ValueError, match="must be a DynamicCache or a StaticCache; got QuantizedCache"):
            quantized = QuantizedCache.__new__(QuantizedCache)  # its backends are packages of their own
            quantized.layers = []
            generate(model, c, past_key_values=quantized)
        offloading = DynamicCache(config=model.config)
        offloading.offloading = True
        with pytest.raises(ValueError, match="offloading=False"):
            model(**prompts(7), past_key_values=offloading)
        with pytest.raises(ValueError, match="every layer of the cache must be a DynamicLayer or StaticLayer; got Dyn"):
            sliding = MistralForCausalLM.config_class(**SIZES, sliding_window=8)
            model(**prompts(7), past_key_values=DynamicCache(config=sliding))
        with pytest.raises(ValueError, match=r"attention_mask must be \[B, 7\].*got \[1, 5\]"):
            model(prompts(7)["input_ids"], attention_mask=torch.ones(1, 5), past_key_values=c.new_cache())
        with pytest.raises(ValueError, match="StaticCache is rewritten in place, which has no gradient"):
            cache = c.new_cache(max_length=20)
            for _ in range(5):
                model(torch.tensor([[20]]), past_key_values=cache)


def test_decoding_that_takes_tokens_back_is_refused():
    model = make_model()
    with consolidate(model, make_processor(model), trigger=3) as c:
        with pytest.raises(ValueError, match="activate_past_recording of the cache: assisted decoding, prompt lookup"):
            generate(model, c, prompt_lookup_num_tokens=2)
        with pytest.raises(ValueError, match="activate_past_recording of the cache"):
            generate(model, c, assistant_model=make_model(seed=1, num_hidden_layers=1))
