"""Device functions shared by the Miras kernels: where a program's tokens are, its gates, and their gradients.

One program walks the chunks of one (sequence, head). A chunk's rows beyond its tokens carry log-decay 0 and step size
0, which leaves the memory as it was.
"""

import triton
import triton.language as tl


@triton.jit
def walk(plan, position, num_sequences, H, C: tl.constexpr, HAS_STATE: tl.constexpr):
    """This program's (head, first token, last token, start of chunk 0, number of chunks, first checkpoint).

    plan: `[2, N + 1]` int64, boundaries of the sequences and of their checkpoints. A sequence that starts inside a
    chunk has a chunk 0 whose start lies before its first token.
    """
    program = tl.program_id(0).to(tl.int64)
    n, h = program // H, program % H
    first, last = tl.load(plan + n), tl.load(plan + n + 1)
    checkpoint = tl.load(plan + num_sequences + 1 + n)
    origin = first
    if HAS_STATE:
        origin = first - tl.load(position + n)
    return program, h, first, last, origin, tl.cdiv(last - origin, C), checkpoint


@triton.jit
def chunk_rows(j, h, H, first, last, origin, C: tl.constexpr, BC: tl.constexpr):
    """Chunk j: rows of this head in the flat `[B T, H]` token axis, as (int64 start, `[BC]` int32 offsets), and which
    of them are tokens."""
    low = tl.maximum(first, origin + j * C)
    count = (tl.minimum(last, origin + (j + 1) * C) - low).to(tl.int32)
    rows = tl.arange(0, BC)
    return (low * H + h, rows * H), rows < count


@triton.jit
def load_rows(x, row, valid, columns, D: tl.constexpr):
    """`[BC, BD]` rows of x in its own type, zero outside."""
    mask = valid[:, None] & (columns < D)[None, :]
    return tl.load(x + row[0] * D + (row[1][:, None] * D + columns[None, :]), mask=mask, other=0.0)


@triton.jit
def store_rows(x, value, row, valid, columns, D: tl.constexpr):
    mask = valid[:, None] & (columns < D)[None, :]
    tl.store(x + row[0] * D + (row[1][:, None] * D + columns[None, :]), value, mask=mask)


@triton.jit
def load_gate(x, row, valid, columns, D: tl.constexpr, CHANNEL: tl.constexpr):
    """A gate in float32: `[BC, BD]` per channel, `[BC, 1]` per head."""
    if CHANNEL:
        gate = load_rows(x, row, valid, columns, D).to(tl.float32)
    else:
        gate = tl.load(x + row[0] + row[1], mask=valid, other=0.0).to(tl.float32)[:, None]
    return gate


@triton.jit
def store_gate(x, value, row, valid, columns, D: tl.constexpr, CHANNEL: tl.constexpr):
    """Store a gate's gradient `[BC, BD]`: per head the sum over its channels."""
    if CHANNEL:
        store_rows(x, value, row, valid, columns, D)
    else:
        tl.store(x + row[0] + row[1], tl.sum(value, 1), mask=valid)


@triton.jit
def per_row(x):
    """`[BC, 1]` as `[BC]`."""
    return tl.sum(x, 1)


@triton.jit
def pairwise(total, BC: tl.constexpr):
    """exp(b_t - b_i) for i <= t, else 0, `[t, i]`, from per-head sums `[BC, 1]`."""
    b = per_row(total)
    rows = tl.arange(0, BC)
    gap = tl.where(rows[:, None] >= rows[None, :], b[:, None] - b[None, :], float("-inf"))
    return tl.exp(gap)


@triton.jit
def pairwise_transposed(total, BC: tl.constexpr):
    """The same, `[i, t]`."""
    b = per_row(total)
    rows = tl.arange(0, BC)
    gap = tl.where(rows[None, :] >= rows[:, None], b[None, :] - b[:, None], float("-inf"))
    return tl.exp(gap)


@triton.jit
def causal(BC: tl.constexpr):
    """`[t, i]`: whether i <= t."""
    rows = tl.arange(0, BC)
    return rows[:, None] >= rows[None, :]


@triton.jit
def causal_transposed(BC: tl.constexpr):
    """`[i, t]`: whether i <= t."""
    rows = tl.arange(0, BC)
    return rows[:, None] <= rows[None, :]


@triton.jit
def as_row(x):
    """`[BC, 1]` as `[1, BC]`."""
    return tl.sum(x, 1)[None, :]


@triton.jit
def log_decay_gradient(db, db_end):
    """Gradient of the log-decays from that of their running sums b, `db`, and of the chunk's total, `db_end`."""
    after = tl.sum(db, 0, keep_dims=True) - tl.cumsum(db, 0) + db
    return after + db_end
