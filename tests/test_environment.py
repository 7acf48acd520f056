"""Environments, built by the real engine: the same layer each time, without a trace of this machine in it."""

from __future__ import annotations

import io
import json
import os
import secrets
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests
from docker.api import APIClient
from docker.errors import APIError

from orchestrator.canonical import Json
from orchestrator.digest import Digest, of_bytes
from orchestrator.engine_values import ContainerSpec
from orchestrator.errors import EngineError, ImageError, LockError
from orchestrator.image import builder, environment, loading, removals
from orchestrator.image.environment import Environment
from orchestrator.image.handover import Handover
from orchestrator.image.library import Library
from orchestrator.locks.lock import parse
from tests.image_tools import (
    PACKAGING,
    SIX,
    Index,
    Notes,
    engine,
    forms,
    library,
    provide,
    python_base,
    read_all,
    run_in_image,
    wheel,
)

ROOT = Path(__file__).resolve().parent.parent
SITE = "opt/venv/lib/python3.11/site-packages"


@pytest.fixture(scope="module", autouse=True)
def base() -> None:
    """Built before any test is timed."""
    python_base()


@pytest.fixture
def volume(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A cache volume of the test's own."""
    name = f"mirage-test-{secrets.token_hex(6)}"
    monkeypatch.setattr(builder, "CACHE_VOLUME", name)
    yield name
    engine().remove_volume(name)


@pytest.fixture
def place(tmp_path: Path) -> Library:
    return library(tmp_path)


@pytest.fixture
def image_of() -> Iterator[Callable[[Library, Environment], str]]:
    """Gives the tag of an environment's image in the engine."""
    tags: list[str] = []

    def load(place: Library, made: Environment) -> str:
        parent = environment.parent(python_base(), made)
        tags.append(parent.tag)
        base = loading.Parent(python_base().tag, python_base().image)
        loading.ensure(engine(), parent.image, parent.tag, (base,), place.read)
        return parent.tag

    yield load
    for tag in tags:
        engine().remove_image(tag)


def files_of(place: Library, digest: Digest) -> dict[str, bytes]:
    """A layer's files and, for links, their targets."""
    found: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(read_all(place, digest))) as archive:
        for member in archive:
            body = archive.extractfile(member) if member.isreg() else None
            found[member.name] = body.read() if body else os.fsencode(member.linkname)
    return found


def installed(place: Library, made: Environment) -> dict[str, dict[str, object]]:
    return {package["name"]: package for package in json.loads(read_all(place, made.installed))}


def builders(place: Library) -> list[str]:
    """The builders of one library."""
    return [
        found.id
        for found in engine().find(removals.BUILDER_LABEL)
        if ("flow.mirage.builder-owner", place.cache_id) in found.labels
    ]


