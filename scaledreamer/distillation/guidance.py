"""Guidance of a prior's noise predictions by its text: pure functions of tensors.

Letters: `x_t = alpha(t) x + sigma(t) eps`; `eps_text` and `eps_uncond` are predictions at `(x_t, t)` with the
prompt and with the empty prompt; `s` is the guidance scale in the usual convention, in which `s = 1` is no
guidance (PGC-3D writes `s - 1`). Latents are `(batch, c, h, w)`.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def guided_noise(
    eps_text: Float[Tensor, "batch c h w"], eps_uncond: Float[Tensor, "batch c h w"], scale: float
) -> Float[Tensor, "batch c h w"]:
    """Classifier-free guidance, `eps_uncond + s (eps_text - eps_uncond)` (arXiv 2207.12598).

    Args:
        eps_text: prediction with the prompt.
        eps_uncond: prediction with the empty prompt, same latents and time.
        scale: `s`; 1 gives `eps_text`, 0 gives `eps_uncond`.
    Raises: ValueError if the predictions differ in shape.
    """
    check_same_shape("eps_text", eps_text, "eps_uncond", eps_uncond)
    return eps_uncond + scale * (eps_text - eps_uncond)


def rescale_guidance(
    eps_guided: Float[Tensor, "batch c h w"], eps_text: Float[Tensor, "batch c h w"], share: float
) -> Float[Tensor, "batch c h w"]:
    """Guidance whose spread is brought back towards the unguided prediction's (arXiv 2305.08891, Eqs. 15-16).

        share * eps_guided * std(eps_text) / std(eps_guided) + (1 - share) * eps_guided

    with the standard deviation of each sample over all its elements.

    Args:
        eps_guided: prediction after guidance.
        eps_text: prediction with the prompt.
        share: 0 leaves `eps_guided` as it is, 1 gives it the other's spread.
    Raises: ValueError if the predictions differ in shape.
    """
    check_same_shape("eps_guided", eps_guided, "eps_text", eps_text)
    std_guided, std_text = (eps.std(dim=(1, 2, 3), keepdim=True) for eps in (eps_guided, eps_text))
    ratio = std_text / std_guided.where(std_guided > 0, 1)
    return eps_guided * (share * ratio + (1 - share))


def perp_neg(
    eps_text: Float[Tensor, "batch c h w"],
    eps_uncond: Float[Tensor, "batch c h w"],
    eps_negatives: Float[Tensor, "batch negative c h w"],
    negative_weights: Float[Tensor, "batch negative"],
    scale: float,
) -> Float[Tensor, "batch c h w"]:
    """Guidance away from negative prompts that leaves the positive prompt alone (Perp-Neg, arXiv 2304.04968).

        eps_uncond + s (d - sum_i w_i perp(d_i, d)),  d = eps_text - eps_uncond,  d_i = eps_neg_i - eps_uncond

    where `perp(a, b)` is a minus its projection on b, taken per sample over all elements. Use it in place of
    `guided_noise`. A negative prompt equal to the positive one has no effect, whatever its weight. Where `d`
    is zero there is no direction to protect, and `perp(a, 0) = a`.

    Args:
        eps_text: prediction with the prompt (of the sample's own view).
        eps_uncond: prediction with the empty prompt.
        eps_negatives: predictions with the negative prompts; `eps_negatives[b, i]` belongs to sample b.
        negative_weights: `w_i >= 0`, subtracted; a weight of zero ignores that negative prompt.
        scale: guidance scale `s`.
    Raises: ValueError if the shapes do not belong together.
    """
    check_same_shape("eps_text", eps_text, "eps_uncond", eps_uncond)
    num_samples, num_negatives = negative_weights.shape
    expected = (len(eps_text), num_negatives, *eps_text.shape[1:])
    if eps_negatives.shape != expected or num_samples != len(eps_text):
        raise ValueError(
            f"eps_negatives has shape {tuple(eps_negatives.shape)}, negative_weights "
            f"{tuple(negative_weights.shape)} and eps_text {tuple(eps_text.shape)}; expected "
            "(batch, negative, c, h, w), (batch, negative) and (batch, c, h, w)"
        )
    # A sum of squares over a half-precision latent can exceed what half precision holds.
    dtype = torch.promote_types(eps_text.dtype, torch.float32)
    positive = eps_text.to(dtype) - eps_uncond.to(dtype)
    negatives = eps_negatives.to(dtype) - eps_uncond.to(dtype)[:, None]
    squared_norm = positive.square().sum(dim=(1, 2, 3))
    overlap = (negatives * positive[:, None]).sum(dim=(2, 3, 4))
    projection = overlap / squared_norm.where(squared_norm > 0, 1).unsqueeze(1)
    perpendicular = negatives - projection[:, :, None, None, None] * positive[:, None]
    removed = (negative_weights.to(dtype)[:, :, None, None, None] * perpendicular).sum(dim=1)
    return (eps_uncond.to(dtype) + scale * (positive - removed)).to(eps_uncond.dtype)


def check_same_shape(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Raises ValueError unless both predictions are of the same batch of latents."""
    if tensor.shape != other.shape:
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)} but {other_name} has {tuple(other.shape)}; "
            "both must come from the same batch of latents"
        )
