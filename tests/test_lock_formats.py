"""Locks of other tools: what is chosen is what the tool itself says that it would install.

The locks in tests/locks/ were written by Poetry 1.1.15, 1.8.5 and 2.5.1, pipenv 2026.10.3, uv 0.13.9 and pip 26.3
(addresses made example.com's); what those tools said of them is quoted here, with the command that said it.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import uv
from packaging.pylock import Pylock
from packaging.tags import Tag

from orchestrator.digest import of_bytes
from orchestrator.errors import LockError
from orchestrator.locks.pinned import File, Index, Lock, Pinned, with_extras
from orchestrator.locks.poetry_versions import allows, python_marker
from orchestrator.locks.selection import select
from orchestrator.locks.source import toml
from orchestrator.locks.target import Target, _places
from tests.lock_tools import LINUX, chosen, files_of, read

SAID = [
    # poetry install --no-root --dry-run OPTIONS, on Python 3.11 (3.10 for 1.1)
    ("poetry21", "--only=main", "main", "click==8.1.8 markupsafe==2.1.5 pysocks==1.7.1 urllib3==2.8.0"),
    ("poetry21", "--only=docs", "docs", "packaging==25.0"),
    (
        "poetry21",
        "--with=dev,docs --extras=tables",
        "main dev docs extra.tables",
        "click==8.1.8 iniconfig==2.3.1 markupsafe==2.1.5 packaging==25.0 pysocks==1.7.1 tabulate==0.10.0 urllib3==2.8.0",
    ),
    ("poetry20", "--only=main", "main", "click==8.1.8 markupsafe==2.1.5 pysocks==1.7.1 urllib3==2.2.3"),
    (
        "poetry20",
        "--with=dev --all-extras",
        "main dev extra.all",
        "click==8.1.8 iniconfig==2.1.0 markupsafe==2.1.5 pysocks==1.7.1 six==1.16.0 tabulate==0.9.0 "
        "typing-extensions==4.13.2 urllib3==2.2.3",
    ),
    ("poetry11", "--no-dev", "main", "click==8.1.8 pysocks==1.7.1 urllib3==2.2.3"),
    (
        "poetry11",
        "-E tables",
        "main dev extra.tables",
        "click==8.1.8 iniconfig==2.1.0 pysocks==1.7.1 tabulate==0.9.0 urllib3==2.2.3",
    ),
    # pipenv requirements OPTIONS, with its markers for Python 3.11
    ("pipenv", "", "main", "click==8.1.8 markupsafe==2.1.5 pysocks==1.7.1 urllib3==2.2.3"),
    (
        "pipenv",
        "--dev",
        "main dev",
        "click==8.1.8 iniconfig==2.3.1 markupsafe==2.1.5 pysocks==1.7.1 six==1.17.0 urllib3==2.2.3",
    ),
    ("pipenv", "--categories docs", "docs", "packaging==25.0"),
    # uv sync --frozen --no-default-groups --no-install-project --dry-run --python 3.11 OPTIONS
    ("uv", "", "main", "click==8.1.8 markupsafe==2.1.5 pysocks==1.7.1 urllib3==2.8.0"),
    ("uv", "--only-group docs", "docs", "packaging==25.0"),
    (
        "uv",
        "--group dev --extra gpu",
        "main dev extra.gpu",
        "click==8.1.8 iniconfig==2.3.1 markupsafe==2.1.5 packaging==25.0 pysocks==1.7.1 six==1.17.0 urllib3==2.8.0",
    ),
]
LOCK_OF = {"pipenv": "Pipfile.lock", "uv": "uv.lock", "pylock": "pylock.toml", "pip": "pylock.toml"}
MANIFEST_OF = {"pipenv": "Pipfile"}


def lock_of(folder: str) -> str:
    return LOCK_OF.get(folder, "poetry.lock")


@pytest.mark.parametrize(
    ("folder", "options", "groups", "said"), SAID, ids=[f"{f} {o}" for f, o, _, _ in SAID]
)
def test_what_is_chosen_is_what_the_tool_itself_would_install(
    folder: str, options: str, groups: str, said: str
) -> None:
    assert chosen(files_of(folder), lock_of(folder), *groups.split()) == said.split()


def test_an_older_python_gets_the_versions_that_were_locked_for_it() -> None:
    target = replace(LINUX, python="3.8.18")
    said = "click==8.1.8 markupsafe==2.0.1 pysocks==1.7.1 urllib3==2.2.3"  # Poetry 1.8.5 on Python 3.8.18
    assert chosen(files_of("poetry20"), "poetry.lock", target=target) == said.split()


@pytest.mark.parametrize("folder", ["poetry21", "poetry20", "poetry11", "uv", "pip"])
def test_each_package_is_left_with_the_one_file_that_fits_best(folder: str) -> None:
    found = select(read(files_of(folder), lock_of(folder)), LINUX)
    for package in found.packages:
        assert len(package.files) == len(package.hashes) == 1
        assert package.hashes == package.files[0].hashes
        assert not package.build
        if package.name == "markupsafe":
            assert re.fullmatch(
                r"(?i)markupsafe-2\.1\.5-cp311-cp311-manylinux_2_17_x86_64.*\.whl", package.files[0].name
            )


def test_another_platform_gets_other_files() -> None:
    arm, musl = replace(LINUX, architecture="arm64"), replace(LINUX, libc="")
    names = [
        next(
            p.files[0].name
            for p in select(read(files_of("uv"), "uv.lock"), target).packages
            if p.name == "markupsafe"
        )
        for target in (arm, musl, replace(LINUX, python="3.12.1"))
    ]
    assert "cp311-manylinux_2_17_aarch64" in names[0]
    assert "cp311-musllinux_1_1_x86_64" in names[1]
    assert "cp312-manylinux_2_17_x86_64" in names[2]


@pytest.mark.parametrize("folder", ["poetry21", "poetry20", "poetry11", "uv"])
def test_a_lock_without_a_file_for_the_platform_names_the_package_what_there_is_and_what_was_needed(
    folder: str,
) -> None:
    files = files_of(folder)
    text = files[lock_of(folder)].decode()
    text = re.sub(r"click-8\.1\.8-py3-none-any\.whl", "click-8.1.8-cp311-cp311-win_amd64.whl", text)
    text = "\n".join(row for row in text.splitlines() if "click-8.1.8.tar.gz" not in row)
    with pytest.raises(LockError) as caught:
        chosen({**files, lock_of(folder): text.encode()}, lock_of(folder))
    assert "click==8.1.8 has no file for CPython 3.11.2, x86_64, glibc 2.36" in caught.value.message
    assert "click-8.1.8-cp311-cp311-win_amd64.whl" in caught.value.message
    if folder != "uv":
        line = int(caught.value.message.split(":")[1])
        assert text.splitlines()[line : line + 1] == ['name = "click"']


def test_a_package_with_a_source_distribution_alone_is_to_be_built() -> None:
    files = files_of("poetry21")
    text = files["poetry.lock"].decode()
    rows = [row for row in text.splitlines() if "click-8.1.8-py3" not in row]
    found = select(read({**files, "poetry.lock": "\n".join(rows).encode()}, "poetry.lock"), LINUX)
    assert [(p.name, p.files[0].name) for p in found.packages if p.build] == [("click", "click-8.1.8.tar.gz")]


@pytest.mark.parametrize(
    ("folder", "old", "new", "hint"),
    [
        ("poetry21", "click (>=8.1,<8.2)", "click (>=8.0,<8.2)", "poetry lock"),
        ("poetry21", 'iniconfig = "^2.0"', 'iniconfig = "^2.1"', "poetry lock"),
        ("poetry20", 'click = "~8.1"', 'click = "~8.0"', "poetry lock"),
        ("poetry11", 'tabulate = {version = "^0.9"', 'tabulate = {version = "^0.8"', "poetry lock"),
        ("pipenv", 'markupsafe = "==2.1.5"', 'markupsafe = "==2.1.4"', "pipenv lock"),
        ("pipenv", 'packaging = "==25.0"', 'packaging = "==24.0"', "pipenv lock"),
        ("uv", "click>=8.1,<8.2", "click>=8.0,<8.2", "uv lock"),
        ("uv", "urllib3[socks]", "urllib3", "uv lock"),
        ("uv", "iniconfig>=2", "iniconfig>=1", "uv lock"),
        ("uv", "python_version < '3.11'", "python_version < '3.12'", "uv lock"),
        ("uv", 'requires-python = ">=3.10"', 'requires-python = ">=3.11"', "uv lock"),
        ("uv", 'gpu = ["six==1.17.0"]', 'gpu = ["six==1.16.0"]', "uv lock"),
        ("uv", '    "markupsafe==2.1.5",\n', "", "uv lock"),
    ],
)
def test_a_lock_that_does_not_match_its_manifest_says_how_to_refresh_it(
    folder: str, old: str, new: str, hint: str
) -> None:
    files, manifest = files_of(folder), MANIFEST_OF.get(folder, "pyproject.toml")
    text = files[manifest].decode()
    assert old in text
    with pytest.raises(LockError, match=r"was not made from .* as it is now") as caught:
        read({**files, manifest: text.replace(old, new).encode()}, lock_of(folder))
    assert hint in (caught.value.hint or "")
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("folder", ["poetry21", "poetry20", "poetry11", "pipenv", "uv"])
def test_what_does_not_change_what_is_needed_keeps_the_lock_good(folder: str) -> None:
    files, manifest = files_of(folder), MANIFEST_OF.get(folder, "pyproject.toml")
    other = b"# a comment\n" + files[manifest] + b"\n[tool.other]\nx = 1\n"
    if folder == "pipenv":
        other = b"# a comment\n" + files[manifest]
    assert chosen({**files, manifest: other}, lock_of(folder)) == chosen(files, lock_of(folder))


@pytest.mark.parametrize("folder", ["poetry21", "pipenv", "uv"])
def test_a_lock_whose_manifest_is_not_committed_is_refused(folder: str) -> None:
    manifest = MANIFEST_OF.get(folder, "pyproject.toml")
    files = {name: data for name, data in files_of(folder).items() if name != manifest}
    with pytest.raises(LockError, match=f"made from {manifest}, which is not in the commit"):
        read(files, lock_of(folder))


@pytest.mark.parametrize(
    ("folder", "group", "hint"),
    [
        ("poetry21", "dve", "dev"),
        ("poetry21", "extra.table", "extra.tables"),
        ("poetry11", "docs", "group"),
        ("pipenv", "doc", "docs"),
        ("uv", "nope", "dependency-groups"),
        ("uv", "extra.nope", "extra.NAME"),
        ("pylock", "deb", "dev"),
        ("pylock", "extra.tabels", "extra.tables"),
    ],
)
def test_a_group_that_the_lock_does_not_have_is_an_error(folder: str, group: str, hint: str) -> None:
    with pytest.raises(LockError) as caught:
        read(files_of(folder), lock_of(folder), "main", group)
    assert group.removeprefix("extra.") in caught.value.message
    assert hint in (caught.value.hint or "")


def test_extras_that_exclude_each_other_are_refused_in_uvs_own_words() -> None:
    with pytest.raises(LockError, match=r"`cpu`.*`gpu`"):
        read(files_of("uv"), "uv.lock", "main", "extra.cpu", "extra.gpu")


def test_a_lock_in_a_folder_of_its_own_is_read_with_the_manifest_beside_it() -> None:
    for folder in ("poetry21", "pipenv", "uv"):
        moved = {f"env/prod/{name}": data for name, data in files_of(folder).items()}
        assert chosen(moved, f"env/prod/{lock_of(folder)}") == chosen(files_of(folder), lock_of(folder))


def test_nothing_of_the_host_decides_what_uv_exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = select(read(files_of("uv"), "uv.lock"), LINUX)
    for name, value in {
        "UV_INDEX_URL": "http://127.0.0.1:1/simple",
        "UV_FROZEN": "0",
        "UV_PROJECT": str(tmp_path),
        "UV_NO_DEFAULT_GROUPS": "0",
        "UV_PYTHON": "2.7",
        "HTTPS_PROXY": "http://127.0.0.1:1",
        "PATH": str(tmp_path),
        "HOME": str(tmp_path),
    }.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "uv.toml").write_text("broken = [")
    monkeypatch.chdir(tmp_path)
    assert select(read(files_of("uv"), "uv.lock"), LINUX) == plain
    assert sorted(os.listdir(tmp_path)) == ["uv.toml"]


def test_a_damaged_uv_lock_is_told_in_uvs_words_without_a_path_of_this_machine() -> None:
    files = files_of("uv")
    text = files["uv.lock"].decode().replace("version = 1\n", "version = 99\n", 1)
    with pytest.raises(LockError, match="uv cannot read") as caught:
        read({**files, "uv.lock": text.encode()}, "uv.lock")
    assert "mirage-lock-" not in str(caught.value)
    with pytest.raises(LockError, match=r"uv\.lock:1: not TOML"):
        read({**files, "uv.lock": b"<<<<<<< HEAD\n"}, "uv.lock")


def test_an_index_that_the_lock_names_stays_with_its_packages() -> None:
    found = {p.name: p.index for p in select(read(files_of("uv"), "uv.lock"), LINUX).packages}
    assert set(found.values()) == {Index("https://example.com/simple")}
    files = files_of("pipenv")
    piped = select(read(files, "Pipfile.lock"), LINUX)
    assert {p.index for p in piped.packages} == {Index("https://example.com/simple", "pypi")}
    text = files_of("poetry21")["poetry.lock"].decode()
    named = text.replace(
        '[[package]]\nname = "colorama"',
        '[package.source]\ntype = "legacy"\nurl = "https://me:pw@example.com/simple"\nreference = "own"\n\n'
        '[[package]]\nname = "colorama"',
    )
    own = select(read({**files_of("poetry21"), "poetry.lock": named.encode()}, "poetry.lock"), LINUX)
    assert {p.name: p.index for p in own.packages}["click"] == Index("https://example.com/simple", "own")
    assert {p.name: p.index for p in own.packages}["markupsafe"] is None


def test_the_public_index_is_left_to_the_host_which_may_have_a_mirror_of_it() -> None:
    files = files_of("uv")
    public = uv_public_index()
    text = files["uv.lock"].decode().replace("https://example.com/simple", public)
    found = select(read({**files, "uv.lock": text.encode()}, "uv.lock"), LINUX)
    assert {p.index for p in found.packages} == {None}


def uv_public_index() -> str:
    """The public index, by uv's own word for it."""
    said = subprocess.run([uv.find_uv_bin(), "help", "export"], capture_output=True, text=True, check=True)
    match = re.search(r"by\s+default:\s+<?(https://[^>\s)]+)", said.stdout)
    assert match is not None
    return match[1]


