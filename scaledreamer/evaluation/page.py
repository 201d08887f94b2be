"""An HTML page about a run: interactive assets beside the true objects, scores and training curves.

The page is a single file: meshes, images and the viewer (model-viewer, vendored under `assets/`) are embedded
as data URIs. It needs no network and no server.
"""

from __future__ import annotations

import base64
import html
import json
import math
import mimetypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaledreamer.evaluation.report import table_rows

WIDTH, HEIGHT = 300, 110
"""Size of a curve in pixels, without its labels."""
MAX_POINTS = 300

VIEWER = Path(__file__).parent.parent / "assets" / "model_viewer" / "model-viewer-umd.min.js"

_STYLE = """
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; color: #222; }
body { margin: 2em auto; max-width: 78em; padding: 0 1em; }
h1 { margin-bottom: 0.2em; } h2 { margin-top: 2em; border-bottom: 1px solid #ccc; }
pre { background: #f4f4f4; padding: 0.8em; overflow-x: auto; }
.lead { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24em), 1fr)); gap: 2em; }
.lead { align-items: center; margin: 1.5em 0; } .lead .text p { margin: 0 0 0.8em; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 34em), 1fr)); gap: 1em; }
.curves { display: flex; flex-wrap: wrap; gap: 1em; } .curves svg { max-width: 100%; height: auto; }
figure { margin: 0; border: 1px solid #ddd; border-radius: 8px; padding: 0.7em; }
figcaption { font-weight: 600; margin-bottom: 0.5em; } small { color: #666; }
.row { display: grid; grid-auto-flow: column; grid-auto-columns: 1fr; gap: 8px; text-align: center; }
.view { position: relative; aspect-ratio: 1; border-radius: 6px; overflow: hidden; color: #666; }
.view { background: #ccd4dd; display: flex; align-items: center; justify-content: center; }
.view img, .view model-viewer { position: absolute; top: 0; height: 100%; }
.view img { left: 0; width: 100%; }
/* Wider than any view and cut on both sides: a new width of the window moves no mesh aside. */
.view model-viewer { left: calc(50% - 20em); width: 40em; }
model-viewer { --progress-bar-color: transparent; --poster-color: transparent; }
.wide { overflow-x: auto; margin-top: 1.5em; } table { border-collapse: collapse; }
td, th { padding: 0.15em 0.9em; text-align: right; }
td:first-child, th:first-child { text-align: left; white-space: pre; }
tr:nth-child(even) { background: #f6f6f6; }
svg text { font: 11px system-ui, sans-serif; fill: #444; }
"""

AZIMUTH_DEG, ELEVATION_DEG = 30, 20
"""Initial camera of the viewers and their posters: slightly to the object's left and above."""


@dataclass(frozen=True)
class View:
    """One interactive object.

    Attributes:
        label: a few words below it.
        poster: an image, as a URI, shown until the mesh is loaded; None if there is no surface.
        model: GLB, as a URI; None shows only the image.
    """

    label: str
    poster: str | None
    model: str | None = None


@dataclass(frozen=True)
class Card:
    """One prompt with several objects side by side."""

    prompt: str
    views: Sequence[View]


@dataclass(frozen=True)
class Section:
    """Prompts with their objects, and the scores of one split."""

    title: str
    text: str
    cards: Sequence[Card]
    report: Mapping[str, Any]


def render_page(
    title: str,
    lead: Card,
    facts: Sequence[str],
    commands: Sequence[str],
    sections: Sequence[Section],
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
) -> str:
    """The whole page.

    Args:
        lead: shown first.
        facts: paragraphs beside it.
        commands: the commands that made the page.
        curves: name -> (steps, values).
    """
    paragraphs = "".join(f"<p>{html.escape(fact)}</p>" for fact in facts)
    body = [f"<h1>{html.escape(title)}</h1>"]
    body.append(f'<div class="lead">{_card(lead)}<div class="text">{paragraphs}</div></div>')
    for section in sections:
        body.append(f"<h2>{html.escape(section.title)}</h2>\n<p>{html.escape(section.text)}</p>")
        body += ['<div class="cards">', *map(_card, section.cards), "</div>"]
        body.append(_table(table_rows(section.report)))
    body.append(
        "<p><small>Ceiling: the true objects through the same code. Floor: the same assets with the prompts "
        "shuffled. Normalised: (value - floor) / (ceiling - floor). Standard errors over assets, clustered "
        "by meaning.</small></p>"
    )
    body += ["<h2>Training</h2>", '<div class="curves">']
    body += [curve_svg(name, steps, values) for name, (steps, values) in curves.items()]
    body += ["</div>", "<h2>Commands</h2>", f"<pre>{html.escape(chr(10).join(commands))}</pre>"]
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(title)}</title>",
        f"<style>{_STYLE}</style>",
        f"<script>{VIEWER.read_text(encoding='utf-8')}</script>",
        "</head>",
        "<body>",
        *body,
        "</body>",
        "</html>",
    ]
    return "\n".join(lines) + "\n"


