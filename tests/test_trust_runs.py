"""Signed runs by the real command line on the real engine: key, trust, verify, show, ls, log, verdicts, recovery."""

from __future__ import annotations

import base64
import json
import signal
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict, ParseError
from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as StatementMessage

from orchestrator.digest import of_bytes
from tests.run_tools import Project

WORKFLOW = """
from mirage import artifact, flow, metrics

@flow
def main() -> None:
    metrics.log(loss=0.5)
    artifact.File.save("x", name="made")

if __name__ == "__main__":
    main()
"""


class Signed:
    """A project whose runs are signed with the user's own key; one run is there."""

    def __init__(self, top: Path) -> None:
        self.project = Project(top / "repository", WORKFLOW)
        self.env = {"XDG_CONFIG_HOME": str(top / "config"), "MIRAGE_SIGN_KEY": ""}
        made = self.asked("key", "new")
        self.key, self.public, self.keyid = Path(made["key"]), made["public"], made["keyid"]
        self.run_id = self.run()["run_id"]

    def asked(self, *words: str, code: int = 0, env: dict[str, str] | None = None) -> Any:
        out = self.project.mirage(*words, "--json", code=code, env={**self.env, **(env or {})})
        return json.loads(out)

    def run(self, **env: str) -> dict[str, Any]:
        return self.project.run(env={**self.env, **env})

    def verify(self, *words: str, code: int = 0, run: str = "") -> dict[str, tuple[str, str]]:
        found = self.asked("verify", run or self.run_id, *words, code=code)
        return {each["check"]: (each["state"], each["text"]) for each in found["findings"]}

    def path(self, run: str) -> Path:
        return self.project.store / "runs" / f"{run[:4]}-{run[4:6]}" / run / "record.json"

    def payload(self, run: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(base64.b64decode(self.project.record(run)["payload"]))
        return found


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Signed:
    return Signed(tmp_path_factory.mktemp("signed"))


@pytest.fixture
def trusting(signed: Signed) -> Signed:
    if not (signed.project.folder / ".mirage" / "keys.yaml").exists():
        assert signed.verify(code=10)["signature"][0] == "missing", "a key that nobody trusts yet"
        assert signed.asked("show", signed.run_id)["signature"] == "unknown"
        signed.asked("key", "trust", signed.public, "--name", "me")
        signed.project.commit()
    return signed


def test_a_key_is_private_and_never_written_over(signed: Signed) -> None:
    assert stat.S_IMODE(signed.key.stat().st_mode) == 0o600
    err = signed.project.ended(signed.project.start("key", "new", program="mirage", env=signed.env))[1]
    assert "exists already" in err
    inside = signed.project.start("key", "new", "--out", "key.pem", program="mirage", env=signed.env)
    _out, err, code = signed.project.ended(inside)
    assert (
        code == 2 and "inside of the repository" in err and not (signed.project.folder / "key.pem").exists()
    )
    assert signed.asked("key", "list")["signs_with"] == str(signed.key)
    beside = signed.project.root.parent / "beside.pem"
    assert signed.asked("key", "new", "--out", str(beside))["key"] == str(beside), "no repository there"


def test_a_signed_run_is_believed_by_those_who_trust_its_key(trusting: Signed) -> None:
    found = trusting.verify("--require-signature")
    assert found["signature"] == ("ok", f"signed by me ({trusting.keyid})")
    assert found["chain"][0] == "ok" and {state for state, _ in found.values()} == {"ok"}
    shown = trusting.project.mirage("show", trusting.run_id)
    assert f"signed   by me ({trusting.keyid})" in shown
    assert trusting.asked("show", trusting.run_id)["signature"] == "good"
    (listed,) = [each for each in trusting.asked("ls")["runs"] if each["run_id"] == trusting.run_id]
    assert listed["signer"] == trusting.keyid
    assert listed["record"] == of_bytes(trusting.path(trusting.run_id).read_bytes())
    (line,) = [each for each in trusting.project.mirage("ls").splitlines() if trusting.run_id in each]
    assert " me " in line
    only = trusting.project.mirage("ls", "--where", f"signer = '{trusting.keyid}'", "--columns", "run_id")
    assert trusting.run_id in only


def test_the_statement_in_the_envelope_is_one_for_others(trusting: Signed) -> None:
    statement = trusting.payload(trusting.run_id)
    Statement.copy_from_pb(ParseDict(statement, StatementMessage())).validate()
    predicate = statement["predicate"]
    for name in [name for name in predicate["runDetails"] if name.startswith("mirage_")]:
        del predicate["runDetails"][name]
    ParseDict(predicate, Provenance())
    with pytest.raises(ParseError, match="no field"):
        ParseDict({**predicate, "more": 1}, Provenance())


def test_an_unsigned_run_passes_unless_a_signature_is_asked_for(trusting: Signed) -> None:
    run = trusting.run(MIRAGE_SIGN_KEY="none")["run_id"]
    assert trusting.verify(run=run)["signature"][0] == "unsigned"
    assert trusting.verify("--require-signature", code=10, run=run)["signature"][0] == "missing"
    assert trusting.asked("show", run)["signature"] == "unsigned"
    assert "signed   nobody" in trusting.project.mirage("show", run)


def test_a_changed_payload_is_not_even_read(trusting: Signed) -> None:
    path = trusting.path(trusting.run_id)
    data = path.read_bytes()
    item = json.loads(data)
    payload = base64.b64decode(item["payload"]).replace(b'"threads":1', b'"threads":2')
    item["payload"] = base64.b64encode(payload).decode()
    path.unlink()
    path.write_text(json.dumps(item, separators=(",", ":"), sort_keys=True))
    try:
        assert trusting.verify(code=9) == {
            "signature": ("mismatch", f"it says that {trusting.keyid} signed it, and that key did not")
        }
        assert trusting.asked("show", trusting.run_id)["signature"] == "bad"
        err = trusting.project.refused("reproduce", trusting.run_id, program="mirage", code=10)
        assert "that key did not: it was changed" in err
    finally:
        path.unlink()
        path.write_bytes(data)


def test_a_key_speaks_for_its_builders_only(trusting: Signed) -> None:
    file = trusting.project.folder / ".mirage" / "keys.yaml"
    kept = file.read_text()
    try:
        file.write_text(kept + "    builders: [https://mirage.flow/builders/ci/v1]\n")
        assert trusting.verify(code=9)["signature"] == (
            "mismatch",
            "me may sign for https://mirage.flow/builders/ci/v1, not for https://mirage.flow/builders/local-docker/v1",
        )
        file.write_text(kept + "    builders: [https://mirage.flow/builders/local-docker/v1]\n")
        assert trusting.verify()["signature"][0] == "ok"
    finally:
        file.write_text(kept)


def test_a_key_of_openssh_with_a_passphrase_signs(trusting: Signed, tmp_path: Path) -> None:
    path = tmp_path / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "the word", "-f", str(path)], check=True)
    started = trusting.project.start(
        "--config", "configs/a.yaml", env={**trusting.env, "MIRAGE_SIGN_KEY": str(path)}
    )
    before = trusting.project.run_ids()
    _, err, code = trusting.project.ended(started)
    assert code == 2 and "needs a passphrase" in err and "MIRAGE_SIGN_PASSPHRASE_FILE" in err
    assert trusting.project.run_ids() == before, "nothing was run"
    (tmp_path / "word").write_text("the word\n")
    made = trusting.run(MIRAGE_SIGN_KEY=str(path), MIRAGE_SIGN_PASSPHRASE_FILE=str(tmp_path / "word"))
    file = trusting.project.folder / ".mirage" / "keys.yaml"
    kept = file.read_text()
    try:
        assert trusting.verify(run=made["run_id"], code=10)["signature"][0] == "missing"
        trusting.asked("key", "trust", f"{path}.pub", "--name", "ssh")
        assert trusting.verify(run=made["run_id"])["signature"][1].startswith("signed by ssh")
    finally:
        file.write_text(kept)