def tags(target: Target) -> list[Tag]:
    return list(_places(target))


@pytest.mark.parametrize(
    "groups", [(), ("main",), ("main", "dev"), ("main", "extra.tables"), ("main", "dev", "extra.tables")]
)
def test_a_pylock_is_selected_from_as_packagings_own_selection_does(groups: tuple[str, ...]) -> None:
    files = files_of("pylock")
    ours = select(read(files, "pylock.toml", *(groups or ("main",))), LINUX)
    names = [name for name in groups if name != "main" and not name.startswith("extra.")]
    theirs = Pylock.from_dict(toml("pylock.toml", files["pylock.toml"])).select(
        environment=LINUX.environment(),  # type: ignore[arg-type]  # a TypedDict of the same strings
        tags=tags(LINUX),
        extras=[name.removeprefix("extra.") for name in groups if name.startswith("extra.")],
        dependency_groups=["tools", *names],
    )
    expected = {
        package.name: getattr(file, "name", None) for package, file in theirs if package.directory is None
    }
    assert {p.name: p.files[0].name for p in ours.packages} == expected
    assert [p.name for p in ours.packages if p.build] == ["docopt"]


def test_the_project_itself_is_left_out_of_a_pylock_with_a_note() -> None:
    found = read(files_of("pylock"), "pylock.toml")
    assert found.notes == ("pylock.toml:23: demo, the project itself, is left out: its code is in the image",)


