"""Meshes of the shipped generator on unseen prompts: are they manifolds, and how near to the surface?

Beside the package's simplifier stands fast_simplification, which was in its place before, if it can be
imported. Distances are two-sided, from points on one mesh to the nearest triangle of the other, in units of
the scene cube, which is 2 wide: their maximum (Hausdorff) and root mean square. Seconds are of the process.
"""

from __future__ import annotations

import argparse
import importlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tools.benchmark.generator import machine, where

if TYPE_CHECKING:
    from scaledreamer.meshing.mesh import Mesh


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    add = parser.add_argument
    add("--prompts", type=int, default=60, metavar="N", help="unseen ones (%(default)s)")
    add("--max-faces", default="1000,6000,20000", metavar="LIST", help="budgets (%(default)s)")
    add("--resolution", type=int, default=128, metavar="N", help="of marching cubes (%(default)s)")
    add("--points", type=int, default=10_000, metavar="N", help="on each mesh, for distances (%(default)s)")


def measure_meshes(arguments: argparse.Namespace) -> dict[str, Any]:
    """Rows by simplifier and budget, and one of the meshes before."""
    from transformers.utils import logging as transformers_logging

    from scaledreamer.evaluation.draws import draw_prompts
    from scaledreamer.meshing import MIN_MAX_FACES
    from scaledreamer.meshing.isosurface import drop_chips, march, sample_near_surface
    from scaledreamer.meshing.simplify import simplify
    from scaledreamer.meshing.topology import inspect
    from scaledreamer.pipeline import TextTo3D

    parts = [part.strip() for part in arguments.max_faces.split(",")]
    if not all(part.isdecimal() and int(part) >= MIN_MAX_FACES for part in parts):
        raise ValueError(
            f"--max-faces {arguments.max_faces}: accepted are numbers from {MIN_MAX_FACES}, with commas"
        )
    if arguments.prompts < 2 or arguments.points < 100:
        raise ValueError("--prompts takes at least 2 and --points at least 100")
    budgets = [int(part) for part in parts]
    transformers_logging.disable_progress_bar()
    pipe = TextTo3D.from_pretrained(device="cpu")
    simplifiers: dict[str, Callable[[Mesh, int], Mesh]] = {"scaledreamer": simplify}
    former = import_former()
    if former is not None:
        simplifiers["fast_simplification"] = former
    found: dict[str, dict[int, list[dict[str, Any]]]] = {}
    for prompt in draw_prompts(0, "unseen", arguments.prompts).prompts:
        lattice = sample_near_surface(pipe.scenes([prompt]).row(0), arguments.resolution)
        full, seconds = timed(lambda lattice=lattice: drop_chips(march(lattice)))
        before = inspect(full)
        kept = (before.bodies, before.euler_number)
        row = vars(before) | {"seconds": seconds, "cut": bool(before.cut_at)}
        found.setdefault("not simplified", {}).setdefault(0, []).append(row)
        surface = Surface(full, arguments.points)
        for budget in budgets:
            for name, run in simplifiers.items():
                mesh, seconds = timed(lambda run=run, budget=budget, full=full: run(full, budget))
                report = inspect(mesh)
                row = vars(report) | {"seconds": seconds, "over": len(mesh.faces) > budget}
                row["torn"] = (report.bodies, report.euler_number) != kept
                row |= surface.distance(Surface(mesh, arguments.points))
                found.setdefault(name, {}).setdefault(budget, []).append(row)
    rows = [summary(name, budget, found[name][budget]) for name in found for budget in found[name]]
    return {"rows": rows, "prompts": arguments.prompts, "resolution": arguments.resolution} | machine()


def timed(call: Callable[[], Mesh]) -> tuple[Mesh, float]:
    """Its result, and seconds of this process."""
    start = time.process_time()
    return call(), time.process_time() - start


