"""Question answering over LoCoMo with a small model: what does memory in the prompt give it?

The ablation of HEMA (arXiv 2504.16754) at our scale. After a whole conversation, questions are asked one by one with
prompts of different content, all under the same cap:
  no memory          the question alone
  last 4,000 tokens  as many of the last turns as fit under the cap, at most 4,000 tokens
  compact only       summaries and the last 8 turns
  vector only        20 retrieved turns and the last 8
  both               what a chat sends
  evidence alone     nothing but the turns that answer the question: what the model could do with a perfect memory
Models are named as in `memarch chat --model`; "extractive" quotes retrieved turns, so it has nothing to say without
them. It answers all questions; other models a sample, each category of each conversation by its share, drawn by --seed.
Models answer greedily in at most 32 tokens. Summaries are extractive for all.

Scores: token F1 as LoCoMo's script computes it, over questions that have an answer; "told", the share of the answer's
tokens that was said, however much else was; adversarial questions, which have none, count as refused or not. Evidence
in the prompt: a turn counts if one line of the prompt has every content word of its longest sentence. Intervals are
95 % bootstrap over questions; a gain is over "last 4,000 tokens", question by question.

--data is LoCoMo's file, locomo10.json from github.com/snap-research/locomo (CC BY-NC 4.0: not for commercial use; we do
not redistribute it). The retrieval's weights were tuned on its first three conversations; "report" is the others.

With SmolLM2-135M one free core needs half a minute to a minute a question for all prompts of 3,500 tokens. Answers are
kept in --cache as they come, so a run that was stopped goes on where it was, and a smaller sample with the same seed is
the beginning of a larger one.
"""

import argparse
import tempfile
from pathlib import Path

from benchmarks._dialogue_lives import Remembering, live
from benchmarks._dialogue_locomo import Conversation, counts, load
from benchmarks._dialogue_qa_answers import MAX_TOKENS, Answers
from benchmarks._dialogue_qa_prompts import ARMS, LAST, SYSTEM, Prompts, sample
from benchmarks._dialogue_qa_rows import Answered, judge, rows_of, show
from benchmarks._dialogue_retrieval import splits
from benchmarks._harness import RESULTS, Row, append_rows
from memarch.dialogue.embedders import DEFAULT_EMBEDDER, Embedder, open_embedder
from memarch.dialogue.generators.base import Generator
from memarch.dialogue.generators.extractive import ExtractiveGenerator
from memarch.dialogue.generators.registry import EXTRACTIVE, open_generator

NAME = "dialogue_qa"
CACHE = Path("runs") / NAME / "answers.jsonl"
WAVE = 24
"""Questions that are answered by every arm before the next ones are begun."""
ByArm = dict[tuple[int, str], list[list[Answered]]]
"""By budget and arm: answers of each conversation."""


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="LoCoMo's JSON file")
    parser.add_argument("--models", nargs="+", default=["extractive", "smollm2"], help="default: extractive smollm2")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS, metavar="ARM", help="default: all")
    parser.add_argument(
        "--budgets", type=int, nargs="+", default=[3500], help="most tokens of a prompt (default: 3500)"
    )
    parser.add_argument("--questions", type=int, default=60, help="of models, 0 for all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of models in this process (default: %(default)s)")
    parser.add_argument("--embedder", default=DEFAULT_EMBEDDER, help="model, or none (default: %(default)s)")
    parser.add_argument("--cache", type=Path, default=CACHE, help="file that keeps answers (default: %(default)s)")
    parser.add_argument("--results", type=Path, help=f"CSV to append to (default results/{NAME}.csv)")
    parser.add_argument("--quick", action="store_true", help="12 questions, no rows unless --results is given")
    options = parser.parse_args(arguments)
    if not options.data.is_file():
        parser.error(f"--data {options.data} is not a file")
    if options.questions < 0:
        parser.error(f"--questions must be at least 0; got {options.questions}")
    if options.quick:
        options.questions = 12
    return options


def run(options: argparse.Namespace) -> list[Row]:
    """Print the tables and return their rows."""
    conversations = load(options.data)
    print(counts(conversations), flush=True)
    inner = open_embedder(options.embedder)
    embedder = None if inner is None else Remembering(inner)
    rows: list[Row] = []
    for spec in options.models:
        generator = _open(spec, options, conversations)
        count = 0 if generator.name == EXTRACTIVE and not options.quick else options.questions
        chosen = sample(conversations, count, seed=options.seed)
        found = answer_all(options, conversations, chosen, generator, embedder)
        for split, part in splits(conversations).items():
            for budget in options.budgets:
                settings = {
                    "model": generator.name, "budget": budget, "max_tokens": MAX_TOKENS, "system": SYSTEM,
                    "split": split, "conversations": [c.name for c in conversations[part]], "seed": options.seed,
                    "embedder": None if inner is None else inner.name,
                }  # fmt: skip
                by_arm = {arm: sum(found[budget, arm][part], []) for arm in options.arms}
                new = rows_of(by_arm, settings, baseline=LAST)
                asked = len(by_arm[options.arms[0]])
                print(f"\n{generator.name}, prompts of at most {budget:,} tokens, {split}: {asked} questions\n")
                print(show(new), flush=True)
                rows += new
    return rows


def _open(spec: str, options: argparse.Namespace, conversations: list[Conversation]) -> Generator:
    if spec == EXTRACTIVE:
        # Ages in its answers count from the end of the conversations, whenever the benchmark runs.
        return ExtractiveGenerator(now=max(c.chunks[-1].time for c in conversations))
    generator = open_generator(spec, num_threads=options.threads)
    generator.load()
    return generator


def answer_all(
    options: argparse.Namespace,
    conversations: list[Conversation],
    chosen: list[list[int]],
    generator: Generator,
    embedder: Embedder | None,
) -> ByArm:
    """Ask every chosen question with every arm and budget."""
    answers = Answers(options.cache)
    found: ByArm = {(b, arm): [[] for _ in conversations] for b in options.budgets for arm in options.arms}
    with tempfile.TemporaryDirectory(prefix="memarch-qa-") as folder:
        prompts = []
        for conversation in conversations:
            life = live(conversation, Path(folder) / conversation.name, embedder, None, batch=1000)
            prompts.append(Prompts(life, conversation, generator))
            print(f"{conversation.name}: {len(conversation.chunks)} turns remembered", flush=True)
        total = sum(map(len, chosen))
        done = [0] * len(conversations)
        for count in range(WAVE, total + WAVE, WAVE):
            wave = sample(conversations, min(count, total), seed=options.seed)
            for number, conversation in enumerate(conversations):
                # Arm by arm: prompts that begin alike follow each other, and a model need not read that again.
                for budget, arm in found:
                    for i in wave[number][done[number] :]:
                        asked = prompts[number].ask(arm, conversation.questions[i], budget)
                        note = {"model": generator.name, "conversation": conversation.name, "arm": arm}
                        answer = answers.ask(generator, asked, note={**note, "budget": budget})
                        found[budget, arm][number].append(judge(asked, answer))
            done = [len(numbers) for numbers in wave]
            print(f"{generator.name}: {sum(done)} of {total} questions; {answers.num_asked} new answers", flush=True)
    return found


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark; see the module's docstring."""
    options = parse(arguments)
    path = options.results or (None if options.quick else RESULTS / f"{NAME}.csv")
    rows = run(options)
    if path is not None:
        append_rows(path, rows)
    print(f"\n{len(rows)} rows; written to {path or 'nowhere'}", flush=True)


if __name__ == "__main__":
    main()
