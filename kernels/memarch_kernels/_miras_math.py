"""Device functions shared by the Miras kernels: losses, links, GELU and LayerNorm with their derivatives, in float32.

Rows are tokens, columns channels; `inside` masks columns beyond the head width. Tokens and columns beyond the data are
zero on entry and stay zero. BIAS, HUBER, LINK name the rule's choices; P and Q are its exponents.
"""

import triton
import triton.language as tl

LN_EPS = tl.constexpr(1e-6)
ABS_EPS = tl.constexpr(1e-6)
FLOOR = tl.constexpr(1e-30)
GELU_A = tl.constexpr(1.5957691216057308)
GELU_B = tl.constexpr(0.044715 * 1.5957691216057308)


@triton.jit
def mm(a, b, DOT: tl.constexpr, PRECISION: tl.constexpr):
    """a b with operands in DOT, summed in float32."""
    return tl.dot(a.to(DOT), b.to(DOT), input_precision=PRECISION)


@triton.jit
def power(x, EXPONENT: tl.constexpr):
    """x^EXPONENT for x >= 0."""
    if EXPONENT == 0.0:
        y = tl.zeros_like(x) + 1.0
    elif EXPONENT == 0.5:
        y = tl.sqrt(x)
    elif EXPONENT == 1.0:
        y = x
    elif EXPONENT == 2.0:
        y = x * x
    elif EXPONENT == 3.0:
        y = x * x * x
    elif EXPONENT == 4.0:
        y = x * x * (x * x)
    else:
        y = tl.where(x > 0, tl.exp2(EXPONENT * tl.log2(tl.maximum(x, FLOOR))), 0.0)
    return y


@triton.jit
def smooth_sign(x):
    """tanh(10 x)."""
    return 2.0 * tl.sigmoid(20.0 * x) - 1.0


@triton.jit
def gelu_gate(z):
    """s of gelu(z) = z s: the tanh-GELU in its logistic form."""
    return tl.sigmoid(z * (GELU_A + GELU_B * z * z))


@triton.jit
def gelu_slope(z, gate):
    """gelu'(z)."""
    return gate + z * (GELU_A + 3.0 * GELU_B * z * z) * (gate - gate * gate)


@triton.jit
def gelu_curvature(z, gate):
    """gelu''(z)."""
    inner = GELU_A + 3.0 * GELU_B * z * z
    return (gate - gate * gate) * (2.0 * inner + 6.0 * GELU_B * z * z + z * inner * inner * (1.0 - 2.0 * gate))


@triton.jit
def layer_norm(y, inside, D: tl.constexpr):
    """LayerNorm of every row without affine: (normalised, 1 / standard deviation `[.., 1]`)."""
    centred = tl.where(inside, y - tl.sum(y, 1, keep_dims=True) / D, 0.0)
    rstd = 1.0 / tl.sqrt(tl.sum(centred * centred, 1, keep_dims=True) / D + LN_EPS)
    return centred * rstd, rstd


@triton.jit
def layer_norm_vjp(dy, y_hat, rstd, inside, D: tl.constexpr):
    """Pull dy back through LayerNorm; a symmetric map of dy."""
    mean = tl.sum(dy, 1, keep_dims=True) / D
    along = tl.sum(dy * y_hat, 1, keep_dims=True) / D
    return tl.where(inside, (dy - mean - y_hat * along) * rstd, 0.0)


@triton.jit
def row_sums(x, BIAS: tl.constexpr, HUBER: tl.constexpr):
    """Row sums `[.., 1]` where the loss couples a row's entries, else zeros: of e * e, and of e * dg for the vjp."""
    if BIAS == "huber" and (HUBER == "norm" or HUBER == "mixture"):
        total = tl.sum(x, 1, keep_dims=True)
    else:
        total = tl.zeros_like(tl.sum(x, 1, keep_dims=True))
    return total


@triton.jit
def error_gradient(e, delta, BIAS: tl.constexpr, HUBER: tl.constexpr, P: tl.constexpr):
    """rho(e): gradient of the attentional bias with respect to the prediction, of whole rows."""
    return error_gradient_tile(e, row_sums(e * e, BIAS, HUBER), delta, BIAS, HUBER, P)


@triton.jit
def error_gradient_tile(e, square, delta, BIAS: tl.constexpr, HUBER: tl.constexpr, P: tl.constexpr):
    """rho(e) of some columns; square: `row_sums` of e * e over all columns."""
    if BIAS == "lp":
        g = P * smooth_sign(e) * power(e * e + ABS_EPS, (P - 1.0) / 2.0)
    elif BIAS == "huber":
        if HUBER == "coordinate":
            g = tl.minimum(tl.maximum(e, -delta), delta)
        elif HUBER == "pseudo":
            g = e * (delta / tl.sqrt(delta * delta + e * e + FLOOR))
        else:
            norm = tl.sqrt(square)
            if HUBER == "norm":
                g = e * tl.minimum(delta / tl.maximum(norm, FLOOR), 1.0)
            else:
                g = tl.where(norm <= delta, e, delta * smooth_sign(e))
    else:
        g = e
    return g


