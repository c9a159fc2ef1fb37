"""A pseudo-terminal with `memarch` in it: what is typed, and what is on the screen."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from pathlib import Path
from types import TracebackType

from ._transcript import command, environment

_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[=>]")
CURSOR_QUESTION, CURSOR_ANSWER = b"\x1b[6n", b"\x1b[1;1R"


class Terminal:
    """Of 100 columns. screen: all that was shown so far, without escape sequences; raw: with them."""

    def __init__(self, home: Path, *arguments: str, **variables: str) -> None:
        self._fd, theirs = pty.openpty()
        self.resize(100)
        # A job in the background ignores Ctrl-C, and so would the child that it starts.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        kept = {name: value for name, value in environment().items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.process = subprocess.Popen(
            command(*arguments),
            cwd=home,
            env=kept | {"HOME": str(home), "TERM": "xterm-256color"} | variables,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that Ctrl-C and its resizing reach it
        )
        signal.signal(signal.SIGINT, before)
        os.close(theirs)
        self.raw = ""
        self._seen = 0

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._fd)

    @property
    def screen(self) -> str:
        return _SEQUENCE.sub("", self.raw).replace("\r", "")

    def type(self, text: str) -> None:
        """Keys: "\\r" is Enter, "\\x03" Ctrl-C, "\\x04" Ctrl-D, "\\t" Tab."""
        os.write(self._fd, text.encode())

    def wait_for(self, text: str, *, seconds: float = 30.0) -> str:
        """Read until `text` is shown after what was waited for before; what came since then."""
        end = time.monotonic() + seconds
        while (found := self.screen.find(text, self._seen)) < 0:
            assert time.monotonic() < end, f"{text!r} is not shown after: {self.screen[self._seen :]!r}"
            assert self._read(), f"it ended without showing {text!r}: {self.screen[self._seen :]!r}"
        before, self._seen = self._seen, found + len(text)
        return self.screen[before : self._seen]

    def ended(self, *, seconds: float = 30.0) -> int:
        """Read to the end; the exit code."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self._read():
            pass
        return self.process.wait(seconds)

    def resize(self, columns: int) -> None:
        """As a window does; the process in it is told by SIGWINCH."""
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))

    def _read(self) -> bool:
        if not select.select([self._fd], [], [], 0.1)[0]:
            return True
        try:
            data = os.read(self._fd, 65536)
        except OSError:
            return False
        if CURSOR_QUESTION in data:
            os.write(self._fd, CURSOR_ANSWER)
        self.raw += data.decode("utf-8", "replace")
        return bool(data)
