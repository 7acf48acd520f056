"""Whom a project believes what a key led to: signed results, tampered stores, and what is checked without belief."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator import canonical
from orchestrator.digest import Digest, hex_of, of_bytes
from orchestrator.errors import ConfigError, ImageError
from orchestrator.image import builder, wheel_bank
from orchestrator.image.base import LOCK_FILE, Bases
from orchestrator.image.library import Library
from orchestrator.locks import lock
from orchestrator.store.folder import FolderStore
from orchestrator.store.ownership import is_mine
from orchestrator.trust import claims, dsse, keys
from orchestrator.trust.claims import Vouching
from orchestrator.trust.keys import PublicKey, Signer
from orchestrator.trust.trusted import Trust, TrustedKey
from orchestrator.upkeep.reach import Reach, raw
from tests.base_tools import own_base
from tests.image_tools import SIX, Index, Notes, engine, provide, wheel
from tests.run_tools import Project, git

KEY = of_bytes(b"a key")
ENTRY: dict[str, Any] = {"digest": of_bytes(b"a layer"), "created": "5", "size": 7}


@pytest.fixture
def volume(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A cache volume of the test's own."""
    name = f"mirage-test-{secrets.token_hex(6)}"
    monkeypatch.setattr(builder, "CACHE_VOLUME", name)
    yield name
    engine().remove_volume(name)


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    return new_signer(tmp_path_factory.mktemp("key") / "key")


def new_signer(path: Path) -> Signer:
    path.write_bytes(keys.new()[0])
    return keys.load_signer(path, lambda _: b"")


def trusting(*signers: Signer) -> Trust:
    return Trust(tuple(TrustedKey(f"ci{at}", each.public) for at, each in enumerate(signers)))


def belief(policy: str, trust: Trust | None = None, signer: Signer | None = None) -> Vouching:
    return Vouching(policy, {}, None, lambda: trust or Trust(), lambda: signer)


def machine(folder: Path, name: str, who: Vouching, *banked: str) -> Library:
    return Library(
        FolderStore.open_at(folder / name), FolderStore.open_at(folder / "bank"), banked or ("layers",), who
    )


def plant(bank: Path, kind: str, key: Digest, entry: dict[str, Any]) -> None:
    """What anybody who writes to a store can do."""
    store = FolderStore.open_at(bank)
    store.create(f"keys/{kind}/{hex_of(key)}/results/{entry['digest'][7:]}.json", canonical.encode(entry))


def test_a_planted_environment_is_built_anew_and_a_signed_one_is_taken(
    tmp_path: Path, volume: str, signer: Signer
) -> None:
    trust = trusting(signer)
    with Index(wheel("plain", {"plain.py": b"x = 1\n"})) as index:
        host = index.handover(tmp_path)
        text = index.lock("plain")
        mine = machine(tmp_path, "one", belief("signed", trust, signer))
        first = provide(text, mine, Notes(), host, network="host")
        evil = FolderStore.open_at(tmp_path / "bank").put(b"a layer of somebody else")
        known = mine.find("env", first.key)
        assert known is not None
        plant(tmp_path / "bank", "env", first.key, {**known, "digest": evil, "created": "0"})

        taken = provide(text, machine(tmp_path, "two", belief("any")), Notes(), host)
        assert taken.layer.digest == evil, "the attack, where everybody is believed"
        assert (taken.origin.place, taken.origin.because) == ("store", "any")

        second = provide(text, machine(tmp_path, "three", belief("signed", trust)), Notes(), host)
        assert second.layer == first.layer and second.cached
        assert second.origin.told() == "taken from the store, signed by ci0"

        notes = Notes()
        stranger = machine(tmp_path, "four", belief("signed"))
        third = provide(text, stranger, notes, host, network="host")
    assert third.layer == first.layer and not third.cached, "built here, and the same"
    (told,) = [note for note in notes.notes if evil in note]
    assert "the store has it unsigned" in told
    (warned,) = [warning for warning in notes.warnings if "drift" in warning]
    assert evil in warned and third.layer.digest in warned
    assert machine(tmp_path, "five", belief("own", trust)).look("env", first.key) is None


def signed_name(bank: Path) -> Path:
    (found,) = bank.glob("keys/*/*/signed/*.json")
    return found


def payload(**changes: Any) -> bytes:
    item: Any = canonical.decode(claims.statement("env", KEY, ENTRY))
    item["predicate"].update(changes)
    return canonical.encode(item)


