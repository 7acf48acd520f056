"""The host's side of the outbox, against a workflow that is broken, hostile, or was cut short."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator import canonical
from orchestrator.artifacts import outbox as outboxes
from orchestrator.artifacts.outbox import Outbox, prepare
from orchestrator.artifacts.version import Version, load, publish, versions
from orchestrator.digest import of_bytes
from orchestrator.errors import StoreError
from orchestrator.reference import ArtifactRef
from orchestrator.store.folder import FolderStore
from tests.store_tools import FINE, Heard, in_child, manifest, mounted, needs_root, open_descriptors, whole

RUN = "20261125-120000-abcdef"


class Run:
    """One run's outbox and what a workflow may write there."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.folder = top / "out"
        prepare(self.folder)
        self.artifacts = self.folder / "artifacts"
        self.store = FolderStore.open_at(top / "store")
        self.heard = Heard()

    def outbox(self, **more: Any) -> Outbox:
        return Outbox(self.folder, self.store, RUN, self.heard, **more)

    def payload(self, n: int, content: bytes = b"content") -> Path:
        (self.artifacts / str(n)).mkdir()
        (self.artifacts / str(n) / "data").write_bytes(content)
        return self.artifacts / str(n)

    def ready(self, n: int, **changes: Any) -> None:
        announced = {
            "schema": "mirage-ready/1",
            "n": n,
            "kind": "dataset",
            "name": "data",
            "version": None,
            "format": "bytes",
            "entry": "data",
            "metadata": {"rows": 3},
            **changes,
        }
        self.raw(n, json.dumps(announced).encode())

    def raw(self, n: int, data: bytes) -> None:
        (self.artifacts / "half").write_bytes(data)
        (self.artifacts / "half").rename(self.artifacts / f"{n}.ready.json")

    def done(self, n: int) -> dict[str, Any]:
        return dict(json.loads((self.artifacts / f"{n}.done.json").read_bytes()))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_what_is_ready_is_published_and_answered(run: Run) -> None:
    outbox = run.outbox()
    assert outbox.poll() == 0
    run.payload(0, b"twelve bytes")
    assert outbox.poll() == 0, "not declared ready yet"
    assert outbox.unfinished() == 1
    run.ready(0)
    assert outbox.poll() == 1
    assert run.done(0) == {
        "schema": "mirage-done/1",
        "n": 0,
        "id": "dataset:data:v1",
        "digest": outbox.outputs[0].version.digest if outbox.outputs[0].version else None,
        "size": 12,
    }
    assert outbox.poll() == 0
    assert outbox.unfinished() == 0
    found = whole(run.store, "dataset:data:v1")
    assert (found.run, found.manifest.entry, found.manifest.files) == (RUN, "data", 1)
    assert json.loads(found.manifest.metadata) == {"rows": 3}


def test_saves_are_taken_in_their_order(run: Run) -> None:
    for n in (10, 9, 2):
        run.payload(n, str(n).encode())
        run.ready(n)
    outbox = run.outbox()
    assert outbox.poll() == 3
    assert [(o.n, str(o.version and o.version.ref)) for o in outbox.outputs] == [
        (2, "dataset:data:v1"),
        (9, "dataset:data:v2"),
        (10, "dataset:data:v3"),
    ]


def test_a_run_that_saves_an_earlier_content_again_gets_a_new_version(run: Run) -> None:
    for n, content in enumerate((b"a", b"b", b"a", b"a")):
        run.payload(n, content)
        run.ready(n)
    outbox = run.outbox()
    outbox.poll()
    assert [run.done(n)["id"] for n in range(4)] == [f"dataset:data:v{v}" for v in (1, 2, 3, 3)]


