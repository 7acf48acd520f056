"""The build of a source distribution: what it needs is fetched before, and it sees neither a login nor a network."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.errors import LockError
from orchestrator.image import builder, provisions
from orchestrator.image.environment import Environment
from orchestrator.image.library import Library
from tests.image_tools import Index, Notes, engine, forms, library, provide, read_all, wheel
from tests.lock_tools import sdist

# Everything that a build could look at, kept in what it builds.
SPY = """
    import pathlib, socket, subprocess
    seen = [repr(dict(os.environ)), repr(os.getcwd())]
    for pattern in ("*/environ", "*/cmdline", "*/mounts", "net/tcp", "net/route", "*/net/unix"):
        for path in pathlib.Path("/proc").glob(pattern):
            try: seen.append(path.read_bytes().decode("latin-1"))
            except OSError: pass
    for top in ("/build", "/cache", "/root", "/etc", "/tmp", "/run", "/var/tmp", os.path.expanduser("~")):
        for below, _, names in os.walk(top):
            for each in names:
                path = os.path.join(below, each)
                if os.path.isfile(path) and os.path.getsize(path) < 1 << 20:
                    seen.append(open(path, "rb").read().decode("latin-1"))
    reached = []
    for place in PLACES:
        try: socket.create_connection(place, 2).close(); reached.append(place)
        except OSError: pass
    interfaces = sorted(os.listdir("/sys/class/net"))
    extra = repr((reached, interfaces, seen, "end of what was seen"))
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Library]:
    monkeypatch.setattr(builder, "CACHE_VOLUME", f"mirage-test-{secrets.token_hex(6)}")
    yield library(tmp_path)
    engine()._api.remove_volume(builder.CACHE_VOLUME, force=True)


def build(lock: bytes, place: Library, index: Index, home: Path, **environ: str) -> Environment:
    return provide(lock, place, Notes(), index.handover(home, **environ), network="host")


def content(place: Library, made: Environment) -> bytes:
    return read_all(place, made.layer.digest)


def by_backend(name: str, requires: str, asks: str, uses: str) -> tuple[str, bytes]:
    """A source distribution whose backend is in it: what it requires, asks for when it runs, and imports."""
    own = (
        f"import os, zipfile\n{uses}\n"
        f"def get_requires_for_build_wheel(config_settings=None): return {asks}\n"
        "def build_wheel(folder, config_settings=None, metadata_directory=None):\n"
        f"    import extra_tool\n"
        f"    file = '{name}-1.0-py3-none-any.whl'\n"
        "    with zipfile.ZipFile(os.path.join(folder, file), 'w') as archive:\n"
        "        put = lambda path, text: archive.writestr(zipfile.ZipInfo(path), text)\n"
        f"        put('{name}.py', 'NAME = ' + repr(extra_tool.NAME))\n"
        f"        put('{name}-1.0.dist-info/METADATA', 'Metadata-Version: 2.1\\nName: {name}\\nVersion: 1.0\\n')\n"
        f"        put('{name}-1.0.dist-info/WHEEL', "
        "'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')\n"
        f"        put('{name}-1.0.dist-info/RECORD', '')\n"
        "    return file\n"
    )
    project = (
        f'[project]\nname = "{name}"\nversion = "1.0"\n'
        f'[build-system]\nrequires = {requires}\nbuild-backend = "own"\nbackend-path = ["."]\n'
    )
    return sdist(name, files={"own.py": own, "pyproject.toml": project})


def test_a_build_sees_no_login_and_no_network(place: Library, tmp_path: Path) -> None:
    by_url, by_name, by_netrc = (secrets.token_hex(12) for _ in range(3))
    with Index() as other, Index(login=f"me:{by_url}") as index:
        ports = [int(each.url.rpartition(":")[2].partition("/")[0]) for each in (index, other)]
        places = [("127.0.0.1", port) for port in ports] + [("169.254.169.254", 80), ("8.8.8.8", 53)]
        index.files = dict([sdist("spy", f"    PLACES = {places!r}\n{SPY}")])
        (tmp_path / ".netrc").write_text(f"machine 127.0.0.1 login it password {by_netrc}\n")
        environ = {
            "UV_DEFAULT_INDEX": index.url.replace("//", f"//me:{by_url}@"),
            "UV_INDEX": f"mine={other.url}",
            "UV_INDEX_MINE_USERNAME": "me",
            "UV_INDEX_MINE_PASSWORD": by_name,
            "HTTPS_PROXY": f"http://me:{by_name}@proxy.example:3128",
            "NO_PROXY": "127.0.0.1",
        }
        made = build(index.lock("spy"), place, index, tmp_path, **environ)
        assert index.served == ["spy-1.0.tar.gz"]
    seen = content(place, made)
    assert b"end of what was seen" in seen and b"UV_OFFLINE" in seen, "it did look"
    assert b"([], ['lo']" in seen, "and reached nobody"
    found = [form for each in (by_url, by_name, by_netrc) for form in forms(each) if form in seen]
    assert found == []
    assert b"proxy.example" not in seen


