"""Pictures of an episode as a GIF or an MP4 file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LAST_PICTURE_SECONDS = 1.0


class Film:
    """Collects pictures, uint8 [height, width, 3], all of one size, and writes them to `path`.

    Raises: ValueError if `path` ends neither in .gif nor in .mp4; ImportError, saying what to install, if what writes
    that kind of file is missing; FileNotFoundError if its folder does not exist. All before anything is played.
    """

    def __init__(self, path: Path, *, fps: float) -> None:
        writers: dict[str, Callable[[], Any]] = {".gif": _gif_writer, ".mp4": _mp4_writer}
        if path.suffix.lower() not in writers:
            raise ValueError(f"a film takes a name that ends in .gif or .mp4; got {str(path)!r}")
        self.path, self.fps = path, fps
        self.pictures: list[NDArray[np.uint8]] = []
        self._write = writers[path.suffix.lower()]()
        if not path.parent.is_dir():
            raise FileNotFoundError(f"there is no folder {path.parent}: create it first")

    def add(self, picture: NDArray[np.uint8], *, last: bool) -> None:
        """One more picture; the last one of an episode stays for a second."""
        self.pictures += [picture] * (max(1, round(self.fps * LAST_PICTURE_SECONDS)) if last else 1)

    def save(self) -> None:
        """Write the file. What was there stays until the new one is whole."""
        part = self.path.with_name(f".part-{self.path.name}")
        try:
            self._write(part, self.pictures, self.fps)
            part.replace(self.path)
        finally:
            part.unlink(missing_ok=True)


def _gif_writer() -> Callable[[Path, list[NDArray[np.uint8]], float], None]:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("a GIF needs pillow: pip install 'memarch[agents]'") from error

    def write(path: Path, pictures: list[NDArray[np.uint8]], fps: float) -> None:
        frames = [Image.fromarray(picture) for picture in pictures]
        # GIF counts in hundredths of a second; viewers slow down what is shorter than two of them.
        duration = max(20, round(100 / fps) * 10)
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=duration, loop=0, optimize=True)

    return write


def _mp4_writer() -> Callable[[Path, list[NDArray[np.uint8]], float], None]:
    import numpy as np

    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise ImportError("an MP4 needs imageio-ffmpeg: pip install 'memarch[video]', or save a .gif") from error

    def write(path: Path, pictures: list[NDArray[np.uint8]], fps: float) -> None:
        # The codec wants even sizes: the last row and column are drawn twice where that is needed.
        even = [np.pad(picture, [(0, n % 2) for n in picture.shape[:2]] + [(0, 0)], "edge") for picture in pictures]
        height, width = even[0].shape[:2]
        stream = imageio_ffmpeg.write_frames(str(path), (width, height), fps=fps, macro_block_size=2, quality=8)
        stream.send(None)
        for picture in even:
            stream.send(np.ascontiguousarray(picture))
        stream.close()

    return write
