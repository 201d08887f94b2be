"""Speed of volume rendering, beside nerfacc's pure-torch one if that can be imported.

What is compared is measured in turns, in one run, and the best of the repeats counts: an error against a
slower machine is only ever upwards. On one CPU thread the clock is the process' own, so that other work on
the machine does not count. Errors are rms of rgb against even samples of every ray, many of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tools.benchmark.generator import (
    PROMPTS,
    check_options,
    clock,
    machine,
    make_generator,
    make_noise,
    where,
)
from tools.benchmark.nerfacc_rendering import BACKGROUND, import_nerfacc, render_chosen, render_even, to_image

if TYPE_CHECKING:
    from torch import Tensor

    from scaledreamer.cameras import Cameras
    from scaledreamer.config import Config
    from scaledreamer.contracts import Scene
    from scaledreamer.rendering.volume import VolumeRenderer


def add_options(render: argparse.ArgumentParser, generator: argparse.ArgumentParser) -> None:
    """Options of the two subcommands."""
    for parser in (render, generator):
        parser.add_argument("--config", default="tiny", help="(%(default)s)")
        parser.add_argument("--prompts", type=int, default=4, metavar="N", help="in one call (%(default)s)")
        parser.add_argument("--repeats", type=int, default=5, metavar="N", help="best of (%(default)s)")
    render.add_argument("--image-size", type=int, default=64, metavar="N", help="pixels a side (%(default)s)")
    render.add_argument(
        "--field",
        choices=("shipped", "initial", "sphere"),
        default="shipped",
        help="the shipped generator, the configuration's before training, or a sphere that costs next to "
        "nothing, so that the renderer's own work is measured (%(default)s)",
    )
    render.add_argument(
        "--even-samples", type=int, default=600, metavar="N", help="a ray, for the error (%(default)s)"
    )
    generator.add_argument("--points", type=int, default=4096, metavar="N", help="a prompt (%(default)s)")


class Counted:
    """A scene that counts the points it is asked for; one by one only if so wanted."""

    def __init__(self, scene: Any, *, has_rows: bool = True, counts: list[int] | None = None) -> None:
        self.scene, self.counts = scene, [0, 0] if counts is None else counts
        if has_rows:
            self.row = lambda index: Counted(scene.row(index), counts=self.counts)

    def sdf(self, points: Tensor) -> Tensor:
        self.counts[0] += points.shape[0] * points.shape[1]
        return self.scene.sdf(points)

    def query(self, points: Tensor) -> Any:
        self.counts[1] += points.shape[0] * points.shape[1]
        return self.scene.query(points)

    def background(self, directions: Tensor) -> Tensor:
        return self.scene.background(directions)


@dataclass(frozen=True)
class Spheres:
    """Scenes of one sphere each, coloured by place, differentiable in the radii "batch 1"."""

    radius: Tensor

    def sdf(self, points: Tensor) -> Tensor:
        return points.norm(dim=-1) - self.radius

    def query(self, points: Tensor) -> tuple[Tensor, Tensor]:
        return self.sdf(points), (points + self.radius[..., None]).clamp(0, 1)

    def background(self, directions: Tensor) -> Tensor:
        return directions * 0 + 1

    def row(self, index: int) -> Spheres:
        return Spheres(self.radius[index : index + 1])


def measure_render(config: Config, arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds forward and backward, points and error of each way to render the same scenes.

    Returns: `rows` by name, and what was measured.
    """
    import torch

    from scaledreamer import rendering
    from scaledreamer.accounting import count
    from scaledreamer.assemble import make_camera_sampler
    from scaledreamer.rendering.volume import VolumeRenderer

    check_options(arguments)
    make_scene = _field(config, arguments)
    renderer = rendering.configured(config.renderer)
    assert isinstance(renderer, VolumeRenderer)
    size, batch = arguments.image_size, arguments.prompts
    uniforms = torch.rand(batch, 1, 4, generator=torch.Generator().manual_seed(0))
    cameras = make_camera_sampler(config.cameras, config.renderer, config.training.max_steps).sample(uniforms)
    with torch.no_grad():
        reference = _even(make_scene(), renderer, cameras, size, arguments.even_samples)

    def ours(scene: Scene, **changes: Any) -> Tensor:
        needs = frozenset(["normal"] if changes.pop("with_normal", False) else [])
        background = torch.full((batch, 1, 3), BACKGROUND)
        out = replace(renderer, **changes)(scene, cameras, size, size, background=background, needs=needs)
        return out.rgb if out.normal is None else torch.cat([out.rgb, out.normal], 2)

    # Peak of a call as it is; a quarter of it is the budget of the row that has one.
    whole = count(lambda: ours(make_scene()).sum().backward()).peak_bytes
    num_fine = renderer.num_samples
    ways: dict[str, Callable[[Any], Tensor]] = {
        "ours": ours,
        "ours, prompts together": ours,
        "ours, nothing left out": lambda scene: ours(scene, min_opacity=0.0),
        "ours, a quarter of the memory": lambda scene: ours(scene, memory_gib=whole / 4 / 2**30),
        "ours, with normals": lambda scene: ours(scene, with_normal=True),
    }
    nerfacc = import_nerfacc()
    if nerfacc is not None:
        rays = _rays(cameras, size)
        ways |= {
            "nerfacc, our rays and samples": lambda scene: render_chosen(
                nerfacc, scene, renderer, rays, size
            ),
            f"nerfacc, {num_fine} even samples": lambda scene: render_even(
                nerfacc, scene, renderer, rays, num_fine, size
            ),
            f"nerfacc, {4 * num_fine} even samples": lambda scene: render_even(
                nerfacc, scene, renderer, rays, 4 * num_fine, size
            ),
        }
    rows: dict[str, dict[str, float]] = {}
    for number in range(1 + arguments.repeats):
        for name, render in ways.items():
            scene = Counted(make_scene(), has_rows=name != "ours, prompts together")
            before = clock()
            image = render(scene)
            between = clock()
            image.square().sum().backward()
            forward, backward = between - before, clock() - between
            if number == 0:  # to warm up
                error = (image.detach()[:, :, :3] - reference).square().mean().sqrt()
                rows[name] = {"rms_error": float(error), "sdf_points": scene.counts[0]}
                rows[name] |= {"query_points": scene.counts[1], "forward": forward, "backward": backward}
                rows[name]["peak_bytes"] = count(
                    lambda render=render: render(make_scene()).square().sum().backward()
                ).peak_bytes
                continue
            if forward + backward < rows[name]["forward"] + rows[name]["backward"] or number == 1:
                rows[name] |= {"forward": forward, "backward": backward}
    for row in rows.values():
        row["points_per_second"] = row["query_points"] / (row["forward"] + row["backward"])
    return {
        "what": "render",
        "rows": rows,
        "prompts": batch,
        "image_size": size,
        "field": arguments.field,
        "num_rendered": num_fine,
        "nerfacc": None if nerfacc is None else nerfacc.__version__,
    } | machine()