def test_two_builds_with_different_caches_give_the_same_layer(
    place: Library, volume: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = Notes()
    first = provide(SIX + PACKAGING, place, notes)
    monkeypatch.setattr(builder, "CACHE_VOLUME", volume + "-other")
    try:
        second = provide(SIX + PACKAGING, place, notes, fresh=True)
    finally:
        engine().remove_volume(volume + "-other")
    assert not first.cached
    assert not second.cached
    assert first.layer == second.layer
    assert first.key == second.key == of_bytes(first.key_manifest)
    assert notes.warnings == []
    assert notes.stages[0] == "environment: installing 2 packages from requirements.txt"
    assert builders(place) == []


def test_what_is_known_is_not_built_and_nothing_is_asked_of_the_host(place: Library) -> None:
    def never() -> Handover:
        raise AssertionError("asked")

    made = provide(SIX, place, Notes())
    notes = Notes()
    again = provide(b"# the same\n" + SIX, place, notes, never)
    assert again == replace(made, cached=True, origin=again.origin)
    assert again.origin.told() == "built on this machine before"
    assert notes.stages == []


def test_the_environment_works_in_a_hardened_container_from_its_compiled_modules(
    place: Library, image_of: Callable[[Library, Environment], str]
) -> None:
    made = provide(SIX + PACKAGING, place, Notes())
    program = (
        "import os, sys, six, packaging.version as v; print(sys.executable, sys.prefix, six.__version__,"
        " v.Version('1.0'), os.path.realpath(sys.executable), os.path.exists(v.__cached__))"
    )
    said = run_in_image(image_of(place, made), "/opt/venv/bin/python", "-c", program).split()
    real = os.path.realpath("/usr/bin/python3.11")
    assert said == ["/opt/venv/bin/python", "/opt/venv", "1.17.0", "1.0", real, "True"]


def test_compiled_modules_are_valid_by_hash_without_a_look_at_the_source(place: Library) -> None:
    found = files_of(place, provide(SIX + PACKAGING, place, Notes()).layer.digest)
    compiled = {name: data for name, data in found.items() if name.endswith(".pyc")}
    assert {int.from_bytes(data[4:8], "little") for data in compiled.values()} == {1}  # PEP 552
    modules = {name for name in found if name.endswith(".py")}
    assert len(compiled) == len(modules) > 15


def test_the_layer_holds_the_environment_and_nothing_that_changes_by_itself(place: Library) -> None:
    found = files_of(place, provide(SIX, place, Notes()).layer.digest)
    assert {name for name in found if not name.startswith("opt/venv/")} == {"opt", "opt/venv"}
    assert _names(found, "opt/venv/bin") == {"python", "python3", "python3.11"}
    assert found["opt/venv/bin/python"] == b"/usr/bin/python3"
    assert found["opt/venv/pyvenv.cfg"].decode() == (
        f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {python_base().python.version}\n"
    )
    assert _names(found, "opt/venv") == {"bin", "lib", "lib64", "pyvenv.cfg"}
    assert _names(found, SITE) == {"__pycache__", "six.py", "six-1.17.0.dist-info"}


def _names(found: dict[str, bytes], folder: str) -> set[str]:
    return {name[len(folder) + 1 :].partition("/")[0] for name in found if name.startswith(folder + "/")}


def test_an_empty_lock_gives_a_bare_environment(
    place: Library, image_of: Callable[[Library, Environment], str]
) -> None:
    made = provide(b"# none\n", place, Notes())
    assert _names(files_of(place, made.layer.digest), "opt/venv") == {"bin", "lib", "lib64", "pyvenv.cfg"}
    assert installed(place, made) == {}
    said = run_in_image(image_of(place, made), "/opt/venv/bin/python", "-c", "import sys; print(sys.prefix)")
    assert said == "/opt/venv\n"


def test_hashes_that_the_lock_does_not_give_are_in_the_environments_manifest(place: Library) -> None:
    made = provide(b'six==1.17.0\nnothing==1 ; sys_platform == "win32"\n' + PACKAGING, place, Notes())
    found = installed(place, made)
    assert set(found) == {"six", "packaging"}
    assert "sha256:4721f391ed90541fddacab5acf947aa0d3dc7d27b2e1e8eda2be8970586c3274" in str(
        found["six"]["hashes"]
    )
    assert found["packaging"]["hashes"] == [PACKAGING.decode().partition("--hash=")[2].strip()]
    hashed = provide(SIX + PACKAGING, place, Notes())
    assert hashed.layer == made.layer
    assert hashed.key != made.key


def test_no_credential_proxy_or_certificate_of_the_host_is_left_anywhere(
    place: Library, tmp_path: Path, volume: str, image_of: Callable[[Library, Environment], str]
) -> None:
    password, proxy, login = (f"{name}-{secrets.token_hex(8)}+/" for name in ("pw", "proxy", "netrc"))
    certificate, host = secrets.token_hex(16), secrets.token_hex(8) + ".example.com"
    home = tmp_path / "home"
    home.mkdir()
    (home / "ca.pem").write_text(f"-----BEGIN CERTIFICATE-----\n{certificate}\n-----END CERTIFICATE-----\n")
    (home / ".netrc").write_text(f"machine netrc-{host} login me password {login}\n")
    package = wheel("plain", {"plain.py": b"x = 1\n", "data/plain.txt": b"text"})
    with Index(package, login=f"me:{password}") as index:
        url = index.url.replace("//", f"//me:{quote(password, safe='')}@")
        gathered = index.handover(
            home,
            UV_DEFAULT_INDEX=url,
            HTTPS_PROXY=f"http://me:{quote(proxy, safe='')}@proxy-{host}:3128",
            NO_PROXY="127.0.0.1",
        )()
        gathered = replace(gathered, ca_bundle=(home / "ca.pem").read_bytes())
        notes = Notes()
        made = provide(b"plain==1.0\n", place, notes, lambda: gathered, network="host")
        with pytest.raises(LockError) as caught:
            provide(b"missing==1.0\n", place, notes, lambda: gathered, network="host")
    assert index.served == [package[0]]
    tag = image_of(place, made)
    parent = environment.parent(python_base(), made)
    saved = b"".join(engine().save(tag))
    assert b"x = 1" in saved
    assert parent.image.config in saved
    haystacks = {
        "saved image": saved,
        "layer": read_all(place, made.layer.digest),
        "config": parent.image.config,
        "manifest": parent.image.manifest,
        "messages": repr((notes.__dict__, str(caught.value))).encode(),
        **{
            str(p): p.read_bytes()
            for top in ("cache", "bank")
            for p in (tmp_path / top).rglob("*")
            if p.is_file()
        },
    }
    for secret in (password, proxy, login, certificate, f"proxy-{host}", f"netrc-{host}"):
        for form in forms(secret):
            assert [name for name, hay in haystacks.items() if form in hay] == [], form


def test_a_package_that_holds_a_credential_of_the_host_is_refused_and_not_kept(
    place: Library, tmp_path: Path, volume: str
) -> None:
    password = secrets.token_hex(12)
    content = bytearray(b"." * (2 << 20))
    with Index(wheel("leaky", {"leaky.txt": bytes(content)}), login=f"me:{password}") as index:
        handover = index.handover(tmp_path, UV_DEFAULT_INDEX=index.url.replace("//", f"//me:{password}@"))
        made = provide(index.lock("leaky"), place, Notes(), handover, network="host")
        # the layer comes in pieces of 1 MiB: once more, with the password across the end of one
        start = read_all(place, made.layer.digest).index(bytes(content[:1000]))
        at = (1 << 20) * (1 + start // (1 << 20)) - start - 7
        content[at : at + len(password)] = password.encode()
        index.files = dict([wheel("leaky", {"leaky.txt": bytes(content)})])
        with pytest.raises(ImageError, match="a credential of this host"):
            provide(index.lock("leaky"), place, Notes(), handover, network="host")
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and password.encode() in path.read_bytes()]
    assert kept == []
    assert builders(place) == []


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (
            wheel("other", {"other.py": b""}, "cp27-cp27m-win32"),
            b"other==1.0\n",
            r"other==1\.0 has no wheels",
        ),
        (
            wheel("other", {"other.py": b""}, "py3-none-macosx_11_0_arm64"),
            b"other==1.0\n",
            r"other==1\.0 has no",
        ),
        (("other-1.0.tar.gz", b"not opened"), b"other==1.0\n", r"other==1\.0 has no usable wheels"),
        (wheel("other", {"other.py": b""}), b"missing==1.0\n", "missing was not found"),
        (wheel("other", {"other.py": b""}), b"other==2.0\n", r"no version of other==2\.0"),
        (
            wheel("other", {"other.py": b""}),
            b"other==1.0 --hash=sha256:" + b"0" * 64 + b"\n",
            "names other files than the index has now",
        ),
    ],
)
def test_a_lock_that_cannot_be_installed_is_a_lock_error_that_names_the_package(
    place: Library, tmp_path: Path, volume: str, file: tuple[str, bytes], text: bytes, message: str
) -> None:
    with Index(file) as index, pytest.raises(LockError, match=message) as caught:
        provide(text, place, Notes(), index.handover(tmp_path), network="host")
    assert text.partition(b"==")[0].decode() in caught.value.message
    assert caught.value.hint
    assert caught.value.exit_code == 4
    assert builders(place) == []


