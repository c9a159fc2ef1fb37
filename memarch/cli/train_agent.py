"""`memarch train agent`: train an agent in an environment, or go on with one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ._agent_runs import report_runs, run_agent, runs_of, say
from ._envs_open import read_options
from ._training_runs import was_given
from .errors import USAGE, expected, fail

if TYPE_CHECKING:
    from memarch.agents import PPO

HOW_TO_GO_ON = ("steps", "device", "threads", "workers", "eval_every", "save_every", "stop_success", "stop_return")


def train_agent(
    ctx: typer.Context,
    env: Annotated[str, typer.Option(help="Id of any gymnasium environment; PACKAGE:ID imports what registers it.")] = (
        "memarch/ProofOfMemory-v0"
    ),
    memory: Annotated[str, typer.Option(help="hcam, gtrxl, gru, lstm, trace, yaad, moneta, memora, none, ...")] = (
        "hcam"
    ),
    steps: Annotated[int, typer.Option(help="Steps of all environments together.")] = 100_000,
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", metavar="NAME=VALUE", help="Of the environment.")
    ] = None,
    num_envs: Annotated[int, typer.Option(help="Environments side by side.")] = 16,
    workers: Annotated[bool, typer.Option("--workers", help="Each environment in a process of its own.")] = False,
    d_model: Annotated[int, typer.Option(help="Width of the network.")] = 64,
    num_layers: Annotated[int, typer.Option(help="Memory layers.")] = 1,
    num_heads: Annotated[int, typer.Option(help="Heads of the memory's attention.")] = 4,
    chunk_size: Annotated[int, typer.Option(help="Steps of a chunk (hcam, Miras).")] = 16,
    top_k: Annotated[int, typer.Option(help="Chunks read at a step (hcam).")] = 4,
    num_chunks: Annotated[int, typer.Option(help="Chunks kept (hcam).")] = 32,
    chunk_summary: Annotated[str, typer.Option(help="What a chunk is found by: mean, or learned (hcam).")] = "mean",
    attention_steps: Annotated[int, typer.Option(help="Last steps that attention sees (hcam, gtrxl).")] = 32,
    keep_memory: Annotated[bool, typer.Option("--keep-memory", help="Chunks outlive their episode (hcam).")] = False,
    rollout_steps: Annotated[int, typer.Option(help="Steps of each environment between updates.")] = 128,
    window_steps: Annotated[
        int | None, typer.Option(help="Steps that gradients reach back; default: the rollout's.")
    ] = None,
    lr: Annotated[float, typer.Option(help="Learning rate at the start.")] = 5e-4,
    schedule: Annotated[str, typer.Option(help="linear, or constant.")] = "linear",
    discount: Annotated[float, typer.Option(help="Gamma.")] = 0.99,
    gae_lambda: Annotated[float, typer.Option(help="Lambda of the advantages.")] = 0.95,
    epochs: Annotated[int, typer.Option(help="Passes over a rollout.")] = 4,
    minibatches: Annotated[int, typer.Option(help="Parts of a pass.")] = 4,
    entropy: Annotated[float, typer.Option(help="Weight of the entropy.")] = 0.01,
    reconstruction: Annotated[float, typer.Option(help="Weight of predicting the observation; 0: off.")] = 0.0,
    mixed_precision: Annotated[bool, typer.Option("--mixed-precision", help="Learn in bfloat16 (GPU).")] = False,
    seed: Annotated[int, typer.Option(help="Of weights, actions and environments.")] = 0,
    seeds: Annotated[int, typer.Option(help="Runs, with seeds from --seed on, and their aggregate.")] = 1,
    stop_success: Annotated[float | None, typer.Option(help="End at this mean success of 100 episodes.")] = None,
    stop_return: Annotated[float | None, typer.Option(help="End at this mean return of 100 episodes.")] = None,
    out: Annotated[Path | None, typer.Option(help="Directory of the run; default runs/agent-ENV-MEMORY.")] = None,
    eval_every: Annotated[int, typer.Option(help="Steps between evaluations on unseen seeds; 0: at the end.")] = 0,
    save_every: Annotated[int, typer.Option(help="Steps between checkpoints; 0: at the end.")] = 50_000,
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this directory.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ... or auto.")] = "auto",
    threads: Annotated[int, typer.Option(min=1, help="Of a CPU; small networks do not gain from more.")] = 1,
) -> None:
    """Train an agent with a memory, by PPO.

    memarch train agent --env memarch/TMaze-v0 -o length=50 --memory hcam --steps 200000

    Ctrl-C saves a checkpoint; --resume goes on from it as if nothing had happened. Under torchrun the processes share
    the environments and learn as one.
    """
    with expected(ImportError):
        from memarch.agents import PPO, PolicySettings, PPOSettings, join_torchrun
    import torch

    torch.set_num_threads(threads)
    join_torchrun()
    measures = {"success": stop_success, "total_reward": stop_return}
    thresholds = {name: value for name, value in measures.items() if value is not None}
    extras: dict[str, Any] = {"eval_every": eval_every, "save_every": save_every, "thresholds": thresholds}
    if resume is not None:
        _resume(ctx, resume, steps, out, workers=workers, device=device, extras=extras)
        return
    with expected(ValueError, code=USAGE):
        if seeds < 1:
            raise ValueError(f"--seeds must be at least 1; got {seeds}")
        sizes = PolicySettings(
            d_model=d_model,
            num_layers=num_layers,
            num_heads=num_heads,
            chunk_size=chunk_size,
            top_k=top_k,
            num_chunks=num_chunks,
            attention_steps=attention_steps,
            reset_memory="never" if keep_memory else "episode",
            chunk_summary=chunk_summary,  # type: ignore[arg-type]  # checked there
        )
        options = read_options(None, None, option or [])
    run_dir = out or Path("runs") / f"agent-{_slug(env)}-{memory}"
    directories = [run_dir] if seeds == 1 else [run_dir / f"seed-{seed + i}" for i in range(seeds)]
    for directory in directories:
        if (directory / "latest").exists():
            fail(f"{directory} already holds a training: --resume it, or choose another --out", USAGE)

    def make(index: int) -> PPO:
        settings = PPOSettings(
            rollout_steps=rollout_steps,
            window_steps=window_steps,
            num_epochs=epochs,
            num_minibatches=minibatches,
            learning_rate=lr,
            schedule=schedule,  # type: ignore[arg-type]
            discount=discount,
            gae_lambda=gae_lambda,
            entropy_weight=entropy,
            reconstruction_weight=reconstruction,
            mixed_precision=mixed_precision,
            seed=seed + index,
        )
        return PPO(
            env,
            memory=memory,
            num_envs=num_envs,
            policy=sizes,
            settings=settings,
            env_options=options,
            asynchronous=workers,
            device=device,
            out_dir=directories[index],
        )

    for index in range(seeds):
        with expected(ValueError, code=USAGE):
            agent = make(index)
        label = memory if seeds == 1 else f"{memory} seed {seed + index}"
        run_agent(agent, steps, label=label, **extras)
    report_runs(run_dir, directories, memory=memory)


def _resume(
    ctx: typer.Context,
    run_dir: Path,
    steps: int,
    out: Path | None,
    *,
    workers: bool,
    device: str,
    extras: dict[str, Any],
) -> None:
    from memarch.agents import PPO

    given = [name for name in ctx.params if was_given(ctx, name)]
    fixed = [name for name in given if name not in (*HOW_TO_GO_ON, "resume", "out")]
    if fixed:
        option = "--" + fixed[0].replace("_", "-")
        allowed = ", ".join("--" + name.replace("_", "-") for name in HOW_TO_GO_ON)
        fail(f"{option} is stored in the run; a resumed one takes {allowed} only: drop {option}", USAGE)
    if out is not None and out.resolve() != run_dir.resolve():
        fail(f"a resumed run stays in {run_dir}; got --out {out}: drop --out", USAGE)
    with expected(OSError, ValueError):
        directories = runs_of(run_dir)
    for directory in directories:
        with expected(OSError, ValueError):
            agent = PPO.resume(directory, asynchronous=workers, device=device)
        if "steps" in given:
            if steps < agent.step:
                fail(f"--steps must be at least the {agent.step} steps already done; got {steps}", USAGE)
            agent.goal = steps
        if agent.step >= agent.goal:
            say(f"{directory} is done after {agent.step:,} steps")
            agent.close()
            continue
        say(f"resuming {directory} at step {agent.step:,} of {agent.goal:,}")
        run_agent(agent, None, label=agent.config.memory, **extras)
    report_runs(run_dir, directories, memory=agent.config.memory)


def _slug(env: str) -> str:
    return env.rpartition(":")[2].rpartition("/")[2].rpartition("-v")[0].lower() or "env"