BAD_READY: dict[str, bytes | dict[str, Any]] = {
    "empty": b"",
    "not json": b"{",
    "not utf-8": b'{"schema":"\xff"}',
    "a list": b"[]",
    "a number": b"7",
    "null": b"null",
    "deep": b"[" * 200_000,
    "a huge number": b'{"n":' + b"9" * 5000 + b"}",
    "oversize": b'"' + b"x" * (1 << 20) + b'"',
    "no schema": {"schema": None},
    "other schema": {"schema": "mirage-ready/2"},
    "no kind": {"kind": None},
    "unknown kind": {"kind": "secret"},
    "kind a list": {"kind": ["dataset"]},
    "kind a mapping": {"kind": {}},
    "no name": {"name": None},
    "empty name": {"name": ""},
    "name leads out": {"name": "../../../etc/cron.d/x"},
    "name with slash": {"name": "a/b"},
    "name with capital": {"name": "Data"},
    "name with newline": {"name": "data\n"},
    "name too long": {"name": "x" * 129},
    "name no text": {"name": "\ud800"},
    "version leads out": {"version": "../v1"},
    "version empty": {"version": ""},
    "version latest": {"version": "latest"},
    "version out of turn": {"version": "v7"},
    "version to the end of numbers": {"version": "v999999999999999999"},
    "version a list": {"version": ["v1"]},
    "format leads out": {"format": "../x"},
    "no format": {"format": None},
    "entry not there": {"entry": "other"},
    "entry leads out": {"entry": "../1/data"},
    "entry absolute": {"entry": "/etc/passwd"},
    "entry a number": {"entry": 1},
    "metadata a list": {"metadata": [1]},
    "metadata a string": {"metadata": "x"},
    "metadata with nan": b'{"schema":"mirage-ready/1","kind":"file","name":"a","format":"b","metadata":{"x":NaN}}',
    "metadata with a huge integer": {"metadata": {"x": 2**60}},
    "metadata with half a surrogate": {"metadata": {"x": "\ud800"}},
    "metadata deep": b'{"schema":"mirage-ready/1","kind":"file","name":"a","format":"b","metadata":'
    + b'{"a":' * 70
    + b"1"
    + b"}" * 71,
}


@pytest.mark.parametrize("bad", BAD_READY.values(), ids=BAD_READY.keys())
def test_a_bad_ready_file_is_answered_with_an_error(run: Run, bad: bytes | dict[str, Any]) -> None:
    run.payload(1)
    run.ready(1, **bad) if isinstance(bad, dict) else run.raw(1, bad)
    run.payload(2)
    run.ready(2)
    outbox = run.outbox()
    before = open_descriptors()
    assert outbox.poll() == 2
    assert open_descriptors() == before
    error = run.done(1)["error"]
    assert error["code"] == "artifact-error"
    assert error["message"]
    assert outbox.outputs[0].version is None
    assert outbox.outputs[0].problem == error["message"]
    assert run.done(2)["id"] == "dataset:data:v1", "the next save suffered"
    assert len(run.heard.warnings) == 1


def _ready_link(run: Run) -> None:
    (run.top / "elsewhere").write_bytes(b"{}")
    (run.artifacts / "1.ready.json").symlink_to(run.top / "elsewhere")


def _ready_fifo(run: Run) -> None:
    os.mkfifo(run.artifacts / "1.ready.json")


def _ready_folder(run: Run) -> None:
    (run.artifacts / "1.ready.json").mkdir()


def _no_payload(run: Run) -> None:
    run.ready(1)


def _payload_file(run: Run) -> None:
    (run.artifacts / "1").write_bytes(b"")
    run.ready(1)


def _payload_link(run: Run) -> None:
    (run.top / "host").mkdir()
    (run.top / "host" / "data").write_bytes(b"secret of the host")
    (run.artifacts / "1").symlink_to(run.top / "host", target_is_directory=True)
    run.ready(1)


def _payload_with_link_out(run: Run) -> None:
    (run.payload(1) / "link").symlink_to("/etc/shadow")
    run.ready(1)


def _payload_with_fifo(run: Run) -> None:
    os.mkfifo(run.payload(1) / "pipe")
    run.ready(1)


