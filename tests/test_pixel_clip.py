"""The laws of pixel-wise gradient clipping."""

import math
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scaledreamer.distillation import clip_gradient, clip_pixel_gradient

MODES = ("pgc_n", "pgc_v", "pngd")
NORMS = ("l2", "linf")
every_mode = pytest.mark.parametrize("mode", MODES)
every_norm = pytest.mark.parametrize("norm", NORMS)
numeric = settings(deadline=None, derandomize=True)  # a busy machine is no failure
TIGHT: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-300}

gradients = hnp.arrays(
    np.float64,
    st.tuples(st.integers(1, 3), st.just(3), st.integers(1, 3), st.integers(1, 3)),
    elements=st.floats(-1e6, 1e6) | st.floats(-1, 1),
).map(torch.from_numpy)
thresholds = st.floats(1e-3, 1e3)
modes = st.sampled_from(MODES)
norms = st.sampled_from(NORMS)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def norm_of(gradient: torch.Tensor, norm: str) -> torch.Tensor:
    """Of each pixel."""
    return torch.linalg.vector_norm(gradient, 2 if norm == "l2" else math.inf, dim=1, keepdim=True)


def naive_clip(gradient: torch.Tensor, threshold: float, mode: str, norm: str) -> torch.Tensor:
    """Eqs. 9 and 10, one pixel at a time, in plain Python."""
    clipped = gradient.clone()
    for image in range(gradient.shape[0]):
        for row in range(gradient.shape[2]):
            for column in range(gradient.shape[3]):
                pixel = gradient[image, :, row, column].tolist()
                size = math.hypot(*pixel) if norm == "l2" else max(map(abs, pixel))
                if mode == "pgc_v":
                    values = [min(max(value, -threshold), threshold) for value in pixel]
                elif mode == "pngd":
                    values = [threshold / (size + threshold) * value for value in pixel]
                else:
                    values = [value * (min(size, threshold) / size) if size else 0.0 for value in pixel]
                clipped[image, :, row, column] = torch.tensor(values, dtype=gradient.dtype)
    return clipped


@numeric
@given(gradients, thresholds, modes, norms)
def test_clip_equals_the_papers_equations_pixel_by_pixel(gradient, threshold, mode, norm):
    clipped, _ = clip_gradient(gradient, threshold, mode, norm)
    torch.testing.assert_close(clipped, naive_clip(gradient, threshold, mode, norm), rtol=1e-9, atol=1e-250)


@numeric
@given(gradients, thresholds, st.sampled_from(["pgc_n", "pngd"]), norms)
def test_norms_never_exceed_the_threshold(gradient, threshold, mode, norm):
    clipped, _ = clip_gradient(gradient, threshold, mode, norm)
    assert (norm_of(clipped, norm) <= threshold * (1 + 1e-12)).all()


@numeric
@given(gradients, thresholds)
def test_pgc_v_bounds_every_value(gradient, threshold):
    assert (clip_gradient(gradient, threshold, "pgc_v")[0].abs() <= threshold).all()


@numeric
@given(gradients, thresholds, st.sampled_from(["pgc_n", "pngd"]), norms)
def test_direction_is_kept(gradient, threshold, mode, norm):
    """The result is the gradient times one factor in [0, 1] per pixel."""
    clipped, _ = clip_gradient(gradient, threshold, mode, norm)
    size = norm_of(gradient, norm)
    factor = norm_of(clipped, norm) / size.where(size > 0, 1)
    assert (factor <= 1 + 1e-12).all()
    torch.testing.assert_close(clipped, factor * gradient, rtol=1e-12, atol=1e-100)


def test_pgc_v_turns_the_direction_and_pgc_n_does_not():
    gradient = torch.tensor([0.3, 0.1, 0.0]).view(1, 3, 1, 1)
    by_value, _ = clip_gradient(gradient, 0.1, "pgc_v")
    by_norm, _ = clip_gradient(gradient, 0.1, "pgc_n")
    cosine = torch.nn.functional.cosine_similarity
    assert by_value.flatten().tolist() == pytest.approx([0.1, 0.1, 0.0])
    assert cosine(by_value, gradient).item() < 0.9
    assert cosine(by_norm, gradient).item() == pytest.approx(1)


