"""Triton kernels of memarch: one file per operator, named as the operator's file in memarch/ops.

Kernels import torch and triton and nothing else of memarch; only memarch.ops._dispatch imports them, on first
use. Importing this package needs neither a GPU nor triton.
"""