def _entry_is_a_link(run: Run) -> None:
    (run.payload(1) / "link").symlink_to("data")
    run.ready(1, entry="link")


@pytest.mark.parametrize(
    "make",
    [
        _ready_link,
        _ready_fifo,
        _ready_folder,
        _no_payload,
        _payload_file,
        _payload_link,
        _payload_with_link_out,
        _payload_with_fifo,
        _entry_is_a_link,
    ],
)
def test_a_hostile_payload_is_answered_with_an_error(run: Run, make: Callable[[Run], None]) -> None:
    make(run)
    outbox = run.outbox()
    before = open_descriptors()
    assert outbox.poll() == 1
    assert outbox.poll() == 0
    assert open_descriptors() == before
    assert run.done(1)["error"]["code"] == "artifact-error"
    assert not run.store.has(of_bytes(b"secret of the host"))
    assert versions(run.store, "dataset", "data") == []


def test_a_fifo_with_a_writer_behind_it_does_not_stop_us(run: Run) -> None:
    for path in (run.artifacts / "1.ready.json", run.folder / "metrics.jsonl", run.folder / "events.jsonl"):
        os.mkfifo(path)
    ends = [
        os.open(path, os.O_RDWR)
        for path in (
            run.artifacts / "1.ready.json",
            run.folder / "metrics.jsonl",
            run.folder / "events.jsonl",
        )
    ]
    try:
        outbox = run.outbox()
        assert outbox.poll() == 1
        assert outbox.metrics() == ({}, None, 0)
        assert outbox.events() is None
    finally:
        for end in ends:
            os.close(end)


@pytest.mark.parametrize(
    "name", ["01.ready.json", "-1.ready.json", "1.ready.json.tmp", "²", "٣", "1e3", "9" * 30, "x"]
)
def test_other_names_are_passed_over(run: Run, name: str) -> None:
    (run.artifacts / name).mkdir()
    outbox = run.outbox()
    assert outbox.poll() == 0
    assert outbox.unfinished() == 0


def _no_artifacts(run: Run) -> None:
    run.artifacts.rename(run.folder / "gone")


def _artifacts_link(run: Run) -> None:
    run.artifacts.rename(run.top / "elsewhere")
    run.artifacts.symlink_to(run.top / "elsewhere", target_is_directory=True)


def _artifacts_file(run: Run) -> None:
    run.artifacts.rename(run.folder / "gone")
    run.artifacts.write_bytes(b"")


@pytest.mark.parametrize("make", [_no_artifacts, _artifacts_link, _artifacts_file])
def test_an_outbox_taken_away_keeps_no_run_from_its_end(run: Run, make: Callable[[Run], None]) -> None:
    outbox = run.outbox()
    run.payload(0)
    run.ready(0)
    make(run)
    for _ in range(3):
        assert outbox.poll() == 0
    assert outbox.unfinished() == 0
    assert len(run.heard.warnings) <= 1, "said once"
    assert versions(run.store, "dataset", "data") == []


