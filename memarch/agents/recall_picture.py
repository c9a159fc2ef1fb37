"""What a memory read at each decision of an episode, as a PNG."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from memarch._figures import save_png

from .watching import WatchedEpisode


def draw_recall(episode: WatchedEpisode, path: str | Path, *, title: str = "") -> None:
    """Draw the episode's reads: for each layer, decisions to the right, the steps they read upwards.

    Args:
        episode: from `watch`.
        path: of the PNG; what was there stays until the new one is whole.
        title: above it.

    Raises:
        ValueError: no layer of the agent's memory says what it reads ("hcam" does).
        ImportError: matplotlib is missing.
        OSError: the file cannot be written.
    """
    if not episode.reads:
        raise ValueError("this agent's memory does not say what it reads: only 'hcam' does, and modules with reads()")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("drawing what was read needs matplotlib: pip install 'memarch[agents]'") from error
    layers, steps = list(episode.reads), len(episode.actions)
    figure = Figure(figsize=(9, 3.2 * len(layers) + 1.6), layout="constrained")
    ratios = [*(3.2 for _ in layers), 1.0]
    axes = np.atleast_1d(figure.subplots(len(layers) + 1, 1, sharex=True, height_ratios=ratios))
    for index, (axis, layer) in enumerate(zip(axes, layers, strict=False)):
        weights = episode.read_weights(layer)
        image = axis.imshow(weights.T, origin="lower", aspect="auto", cmap="magma", vmin=0, interpolation="nearest")
        axis.plot([0, steps - 1], [0, steps - 1], color="white", linewidth=0.5, alpha=0.5)
        axis.set_ylabel(f"step read (layer {index + 1})")
        figure.colorbar(image, ax=axis, label="weight")
    axes[-1].step(range(steps), episode.rewards, where="mid")
    axes[-1].set_ylabel("reward")
    axes[-1].set_xlabel("step of the decision")
    success = "" if episode.success is None else f", {'success' if episode.success else 'failure'}"
    figure.suptitle(f"{title}  total reward {sum(episode.rewards):.2f}{success}".strip())
    save_png(figure, path)
