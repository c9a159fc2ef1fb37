"""Answers of a model, kept as they come: a run that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

from benchmarks._dialogue_qa_prompts import Asked
from memarch.dialogue.generators.base import Generator

MAX_TOKENS = 32


class Answers:
    """A model's answers to prompts, greedy, at most `MAX_TOKENS` long. path: a file of JSON lines; None keeps none.

    The same model and messages are asked once, whichever arm asks.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[str, str] = {}
        self.num_asked = 0
        """How many were not known yet."""
        if path is not None and path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    row = json.loads(line)
                except json.JSONDecodeError:
                    continue  # the last line of a process that was killed
                self._known[row["key"]] = row["answer"]

    def ask(self, generator: Generator, asked: Asked, *, note: dict[str, object]) -> str:
        """The answer; `note` stands beside it in the file. Quotations of memory are made anew, they cost nothing."""
        messages = asked.prompt.messages
        if generator.name == "extractive":
            return "".join(generator.stream(messages, hits=asked.prompt.hits))
        key = hashlib.sha256(json.dumps([generator.name, MAX_TOKENS, messages]).encode()).hexdigest()
        if key not in self._known:
            start = time.perf_counter()
            answer = "".join(generator.stream(messages, hits=asked.prompt.hits, max_tokens=MAX_TOKENS))
            seconds = time.perf_counter() - start
            self._known[key] = answer
            self.num_asked += 1
            if self._path is not None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                row = {"key": key, **note, "question": asked.question.text, "wanted": asked.question.answer}
                row |= {"tokens": asked.prompt.report.used_tokens, "answer": answer, "seconds": round(seconds, 2)}
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
        return self._known[key]