@triton.jit
def error_gradient_vjp(e, delta, dg, BIAS: tl.constexpr, HUBER: tl.constexpr, P: tl.constexpr):
    """Pull dg back through rho: (de, every entry's share of the threshold's gradient), of whole rows."""
    square, product = row_sums(e * e, BIAS, HUBER), row_sums(e * dg, BIAS, HUBER)
    return error_gradient_tile_vjp(e, square, product, delta, dg, BIAS, HUBER, P)


@triton.jit
def error_gradient_tile_vjp(
    e, square, product, delta, dg, BIAS: tl.constexpr, HUBER: tl.constexpr, P: tl.constexpr
):  # fmt: skip
    """The same of some columns; square, product: `row_sums` of e * e and e * dg over all columns."""
    ddelta = tl.zeros_like(e)
    if BIAS == "lp":
        sign = smooth_sign(e)
        least = e * e + ABS_EPS
        slope = 10.0 * (1.0 - sign * sign) * power(least, (P - 1.0) / 2.0)
        slope += (P - 1.0) * sign * e * power(least, (P - 1.0) / 2.0) / least
        de = P * slope * dg
    elif BIAS == "huber":
        if HUBER == "coordinate":
            outside = tl.abs(e) > delta
            de = tl.where(outside, 0.0, dg)
            ddelta = tl.where(outside, tl.where(e > 0, dg, -dg), 0.0)
        elif HUBER == "pseudo":
            inverse = 1.0 / tl.sqrt(delta * delta + e * e + FLOOR)
            flat, steep = delta * inverse, e * inverse
            de = dg * flat * flat * flat
            ddelta = dg * steep * steep * steep
        else:
            norm = tl.sqrt(square)
            outside = norm > delta
            if HUBER == "norm":
                inverse = 1.0 / tl.maximum(norm, FLOOR)
                unit = e * inverse
                along = product * inverse
                de = tl.where(outside, (dg - unit * along) * (delta * inverse), dg)
                ddelta = tl.where(outside, unit * dg, 0.0)
            else:
                sign = smooth_sign(e)
                de = tl.where(outside, delta * 10.0 * (1.0 - sign * sign) * dg, dg)
                ddelta = tl.where(outside, sign * dg, 0.0)
    else:
        de = dg
    return de, ddelta


@triton.jit
def signed_power(a, EXPONENT: tl.constexpr):
    """sign(a) |a|^EXPONENT."""
    if EXPONENT == 3.0:
        y = a * a * a
    else:
        y = tl.where(a < 0, -1.0, 1.0) * power(tl.abs(a), EXPONENT)
    return y


@triton.jit
def norm_to(total, Q: tl.constexpr, EXPONENT: tl.constexpr):
    """|A|_Q^EXPONENT from `total`, the sum of |a|^Q."""
    return tl.exp2(EXPONENT / Q * tl.log2(tl.maximum(total, FLOOR)))


@triton.jit
def link(a, scale, top, total, present, LINK: tl.constexpr, Q: tl.constexpr, MASS: tl.constexpr, SHRINK: tl.constexpr):
    """W = link(A) of a tile, zero where not `present`.

    scale: |A|_Q^(2 - Q) of the q-norm links. top, total: largest logit and sum of exp(a - top) of the softmax's slice.
    """
    if LINK == "lq":
        w = a * scale
    elif LINK == "pnorm_dual":
        w = signed_power(a, Q - 1.0) * scale
    elif LINK == "softmax":
        w = tl.where(present, tl.exp(a - top) * (MASS / total), 0.0)
    elif LINK == "soft_threshold":
        w = tl.where(a > SHRINK, a - SHRINK, tl.where(a < -SHRINK, a + SHRINK, 0.0))
    elif LINK == "sigmoid":
        w = tl.where(present, tl.sigmoid(a), 0.0)
    elif LINK == "kl":
        w = tl.where(present, tl.exp(a), 0.0)
    elif LINK == "chi_square":
        w = tl.where(present, tl.maximum(1.0 + a, 0.0), 0.0)
    else:
        w = a
    return w


@triton.jit
def link_vjp(a, w, dw, scale, LINK: tl.constexpr, Q: tl.constexpr):
    """The part of dA that needs only its own entry; norm and softmax links then subtract coef * link_direction."""
    if LINK == "lq":
        da = dw * scale
    elif LINK == "pnorm_dual":
        da = dw * scale * (Q - 1.0) * power(tl.abs(a), Q - 2.0)
    elif LINK == "softmax" or LINK == "kl":
        da = dw * w
    elif LINK == "soft_threshold":
        da = tl.where(w != 0.0, dw, 0.0)
    elif LINK == "sigmoid":
        da = dw * w * (1.0 - w)
    elif LINK == "chi_square":
        da = tl.where(w > 0.0, dw, 0.0)
    else:
        da = dw
    return da


@triton.jit
def link_share(a, w, dw, LINK: tl.constexpr, Q: tl.constexpr):
    """What the coefficient of `link_direction` is summed from: over the matrix (norms) or the slice (softmax)."""
    if LINK == "lq":
        share = dw * a
    elif LINK == "pnorm_dual":
        share = dw * signed_power(a, Q - 1.0)
    else:
        share = dw * w
    return share


@triton.jit
def link_direction(a, w, LINK: tl.constexpr, Q: tl.constexpr):
    """Direction of the coupling between the entries of a matrix (norms) or of a slice (softmax)."""
    if LINK == "softmax":
        direction = w
    else:
        direction = signed_power(a, Q - 1.0)
    return direction
