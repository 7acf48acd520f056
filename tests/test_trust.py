"""Who signed a record, and its place in the log: DSSE by independent implementations, keys, chain, checkpoints."""

from __future__ import annotations

import base64
import json
import multiprocessing
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.dsse import Envelope as TheirEnvelope
from securesystemslib.signer import SSlibKey  # type: ignore[attr-defined]  # named in __init__, not in __all__

from orchestrator import canonical
from orchestrator.digest import of_bytes
from orchestrator.errors import ConfigError
from orchestrator.reference import RunId, record_key
from orchestrator.store.folder import FolderStore
from orchestrator.trust import checkpoint, chosen, dsse, keys, trusted
from orchestrator.trust.chain import Head, Log, entry_key, log_id, origin_of
from orchestrator.trust.dsse import Envelope, Signature, pae
from orchestrator.trust.keys import PublicKey, Signer
from orchestrator.trust.notary import Notary
from orchestrator.trust.trusted import Trust, TrustedKey
from orchestrator.trust.walk import walk
from tests.figures import Counted
from tests.record_tools import run_id
from tests.seal_sweep import KILLED, REFUSED_BY_DISK, SealSweep
from tests.trust_tools import statement

ROOT = Path(__file__).resolve().parent.parent
PAYLOAD = b'{"_type":"https://in-toto.io/Statement/v1"}'
WORKFLOW = """
from mirage import artifact, flow

@flow
def main() -> None:
    artifact.File.save("x", name="made")

if __name__ == "__main__":
    main()
"""


