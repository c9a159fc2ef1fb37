"""Where a transformers model named on the command line is."""

from __future__ import annotations

from pathlib import Path


def model_folder(name: str) -> Path:
    """Where the model is; "smollm2" is converted on first use.

    Raises:
        OSError: there is no such directory, or the default model cannot be got.
    """
    if name == "smollm2" and not Path(name).exists():
        from memarch.dialogue.errors import GeneratorError
        from memarch.dialogue.generators.smollm2 import download

        try:
            return download()
        except GeneratorError as error:
            raise OSError(str(error)) from error
    if not (Path(name) / "config.json").is_file():
        raise FileNotFoundError(
            f"--model {name} is no directory with a config.json: give smollm2, or where a transformers model was saved"
        )
    return Path(name)