def test_what_a_build_requires_is_fetched_before_it_also_what_it_asks_for_when_it_runs(
    place: Library, tmp_path: Path
) -> None:
    password = secrets.token_hex(12)
    files = (
        by_backend(
            "asking", '["static-tool>=0.5"]', "['extra_tool ; python_version > \"3\"']", "import static_tool"
        ),
        wheel("static_tool", {"static_tool.py": b"import deep_tool\n"}),
        wheel("deep_tool", {"deep_tool.py": b""}),
        # what a build requires may have no wheel itself
        by_backend("extra_tool", '["extra-tool-maker"]', "[]", ""),
        wheel("extra_tool_maker", {"extra_tool.py": b"NAME = 'made by another build'\n"}),
    )
    needs = wheel("static_tool", {"static_tool.py": b"import deep_tool\n"})
    with Index(*files, login=f"me:{password}") as index:
        index.files = {**index.files, needs[0]: requiring(needs[1], "deep-tool")}
        url = index.url.replace("//", f"//me:{password}@")
        made = build(index.lock("asking"), place, index, tmp_path, UV_DEFAULT_INDEX=url)
    assert b"NAME = 'made by another build'" in content(place, made)


def requiring(data: bytes, name: str) -> bytes:
    """The wheel with a requirement in its metadata."""
    import io
    import zipfile

    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(packed, "w") as target:
        for item in source.infolist():
            text = source.read(item)
            if item.filename.endswith("METADATA"):
                text += f"Requires-Dist: {name}\n".encode()
            if item.filename.endswith("RECORD"):
                text = b""
            target.writestr(item, text)
    return packed.getvalue()


def test_what_no_index_has_is_named(place: Library, tmp_path: Path) -> None:
    files = by_backend("asking", "[]", "['absent-tool']", "")
    with Index(files) as index, pytest.raises(LockError, match="absent-tool"):
        build(index.lock("asking"), place, index, tmp_path)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["tool @ https://${UV_INDEX_X_PASSWORD}.example/x.whl"], "from an address"),
        (["--index-url https://example.com"], "no requirement"),
        (["a\n--index-url https://example.com"], "no requirement"),
        ([f"a{n}" for n in range(2000)], "too long"),
    ],
)
def test_what_a_build_may_not_ask_for_is_refused(asked: list[object], message: str) -> None:
    with pytest.raises(LockError, match=message):
        provisions.checked("x", asked)


def test_nobody_runs_a_package_to_know_whether_it_has_a_wheel(place: Library, tmp_path: Path) -> None:
    """Its metadata says nothing, so that an installer would build it for that, beside the login."""
    with Index() as index:
        port = index.url.rpartition(":")[2].partition("/")[0]
        call = f"    import urllib.request; urllib.request.urlopen('http://127.0.0.1:{port}/files/phoned-1.0.txt')\n"
        name, data = sdist("quiet", f"    try:\n    {call}    except OSError: pass\n", {"PKG-INFO": OLD})
        index.files = {name: data, "phoned-1.0.txt": b""}
        made = build(b"quiet==1.0\n", place, index, tmp_path)
        assert "phoned-1.0.txt" not in index.served and name in index.served
    assert b"built = True" in content(place, made)


OLD = "Metadata-Version: 2.1\nName: quiet\nVersion: 1.0\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", ("setuptools.build_meta:__legacy__", (), ("setuptools>=40.8.0",))),
        (b"[project]\nname='x'\n", ("setuptools.build_meta:__legacy__", (), ("setuptools>=40.8.0",))),
        (b"[build-system]\nrequires=['a[b] >=1 ; os_name == \"posix\"', 'c']\n",
         ("setuptools.build_meta:__legacy__", (), ('a[b]>=1; os_name == "posix"', "c"))),
        (b"[build-system]\nrequires=[]\nbuild-backend='own'\nbackend-path=['.']\n", ("own", (".",), ())),
    ],
)  # fmt: skip
def test_what_a_source_says_of_its_build(text: bytes, expected: tuple[object, ...]) -> None:
    found = provisions.backend("x", text)
    assert (found.name, found.paths, found.requires) == expected


@pytest.mark.parametrize(
    "text",
    [
        b"\xff",
        b"[build-system",
        b"[build-system]\nrequires='a'",
        b"[build-system]\nrequires=[1]",
        b"[build-system]\nrequires=[]\nbuild-backend=1",
        b"[build-system]\nrequires=['a @ https://example.com/a.whl']",
        b"[build-system]\nrequires=['-r x']",
    ],
)
def test_a_source_that_says_it_otherwise_is_refused(text: bytes) -> None:
    with pytest.raises(LockError):
        provisions.backend("x", text)
