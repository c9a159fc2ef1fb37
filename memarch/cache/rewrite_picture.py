"""Which entries of a cache were rewritten, by layer and step, and by how much: noted while it happens, drawn as a PNG.

    recorder = RewriteRecorder(model.config)
    with memarch.consolidate(model, processor, tokenizer, on_rewrite=recorder) as c:
        model.generate(**inputs, past_key_values=c.new_cache())
    draw_rewrites(recorder, "rewrites.png")

L layers, S selected entries, T slots.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memarch._figures import save_png

from .consolidate import Rewrite
from .shape import CacheShape


@dataclass(frozen=True)
class RewrittenStep:
    """One rewriting of one row, without the changes themselves.

    Attributes:
        length: slots of the cache then.
        index: int64 `[L, S]`, the slots rewritten, -1 for none.
        keys: float32 `[L, S]`, root mean square of what was added to the numbers of each key; None if none change.
        values: float32 `[L, S]`, the same of each value.
    """

    length: int
    index: Tensor
    keys: Tensor | None
    values: Tensor

    def map(self, num_slots: int) -> Tensor:
        """`[L, num_slots]`: root mean square of the change of each slot's entry, NaN where it was not rewritten."""
        square = self.values.square()
        if self.keys is not None:
            square = (square + self.keys.square()) / 2
        there = self.index >= 0
        # Absent entries go to a slot of their own, which is cut off.
        at = torch.where(there, self.index, num_slots)
        return torch.full((len(at), num_slots + 1), torch.nan).scatter(1, at, square.sqrt())[:, :-1]

    def by_layer(self, part: Tensor) -> Tensor:
        """`[L]`: root mean square of `keys` or `values` over the entries that were rewritten, NaN for none."""
        there = self.index >= 0
        return (part.square().masked_fill(~there, 0.0).sum(1) / there.sum(1)).sqrt()


class RewriteRecorder:
    """Keeps of every rewriting what `draw_rewrites` needs: give it to `consolidate` as `on_rewrite`.

    Args:
        config: of the transformers model, or a `CacheShape`.

    Attributes:
        steps: by row of the batch, its rewritings in order. Rows of a beam search are those of the moment.
    """

    def __init__(self, config: Any) -> None:
        self.shape = CacheShape.of(config)
        self.steps: dict[int, list[RewrittenStep]] = {}

    def __call__(self, rewrite: Rewrite) -> None:
        """Note a rewriting.

        Raises: ValueError if it is of a cache of another shape.
        """
        half = self.shape.entry_dim // 2
        num_layers, width = rewrite.change.shape[0], rewrite.change.shape[-1]
        if num_layers != self.shape.num_layers or width not in (half, 2 * half):
            raise ValueError(
                f"the recorder was made for {self.shape}; got changes of {num_layers} layers and {width} numbers an "
                "entry: make it from the config of the model that consolidate was given"
            )
        size = [
            part.float().square().mean(-1).sqrt().cpu() for part in rewrite.change.split(half, -1)
        ]  # keys and values, or values only
        index = rewrite.index.cpu()
        for n, row in enumerate(rewrite.rows.tolist()):
            keys = size[0][:, n] if len(size) == 2 else None
            self.steps.setdefault(row, []).append(RewrittenStep(rewrite.length, index[:, n], keys, size[-1][:, n]))


def draw_rewrites(recorder: RewriteRecorder, path: str | Path, *, row: int = 0, title: str = "") -> None:
    """Draw one row's rewritings: above, which entries, a band of all layers for each step; below, how much by layer.

    Grey is what the cache held and was left alone. The last entries of each band are the step just completed, the
    scattered ones before them those it attended to.

    Args:
        recorder: that `consolidate` told of them.
        path: of the PNG; what was there stays until the new one is whole.
        row: of the batch.
        title: above it.

    Raises:
        ValueError: nothing was rewritten in that row.
        ImportError: matplotlib is missing.
        OSError: the file cannot be written.
    """
    steps = recorder.steps.get(row, [])
    if not steps:
        had = ", ".join(map(str, sorted(recorder.steps))) or "none"
        raise ValueError(
            f"row {row} has no rewriting to draw (rows that have: {had}): a step ends when a token with a newline "
            "follows it, so generate several lines"
        )
    try:
        from matplotlib import colormaps
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError as error:
        raise ImportError("drawing what was rewritten needs matplotlib: pip install 'memarch[chat]'") from error
    num_layers, num_slots = recorder.shape.num_layers, max(step.length for step in steps)
    height = min(24.0, 1.5 + 0.6 * len(steps))
    figure = Figure(figsize=(10, height + 3.2), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=[height, 2.6])
    colours = colormaps["viridis"].with_extremes(bad=(0.0, 0.0, 0.0, 0.0))

    axis = figure.add_subplot(grid[0, :])
    held = torch.stack([(torch.arange(num_slots) < step.length).float() for step in steps])
    held = held.repeat_interleave(num_layers, 0)
    axis.imshow(held.numpy(), aspect="auto", cmap="Greys", vmin=0, vmax=8, interpolation="nearest")
    changed = torch.cat([step.map(num_slots) for step in steps])
    image = axis.imshow(changed.numpy(), aspect="auto", cmap=colours, vmin=0, interpolation="nearest")
    for boundary in range(1, len(steps)):
        axis.axhline(boundary * num_layers - 0.5, color="white", linewidth=1.5)
    centres = [(n + 0.5) * num_layers - 0.5 for n in range(len(steps))]
    every = -(-len(steps) // 40)
    axis.set_yticks(centres[::every], [str(n + 1) for n in range(0, len(steps), every)])
    axis.set_ylabel(f"step (in each: layers 0 to {num_layers - 1}, downwards)")
    axis.set_xlabel("position in the cache")
    figure.colorbar(image, ax=axis, label="change (RMS)")

    sizes = {
        "keys": [step.by_layer(step.keys) for step in steps if step.keys is not None],
        "values": [step.by_layer(step.values) for step in steps],
    }
    largest = max(float(size.nan_to_num().max()) for part in sizes.values() for size in part)
    for column, (name, part) in enumerate(sizes.items()):
        axis = figure.add_subplot(grid[1, column])
        axis.set_title(f"change of {name} (RMS over entries)", fontsize="medium")
        if not part:
            axis.text(0.5, 0.5, "keys are left alone", ha="center", va="center", transform=axis.transAxes)
            axis.set_axis_off()
            continue
        edges = (0.5, len(steps) + 0.5, num_layers - 0.5, -0.5)
        shown = torch.stack(part, 1).numpy()
        image = axis.imshow(
            shown, aspect="auto", cmap=colours, vmin=0, vmax=largest or None, interpolation="nearest", extent=edges
        )
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.yaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_xlabel("step")
        axis.set_ylabel("layer")
        figure.colorbar(image, ax=axis)
    if title:
        figure.suptitle(title)
    save_png(figure, path)