def test_what_an_image_cannot_be_made_of_again_is_refused_where_it_is_needed_and_not_elsewhere() -> None:
    files = files_of("pylock")
    assert "remote" not in str(chosen(files, "pylock.toml"))
    text = (
        files["pylock.toml"]
        .decode()
        .replace('name = "remote"\nmarker = "sys_platform == \'win32\'"', 'name = "remote"')
        .replace('type = "git"', 'type = "hg"')
    )
    with pytest.raises(LockError, match=r"pylock\.toml:47: remote comes from version control"):
        chosen({**files, "pylock.toml": text.encode()}, "pylock.toml")


def test_a_file_without_an_index_is_taken_from_its_own_address() -> None:
    found = {p.name: p.url for p in select(read(files_of("pylock"), "pylock.toml"), LINUX).packages}
    assert found["click"] == "https://files.example.com/click-8.1.8-py3-none-any.whl"
    assert found["docopt"] == ""


def test_a_lock_for_another_python_or_platform_is_refused() -> None:
    for folder, python in (
        ("poetry21", "3.9.1"),
        ("poetry20", "3.7.1"),
        ("pipenv", "3.12.1"),
        ("uv", "3.9.0"),
        ("pylock", "3.9.0"),
    ):
        with pytest.raises(LockError, match=f"and the base has {re.escape(python)}") as caught:
            chosen(files_of(folder), lock_of(folder), target=replace(LINUX, python=python))
        assert "base:" in (caught.value.hint or "")
    files = files_of("pylock")
    text = (
        files["pylock.toml"]
        .decode()
        .replace("environments = [\"sys_platform == 'linux'\", ", "environments = [")
    )
    with pytest.raises(LockError, match="is not for CPython"):
        chosen({**files, "pylock.toml": text.encode()}, "pylock.toml")


