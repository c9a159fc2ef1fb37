"""The progress bar: plain lines in a pipe, a bar on a terminal."""

import io

from rich.console import Console

from memarch.agents import AgentEvaluation, Evaluate, ProgressBar
from memarch.agents.progress import describe

from ._envs import agent


def test_lines_in_a_pipe(tmp_path) -> None:
    text = io.StringIO()
    bar = ProgressBar(Console(file=text))
    agent(out_dir=tmp_path).learn(30 * 48, callbacks=[bar, Evaluate(10_000, num_episodes=4)])
    lines = text.getvalue().splitlines()
    updates = [line for line in lines if "steps/s  ETA" in line]
    assert 10 <= len(updates) <= 22 and "\x1b" not in text.getvalue()
    assert updates[-1].startswith("gru  step 1,440/1,440  return ") and updates[-1].endswith("ETA 0:00:00")
    assert "  success 1.00  " in updates[-1]
    assert any(line.startswith("gru  step 1,440  unseen seeds: success 1.000") for line in lines)
    assert lines[-1].endswith("step-001440")


def test_a_bar_on_a_terminal() -> None:
    text = io.StringIO()
    agent().learn(96, callbacks=[ProgressBar(Console(file=text, force_terminal=True, width=140), label="mine")])
    assert "mine" in text.getvalue() and "96/96" in text.getvalue()


def test_an_evaluation_in_words() -> None:
    told = describe(AgentEvaluation(0.5, 0.6, 0.1, 0.9, None, 7.25, 8))
    assert told == "unseen seeds: return 0.500, interquartile mean 0.600 [0.100, 0.900], 8 episodes of 7.2 steps"
