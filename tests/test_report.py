"""Reports: what is on the page, and that nothing in a record can make it do anything. In a real browser."""

from __future__ import annotations

import json
import math
import re
import struct
import zlib
from collections.abc import Iterator
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import canonical
from orchestrator.artifacts import tree
from orchestrator.artifacts.tree import TreeEntry
from orchestrator.artifacts.version import Manifest, publish
from orchestrator.catalog import Catalog, ask
from orchestrator.catalog.index import Index
from orchestrator.digest import Digest
from orchestrator.journal import RunFolders
from orchestrator.judging import verdicts
from orchestrator.provenance import Byproduct, ResultOutput
from orchestrator.questions.lineage import Graph, Walk, finder
from orchestrator.report import account, chart, drawing, page, pictures, series
from orchestrator.report.account import Account
from tests.browser_tools import Browser
from tests.record_tools import Records, run_id
from tests.test_catalog_index import Heard

HOSTILE = (
    "</script><script>window.harmed=1</script>",
    "\"><img src='http://192.0.2.1/x' onerror='window.harmed=1'>",
    "</style><style>@import url(http://192.0.2.1/y)</style>",
    "</title><svg onload=window.harmed=1>",
    "\u202egnp.exe\u0000\u001b[2J\ud800",
    "javascript:window.harmed=1",
    "&lt;b&gt; &amp;amp; <!-- -->",
    "n" * 5000,
    "word " * 4000,
)


def png(width: int = 3, height: int = 2, pixels: bytes | None = None) -> bytes:
    """A picture, whole unless ``pixels`` says otherwise."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = zlib.compress((b"\0" + b"\x20\x60\xc0" * width) * height) if pixels is None else pixels
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")


class Shelf:
    """A store of made-up runs, and reports of them."""

    def __init__(self, folder: Path) -> None:
        self.records = Records(folder / "store")
        self.catalog = Catalog(self.records.store, RunFolders(folder / "runs", folder / "open"), Heard())

    def save(self, name: str, content: dict[str, bytes], number: int) -> ResultOutput:
        """Publish an artifact as a run."""
        entries = [
            TreeEntry(path, "f", False, len(data), self.records.put(data)) for path, data in content.items()
        ]
        blob = self.records.put(tree.encode(entries))
        size = sum(map(len, content.values()))
        made = publish(
            self.records.store,
            Manifest("report", name, "directory", None, blob, size, len(entries), "{}"),
            None,
            run_id(number),
        )
        return ResultOutput(str(made.ref), made.digest, size, len(entries), "directory")

    def course(self, lines: list[tuple[int | None, dict[str, float | None]]]) -> Byproduct:
        """A run's metrics.jsonl."""
        text = "".join(
            json.dumps({"time": 1.0, "step": step, "values": values}) + "\n" for step, values in lines
        )
        return Byproduct("metrics.jsonl", self.records.put(text.encode()))

    def accounts(self, *numbers: int) -> tuple[Account, ...]:
        """What a report tells of these runs."""
        rows = [self.catalog.find(run_id(number)) for number in numbers]

        def lineage(name: str) -> Graph:
            def walk(index: Index) -> Graph:
                known = Walk(
                    self.records.store,
                    finder(self.catalog.find),
                    lambda id: ask.runs_with(index, "inputs", id),
                )
                return known.around(name, up=True, down=False)

            return self.catalog.asking(walk)

        return account.gather(rows, lineage, {})

    def report(self, *numbers: int) -> bytes:
        """The page."""
        return page.render(self.accounts(*numbers))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def fill_with_harm(shelf: Shelf) -> None:
    """Twenty runs with 500 metrics each, and every name and value that a record can hold as bad as it gets."""
    for number in range(20):
        evil = HOSTILE[number % len(HOSTILE)].replace("\ud800", "")
        names = [f"{HOSTILE[at % 7]}{at}".replace("\ud800", "") for at in range(500)]
        lines: list[tuple[int | None, dict[str, float | None]]] = [
            (
                step,
                {
                    name: None if (step + at) % 5 == 0 else math.sin(step) * 10.0 ** (at % 600 - 300)
                    for at, name in enumerate(names)
                },
            )
            for step in range(4)
        ]
        output = shelf.save(
            f"look{number}",
            {f"{evil[:60].translate({0: None, 47: '_'})}.png": png(), "not.png": b"GIF89a"},
            number,
        )
        shelf.records.add(
            run_id(number),
            config={evil: {evil: [evil]}, "deep": {"lr": number}, "big": list(range(2000)), "huge": 1e300},
            metrics={name: (None if at % 5 == 0 else 10.0 ** (at % 600 - 300)) for at, name in enumerate(names)},
            status="succeeded" if number % 2 else "failed",
            reason=None if number % 2 else evil,
            branch=evil,
            inputs=[f"report:look{number - 1}:v1"] if number else [],
            outputs=[evil],
            overrides=[f"a={evil}"],
            packages=[(evil, evil)],
            config_path=evil,
            saved=[output],
            byproducts=[
                shelf.course(lines),
                Byproduct("log", shelf.records.put(b"\x1b[31mred\x1b[0m\r\n" + evil.encode("utf-8", "replace") + b"\xff\n")),
            ],
        )  # fmt: skip