def test_an_index_that_does_not_answer_is_told_from_a_bad_lock(
    place: Library, tmp_path: Path, volume: str
) -> None:
    with Index() as index:
        handover = index.handover(tmp_path, UV_HTTP_RETRIES="0")
    with pytest.raises(LockError, match="could not be downloaded") as caught:
        provide(SIX, place, Notes(), handover, network="host")
    assert "proxy, CA bundle and index" in (caught.value.hint or "")


def test_two_packages_that_bring_one_file_always_end_the_same_way(
    place: Library, tmp_path: Path, volume: str
) -> None:
    files = [
        wheel(
            name,
            {"shared/thing.py": f"owner = {name!r}\n".encode(), "shared/same.py": b"", f"{name}.py": b""},
        )
        for name in ("clash_a", "clash_b", "clash_c")
    ]
    with Index(*files) as index:
        text = "".join(
            f"{n}==1.0 --hash={index.hash(n.replace('-', '_'))}\n" for n in ("clash-b", "clash-c", "clash-a")
        )
        made, notes = [], Notes()
        for _ in range(4):
            made.append(
                provide(text.encode(), place, notes, index.handover(tmp_path), network="host", fresh=True)
            )
    assert len({each.layer for each in made}) == 1
    found = files_of(place, made[0].layer.digest)
    assert found[f"{SITE}/shared/thing.py"] == b"owner = 'clash_c'\n"
    assert {f"{SITE}/{name}" for name in ("clash_a.py", "clash_b.py", "shared/same.py")} <= set(found)
    assert (
        notes.warnings
        == ["clash-a, clash-b, clash-c bring the same files with different contents; the last by name wins"]
        * 4
    )


