"""Fast binding: new words are taught once, other tasks come between, then one of the words is used."""

from __future__ import annotations

import numpy as np
from gymnasium.spaces import Box, Discrete

from ._checks import check_amount, check_count, check_flag
from ._pictures import CUE, GOAL, WALL, blank, paint_vector
from ._sampling import Floats, Ints, integers, permutations, unit_vectors
from .base import ALL, Bools, Level, MemoryTask, Observation, Picture, Rows
from .scalar import MemoryEnv
from .vector import MemoryVectorEnv

BLOCK_REWARD = 0.1
# Familiar objects are the same in every episode. A prime number of them: base + k * stride never repeats.
NUM_FAMILIAR = 31
NAMES = ("dax", "blick", "zup", "wug", "toma", "fep", "koba", "mip")


def _level(name: str, blocks: float, options: dict[str, int], num_pairs: int = 3) -> Level:
    """A level with this mean number of blocks."""
    mean = 1 + BLOCK_REWARD * blocks
    return Level(name, {"num_pairs": num_pairs, **options}, mean, mean / num_pairs, 1 / num_pairs)


class FastBinding(MemoryTask):
    """
    ## Description
    A lesson shows new objects with new words, one pair a step. Then come distractor blocks, small tasks with familiar
    objects: one is shown, and `block_steps` - 1 steps later it has to be picked out of several. At last a word of the
    lesson is said: pick its object. Words and objects of a lesson were never seen before.

    ## Action Space
    `Discrete(num_pairs)`: the place of the object to pick. Ignored where there is no choice.

    ## Observation Space
    `Box(-1, 1, ((2 + num_pairs) * item_dim + 1,), float32)`: a word; an object alone; the objects at each place; 1 if
    there is a choice. All are unit vectors, or zero where there is nothing. A lesson shows a word and an object, a
    block an object alone and later the places, the end a word and the places.

    ## Rewards
    `block_reward` for each block solved, 1 for the right object at the end. With k blocks, oracle: 1 + 0.1 k. Uniform
    actions: (1 + 0.1 k) / `num_pairs`. Success is the right object at the end; without memory of the lesson
    1 / `num_pairs`.

    ## Starting State
    Words, objects, blocks, places and the question are uniform.

    ## Episode End
    Terminated by the last choice, after `num_pairs` + `block_steps` k + 1 steps.

    ## Arguments
    `num_pairs=3`: 2 to 8. `num_distractors=2`: blocks. `vary_distractors=False`: draw k from 0 to `num_distractors`
    for each episode, instead of k = `num_distractors`. `block_steps=4`: at least 2. `lesson_episodes=1`: episodes that
    one lesson serves. With more than one, only the first of them holds the lesson and the others begin with their
    first block, so that a memory emptied between episodes is at chance there. A lesson ends with an episode that was
    not played to its end, and with a new seed. `item_dim=16`: at least 2. `block_reward=0.1`: at least 0.

    ## References
    Lampinen et al. 2021, Towards mental time travel (arXiv 2105.14039), rapid word learning: trained with at most two
    distractor tasks, tested with more, and across episodes. There in a 3D room, here without one.

    ## Version History
    v0: first version.
    """

    summary = "new words are taught once, other tasks come between, then one of the words is used"
    levels = (
        _level("upto2", 1, {"num_distractors": 2, "vary_distractors": True}),
        *(_level(f"blocks{k}", k, {"num_distractors": k}) for k in (0, 2, 5, 10, 20)),
        *(_level(f"pairs{n}", 2, {"num_distractors": 2}, n) for n in (5, 8)),
        *(_level(f"episodes{e}", 2, {"num_distractors": 2, "lesson_episodes": e}) for e in (2, 5)),
    )

    def __init__(
        self,
        num_envs: int,
        *,
        num_pairs: int = 3,
        num_distractors: int = 2,
        vary_distractors: bool = False,
        block_steps: int = 4,
        lesson_episodes: int = 1,
        item_dim: int = 16,
        block_reward: float = BLOCK_REWARD,
    ) -> None:
        check_count("num_pairs", num_pairs, 2, len(NAMES))
        check_count("num_distractors", num_distractors, 0)
        check_flag("vary_distractors", vary_distractors)
        check_count("block_steps", block_steps, 2)
        check_count("lesson_episodes", lesson_episodes, 1)
        check_count("item_dim", item_dim, 2)
        check_amount("block_reward", block_reward)
        self.num_pairs, self.num_distractors, self.vary_distractors = num_pairs, num_distractors, vary_distractors
        self.block_steps, self.lesson_episodes, self.item_dim = block_steps, lesson_episodes, item_dim
        self.block_reward = block_reward
        self.max_episode_steps = num_pairs + num_distractors * block_steps + 1
        self.observation_space = Box(-1.0, 1.0, ((2 + num_pairs) * item_dim + 1,), np.float32)
        self.action_space = Discrete(num_pairs)
        # Words and objects, blocks (three each), order of the places, question, number of blocks.
        self.num_draws = 4 * num_pairs * item_dim + 3 * num_distractors + num_pairs + 2
        # Not part of an episode; from a stream of its own, which no environment's integer seed gives.
        generator = np.random.default_rng((NUM_FAMILIAR, item_dim))
        self.familiar = unit_vectors(generator.random((NUM_FAMILIAR, 2 * item_dim)))
        self.words = np.zeros((num_envs, num_pairs, item_dim), dtype=np.float32)
        self.objects = np.zeros((num_envs, num_pairs, item_dim), dtype=np.float32)
        # Familiar objects at the places of each block, and the place of the one that was shown.
        self.choices: Ints = np.zeros((num_envs, num_distractors, num_pairs), dtype=np.int64)
        self.block_answer: Ints = np.zeros((num_envs, num_distractors + 1), dtype=np.int64)
        # Pair whose object stands at each place at the end; the pair asked for; its place.
        self.order: Ints = np.zeros((num_envs, num_pairs), dtype=np.int64)
        self.asked: Ints = np.zeros(num_envs, dtype=np.int64)
        self.answer: Ints = np.zeros(num_envs, dtype=np.int64)
        # The question comes `question` steps after the lesson; `skipped` steps of lesson are left out.
        self.question: Ints = np.zeros(num_envs, dtype=np.int64)
        self.skipped: Ints = np.zeros(num_envs, dtype=np.int64)
        self.served: Ints = np.full(num_envs, lesson_episodes, dtype=np.int64)
        super().__init__(num_envs)

    def forget(self, which: Ints) -> None:
        self.served[which] = self.lesson_episodes

    def start(self, which: Ints, uniform: Floats) -> None:
        n, pairs, blocks = which.size, self.num_pairs, self.num_distractors
        ends = np.cumsum([4 * pairs * self.item_dim, 3 * blocks, pairs])
        items, tasks, order, last = np.split(uniform, ends, axis=1)
        unfinished = self._since_lesson(which) <= self.question[which]
        fresh = unfinished | (self.served[which] >= self.lesson_episodes)
        self.served[which] = np.where(fresh, 1, self.served[which] + 1)
        self.skipped[which] = np.where(fresh, 0, pairs)
        taught = which[fresh]
        vectors = unit_vectors(items[fresh].reshape(taught.size, 2 * pairs, 2 * self.item_dim))
        self.words[taught], self.objects[taught] = vectors[:, :pairs], vectors[:, pairs:]
        u = tasks.reshape(n, blocks, 3)
        stride = 1 + integers(u[..., 1], NUM_FAMILIAR - 1)
        steps = np.arange(pairs) * stride[..., None]
        self.choices[which] = (integers(u[..., 0], NUM_FAMILIAR)[..., None] + steps) % NUM_FAMILIAR
        self.block_answer[which, :blocks] = integers(u[..., 2], pairs)
        self.order[which] = permutations(order)
        self.answer[which] = integers(last[:, 0], pairs)
        self.asked[which] = self.order[which, self.answer[which]]
        count = integers(last[:, 1], blocks + 1) if self.vary_distractors else blocks
        self.question[which] = count * self.block_steps

    def advance(self, actions: Ints) -> tuple[Floats, Bools, Bools]:
        since = self._since_lesson(ALL) - 1
        block, step = np.divmod(since, self.block_steps)
        choice = (since >= 0) & (since < self.question) & (step == self.block_steps - 1)
        solved = choice & (actions == self.block_answer[self.all_rows, np.clip(block, 0, self.num_distractors)])
        ended = since >= self.question
        success = ended & (actions == self.answer)
        return np.where(ended, success, self.block_reward * solved), ended, success

    def observe(self, rows: Rows) -> Observation:
        copies, since = self.all_rows[rows], self._since_lesson(rows)
        dim, places = self.item_dim, slice(2 * self.item_dim, -1)
        out = np.zeros((copies.size, *self.observation_space.shape), dtype=np.float32)  # type: ignore[misc]
        some = np.flatnonzero(since < 0)
        pair = since[some] + self.num_pairs
        out[some, :dim] = self.words[copies[some], pair]
        out[some, dim : 2 * dim] = self.objects[copies[some], pair]
        question = self.question[rows]
        block, step = np.divmod(since, self.block_steps)
        within = (since >= 0) & (since < question)
        some = np.flatnonzero(within & (step == 0))
        chosen = self.choices[copies[some], block[some], self.block_answer[copies[some], block[some]]]
        out[some, dim : 2 * dim] = self.familiar[chosen]
        some = np.flatnonzero(within & (step == self.block_steps - 1))
        there = self.familiar[self.choices[copies[some], block[some]]]
        out[some, places] = there.reshape(some.size, self.num_pairs * dim)
        out[some, -1] = 1
        some = np.flatnonzero(since == question)
        who = copies[some]
        out[some, :dim] = self.words[who, self.asked[who]]
        out[some, places] = self.objects[who[:, None], self.order[who]].reshape(some.size, self.num_pairs * dim)
        out[some, -1] = 1
        return out

    def expert(self) -> Ints:
        since = self._since_lesson(ALL)
        block = np.clip(since // self.block_steps, 0, self.num_distractors)
        return np.where(since >= self.question, self.answer, self.block_answer[self.all_rows, block])

    def cells(self, index: int) -> Picture:
        seen = self.observe(np.array([index]))
        assert isinstance(seen, np.ndarray)
        vectors = seen[0, :-1].reshape(2 + self.num_pairs, self.item_dim)
        picture = blank(2 * (2 + self.num_pairs) + 1, self.item_dim + 2)
        picture[4] = WALL
        for k, vector in enumerate(vectors):
            paint_vector(picture, 2 * k + 1, 1, vector * self.item_dim**0.5 / 2)
        if vectors[0].any():
            picture[1, 0] = CUE
        if seen[0, -1]:
            picture[2 * (2 + self.expert()[index]) + 1, 0] = GOAL
        return picture

    def text(self, index: int) -> str:
        view = self.view(index)
        return f"{view} (place {self.expert()[index]})" if view.endswith("?") else view

    def view(self, index: int) -> str:
        since, question = int(self._since_lesson(np.array([index]))[0]), int(self.question[index])
        block, step = divmod(since, self.block_steps)
        # Names in the order of first coordinates: they tell items apart, and nothing of the pairs.
        words = [NAMES[rank] for rank in np.argsort(np.argsort(self.words[index, :, 0]))]
        objects = [chr(65 + rank) for rank in np.argsort(np.argsort(self.objects[index, :, 0]))]
        if since < 0:
            news = f"object {objects[since]} is a {words[since]}"
        elif since > question:
            news = "the end"
        elif since == question:
            there = " ".join(objects[pair] for pair in self.order[index])
            news = f"objects {there}: which is the {words[self.asked[index]]}?"
        elif step == 0:
            news = f"task {block + 1}: object {self.choices[index, block, self.block_answer[index, block]]}"
        elif step == self.block_steps - 1:
            news = f"task {block + 1}: objects {' '.join(map(str, self.choices[index, block]))}: which was it?"
        else:
            news = "nothing"
        return f"step {self.t[index]}: {news}"

    def _since_lesson(self, rows: Rows) -> Ints:
        """Steps since the end of the lesson, negative during it."""
        return self.t[rows] + self.skipped[rows] - self.num_pairs


class FastBindingEnv(MemoryEnv):
    task_class = FastBinding


class FastBindingVectorEnv(MemoryVectorEnv):
    task_class = FastBinding