def data_uri(path: Path) -> str:
    """A file as a data URI."""
    kind = mimetypes.guess_type(path.name)[0] or "model/gltf-binary"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _card(card: Card) -> str:
    columns = [
        f'<div><div class="view">{_view(view, card.prompt)}</div><small>{html.escape(view.label)}</small>'
        for view in card.views
    ]
    caption = f"<figcaption>{html.escape(card.prompt)}</figcaption>"
    return f'<figure>{caption}<div class="row">{"</div>".join([*columns, ""])}</div></figure>'


def _view(view: View, prompt: str) -> str:
    if view.poster is None:
        return "no surface"
    poster, text = html.escape(view.poster), html.escape(f"{view.label}: {prompt}")
    if view.model is None:
        return f'<img src="{poster}" alt="{text}">'
    orbit = f"{AZIMUTH_DEG}deg {90 - ELEVATION_DEG}deg 105%"
    return (
        f'<model-viewer src="{html.escape(view.model)}" poster="{poster}" alt="{text}" camera-controls '
        f'camera-orbit="{orbit}" touch-action="pan-y" interaction-prompt="none" loading="lazy" '
        f'shadow-intensity="0.6"></model-viewer>'
    )


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *others = rows
    lines = [
        '<div class="wide"><table>',
        "<tr>" + "".join(f"<th>{html.escape(cell)}</th>" for cell in head) + "</tr>",
    ]
    lines += ["<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in others]
    return "\n".join([*lines, "</table></div>"])


# --- curves ------------------------------------------------------------------------------------------------


def read_curves(path: Path, names: Sequence[str]) -> dict[str, tuple[list[float], list[float]]]:
    """Steps and finite values of the named metrics, as far as a run's `metrics.jsonl` has them."""
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            continue  # the last line of a run that was killed
        for name in names:
            if name in values and math.isfinite(values[name]):
                steps, found = curves.setdefault(name, ([], []))
                steps.append(values["step"])
                found.append(values[name])
    return {name: curves[name] for name in names if name in curves}


def curve_svg(name: str, steps: Sequence[float], values: Sequence[float]) -> str:
    """One metric over steps, with its range and its last value; long curves are averaged in equal groups."""
    size = math.ceil(len(values) / MAX_POINTS)
    groups = [slice(first, first + size) for first in range(0, len(values), size)]
    xs = [sum(steps[group]) / len(steps[group]) for group in groups]
    ys = [sum(values[group]) / len(values[group]) for group in groups]
    low, high = min(ys), max(ys)
    span, length = (high - low) or 1.0, (xs[-1] - xs[0]) or 1.0
    top, left = 18, 4
    points = " ".join(
        f"{left + WIDTH * (x - xs[0]) / length:.1f},{top + HEIGHT * (high - y) / span:.1f}"
        for x, y in zip(xs, ys, strict=True)
    )
    bottom, right = top + HEIGHT, left + WIDTH
    label, end = html.escape(name), f"step {steps[-1]:.0f}, last {values[-1]:.3g}"
    return (
        f'<svg width="{WIDTH + 64}" height="{HEIGHT + 36}" role="img" aria-label="{label}">'
        f'<text x="{left}" y="12" font-weight="bold">{label}</text>'
        f'<rect x="{left}" y="{top}" width="{WIDTH}" height="{HEIGHT}" fill="#fafafa" stroke="#ddd"/>'
        f'<polyline points="{points}" fill="none" stroke="#2563a8" stroke-width="1.5"/>'
        f'<text x="{right + 4}" y="{top + 9}">{high:.3g}</text>'
        f'<text x="{right + 4}" y="{bottom}">{low:.3g}</text>'
        f'<text x="{left}" y="{bottom + 14}">{steps[0]:.0f}</text>'
        f'<text x="{right}" y="{bottom + 14}" text-anchor="end">{end}</text>'
        "</svg>"
    )
