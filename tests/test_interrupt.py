"""Ctrl-C: asked once, noted; asked twice, obeyed at once."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from memarch._interrupt import stop_on_interrupt


def test_first_is_a_request_and_second_interrupts() -> None:
    asked = []
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), stop_on_interrupt(lambda: asked.append(1)):
        os.kill(os.getpid(), signal.SIGINT)
        assert asked == [1]
        os.kill(os.getpid(), signal.SIGINT)
    assert asked == [1] and signal.getsignal(signal.SIGINT) is before


def test_outside_the_main_thread_it_does_nothing() -> None:
    inside = []

    def work() -> None:
        with stop_on_interrupt(lambda: None):
            inside.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == [signal.getsignal(signal.SIGINT)]


def test_it_loads_no_torch() -> None:
    code = "import sys, memarch._interrupt; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
