"""A chat as its commands see it: the memory, the session that goes on, the model, and who is asked for a yes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ._chat_history import InputHistory
from ._chat_load import Loader
from ._chat_options import Options
from ._chat_screen import Screen

if TYPE_CHECKING:
    from memarch.dialogue.generators.base import Generator
    from memarch.dialogue.memory import DialogueMemory
    from memarch.dialogue.session import ChatSession

NUM_PAST = 6


class Leave(Exception):
    """The user wants to leave."""


def never(what: str) -> bool:
    """Without somebody to ask. ValueError."""
    raise ValueError(f"to {what} needs a yes, and there is no terminal to ask on: start the chat with --yes")


@dataclass
class Chat:
    """confirm: asks for a yes. compose: lets the user write a text, beginning with the one given; None cannot ask."""

    memory: DialogueMemory
    session: ChatSession
    screen: Screen
    loader: Loader
    options: Options
    history: InputHistory = field(default_factory=InputHistory)
    confirm: Callable[[str], bool] = never
    compose: Callable[[str], str] | None = None
    is_caught_up: bool = False

    def agreed(self, what: str) -> bool:
        """Whether to do what cannot be undone."""
        return self.options.yes or self.confirm(what)

    def use(self, generator: Generator) -> None:
        """Answer with another model from now on; it is loaded in the background."""
        self.session.generator = generator
        self.loader = Loader(generator)
        self.loader.start()

    def go_to(self, name: str | None) -> None:
        """Another session with the same settings; None begins a new one."""
        from memarch.dialogue.session import ChatSession

        old = self.session
        self.session = ChatSession(
            self.memory,
            old.generator,
            system=old.system,
            budget_tokens=old.budget_tokens,
            session=name,
            max_tokens=old.max_tokens,
            temperature=old.temperature,
        )
        self.session.num_retrieved, self.session.num_recent = old.num_retrieved, old.num_recent
        self.session.incognito = old.incognito

    def show_opening(self, *, resumed: bool) -> None:
        """Where we are, and the last turns of a session that goes on."""
        session = self.session
        past = self.memory.turns(session=session.session, last=NUM_PAST) if resumed else []
        self.screen.opened(
            session=session.session,
            user=self.memory.user,
            model=session.generator.name,
            resumed=past,
            incognito=session.incognito,
        )
