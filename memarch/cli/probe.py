"""`memarch probe memory`: what a model or a memory recognises, recalls and retains after a few exposures."""

from __future__ import annotations

import importlib
import json
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ._model_folder import model_folder
from .errors import INTERRUPTED, USAGE, expected, fail

if TYPE_CHECKING:
    from memarch.probes import FewShotMemory, ProbedMemory, ProbeReport

DIALOGUE = "dialogue"
probe = typer.Typer(help="Measure what a memory knows.", no_args_is_help=True)


@probe.callback()
def _root() -> None:
    pass


@probe.command("memory")
def probe_memory(
    model: Annotated[
        str,
        typer.Option(help="smollm2, a directory of a transformers model, a run of `memarch train lm`, or dialogue."),
    ] = "smollm2",
    by: Annotated[
        str, typer.Option(help="weights: fine-tune on the items. state: only read them (a run of memarch).")
    ] = "weights",
    items: Annotated[int, typer.Option(help="Sentences to study.")] = 16,
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Take the sentences from text files (repeat it); foils are then novel and random."),
    ] = None,
    exposures: Annotated[str, typer.Option(help="Ask after so many exposures.")] = "0,1,3,10",
    updates: Annotated[str, typer.Option(help="Then write other sentences; ask after so many updates.")] = "1,5,10,30",
    lr: Annotated[float, typer.Option(help="Learning rate of fine-tuning.")] = 1e-4,
    batch_size: Annotated[int, typer.Option(help="Sentences per step of fine-tuning, and per update.")] = 8,
    seed: Annotated[int, typer.Option(help="Of the sentences.")] = 0,
    plot: Annotated[Path | None, typer.Option(help="Draw the curves into this PNG.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the table.")] = False,
) -> None:
    """Expose a memory to sentences, ask what it knows, write other sentences, ask again.

    Every sentence has four foils: another one, the same in the passive voice, with synonyms, and with its words
    shuffled; a sentence of --data has the first and the last. Recognition is how often the sentence is more familiar
    than its foil; recall is its second half, given the first.
    """
    with expected(ValueError, code=USAGE):
        counts = _counts("--exposures", exposures), _counts("--updates", updates)
        if by not in ("weights", "state"):
            raise ValueError(f"--by must be weights or state; got {by!r}")
        if items < 2 or batch_size < 1 or lr <= 0:
            got = f"{items}, {batch_size}, {lr}"
            raise ValueError(f"--items must be at least 2, --batch-size 1, --lr above 0; got {got}")
    from memarch.data import load_text
    from memarch.data.sentences import memory_sentences, text_sentences
    from memarch.probes import FewShotMemory

    if plot is not None:
        with expected(ImportError):
            _figure_class()
    num_others = max(64, 2 * batch_size)
    if data:
        with expected(ValueError, OSError):
            drawn = text_sentences(load_text(data).text, items, num_others=num_others, seed=seed)
    else:
        drawn = memory_sentences(items, num_others=num_others, seed=seed)
    with ExitStack() as stack:
        with expected():
            memory, encode = _open(stack, model, by, lr, batch_size)
        made = FewShotMemory(
            [encode(words) for words in drawn.study],
            foils={kind: [encode(words) for words in sentences] for kind, sentences in drawn.foils().items()},
            others=[encode(words) for words in drawn.others],
        )
        report = _run(made, memory, counts, batch_size, quiet=as_json)
    if plot is not None:
        with expected(OSError):
            draw(plot, report, title=f"{model}, by {'search' if model == DIALOGUE else by}: {items} sentences")
    if as_json:
        settings = {"model": model, "by": by, "items": items, "lr": lr, "batch_size": batch_size, "seed": seed}
        settings["data"] = [str(path) for path in data or ()]
        typer.echo(json.dumps({**settings, "rows": [vars(row) for row in report.rows]}))
    else:
        _print(report, plot)


def draw(path: Path, report: ProbeReport, *, title: str) -> None:
    """Write a PNG of recognition and recall by exposures, then by updates. Raises: ImportError, OSError."""
    figure = _figure_class()(figsize=(10, 4.2), layout="constrained")
    learned = [row for row in report.rows if not row.updates]
    last = learned[-1:] if learned else []
    kept = [*last, *(row for row in report.rows if row.updates)]
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, rows, attribute in ((left, learned, "exposures"), (right, kept, "updates")):
        places = range(len(rows))
        for kind in report.rows[0].recognition:
            axes.plot(places, [row.recognition[kind] for row in rows], "o-", label=f"recognition, {kind}")
        axes.plot(places, [row.recall for row in rows], "s-", color="black", label="recall")
        axes.axhline(0.5, color="gray", linewidth=0.8, linestyle=":")
        axes.set_xticks(places, [str(getattr(row, attribute)) for row in rows])
        axes.set_ylim(-0.03, 1.05)
        axes.set_xlabel(f"{attribute}" if attribute == "exposures" else "updates with other sentences")
    left.legend(fontsize=8, loc="lower right")
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, format="png")