def sealed(by: Signer, data: bytes, keyid: str = "") -> bytes:
    return dsse.Envelope(data, (dsse.Signature(keyid or by.public.keyid, by.sign(dsse.pae(data))),)).encode()


@pytest.mark.parametrize(
    "made",
    [
        lambda me, other: sealed(other, payload()),
        lambda me, other: sealed(other, payload(), me.public.keyid),
        lambda me, other: sealed(me, payload(kind="image")),
        lambda me, other: sealed(me, payload(key=of_bytes(b"another key"))),
        lambda me, other: sealed(me, payload(result={**ENTRY, "digest": of_bytes(b"x")})),
        lambda me, other: sealed(me, payload(more=1)),
        lambda me, other: sealed(me, payload(builder={"id": "https://example.org/b"})),
        lambda me, other: sealed(me, canonical.encode({"_type": "https://in-toto.io/Statement/v1"})),
        lambda me, other: sealed(me, b"[" * 100_000),
        lambda me, other: payload(),
        lambda me, other: b"",
        lambda me, other: sealed(me, payload())[:-9] + b'AAAA"}]}',
    ],
)
def test_what_is_no_signature_of_a_trusted_key_on_this_very_result_does_not_count(
    made: Callable[[Signer, Signer], bytes], tmp_path: Path, signer: Signer
) -> None:
    store = FolderStore.open_at(tmp_path / "bank")
    other = new_signer(tmp_path / "other")
    store.create(f"keys/env/{hex_of(KEY)}/signed/{ENTRY['digest'][7:]}.0.json", made(signer, other))
    assert machine(tmp_path, "one", belief("signed", trusting(signer))).look("env", KEY) is None


def test_a_result_is_signed_where_it_is_made_and_counts_with_that_key_alone(
    tmp_path: Path, signer: Signer
) -> None:
    assert not machine(tmp_path, "one", belief("signed", None, signer)).keep("env", KEY, b"{}", ENTRY)
    known = machine(tmp_path, "two", belief("signed", trusting(signer))).look("env", KEY)
    assert known is not None and known.entry == ENTRY
    assert (known.origin.because, known.origin.keyid) == ("signed", signer.public.keyid)
    assert machine(tmp_path, "two", belief("signed")).look("env", KEY) is None
    for_ci = Trust((TrustedKey("ci", signer.public, ("https://example.org/other",)),))
    assert machine(tmp_path, "two", belief("signed", for_ci)).look("env", KEY) is None
    (told,) = machine(tmp_path, "two", belief("signed")).refused("env", KEY)
    assert told.reason == f"signed with a key that is not trusted here, {signer.public.keyid}"
    # what is signed is read, and not what lies beside it
    plant(tmp_path / "bank", "env", KEY, {**ENTRY, "digest": of_bytes(b"evil"), "created": "0"})
    assert machine(tmp_path, "two", belief("signed", trusting(signer))).find("env", KEY) == ENTRY
    other = new_signer(tmp_path / "other")
    drift = machine(tmp_path, "three", belief("signed", trusting(signer))).keep(
        "env", KEY, b"{}", {**ENTRY, "digest": of_bytes(b"mine")}
    )
    assert ENTRY["digest"] in drift and f"{of_bytes(b'evil')} (the store has it unsigned)" in drift
    assert trusting(other).check(dsse.unseal(signed_name(tmp_path / "bank").read_bytes())).state == "unknown"


def test_the_users_own_key_counts_without_being_named(tmp_path: Path, signer: Signer) -> None:
    machine(tmp_path, "one", belief("signed", None, signer)).keep("env", KEY, b"{}", ENTRY)

    def own() -> PublicKey | None:
        return signer.public

    mine = Vouching("signed", {}, None, Trust, own=own)
    known = machine(tmp_path, "two", mine).look("env", KEY)
    assert known is not None and known.origin.name == "you"


def test_what_was_built_before_there_was_a_key_is_signed_later(tmp_path: Path, signer: Signer) -> None:
    machine(tmp_path, "one", belief("signed")).keep("env", KEY, b"{}", ENTRY)
    machine(tmp_path, "one", belief("signed", None, signer)).bank_key("env", KEY)
    assert machine(tmp_path, "two", belief("signed", trusting(signer))).find("env", KEY) == ENTRY