@numeric
@given(gradients, thresholds, norms)
def test_pgc_n_leaves_pixels_up_to_the_threshold_bit_for_bit(gradient, threshold, norm):
    clipped, _ = clip_gradient(gradient, threshold, "pgc_n", norm)
    is_below = (norm_of(gradient, norm) <= threshold * (1 - 1e-12)).expand_as(gradient)
    assert torch.equal(clipped[is_below], gradient[is_below])


@numeric
@given(gradients, thresholds, st.sampled_from(["pgc_n", "pgc_v"]), norms)
def test_clipping_twice_is_clipping_once(gradient, threshold, mode, norm):
    once, _ = clip_gradient(gradient, threshold, mode, norm)
    torch.testing.assert_close(clip_gradient(once, threshold, mode, norm)[0], once, **TIGHT)


def test_pngd_shortens_every_time():
    once, _ = clip_gradient(torch.full((1, 3, 1, 1), 0.1), 0.1, "pngd")
    assert (clip_gradient(once, 0.1, "pngd")[0] < 0.8 * once).all()


@numeric
@given(gradients, modes, norms)
def test_a_huge_threshold_changes_nothing(gradient, mode, norm):
    torch.testing.assert_close(clip_gradient(gradient, 1e30, mode, norm)[0], gradient, **TIGHT)
    clipped, stats = clip_gradient(gradient, math.inf, mode, norm)
    assert torch.equal(clipped, gradient)
    assert not stats.clipped_fraction.any()


@numeric
@given(gradients, thresholds, modes, norms, st.floats(1e-3, 1e3))
def test_scaling_gradient_and_threshold_scales_the_result(gradient, threshold, mode, norm, factor):
    clipped, _ = clip_gradient(gradient, threshold, mode, norm)
    scaled, _ = clip_gradient(factor * gradient, factor * threshold, mode, norm)
    torch.testing.assert_close(scaled, factor * clipped, rtol=1e-9, atol=1e-250)


@numeric
@given(gradients, thresholds, modes, norms)
def test_clipping_is_odd(gradient, threshold, mode, norm):
    negated, _ = clip_gradient(-gradient, threshold, mode, norm)
    assert torch.equal(negated, -clip_gradient(gradient, threshold, mode, norm)[0])


@numeric
@given(gradients, thresholds, modes, norms, st.permutations(range(3)))
def test_channels_are_interchangeable(gradient, threshold, mode, norm, order):
    permuted, _ = clip_gradient(gradient[:, order], threshold, mode, norm)
    clipped, _ = clip_gradient(gradient, threshold, mode, norm)
    torch.testing.assert_close(permuted, clipped[:, order], **TIGHT)


@every_mode
@every_norm
def test_images_and_pixels_do_not_affect_one_another(mode, norm):
    gradient = draw(2, 3, 4, 5)
    whole, whole_stats = clip_gradient(gradient, 0.7, mode, norm)
    for i in range(2):
        alone, stats = clip_gradient(gradient[i : i + 1], 0.7, mode, norm)
        assert torch.equal(whole[i : i + 1], alone)
        for of_batch, of_one in zip(whole_stats, stats, strict=True):
            torch.testing.assert_close(of_batch[i : i + 1], of_one, **TIGHT)
    flipped, _ = clip_gradient(gradient.flip(0, 2, 3), 0.7, mode, norm)
    assert torch.equal(flipped, whole.flip(0, 2, 3))


@numeric
@given(gradients, thresholds)
def test_linf_allows_at_most_sqrt3_more_than_l2(gradient, threshold):
    by_l2 = norm_of(clip_gradient(gradient, threshold, norm="l2")[0], "l2")
    by_linf = norm_of(clip_gradient(gradient, threshold, norm="linf")[0], "l2")
    assert (by_l2 <= by_linf * (1 + 1e-12)).all()
    assert (by_linf <= math.sqrt(3) * by_l2 * (1 + 1e-12)).all()


def test_l2_and_linf_differ_on_a_grey_pixel_and_agree_on_a_pure_one():
    grey, red = torch.ones(1, 3, 1, 1), torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    assert clip_gradient(grey, 0.1, norm="l2")[0].flatten().tolist() == pytest.approx([0.1 / 3**0.5] * 3)
    assert clip_gradient(grey, 0.1, norm="linf")[0].flatten().tolist() == pytest.approx([0.1] * 3)
    for norm in NORMS:
        assert clip_gradient(red, 0.1, norm=norm)[0].flatten().tolist() == pytest.approx([0.1, 0.0, 0.0])


