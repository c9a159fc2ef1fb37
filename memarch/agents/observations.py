"""Observations of any gymnasium space as a few named arrays, and spaces as JSON."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from gymnasium import Space, spaces
from torch import Tensor

TEXT_FEATURES = 64
SMALLEST_IMAGE = 7


@dataclass(frozen=True)
class Leaf:
    """One array of an observation.

    Attributes:
        name: where it is, such as "image" or "room.objects"; "observation" for a space that is no dictionary.
        kind: "vector" float32 [size], "image" [height, width, channels] or channels first, "categories" int64 [n], or
            "text" float32 [64], counts of words by hash.
        shape: of one observation.
        counts: values of each of the categories.
        dtype: it is stored in.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    counts: tuple[int, ...] = ()
    dtype: torch.dtype = torch.float32

    @property
    def channels_first(self) -> bool:
        """Whether an image's channels come before its height."""
        return self.shape[0] < self.shape[-1]


def leaves(space: Space[Any], name: str = "") -> list[Leaf]:
    """The arrays that observations of `space` are made of.

    Raises:
        ValueError: a space without a fixed size (Sequence, Graph, OneOf), or an empty one.
    """
    label = name or "observation"
    if isinstance(space, spaces.Dict | spaces.Tuple):
        parts = space.items() if isinstance(space, spaces.Dict) else enumerate(space)
        found = [leaf for key, part in parts for leaf in leaves(part, f"{name}.{key}" if name else str(key))]
        if not found:
            raise ValueError(f"observation space {label} is empty: {space}")
        return found
    if isinstance(space, spaces.Box) and space.shape and not np.prod(space.shape):
        raise ValueError(f"observation space {label} is empty: {space}")
    if isinstance(space, spaces.Box) and _is_image(space):
        return [Leaf(label, "image", space.shape, (), torch.uint8 if space.dtype == np.uint8 else torch.float32)]
    if isinstance(space, spaces.Box | spaces.MultiBinary):
        return [Leaf(label, "vector", (int(np.prod(space.shape)),))]
    if isinstance(space, spaces.Discrete):
        return [Leaf(label, "categories", (1,), (int(space.n),), torch.int64)]
    if isinstance(space, spaces.MultiDiscrete):
        counts = tuple(int(n) for n in space.nvec.ravel())
        return [Leaf(label, "categories", (len(counts),), counts, torch.int64)]
    if _is_text(space):
        return [Leaf(label, "text", (TEXT_FEATURES,))]
    raise ValueError(
        f"observation space {label} is {space}: expected Box, Discrete, MultiDiscrete, MultiBinary, Text, or a Dict or "
        "Tuple of these; wrap the environment (gymnasium.wrappers.TransformObservation) to give one"
    )


class ObservationReader:
    """Turns batches of observations, as a `VectorEnv` gives them, into one tensor for each leaf.

    Raises:
        ValueError: see `leaves`.
    """

    def __init__(self, space: Space[Any]) -> None:
        self.space = space
        self.leaves = leaves(space)

    def read(self, batch: Any) -> dict[str, Tensor]:
        """`[N, *leaf.shape]` for each leaf of a batch of N, on the CPU; may share memory with `batch`."""
        found: dict[str, Tensor] = {}
        self._read(self.space, batch, "", found)
        return found

    def read_single(self, observations: Sequence[Any]) -> dict[str, Tensor]:
        """The same of N observations of one environment each."""
        parts = [self.read(_batch_of_one(self.space, one)) for one in observations]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _read(self, space: Space[Any], batch: Any, name: str, found: dict[str, Tensor]) -> None:
        if isinstance(space, spaces.Dict | spaces.Tuple):
            parts = space.items() if isinstance(space, spaces.Dict) else enumerate(space)
            for key, part in parts:
                self._read(part, batch[key], f"{name}.{key}" if name else str(key), found)
            return
        name = name or "observation"
        if _is_text(space):
            found[name] = torch.from_numpy(np.stack([_words(str(text)) for text in batch]))
            return
        array = np.asarray(batch)
        if isinstance(space, spaces.Box) and _is_image(space):
            found[name] = torch.from_numpy(array if array.dtype == np.uint8 else array.astype(np.float32, copy=False))
        elif isinstance(space, spaces.Discrete):
            found[name] = torch.from_numpy(array.astype(np.int64, copy=False) - int(space.start))[:, None]
        elif isinstance(space, spaces.MultiDiscrete):
            found[name] = torch.from_numpy((array.astype(np.int64, copy=False) - space.start).reshape(len(array), -1))
        else:
            found[name] = torch.from_numpy(array.astype(np.float32, copy=False).reshape(len(array), -1))


