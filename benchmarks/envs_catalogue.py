"""Draw the environments' pictures, and write their catalogue: envs/README.md and the table of README.md.

A picture shows moments of an oracle's episode, from left to right and then from above. Everything is made from the
environments themselves: run this again after adding or changing one. --check writes nothing and says what is out of
date (exit code 1).
"""

import argparse
import io
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from benchmarks._harness import table
from memarch_envs import ENVIRONMENTS, levels, task_class

ROOT = Path(__file__).parent.parent
README, PAGE, PICTURES = Path("README.md"), Path("envs/README.md"), Path("envs/pictures")
BEGIN, END = "<!-- environments: python -m benchmarks.envs_catalogue -->\n", "<!-- end of environments -->\n"
Pixels = NDArray[np.uint8]

GAP_PIXELS, WIDTH_PIXELS = 8, 640
INTRODUCTION = """# Environments that need memory

Each is a `gymnasium.Env` and a native numpy `VectorEnv`, equal step for step under one seed. `import memarch_envs`
registers the ids.

```python
import gymnasium
import memarch_envs

envs = gymnasium.make_vec("memarch/Ballet-v0", num_envs=64, num_dancers=4, autoreset_mode="SameStep")
observations, infos = envs.reset(seed=0)
```

```sh
memarch envs list                                      # all of this in the terminal; --json
memarch envs show Ballet                               # rules, options, keys, levels
memarch envs play Ballet                               # by keyboard: you see what an agent is told
memarch envs play Ballet --oracle --save ballet.gif    # or .mp4
```

"Chance" is the best success rate without memory, "random" the mean return of uniform actions, "oracle" that of perfect
memory; tests play them. Levels are options by name: `memarch_envs.levels(id)`. `info["success"]` comes with the last
step of an episode. Speed: `python -m benchmarks.envs`. This page: `python -m benchmarks.envs_catalogue`.
"""


@dataclass(frozen=True)
class Moments:
    """What of an environment is drawn: options, the seed, and the steps of the oracle's episode, -1 its end."""

    options: dict[str, Any] = field(default_factory=dict)
    steps: tuple[int, ...] = ()
    seed: int = 0


MOMENTS: dict[str, Moments] = {
    "memarch/PassiveTMaze-v0": Moments({"length": 12}, (0, 5, 12, -1)),
    "memarch/TMaze-v0": Moments({"length": 12}, (0, 1, 8, -1)),
    "memarch/MemoryLength-v0": Moments({"length": 10, "num_bits": 10}, (0, 4, 10)),
    "memarch/ObjectPermanence-v0": Moments({"num_swaps": 2}, (0, 3, 8, 16)),
    "memarch/FastBinding-v0": Moments({}, (0, 3, 6, 11)),
    "memarch/Ballet-v0": Moments({"num_dancers": 8}, (1, 34, 65, -1)),
    "memarch/BalletPixels-v0": Moments({"num_dancers": 8}, (1, 34, -3, -1)),
    "memarch/VisualMatch-v0": Moments({}, (0, 30, 50, -1)),
    "memarch/KeyToDoor-v0": Moments({}, (0, 40, 75, 78)),
    "memarch/PairedInference-v0": Moments({}, (0, 2, 6, 8)),
    "memarch/ProofOfMemory-v0": Moments({}, (0, 3, -1)),
}


def picture_path(env_id: str) -> Path:
    """Where the picture of an environment is: memarch/TMaze-v0 in envs/pictures/TMaze-v0.png."""
    return PICTURES / f"{env_id.split('/')[1]}.png"


def draw(env_id: str) -> Pixels:
    """The picture of an environment, uint8 [height, width, 3]."""
    moments = MOMENTS.get(env_id, Moments(dict(levels(env_id)[0].options)))
    frames = episode(env_id, moments)
    steps = moments.steps or tuple(np.linspace(0, len(frames) - 1, 4).round().astype(int))
    return grid([frames[step] for step in steps])


def episode(env_id: str, moments: Moments) -> list[Pixels]:
    """What the oracle's episode looks like, a picture a step."""
    env: Any = gymnasium.make(env_id, render_mode="rgb_array", **moments.options).unwrapped
    env.reset(seed=moments.seed)
    frames, over = [env.render()], False
    while not over:
        _, _, terminated, truncated, _ = env.step(env.task.expert()[0])
        frames.append(env.render())
        over = terminated or truncated
    return frames