@pytest.mark.parametrize(
    ("folder", "text", "message"),
    [
        ("pylock", b"lock-version = '1.0'\n", "PEP 751"),
        ("pylock", b"lock-version = \n", r"pylock\.toml:1: not TOML"),
        ("pylock", b"lock-version = '2.0'\ncreated-by = 'x'\npackages = []\n", "not supported"),
        ("poetry21", b"[metadata]\nlock-version = '3.0'\n", "lock version 3.0"),
        ("poetry21", b"[metadata]\n", "very old"),
        ("pipenv", b"{", r"Pipfile\.lock:1: not a Pipfile\.lock"),
        ("pipenv", b"[]", "not a Pipfile"),
        ("pipenv", b'{"_meta": {}}', "not a Pipfile"),
    ],
)
def test_a_file_that_is_no_lock_is_refused(folder: str, text: bytes, message: str) -> None:
    with pytest.raises(LockError, match=message):
        read({**files_of(folder), lock_of(folder): text}, lock_of(folder))


@pytest.mark.parametrize("source", ["git", "directory", "file"])
def test_a_package_of_poetry_from_elsewhere_is_refused_with_its_line(source: str) -> None:
    files = files_of("poetry21")
    text = (
        files["poetry.lock"]
        .decode()
        .replace(
            '[[package]]\nname = "colorama"',
            f'[package.source]\ntype = "{source}"\nurl = "x"\n\n[[package]]\nname = "colorama"',
        )
    )
    with pytest.raises(LockError, match=r"poetry\.lock:3: click comes from"):
        chosen({**files, "poetry.lock": text.encode()}, "poetry.lock")
    assert chosen({**files, "poetry.lock": text.encode()}, "poetry.lock", "docs") == ["packaging==25.0"]


