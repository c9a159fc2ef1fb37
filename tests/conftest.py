"""What every test runs under: poisoned scratch memory, one seed, one thread, no GPU assumed."""

import os
import random
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import settings

if not torch.cuda.is_available():
    # Triton looks at this when a kernel is defined: without a GPU, kernels run in its interpreter.
    os.environ.setdefault("TRITON_INTERPRET", "1")
torch.set_num_threads(1)
settings.register_profile("memarch", derandomize=True, deadline=None, database=None)
settings.load_profile("memarch")

# The first `with torch.device(...)` stores the set of constructors that obey it. Stored after the patch
# below, it would hold the wrappers, and `with torch.device("meta")` would stop working.
with torch.device("cpu"):
    torch.empty(0)

UNINITIALISED = (
    (torch, "empty"),
    (torch, "empty_like"),
    (torch, "empty_strided"),
    (torch.Tensor, "new_empty"),
    (torch.Tensor, "new_empty_strided"),
)


def _poisoned(allocate: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def allocate_nan(*args: object, **options: object) -> torch.Tensor:
        tensor = allocate(*args, **options)
        if tensor.is_floating_point() or tensor.is_complex():
            with torch.no_grad():
                tensor.fill_(float("nan"))
        return tensor

    return allocate_nan


@pytest.fixture(scope="session", autouse=True)
def nan_poisoned_scratch_memory() -> Iterator[None]:
    """Floating-point memory that nobody wrote reads NaN.

    torch.utils.deterministic.fill_uninitialized_memory would do the same, but only together with
    use_deterministic_algorithms(True): that swaps the algorithms under test, and on a GPU it needs an
    environment variable.
    """
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in UNINITIALISED:
            patch.setattr(owner, name, _poisoned(getattr(owner, name)))
        yield


@pytest.fixture(autouse=True)
def one_seed() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU; torch sees none")
