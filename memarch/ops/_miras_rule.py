"""The choices of the Miras framework: memory, attentional bias, retention link (arXiv 2504.13173, Sections 3 to 5).

A rule is one point of the recurrence  A_t = a_t A_{t-1} - eta_t grad l(W; k_t, v_t),  W = link(A): `bias` names the
loss l, `link` the map from the accumulator A to the weights W that the memory is read with, `memory` what W
parametrises.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

Memory = Literal["mlp", "matrix"]
Bias = Literal["l2", "lp", "huber", "dot"]
Link = Literal["identity", "lq", "pnorm_dual", "softmax", "soft_threshold", "sigmoid", "f_divergence"]
Huber = Literal["mixture", "coordinate", "norm", "pseudo"]
Divergence = Literal["kl", "chi_square"]
Read = Literal["running", "frozen", "exact"]
GradientAt = Literal["chunk", "token"]

SCALAR_LINKS = ("identity", "lq")
"""Links that only scale the accumulator, so that a chunk reads the running memory by matrix products."""


@dataclass(frozen=True, kw_only=True)
class MirasRule:
    """Which memory, which loss, which retention: everything that fixes the *function* except the chunk size.

    Args:
        memory: "mlp" is x + LN(W1 gelu(W2 x)); "matrix" is W x.
        bias: attentional bias. "l2": 1/2 |e|^2, gradient e. "lp": |e|^p, gradient p tanh(10 e) (e^2 + 1e-6)^((p-1)/2)
            (Eq. 24; p = 2 therefore gives 2e, twice "l2"). "huber": see `huber`. "dot": -<M(k), v>, gradient -v
            (Hebbian).
        link: retention. "identity": l2 decay. "lq": A / |A|_q^(q-2) as printed in Eq. 25. "pnorm_dual": the true p-norm
            link sign(A) |A|^(q-1) / |A|_q^(q-2), which the printed formula lacks. "softmax": `scale` * softmax(A) along
            the slice that shares one gate (Eq. 27). "soft_threshold": elastic net. "sigmoid": Bregman divergence of the
            bit entropy. "f_divergence": positive weights, see `divergence`.
        p: exponent of "lp", at least 1.
        q: exponent of "lq" and "pnorm_dual", at least 2; 2 is the identity.
        huber: "mixture": e where |e| <= delta, else delta tanh(10 e) (Eq. 26). "coordinate": clip each entry to delta
            (Eq. 14). "norm": delta e / |e| outside (Eq. 15). "pseudo": e / sqrt(1 + (e / delta)^2), smooth.
        scale: mass of a softmax slice; None takes the slice's length (a mass of 1 leaves no signal).
        shrinkage: threshold of "soft_threshold"; 0 is the identity.
        divergence: "kl": W = exp(A); "chi_square": W = max(0, 1 + A).
        read: memory that a query inside a chunk meets. "running": the accumulator after its token under the link
            scale of the chunk's start (scalar links only; exact for the identity). "frozen": the weights of the
            chunk's start. "exact": link(A_t) for every token, which writes out one state per token of a chunk. None:
            "running" for scalar links, else "frozen": of 16 MQAR pairs (benchmarks.recall, seed 0) it recalled 0.978,
            "exact" 0.513 at about twenty times the cost on CPU.
        momentum: keep a running sum of gradients S_t = m_t S_{t-1} - eta_t grad, A_t = a_t A_{t-1} + S_t (Titans).
        gradient_at: "chunk": gradients of a chunk are taken at its start (Eqs. 28-32), so the chunk size changes the
            function. "token": at the memory just before the token, whatever the chunk size (delta rule).

    Raises:
        ValueError: a choice that does not exist or does not combine.
    """

    memory: Memory = "mlp"
    bias: Bias = "l2"
    link: Link = "identity"
    p: float = 3.0
    q: float = 4.0
    huber: Huber = "mixture"
    scale: float | None = None
    shrinkage: float = 1e-3
    divergence: Divergence = "kl"
    read: Read | None = None
    momentum: bool = False
    gradient_at: GradientAt = "chunk"

    def __post_init__(self) -> None:
        for field, allowed in _CHOICES.items():
            value = getattr(self, field)
            if value not in allowed and not (field == "read" and value is None):
                raise ValueError(f"{field} must be one of {', '.join(map(repr, allowed))}; got {value!r}")
        if not self.p >= 1:
            raise ValueError(f"p must be at least 1 for |e|^p to be convex; got {self.p!r}")
        if not self.q >= 2:
            raise ValueError(f"q must be at least 2 (2 is plain l2 retention); got {self.q!r}")
        if self.scale is not None and not self.scale > 0:
            raise ValueError(f"scale, the mass of a softmax slice, must be positive or None; got {self.scale!r}")
        if not self.shrinkage >= 0:
            raise ValueError(f"shrinkage must not be negative; got {self.shrinkage!r}")
        if self.read == "running" and self.link not in SCALAR_LINKS:
            raise ValueError(
                f"read='running' needs a link that only scales the memory ({' or '.join(SCALAR_LINKS)}); got "
                f"link={self.link!r}: use read='frozen' or read='exact'"
            )
        if self.gradient_at == "token" and self.read == "frozen":
            raise ValueError("gradient_at='token' follows the memory token by token; read='frozen' contradicts it")

    @property
    def read_mode(self) -> Read:
        """The read mode in force: `read`, or the default of the link."""
        if self.read is None:
            if self.link in SCALAR_LINKS:
                return "running"
            return "exact" if self.gradient_at == "token" else "frozen"
        return "running" if self.read == "exact" and self.link == "identity" else self.read

    @property
    def num_weights(self) -> int:
        """How many weight tensors the memory has: (W1, W2) or (W,)."""
        return 2 if self.memory == "mlp" else 1

    @property
    def needs_threshold(self) -> bool:
        """Whether the loss has a delta."""
        return self.bias == "huber"

    def replace(self, **changes: object) -> MirasRule:
        """A copy with some fields changed, checked again."""
        return replace(self, **changes)  # type: ignore[arg-type]


_CHOICES: dict[str, tuple[str, ...]] = {
    "memory": get_args(Memory),
    "bias": get_args(Bias),
    "link": get_args(Link),
    "huber": get_args(Huber),
    "divergence": get_args(Divergence),
    "read": get_args(Read),
    "gradient_at": get_args(GradientAt),
}

MONETA = MirasRule(bias="lp", link="lq", p=3.0, q=4.0)
YAAD = MirasRule(bias="huber", huber="mixture")
MEMORA = MirasRule(bias="l2", link="softmax")

# The other points of the paper's Table 1. Linear attention, RetNet and GLA are one rule under different gates
# (none, fixed per head, per channel); so are DeltaNet (no decay) and Gated DeltaNet.
LINEAR_ATTENTION = MirasRule(memory="matrix", bias="dot")
RETNET = LINEAR_ATTENTION
GLA = LINEAR_ATTENTION
DELTANET = MirasRule(memory="matrix", gradient_at="token")
GATED_DELTANET = DELTANET
TTT_LINEAR = MirasRule(memory="matrix")
TTT_MLP = MirasRule(memory="mlp")
TITANS_LMM = MirasRule(memory="mlp", momentum=True)
ELASTIC_NET = MirasRule(memory="mlp", link="soft_threshold")
F_DIVERGENCE = MirasRule(memory="mlp", link="f_divergence")
SIGMOID_BREGMAN = MirasRule(memory="mlp", link="sigmoid")