def space_to_json(space: Space[Any]) -> dict[str, Any]:
    """A description that `space_from_json` reads."""
    if isinstance(space, spaces.Dict):
        return {"kind": "Dict", "spaces": {key: space_to_json(part) for key, part in space.items()}}
    if isinstance(space, spaces.Tuple):
        return {"kind": "Tuple", "spaces": [space_to_json(part) for part in space]}
    if isinstance(space, spaces.Box):
        bounds = {}
        for name, bound in (("low", space.low), ("high", space.high)):
            same = bool((bound == bound.flat[0]).all()) if bound.size else True
            bounds[name] = repr(bound.flat[0].item()) if same and bound.size else [repr(v.item()) for v in bound.flat]
        return {"kind": "Box", "shape": list(space.shape), "dtype": str(space.dtype), **bounds}
    if isinstance(space, spaces.Discrete):
        return {"kind": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        return {"kind": "MultiDiscrete", "nvec": space.nvec.tolist(), "start": space.start.tolist()}
    if isinstance(space, spaces.MultiBinary):
        return {"kind": "MultiBinary", "n": list(space.n) if isinstance(space.n, tuple) else int(space.n)}
    return {"kind": "Text"}


def space_from_json(value: Mapping[str, Any]) -> Space[Any]:
    """The space that `space_to_json` described; every text space comes back as `Text`."""
    kind = value["kind"]
    if kind == "Dict":
        return spaces.Dict([(key, space_from_json(part)) for key, part in value["spaces"].items()])
    if kind == "Tuple":
        return spaces.Tuple([space_from_json(part) for part in value["spaces"]])
    if kind == "Box":
        shape, dtype = tuple(value["shape"]), np.dtype(value["dtype"]).type
        low, high = (
            np.broadcast_to(np.array(_numbers(value[name], dtype), dtype=dtype), shape)
            if isinstance(value[name], str)
            else np.array(_numbers(value[name], dtype), dtype=dtype).reshape(shape)
            for name in ("low", "high")
        )
        return spaces.Box(low, high, shape, dtype)
    if kind == "Discrete":
        return spaces.Discrete(value["n"], start=value["start"])
    if kind == "MultiDiscrete":
        return spaces.MultiDiscrete(np.array(value["nvec"]), start=np.array(value["start"]))
    if kind == "MultiBinary":
        return spaces.MultiBinary(value["n"])
    return spaces.Text(1_000)


def _numbers(text: str | Sequence[str], dtype: type) -> Any:
    read = float if np.issubdtype(dtype, np.floating) else int
    return read(text) if isinstance(text, str) else [read(one) for one in text]


def _is_image(space: spaces.Box) -> bool:
    """Three axes, two of them at least 7 long and the channels the shortest, first or last."""
    if len(space.shape) != 3:
        return False
    first, middle, last = space.shape
    return min(middle, max(first, last)) >= SMALLEST_IMAGE and min(first, last) <= middle and first != last


def _is_text(space: Space[Any]) -> bool:
    return isinstance(space, spaces.Text) or (space.dtype is not None and np.dtype(space.dtype).kind == "U")


def _batch_of_one(space: Space[Any], one: Any) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: _batch_of_one(part, one[key]) for key, part in space.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_batch_of_one(part, one[index]) for index, part in enumerate(space))
    return (one,) if _is_text(space) else np.asarray(one)[None]


@lru_cache(maxsize=4096)
def _words(text: str) -> np.ndarray[Any, Any]:
    counts = np.zeros(TEXT_FEATURES, dtype=np.float32)
    for word in text.lower().split():
        counts[zlib.crc32(word.encode()) % TEXT_FEATURES] += 1
    return counts
