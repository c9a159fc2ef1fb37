"""Who decides between torch and Triton, and what a user is told."""

from __future__ import annotations

import logging

import pytest
import torch

from memarch.ops import _dispatch


@pytest.fixture(autouse=True)
def fresh_caches():
    _dispatch._no_kernel.cache_clear()
    _dispatch._log_once.cache_clear()


def test_cpu_tensors_take_the_torch_path(monkeypatch):
    monkeypatch.delenv("MEMARCH_BACKEND", raising=False)
    assert _dispatch.choose_backend("miras", None, torch.zeros(1)) == "torch"
    assert _dispatch.choose_backend("miras", "auto", torch.zeros(1)) == "torch"


def test_a_missing_kernel_is_said_once_where_it_matters(caplog):
    class OnCuda:
        device = torch.device("cuda")

    with caplog.at_level(logging.INFO, logger="memarch"):
        assert [_dispatch.choose_backend("no_such_op", "auto", OnCuda()) for _ in range(3)] == ["torch"] * 3
    assert [r.getMessage() for r in caplog.records] == [
        "no_such_op runs on the torch path: this version of memarch ships no Triton kernel for no_such_op"
    ]


def test_an_existing_kernel_is_chosen_on_cuda(monkeypatch):
    class OnCuda:
        device = torch.device("cuda")

    monkeypatch.setattr(_dispatch, "_no_kernel", lambda op: "")
    assert _dispatch.choose_backend("miras", "auto", OnCuda()) == "triton"
    assert _dispatch.choose_backend("miras", "triton", torch.zeros(1)) == "triton"
    assert _dispatch.choose_backend("miras", "torch", OnCuda()) == "torch"


def test_environment_variable_and_argument(monkeypatch):
    monkeypatch.setenv("MEMARCH_BACKEND", "triton")
    with pytest.raises(ValueError, match="MEMARCH_BACKEND='triton' for no_such_op: .* ships no Triton kernel"):
        _dispatch.choose_backend("no_such_op", None, torch.zeros(1))
    assert _dispatch.choose_backend("no_such_op", "torch", torch.zeros(1)) == "torch"
    with pytest.raises(ValueError, match="backend must be one of 'auto', 'torch', 'triton'; got 'cuda'"):
        _dispatch.choose_backend("no_such_op", "cuda", torch.zeros(1))