def test_nothing_in_a_record_can_harm_the_reader(shelf: Shelf, browser: Browser, tmp_path: Path) -> None:
    fill_with_harm(shelf)
    for name, numbers in (("all", range(20)), ("one", range(1))):
        file = tmp_path / f"{name}.html"
        file.write_bytes(shelf.report(*numbers))
        for width, scheme in ((360, "light"), (1280, "dark")):
            browser.open(file.as_uri(), width=width, scheme=scheme)
            assert browser.complaints() == []
            assert browser.requests() == [file.as_uri()]
            assert browser.overflow() <= 0
            assert browser.ask("window.harmed === undefined && document.scripts.length === 0")
            assert browser.ask("document.querySelectorAll('img').length") == len(numbers)
            assert browser.ask(
                "[...document.images].every(i => i.src.startsWith('data:image/png') && i.naturalWidth === 3)"
            )
            assert browser.ask("document.querySelectorAll('style, title').length") >= 2
            assert browser.ask("document.querySelectorAll('head style').length") == 1
            assert browser.ask(
                "[...document.querySelectorAll('*')].every(e => ![...e.attributes].some(a => a.name.startsWith('on')))"
            )
        assert browser.ask("document.body.innerText.includes('<script>window.harmed=1</script>')")
        assert "NaN" not in browser.ask(
            "[...document.querySelectorAll('svg')].map(s => s.outerHTML).join('')"
        )


def test_the_policy_would_stop_a_script(shelf: Shelf, browser: Browser, tmp_path: Path) -> None:
    """The second wall: were something not escaped, the page's own policy forbids it, and the test would see it."""
    shelf.records.add(run_id(1), metrics={"x": 1.0})
    harm = b"<script>window.harmed=1</script><img src='http://192.0.2.1/x' onerror='window.harmed=1'>"
    file = tmp_path / "broken.html"
    file.write_bytes(shelf.report(1).replace(b"</main>", harm + b"</main>"))
    browser.open(file.as_uri(), width=1280)
    assert browser.ask("window.harmed === undefined")
    assert len(browser.complaints()) >= 2


def fill(shelf: Shelf) -> None:
    """A data run and two experiments."""
    data = shelf.save("rows", {"a.csv": b"1"}, 1)
    shelf.records.add(run_id(1), config_path="configs/data.yaml", saved=[data])
    for number, rate in ((2, 0.1), (3, 0.01)):
        figure = shelf.save("figure", {"curves.png": png(), "photo.jpg": b"no picture"}, number)
        course = shelf.course(
            [(step, {"loss": rate / step, "accuracy": 1 - rate / step}) for step in range(1, 2001)]
        )
        shelf.records.add(
            run_id(number),
            config={"training": {"lr": rate, "seed": 7}},
            metrics={"loss": rate / 2000, "accuracy": 1 - rate / 2000},
            inputs=["report:rows:v1"],
            packages=[("numpy", "2.1" if number == 3 else "2.0"), ("same", "1")],
            saved=[figure],
            byproducts=[course],
            overrides=["training.lr=it's"],
            status="succeeded" if number == 3 else "failed",
            reason=None if number == 3 else "exit code 1",
        )


