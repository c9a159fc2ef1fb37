"""What settings of trainings share: reading back from JSON, the checks, the schedule; the order of their fields."""

import json
from dataclasses import asdict, dataclass

import pytest

from memarch.cache.training import CacheSettings
from memarch.training import LMSettings
from memarch.training.settings import FromJson, OptimizerSettings


@dataclass(frozen=True)
class Two(FromJson):
    a: int
    b: str = "x"


def test_from_json_takes_all_fields_and_no_other():
    assert Two.from_json({"a": 1, "b": "y"}, source="s") == Two(1, "y")
    for value, got in (({"a": 1}, "a"), ({"a": 1, "b": "y", "c": 2}, "a, b, c")):
        with pytest.raises(ValueError, match=f"run.json: expected the settings a, b; got {got}$"):
            Two.from_json(value, source="run.json")


@pytest.mark.parametrize(("kind", "count"), [(LMSettings, "seq_len"), (CacheSettings, "max_eval_problems")])
def test_of_both_trainings(kind, count):
    settings = kind(num_steps=100, learning_rate=1.0, warmup_steps=10)
    assert isinstance(settings, OptimizerSettings)
    assert kind.from_json(json.loads(json.dumps(asdict(settings))), source="x") == settings
    assert settings.learning_rate_at(4) == 0.5 and settings.learning_rate_at(55) == pytest.approx(0.55)
    with pytest.raises(ValueError, match=f"{count} must be an integer of at least 1; got True"):
        kind(**{"num_steps": 5, count: True})
    with pytest.raises(ValueError, match="warmup_steps must be an integer of at least 0; got -1"):
        kind.from_json(asdict(settings) | {"warmup_steps": -1}, source="x")


def test_a_checkpoints_settings_keep_their_order():
    shared = ["learning_rate", "warmup_steps", "weight_decay", "gradient_clip", "eval_every", "save_every"]
    assert list(asdict(LMSettings(1))) == ["num_steps", "batch_size", "seq_len", *shared, "max_eval_tokens", "seed"]
    assert list(asdict(CacheSettings(1))) == ["num_steps", "batch_size", *shared, "max_eval_problems", "seed"]