def test_an_outbox_that_cannot_be_answered_is_published_once_and_sealed() -> None:
    """As the user who owns it: a workflow may take its folder's write permission, and even its own access."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)

        def attempt() -> None:
            run = Run(Path(name))
            outbox = run.outbox()
            run.payload(0)
            run.ready(0)
            run.artifacts.chmod(0o555)
            assert outbox.poll() == 1
            assert outbox.poll() == 0
            assert [str(o.version and o.version.ref) for o in outbox.outputs] == ["dataset:data:v1"]
            assert len(run.heard.warnings) == 1
            run.artifacts.chmod(0o755)
            assert outbox.poll() == 0
            assert run.done(0)["id"] == "dataset:data:v1", "answered as soon as it was possible"
            run.artifacts.chmod(0)
            assert outbox.poll() == 0
            assert outbox.unfinished() == 0
            run.artifacts.chmod(0o755)

        assert in_child(attempt, nobody=True) == FINE


def test_a_store_without_space_is_asked_again_and_then_given_up(tmp_path: Path) -> None:
    needs_root()
    run = Run(tmp_path)
    with mounted(tmp_path / "disk", "size=1m") as disk:
        run.store = FolderStore.open_at(disk / "store")
        outbox = run.outbox()
        run.payload(0, os.urandom(2 << 20))
        run.ready(0)
        for _ in range(2):
            with pytest.raises(StoreError, match="No space left"):
                outbox.poll()
        assert outbox.outputs == []
        assert not (run.artifacts / "0.done.json").exists(), "the workflow was told too early"
        assert outbox.poll(give_up=True) == 1
        assert run.done(0)["error"]["code"] == "store-error"
        assert "No space left" in run.done(0)["error"]["message"]
        os.unlink(run.artifacts / "0" / "data")
        run.payload(1, os.urandom(1000))
        run.ready(1)
        assert outbox.poll() == 1
        assert run.done(1)["id"] == "dataset:data:v1"


def test_a_save_is_told_to_the_journal_before_the_workflow(run: Run) -> None:
    told: list[tuple[int, str]] = []

    def published(n: int, version: Version) -> None:
        assert not (run.artifacts / f"{n}.done.json").exists()
        told.append((n, str(version.ref)))

    run.payload(0)
    run.ready(0)
    run.outbox(published=published).poll()
    assert told == [(0, "dataset:data:v1")]


def test_a_successor_answers_what_the_dead_had_published(run: Run) -> None:
    run.payload(0)
    run.ready(0)
    run.payload(1, b"other")
    run.ready(1)
    told: list[int] = []
    run.outbox(published=lambda n, version: told.append(n)).poll()
    for n in (0, 1):
        (run.artifacts / f"{n}.done.json").unlink()
    (run.artifacts / "0" / "data").write_bytes(b"changed since: must not matter")
    before = [(0, load(run.store, ArtifactRef("dataset", "data", "v1")))]
    told.clear()
    successor = run.outbox(before=before, published=lambda n, version: told.append(n))
    assert successor.poll() == 2
    assert run.done(0)["id"] == "dataset:data:v1"
    assert run.done(1)["id"] == "dataset:data:v2"
    assert told == [1], "what the journal knew was told to it again"
    assert [o.n for o in successor.outputs] == [0, 1]


@pytest.mark.parametrize("others", [0, 5])
@pytest.mark.parametrize("elsewhere", [0, 20])
def test_a_successor_finds_what_the_journal_never_heard_of(run: Run, others: int, elsewhere: int) -> None:
    """Killed between the version and the journal's line: the save is not published a second time."""

    def dies(n: int, version: Version) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    run.payload(9)
    run.ready(9)
    assert in_child(lambda: run.outbox(published=dies).poll()) == -signal.SIGKILL
    for n in range(others):  # other saves of the run under the same name, with lower numbers
        run.payload(n, str(n).encode())
        run.ready(n)
    for n in range(elsewhere):  # and other runs that publish under it before anybody recovers this one
        publish(run.store, manifest(run.store, text=f"other {n}"), None, "another run")
    successor = run.outbox()
    successor.again = True
    assert successor.poll() == 1 + others
    assert run.done(9)["id"] == "dataset:data:v1"
    count = 1 + others + elsewhere
    assert versions(run.store, "dataset", "data") == [f"v{n}" for n in range(1, count + 1)]


def test_a_journal_that_cannot_be_written_publishes_once(run: Run) -> None:
    tries: list[int] = []

    def full(n: int, version: Version) -> None:
        tries.append(n)
        if len(tries) < 3:
            raise StoreError("cannot write the run's journal") from OSError("No space left on device")

    run.payload(0)
    run.ready(0)
    outbox = run.outbox(published=full)
    for _ in range(2):
        with pytest.raises(StoreError):
            outbox.poll()
    assert outbox.poll() == 1
    assert versions(run.store, "dataset", "data") == ["v1"]
    assert len(outbox.outputs) == 1


