"""Act: an agent with HCAM learns what only memory can, and a picture of what it reads when it decides."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from ..errors import expected
from . import DemoOptions

TITLE = "an agent that remembers with HCAM"
ENV, LENGTH = "memarch/MemoryLength-v0", 30
STEPS, ENOUGH = 100_000, 0.97
EPISODES = 128
FIGURE = Path("runs") / "demo" / "agent.png"


def run(options: DemoOptions, console: Console, *, figure: Path = FIGURE, episodes: int = EPISODES) -> None:
    """Play untrained, train, play again on other seeds, draw. Steps end at `ENOUGH`, or at the options' steps."""
    try:
        from memarch.agents import PPO, PolicySettings, PPOSettings, ProgressBar, StopAtThreshold, draw_recall, watch
    except ImportError as error:
        _say(console, f"No agent: {error}.")  # The other acts do not need it.
        return
    import torch

    # The last four steps are seen directly, so the bit of the first step has to come from a chunk.
    sizes = PolicySettings(d_model=32, num_heads=2, chunk_size=4, top_k=2, num_chunks=16, attention_steps=4)
    settings = PPOSettings(
        rollout_steps=64,
        learning_rate=3e-3,
        schedule="constant",
        gae_lambda=0.9,
        num_minibatches=2,
        seed=options.seed,
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # Such networks are small.
    agent = PPO(ENV, memory="hcam", env_options={"length": LENGTH}, policy=sizes, settings=settings, device="cpu")
    try:
        _say(
            console,
            f"{ENV}: a bit is shown at first, and asked for {LENGTH} steps later; guessing is right at half of them.",
        )
        before = agent.evaluate(num_episodes=episodes, seed=options.seed)
        stop = StopAtThreshold("success", ENOUGH, of="training")
        result = agent.learn(options.steps or STEPS, callbacks=[ProgressBar(console), stop])
        after = agent.evaluate(num_episodes=episodes, seed=options.seed)
        _say(
            console,
            f"Success in {after.num_episodes} episodes on seeds it has not seen: {before.success:.2f} before, "
            f"{after.success:.2f} after {result.step:,} steps in {agent.train_seconds:.0f} s.",
        )
        figure.parent.mkdir(parents=True, exist_ok=True)
        with expected(OSError, ImportError):
            draw_recall(watch(agent, seed=options.seed), figure, title=ENV)
        _say(console, f"What it read at each step of an episode: {figure}")
        _say(console, "Of a bit it is enough to look for one value: to leave its chunk aside can be an answer as well.")
    finally:
        agent.close()
        torch.set_num_threads(threads)


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