def test_a_report_says_what_was_run_and_how_to_make_it_again(
    shelf: Shelf, browser: Browser, tmp_path: Path
) -> None:
    fill(shelf)
    file = tmp_path / "r.html"
    file.write_bytes(shelf.report(3))
    browser.open(file.as_uri(), width=1280)
    browser.ask("document.querySelectorAll('details').forEach(d => d.open = true)")
    text = browser.ask("document.body.innerText")
    record = shelf.records.record_path(run_id(3)).read_bytes()
    statement = json.loads(record)
    for item in statement["predicate"]["buildDefinition"]["resolvedDependencies"]:
        for digest in item["digest"].values():
            assert digest in text, item["name"]
    for words in (
        "succeeded",
        "report:rows:v1",
        "training.lr",
        "numpy",
        "mirage reproduce " + run_id(3),
        "curves.png",
    ):
        assert words in text
    assert "mirage-run --config configs/a.yaml --set 'training.lr=it'\"'\"'s'" in text
    assert "not a PNG or JPEG inside" in text
    assert browser.ask("document.querySelectorAll('svg.chart').length") == 2


def test_runs_are_compared_by_what_differs(shelf: Shelf, browser: Browser, tmp_path: Path) -> None:
    fill(shelf)
    file = tmp_path / "r.html"
    file.write_bytes(shelf.report(3, 2))
    browser.open(file.as_uri(), width=1280)
    lines = browser.ask(
        "[...document.querySelectorAll('#differences tbody tr')].map(r => [...r.cells].map(c => c.innerText.trim()))"
    )
    assert ["training.lr", "0.01", "0.1"] in lines and ["numpy", "2.1", "2.0"] in lines
    assert all(line[0] not in ("training.seed", "same") for line in lines)
    assert ["loss", "5e-06", "5e-05"] in browser.ask(
        "[...document.querySelectorAll('#metrics tbody tr')].map(r => [...r.cells].map(c => c.innerText.trim()))"
    )
    assert "exit code 1" in browser.ask("document.querySelector('#run-B').textContent")
    assert browser.ask("document.querySelectorAll('.lineage .node').length") == 5
    assert browser.ask("document.querySelectorAll('.lineage .way').length") == 5
    browser.ask("location.hash = '#run-B'")
    assert browser.ask(
        "new Promise(done => setTimeout(() => done(document.querySelector('#run-B').parentElement.open), 100))"
    )


@pytest.mark.parametrize("sources", [["another processor"], None, 5])
def test_a_verdict_is_shown_with_where_it_first_differs(shelf: Shelf, sources: Any) -> None:
    shelf.records.add(run_id(1))
    told = {"summary": "DIFFERS", "firstDifference": "model:<cnn>", "probableSources": sources}
    statement = canonical.encode({"predicate": {"mirage_verdict": told}})
    shelf.records.store.create(f"{verdicts.folder_of(run_id(1))}{run_id(2)}.json", statement)
    text = shelf.report(1).decode()
    assert '<span class="badge bad">made again: differs</span>' in text and run_id(2) in text
    assert "first difference: model:&lt;cnn&gt;" in text
    assert ("another processor" in text) == isinstance(sources, list)
    shelf.records.store.create(f"{verdicts.folder_of(run_id(1))}{run_id(3)}.json", b"[]")
    assert "A verdict cannot be read" in shelf.report(1).decode()


def test_equal_runs_do_not_differ_and_reports_have_no_time_of_their_own(shelf: Shelf) -> None:
    for number in (1, 2):
        shelf.records.add(run_id(number), config={"a": 1})
    first = shelf.report(1, 2)
    assert b"Nothing but the time" in first and first == shelf.report(1, 2)