def test_a_verdict_is_signed_and_in_the_log(trusting: Signed) -> None:
    found = trusting.asked("reproduce", trusting.run_id)
    (again,) = found["runs"]
    checks = trusting.verify("--require-signature")
    assert checks[f"verdict by {again}"] == ("ok", "IDENTICAL")
    assert checks[f"verdict by {again}: signature"][1].startswith("signed by me")
    assert checks[f"verdict by {again}: chain"][0] == "ok"
    path = trusting.path(trusting.run_id).parent / "verdicts" / f"{again}.json"
    data = path.read_bytes()
    assert found["attestation"] == of_bytes(data)
    item = json.loads(data)
    item["payload"] = base64.b64encode(
        base64.b64decode(item["payload"]).replace(b"IDENTICAL", b"IDENTICAM")
    ).decode()
    path.unlink()
    path.write_text(json.dumps(item, separators=(",", ":"), sort_keys=True))
    try:
        assert trusting.verify(code=9)[f"verdict by {again}: signature"][0] == "mismatch"
    finally:
        path.unlink()
        path.write_bytes(data)


def test_the_log_is_walked_against_a_checkpoint(trusting: Signed, tmp_path: Path) -> None:
    project, file = trusting.project, tmp_path / "checkpoint"
    made = trusting.asked("log", "checkpoint", "-o", str(file))
    assert made["signed"] and made["text"] == file.read_text()
    found = trusting.asked("log", "verify", "--checkpoint", str(file))
    assert (found["verdict"], found["faults"], found["size"]) == ("ok", [], made["size"])
    assert found["size"] == found["records"] and found["signed"]["me"] >= 1
    assert "ok" in project.mirage("log", "verify")
    entry = project.store / "log" / f"{made['size'] - 1:010}.json"
    data = entry.read_bytes()
    run = json.loads(data)["key"].split("/")[2]
    entry.unlink()
    try:
        found = trusting.asked("log", "verify", "--checkpoint", str(file), code=9)
        assert {each["kind"] for each in found["faults"]} == {"truncated"}
        assert {each["run"] for each in found["faults"]} == {run}
        assert f"truncated  entry {made['size'] - 1}" in project.mirage("log", "verify", code=9)
    finally:
        entry.write_bytes(data)
    file.write_text(file.read_text().replace(f"\n{made['size']}\n", f"\n{made['size'] - 1}\n"))
    assert "checkpoint" in {
        each["kind"] for each in trusting.asked("log", "verify", "--checkpoint", str(file), code=9)["faults"]
    }
    unsigned = trusting.asked("log", "checkpoint", "-o", str(file), env={"MIRAGE_SIGN_KEY": "none"})
    assert not unsigned["signed"]
    assert trusting.asked("log", "verify", "--checkpoint", str(file), code=10)["verdict"] == "missing"


@pytest.mark.parametrize("at", ["log/", "runs/"])
def test_kill_9_between_the_record_and_its_place_leaves_one_of_each(trusting: Signed, at: str) -> None:
    """The process stops itself with SIGKILL right before it names the entry, and right after."""
    env = {
        **trusting.env,
        "MIRAGE_TEST_KILL_BEFORE": at,
        "PYTHONPATH": str(Path(__file__).parent / "killing"),
    }
    project = trusting.project
    before = set(project.run_ids())
    size = trusting.asked("log", "verify")["size"]
    _, err, code = project.ended(project.start("--config", "configs/a.yaml", env=env))
    assert code == -signal.SIGKILL, err
    (run,) = set(project.run_ids()) - before
    assert not trusting.path(run).exists()
    trusting.asked("recover")
    assert project.containers() == []
    assert trusting.verify(run=run)["chain"][0] == "ok"
    found = trusting.asked("log", "verify")
    assert (found["verdict"], found["size"]) == ("ok", size + 1)
    assert trusting.payload(run)["predicate"]["runDetails"]["mirage_result"]["recovered"] is (at == "log/")
