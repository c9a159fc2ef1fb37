"""The cache processor of the Bottlenecked Transformer (arXiv 2505.16950): one small block per layer rewrites entries.

L layers, B batch, S selected entries, W numbers of an entry (keys and values of all heads), P processor width.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._saved import load_module, save_module
from .shape import CacheShape

CONFIG_FILE, WEIGHTS_FILE, KIND = "cache_processor.json", "cache_processor.safetensors", "memarch.CacheProcessor"


class EntryRewriter(Protocol):
    """What `consolidate` needs of a processor: `CacheProcessor`, or a control in its place.

    Attributes:
        shape: of the caches it fits.
        gate: `[L]`, factor of its changes.
    """

    shape: CacheShape

    @property
    def gate(self) -> Tensor:
        """`[L]`."""

    def __call__(self, entries: Tensor, present: Tensor) -> Tensor:
        """Changes `[L, B, S, W]` (or `[L, B, S, W/2]`, values only) of entries `[L, B, S, W]` where `present`."""


class CacheProcessor(nn.Module):
    """Rewrites cached entries in the light of each other: a pre-norm transformer block per layer of the backbone.

    u = [k, v] W_in;  u' = u + MHA(norm(u));  u'' = u' + SwiGLU(norm(u'));  [dk, dv] = norm(u'') W_out;  k += sigmoid(g)
    dk, v += sigmoid(g) dv. Keys come in without their rotation, so entries carry no positions; attention has no causal
    mask. The weights of all layers are stacked: one batched call whatever L is. W_out starts at zero, so a new
    processor changes nothing, to the bit.

    From the paper: the block, its place, one gate per layer, blocks not shared. Ours, where it is silent: all heads in
    one entry, SwiGLU (its published sizes then have the published share of parameters), the last norm, W_out = 0.

    Args:
        config: of the transformers model, or a `CacheShape`.
        processor_dim: P; the paper has 512, which is as large as a small model itself.
        mlp_dim: hidden width of the SwiGLU; 2240 in the paper.
        num_heads: of the block's attention; 16 in the paper.
        values_only: change no keys.
        causal: attend to earlier entries only; a control.

    Shapes: entries `[L, B, S, W]`, present `[L, B, S]` bool -> changes `[L, B, S, W]`, or `[L, B, S, W/2]` with
    `values_only`.
    Raises: ValueError for sizes below 1, or a processor_dim that num_heads does not divide.
    """

    def __init__(
        self,
        config: Any,
        *,
        processor_dim: int = 128,
        mlp_dim: int = 512,
        num_heads: int = 4,
        values_only: bool = False,
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.shape = CacheShape.of(config)
        for name, size in (("processor_dim", processor_dim), ("mlp_dim", mlp_dim), ("num_heads", num_heads)):
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise ValueError(f"{name} must be an integer of at least 1; got {size!r}")
        if processor_dim % num_heads:
            raise ValueError(f"processor_dim must be divisible by num_heads; got {processor_dim} and {num_heads}")
        self.processor_dim, self.mlp_dim, self.num_heads = processor_dim, mlp_dim, num_heads
        self.values_only, self.causal = values_only, causal
        width = self.shape.entry_dim
        self.w_in = self._weight(width, processor_dim)
        self.w_qkv = self._weight(processor_dim, 3 * processor_dim)
        self.w_attention = self._weight(processor_dim, processor_dim)
        self.w_gate_up = self._weight(processor_dim, 2 * mlp_dim)
        self.w_down = self._weight(mlp_dim, processor_dim)
        self.w_out = nn.Parameter(torch.zeros(self.shape.num_layers, processor_dim, width // (1 + values_only)))
        self.norms = nn.Parameter(torch.ones(self.shape.num_layers, 3, processor_dim))
        self.gate_logit = nn.Parameter(torch.zeros(self.shape.num_layers))

    def _weight(self, rows: int, columns: int) -> nn.Parameter:
        return nn.Parameter(torch.randn(self.shape.num_layers, rows, columns) * rows**-0.5)

    @property
    def gate(self) -> Tensor:
        """sigmoid(g), `[L]`."""
        return torch.sigmoid(self.gate_logit)

    def forward(self, entries: Tensor, present: Tensor) -> Tensor:
        """Changes of the entries, before the gate; absent ones neither are attended nor mean anything."""
        num_layers, batch, count, width = entries.shape
        if num_layers != self.shape.num_layers or width != self.shape.entry_dim:
            raise ValueError(
                f"entries must be [L={self.shape.num_layers}, B, S, W={self.shape.entry_dim}]; "
                f"got {list(entries.shape)}"
            )
        if count == 0 or batch == 0:
            return entries.new_zeros(num_layers, batch, count, self.w_out.shape[-1])
        u = torch.bmm(entries.flatten(1, 2), self.w_in)
        u = torch.baddbmm(u, self._attend(self._norm(u, 0), present), self.w_attention)
        gate, up = torch.bmm(self._norm(u, 1), self.w_gate_up).chunk(2, -1)
        u = torch.baddbmm(u, F.silu(gate) * up, self.w_down)
        return torch.bmm(self._norm(u, 2), self.w_out).view(num_layers, batch, count, -1)

    def _attend(self, u: Tensor, present: Tensor) -> Tensor:
        num_layers, batch, count = present.shape
        qkv = torch.bmm(u, self.w_qkv).view(num_layers * batch, count, 3, self.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        # Every entry sees itself, so that an absent one has a softmax, too.
        seen = present.flatten(0, 1)[:, None, None, :] | torch.eye(count, dtype=torch.bool, device=u.device)
        if self.causal:
            seen = seen.tril()
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        return attended.transpose(1, 2).reshape(num_layers, batch * count, -1)

    def _norm(self, u: Tensor, which: int) -> Tensor:
        return F.rms_norm(u, u.shape[-1:]) * self.norms[:, which, None]

    def num_parameters(self) -> int:
        """Trainable numbers."""
        return sum(p.numel() for p in self.parameters())

    def save_pretrained(self, directory: str | Path) -> None:
        """Write cache_processor.json and cache_processor.safetensors, so that they fit beside a model's own files.

        Raises:
            OSError: a full disk or an unwritable directory; files already there are unchanged.
        """
        settings = {
            "kind": KIND,
            **asdict(self.shape),
            "processor_dim": self.processor_dim,
            "mlp_dim": self.mlp_dim,
            "num_heads": self.num_heads,
            "values_only": self.values_only,
            "causal": self.causal,
        }
        save_module(self, settings, Path(directory) / CONFIG_FILE, Path(directory) / WEIGHTS_FILE)

    @classmethod
    def from_pretrained(cls, directory: str | Path, *, device: str | torch.device = "cpu") -> CacheProcessor:
        """Read what `save_pretrained` wrote, in the dtype it was saved in.

        Raises:
            OSError: a file is missing.
            ValueError: a file is corrupt, or is not a cache processor's.
        """
        sizes = ("num_layers", "num_kv_heads", "head_dim")
        names = {*sizes, "processor_dim", "mlp_dim", "num_heads", "values_only", "causal"}

        def make(settings: dict[str, Any]) -> CacheProcessor:
            shape = CacheShape(*(settings.pop(name) for name in sizes))
            return cls(shape, **settings)

        config, weights = Path(directory) / CONFIG_FILE, Path(directory) / WEIGHTS_FILE
        return load_module(make, names, config, weights, kind=KIND).to(device)