def test_a_report_is_readable_without_sight(shelf: Shelf, browser: Browser, tmp_path: Path) -> None:
    fill(shelf)
    file = tmp_path / "r.html"
    file.write_bytes(shelf.report(1, 2, 3))
    browser.open(file.as_uri(), width=1280)
    assert browser.ask("document.documentElement.lang") == "en"
    assert browser.ask("[...document.images].every(i => i.alt)")
    assert browser.ask(
        "[...document.querySelectorAll('svg')].every(s => s.role === 'img' && s.querySelector('title').textContent)"
    )
    assert browser.ask("[...document.querySelectorAll('th')].every(t => t.scope)")
    assert browser.ask("[...document.querySelectorAll('table')].every(t => t.caption.textContent)")
    levels = browser.ask("[...document.querySelectorAll('h1,h2,h3')].map(h => +h.tagName[1])")
    assert levels[0] == 1 and levels.count(1) == 1 and all(b - a <= 1 for a, b in pairwise(levels))
    assert browser.ask(
        "(ids => new Set(ids).size === ids.length)([...document.querySelectorAll('[id]')].map(e => e.id))"
    )
    assert browser.ask(
        "[...document.querySelectorAll('a')].every(a => document.getElementById(a.hash.slice(1)))"
    )
    assert browser.ask(
        "[...document.querySelectorAll('.wide')].every(w => w.tabIndex === 0 && w.getAttribute('aria-label'))"
    )
    assert browser.pdf().startswith(b"%PDF-")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(scheme: str) -> None:
    """WCAG 2.2, 1.4.3: 4.5 to 1 for text, 3 to 1 for lines (1.4.11)."""
    style = files("orchestrator.report").joinpath("style.css").read_text("utf-8")
    light, dark = (
        dict(re.findall(r"--([\w-]+): (#\w+);", block))
        for block in re.findall(r":root \{([^}]*)\}", style)[:2]
    )
    colours = light if scheme == "light" else light | dark

    def luminance(name: str) -> float:
        parts = [int(colours[name][at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    def contrast(one: str, two: str) -> float:
        high, low = sorted((luminance(one), luminance(two)), reverse=True)
        return (high + 0.05) / (low + 0.05)

    for back in ("page", "sheet", "wash"):
        assert all(contrast(ink, back) >= 4.5 for ink in ("ink", "soft", "link")), back
    assert all(contrast(each, f"{each}-wash") >= 4.5 for each in ("good", "bad", "fair"))
    assert all(contrast(f"c{at}", "sheet") >= 4.5 for at in range(8)), [
        contrast(f"c{at}", "sheet") for at in range(8)
    ]


# Curves


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=50))
def test_any_values_can_be_drawn(values: list[float]) -> None:
    points = tuple((float(at), value) for at, value in enumerate(values))
    drawn = chart.draw("m", [chart.Curve("A", 0, series.Series("m", points, len(points), True))])
    assert "nan" not in drawn.partition("</title>")[2] and "inf" not in drawn.partition("</title>")[2]
    places = [
        float(y) for pair in re.findall(r'points="([^"]*)"', drawn) for y in re.findall(r",(-?[\d.]+)", pair)
    ]
    assert all(0 <= y <= 200 for y in places)


@given(st.floats(-1e300, 1e300), st.floats(1e-3, 1e300))
def test_ticks_are_few_and_inside(low: float, span: float) -> None:
    found = chart.axis(low, low + span, 4)
    assert 1 <= len(found.ticks) <= 13
    room = (found.high / 2 - found.low / 2) * 1e-5  # of a span that may be wider than was asked for
    assert all(found.low - room <= each <= found.high + room for each in found.ticks)


def test_a_long_course_keeps_its_peaks_its_gaps_and_its_ends(shelf: Shelf) -> None:
    lines: list[tuple[int | None, dict[str, float | None]]] = [(at, {"m": 1.0}) for at in range(100_000)]
    lines[31_416], lines[27_182], lines[77_777] = (
        (31_416, {"m": 99.0}),
        (27_182, {"m": -99.0}),
        (77_777, {"m": None}),
    )
    (found,), note = series.read(shelf.records.store, shelf.course(lines).digest)
    assert note is None and found.count == 100_000 and len(found.points) < 1500
    assert {(31_416.0, 99.0), (27_182.0, -99.0), (77_777.0, None)} <= set(found.points)
    assert found.points[0][0] == 0 and found.points[-1][0] == 99_999


def test_lines_that_are_no_metrics_are_passed_over(shelf: Shelf) -> None:
    bad = [
        b"{",
        b"[]",
        b'{"values": 3}',
        b'{"values": {"a": "b"}}',
        b'{"step": "x", "values": {"a": 1e999}}',
        b"\xff",
        b"[" * 5000,
    ]
    digest = shelf.records.put(b"\n".join(bad) + b'\n{"step": 3, "values": {"a": 2}}\n')
    (found,), _ = series.read(shelf.records.store, digest)
    assert found.name == "a" and found.points[-1][1] == 2 and {y for _, y in found.points[:-1]} == {None}


def test_steps_that_go_back_do_not_place_values(shelf: Shelf) -> None:
    (found,), _ = series.read(shelf.records.store, shelf.course([(5, {"a": 1.0}), (1, {"a": 2.0})]).digest)
    assert not found.by_step and [x for x, _ in found.points] == [0, 1]


# Pictures


def test_pictures_are_told_by_their_content() -> None:
    assert pictures.measure(png(7, 5)) == ("png", 7, 5)
    jpeg = b"\xff\xd8\xff\xe0\x00\x04ab\xff\xff\xc0\x00\x11\x08\x00\x09\x00\x0b\x03"
    assert pictures.measure(jpeg) == ("jpeg", 11, 9)
    for data in (b"", b"\xff\xd8\xff", b"\xff\xd8\xff\xe0\xff\xff", png(0, 5), b"<svg/>", jpeg[:-7]):
        assert pictures.measure(data)[0] == "", data


def test_pictures_that_are_too_large_or_too_many_are_named(shelf: Shelf) -> None:
    many = {f"{at:02}.png": png() for at in range(pictures.MOST)}
    outputs = [
        shelf.save("bomb", {"bomb.png": png(60_000, 60_000, b"x")}, 1),
        shelf.save("large", {"large.jpg": b"\xff" * (pictures.LARGEST + 1)}, 1),
        shelf.save("many", many, 1),
    ]  # fmt: skip
    found = pictures.Album(shelf.records.store).of_outputs(
        [{"id": o.id, "digest": o.digest} for o in outputs]
    )
    reasons = {each.path: each.reason for each in found if each.source is None}
    assert reasons["bomb.png"] == "60000 x 60000 pixels" and "larger than 2.0 MiB" in reasons["large.jpg"]
    assert len(found) == pictures.MOST + 2 and len(reasons) == 4
    assert all("first 24" in reasons[f"{at:02}.png"] for at in (22, 23))


def test_a_report_is_never_full_of_pictures(shelf: Shelf) -> None:
    padded = png() + b"\0" * (pictures.LARGEST - len(png()))
    outputs = [
        shelf.save("p", {f"{at}.png": padded + bytes([at]) if at < 0 else padded}, 1) for at in range(12)
    ]
    found = pictures.Album(shelf.records.store).of_outputs(
        [{"id": f"report:p:{at}", "digest": o.digest} for at, o in enumerate(outputs)]
    )
    assert sum(each.source is not None for each in found) == pictures.IN_ALL // pictures.LARGEST
    assert {each.reason for each in found if each.source is None} == {"the report is full"}


def test_what_is_gone_from_the_store_costs_only_its_part(shelf: Shelf) -> None:
    fill(shelf)
    row = shelf.catalog.find(run_id(3))
    gone = [
        row.byproduct("metrics.jsonl"),
        row.byproduct("environment.json"),
        Digest(row.result["outputs"][0]["digest"]),
    ]
    for digest in gone:
        shelf.records.blob(str(digest)).unlink()
    text = shelf.report(3).decode()
    assert text.count("cannot be read") == 1 and "course of the metrics is not shown" in text
    assert 'id="pictures"' not in text


def test_a_large_lineage_is_drawn_around_the_runs(shelf: Shelf) -> None:
    for number in range(90):
        saved = shelf.save(f"link{number}", {"a": b"%d" % number}, number)
        shelf.records.add(
            run_id(number), inputs=[f"report:link{number - 1}:v1"] if number else [], saved=[saved]
        )
    (run,) = shelf.accounts(89)
    nodes, edges = drawing.union([run.graph], [run.run_id])
    drawn = drawing.draw(nodes, edges, {run.run_id: "A"})
    assert drawn.left_out == len(nodes) - drawing.MOST and run.run_id in drawn.picture
    assert b"more nodes are not shown" in shelf.report(89)


def test_letters_go_on_after_z() -> None:
    assert [account.letter_of(at) for at in (0, 25, 26, 51, 52, 701, 702)] == [
        "A",
        "Z",
        "AA",
        "AZ",
        "BA",
        "ZZ",
        "AAA",
    ]