def test_what_is_signed_is_needed(tmp_path: Path, signer: Signer) -> None:
    store = FolderStore.open_at(tmp_path / "bank")
    layer = store.put(b"a layer")
    machine(tmp_path, "one", belief("signed", None, signer)).keep("env", KEY, b"{}", ENTRY)
    for path in (tmp_path / "bank" / "keys").glob("env/*/results/*"):
        path.unlink()
    store.create(f"keys/env/{hex_of(KEY)}/signed/damaged.json", b'{"payload":')
    reach = Reach(store, [layer])
    reach.update()
    assert raw(layer) in reach.live


def test_images_are_never_taken_on_trust(tmp_path: Path, signer: Signer) -> None:
    machine(tmp_path, "one", belief("signed", None, signer)).keep("image", KEY, b"{}", ENTRY)
    assert machine(tmp_path, "two", belief("signed", trusting(signer))).look("image", KEY) is None
    assert machine(tmp_path, "two", belief("any")).find("image", KEY) == ENTRY


def test_a_flood_of_signatures_is_looked_at_for_a_bounded_time(tmp_path: Path, signer: Signer) -> None:
    folder = tmp_path / "bank" / "keys" / "env" / hex_of(KEY) / "signed"
    library = machine(tmp_path, "one", belief("signed", trusting(signer)))
    folder.mkdir(parents=True)
    for number in range(300):
        (folder / f"{number:05}.json").write_bytes(b'{"payload":' + b"[" * 1000)
    assert library.look("env", KEY) is None


def test_the_setting_and_the_machine_whichever_believes_less(tmp_path: Path) -> None:
    def policy(setting: str, here: str | None, folder: Path | None = None) -> str:
        environment = {} if here is None else {claims.VARIABLE: here}
        return Vouching(setting, environment, folder, Trust).policy

    mine = tmp_path / "mine"
    mine.mkdir(mode=0o700)
    assert policy("auto", None, mine) == "any"
    assert policy("auto", None) == "signed"
    assert policy("any", None) == "any"
    assert policy("any", "signed") == policy("signed", "any") == "signed"
    assert policy("own", "signed") == policy("auto", "own", mine) == "own"
    with pytest.raises(ConfigError, match="nobody"):
        policy("any", "nobody")


def test_a_folder_that_others_can_write_to_is_not_mine(tmp_path: Path) -> None:
    store = tmp_path / "store"
    (store / "keys").mkdir(parents=True)
    assert is_mine(store)
    for folder, mode in ((store, 0o777), (store / "keys", 0o777), (tmp_path, 0o777)):
        before = folder.stat().st_mode
        folder.chmod(mode)
        assert not is_mine(store), folder
        folder.chmod(before)
    tmp_path.chmod(0o1777)
    assert is_mine(store)
    os.chown(store, 10001, -1)
    assert not is_mine(store)
    os.chown(store, os.geteuid(), 10001)
    store.chmod(0o770)
    assert not is_mine(store)
    assert not is_mine(tmp_path / "absent")


def test_a_pinned_base_is_taken_from_anybody_and_only_as_it_is_pinned(tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / ".mirage").mkdir(parents=True)
    base = own_base(tmp_path / "bank", project)
    pinned = (project / LOCK_FILE).read_bytes()
    (path,) = (tmp_path / "bank" / "keys" / "base").glob("*/results/*.json")
    entry = json.loads(path.read_bytes())
    lies: dict[str, Any] = {
        "env": ["LD_PRELOAD=/evil.so"],
        "packages": [],
        "name": "evil",
        "source": "recipe:evil@x",
    }
    lies["python"] = {**entry["python"], "executable": "/bin/sh", "version": "2.7.18"}
    path.chmod(0o644)
    path.write_bytes(canonical.encode({**entry, **lies}))

    def resolve(name: str, policy: str) -> Any:
        bases = Bases(engine(), machine(tmp_path, name, belief(policy), "base"), project, Notes())
        return bases.resolve("python-3.11", bases.platform())

    assert replace(resolve("one", "signed"), packages=base.packages) == base
    assert resolve("one", "signed").packages == base.packages, "found out anew, from its layer"

    other = of_bytes(b"another image")
    plant(tmp_path / "bank", "base", base.digest, {**entry, "digest": other, "created": "0"})
    with pytest.raises(ImageError, match="that of another one"):
        resolve("two", "any")
    assert resolve("two", "signed").digest == base.digest
    (tmp_path / "bank/keys/base" / hex_of(base.digest) / "results" / f"{other[7:]}.json").unlink()
    # the digest is said to be the pinned one, and the image is another
    changed = {**entry, "config": entry["config"].replace("python-3.11", "python-3.66"), "created": "0"}
    image: Any = canonical.decode(entry["manifest"].encode())
    image["config"]["digest"] = of_bytes(changed["config"].encode())
    changed["manifest"] = canonical.encode(image).decode()
    path.write_bytes(canonical.encode(changed))
    with pytest.raises(ImageError, match="pins"):
        resolve("three", "any")
    assert (project / LOCK_FILE).read_bytes() == pinned