def _field(config: Config, arguments: argparse.Namespace) -> Callable[[], Any]:
    """Makes the scenes anew, since each backward pass frees the graph that made them."""
    if arguments.field == "sphere":
        import torch

        radius = torch.full((arguments.prompts, 1), 0.6, requires_grad=True)
        return lambda: Spheres(radius * 1)

    from transformers.utils import logging as transformers_logging

    from scaledreamer.pipeline import TextTo3D

    transformers_logging.disable_progress_bar()
    prompts = [PROMPTS[i % len(PROMPTS)] for i in range(arguments.prompts)]
    if arguments.field == "shipped":
        pipe = TextTo3D.from_pretrained()
        generator, conditioner = pipe.generator.requires_grad_(True), pipe.conditioner
    else:
        generator, conditioner = make_generator(config, config.generator.name)
    condition = conditioner(prompts)
    z = make_noise(generator, len(prompts))
    return lambda: generator(condition, z)


def _rays(cameras: Cameras, size: int) -> tuple[Tensor, Tensor]:
    origins, directions = cameras.rays(size, size)
    return origins.flatten(1, 3), directions.flatten(1, 3)


def _even(scene: Scene, renderer: VolumeRenderer, cameras: Cameras, size: int, num_samples: int) -> Tensor:
    """Images by many even samples of every ray."""
    import torch

    from scaledreamer.fields.sdf import volsdf_density
    from scaledreamer.rendering.sampling import compositing_weights, cube_interval, stratified_depths

    origins, directions = _rays(cameras, size)
    enter, leave, _ = cube_interval(origins, directions, renderer.radius, renderer.near, renderer.far)
    pieces = []
    for o, d, start, end in zip(*(v.split(64, 1) for v in (origins, directions, enter, leave)), strict=True):
        depths = stratified_depths(start, end, num_samples)
        sdf, features = scene.query((o[:, :, None] + d[:, :, None] * depths[..., None]).flatten(1, 2))
        density = volsdf_density(sdf, renderer.beta).view(depths.shape)
        lengths = ((end - start) / num_samples)[..., None].expand_as(depths)
        weights = compositing_weights(density, lengths)[..., None]
        rgb = (weights * features[..., :3].unflatten(1, depths.shape[1:])).sum(2)
        pieces.append(rgb + (1 - weights.sum(2)) * BACKGROUND)
    return to_image(torch.cat(pieces, 1), size)


def format_render(report: dict[str, Any]) -> str:
    """The report as a table."""
    lines = [
        f"{'':34}{'forward':>9}{'backward':>10}{'both, ms':>10}{'points':>10}{'points/s':>10}"
        f"{'peak MiB':>10}{'rms error':>11}"
    ]
    for name, row in report["rows"].items():
        forward, backward = 1000 * row["forward"], 1000 * row["backward"]
        lines.append(
            f"{name:34}{forward:9.0f}{backward:10.0f}{forward + backward:10.0f}{row['query_points']:10,}"
            f"{row['points_per_second']:10,.0f}{row['peak_bytes'] / 2**20:10.0f}{row['rms_error']:11.4f}"
        )
    if report["nerfacc"] is None:
        lines.append("nerfacc cannot be imported: nothing to compare with")
    lines.append(
        f"{report['prompts']} prompts, {report['image_size']} x {report['image_size']}, "
        f"{report['num_rendered']} samples a ray, {report['field']} field; points are those with "
        f"gradients. {where(report)}"
    )
    return "\n".join(lines)