@pytest.mark.parametrize(
    ("versions", "yes", "no"),
    [
        ("^1.2.3", "1.9", "2.0"),
        ("^0.2.3", "0.2.9", "0.3.0"),
        ("^0.0.3", "0.0.3", "0.0.4"),
        ("^0", "0.9", "1.0"),
        ("~1.2.3", "1.2.9", "1.3"),
        ("~1", "1.9", "2.0"),
        ("1.2.*", "1.2.7", "1.3"),
        ("*", "7", ""),
        (">=1,<2 || >=3", "3.1", "2.5"),
        (">=2.7, !=3.0.*, !=3.1.*", "3.2", "3.1.4"),
        (">=3.6.*", "3.6.1", "3.5"),
        ("2.1", "2.1.0", "2.2"),
        ("~=1.4.2", "1.4.9", "1.5"),
    ],
)
def test_poetrys_words_for_versions(versions: str, yes: str, no: str) -> None:
    assert allows(versions, yes)
    assert not no or not allows(versions, no)


def test_pythons_of_a_dependency_become_a_marker() -> None:
    assert python_marker(">=3.8,<3.11") == '(python_full_version < "3.11" and python_full_version >= "3.8")'
    assert python_marker("*") == ""
    with pytest.raises(LockError, match="not a version constraint"):
        allows("^x.y", "1")


