"""`mirage image verify`: built again from nothing, under other circumstances; what differs is named."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import ConfigError
from orchestrator.image import layer_diff, variation
from orchestrator.image.layer import Entry, to_bytes
from orchestrator.store.folder import FolderStore
from tests.base_tools import own_base
from tests.image_tools import PACKAGING, SIX, Index
from tests.lock_tools import sdist
from tests.run_tools import Project, engine

WORKFLOW = "import six\nprint(six.__version__)\n"
SETTINGS = "project: probe\nworkflow: workflows.main\nbuild: {network: host}\n"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    files = {"requirements.txt": (SIX + PACKAGING).decode(), ".mirage/project.yaml": SETTINGS}
    return Project(tmp_path_factory.mktemp("verify") / "repository", WORKFLOW, files=files)


@pytest.fixture(scope="module")
def run(project: Project) -> dict[str, Any]:
    return project.run()


def volumes() -> set[str]:
    return {
        str(each["Name"])
        for each in engine().volumes()["Volumes"]
        if each["Name"].startswith("mirage-verify")
    }


def test_another_time_umask_locale_order_user_and_core_count_give_the_same_image(
    project: Project, run: dict[str, Any]
) -> None:
    found = json.loads(project.mirage("image", "verify", "latest", "--vary", "all", "--json"))
    assert found["varied"] == sorted(variation.WAYS)
    assert [each["of"] for each in found["layers"]] == [
        "base",
        "environment",
        "sdk",
        "code",
        "config",
    ]
    assert all(each["equal"] and each["differences"] == [] for each in found["layers"])
    assert found["digest"] == found["wanted"] == run["image"]["digest"]
    assert found["equal"] is True
    assert found["compiled"] == []
    assert volumes() == set()


def test_a_layer_that_came_out_otherwise_is_named_with_its_files(project: Project, tmp_path: Path) -> None:
    """The record's layer is exchanged for another one that has a stale module and another time stamp."""
    cache = tmp_path / "cache"
    env = {"MIRAGE_CACHE": str(cache)}
    spoiled = Project(
        tmp_path / "repository",
        "print(1)\n",
        files={"requirements.txt": SIX.decode(), ".mirage/project.yaml": SETTINGS},
    )
    own_base(spoiled.store, spoiled.folder)
    spoiled.commit()
    spoiled.run(env=env)
    (name,) = (cache / "keys" / "env").glob("*/results/*.json")
    result = json.loads(name.read_bytes())
    layer = result["digest"].removeprefix("sha256:")
    target = io.BytesIO()
    with (
        tarfile.open(cache / "blobs" / "sha256" / layer[:2] / layer) as source,
        tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as packed,
    ):
        for item in source:
            body = source.extractfile(item) if item.isreg() else None
            data = body.read() if body else b""
            if item.name.endswith("/six.py"):
                data += b"# other\n"
                item.size = len(data)
            if item.name.endswith("pyvenv.cfg"):
                item.mtime += 1
            packed.addfile(item, io.BytesIO(data))

    for place in (cache, spoiled.store):
        digest = FolderStore.open_at(place).put(target.getvalue())
        for old in (place / "keys" / "env").glob("*/results/*.json"):
            new = old.with_name(digest.removeprefix("sha256:") + ".json")
            new.write_text(
                json.dumps(
                    {**result, "digest": digest, "size": len(target.getvalue())},
                    sort_keys=True,
                    separators=(",", ":"),
                )
            )
            old.unlink()
    for place in (cache, spoiled.store):
        for old in (place / "keys" / "image").glob("*/results/*.json"):
            old.unlink()
    first = spoiled.run(env=env)
    out, err, code = spoiled.ended(spoiled.start("image", "verify", "latest", program="mirage", env=env))
    assert code == 9, err
    assert "differs" in out
    assert "lib/python3.11/site-packages/six.py: content" in out
    assert "opt/venv/pyvenv.cfg: time stamp" in out
    assert out.count("equal  ") == 4
    assert first["image"]["digest"] in out
    tags = [tag for each in engine().images() for tag in each["RepoTags"] or ()]
    got = out.partition(":")[2][:24]
    assert f"mirage/run:{got}" not in tags


TELLS = (
    "    import time, os, sys; old = os.umask(0); os.umask(old); home = os.listdir('.')\n"
    "    extra = (time.strftime('%Y-%m-%d'), oct(old), os.environ['LC_ALL'], os.getuid(), "
    "len(os.sched_getaffinity(0)))\n    tag = 'cp311-cp311-linux_x86_64'\n"
)


Verify = Callable[..., dict[str, Any]]


@contextmanager
def telling(folder: Path) -> Iterator[Verify]:
    """A project with a package whose build writes down its circumstances; gives what verifies its run."""
    with Index(sdist("telling", TELLS)) as index:
        files = {"requirements.txt": f"telling==1.0 --hash={index.hash('telling')}\n"}
        project = Project(
            folder / "repository", "import telling\n", files={**files, ".mirage/project.yaml": SETTINGS}
        )
        env = {"UV_DEFAULT_INDEX": index.url, "PIP_CONFIG_FILE": "/dev/null"}
        env |= {"MIRAGE_CACHE": str(folder / "cache")}
        own_base(project.store, project.folder)
        project.commit()
        project.run(env=env)

        def verify(*words: str, code: int) -> dict[str, Any]:
            found: dict[str, Any] = json.loads(
                project.mirage("image", "verify", "latest", "--json", *words, env=env, code=code)
            )
            return found

        yield verify


def check_found_out(verify: Verify, way: str) -> None:
    found = verify("--vary", way, code=9)
    (layer,) = [each for each in found["layers"] if not each["equal"]]
    files = {each["file"].rpartition("/")[2]: each["reason"] for each in layer["differences"]}
    assert layer["of"] == "environment"
    assert files["telling.py"] == "telling was built on the spot from its source distribution", way
    assert found["compiled"] == ["telling"]


def test_a_build_that_writes_down_its_circumstances_is_found_out(tmp_path: Path) -> None:
    with telling(tmp_path) as verify:
        check_found_out(verify, "all")


def test_reasons_are_told_where_they_are_known() -> None:
    def tar(pyc: bytes, zipped: bytes, library: bytes) -> bytes:
        return to_bytes(
            [
                Entry(b"a/m.pyc", "file", data=pyc),
                Entry(b"a/data.gz", "file", data=zipped),
                Entry(b"a/fast.so", "file", data=library),
                Entry(b"a/only", "file", data=b"") if library == b"1" else Entry(b"a/more", "file", data=b""),
            ]
        )

    magic, flags = b"\xa7\r\r\n", bytes(4)
    one = tar(magic + flags + b"1" * 8, b"\x1f\x8b\x08\x00" + b"1234" + b"same", b"1")
    other = tar(magic + flags + b"2" * 8, b"\x1f\x8b\x08\x00" + b"5678" + b"same", b"2")
    found = layer_diff.compare(iter([one]), iter([other]), {"a/fast.so": "fast"})
    assert [(each.file, each.what, each.reason) for each in found] == [
        ("a/data.gz", "content", "a gzip file with the time at which it was packed"),
        ("a/fast.so", "content", "fast was built on the spot from its source distribution"),
        ("a/m.pyc", "content", "byte code with the time stamp of its source"),
        ("a/more", "only now", ""),
        ("a/only", "only before", ""),
    ]


def test_an_unknown_way_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="known: time, umask, locale, order, user, cores, all"):
        variation.read(["humidity"])
