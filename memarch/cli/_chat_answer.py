"""One answer on its way to the screen: Ctrl-C stops it and keeps what came, an error leaves what was said stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from memarch._interrupt import stop_on_interrupt

from . import _memory_show as show
from ._chat_load import MAX_QUIET_PENDING, num_pending
from ._chat_state import Chat

if TYPE_CHECKING:
    from memarch.dialogue.session import Event


def answer(chat: Chat, ask: Callable[[], Iterator[Event]]) -> None:
    """Show what `ask` (say, retry, edit of the session) leads to.

    Raises: ValueError, DialogueError: what was said is stored where `ask` stored it; BrokenPipeError.
    """
    from memarch.dialogue.session import Answer, Composed, Piece, Stored

    events = ask()
    try:
        chat.loader.wait(chat.screen)
        _catch_up(chat)
    except KeyboardInterrupt:
        chat.screen.note("not answered: /retry asks again")
        return
    composed: Composed | None = None
    try:
        with stop_on_interrupt(chat.session.cancel):
            with ExitStack() as spinning:
                spinning.enter_context(chat.screen.waiting("thinking"))
                for event in events:
                    if isinstance(event, (Piece, Answer)):
                        spinning.close()
                    match event:
                        case Stored(turn):
                            chat.screen.stored(turn)
                        case Composed(prompt, retrieval_ms):
                            composed = event
                            chat.screen.composed(prompt, retrieval_ms)
                        case Piece(text):
                            chat.screen.piece(text)
                        case Answer() if composed is not None:
                            number = event.turn.turn if event.turn else chat.memory.store.last_turn()
                            chat.screen.answered(
                                event, turn=number, prompt=composed.prompt, retrieval_ms=composed.retrieval_ms
                            )
    except KeyboardInterrupt:
        chat.screen.break_line()
        chat.screen.note("stopped: /retry asks again")
    except BaseException:
        with suppress(BrokenPipeError):
            chat.screen.break_line()
        raise
    finally:
        # Closed here and now, not when it is collected: a partial answer is stored by that.
        close = getattr(events, "close", None)
        if close is not None:
            close()


def _catch_up(chat: Chat) -> None:
    """Embed what was imported without, with a bar: the search would do it too, silently."""
    from memarch.dialogue.errors import EmbedderError

    if chat.is_caught_up or chat.memory.read_only:
        return
    chat.is_caught_up = True
    if num_pending(chat.memory) > MAX_QUIET_PENDING:
        with show.bar("embedding") as progress, suppress(EmbedderError):
            chat.memory.index(progress)