def no_word(path: Path) -> bytes:
    raise AssertionError(f"no passphrase is asked for {path}")


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A private key in a file, its public half beside it."""
    path = tmp_path_factory.mktemp("keys") / "key.pem"
    pem, public = keys.new()
    path.write_bytes(pem)
    Path(f"{path}.pub").write_text(f"{public.line} somebody@somewhere\n")
    return path


@pytest.fixture(scope="session")
def signer(key: Path) -> Signer:
    return keys.load_signer(key, no_word)


def signed(signer: Signer, payload: bytes = PAYLOAD) -> Envelope:
    return Envelope(payload, (Signature(signer.public.keyid, signer.sign(pae(payload))),))


def trust_in(*named: tuple[str, PublicKey]) -> Trust:
    return Trust(tuple(TrustedKey(name, public) for name, public in named))


# Envelopes


def test_the_bytes_that_are_signed_are_those_of_the_protocol() -> None:
    """secure-systems-lab/dsse, protocol.md: its own example."""
    assert pae(b"hello world", "http://example.com/HelloWorld") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_an_envelope_comes_back_and_an_unsigned_one_is_the_statement_itself(signer: Signer) -> None:
    envelope = signed(signer)
    assert dsse.unseal(envelope.encode()) == envelope
    assert dsse.payload_of(envelope.encode()) == PAYLOAD == dsse.payload_of(PAYLOAD)
    assert Envelope(PAYLOAD).encode() == PAYLOAD and dsse.unseal(PAYLOAD) == Envelope(PAYLOAD)


@pytest.mark.parametrize(
    "change",
    [
        lambda e: e.update(payloadType="application/json"),
        lambda e: e.update(quite=1),
        lambda e: e.update(signatures=[]),
        lambda e: e["signatures"][0].update(sig=e["signatures"][0]["sig"] + "="),
        lambda e: e["signatures"][0].pop("keyid"),
        lambda e: e["signatures"][0].update(other=""),
        lambda e: e.update(payload=e["payload"][:-1] + "!"),
        lambda e: e.update(payload=[]),
        lambda e: e.update(signatures={}),
    ],
)
def test_an_envelope_has_one_spelling(signer: Signer, change: Callable[[Any], Any]) -> None:
    item = json.loads(signed(signer).encode())
    change(item)
    with pytest.raises(ValueError, match=r"envelope|payload"):
        dsse.unseal(canonical.encode(item))
    with pytest.raises(ValueError, match="as Mirage writes"):
        dsse.unseal(signed(signer).encode().replace(b'","payloadType', b'", "payloadType'))


def test_openssl_accepts_what_we_sign_and_nothing_else(signer: Signer, tmp_path: Path) -> None:
    def accepts(data: bytes, sig: bytes) -> bool:
        (tmp_path / "pub.pem").write_bytes(signer.public.pem())
        (tmp_path / "data").write_bytes(data)
        (tmp_path / "sig").write_bytes(sig)
        words = [
            "openssl",
            "pkeyutl",
            "-verify",
            "-rawin",
            "-pubin",
            "-inkey",
            "pub.pem",
            "-in",
            "data",
            "-sigfile",
            "sig",
        ]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
        assert (done.returncode == 0) is ("Signature Verified Successfully" in done.stdout)
        return done.returncode == 0

    item = json.loads(signed(signer).encode())
    payload, sig = (base64.b64decode(text) for text in (item["payload"], item["signatures"][0]["sig"]))
    data = b"DSSEv1 %d %s %d %s" % (
        len(item["payloadType"]),
        item["payloadType"].encode(),
        len(payload),
        payload,
    )
    assert accepts(data, sig)
    assert not accepts(data[:-1] + bytes([data[-1] ^ 1]), sig)
    assert not accepts(data, sig[:-1] + bytes([sig[-1] ^ 1]))
    assert not accepts(payload, sig), "a signature over the payload alone is another one"


def test_securesystemslib_accepts_what_we_sign_and_we_what_it_signs(signer: Signer, key: Path) -> None:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # as above

    raw = load_pem_private_key(key.read_bytes(), None)
    theirs = CryptoSigner(raw)
    known = SSlibKey(signer.public.keyid, "ed25519", "ed25519", {"public": signer.public.raw.hex()})
    envelope = TheirEnvelope.from_dict(json.loads(signed(signer).encode()))
    assert list(envelope.verify([known], 1)) == [signer.public.keyid]
    envelope.payload += b" "
    with pytest.raises(Exception, match=r"(?i)verif|threshold"):
        envelope.verify([known], 1)
    made = TheirEnvelope(PAYLOAD, dsse.PAYLOAD_TYPE, {})
    made.sign(theirs)
    (sig,) = made.signatures.values()
    read = Envelope(PAYLOAD, (Signature(sig.keyid, bytes.fromhex(sig.signature)),))
    assert trust_in(("own", signer.public)).check(read).state == "good", "whatever its keyid says"


# Keys and trust


def test_a_signature_is_judged_by_the_key_and_not_by_its_name(signer: Signer) -> None:
    other = keys.new()[1]
    envelope = signed(signer)
    both = trust_in(("other", other), ("own", signer.public))
    found = both.check(envelope)
    assert found.state == "good" and found.by is not None and found.by.name == "own"
    renamed = Envelope(PAYLOAD, (Signature(other.keyid, envelope.signatures[0].sig),))
    assert both.check(renamed).by == found.by, "keyid is a hint"
    assert trust_in(("other", other)).check(envelope).state == "unknown"
    assert trust_in(("other", other)).check(renamed).state == "bad"
    assert both.check(Envelope(PAYLOAD + b" ", envelope.signatures)).state == "bad"
    assert both.check(Envelope(PAYLOAD)).state == "unsigned"
    assert Trust().check(envelope).state == "unknown"


@pytest.mark.parametrize("word", ["", "a word"])
@pytest.mark.parametrize("pem", [False, True])
def test_openssh_and_openssl_make_keys_that_sign(tmp_path: Path, word: str, pem: bool) -> None:
    path = tmp_path / "id"
    if pem:
        cipher = ["-aes-256-cbc", "-pass", f"pass:{word}"] if word else []
        subprocess.run(
            ["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(path), *cipher], check=True
        )
        public = ["openssl", "pkey", "-in", str(path), "-pubout", "-out", f"{path}.pub"]
        subprocess.run([*public, *(["-passin", f"pass:{word}"] if word else [])], check=True)
    else:
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", word, "-f", path, "-C", "a b"], check=True)
    made = keys.load_signer(path, (lambda _: word.encode()) if word else no_word)
    public_key = keys.read_public(Path(f"{path}.pub"))
    assert made.public == public_key and public_key.verifies(made.sign(b"x"), b"x")
    assert not public_key.verifies(made.sign(b"x"), b"y")
    if not pem:
        told = subprocess.run(
            ["ssh-keygen", "-lf", f"{path}.pub"], capture_output=True, text=True, check=True
        )
        assert public_key.keyid in told.stdout
        assert keys.parse_line(public_key.line) == public_key
    if word:
        with pytest.raises(ConfigError, match="does not open"):
            keys.load_signer(path, lambda _: b"another")


def test_what_is_no_key_of_ours_is_refused_with_a_reason(tmp_path: Path, key: Path) -> None:
    rsa = tmp_path / "rsa"
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", rsa], check=True)
    (tmp_path / "text").write_text("nothing\n")
    (tmp_path / "torn").write_bytes(key.read_bytes()[:60])
    for path, words in (
        (rsa, "another kind"),
        (tmp_path / "text", "no private key"),
        (tmp_path / "torn", "cannot be read as a private key"),
        (Path(f"{key}.pub"), "no private key"),
        (tmp_path / "absent", "No such file"),
    ):
        with pytest.raises(ConfigError, match=words):
            keys.load_signer(path, no_word)
    for path, words in (
        (key, "is a private key"),
        (tmp_path / "rsa.pub", "not an ed25519"),
        (tmp_path / "text", "not an"),
    ):
        with pytest.raises(ConfigError, match=words):
            keys.read_public(path)


def test_a_passphrase_comes_from_a_file_or_the_environment(tmp_path: Path) -> None:
    (tmp_path / "word").write_text("from a file\n")
    assert (
        chosen.passphrase(tmp_path, {"MIRAGE_SIGN_PASSPHRASE_FILE": str(tmp_path / "word")}) == b"from a file"
    )
    assert chosen.passphrase(tmp_path, {"MIRAGE_SIGN_PASSPHRASE": "é"}) == "é".encode()
    with pytest.raises(ConfigError, match="cannot be read"):
        chosen.passphrase(tmp_path, {"MIRAGE_SIGN_PASSPHRASE_FILE": str(tmp_path / "absent")})


def test_which_key_signs(tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / ".git").mkdir(parents=True)
    (project / "deep").mkdir()
    env = {"HOME": str(tmp_path / "home")}
    own = tmp_path / "home" / ".config" / "mirage" / "sign.pem"
    assert chosen.chosen("auto", project, env) is None
    own.parent.mkdir(parents=True)
    own.write_text("")
    assert (
        chosen.chosen("auto", project, env)
        == own
        == chosen.own_key({**env, "XDG_CONFIG_HOME": str(own.parents[1])})
    )
    assert chosen.chosen("none", project, env) is None
    assert chosen.chosen("auto", project, {**env, "MIRAGE_SIGN_KEY": "none"}) is None
    assert chosen.chosen("none", project, {**env, "MIRAGE_SIGN_KEY": "/k"}) == Path("/k")
    for inside in ("key.pem", "deep/key.pem", str(project / "k")):
        with pytest.raises(ConfigError, match="inside of the repository"):
            chosen.chosen(inside, project / "deep", env)
    (tmp_path / "link").symlink_to(project / "deep")
    with pytest.raises(ConfigError, match="inside of the repository"):
        chosen.chosen(str(tmp_path / "link" / "k"), project, env)


def test_the_list_of_trusted_keys_keeps_what_people_wrote(tmp_path: Path) -> None:
    (tmp_path / ".mirage").mkdir()
    file = tmp_path / trusted.TRUST_FILE
    one, two, three = (keys.new()[1] for _ in range(3))
    builder = "https://mirage.flow/builders/local-docker/v1"
    trusted.add(tmp_path, trusted.trusted("one", one, []))
    file.write_text(file.read_text() + "  # the next is CI\n")
    trusted.add(tmp_path, trusted.trusted("ci", two, [builder]))
    assert "# the next is CI" in file.read_text()
    assert trusted.load(tmp_path).keys == (TrustedKey("one", one), TrustedKey("ci", two, (builder,)))
    assert trusted.load(tmp_path).keys[1].allows(builder) and not trusted.load(tmp_path).keys[1].allows(
        "https://x/y"
    )
    file.write_text(json.dumps({"keys": [{"name": "one", "key": one.line}]}))
    assert trusted.add(tmp_path, trusted.trusted("three", three, [])) == trusted.load(tmp_path)
    for name, public, words in (("four", one, "trusted already"), ("one", two, "another key is named")):
        with pytest.raises(ConfigError, match=words):
            trusted.add(tmp_path, trusted.trusted(name, public, []))
    for text, words in (
        ("keys: 1\n", "expected one list"),
        ("keys:\n  - name: a\n", "keys.yaml:2: expected"),
        (f"keys:\n  - {{name: a b, key: {one.line}}}\n", "cannot be named"),
        ("keys:\n  - {name: a, key: ssh-rsa AAAA}\n", "keys.yaml:2: not an ed25519"),
        (f"keys:\n  - {{name: a, key: {one.line}}}\n  - {{name: b, key: {one.line}}}\n", "second time"),
        (f"keys:\n  - {{name: a, key: {one.line}, builders: [x]}}\n", "no builder id"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=words):
            trusted.load(tmp_path)


# The log


def record_of(number: int) -> tuple[RunId, str]:
    run = run_id(number)
    return run, record_key(run)


def sealed(
    store: FolderStore, number: int, memory: Path | None = None, signer: Signer | None = None
) -> RunId:
    run, key = record_of(number)
    notary = Notary(store, lambda: signer, memory)
    assert store.read(key) is None and notary.seal(key, lambda link: statement(run, link)) == store.read(key)
    return run


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore.open_at(tmp_path / "store")


def faults(
    store: FolderStore, trust: Trust | None = None, **options: Any
) -> set[tuple[str, int | None, str | None]]:
    return {(each.kind, each.seq, each.run_id) for each in walk(store, trust or Trust(), **options).faults}


def test_every_record_follows_the_one_before(store: FolderStore, tmp_path: Path) -> None:
    runs = [sealed(store, number, tmp_path / "memory" if number % 2 else None) for number in range(20)]
    found = walk(store, Trust())
    assert (found.size, found.records, found.unchained, found.faults) == (20, 20, 0, [])
    assert found.signed == {"unsigned": 20}
    entries = [json.loads(store.read(entry_key(n)) or b"") for n in range(20)]
    assert [each["key"].split("/")[2] for each in entries] == runs
    assert [each["prev"] for each in entries] == [
        None,
        *(of_bytes(store.read(entry_key(n)) or b"") for n in range(19)),
    ]
    assert {each["log"] for each in entries} == {log_id(store)}


@pytest.mark.parametrize("size", [0, 1, 2, 3, 7, 8, 9, 33])
def test_the_head_is_found_from_anywhere(store: FolderStore, tmp_path: Path, size: int) -> None:
    for number in range(size):
        sealed(store, number)
    heads = [Log(store, None).head()]
    for known in range(size):
        memory = tmp_path / f"memory-{known}"
        digest = of_bytes(store.read(entry_key(known)) or b"")
        memory.write_text(json.dumps({"log": log_id(store), "seq": known, "digest": digest}))
        heads.append(Log(store, memory).head())
    for damaged in ("", "[]", "{}", json.dumps({"log": "another", "seq": 3, "digest": of_bytes(b"")})):
        (tmp_path / "damaged").write_text(damaged)
        heads.append(Log(store, tmp_path / "damaged").head())
    last = of_bytes(store.read(entry_key(size - 1)) or b"") if size else None
    assert set(heads) == {Head(size - 1, last)}


def append_many(folder: str, process: int, count: int, memory: str) -> None:
    store = FolderStore.open_at(Path(folder))
    for number in range(count):
        sealed(store, process * 1000 + number, Path(memory) if process % 2 else None)


def test_sixteen_processes_append_without_a_gap_or_a_fork(store: FolderStore, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    made = [
        context.Process(target=append_many, args=(store.location, n, 8, str(tmp_path / "memory")))
        for n in range(16)
    ]
    for each in made:
        each.start()
    for each in made:
        each.join(120)
    assert [each.exitcode for each in made] == [0] * 16
    found = walk(store, Trust())
    assert (found.size, found.records, found.faults) == (128, 128, [])


class Died(Exception):
    pass


def dying(store: FolderStore, at: str, number: int = 0) -> tuple[RunId, list[tuple[int, Any]]]:
    """Seal a run with a process that dies right before it creates ``at``; gives what its journal had."""
    run, key = record_of(number)
    tried: list[tuple[int, Any]] = []
    create = store.create

    def dies(name: str, data: bytes) -> bool:
        if name.startswith(at):
            raise Died
        return create(name, data)

    store.create = dies  # type: ignore[method-assign, assignment]
    with pytest.raises(Died):
        Notary(store).seal(
            key, lambda link: statement(run, link), lambda link, digest: tried.append((link.seq, digest))
        )
    del store.create
    return run, tried


def test_who_dies_before_the_entry_has_sealed_nothing(store: FolderStore) -> None:
    run, tried = dying(store, "log/")
    assert Notary(store).finish(record_of(0)[1], tried) is None
    assert sealed(store, 0) == run
    assert faults(store) == set() and walk(store, Trust()).size == 1


def test_who_dies_after_the_entry_has_sealed_and_is_completed(store: FolderStore) -> None:
    run, tried = dying(store, "runs/")
    assert faults(store) == {("unsealed", 0, run)}
    made = Notary(store).finish(record_of(0)[1], tried)
    assert made is not None and store.read(record_of(0)[1]) == made
    assert faults(store) == set() and walk(store, Trust()).size == 1


def test_the_next_writer_completes_what_a_lost_machine_had_sealed(store: FolderStore) -> None:
    lost, _ = dying(store, "runs/")
    sealed(store, 1)
    found = walk(store, Trust())
    assert (found.faults, found.size, found.records) == ([], 2, 2)
    assert (store.read(record_key(lost)) or b"") and json.loads(store.read(entry_key(0)) or b"")[
        "prev"
    ] is None


def test_a_seal_killed_at_its_names_and_syncs_is_sealed_once(tmp_path: Path, counted: Counted) -> None:
    swept = SealSweep(tmp_path, counted(KILLED)).over(("link", "rename", "fsync"), "signal=KILL")
    assert swept.killed == swept.faults > 8


@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
def test_a_seal_that_a_disk_refuses_is_sealed_once(tmp_path: Path, counted: Counted, error: str) -> None:
    swept = SealSweep(tmp_path, counted(REFUSED_BY_DISK)).over(("link", "fsync"), f"error={error}")
    assert swept.refused > 3 and swept.refused + swept.survived == swept.faults


@pytest.fixture
def log(store: FolderStore, signer: Signer, tmp_path: Path) -> tuple[FolderStore, list[RunId]]:
    """A store with six signed records."""
    return store, [sealed(store, number, tmp_path / "memory", signer) for number in range(6)]


def place(store: FolderStore, key: str) -> Path:
    path = Path(store.location) / key
    path.chmod(0o644)
    return path


Logged = tuple[FolderStore, list[RunId]]


def test_a_checkpoint_tells_what_the_log_was(log: Logged, signer: Signer, tmp_path: Path) -> None:
    store, _runs = log
    head = Log(store, None).head()
    made = checkpoint.make(origin_of(store), head, signer)
    assert checkpoint.parse(made.text()) == made
    believed = trust_in(("own", signer.public))
    assert made.check(believed).state == "good" and made.check(Trust()).state == "unknown"
    lines = made.text().split("\n")
    assert lines[0] == origin_of(store) and lines[1] == "6" and lines[3] == ""
    assert base64.b64decode(lines[2]).hex() == str(head.digest).removeprefix("sha256:")
    assert re.fullmatch(rf"\u2014 {re.escape(origin_of(store))} [A-Za-z0-9+/=]+", lines[4])
    raised = checkpoint.parse(made.text().replace("\n6\n", "\n7\n"))
    assert raised.check(believed).state == "bad"
    assert checkpoint.make(origin_of(store), head, None).check(believed).state == "unsigned"
    for text in ("", "a\n1\n\n", made.text() + "x", made.text().replace("\n6\n", "\n06\n"), made.text()[:-3]):
        with pytest.raises(ConfigError, match="no checkpoint"):
            checkpoint.parse(text)
    sealed(store, 6)
    assert faults(store, believed, checkpoint=made) == set(), "what was added since is no fault"


def test_a_truncated_log_is_found(log: Logged, tmp_path: Path) -> None:
    store, runs = log
    seen = checkpoint.make(origin_of(store), Log(store, None).head(), None)
    remembered = Log(store, tmp_path / "memory").remembered()
    place(store, entry_key(5)).unlink()
    assert faults(store) == {("truncated", 5, runs[5])}, "its record tells"
    place(store, record_key(runs[5])).unlink()
    assert faults(store) == set(), "a whole end that is gone is told by an earlier look only"
    assert faults(store, checkpoint=seen) == {("truncated", 5, None)}
    assert faults(store, remembered=remembered) == {("truncated", 5, None)}


def test_a_removed_entry_and_a_removed_record_are_found(log: Logged) -> None:
    store, runs = log
    entry, record = place(store, entry_key(2)), place(store, record_key(runs[3]))
    entry.unlink()
    assert faults(store) == {("removed", 2, runs[2])}
    record.unlink()
    assert faults(store) == {("removed", 2, runs[2]), ("removed", 3, runs[3])}


def test_reordered_and_altered_entries_are_found(log: Logged) -> None:
    store, runs = log
    two, three = (place(store, entry_key(n)) for n in (2, 3))
    before = two.read_bytes(), three.read_bytes()
    two.write_bytes(before[1])
    three.write_bytes(before[0])
    assert {("reordered", 2, runs[3]), ("reordered", 3, runs[2])} <= faults(store)
    three.write_bytes(before[1])
    two.write_bytes(before[0].replace(b'"digest":"sha256:', b'"digest":"sha256:0')[:-2] + b'"}')
    assert {kind for kind, _, _ in faults(store)} >= {"altered", "forked"}
    two.write_bytes(before[0] + b" ")
    assert ("altered", 2, runs[2]) in faults(store)


def test_an_altered_record_is_found_signed_or_not(log: Logged, signer: Signer) -> None:
    store, runs = log
    believed = trust_in(("own", signer.public))
    path = place(store, record_key(runs[1]))
    old = dsse.unseal(path.read_bytes())
    item = json.loads(old.payload)
    item["predicate"]["runDetails"]["run"] = "another"
    path.write_bytes(Envelope(canonical.encode(item), old.signatures).encode())
    assert faults(store, believed) == {("signature", None, runs[1]), ("altered", 1, runs[1])}
    path.write_bytes(signed(signer, canonical.encode(item)).encode())
    assert faults(store, believed) == {("altered", 1, runs[1])}, "the holder of the key is found out too"
    path.write_bytes(b'{"payload":"')
    assert ("altered", None, runs[1]) in faults(store, believed)


def test_a_log_written_anew_by_the_key_holder_is_told_by_an_earlier_checkpoint(
    log: Logged, signer: Signer, tmp_path: Path
) -> None:
    """All of it rewritten without run 2, with links, records and signatures that fit."""
    store, runs = log
    seen = checkpoint.make(origin_of(store), Log(store, None).head(), signer)
    for run in runs:
        place(store, record_key(run)).unlink()
    for entry in (Path(store.location) / "log").iterdir():
        entry.unlink()
    for number in (0, 1, 3, 4, 5, 7):
        sealed(store, number, None, signer)
    believed = trust_in(("own", signer.public))
    assert faults(store, believed) == set(), "nothing in the store itself can tell"
    assert {kind for kind, _, _ in faults(store, believed, checkpoint=seen)} == {"forked"}
    heard: list[str] = []

    class Reporter:
        def warn(self, text: str) -> None:
            heard.append(text)

    Log(store, tmp_path / "memory", Reporter()).head()  # type: ignore[arg-type]
    assert "entry 5 of the store's log, which this project saw before, is another one now" in heard[0]


def test_two_copies_of_a_store_that_went_on_apart_are_a_fork(log: Logged, tmp_path: Path) -> None:
    store, _runs = log
    shutil.copytree(store.location, tmp_path / "copy")
    copy = FolderStore(tmp_path / "copy")
    sealed(store, 10)
    there = sealed(copy, 11)
    shutil.copytree(copy.location, store.location, dirs_exist_ok=True, ignore=lambda f, n: {"log"} & set(n))
    assert faults(store) == {("forked", 6, there)}, "records of both, and one log"
    assert {
        kind
        for kind, _, _ in faults(
            copy, checkpoint=checkpoint.make(origin_of(store), Log(store, None).head(), None)
        )
    } == {"forked"}


def test_an_older_record_without_a_place_is_counted_and_no_fault(store: FolderStore) -> None:
    _run, key = record_of(0)
    store.create(key, canonical.encode({"_type": "x", "predicate": {"runDetails": {}}}))
    sealed(store, 1)
    found = walk(store, Trust())
    assert (found.unchained, found.size, found.faults) == (1, 1, [])
