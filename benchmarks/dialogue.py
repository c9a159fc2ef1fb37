"""Dialogue memory, measured: does it find the turns that answer a question?

Parts (--part, default retrieval):
  retrieval  LoCoMo without a language model: recall (share of a question's evidence among the first k turns), all@k,
             any@k, NDCG, and the same for sessions, by category. Ours beside BM25 with a stop list over date, speaker
             and text, MiniLM, both fused, and the recipe that our specification sets as the floor. Weights are tuned
             on the first three conversations of the file; "report" is the others.
  generated  the same on dialogues of our own generator, which nothing was tuned on; needs no data.
  scale      what writes, searches, opening, memory and disk cost at 1,000, 10,000 and 100,000 chunks: ours beside a
             bare FAISS index, mem0 and txtai, each in processes of its own that reach no network. Peers are optional:
             pip install -c constraints.txt -e '.[bench]'.
  ageing     generated dialogues of 1,500 turns: recall by age of the evidence and by kind of question, with and
             without forgetting; prompt tokens per turn; how much of the evidence prompts hold.
  large      10,000 chunks: P@5 and R@50 of BM25, MiniLM and ours, and searches with and without forgetting.
  tune       tunes those weights again and prints them; writes no rows.

--data is LoCoMo's file, locomo10.json from github.com/snap-research/locomo. Its licence is CC BY-NC 4.0: not for
commercial use; we do not redistribute it. Questions without evidence are left out (the authors' script counts them as
found); malformed evidence is normalised, and what is left out is printed. Captions of images count as text.

Intervals of retrieval and generated are 95 % bootstrap over questions. Two cores: retrieval takes 4 minutes for ten
conversations, most of it embedding; --cache keeps the vectors.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import (
    _dialogue_ageing,
    _dialogue_generated,
    _dialogue_large,
    _dialogue_retrieval,
    _dialogue_scale,
    _dialogue_tune,
)
from benchmarks._harness import RESULTS, Row, append_rows
from memarch.dialogue.embedders import DEFAULT_EMBEDDER

NAME = "dialogue"


@dataclass(frozen=True)
class Part:
    """One measurement: prints its tables and returns the rows to record. needs_data: whether --data must be given."""

    run: Callable[[argparse.Namespace], list[Row]]
    needs_data: bool = True


PARTS: dict[str, Part] = {
    "retrieval": Part(_dialogue_retrieval.run),
    "generated": Part(_dialogue_generated.run, needs_data=False),
    "scale": Part(_dialogue_scale.run, needs_data=False),
    "ageing": Part(_dialogue_ageing.run, needs_data=False),
    "large": Part(_dialogue_large.run, needs_data=False),
    "tune": Part(_dialogue_tune.run),
}


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="LoCoMo's JSON file")
    parser.add_argument("--part", nargs="+", default=["retrieval"], choices=list(PARTS), help="default: retrieval")
    parser.add_argument("--embedder", default=DEFAULT_EMBEDDER, help="model, or none (default: %(default)s)")
    parser.add_argument("--cache", type=Path, help="folder that keeps vectors between runs (default: none kept)")
    parser.add_argument("--results", type=Path, help=f"CSV to append to (default results/{NAME}.csv)")
    parser.add_argument("--sizes", type=int, nargs="+", help="chunks in the stores of scale (default: its three)")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="write no rows unless --results is given; small sizes in scale, ageing, large",
    )
    options = parser.parse_args(arguments)
    for name in options.part:
        if PARTS[name].needs_data and options.data is None:
            parser.error(f"--part {name} needs --data PATH: LoCoMo's file (--help says where to get it)")
        if PARTS[name].needs_data and not options.data.is_file():
            parser.error(f"--data {options.data} is not a file")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Run the chosen parts; see the module's docstring."""
    options = parse(arguments)
    path = options.results or (None if options.quick else RESULTS / f"{NAME}.csv")
    for name in options.part:
        rows = PARTS[name].run(options)
        if rows and path is not None:
            append_rows(path, rows)
        print(f"\n{name}: {len(rows)} rows; written to {path if rows and path else 'nowhere'}", flush=True)


if __name__ == "__main__":
    main()