def summary(name: str, max_faces: int, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts of what is true, means of the rest, of distances their largest too."""
    mean = {key: float(np.mean([row[key] for row in rows])) for key in ("faces", "bodies", "seconds")}
    counts = {
        key: int(sum(row.get(key, False) for row in rows))
        for key in ("watertight", "edge_manifold", "vertex_manifold", "torn", "over", "cut")
    }
    result = {"name": name, "max_faces": max_faces, **mean, **counts}
    result["seconds_max"] = float(max(row["seconds"] for row in rows))
    if "hausdorff" in rows[0]:
        distances = [row["hausdorff"] for row in rows]
        result["hausdorff"] = float(np.mean(distances))
        result["hausdorff_median"], result["hausdorff_max"] = float(np.median(distances)), max(distances)
        result["rms"] = float(np.mean([row["rms"] for row in rows]))
    return result


def import_former() -> Callable[[Mesh, int], Mesh] | None:
    """What the package had: fast_simplification, of four settings the first that gives a closed mesh."""
    try:
        fast_simplification = importlib.import_module("fast_simplification")
    except ImportError:
        return None
    from scaledreamer.meshing.mesh import Mesh
    from scaledreamer.meshing.topology import inspect

    def run(full: Mesh, max_faces: int) -> Mesh:
        first: Mesh | None = None
        for aggressiveness in (5, 7, 6, 4):
            if len(full.faces) <= max_faces:
                return full
            vertices, faces, *_ = fast_simplification.simplify(
                full.vertices, full.faces, target_count=max_faces, agg=aggressiveness
            )
            # Paper-thin folds: pairs of faces on the same three vertices.
            faces = np.asarray(faces, np.int32)
            _, group, count = np.unique(
                np.sort(faces, axis=1), axis=0, return_inverse=True, return_counts=True
            )
            mesh = Mesh(np.asarray(vertices, np.float32), faces).keep(count[group.ravel()] == 1)
            if len(mesh.faces) <= max_faces:
                if inspect(mesh).watertight:
                    return mesh
                first = first or mesh
        return first or full

    return run


class Surface:
    """Points on a mesh, evenly by area, and a way to the nearest triangle from others.

    The nearest triangle is sought among those of the eight nearest of many points on the mesh, the middle of
    each triangle among them; where triangles are long it may be missed by a little, so distances are upper
    bounds.
    """

    NUM_NEAREST = 8

    def __init__(self, mesh: Mesh, num_points: int) -> None:
        from scipy.spatial import KDTree

        self.corners = mesh.vertices[mesh.faces].astype(np.float64)
        a, b, c = np.moveaxis(self.corners, 1, 0)
        area = np.linalg.norm(np.cross(b - a, c - a), axis=-1)
        rng = np.random.default_rng(0)
        face = rng.choice(len(area), 60_000, p=area / area.sum())
        weights = rng.dirichlet([1, 1, 1], len(face))
        points = np.einsum("nc,nci->ni", weights, self.corners[face])
        self.points = points[:num_points]
        self.face = np.concatenate([face, np.arange(len(area))])
        self.tree = KDTree(np.concatenate([points, self.corners.mean(axis=1)]))

    def distances_of(self, points: np.ndarray) -> np.ndarray:
        """From each point to this surface."""
        from trimesh.triangles import closest_point

        nearest = np.asarray(self.tree.query(points, k=self.NUM_NEAREST)[1])
        best = np.full(len(points), np.inf)
        for column in range(self.NUM_NEAREST):
            place = closest_point(self.corners[self.face[nearest[:, column]]], points)
            best = np.minimum(best, np.linalg.norm(place - points, axis=1))
        return best

    def distance(self, other: Surface) -> dict[str, float]:
        """Between two surfaces, on both ways."""
        there, back = other.distances_of(self.points), self.distances_of(other.points)
        rms = np.sqrt((np.mean(there**2) + np.mean(back**2)) / 2)
        return {"hausdorff": float(max(there.max(), back.max())), "rms": float(rms)}


def format_meshes(report: dict[str, Any]) -> str:
    """The report as a table."""
    head = f"{'':21}{'asked':>7}{'faces':>8}{'closed':>8}{'edges':>7}{'vertices':>10}{'bodies':>8}{'torn':>6}"
    lines = [head + f"{'over':>6}{'Hausdorff':>11}{'median':>8}{'largest':>9}{'rms':>9}{'s':>7}{'most':>6}"]
    for row in report["rows"]:
        line = f"{row['name']:21}{row['max_faces'] or '-':>7}{row['faces']:8,.0f}{row['watertight']:8}"
        line += f"{row['edge_manifold']:7}{row['vertex_manifold']:10}{row['bodies']:8.2f}"
        if "hausdorff" in row:
            line += f"{row['torn']:6}{row['over']:6}{row['hausdorff']:11.4f}{row['hausdorff_median']:8.4f}"
            line += f"{row['hausdorff_max']:9.4f}{row['rms']:9.5f}"
        else:
            line += " " * 49
        lines.append(line + f"{row['seconds']:7.2f}{row['seconds_max']:6.1f}")
    if not any(row["name"] == "fast_simplification" for row in report["rows"]):
        lines.append("fast_simplification cannot be imported: nothing to compare with")
    cut = report["rows"][0]["cut"]
    lines.append(
        f"{report['prompts']} unseen prompts, of which {cut} cut at the scene cube; closed, edges, vertices: "
        "how many meshes are watertight, edge-manifold, vertex-manifold; torn: bodies or handles differ from "
        f"the surface that is not simplified; distances in a cube 2 wide. {where(report)}"
    )
    return "\n".join(lines)
