"""Gradients of score distillation at the clean latents, from a prior's noise predictions.

Letters: `x_t = alpha(t) x + sigma(t) eps`; `eps_text` and `eps_uncond` are predictions at `(x_t, t)` with the
prompt and with the empty prompt; `s` is the guidance scale in the usual convention, in which `s = 1` is no
guidance (PGC-3D writes `s - 1`); `w(t)` is the weight, one per sample, see `timesteps.weight_of`.

Every method is `w(t) (first branch - second branch)`; only the second branch differs:

    sds   the noise that was added                               -> guided - eps
    csd   the prediction without prompt, first branch unguided   -> eps_text - eps_uncond
    vsd   a prior fine-tuned on the renders                      -> guided - eps_finetuned
    asd   the same frozen prior a little later, with prompt      -> guided - eps(x_{t+dt}; t + dt, text)

So asd with `dt = 0` is `(s - 1)` csd, and guided minus `eps_uncond` is `s` csd. Latents are
`(batch, c, h, w)`. Results are unreduced: not divided by the batch, not clipped, not averaged over elements.
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
    _check_same_shape("eps_text", eps_text, "eps_uncond", eps_uncond)
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
    _check_same_shape("eps_guided", eps_guided, "eps_text", eps_text)
    std_guided, std_text = (eps.std(dim=(1, 2, 3), keepdim=True) for eps in (eps_guided, eps_text))
    ratio = std_text / std_guided.where(std_guided > 0, 1)
    return eps_guided * (share * ratio + (1 - share))


def asd_gradient(
    eps_guided: Float[Tensor, "batch c h w"],
    eps_shifted: Float[Tensor, "batch c h w"],
    weight: Float[Tensor, " batch"],
) -> Float[Tensor, "batch c h w"]:
    """Gradient of asynchronous score distillation (ScaleDreamer, Algorithm 1).

    Args:
        eps_guided: prediction at t after guidance (`guided_noise` or `perp_neg`).
        eps_shifted: prediction at t + dt with the prompt, unguided, of latents noised with the same noise.
        weight: w(t), one per sample.
    Raises: ValueError if the predictions differ in shape, or the weight is not one per sample.
    """
    _check_same_shape("eps_guided", eps_guided, "eps_shifted", eps_shifted)
    return _weighted(eps_guided - eps_shifted, weight)


def sds_gradient(
    eps_guided: Float[Tensor, "batch c h w"],
    noise: Float[Tensor, "batch c h w"],
    weight: Float[Tensor, " batch"],
) -> Float[Tensor, "batch c h w"]:
    """Gradient of score distillation sampling (DreamFusion, Eq. 3).

    Args:
        eps_guided: prediction at t after guidance.
        noise: the noise that was added to the latents.
        weight: w(t), one per sample.
    Raises: ValueError if the predictions differ in shape, or the weight is not one per sample.
    """
    _check_same_shape("eps_guided", eps_guided, "noise", noise)
    return _weighted(eps_guided - noise, weight)


def csd_gradient(
    eps_text: Float[Tensor, "batch c h w"],
    eps_uncond: Float[Tensor, "batch c h w"],
    weight: Float[Tensor, " batch"],
) -> Float[Tensor, "batch c h w"]:
    """Gradient of classifier score distillation, the guidance direction alone (arXiv 2310.19415).

    Args:
        eps_text: prediction at t with the prompt.
        eps_uncond: prediction at t with the empty prompt.
        weight: w(t), one per sample; a guidance scale would only multiply it.
    Raises: ValueError if the predictions differ in shape, or the weight is not one per sample.
    """
    _check_same_shape("eps_text", eps_text, "eps_uncond", eps_uncond)
    return _weighted(eps_text - eps_uncond, weight)


def vsd_gradient(
    eps_guided: Float[Tensor, "batch c h w"],
    eps_finetuned: Float[Tensor, "batch c h w"],
    weight: Float[Tensor, " batch"],
) -> Float[Tensor, "batch c h w"]:
    """Gradient of variational score distillation (ProlificDreamer, Algorithm 1, line 5).

    Args:
        eps_guided: prediction at t after guidance.
        eps_finetuned: prediction at t, with the prompt, of the prior fine-tuned on the generator's renders.
        weight: w(t), one per sample.
    Raises: ValueError if the predictions differ in shape, or the weight is not one per sample.
    """
    _check_same_shape("eps_guided", eps_guided, "eps_finetuned", eps_finetuned)
    return _weighted(eps_guided - eps_finetuned, weight)


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
    _check_same_shape("eps_text", eps_text, "eps_uncond", eps_uncond)
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


def _weighted(difference: Tensor, weight: Tensor) -> Tensor:
    if weight.shape != difference.shape[:1]:
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}, expected one per sample: {tuple(difference.shape[:1])}"
        )
    return weight[:, None, None, None] * difference


def _check_same_shape(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    if tensor.shape != other.shape:
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)} but {other_name} has {tuple(other.shape)}; "
            "both must come from the same batch of latents"
        )
