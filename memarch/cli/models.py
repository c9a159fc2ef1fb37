"""`memarch models`: which models can answer in a chat, what one needs, and which is the default."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from . import _memory_show as show
from ._memory_open import JsonOption, failing, utf8

models = typer.Typer(help="List, get and choose the models that answer in `memarch chat`.", no_args_is_help=True)
ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", callback=utf8, help="smollm2, extractive, hf:NAME_OR_FOLDER, http://...#MODEL")
]


@models.command("list")
def list_(as_json: JsonOption = False) -> None:
    """List the models at hand.

    In a pipe, a line a model, between tabs: model, "default" or nothing, state, bytes, what it is.
    """
    from memarch.dialogue.generators.registry import available

    with failing():
        found = available()
    if as_json:
        show.emit_json({"models": found})
        return
    rows = []
    for model in found:
        size = "unknown" if model.bytes is None else show.num_bytes(model.bytes)
        rows.append([model.spec, "default" if model.is_default else "", model.state, size, model.detail])
    show.emit_table(("model", "", "state", "size", "what"), rows)
    if sys.stdout.isatty():
        show.say("Any other: hf:NAME_OR_FOLDER of transformers, http://HOST:PORT/v1#MODEL of a server")


@models.command("show")
def show_(
    model: Annotated[str | None, typer.Argument(metavar="MODEL", callback=utf8, help="Default: the default.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a model is and whether it can answer; loads it, or asks its server. Exit code 3 if it cannot."""
    from memarch.dialogue.generators.registry import default_model, open_generator

    with failing():
        spec = default_model() if model is None else model
        generator = open_generator(spec)
        with show.bar(f"load {spec}") as progress:
            generator.load(lambda what, done, total: progress(done, total))
        found: dict[str, Any] = {
            "model": spec,
            "name": generator.name,
            "context_tokens": generator.context_tokens,
            "is_default": spec == default_model(),
        }
        if hasattr(generator, "models"):
            found["offers"] = generator.models()
    if as_json:
        show.emit_json(found)
        return
    told = {
        "model": found["name"],
        "reads": f"{found['context_tokens']:,} tokens, prompt and answer together",
        "default": "yes" if found["is_default"] else f"no; make it that with `memarch models default {spec}`",
    }
    if "offers" in found:
        told["offers"] = ", ".join(found["offers"])
    show.emit_pairs(told)


@models.command()
def default(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", callback=utf8, help="The new default; none: print it.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print the default model, or make another one the default of this user."""
    from memarch.dialogue.generators.registry import default_model, set_default_model

    with failing():
        path = None if model is None else set_default_model(model)
        found = default_model()
    if as_json:
        show.emit_json({"model": found} | ({} if path is None else {"path": str(path)}))
    else:
        show.emit(found)


@models.command()
def get(model: ModelArgument, as_json: JsonOption = False) -> None:
    """Download what a model needs: the only command that goes to the network by itself."""
    from memarch.dialogue.generators.registry import get_model

    with failing(), show.bar(f"get {model}") as progress:
        path = get_model(model, lambda what, done, total: progress(done, total))
    if as_json:
        show.emit_json({"model": model, "path": None if path is None else str(path)})
    else:
        show.emit(f"nothing to get for {model}" if path is None else str(path))