@every_mode
@every_norm
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_nonfinite_pixel_is_zeroed_counted_and_left_out_of_the_statistics(mode, norm, bad):
    gradient = draw(2, 3, 4, 5)
    expected, _ = clip_gradient(gradient, 0.7, mode, norm)
    expected[1, :, 2, 3] = 0
    spoilt = gradient.clone()
    spoilt[1, 0, 2, 3] = bad
    clipped, stats = clip_gradient(spoilt, 0.7, mode, norm)
    assert torch.equal(clipped, expected)
    assert stats.num_nonfinite.tolist() == [0, 1]
    assert not stats.is_finite
    kept = torch.ones(4, 5, dtype=torch.bool)
    kept[2, 3] = False
    torch.testing.assert_close(stats.norm_mean[1], norm_of(gradient, norm)[1, 0][kept].mean())


@every_mode
@every_norm
def test_an_image_of_nothing_but_nan_has_finite_statistics(mode, norm):
    clipped, stats = clip_gradient(torch.full((1, 3, 2, 2), math.nan), 0.1, mode, norm)
    assert not clipped.any()
    assert stats.num_nonfinite.tolist() == [4]
    assert all(torch.isfinite(values).all() for values in stats)


@every_mode
@every_norm
def test_zero_stays_zero(mode, norm):
    clipped, stats = clip_gradient(torch.zeros(1, 3, 2, 2), 0.1, mode, norm)
    assert not clipped.any()
    assert stats.is_finite
    assert not stats.norm_max.any()


@every_norm
@pytest.mark.parametrize("mode", ["pgc_n", "pngd"])
@pytest.mark.parametrize("size", [1e-30, 3e38])
def test_direction_survives_values_whose_square_float32_cannot_hold(mode, norm, size):
    direction = torch.tensor([1.0, -0.5, 0.25]).view(1, 3, 1, 1)
    clipped, stats = clip_gradient(size * direction, 0.1, mode, norm)
    expected = naive_clip(size * direction.double(), 0.1, mode, norm)
    torch.testing.assert_close(clipped.double(), expected, rtol=1e-6, atol=0)
    assert stats.num_nonfinite.tolist() == [0]


@every_mode
@every_norm
def test_half_precision_is_computed_in_single(mode, norm):
    """Squares of 1e-4 and of 300 do not fit half precision."""
    gradient = torch.tensor([[1e-4, 2e-4, -1e-4], [300.0, -200.0, 100.0]]).view(2, 3, 1, 1).half()
    clipped, stats = clip_gradient(gradient, 0.1, mode, norm)
    assert clipped.dtype == torch.float16
    assert stats.norm_mean.dtype == torch.float32
    assert torch.equal(clipped, clip_gradient(gradient.float(), 0.1, mode, norm)[0].half())


@every_norm
def test_statistics_describe_what_happened(norm):
    gradient = draw(2, 3, 16, 16)
    clipped, stats = clip_gradient(gradient, 1.5, "pgc_n", norm)
    before, after = norm_of(gradient, norm).flatten(1), norm_of(clipped, norm).flatten(1)
    torch.testing.assert_close(stats.norm_mean, before.mean(dim=1))
    torch.testing.assert_close(stats.norm_max, before.amax(dim=1))
    torch.testing.assert_close(stats.clipped_norm_mean, after.mean(dim=1))
    torch.testing.assert_close(stats.clipped_fraction, (before > 1.5).double().mean(dim=1))
    assert (stats.clipped_fraction > 0.1).all()
    assert (stats.clipped_fraction < 0.9).all()
    assert stats.is_finite


def test_clipped_fraction_of_pgc_v_counts_pixels_with_a_touched_value():
    gradient = torch.tensor([[0.09, 0.09, 0.09], [0.0, 0.0, 0.11]]).T.reshape(1, 3, 1, 2)
    assert clip_gradient(gradient, 0.1, "pgc_v")[1].clipped_fraction.item() == 0.5
    assert clip_gradient(gradient, 0.1, "pgc_n")[1].clipped_fraction.item() == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": 0.0}, "threshold=0.0: expected a positive number"),
        ({"threshold": -1.0}, "threshold=-1.0: expected a positive number"),
        ({"threshold": math.nan}, "threshold=nan: expected a positive number"),
        ({"mode": "clip"}, "mode='clip': expected one of pgc_n, pgc_v, pngd"),
        ({"norm": "l1"}, "norm='l1': expected one of l2, linf"),
    ],
)
@pytest.mark.parametrize("function", [clip_gradient, clip_pixel_gradient])
def test_bad_settings_are_named(function, arguments, message):
    with pytest.raises(ValueError, match=message):
        function(torch.zeros(1, 3, 2, 2), **{"threshold": 0.1, **arguments})


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
def test_bad_scale_is_named(scale):
    with pytest.raises(ValueError, match=f"scale={scale}: expected a positive finite number"):
        clip_pixel_gradient(torch.zeros(1, 3, 2, 2), 0.1, scale=scale)


