"""Camera conventions: world z up, front +x, azimuth counter-clockwise from above, OpenGL axes, row 0 top."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scaledreamer.cameras import Cameras, orbit_cameras, sample_cameras

RANGES: dict[str, Any] = {"elevation_deg": (-10.0, 60.0), "distance": (2.5, 2.7), "fov_deg": (38.0, 44.0)}


def camera(
    elevation_deg: float = 0.0, azimuth_deg: float = 0.0, distance: float = 2.0, fov_deg: float = 60.0
) -> Cameras:
    return orbit_cameras(
        1, elevation_deg=elevation_deg, distance=distance, fov_deg=fov_deg, start_azimuth_deg=azimuth_deg
    )


def test_front_camera_stands_on_plus_x_and_looks_back() -> None:
    origins, directions = camera().rays(3, 3)
    torch.testing.assert_close(origins[0, 0, 1, 1], torch.tensor([2.0, 0, 0]))
    torch.testing.assert_close(directions[0, 0, 1, 1], torch.tensor([-1.0, 0, 0]))


def test_row_zero_looks_up_and_the_right_column_looks_to_plus_y_from_the_front() -> None:
    _, directions = camera().rays(5, 5)
    assert directions[0, 0, 0, 2, 2] > 0 > directions[0, 0, 4, 2, 2]
    assert directions[0, 0, 2, 4, 1] > 0 > directions[0, 0, 2, 0, 1]


@pytest.mark.parametrize(
    ("azimuth_deg", "expected"), [(90.0, [0.0, 2, 0]), (180.0, [-2.0, 0, 0]), (-90.0, [0.0, -2, 0])]
)
def test_azimuth_is_counter_clockwise_seen_from_above(azimuth_deg: float, expected: list[float]) -> None:
    position = camera(azimuth_deg=azimuth_deg).position[0, 0]
    torch.testing.assert_close(position, torch.tensor(expected), atol=1e-6, rtol=0)


def test_overhead_camera_is_defined_and_sees_the_front_at_the_bottom() -> None:
    cameras = camera(elevation_deg=90.0)
    torch.testing.assert_close(cameras.position[0, 0], torch.tensor([0.0, 0, 2]), atol=1e-6, rtol=0)
    _, directions = cameras.rays(3, 3)
    assert directions[0, 0, 2, 1, 0] > 0.1  # the lowest row looks towards +x


@settings(max_examples=30, deadline=None)
@given(st.floats(-90, 90), st.floats(-360, 360), st.floats(0.1, 10))
def test_camera_to_world_is_a_right_handed_rigid_motion_with_z_up(
    elevation_deg: float, azimuth_deg: float, distance: float
) -> None:
    transform = camera(elevation_deg, azimuth_deg, distance).camera_to_world[0, 0].double()
    rotation = transform[:3, :3]
    torch.testing.assert_close(rotation.T @ rotation, torch.eye(3).double(), atol=1e-5, rtol=0)
    assert torch.det(rotation) > 0.99
    assert abs(rotation[2, 0]) < 1e-6 and rotation[2, 1] >= -1e-6  # no roll: right is level, up is not down
    torch.testing.assert_close(transform[:3, 3], distance * rotation[:, 2], atol=1e-4, rtol=0)
    assert transform[3].tolist() == [0, 0, 0, 1]


def test_rays_agree_with_a_pinhole_projection_of_their_points() -> None:
    """Oracle: points on each ray, in camera coordinates and divided by depth, land on pixel centres."""
    generator = torch.Generator().manual_seed(0)
    cameras = sample_cameras(torch.rand(2, 3, 4, generator=generator), **RANGES)
    height, width = 4, 6
    origins, directions = cameras.rays(height, width)
    torch.testing.assert_close(directions.norm(dim=-1), torch.ones(2, 3, height, width))
    world = torch.cat([origins + 1.7 * directions, torch.ones(2, 3, height, width, 1)], -1)
    to_camera = torch.linalg.inv(cameras.camera_to_world)
    for b in range(2):
        for v in range(3):
            point = world[b, v].reshape(-1, 4) @ to_camera[b, v].T
            focal = height / 2 / math.tan(float(cameras.fov[b, v]) / 2)
            column = width / 2 + focal * point[:, 0] / -point[:, 2]
            row = height / 2 - focal * point[:, 1] / -point[:, 2]
            expected_row, expected_column = torch.meshgrid(
                torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij"
            )
            torch.testing.assert_close(column, expected_column.reshape(-1), atol=1e-4, rtol=0)
            torch.testing.assert_close(row, expected_row.reshape(-1), atol=1e-4, rtol=0)


def test_fov_is_vertical() -> None:
    _, directions = camera(fov_deg=60.0).rays(1001, 1)
    angle = torch.rad2deg(torch.acos((directions[0, 0, 0, 0] * directions[0, 0, -1, 0]).sum()))
    assert abs(float(angle) - 60) < 0.1


def test_orbit_is_evenly_spaced_and_the_same_for_every_prompt() -> None:
    cameras = orbit_cameras(4, elevation_deg=20, distance=2.6, fov_deg=40, start_azimuth_deg=45, batch=2)
    expected = torch.deg2rad(torch.tensor([45.0, 135, 225, 315]))
    torch.testing.assert_close(cameras.azimuth, expected.expand(2, 4))
    torch.testing.assert_close(cameras.elevation, torch.full((2, 4), math.radians(20)))


def test_sampled_cameras_fill_their_ranges_uniformly() -> None:
    uniforms = torch.rand(4096, 1, 4, generator=torch.Generator().manual_seed(1))
    cameras = sample_cameras(uniforms, azimuth_deg=(-90.0, 30.0), **RANGES)
    for values, (low, high) in (
        (torch.rad2deg(cameras.elevation), (-10, 60)),
        (torch.rad2deg(cameras.azimuth), (-90, 30)),
        (cameras.distance, (2.5, 2.7)),
        (torch.rad2deg(cameras.fov), (38, 44)),
    ):
        fraction = ((values - low) / (high - low)).flatten().sort().values
        even = (torch.arange(4096) + 0.5) / 4096
        assert fraction[0] >= -1e-5 and fraction[-1] <= 1 + 1e-5
        assert float((fraction - even).abs().max()) < 1.63 / 64  # Kolmogorov-Smirnov at 1 %


def test_views_of_one_prompt_are_evenly_spread_and_depend_on_its_own_uniforms_only() -> None:
    uniforms = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(2))
    cameras = sample_cameras(uniforms, **RANGES)
    gaps = cameras.azimuth.sort(-1).values.diff(dim=-1)
    torch.testing.assert_close(gaps, torch.full((3, 3), math.pi / 2), atol=1e-5, rtol=0)
    alone = sample_cameras(uniforms[1:2], **RANGES)
    assert torch.equal(alone.camera_to_world, cameras.camera_to_world[1:2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"elevation_deg": (30.0, 10.0)}, "elevation_deg is 30.0 to 10.0"),
        ({"elevation_deg": (0.0, 95.0)}, "elevation_deg is 0.0 to 95.0.*from -90 and 90"),
        ({"distance": (0.0, 2.0)}, "distance is 0.0 to 2.0.*not equal to, 0"),
        ({"fov_deg": (40.0, 180.0)}, "fov_deg is 40.0 to 180.0"),
        ({"fov_deg": (40.0, math.nan)}, "fov_deg is 40.0 to nan"),
        ({"azimuth_deg": (-400.0, 0.0)}, "azimuth_deg is -400.0 to 0.0"),
    ],
)
def test_bad_ranges_are_named(arguments: dict[str, tuple[float, float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample_cameras(torch.rand(1, 1, 4), **{**RANGES, **arguments})


def test_bad_turntables_and_images_are_named() -> None:
    with pytest.raises(ValueError, match="num_views is 0"):
        orbit_cameras(0, elevation_deg=0, distance=2, fov_deg=40)
    with pytest.raises(ValueError, match="batch is 0"):
        orbit_cameras(1, elevation_deg=0, distance=2, fov_deg=40, batch=0)
    with pytest.raises(ValueError, match="0 x 4 pixels"):
        camera().rays(0, 4)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_elevations_are_a_share_even_on_the_sphere_and_the_rest_even_in_degrees(share: float) -> None:
    """Closed form: the distribution function is the mixture of those two, on [-10, 60] degrees."""
    uniforms = torch.rand(4096, 1, 4, generator=torch.Generator().manual_seed(4))
    cameras = sample_cameras(uniforms, elevation_on_sphere=share, **RANGES)
    elevation = cameras.elevation.flatten().sort().values
    low, high = math.radians(-10), math.radians(60)
    in_degrees = (elevation - low) / (high - low)
    on_sphere = (elevation.sin() - math.sin(low)) / (math.sin(high) - math.sin(low))
    even = (torch.arange(4096) + 0.5) / 4096
    mixture = share * on_sphere + (1 - share) * in_degrees
    assert float((mixture - even).abs().max()) < 1.63 / 64  # Kolmogorov-Smirnov at 1 %
    assert share == 0.5 or float((on_sphere + in_degrees - 2 * even).abs().max()) > 1.63 / 64
    plain = sample_cameras(uniforms, **RANGES)
    for name in ("azimuth", "distance", "fov"):
        assert torch.equal(getattr(cameras, name), getattr(plain, name))
    alone = sample_cameras(uniforms[7:8], elevation_on_sphere=share, **RANGES)
    assert torch.equal(alone.elevation, cameras.elevation[7:8])


def test_elevations_on_the_sphere_reach_the_poles() -> None:
    uniforms = torch.tensor([0.0, 0.5, 1 - 2**-24]).view(3, 1, 1).expand(3, 1, 4)
    ranges = RANGES | {"elevation_deg": (-90.0, 90.0)}
    elevation = sample_cameras(uniforms, elevation_on_sphere=1.0, **ranges).elevation.flatten()
    expected = torch.tensor([-math.pi / 2, 0, math.pi / 2])
    torch.testing.assert_close(elevation, expected, atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match="elevation_on_sphere is 1.5: it must be from 0 to 1"):
        sample_cameras(uniforms, elevation_on_sphere=1.5, **ranges)
