"""A hostile workflow against the fences: every attempt by name, how it was made, and what must have come of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.run_tools import BIN, Project, engine

HOSTILE = Path(__file__).parent / "hostile"
MAKES = 'from mirage import artifact\nartifact.Dataset.save({"rows": []}, name="mine")\n'
SECRET = "CANARY-of-the-host-7f3a"

DENIED = {"EPERM", "EACCES", "EROFS"}
ABSENT = {*DENIED, "ENOENT", "ENXIO", "ENODEV", "ENOTDIR", "EISDIR"}
NOTHING = {"seen "}
# An attempt's name, or how it begins -> what may come of it. Everything not named here must be DENIED.
CONTAINED: dict[str, set[str]] = {
    "write /proc/sysrq-trigger": ABSENT,
    "write /dev/": ABSENT,
    "write /sys/": ABSENT,
    "write /etc/resolv.conf": ABSENT,
    "read /proc/": {*ABSENT, "read b''"},
    "firmware": {*NOTHING, *ABSENT},
    "an input by hard link": {"EXDEV", *DENIED},
    "others' files": NOTHING,
    "setuid programs of the image": NOTHING,
    "a setuid program of its own": {"stays itself"},
    "devices": NOTHING,
    "keyring": {*DENIED, "ENOSYS"},
    "bpf": {*DENIED, "ENOSYS"},
    "perf": {*DENIED, "ENOSYS", "ENOENT"},
    "fsopen": {*DENIED, "ENOSYS"},
    "open_tree": {*DENIED, "ENOSYS"},
    "kexec": {*DENIED, "ENOSYS"},
    "userfaultfd": {*DENIED, "ENOSYS"},
    "fanotify": {*DENIED, "ENOSYS"},
    "quota": {*DENIED, "ENOSYS", "ENOENT", "ENOTBLK"},
    "kernel log": {*DENIED, "ENOSYS"},
    "umount": {*DENIED, "EINVAL"},
    "ptrace others": NOTHING,
    "memory of init": {"EIO", *DENIED},
    "kill others": NOTHING,
    "others' processes": NOTHING,
    "limits": {"ValueError: not allowed to raise maximum limit", *DENIED},
    "leaked descriptors": NOTHING,
    "engine's socket": {"ENOENT", *DENIED},
    "containerd's socket": {"ENOENT", *DENIED},
    "abstract sockets": NOTHING,
    "interfaces": NOTHING,
    "metadata address": {"ENETUNREACH"},
    "the internet": {"ENETUNREACH", "EADDRNOTAVAIL", "EAFNOSUPPORT"},
    "the host by its bridge": {"ENETUNREACH"},
    "other containers": {"ENETUNREACH"},
    "a name": {"[Errno -3] Temporary failure in name resolution"},
    "the hypervisor": {"ECONNRESET", "ENODEV", "EAFNOSUPPORT", "ETIMEDOUT", "ECONNREFUSED", *DENIED},
}

# What the outbox answers: the beginning of the answer to each save, by name. ID: it is taken, harmless as it is.
ID = r"file:"
REFUSED = r"artifact-error: "
SAVES = {
    "taken, the first time": r"file:taken:exp1$",
    "names with newlines and escapes": ID,
    "case pair": ID,
    "setuid": ID,
    "modes 000": ID,
    "hard links": ID,
    "a hook of git": ID,
    "a profile": ID,
    "version of another": r"version-exists: ",
    "version that the store counts": ID,
    "number of another": ID,
    "number is no number": ID,
    "sizes and digests that are not true": ID,
    "answer forged before": ID,
    "answer is a link": ID,
    "race": rf"{ID}|{REFUSED}",
    "grows": rf"{ID}|{REFUSED}'file' changed",  # taken whole where it had ended growing
}


def hostile(root: Path, name: str, **env: str) -> Project:
    """A project whose workflow is one of the hostile ones."""
    settings = "".join(f"\n    {key}: {json.dumps(value)}" for key, value in env.items())
    config = f'data: "dataset:mine:v1"\nmirage:\n  run:\n   env:{settings or " {}"}\n'
    files = {"workflows/makes.py": MAKES, "configs/b.yaml": config}
    project = Project(root, (HOSTILE / f"{name}.py").read_text(), files=files)
    project.run("--workflow", "workflows.makes")
    return project


def tell(title: str, rows: dict[str, tuple[str, str]]) -> None:
    """The table of attempts: shown by `pytest -s`."""
    print(f"\n{title}: {len(rows)} attempts")
    for name, (answer, verdict) in rows.items():
        print(f"  {name:<42} {answer[:60]!r:<64} {verdict}")


def test_nothing_of_what_a_container_could_do_is_open_to_a_workflow(tmp_path: Path) -> None:
    """Writes, reads, privileges, kernel interfaces, processes and networks: each attempt refused or without effect."""
    project = hostile(tmp_path, "attempts")
    made = project.run(config="configs/b.yaml")
    shown = project.asked("artifact", "show", made["outputs"][0]["id"])
    found: dict[str, str] = json.loads(project.blob(shown["tree"][0]["d"]))
    rows = {}
    for name, answer in found.items():
        allowed = next((some for key, some in CONTAINED.items() if name.startswith(key)), DENIED)
        rows[name] = (
            answer,
            "contained" if answer in allowed else f"BROKE OUT: expected one of {sorted(allowed)}",
        )
    tell("in the container", rows)
    assert len(rows) >= 80, "the battery lost attempts"
    assert {name: row for name, row in rows.items() if row[1] != "contained"} == {}
    assert json.loads(project.blob(shown["tree"][0]["d"])) and not project.containers()


class Seen:
    """One run of the hostile outbox, and all that came of it."""

    def __init__(self, root: Path) -> None:
        place = root / "host"
        place.mkdir()
        place.chmod(0o755)
        self.canary = place / "canary"
        self.canary.write_text(SECRET)
        self.before = self.canary.stat()
        self.project = hostile(root / "project", "outbox", CANARY=str(self.canary))
        process = self.project.start("--config", "configs/b.yaml", "--json")
        out, self.err, self.code = self.project.ended(process)
        assert self.code == 0, self.err
        self.made: dict[str, Any] = json.loads(out)
        self.out = out
        shown = self.project.asked("artifact", "show", "report:answers:v1")
        self.answers: dict[str, str] = json.loads(self.project.blob(shown["tree"][0]["d"]))

    def tree(self, what: str) -> list[dict[str, Any]]:
        """The files of a save that was taken."""
        found: list[dict[str, Any]] = self.project.asked("artifact", "show", self.answers[what])["tree"]
        return found


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    root = tmp_path_factory.mktemp("outbox")
    root.chmod(0o755)
    yield Seen(root)


def test_every_hostile_save_is_refused_or_harmless(seen: Seen) -> None:
    rows = {}
    for what, answer in seen.answers.items():
        expected = next((some for key, some in SAVES.items() if what.startswith(key)), REFUSED)
        rows[what] = answer, "contained" if re.match(expected, answer) else f"BROKE OUT: expected {expected}"
    tell("through the outbox", rows)
    assert len(rows) >= 70
    assert {what: row for what, row in rows.items() if row[1] != "contained"} == {}


def test_no_byte_of_the_host_came_into_the_store_and_nothing_left_it(seen: Seen) -> None:
    found = subprocess.run(
        ["grep", "-rlaF", SECRET, str(seen.project.folder)], capture_output=True, text=True, check=False
    )
    assert found.stdout == ""
    assert SECRET not in seen.out + seen.err
    after = seen.canary.stat()
    assert (after.st_mtime_ns, after.st_mode, after.st_nlink) == (
        seen.before.st_mtime_ns,
        seen.before.st_mode,
        seen.before.st_nlink,
    )
    assert [path.name for path in seen.canary.parent.iterdir()] == ["canary"]
    outside = [path for path in seen.project.folder.parent.iterdir() if path != seen.project.folder]
    assert [path.name for path in outside] == ["host"]


def test_what_was_forged_is_not_in_the_record(seen: Seen) -> None:
    record = seen.project.record(seen.made["run_id"])
    names = {item["name"] for item in record["subject"]}
    assert names == {
        "run.json",
        *(a for a in seen.answers.values() if ":" in a and " " not in a),
        "report:answers:v1",
    }
    assert not any(name.startswith("model:") for name in names)
    ids = {item["id"] for item in seen.project.asked("artifact", "ls")["artifacts"]}
    assert ids == {*names - {"run.json"}, "dataset:mine:v1"}
    taken = seen.project.asked("artifact", "show", "file:taken:exp1")["tree"]
    assert seen.project.blob(taken[0]["d"]) == b'{"first": true}'
    seen.project.mirage("verify", seen.made["run_id"])


def test_files_are_kept_without_what_would_harm(seen: Seen) -> None:
    pair = {item["p"]: seen.project.blob(item["d"]) for item in seen.tree("case pair")}
    assert pair == {"Readme": b"upper", "readme": b"lower"}
    [script] = seen.tree("setuid")
    assert script["x"] == 1
    blob = seen.project.store / "blobs" / "sha256" / script["d"][7:9] / script["d"][7:]
    assert blob.stat().st_mode & 0o7222 == 0
    got = seen.project.folder / "got"
    seen.project.mirage("artifact", "get", seen.answers["setuid"], "-o", str(got))
    assert all(path.stat().st_mode & 0o7000 == 0 for path in [got, *got.rglob("*")])
    for what, answer in seen.answers.items():
        if what.startswith("race") and answer.startswith("file:"):
            for item in seen.tree(what):
                assert item["t"] == "d" or seen.project.blob(item["d"]) == b"honest"


def test_taking_one_out_writes_nothing_hidden_and_nothing_in_folders(seen: Seen) -> None:
    """A file's name is the workflow's: `.git/hooks/post-checkout` would be run by the next `git checkout`."""
    folder = seen.project.folder
    profile = seen.answers["a profile"]
    for id, name in (
        (seen.answers["a hook of git"], "post-checkout"),
        (profile, f"{profile.split(':')[1]}-v1"),
    ):
        assert seen.project.mirage("artifact", "get", id).strip() == name
        assert (folder / name).is_file()
    assert not (folder / ".git" / "hooks" / "post-checkout").exists()
    assert not (folder / ".bashrc").exists()


def test_the_outbox_is_gone_whatever_it_held(seen: Seen) -> None:
    """Directories 1,000 deep and modes 000 among it."""
    left = sorted(
        path.name for path in (seen.project.folder / ".mirage" / "runs" / seen.made["run_id"]).iterdir()
    )
    assert not {"out", "in", "passwd", "group"} & set(left)
    assert seen.project.containers() == []


def test_no_control_character_of_a_workflow_reaches_the_terminal(seen: Seen) -> None:
    run_id = seen.made["run_id"]
    assert set(seen.made["metrics"]) == {
        "fine", "\x1b]0;owned\x07", "\x1b[2Jcleared", "line\nbreak", "\u202eevil",
    }  # fmt: skip
    texts = [
        seen.project.mirage("show", run_id),
        seen.project.mirage("show", run_id, "--json"),
        seen.project.mirage("ls"),
        seen.project.mirage("ls", "--json"),
        seen.project.mirage("diff", run_id, run_id),
        seen.project.mirage("artifact", "show", seen.answers["names with newlines and escapes"]),
        seen.project.mirage("artifact", "ls"),
        seen.project.mirage("explain", run_id),
        seen.out,
    ]
    _, err, _ = seen.project.ended(
        seen.project.start("ls", "--where", "metrics.x\x1b[2J > 1", program="mirage")
    )
    for text in [*texts, err]:
        assert all(c.isprintable() or c in "\n\t" for c in text), text
    assert "\\x1b]0;owned\\x07 = 1" in texts[0]
    # the messages too; the workflow's own output is passed on as it is
    messages = seen.err.replace("\x1b]0;owned by the log\x07", "")
    assert all(c.isprintable() or c in "\n\t" for c in messages)
    assert "\x1b]0;owned by the log\x07" in seen.project.mirage("logs", run_id)


@pytest.fixture(scope="module")
def bombs(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("bombs"), (HOSTILE / "bombs.py").read_text())
    for name, words in {
        "processes": "{pids: 128, memory: 512m}",
        "memory": "{memory: 64m}",
        "shared": "{memory: 64m, shm_size: 1g}",
    }.items():
        project.write(f"configs/{name}.yaml", f"a: 1\nmirage: {{run: {words}}}\n")
    project.commit()
    return project


def test_a_fork_bomb_meets_its_limit_and_is_gone_with_its_container(bombs: Project) -> None:
    begun = time.monotonic()
    made = bombs.run("--", "processes", config="configs/processes.yaml", code=1)
    assert made["exit_code"] == 7
    assert "forked until EAGAIN" in bombs.mirage("logs", made["run_id"])
    assert time.monotonic() - begun < 60
    left = subprocess.run(
        ["pgrep", "-fc", "workflows.main --config configs/processes.yaml"], capture_output=True
    )
    assert left.stdout.strip() == b"0"
    sandbox = bombs.record(made["run_id"])["predicate"]["buildDefinition"]["internalParameters"]["sandbox"]
    assert sandbox["pids"] == 128


@pytest.mark.parametrize("what", ["memory", "shared"])
def test_memory_ends_at_its_limit_in_files_of_memory_too(bombs: Project, what: str) -> None:
    made = bombs.run("--", what, config=f"configs/{what}.yaml", code=1)
    assert made["reason"] == "out of memory", made
    assert bombs.containers() == []


def _on_a_small_disk(tmp_path: Path, outputs: str) -> Project:
    settings = f"project: probe\nworkflow: workflows.main\nrun: {{outputs: {{{outputs}}}}}\n"
    project = Project(
        tmp_path / "project", (HOSTILE / "bombs.py").read_text(), files={".mirage/project.yaml": settings}
    )
    runs = project.folder / ".mirage" / "runs"
    runs.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m,mode=0755", "tmpfs", str(runs)], check=True)
    return project


@pytest.mark.parametrize(
    ("outputs", "reason"),
    [
        ("keep_free: 16m", r"disk: .* are free in .*, and 16\.0 MiB must stay \(run\.outputs\.keep_free\)"),
        (
            "keep_free: 0, max_bytes: 20m",
            r"disk: more than 20\.0 MiB are in its outbox \(run\.outputs\.max_bytes\)",
        ),
    ],
)
def test_a_run_that_fills_the_disk_is_ended_before_it_is_full(
    tmp_path: Path, outputs: str, reason: str
) -> None:
    project = _on_a_small_disk(tmp_path, outputs)
    runs = project.folder / ".mirage" / "runs"
    try:
        made = project.run("--", "trickle", code=1)
        assert (made["status"], made["exit_code"]) == ("failed", 137)
        assert re.fullmatch(reason, made["reason"]), made["reason"]
        assert [item["id"] for item in made["outputs"]] == ["file:before:v1"], "what it had saved stays"
        project.mirage("verify", made["run_id"])
        assert not (runs / made["run_id"] / "out").exists()
    finally:
        subprocess.run(["umount", str(runs)], check=True)


def test_a_full_disk_is_the_workflows_own_trouble(tmp_path: Path) -> None:
    """The runs' folder on a small disk of its own: the workflow fills it, and the run is recorded all the same."""
    if os.geteuid() != 0:
        pytest.fail("mounting a small disk needs root, as CI has it")
    project = _on_a_small_disk(tmp_path, "keep_free: 0")
    runs = project.folder / ".mirage" / "runs"
    try:
        process = project.start("--config", "configs/a.yaml", "--json", "--", "disk")
        out, err, code = project.ended(process)
        assert code == 1, err
        assert "Traceback" not in err
        made = json.loads(out)
        assert made["exit_code"] == 5
        assert [item["id"] for item in made["outputs"]] == ["file:before:v1"]
        # a log for which there was no room is counted, to the byte
        byproducts = project.record(made["run_id"])["predicate"]["runDetails"]["byproducts"]
        [log] = [item["annotations"] for item in byproducts if item["name"] == "log"]
        assert log["bytes"] + log["droppedBytes"] == len("filled until ENOSPC\n") + 20_001
        project.mirage("verify", made["run_id"])
        assert not (runs / made["run_id"] / "out").exists()
    finally:
        subprocess.run(["umount", str(runs)], check=True)


def test_the_engine_of_these_tests_holds_what_they_rely_on() -> None:
    """Otherwise the battery would pass for another reason than Mirage's settings."""
    assert any("seccomp" in option for option in engine().info()["SecurityOptions"])
    assert BIN.exists()