def test_a_damaged_cache_does_not_reach_the_layer(place: Library, tmp_path: Path, volume: str) -> None:
    with Index(wheel("solid", {"solid.py": b"x = 1\n", "other.py": b"y = 2\n"})) as index:
        args = (index.lock("solid"), place, Notes(), index.handover(tmp_path))
        first = provide(*args, network="host")
        spoil = (
            "import glob; found = glob.glob('/cache/archive-*/*/solid.py'); print(len(found));"
            "[open(name, 'w').close() for name in found]"
        )
        spoiler = engine().create(
            ContainerSpec(
                image=python_base().tag,
                argv=("python3", "-c", spoil),
                user="0:0",
                volumes=((volume, "/cache"),),
            )
        )
        try:
            output = engine().attach(spoiler)
            engine().start(spoiler)
            assert b"".join(piece for _, piece in output) == b"1\n"
        finally:
            engine().remove(spoiler)
        second = provide(*args, network="host", fresh=True)
    assert index.served == [next(iter(index.files))] * 2
    assert first.layer == second.layer


def rewritten(data: bytes, path: str, content: bytes, record: bool = False) -> bytes:
    """A wheel with another content of one file; its RECORD is mended with ``record``, or else lies."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(target, "w") as archive:
        for item in source.infolist():
            body = content if item.filename == path else source.read(item)
            if record and item.filename.endswith("/RECORD"):
                body = b"\n".join(row for row in body.split(b"\n") if not row.startswith(path.encode()))
            archive.writestr(item, body)
    return target.getvalue()


def test_a_wheel_that_is_not_what_its_own_record_says_is_told_and_still_installed(
    place: Library, tmp_path: Path, volume: str
) -> None:
    name, data = wheel("liar", {"liar.py": b"x = 1\n"})
    with Index((name, rewritten(data, "liar.py", b"x = 2\n"))) as index:
        notes = Notes()
        made = provide(index.lock("liar"), place, notes, index.handover(tmp_path), network="host")
    assert notes.warnings == ["liar: files are not what the package's own RECORD says"]
    assert files_of(place, made.layer.digest)[f"{SITE}/liar.py"] == b"x = 2\n"


def test_compiled_modules_that_a_wheel_brings_along_are_made_anew(
    place: Library, tmp_path: Path, volume: str
) -> None:
    files = {"m.py": b"", "__pycache__/m.cpython-39.pyc": b"old", "__pycache__/m.cpython-311.pyc": b"old"}
    with Index(wheel("shipped", files)) as index:
        made = provide(index.lock("shipped"), place, Notes(), index.handover(tmp_path), network="host")
    found = files_of(place, made.layer.digest)
    assert _names(found, f"{SITE}/__pycache__") == {"m.cpython-311.pyc"}
    assert found[f"{SITE}/__pycache__/m.cpython-311.pyc"] != b"old"


def test_a_lock_that_lacks_a_dependency_is_installed_as_it_is_and_told(
    place: Library, tmp_path: Path, volume: str
) -> None:
    name, data = wheel("needy", {"needy.py": b""})
    metadata = b"Metadata-Version: 2.1\nName: needy\nVersion: 1.0\nRequires-Dist: absent\n"
    with Index((name, rewritten(data, "needy-1.0.dist-info/METADATA", metadata, record=True))) as index:
        notes = Notes()
        provide(index.lock("needy"), place, notes, index.handover(tmp_path), network="host")
    assert any("absent" in warning and "not complete" in warning for warning in notes.warnings)


def test_a_package_that_was_yanked_is_installed_as_locked_and_told(
    place: Library, tmp_path: Path, volume: str
) -> None:
    file, data = wheel("gone", {"gone.py": b""})
    with Index((file, data)) as index:
        index.yanked[file] = "broken on Tuesdays"
        notes = Notes()
        made = provide(index.lock("gone"), place, notes, index.handover(tmp_path), network="host")
    assert set(installed(place, made)) == {"gone"}
    assert len(notes.warnings) == 1
    assert "gone==1.0" in notes.warnings[0] and "broken on Tuesdays" in notes.warnings[0]


def test_an_interrupted_build_leaves_no_builder_and_no_result(
    place: Library, tmp_path: Path, volume: str
) -> None:
    def interrupt(text: str) -> None:
        raise KeyboardInterrupt

    with Index(wheel("plain", {"plain.py": b""})) as index, pytest.raises(KeyboardInterrupt):
        provide(
            index.lock("plain"), place, Notes(on_detail=interrupt), index.handover(tmp_path), network="host"
        )
    assert builders(place) == []
    assert list((tmp_path / "cache").glob("keys/env/*")) == []


def start(tmp_path: Path, index: Index, volume: str) -> subprocess.Popen[str]:
    """A build in a process of its own."""
    (tmp_path / "lock.txt").write_bytes(index.lock("plain"))
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.image_tools",
            str(tmp_path),
            str(tmp_path / "lock.txt"),
            index.url,
            volume,
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_ctrl_c_in_the_middle_of_an_installation_removes_the_builder(
    place: Library, tmp_path: Path, volume: str
) -> None:
    with Index(wheel("plain", {"plain.py": b""})) as index:
        index.open.clear()
        child = start(tmp_path, index, volume)
        assert index.asked.wait(30)
        assert len(builders(place)) == 1
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=30)
    assert child.returncode != 0
    assert builders(place) == []


def test_a_builder_left_by_sigkill_is_removed_by_the_next_build_of_whatever_lock(
    place: Library, tmp_path: Path, volume: str
) -> None:
    with Index(wheel("plain", {"plain.py": b""}), wheel("second", {"second.py": b""})) as index:
        index.open.clear()
        child = start(tmp_path, index, volume)
        assert index.asked.wait(30)
        child.kill()
        child.communicate(timeout=30)
        (left,) = builders(place)
        index.open.set()
        provide(index.lock("second"), place, Notes(), index.handover(tmp_path), network="host")
        assert engine().inspect(left) is None
        made = provide(index.lock("plain"), place, Notes(), index.handover(tmp_path), network="host")
    assert not made.cached
    assert builders(place) == []


def test_a_builder_at_work_and_those_of_other_machines_are_left_alone(
    place: Library, tmp_path: Path, volume: str
) -> None:
    def left_over(owner: str, seconds: str) -> str:
        labels = ((removals.BUILDER_LABEL, "0" * 64), ("flow.mirage.builder-owner", owner))
        container = engine().create(
            ContainerSpec(image=python_base().tag, argv=("sleep", seconds), labels=labels)
        )
        engine().start(container)
        return container

    others, ended = left_over("another", "600"), left_over("another", "0")
    engine().wait(ended)
    try:
        with Index(wheel("plain", {"plain.py": b""}), wheel("second", {"second.py": b""})) as index:
            index.open.clear()
            child = start(tmp_path, index, volume)
            assert index.asked.wait(30)
            (working,) = builders(place)
            provide(b"", place, Notes(), index.handover(tmp_path), network="host")
            assert engine().inspect(working) is not None
            assert engine().inspect(others) is not None
            assert engine().inspect(ended) is None
            index.open.set()
            assert "built" in child.communicate(timeout=60)[0]
    finally:
        for container in (others, ended):
            with suppress(EngineError):
                engine().remove(container)


def test_of_some_who_remove_one_container_none_fails() -> None:
    for _ in range(8):
        container = engine().create(ContainerSpec(image=python_base().tag, argv=("sleep", "60")))
        engine().start(container)
        with ThreadPoolExecutor(4) as pool:
            assert [*pool.map(lambda _, which=container: engine().remove(which), range(4))] == [None] * 4
        assert engine().inspect(container) is None


def test_a_removal_by_somebody_else_that_fails_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is where a device is busy: the engine says for a while that it is at it, and then may be asked again."""
    container = engine().create(ContainerSpec(image=python_base().tag, argv=("sleep", "60")))
    remove, asked = APIClient.remove_container, 0

    def busy(api: APIClient, *words: Any, **more: Any) -> None:
        nonlocal asked
        asked += 1
        if asked < 4:
            answer = requests.Response()
            answer.status_code = 409
            raise APIError("409", answer, f"removal of container {container} is already in progress")
        remove(api, *words, **more)

    monkeypatch.setattr(APIClient, "remove_container", busy)
    began = time.monotonic()
    engine().remove(container)
    assert time.monotonic() - began < 10
    assert asked == 4 and engine().inspect(container) is None