def arriving(images: torch.Tensor, upstream: torch.Tensor, **settings) -> torch.Tensor:
    """The gradient that reaches `images` through the identity, where `upstream` arrives at it."""
    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(clip_pixel_gradient(leaf, **settings), leaf, upstream)
    return gradient


@every_mode
@every_norm
def test_identity_forward_and_clip_backward(mode, norm):
    images, upstream = draw(2, 3, 4, 4), draw(2, 3, 4, 4, seed=1)
    assert torch.equal(clip_pixel_gradient(images, 0.5, mode, norm), images)
    expected, _ = clip_gradient(upstream, 0.5, mode, norm)
    assert torch.equal(arriving(images, upstream, threshold=0.5, mode=mode, norm=norm), expected)


@every_mode
def test_identity_clips_the_same_whatever_batch_accumulation_and_loss_scale(mode):
    """A pipeline that averages, accumulates and scales its loss, against one image at a time."""
    images, target = draw(4, 3, 8, 8), draw(4, 3, 8, 8, seed=1)

    def gradient_of_pipeline(batch_size: int, accumulation: int, loss_scale: float) -> torch.Tensor:
        leaf = images.clone().requires_grad_()
        for batch, wanted in zip(leaf.split(batch_size), target.split(batch_size), strict=True):
            scale = loss_scale / batch_size / accumulation
            clipped = clip_pixel_gradient(batch, 1.0, mode, scale=scale)
            loss = (clipped - wanted).square().sum() / batch_size
            (loss / accumulation * loss_scale).backward()
        assert leaf.grad is not None
        return leaf.grad * (batch_size * accumulation / loss_scale)

    expected, stats = clip_gradient(2 * (images - target), 1.0, mode)
    assert (stats.clipped_fraction > 0.5).all()
    for batch_size, accumulation, loss_scale in [(1, 1, 1.0), (4, 1, 1.0), (2, 2, 1.0), (2, 2, 1024.0)]:
        result = gradient_of_pipeline(batch_size, accumulation, loss_scale)
        torch.testing.assert_close(result, expected, **TIGHT)


def test_identity_without_the_right_scale_would_clip_something_else():
    images, upstream = draw(2, 3, 4, 4), draw(2, 3, 4, 4, seed=1)
    averaged = arriving(images, upstream / 2, threshold=0.5)
    assert not torch.allclose(2 * averaged, clip_gradient(upstream, 0.5)[0], rtol=1e-2)


def test_identity_lets_nonfinite_pixels_through_and_reports_them():
    upstream = draw(1, 3, 2, 2)
    expected, _ = clip_gradient(upstream, 0.5)
    upstream[0, 1, 0, 0] = math.nan
    seen = []
    gradient = arriving(draw(1, 3, 2, 2), upstream, threshold=0.5, scale=1.0, on_stats=seen.append)
    assert gradient[0, :, 0, 0].isnan().tolist() == [False, True, False]
    assert torch.equal(gradient[0, :, 1, :], expected[0, :, 1, :])
    assert [stats.num_nonfinite.tolist() for stats in seen] == [[1]]


def test_identity_reports_statistics_of_one_images_gradient():
    seen = []
    upstream = draw(2, 3, 4, 4)
    arriving(draw(2, 3, 4, 4), 64 * upstream, threshold=0.5, scale=64, on_stats=seen.append)
    for reported, expected in zip(seen[0], clip_gradient(upstream, 0.5)[1], strict=True):
        torch.testing.assert_close(reported, expected)


@numeric
@given(st.floats(1e-3, 1e3), modes)
def test_identity_is_clip_of_the_unscaled_gradient(scale, mode):
    upstream = draw(1, 3, 3, 3)
    result = arriving(upstream, scale * upstream, threshold=0.5, mode=mode, scale=scale)
    torch.testing.assert_close(result, scale * clip_gradient(upstream, 0.5, mode)[0], rtol=1e-9, atol=1e-12)