def _run(
    made: FewShotMemory, memory: ProbedMemory, counts: tuple[list[int], list[int]], batch_size: int, *, quiet: bool
) -> ProbeReport:
    def say(text: str) -> None:
        if not quiet:
            typer.echo(f"{text} ...", err=True)

    try:
        with expected(ValueError, code=USAGE):
            return made.run(memory, exposures=counts[0], updates=counts[1], update_items=batch_size, progress=say)
    except KeyboardInterrupt:
        fail("interrupted", INTERRUPTED)


def _open(stack: ExitStack, model: str, by: str, lr: float, batch_size: int) -> tuple[ProbedMemory, Any]:
    """The memory, and how it wants sentences: as words, or as tokens."""
    if model == DIALOGUE:
        return _dialogue(stack)
    directory = Path(model).expanduser()
    if (directory / "config.json").is_file() and "mixer" in json.loads((directory / "config.json").read_text()):
        return _memory_lm(directory, by, lr, batch_size)
    if directory.is_dir() and any(directory.glob("step-*")):
        from memarch.training import resolve_checkpoint

        return _memory_lm(resolve_checkpoint(directory), by, lr, batch_size)
    if by == "state":
        raise ValueError(f"--by state reads a run of `memarch train lm`; {model} is none: use --by weights")
    return _transformers(model, lr, batch_size)


def _dialogue(stack: ExitStack) -> tuple[ProbedMemory, Any]:
    import memarch
    from memarch.probes import SearchedMemory

    folder = stack.enter_context(tempfile.TemporaryDirectory())
    store = memarch.DialogueMemory(folder, user="probe", embedder=None)
    stack.callback(store.close)
    return SearchedMemory(store), tuple


def _memory_lm(directory: Path, by: str, lr: float, batch_size: int) -> tuple[ProbedMemory, Any]:
    from memarch.data import load_tokenizer
    from memarch.models import MemoryLMForCausalLM
    from memarch.probes import FineTunedLM, StateMemory

    network = MemoryLMForCausalLM.from_pretrained(directory)
    tokenizer = load_tokenizer(directory, network.config.tokenizer)
    newline = tokenizer.encode("\n")[-1]

    def encode(words: tuple[str, ...]) -> tuple[int, ...]:
        return tuple(tokenizer.encode(" ".join(words)))

    if by == "state":
        return StateMemory(network.eval(), separator=newline), encode
    return FineTunedLM(network, lr=lr, batch_size=batch_size, prefix=(newline,)), encode


def _transformers(model: str, lr: float, batch_size: int) -> tuple[ProbedMemory, Any]:
    from memarch.probes import FineTunedLM

    transformers = importlib.import_module("transformers")
    transformers.utils.logging.disable_progress_bar()
    directory = model_folder(model)
    network = transformers.AutoModelForCausalLM.from_pretrained(directory, local_files_only=True, dtype="float32")
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory, local_files_only=True)
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id

    def encode(words: tuple[str, ...]) -> tuple[int, ...]:
        return tuple(tokenizer(" ".join(words), add_special_tokens=False)["input_ids"])

    return FineTunedLM(network, lr=lr, batch_size=batch_size, prefix=() if start is None else (start,)), encode


def _print(report: ProbeReport, plot: Path | None) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for scores, title in (
        ("recognition", "Recognised beside its foil (0.5 is chance), recalled from its first half"),
        ("change", "Familiarity grew more than a foil's"),
    ):
        header, lines = report.table(scores)
        table = Table(*header, title=title, title_justify="left")
        for line in lines:
            table.add_row(*line)
        console.print(table)
    if plot is not None:
        typer.echo(f"curves: {plot}")


def _counts(name: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise ValueError(f"{name} must be whole numbers with commas between; got {text!r}") from None


def _figure_class() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f"drawing needs matplotlib ({error}): pip install 'memarch[chat]'") from error
    return Figure
