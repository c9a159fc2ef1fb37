"""The device under test: clock, peak memory, graphs, measured peaks; stand-ins for a dry run on a CPU."""

import gc
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import torch

Run = Callable[[], object]
FLUSH_BYTES = 256 * 2**20
AHEAD_CYCLES = 4_000_000


class DeviceLost(RuntimeError):
    """The CUDA context is unusable (an illegal access, say): nothing more can run in this process."""


class ArmLost(DeviceLost):
    """The device was lost under `key`: "case: arm", or the name of a check."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(text)
        self.key = key


class Lab:
    """Measures on `device`; on "cpu" the same calls take the wall clock and memory is 0.

    A GPU's time is taken by events. Before them the L2 cache is flushed, and (`ahead`) the device is kept busy for
    about two milliseconds, so that the host is ahead of it and launches are not in the figure, as in a training loop.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.cuda = device, device.type == "cuda"
        self.name = torch.cuda.get_device_name(device) if self.cuda else "cpu (dry run)"
        self._flush = torch.empty(FLUSH_BYTES if self.cuda else 1024, dtype=torch.int8, device=device)
        self._sleep: Callable[[int], None] | None = getattr(torch.cuda, "_sleep", None) if self.cuda else None

    def seconds(self, run: Run, *, ahead: bool = True) -> float:
        """Time of one call of `run`."""
        self._flush.zero_()
        if not self.cuda:
            start = time.perf_counter()
            run()
            return time.perf_counter() - start
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        if ahead and self._sleep is not None:
            self._sleep(AHEAD_CYCLES)
        begin.record()
        run()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3

    def host_seconds(self, run: Run) -> float:
        """Time of one call with the host's launches in it."""
        return self.seconds(run, ahead=False)

    def warm_up(self, run: Run, limit_seconds: float) -> None:
        """Compile, autotune, allocate: two calls, one if it is slow.

        Raises: what `run` raises; TimeoutError past the limit.
        """
        with time_limit(limit_seconds):
            began = time.perf_counter()
            run()
            self.synchronize()
            if time.perf_counter() - began < 1.0:
                run()
                self.synchronize()

    def peak_bytes(self, run: Run) -> int:
        """Growth of the peak of allocated memory during one call."""
        if not self.cuda:
            run()
            return 0
        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return max(0, torch.cuda.max_memory_allocated() - before)

    def graph(self, run: Run) -> Run:
        """A replay of `run` captured in a CUDA graph; in a dry run `run` itself."""
        if not self.cuda:
            return run
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            run()
        torch.cuda.current_stream().wait_stream(stream)
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            run()
        return captured.replay

    def synchronize(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def free(self) -> None:
        """Give unused memory back, so that one arm's leftovers do not push the next out of memory.

        Raises: DeviceLost if the device no longer answers.
        """
        gc.collect()
        if self.cuda:
            try:
                torch.cuda.synchronize()
                torch.cuda.empty_cache()
            except Exception as error:
                raise DeviceLost(reason(error)) from error

    def measure_peaks(self) -> tuple[float, float]:
        """(FLOP/s of a large bf16 product, bytes/s read and written by a large copy), the best of ten."""
        width, size = (8192, 2**30) if self.cuda else (64, 2**16)
        a = torch.ones(width, width, device=self.device, dtype=torch.bfloat16)
        source = torch.zeros(size, device=self.device, dtype=torch.int8)
        target = torch.empty_like(source)
        best = []
        for run in (lambda: a @ a, lambda: target.copy_(source)):
            self.warm_up(run, 60.0)
            best.append(min(self.seconds(run) for _ in range(10)))
        return 2 * width**3 / best[0], 2 * size / best[1]


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the block past the limit, once Python code runs again (not inside one native call)."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"took longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def reason(error: BaseException) -> str:
    """An exception as one line."""
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
