"""The evaluation's command line and the demo's page, with a random generator and a random CLIP."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from scaledreamer.cli import demo, evaluate
from scaledreamer.evaluation import page, scores
from scaledreamer.evaluation.draws import draw_prompts
from scaledreamer.evaluation.faces import SHARED, FaceProbe
from scaledreamer.evaluation.janus import SHARES, SORTS, JanusTest
from scaledreamer.tinyworld import grammar
from tests.support.random_models import save_tiny_clip
from tests.support.tiny_export import tiny_pipeline

ROOT = Path(__file__).parent.parent


JANUS = JanusTest(
    FaceProbe({SHARED: (0.0,) * 16 + (1.0,)}),
    0.0,
    {sort: dict.fromkeys(SHARES, 0.5) for sort in SORTS},
    num_objects=2,
)
"""Sees faces everywhere, and is not valid."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("evaluate")
    tiny_pipeline().save_pretrained(folder / "generator")
    return folder / "generator", save_tiny_clip(folder / "clip")


def command(folders: tuple[Path, Path], out: Path, *options: str) -> list[str]:
    generator, clip = folders
    return ["--checkpoint", str(generator), "--clip", str(clip), "--out", str(out), *options]


@pytest.fixture(scope="module")
def report(folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict:
    out = tmp_path_factory.mktemp("out") / "new" / "scores.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scores, "janus_test_of", lambda *args, **options: JANUS)
        patch.setattr(evaluate, "NUM_TIMED", 1)
        patch.setattr(scores, "NUM_SHOWN", 1)
        sheet = out.parent / "sheet.png"
        size = ["--split", "validation", "--num-prompts", "2", "--seeds", "2", "--sheet", str(sheet)]
        size += ["--image-size", "24"]
        assert (
            evaluate.main(command(folders, out, *size, "--kinds", "cube,frog,ball", "--max-extras", "1")) == 0
        )
        assert sheet.is_file()
    return json.loads(out.read_text())


def test_a_whole_evaluation_writes_every_score(report):
    assert report["num_assets"] == 4 and report["gallery_size"] == 2
    for name in ("hard_r1", "plain_r1", "similarity", "iou", "iou_aligned", "silhouette_iou", "image_error"):
        assert set(report[name]) == {"value", "standard_error", "ceiling", "floor", "normalised"}
        assert all(isinstance(report[name][key], float) for key in ("value", "ceiling", "floor"))
    assert (
        report["iou"]["ceiling"]
        == report["iou_aligned"]["ceiling"]
        == report["silhouette_iou"]["ceiling"]
        == 1
    )
    assert 0 < report["iou"]["value"] <= report["iou_aligned"]["value"] < 1
    assert report["seconds_per_asset"]["value"] > 0
    assert report["janus_validation"]["num_objects"] == 2
    assert report["janus_validation"]["is_valid"] is False
    settings = report["settings"]
    assert (settings["split"], settings["seeds"], settings["kinds"]) == (
        "validation",
        2,
        ["cube", "frog", "ball"],
    )
    assert len(settings["checkpoint"]["sha256"]) == 64 and settings["checkpoint"]["step"] == 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--split", "test"], "invalid choice: 'test'"),
        (["--num-prompts", "1"], "got '1'; accepted are whole numbers from 2 to 20000"),
        (["--seeds", "many"], "got 'many'; accepted are whole numbers from 1"),
        (["--kinds", "frog,dog"], "kinds: got 'dog'; accepted are frog"),
        (["--checkpoint", "/nowhere"], "checkpoint /nowhere: there is no such folder"),
        (["--clip", "/nowhere"], "evaluator CLIP /nowhere: cannot be loaded"),
        (["--device", "tpu"], "device 'tpu': accepted are auto, cpu"),
        (["--out", "/"], "/ is a folder; give the name of a file"),
        (["--out", "/dev/null/scores.json"], "/dev/null is no folder that may be written to"),
        (["--prompts", "a cat"], "unrecognized arguments: --prompts"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_status_2(folders, tmp_path, capsys, options, message):
    try:
        status = evaluate.main(command(folders, tmp_path / "scores.json", *options))
    except SystemExit as end:
        status = end.code
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert status == 2 and error.startswith("error: ") and message in error
    assert not list(tmp_path.iterdir())


# --- the demo's page ----------------------------------------------------------------------------------------


class Elements(HTMLParser):
    """Counts tags, checks that they close, and collects the files that the page refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.files: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img"):
            self.open.append(tag)
        self.files += [value for name, value in attrs if name in ("src", "href") and value]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_escapes_what_it_shows(report):
    cards = [
        page.Card(
            "a <b>cat</b> & hat", [page.View("made & shown", "0.png", "0.glb"), page.View("true", "1.png")]
        ),
        page.Card("nothing", [page.View("made", None)]),
    ]
    sections = [page.Section("Unseen", "1 < 2", cards, report), page.Section("Seen", "", [], report)]
    lead = page.Card("a frog", [page.View("shipped", "frog.png", "frog.glb")])
    curves = {"loss/a": ([1, 2, 3], [0.5, 0.2, 0.3])}
    text = page.render_page("Title", lead, ["a & b"], ["make demo"], sections, curves)
    elements = Elements(text)
    assert elements.open == []
    assert elements.files == ["frog.glb", "0.glb", "1.png"]
    assert re.findall(r'poster="(\S+)"', text) == ["frog.png", "0.png"]
    assert text.count("<model-viewer ") == 2 and text.count("no surface") == 1
    assert "a &amp; b" in text and "made &amp; shown" in text
    assert "<b>cat" not in text and "a &lt;b&gt;cat&lt;/b&gt; &amp; hat" in text and "1 &lt; 2" in text
    assert text.count("<table>") == 2 and "plain R@1 of 2" in text and "make demo" in text


def test_files_become_uris_that_hold_them(tmp_path):
    for name, kind in (("a.glb", "model/gltf-binary"), ("a.gif", "image/gif"), ("a.png", "image/png")):
        (tmp_path / name).write_bytes(b"\x00\xff<")
        assert page.data_uri(tmp_path / name) == f"data:{kind};base64,AP88"


def test_curves_are_read_from_metrics_and_survive_a_broken_last_line(tmp_path):
    lines = [{"step": 10, "a": 1.0, "b": 5.0}, {"step": 20, "a": float("nan")}, {"step": 30, "a": 0.5}]
    path = tmp_path / "metrics.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 4')
    assert page.read_curves(path, ["b", "a", "c"]) == {"b": ([10], [5.0]), "a": ([10, 30], [1.0, 0.5])}


def test_a_curve_runs_from_corner_to_corner_and_long_ones_are_thinned():
    svg = page.curve_svg("loss", [0, 100], [1.0, 0.0])
    left, top = 4, 18
    assert f'points="{left}.0,{top}.0 {left + page.WIDTH}.0,{top + page.HEIGHT}.0"' in svg
    long = page.curve_svg("loss", range(5000), [float(i % 7) for i in range(5000)])
    assert long.count(",") <= page.MAX_POINTS + 5 and "step 4999, last 1" in long
    assert "NaN" not in page.curve_svg("constant", [5], [2.0])


def test_the_demo_shows_each_kind_once_before_any_twice_and_the_held_out_prompt_first():
    draw = draw_prompts(0, "unseen", 60, max_extras=1)
    chosen = demo.choose(draw, 12)
    assert chosen[0] == ("a red-eyed tree frog", grammar.MISSION)
    kinds = [meaning.kind for _, meaning in chosen[1:]]
    assert len(chosen) == 12 and len(set(kinds)) == 11
    assert len(demo.choose(draw, 500)) == 61
    without_frogs = draw_prompts(0, "unseen", 60, max_extras=1, kinds=["ball", "cube"], or_fewer=True)
    assert demo.choose(without_frogs, 2)[0] == (without_frogs.prompts[0], without_frogs.meanings[0])


def test_the_demo_counts_the_minutes_of_steps_and_not_of_lines():
    assert demo._minutes([10, 20, 40], [1.0, 2.0, 3.0]) == pytest.approx((10 * 1 + 10 * 2 + 20 * 3) / 60)


def test_the_demo_names_a_wrong_setting(capsys):
    assert demo.main(["training.max_step=5"]) == 2
    assert "error: training.max_step" in capsys.readouterr().err
