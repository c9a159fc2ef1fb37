"""`memarch train cache`: train a cache processor, or a peer of one, on questions with answers of several lines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ._model_folder import model_folder
from ._training_runs import run_callbacks, run_trainer, say, usable_device, was_given
from .errors import USAGE, expected, fail

if TYPE_CHECKING:
    from rich.console import Console

RUN_FILE = "run.json"
RESUME_OPTIONS = ("resume", "steps", "device", "out")


def train_cache(
    ctx: typer.Context,
    model: Annotated[str, typer.Option(help="smollm2, or a directory of a transformers model.")] = "smollm2",
    data: Annotated[
        Path | None,
        typer.Option(help="JSON Lines of question and answer, such as GSM8K's; or a directory with train.jsonl."),
    ] = None,
    validation: Annotated[
        Path | None, typer.Option(help="Another such file to evaluate on; default: a tenth of the data.")
    ] = None,
    arm: Annotated[
        str, typer.Option(help="processor, values-only, causal, random-selection, mean-shift, lora, pause, sft.")
    ] = "processor",
    sft_steps: Annotated[int, typer.Option(help="Stage 1: steps of fine-tuning the whole model first.")] = 0,
    steps: Annotated[int, typer.Option(help="Stage 2: steps of training the arm on the frozen model.")] = 200,
    batch_size: Annotated[int, typer.Option(help="Problems per step.")] = 16,
    lr: Annotated[float, typer.Option(help="Highest learning rate of stage 2.")] = 1e-3,
    sft_lr: Annotated[float, typer.Option(help="Highest learning rate of stage 1.")] = 1e-4,
    processor_dim: Annotated[int, typer.Option(help="Width of the processor; 512 in the paper.")] = 128,
    mlp_dim: Annotated[int, typer.Option(help="Hidden width of its MLP; 2240 in the paper.")] = 512,
    num_heads: Annotated[int, typer.Option(help="Its heads; 16 in the paper.")] = 4,
    top_k: Annotated[int, typer.Option(help="Earlier entries to rewrite with each step.")] = 32,
    window: Annotated[str, typer.Option(help="Recent entries to rewrite: step, all, or a number.")] = "step",
    bptt_steps: Annotated[int, typer.Option(help="Steps that gradients reach back.")] = 1,
    max_tokens: Annotated[int, typer.Option(help="Longer problems are left out.")] = 512,
    dtype: Annotated[str, typer.Option(help="Of the model: float32 or bfloat16.")] = "float32",
    seed: Annotated[int, typer.Option(help="Of the initial weights and of the order of the data.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Directory of the run; default runs/cache-ARM.")] = None,
    eval_every: Annotated[int, typer.Option(help="Steps between evaluations; 0: at the end only.")] = 100,
    save_every: Annotated[int, typer.Option(help="Steps between checkpoints; 0: at the end only.")] = 100,
    max_eval_problems: Annotated[int, typer.Option(help="Problems to evaluate on.")] = 128,
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this directory.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ... or auto.")] = "auto",
) -> None:
    """Train a cache processor (Bottlenecked Transformer, arXiv 2505.16950) on a transformers model.

    memarch train cache --data gsm8k/train.jsonl --sft-steps 200 --steps 200

    Ctrl-C saves a checkpoint; --resume goes on from it as if nothing had happened.
    """
    from memarch.models.storage import json_writer, read_json, write_files

    given = {name: ctx.params[name] for name in ctx.params if was_given(ctx, name)}
    if resume is not None:
        fixed = [name for name in given if name not in RESUME_OPTIONS]
        if fixed:
            option = "--" + fixed[0].replace("_", "-")
            fail(f"{option} is stored in the run; a resumed one takes --steps and --device only: drop {option}", USAGE)
        if out is not None and out.resolve() != resume.resolve():
            fail(f"a resumed run stays in {resume}; got --out {out}: drop --out", USAGE)
        if not (resume / RUN_FILE).is_file():
            fail(f"{resume} holds no run: expected the --out directory of `memarch train cache`, with {RUN_FILE} in it")
        with expected():
            options = read_json(resume / RUN_FILE)
        if "steps" in given:
            options["steps"] = steps
        run_dir = resume
    else:
        if data is None:
            fail("--data is missing: JSON Lines of questions and answers (GSM8K: openai/grade-school-math)", USAGE)
        options = {k: v for k, v in ctx.params.items() if k not in ("out", "resume", "device")}
        for name in ("data", "validation"):
            options[name] = None if options[name] is None else str(Path(options[name]).resolve())
        run_dir = out or Path("runs") / f"cache-{arm}"
        if (run_dir / RUN_FILE).exists():
            fail(f"{run_dir} already holds a training: go on with --resume {run_dir}, or choose another --out", USAGE)
    with expected(ValueError, code=USAGE):
        place = usable_device(device)
        _check(options)
    stages = Stages(options, run_dir, place)
    with expected():
        stages.load()
    if resume is None:
        with expected():
            write_files(run_dir, {RUN_FILE: json_writer(options)})
    stages.run()


def _check(options: dict[str, Any]) -> None:
    """Raise ValueError for options out of range, before anything is loaded."""
    from memarch.cache import CacheProcessor, CacheShape
    from memarch.cache.training_arms import ARMS

    if options["arm"] not in ARMS:
        raise ValueError(f"--arm must be one of {', '.join(ARMS)}; got {options['arm']!r}")
    if options["dtype"] not in ("float32", "bfloat16"):
        raise ValueError(f"--dtype must be float32 or bfloat16; got {options['dtype']!r}")
    for name in ("sft_steps", "top_k", "bptt_steps"):
        least = int(name == "bptt_steps")
        if options[name] < least:
            raise ValueError(f"--{name.replace('_', '-')} must be at least {least}; got {options[name]}")
    if options["window"] not in ("step", "all") and not (options["window"].isdigit() and int(options["window"])):
        raise ValueError(f"--window must be step, all or a number; got {options['window']!r}")
    CacheProcessor(CacheShape(1, 1, 2), **_sizes(options))
    _settings(options, stage="arm")
    if options["sft_steps"]:
        _settings(options, stage="sft")


class Stages:
    """The two stages of a run, each of which begins or goes on."""

    def __init__(self, options: dict[str, Any], run_dir: Path, device: str) -> None:
        from rich.console import Console

        self.options, self.run_dir, self.device = options, run_dir, device
        self.console: Console = Console()

    def load(self) -> None:
        """Read model and data."""
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from memarch.cache.training_arms import without_bars
        from memarch.cache.training_data import Problems, load_problems

        options = self.options
        folder = model_folder(options["model"])
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        problems = load_problems(options["data"], self.tokenizer, max_tokens=options["max_tokens"])
        if options["validation"] is not None:
            self.train = problems
            self.validation = load_problems(options["validation"], self.tokenizer, max_tokens=options["max_tokens"])
        else:
            cut = max(1, len(problems.items) // 10)
            self.train = Problems(problems.source, problems.items[cut:])
            self.validation = Problems(f"the first {cut} of {problems.source}", problems.items[:cut])
        with without_bars():
            model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, options["dtype"]))
        self.model = model.to(self.device).eval()
        say(self.console, f"data: {self.train.source}; validation: {self.validation.source}")

    def run(self) -> None:
        """Stage 1 if it is wanted and not done, then stage 2."""
        import torch

        from memarch.cache.training import CacheTrainer
        from memarch.cache.training_arms import make_arm

        options = self.options
        for stage in ("sft", "arm"):
            if stage == "sft" and not options["sft_steps"]:
                continue
            name = "sft" if stage == "sft" else options["arm"]
            folder = self.run_dir / stage
            with expected(ValueError, OSError, ImportError):
                settings = _settings(options, stage=stage)
                torch.manual_seed(options["seed"])
                window = options["window"]
                arm = make_arm(
                    name,
                    self.model,
                    self.tokenizer,
                    sizes=_sizes(options),
                    options={"top_k": options["top_k"], "window": int(window) if window.isdigit() else window},
                    bptt_steps=options["bptt_steps"],
                )
                trainer = CacheTrainer(
                    arm,
                    self.train,
                    self.validation,
                    settings,
                    out_dir=folder,
                    callbacks=run_callbacks(folder, name, self.console),
                )
                if (folder / "latest").exists():
                    trainer.restore(folder)
                    say(self.console, f"resuming {folder} at step {trainer.step} of {settings.num_steps}")
            learned = sum(p.numel() for p in arm.module.parameters() if p.requires_grad)
            label = "stage 1, fine-tuning" if stage == "sft" else f"stage 2, {name}"
            say(self.console, f"{label}: {learned:,} parameters learn, on {self.device}; run: {folder}")
            result = run_trainer(trainer, self.console, resume=f"memarch train cache --resume {self.run_dir}")
            if result.evaluation is None:
                continue
            say(self.console, f"{label}: {result.evaluation.loss:.4f} nats per token from an answer's second line on")
        self._draw(arm)
        say(self.console, f"done; the trained {options['arm']} is in {result.checkpoint}")

    def _draw(self, arm: Any) -> None:
        """What a rewriter did to the cache of the validation problem with most lines, as rewrites.png."""
        from dataclasses import replace

        from memarch.cache import RewriteRecorder, draw_rewrites
        from memarch.cache.training_arms import ConsolidatingArm

        if not isinstance(arm, ConsolidatingArm):
            return
        recorder, path = RewriteRecorder(self.model.config), self.run_dir / "rewrites.png"
        problem = max(self.validation.items[: self.options["max_eval_problems"]], key=lambda p: len(p.steps))
        replace(arm, options=arm.options | {"on_rewrite": recorder}).score([problem], learn=False)
        lines = f"an answer of {len(problem.steps) - 1} lines"
        try:
            with expected(OSError):
                draw_rewrites(recorder, path, title=f"{self.options['arm']}: {lines}")
        except ImportError as error:
            say(self.console, f"no picture of what is rewritten: {error}")
        else:
            say(self.console, f"what it rewrites in {lines}: {path}")


def _settings(options: dict[str, Any], *, stage: str) -> Any:
    from memarch.cache.training import CacheSettings

    steps = options["sft_steps"] if stage == "sft" else options["steps"]
    return CacheSettings(
        steps,
        batch_size=options["batch_size"],
        learning_rate=options["sft_lr"] if stage == "sft" else options["lr"],
        eval_every=options["eval_every"],
        save_every=options["save_every"],
        max_eval_problems=options["max_eval_problems"],
        seed=options["seed"],
    )


def _sizes(options: dict[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in ("processor_dim", "mlp_dim", "num_heads")}
