"""Settings: ranges, the schedule, JSON and back."""

import math
from dataclasses import asdict

import pytest

from memarch.agents import PolicySettings, PPOSettings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rollout_steps": 0}, "rollout_steps must be an integer of at least 1; got 0"),
        ({"window_steps": 5, "rollout_steps": 12}, "window_steps must divide rollout_steps=12; got 5"),
        ({"learning_rate": -1.0}, "learning_rate must be a positive number; got -1.0"),
        ({"clip": math.nan}, "clip must be a positive number; got nan"),
        ({"entropy_weight": -0.1}, "entropy_weight must be a number of at least 0; got -0.1"),
        ({"advantage_floor": math.inf}, "advantage_floor must be a number of at least 0; got inf"),
        ({"discount": 1.5}, r"discount must be a number in \[0, 1\]; got 1.5"),
        ({"schedule": "cosine"}, "schedule must be 'linear' or 'constant'; got 'cosine'"),
        ({"seed": True}, "seed must be an integer of at least 0; got True"),
    ],
)
def test_bad_training_settings(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PPOSettings(**options)


def test_bad_sizes() -> None:
    with pytest.raises(ValueError, match="num_layers must be an integer of at least 1; got 1.5"):
        PolicySettings(num_layers=1.5)
    with pytest.raises(ValueError, match="reset_memory must be 'episode' or 'never'; got 'always'"):
        PolicySettings(reset_memory="always")
    with pytest.raises(ValueError, match="chunk_summary must be 'mean' or 'learned'; got 'max'"):
        PolicySettings(chunk_summary="max")


def test_json_and_back() -> None:
    settings = PPOSettings(window_steps=32, schedule="constant")
    assert PPOSettings.from_json(asdict(settings), source="x") == settings
    with pytest.raises(ValueError, match="run.json: expected the settings attention_steps, .*; got d_model$"):
        PolicySettings.from_json({"d_model": 3}, source="run.json")


def test_windows_and_schedule() -> None:
    assert PPOSettings().num_windows == 1 and PPOSettings(window_steps=32).num_windows == 4
    rates = [PPOSettings(learning_rate=2.0).learning_rate_at(done) for done in (0, 0.5, 1.0, 1.2)]
    assert rates == [2.0, 1.0, 0.0, 0.0]
    assert PPOSettings(learning_rate=2.0, schedule="constant").learning_rate_at(0.9) == 2.0