def test_of_two_processes_one_builds_and_the_other_waits_and_takes_its_layer(
    place: Library, tmp_path: Path, volume: str
) -> None:
    with Index(wheel("plain", {"plain.py": b""})) as index:
        index.open.clear()
        first = start(tmp_path, index, volume)
        assert index.asked.wait(30)
        second = start(tmp_path, index, volume)
        with pytest.raises(subprocess.TimeoutExpired):
            second.wait(2)
        assert len(builders(place)) == 1
        index.open.set()
        said = [child.communicate(timeout=60)[0].split(maxsplit=2) for child in (first, second)]
    assert said[0][0] == said[1][0]
    assert [words[1] for words in said] == ["built", "cached"]
    assert "another run is making this environment" in said[1][2]
    assert "the other run: environment: installing 1 package from requirements.txt" in said[1][2]
    assert list((tmp_path / "cache" / "locks").glob("*.told")) == []
    assert index.served == [next(iter(index.files))]


def test_of_eight_processes_the_builder_is_killed_in_the_middle_and_the_others_go_on(
    place: Library, tmp_path: Path, volume: str
) -> None:
    with Index(wheel("plain", {"plain.py": b""})) as index:
        index.open.clear()
        children = [start(tmp_path, index, volume)]
        assert index.asked.wait(30)
        children += [start(tmp_path, index, volume) for _ in range(7)]
        time.sleep(3)
        assert len(builders(place)) == 1
        index.asked.clear()
        children[0].kill()
        children[0].communicate(timeout=30)
        assert index.asked.wait(30)  # one of the others builds now
        assert len(builders(place)) == 1
        index.open.set()
        said = [child.communicate(timeout=60)[0].split(maxsplit=2) for child in children[1:]]
    assert len({words[0] for words in said}) == 1
    assert sorted(words[1] for words in said) == ["built", *["cached"] * 6]
    assert builders(place) == []


