"""Models by a short name: which there are, which is the default, and opening one.

"extractive"            quotes memory, no model
"smollm2"               the default: SmolLM2-135M-Instruct in this process
"hf:NAME_OR_FOLDER"     any causal language model of transformers
"http://HOST/v1#MODEL"  any OpenAI-compatible server
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from memarch.dialogue.errors import GeneratorError, ModelMissing
from memarch.dialogue.user_directories import config_directory

from . import smollm2
from .base import Generator, Progress
from .extractive import ExtractiveGenerator
from .gguf_conversion import is_converted
from .openai_generator import OpenAIGenerator
from .transformers_generator import TransformersGenerator

DEFAULT_MODEL = smollm2.NAME
EXTRACTIVE = "extractive"
_FORMS = f'"{EXTRACTIVE}", "{smollm2.NAME}", "hf:NAME_OR_FOLDER" or "http://HOST:PORT/v1#MODEL"'
_CONFIG = "config.json"
_MODEL_KEY = "model"


@dataclass(frozen=True)
class ModelInfo:
    """A model that `open_generator` knows.

    state: "ready", "installed" (converted at the first use), "missing", "unknown" (found out when it is used).
    """

    spec: str
    state: str
    detail: str
    bytes: int | None = None
    is_default: bool = False


def open_generator(
    spec: str | Generator | None = None,
    *,
    api_key: str | None = None,
    context_tokens: int | None = None,
    num_threads: int | None = None,
    timeout_seconds: float = 120.0,
) -> Generator:
    """A generator by its short name (None: the user's default), or as it is. Nothing is loaded or sent yet.

    api_key, context_tokens: of a server. num_threads: of a model in this process.
    Raises: ValueError for what is no such name.
    """
    if spec is None:
        spec = default_model()
    if not isinstance(spec, str):
        return spec
    kind, value = parse_spec(spec)
    if kind == EXTRACTIVE:
        return ExtractiveGenerator()
    if kind == smollm2.NAME:
        return smollm2.SmolLM2Generator(num_threads=num_threads, timeout_seconds=timeout_seconds)
    if kind == "hf":
        return TransformersGenerator(value, num_threads=num_threads, timeout_seconds=timeout_seconds)
    return OpenAIGenerator(value, api_key=api_key, context_tokens=context_tokens, timeout_seconds=timeout_seconds)


def parse_spec(spec: str) -> tuple[str, str]:
    """Kind ("extractive", "smollm2", "hf", "url") and what follows it. ValueError, which lists the forms."""
    name = spec.strip()
    if name.lower() in (EXTRACTIVE, smollm2.NAME):
        return name.lower(), ""
    if name.lower().startswith(("http://", "https://")):
        OpenAIGenerator(name, api_key="")  # what is no URL raises here
        return "url", name
    if name.startswith("hf:") and name[3:].strip():
        return "hf", name[3:].strip()
    raise ValueError(f"expected a model like {_FORMS}; got {spec[:80]!r}")


def available() -> list[ModelInfo]:
    """The built-in models and, if it is another, the user's default; looks at files only."""
    default = default_model()
    folder = smollm2.model_folder()
    if is_converted(folder):
        size = sum(path.stat().st_size for path in folder.iterdir())
        small = ModelInfo(smollm2.NAME, "ready", str(folder), size, default == smollm2.NAME)
    elif (gguf := smollm2.installed_gguf()) is not None:
        small = ModelInfo(
            smollm2.NAME, "installed", "converted at the first use", gguf.stat().st_size, default == smollm2.NAME
        )
    else:
        small = ModelInfo(smollm2.NAME, "missing", f"memarch models get {smollm2.NAME}", None, default == smollm2.NAME)
    found = [small, ModelInfo(EXTRACTIVE, "ready", "quotes memory, no model", 0, default == EXTRACTIVE)]
    if default not in (smollm2.NAME, EXTRACTIVE):
        kind, value = parse_spec(default)
        folder_there = kind == "hf" and Path(value).expanduser().is_dir()
        state = "ready" if folder_there else "unknown"
        detail = "a server: asked when it is used" if kind == "url" else "transformers"
        found.append(ModelInfo(default, state, detail, None, True))
    return found


def get_model(spec: str, progress: Progress | None = None) -> Path | None:
    """Download and convert what a model needs, the only place that goes to the network; where it is, None for a URL.

    Raises: GeneratorError if that fails; ValueError for what is no model.
    """
    kind, value = parse_spec(spec)
    if kind == smollm2.NAME:
        return smollm2.download(progress)
    if kind != "hf" or Path(value).expanduser().is_dir():
        return Path(value).expanduser() if kind == "hf" else None
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ModelMissing(f"downloading needs huggingface_hub ({error}): pip install 'memarch[chat]'") from error
    if progress is not None:
        progress("download", 0, 1)
    try:
        # No pickles, and not the same weights again for other frameworks.
        patterns = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
        folder = snapshot_download(value, allow_patterns=patterns)
    except (OSError, ValueError) as error:
        raise GeneratorError(f"cannot download {value!r} ({type(error).__name__}: {error})") from error
    if progress is not None:
        progress("download", 1, 1)
    return Path(folder)


def default_model(*, directory: Path | None = None) -> str:
    """The user's default, `DEFAULT_MODEL` if none was set or what was set is none. directory: of the settings."""
    model = _settings(directory).get(_MODEL_KEY)
    try:
        parse_spec(str(model or ""))
    except ValueError:
        return DEFAULT_MODEL
    return str(model)


def set_default_model(spec: str, *, directory: Path | None = None) -> Path:
    """Make this model the default of this user; the file that says so. ValueError for what is no model."""
    parse_spec(spec)
    folder = directory or config_directory()
    folder.mkdir(parents=True, exist_ok=True)
    settings = {**_settings(directory), _MODEL_KEY: spec.strip()}
    handle, temporary = tempfile.mkstemp(prefix=f".{_CONFIG}.", dir=folder)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(json.dumps(settings, indent=2) + "\n")
        os.replace(temporary, folder / _CONFIG)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return folder / _CONFIG


def _settings(directory: Path | None) -> dict[str, object]:
    """All settings of the file, {} where there is none or it is damaged."""
    try:
        value = json.loads(((directory or config_directory()) / _CONFIG).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