def test_what_a_marker_asks_of_extras_is_answered_by_those_chosen() -> None:
    marker = 'extra == "cpu" and extra != "gpu" or "x" == extra'
    assert with_extras(marker, ["CPU"]) == 'os_name != "" and os_name != "" or os_name == ""'
    assert with_extras(marker, ["gpu", "x"]) == 'os_name == "" and os_name == "" or os_name != ""'
    assert with_extras(None, ["x"]) is None


def test_the_tags_of_a_target_are_those_that_packaging_gives_for_it_here() -> None:
    """Asked of this machine itself, where packaging looks at the running interpreter and its libc."""
    import platform

    from packaging.tags import sys_tags

    architecture = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
    here = Target(architecture, "CPython", platform.python_version(), " ".join(platform.libc_ver()))
    assert tags(here) == list(dict.fromkeys(sys_tags()))


@pytest.mark.parametrize(
    ("offered", "best"),
    [
        (["py3-none-any", "cp311-cp311-manylinux_2_17_x86_64"], 1),
        (["cp38-abi3-manylinux_2_17_x86_64", "py3-none-any", "cp311-none-any"], 0),
        (["cp311-cp311-manylinux_2_17_x86_64", "cp311-cp311-manylinux_2_28_x86_64"], 1),
        (["cp311-cp311-manylinux_2_28_x86_64", "cp311-cp311-manylinux_2_39_x86_64"], 0),
        (["2-py3-none-any", "10-py3-none-any", "py3-none-any"], 1),
        (["py2-none-any", "cp312-cp312-manylinux_2_17_x86_64", "py2.py3-none-any"], 2),
    ],
)
def test_of_several_wheels_that_fit_the_one_is_taken_that_pip_would_take(
    offered: list[str], best: int
) -> None:
    names = [f"x-1.0-{each}.whl" for each in offered]
    files = tuple(File(name, (f"sha256:{number:064}",)) for number, name in enumerate(names))
    package = Pinned(
        "x", "1.0", (), None, (), 1, files=(*files, File("x-1.0.tar.gz", ("sha256:" + "f" * 64,)))
    )
    (found,) = select(Lock("poetry", "poetry.lock", of_bytes(b""), (package,)), LINUX).packages
    assert found.files[0].name == names[best]
    assert found.hashes == files[best].hashes