def test_another_digest_under_the_same_key_is_told_as_drift_and_both_are_kept(place: Library) -> None:
    made = provide(b"", place, Notes())
    other = of_bytes(b"other")
    kept: dict[str, Json] = {"digest": other, "size": 1, "created": "0", "installed": made.installed}
    assert place.keep("env", made.key, made.key_manifest, kept)
    notes = Notes()
    again = provide(b"", place, notes, fresh=True)
    assert again.layer == made.layer
    assert [warning.partition(":")[0] for warning in notes.warnings] == ["drift"]
    assert [entry["digest"] for entry in place.ledger("env", made.key)] == [other, made.layer.digest]


def test_what_somebody_wrote_into_the_store_by_hand_is_told(place: Library) -> None:
    made = provide(b"", place, Notes())
    forged: dict[str, Json] = {"digest": of_bytes(b"other"), "size": "many", "created": "0"}
    place.keep("env", made.key, made.key_manifest, forged)
    with pytest.raises(ImageError, match="is damaged") as caught:
        provide(b"", place, Notes())
    assert "--no-cache" in str(caught.value.hint)


def test_the_key_is_made_of_what_decides_the_layer_and_of_nothing_else() -> None:
    one, two = parse("requirements.txt", SIX + PACKAGING), parse("env/lock.txt", PACKAGING + b"# x\n" + SIX)
    base = python_base()
    key = environment.key_manifest(one, base, ("main",))
    assert environment.key_manifest(two, base, ("main",)) == key
    others = [
        environment.key_manifest(parse("requirements.txt", SIX), base, ("main",)),
        environment.key_manifest(parse("requirements.txt", b"six==1.17.0\n" + PACKAGING), base, ("main",)),
        environment.key_manifest(one, base, ("main", "gpu")),
        environment.key_manifest(one, replace(base, digest=of_bytes(b"x")), ("main",)),
        environment.key_manifest(
            one, replace(base, python=replace(base.python, version="3.11.9")), ("main",)
        ),
        environment.key_manifest(
            one, replace(base, platform=replace(base.platform, architecture="x")), ("main",)
        ),
    ]
    assert len({key, *others}) == len(others) + 1
    found = json.loads(key)
    assert set(found) == {"schema", "base", "platform", "lock", "groups", "python", "installer", "recipe"}
