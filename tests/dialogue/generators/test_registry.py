"""Models by short names, and the user's default among them."""

import subprocess
import sys
from pathlib import Path

import pytest

from memarch.dialogue.errors import GeneratorError
from memarch.dialogue.generators import registry, smollm2
from memarch.dialogue.generators.extractive import ExtractiveGenerator
from memarch.dialogue.generators.openai_generator import OpenAIGenerator
from memarch.dialogue.generators.registry import (
    available,
    default_model,
    get_model,
    open_generator,
    parse_spec,
    set_default_model,
)
from memarch.dialogue.generators.smollm2 import SmolLM2Generator
from memarch.dialogue.generators.transformers_generator import TransformersGenerator

from .._scripted import ScriptedGenerator


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without settings or models."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("spec", "kind", "name"),
    [
        ("extractive", ExtractiveGenerator, "extractive"),
        (" SmolLM2 ", SmolLM2Generator, "smollm2"),
        ("hf:org/model", TransformersGenerator, "org/model"),
        ("http://localhost:11434/v1#llama3.2:1b", OpenAIGenerator, "http://localhost:11434/v1#llama3.2:1b"),
    ],
)
def test_specs_open_their_kind_without_loading_anything(spec: str, kind: type, name: str) -> None:
    model = open_generator(spec)
    assert type(model) is kind and model.name == name


def test_generators_stay_as_they_are_and_options_arrive(tiny_model: Path) -> None:
    scripted = ScriptedGenerator()
    assert open_generator(scripted) is scripted
    assert open_generator("http://h/v1#m", context_tokens=99, api_key="k").context_tokens == 99
    assert list(
        open_generator(f"hf:{tiny_model}", num_threads=1).stream([{"role": "user", "content": "x"}], max_tokens=2)
    )


@pytest.mark.parametrize("spec", ["", "gpt-5", "hf:", "http://", "smollm3"])
def test_other_names_are_refused_with_the_forms(spec: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_spec(spec)
    with pytest.raises(ValueError, match="expected"):
        set_default_model(spec)


def test_the_default_is_kept_in_the_settings_beside_others(home: Path) -> None:
    assert default_model() == "smollm2" and isinstance(open_generator(), SmolLM2Generator)
    path = set_default_model("extractive")
    assert path == registry.config_directory() / "config.json" and default_model() == "extractive"
    path.write_text('{"colour": "never", "model": "extractive"}')
    set_default_model("http://h/v1#m")
    assert "never" in path.read_text() and open_generator().name == "http://h/v1#m"
    assert [p.name for p in path.parent.iterdir()] == ["config.json"]
    for damaged in ("{", "[]", '{"model": 7}', '{"model": "gone"}'):
        path.write_text(damaged)
        assert default_model() == "smollm2"


def test_what_is_available_says_its_state(home: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm2, "installed_gguf", lambda: None)
    states = {info.spec: (info.state, info.is_default) for info in available()}
    assert states == {"smollm2": ("missing", True), "extractive": ("ready", False)}
    gguf = home / "model.gguf"
    gguf.write_bytes(b"1234")
    monkeypatch.setattr(smollm2, "installed_gguf", lambda: gguf)
    assert (available()[0].state, available()[0].bytes) == ("installed", 4)
    monkeypatch.setattr(registry, "is_converted", lambda folder: True)
    smollm2.model_folder().mkdir(parents=True)
    (smollm2.model_folder() / "model.safetensors").write_bytes(b"123456")
    assert (available()[0].state, available()[0].bytes) == ("ready", 6)
    set_default_model(f"hf:{tiny_model}")
    assert [(info.spec, info.state) for info in available() if info.is_default] == [(f"hf:{tiny_model}", "ready")]
    set_default_model("http://h/v1#m")
    assert available()[-1].spec == "http://h/v1#m" and "asked when it is used" in available()[-1].detail


def test_getting_a_model(tiny_model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    assert get_model("extractive") is None and get_model("http://h/v1") is None
    assert get_model(f"hf:{tiny_model}") == tiny_model
    monkeypatch.setattr(smollm2, "download", lambda progress: tmp_path)
    assert get_model("smollm2") == tmp_path
    asked: list[object] = []

    def snapshot(name: str, *, allow_patterns: list[str]) -> str:
        asked.extend([name, "*.bin" in allow_patterns])
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    steps: list[int] = []
    assert get_model("hf:org/model", lambda what, done, total: steps.append(done)) == tmp_path
    assert asked == ["org/model", False] and steps == [0, 1]

    def offline(name: str, *, allow_patterns: list[str]) -> str:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(GeneratorError, match="cannot download 'org/model' .*no network"):
        get_model("hf:org/model")


def test_importing_it_is_light() -> None:
    heavy = ["torch", "transformers", "faiss", "sentence_transformers", "gguf", "huggingface_hub", "jinja2", "rich"]
    code = "import sys, memarch.dialogue.generators.registry as r; r.available(); "
    code += f"print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