def grid(frames: Sequence[Pixels]) -> Pixels:
    """Frames of one size beside each other on white; two in a row if they are wide."""
    height, width = frames[0].shape[:2]
    num_columns = 2 if width > 2 * height else len(frames)
    scale = max(1, (WIDTH_PIXELS - GAP_PIXELS * (num_columns - 1)) // num_columns // width)
    height, width = height * scale, width * scale
    num_rows = -(-len(frames) // num_columns)
    shape = (num_rows * (height + GAP_PIXELS) - GAP_PIXELS, num_columns * (width + GAP_PIXELS) - GAP_PIXELS, 3)
    picture = np.full(shape, 255, dtype=np.uint8)
    for index, frame in enumerate(frames):
        row, column = divmod(index, num_columns)
        top, left = row * (height + GAP_PIXELS), column * (width + GAP_PIXELS)
        picture[top : top + height, left : left + width] = frame.repeat(scale, axis=0).repeat(scale, axis=1)
    return picture


def png(picture: Pixels) -> bytes:
    """A PNG file, with a palette where 256 colours are enough."""
    from PIL import Image

    image, file = Image.fromarray(picture), io.BytesIO()
    colours = image.getcolors(256)
    (image.quantize(len(colours), dither=Image.Dither.NONE) if colours else image).save(file, "PNG", optimize=True)
    return file.getvalue()


def pixels(path: Path) -> Pixels | None:
    """What is in a PNG file; None if there is no such file."""
    from PIL import Image

    if not path.exists():
        return None
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def spread(values: Iterable[float | None]) -> str:
    """The least and the largest of the figures that are known: "0.25 to 0.5", "1", or "-"."""
    known = sorted(value for value in values if value is not None)
    return " to ".join(dict.fromkeys(f"{value:.3g}" for value in (*known[:1], *known[-1:]))) or "-"


def page() -> str:
    """envs/README.md."""
    parts = [INTRODUCTION]
    for env_id in ENVIRONMENTS:
        name = env_id.split("/")[1]
        lines = []
        for level in levels(env_id):
            options = ", ".join(f"{key}={value}" for key, value in level.options.items())
            limit = gymnasium.make(env_id, **level.options).unwrapped.max_episode_steps  # type: ignore[attr-defined]
            figures = [spread([value]) for value in (level.chance, level.random_return, level.oracle_return)]
            lines.append([level.name, f"`{options}`" if options else "", *figures, str(limit)])
        rows = table(("level", "options", "chance", "random", "oracle", "most steps"), lines)
        told = task_class(env_id).summary
        image = f'<img src="pictures/{picture_path(env_id).name}" width="480" alt="moments of an episode">'
        parts.append(f"## {name}\n\n`{env_id}`: {told}.\n\n{image}\n\n{rows}\n")
    return "\n".join(parts)


def readme_table() -> str:
    """The part of README.md between the marks."""
    lines = []
    for env_id in ENVIRONMENTS:
        told, sweep, name = task_class(env_id).summary, levels(env_id), env_id.split("/")[1]
        image = f'<img src="{picture_path(env_id)}" width="240" alt="{name}">'
        figures = [spread(getattr(level, name) for level in sweep) for name in ("chance", "oracle_return")]
        lines.append([image, f"`{env_id}`: {told}", str(len(sweep)), *figures])
    header = ("moments of an episode", "environment", "levels", "chance", "oracle")
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, ["---"] * 2 + ["--:"] * 3, *lines)) + "\n"


def between_marks(text: str, part: str) -> str:
    """`text` with `part` between its marks. Raises ValueError if it has not one pair of them."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"{README} needs one line {BEGIN.strip()!r} and, below it, one line {END.strip()!r}")
    head, rest = text.split(BEGIN)
    return f"{head}{BEGIN}{part}{END}{rest.split(END)[1]}"


def outdated(root: Path) -> dict[Path, bytes]:
    """What has to be written below `root`. Raises ValueError if its README.md has no marks."""
    wanted: dict[Path, bytes] = {}
    for env_id in ENVIRONMENTS:
        picture, there = draw(env_id), pixels(root / picture_path(env_id))
        # Compared by pixels: versions of the library that writes them pack them differently.
        if there is None or not np.array_equal(picture, there):
            wanted[picture_path(env_id)] = png(picture)
    readme = (root / README).read_text(encoding="utf-8")
    for path, text in ((PAGE, page()), (README, between_marks(readme, readme_table()))):
        if not (root / path).exists() or (root / path).read_text(encoding="utf-8") != text:
            wanted[path] = text.encode()
    return wanted


def main(arguments: list[str] | None = None) -> None:
    """Write, or with --check name, what is out of date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if something is out of date")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout to write to (default: this one)")
    options = parser.parse_args(arguments)
    wanted = outdated(options.root)
    for path, data in wanted.items():
        if not options.check:
            (options.root / path).parent.mkdir(parents=True, exist_ok=True)
            (options.root / path).write_bytes(data)
        print(f"{'out of date' if options.check else 'wrote'}: {path} ({len(data):,} bytes)")
    if not wanted:
        print("everything is up to date")
    if wanted and options.check:
        sys.exit(1)


if __name__ == "__main__":
    main()