def test_a_kept_wheel_counts_by_the_hash_of_the_lock_and_not_by_the_stores(tmp_path: Path) -> None:
    name, good = wheel("plain", {"plain.py": b"x = 1\n"})
    _, evil = wheel("plain", {"plain.py": b"import os\n"})
    store = FolderStore.open_at(tmp_path / "bank")
    locked = lock.parse("requirements.txt", f"plain==1.0 --hash={of_bytes(good)}\n".encode())
    loose = lock.parse("requirements.txt", b"plain==1.0\n")

    def listed(data: bytes, **more: Any) -> None:
        digest = store.put(data)
        each = {"package": "plain", "file": name, "digest": digest, "hashes": [digest], "source": [], **more}
        folder = tmp_path / "bank" / "keys" / "wheels" / hex_of(KEY)
        for old in folder.glob("results/*"):
            old.unlink()
        plant(
            tmp_path / "bank", "wheels", KEY, {"digest": store.put(canonical.encode([each])), "created": "1"}
        )

    def found(policy: str, text: Any) -> bool:
        return wheel_bank.find(machine(tmp_path, "one", belief(policy)), KEY, text) is not None

    listed(good)
    assert found("any", locked) and found("signed", locked) and found("own", locked)
    assert found("any", loose) and not found("signed", loose)
    listed(evil)
    assert not found("any", locked) and not found("signed", locked)
    listed(evil, hashes=[of_bytes(good)])
    assert not found("any", locked)
    listed(evil, source=["sha256:" + "0" * 64])  # said to have been built: then it must be believed
    assert not found("signed", locked)
    listed(good, file="../../../opt/venv/bin/python")
    assert not found("any", locked)
    listed(good, package="other")
    assert not found("any", locked)


def test_a_run_says_where_its_packages_came_from_and_who_is_believed(tmp_path: Path, signer: Signer) -> None:
    bank = tmp_path / "shared"
    bank.mkdir(mode=0o777)
    bank.chmod(0o777)  # others write to it
    settings = f"project: probe\nworkflow: workflows.main\nstore: {bank}\n"
    project = Project(
        tmp_path / "repository",
        "import six",
        files={"requirements.txt": SIX.decode(), ".mirage/project.yaml": settings},
    )
    own_base(tmp_path / "one", project.folder)
    key = tmp_path / "own.pem"
    pem, public = keys.new()
    key.write_bytes(pem)
    Path(f"{key}.pub").write_text(public.line)
    project.commit()
    one = {"MIRAGE_CACHE": str(tmp_path / "one"), "MIRAGE_SIGN_KEY": str(key)}
    first = project.run(env=one)["run_id"]
    assert "packages built here" in project.mirage("show", first, env=one)

    project.write(".mirage/keys.yaml", f"keys:\n  - name: ci\n    key: {public.line}\n")
    project.commit()
    git(tmp_path, "clone", "-q", str(project.root), "clone")
    clone = Project.__new__(Project)
    clone.root = clone.folder = tmp_path / "clone"
    two = {"MIRAGE_CACHE": str(tmp_path / "two"), "MIRAGE_SIGN_KEY": "none"}
    told = clone.mirage("explain", "--config", "configs/a.yaml", env=two)
    assert "signed by ci" in told
    second = clone.run(env=two)["run_id"]
    assert "packages taken from the store, signed by ci" in clone.mirage("show", second, env=two)
    record: Any = json.loads(
        (bank / "runs" / second[:4])
        .parent.joinpath(f"{second[:4]}-{second[4:6]}", second, "record.json")
        .read_bytes()
    )
    origin = record["predicate"]["buildDefinition"]["internalParameters"]["environment"]
    assert origin == {"from": "store", "because": "signed", "keyid": public.keyid}
    assert "in this store signed by ci" in clone.mirage("verify", second, env=two)