def test_a_damaged_version_in_the_way_is_told_to_the_workflow(run: Run) -> None:
    run.store.create("refs/dataset/data/exp.json", b"not json")
    run.payload(0)
    run.ready(0, version="exp")
    assert run.outbox().poll() == 1
    assert run.done(0)["error"]["code"] == "store-error"


def test_another_content_under_a_custom_version_is_refused(run: Run) -> None:
    for n, content in enumerate((b"a", b"b", b"a")):
        run.payload(n, content)
        run.ready(n, version="exp001")
    run.outbox().poll()
    assert run.done(0)["id"] == run.done(2)["id"] == "dataset:data:exp001"
    assert run.done(1)["error"]["code"] == "version-exists"


# --- metrics and events -------------------------------------------------------------------------------------

GOOD = b'{"step":1,"values":{"loss":0.5}}\n'
BAD_LINES = {
    "empty": b"\n",
    "not json": b"{\n",
    "not utf-8": b'{"values":{"\xff":1}}\n',
    "a list": b"[]\n",
    "a string": b'"values"\n',
    "null": b"null\n",
    "no values": b"{}\n",
    "values a list": b'{"values":[1]}\n',
    "values null": b'{"values":null}\n',
    "a truth": b'{"values":{"loss":true}}\n',
    "a text": b'{"values":{"loss":"0.1"}}\n',
    "a mapping": b'{"values":{"loss":{}}}\n',
    "nan": b'{"values":{"loss":NaN}}\n',
    "infinity": b'{"values":{"loss":1e999}}\n',
    "huge": b'{"values":{"loss":' + b"9" * 400 + b"}}\n",
    "too many digits": b'{"values":{"loss":' + b"9" * 5000 + b"}}\n",
    "deep": b"[" * 100_000 + b"\n",
    "half a surrogate": b'{"values":{"\\ud800":1}}\n',
    "long name": b'{"values":{"' + b"x" * 201 + b'":1}}\n',
    "one bad of two": b'{"values":{"loss":7,"other":"x"}}\n',
}


@pytest.mark.parametrize("line", BAD_LINES.values(), ids=BAD_LINES.keys())
def test_a_bad_line_of_metrics_is_counted_and_changes_nothing(run: Run, line: bytes) -> None:
    (run.folder / "metrics.jsonl").write_bytes(GOOD + line + b'{"values":{"accuracy":null}}\n')
    values, digest, bad = run.outbox().metrics()
    assert (values, bad) == ({"loss": 0.5, "accuracy": None}, 1)
    canonical.encode(dict(values))
    assert digest == of_bytes(GOOD + line + b'{"values":{"accuracy":null}}\n'), "every byte is kept"


def test_the_last_value_of_a_metric_counts(run: Run) -> None:
    (run.folder / "metrics.jsonl").write_bytes(
        b"".join(b'{"step":%d,"values":{"loss":%d,"once":1}}\n' % (n, 100 - n) for n in range(100))
    )
    assert run.outbox().metrics()[0] == {"loss": 1, "once": 1}


def test_a_torn_last_line_is_left_out(run: Run) -> None:
    (run.folder / "metrics.jsonl").write_bytes(GOOD + b'{"values":{"loss":0.1')
    (run.folder / "events.jsonl").write_bytes(b'{"event":"a"}\n{"eve')
    assert run.outbox().metrics() == ({"loss": 0.5}, of_bytes(GOOD), 0)
    assert run.outbox().events() == of_bytes(b'{"event":"a"}\n')


@pytest.mark.parametrize("content", [None, b"", b"no newline"])
def test_without_lines_there_is_no_blob(run: Run, content: bytes | None) -> None:
    if content is not None:
        (run.folder / "metrics.jsonl").write_bytes(content)
        (run.folder / "events.jsonl").write_bytes(content)
    assert run.outbox().metrics() == ({}, None, 0)
    assert run.outbox().events() is None


