"""What consolidation cannot work with, said before anything is computed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .processor import EntryRewriter
from .shape import CacheShape


def causal_lm(model: Any) -> Any:
    """The transformers causal LM itself, out of a PEFT wrapper if it is in one.

    Raises: ValueError for what torch.compile returned: compiled code does not call hooks that come later.
    """
    if hasattr(model, "_orig_mod"):
        raise ValueError("model was compiled by torch.compile, which does not call hooks: give the model itself")
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def attention_modules(model: Any) -> list[Any]:
    """The attention module of every layer.

    Raises:
        ValueError: not a model of the Llama family.
    """
    decoder = getattr(model, "model", None)
    layers = getattr(decoder, "layers", None)
    found = [getattr(layer, "self_attn", None) for layer in layers] if isinstance(layers, nn.ModuleList) else []
    fits = bool(found) and all(hasattr(a, name) for a in found for name in ("q_proj", "k_proj", "scaling"))
    if not fits or not isinstance(getattr(decoder, "rotary_emb", None), nn.Module):
        raise ValueError(
            "model must be a causal LM of the Llama family (Llama, Qwen2, Qwen3, Mistral, SmolLM2, ...), with "
            f"model.rotary_emb and model.layers[i].self_attn.q_proj; got {type(model).__name__}"
        )
    return found


def check_model(model: Any, processor: EntryRewriter) -> None:
    """Raise ValueError saying what of the model cannot be served, or does not fit the processor."""
    if any(module._compiled_call_impl is not None for module in model.modules()):
        raise ValueError("the model is compiled, and compiled code does not call hooks: give it before compile()")
    config = model.config.get_text_config(decoder=True)
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(f"model must be a decoder; {type(model).__name__} is an encoder-decoder")
    rope = getattr(config, "rope_parameters", None) or {}
    parts = [part for part in (rope, *rope.values()) if isinstance(part, dict)]
    partial = {part["partial_rotary_factor"] for part in parts if part.get("partial_rotary_factor", 1.0) != 1.0}
    if partial or getattr(config, "partial_rotary_factor", None) not in (None, 1.0):
        raise ValueError(
            "the model rotates only part of each head (partial_rotary_factor="
            f"{partial.pop() if partial else config.partial_rotary_factor}): cache processors need all of it rotated"
        )
    if any("mrope_section" in part for part in parts):
        raise ValueError("the model has multimodal rotary embeddings (mrope_section): cache processors need positions")
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"} or getattr(config, "sliding_window", None) is not None:
        raise ValueError(
            f"every layer must keep its whole past; got layer_types {sorted(kinds)} and sliding_window="
            f"{getattr(config, 'sliding_window', None)}: a sliding window drops entries that are rewritten. "
            "Load the model with sliding_window=None if it was trained for that"
        )
    wanted = CacheShape.of(config)
    if processor.shape != wanted:
        raise ValueError(
            f"processor fits {processor.shape}; this model's caches are {wanted}: make it from model.config"
        )
    if getattr(model.generation_config, "prefill_chunk_size", None) is not None:
        raise ValueError("prefill_chunk_size splits the prompt, which must come in one forward pass: set it to None")
    devices = {p.device for p in model.parameters()}
    if len(devices) != 1:
        raise ValueError(f"the model must be on one device; got {', '.join(sorted(map(str, devices)))}")
    device = devices.pop()
    if device.type == "mps":
        raise ValueError("on mps, generate runs one token ahead and takes it back from the cache: use cpu or cuda")
    if processor.gate.device != device:
        raise ValueError(f"processor must be on the model's device, {device}; got {processor.gate.device}")


def check_cache(cache: Any, num_layers: int) -> None:
    """Raise ValueError unless it is a DynamicCache or StaticCache of full-attention layers."""
    from transformers import DynamicCache, StaticCache
    from transformers.cache_utils import DynamicLayer, StaticLayer

    if not isinstance(cache, DynamicCache | StaticCache):
        raise ValueError(
            f"past_key_values must be a DynamicCache or a StaticCache; got {type(cache).__name__} (a quantised cache "
            "cannot be rewritten in place): pass past_key_values=c.new_cache()"
        )
    if getattr(cache, "offloading", False):
        raise ValueError("an offloading cache moves layers away between steps: make it with offloading=False")
    wrong = [type(layer).__name__ for layer in cache.layers if type(layer) not in (DynamicLayer, StaticLayer)]
    if wrong:
        raise ValueError(f"every layer of the cache must be a DynamicLayer or StaticLayer; got {wrong[0]}")
    if cache.layers and len(cache.layers) != num_layers:
        raise ValueError(f"the cache must have {num_layers} layers, like the model; got {len(cache.layers)}")


def check_rotation(projected: list[Tensor], cached: list[Tensor], cos: Tensor, sin: Tensor, name: str) -> None:
    """Raise ValueError unless each layer's cached keys are its projected keys, rotated as Llama rotates.

    Some models rotate pairs of neighbours, some leave layers unrotated: their entries would be unrotated wrongly.

    Args:
        projected: per layer `[B, q, G, D]`, before rotation.
        cached: per layer `[B, q, G, D]`.
        cos: `[B or 1, q, D]`.
        sin: like cos.
        name: of the model's class.
    """
    from memarch.ops.cache_rewrite import rotate_half

    for layer, (k, rotated) in enumerate(zip(projected, cached, strict=True)):
        expected = k * cos.unsqueeze(-2) + rotate_half(k) * sin.unsqueeze(-2)
        if not torch.linalg.vector_norm((expected - rotated).float()) <= 0.02 * torch.linalg.vector_norm(k.float()):
            raise ValueError(
                f"layer {layer} of {name} does not cache keys rotated as Llama rotates them (halves of a head, every "
                "layer): cache processors cannot undo another rotation"
            )