def test_metrics_longer_than_one_piece_are_read_to_the_end(run: Run) -> None:
    lines = b"".join(b'{"values":{"loss":%d}}\n' % n for n in range(200_000))
    assert len(lines) > 3 << 20
    (run.folder / "metrics.jsonl").write_bytes(lines)
    assert run.outbox().metrics() == ({"loss": 199_999}, of_bytes(lines), 0)


def test_an_endless_line_ends_the_reading(run: Run) -> None:
    with (run.folder / "metrics.jsonl").open("wb") as sink:
        sink.write(GOOD)
        sink.truncate(1 << 40)
    values, digest, _ = run.outbox().metrics()
    assert (values, digest) == ({"loss": 0.5}, of_bytes(GOOD))
    assert "too long" in run.heard.warnings[0]


def test_more_lines_than_the_limit_are_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outboxes, "_LINES_LIMIT", 1 << 20)
    (run.folder / "events.jsonl").write_bytes(b'{"event":"x"}\n' * 200_000)
    digest = run.outbox().events()
    assert digest is not None
    assert len(run.heard.warnings) == 1
    with run.store.open(digest) as source:
        assert 1 << 20 <= len(source.read()) <= 2 << 20


def test_a_record_never_names_more_metrics_than_it_can_hold(run: Run) -> None:
    lines = b"".join(b'{"values":{"m%d":1}}\n' % n for n in range(10_100))
    (run.folder / "metrics.jsonl").write_bytes(lines + b'{"values":{"m5":2}}\n')
    values, _, bad = run.outbox().metrics()
    assert (len(values), bad, values["m5"]) == (10_000, 100, 2)


@pytest.mark.parametrize("what", ["link", "folder", "fifo"])
def test_lines_are_read_from_regular_files_only(run: Run, what: str) -> None:
    secret = run.top / "secret"
    secret.write_bytes(b'{"values":{"secret":1}}\n')
    for name in ("metrics.jsonl", "events.jsonl"):
        if what == "link":
            (run.folder / name).symlink_to(secret)
        elif what == "folder":
            (run.folder / name).mkdir()
        else:
            os.mkfifo(run.folder / name)
    before = open_descriptors()
    assert run.outbox().metrics() == ({}, None, 0)
    assert run.outbox().events() is None
    assert open_descriptors() == before
    assert len(run.heard.warnings) == 2


def test_a_workflow_that_saves_while_we_look(run: Run) -> None:
    """Both sides at once: everything that was declared is answered, once."""
    count = 60

    def workflow() -> None:
        for n in range(count):
            run.payload(n, str(n).encode())
            run.ready(n)

    worker = threading.Thread(target=workflow)
    outbox = run.outbox()
    worker.start()
    taken = 0
    while worker.is_alive() or taken < count:
        taken += outbox.poll()
    worker.join()
    assert taken == count
    assert [run.done(n)["id"] for n in range(count)] == [f"dataset:data:v{n + 1}" for n in range(count)]


def test_a_flood_of_refused_saves_is_bounded_in_the_record_and_on_the_screen(tmp_path: Path) -> None:
    """Each refusal may carry what the workflow wrote; a million of them would make a record of gigabytes."""
    heard = Heard()
    prepare(tmp_path / "out")
    top = tmp_path / "out" / "artifacts"
    for n in range(1500):
        (top / f"{n}.ready.json").write_text(json.dumps({"schema": "mirage-ready/1", "kind": "x" * 5000}))
    box = Outbox(tmp_path / "out", FolderStore.open_at(tmp_path / "store"), "r", heard)
    assert box.poll() == 1500
    assert len(box.refused()) == 1001
    assert box.refused()[-1] == "and 500 more"
    assert len(heard.warnings) == 100
    assert max(map(len, box.refused())) <= 2000
