"""Bases from Debian packages: recipes, one real build, and what must not be in it."""

from __future__ import annotations

import os
import re
import shutil
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.digest import Digest
from orchestrator.errors import ConfigError, ImageError
from orchestrator.image import mmdebstrap
from orchestrator.image.mmdebstrap import Packages, Recipe

RECIPE = "suite: bookworm\npackages: [python3]\npython: '3.11'\n"
SMALL = Recipe("small", "bookworm", "minbase", ("python3",), ("main",), "3.11", Digest("sha256:" + "0" * 64))


def recipe_in(folder: Path, text: str, name: str = "mine") -> Path:
    (folder / name).mkdir(parents=True)
    (folder / name / "recipe.yaml").write_text(text)
    return folder / name


# What mmdebstrap sees of this machine has another Python than Debian 12's.
OTHER_PYTHON = """#!/bin/sh
exec unshare --mount sh -euc '
  mount -t tmpfs none "$0" && mkdir "$0/upper" "$0/work" "$0/upper/python3.99"
  for each in /usr/lib/python3.*; do mknod "$0/upper/${each##*/}" c 0 0; done
  mount -t overlay none -o "lowerdir=/usr/lib,upperdir=$0/upper,workdir=$0/work" /usr/lib
  exec "$@"' "@FOLDER@" "@PROGRAM@" "$@"
"""


@dataclass(frozen=True)
class Built:
    path: Path
    packages: Packages
    steps: tuple[str, ...]
    lists_before: tuple[str, ...]
    lists_after: tuple[str, ...]


def own_lists() -> tuple[str, ...]:
    return tuple(sorted(path.name for path in Path("/var/lib/apt/lists").iterdir() if path.is_file()))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    out = tmp_path_factory.mktemp("base") / "root.tar"
    here = tmp_path_factory.mktemp("programs")
    (here / "overlay").mkdir()
    program = here / "mmdebstrap"
    text = OTHER_PYTHON.replace("@FOLDER@", str(here / "overlay"))
    program.write_text(text.replace("@PROGRAM@", str(shutil.which("mmdebstrap"))))
    program.chmod(0o755)
    steps: list[str] = []
    before = own_lists()
    old = os.umask(0o077)
    try:
        recipe = mmdebstrap.load_recipe(mmdebstrap.find_recipe("python-3.11"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PATH", f"{here}:{os.environ['PATH']}")
            packages = mmdebstrap.build_rootfs(recipe, out, report=steps.append)
    finally:
        os.umask(old)
    yield Built(out, packages, tuple(steps), before, own_lists())
    out.unlink()


def members(built: Built) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(built.path) as archive:
        return {member.name: member for member in archive}


def test_the_build_says_what_it_does_and_leaves_one_file(built: Built) -> None:
    assert any(step.startswith("downloading packages") for step in built.steps)
    assert [path.name for path in built.path.parent.iterdir()] == ["root.tar"]


def test_this_machines_own_package_lists_are_left_alone(built: Built) -> None:
    assert built.lists_after == built.lists_before


def test_entries_are_in_order_with_fixed_times_and_no_devices(built: Built) -> None:
    found = members(built)
    names = [name.encode() for name in found]
    assert names == sorted(names)
    assert {member.mtime for member in found.values()} == {mmdebstrap.SOURCE_DATE_EPOCH}
    assert not [name for name, member in found.items() if member.isdev()]
    assert found["dev"].isdir()


def test_modes_are_debians_own_whatever_the_umask(built: Built) -> None:
    found = members(built)
    assert stat.S_IMODE(found["tmp"].mode) == 0o1777
    assert stat.S_IMODE(found["usr"].mode) == 0o755
    assert stat.S_IMODE(found["usr/bin/su"].mode) == 0o4755


def test_the_packages_are_listed_with_exact_versions(built: Built) -> None:
    versions = dict(built.packages)
    assert versions["python3"].startswith("3.11.")
    assert {"libgomp1", "libstdc++6", "ca-certificates", "libc6"} <= set(versions)
    assert "gcc" not in versions
    assert "perl" not in versions
    assert list(built.packages) == sorted(built.packages)


def test_nothing_of_this_machine_or_of_today_is_left(built: Built) -> None:
    found = members(built)
    for name in ("etc/resolv.conf", "etc/hostname", "etc/machine-id", "etc/apt/apt.conf.d/99mmdebstrap"):
        assert name not in found
    for name in (
        "opt/venv",
        "mirage",
        "workspace",
        "var/cache/ldconfig/aux-cache",
        "var/lib/dpkg/status-old",
    ):
        assert name not in found
    empty = ("tmp/", "dev/", "usr/local/share/ca-certificates/", "usr/share/man/")
    assert not [name for name in found if name.startswith(empty)]
    assert not [
        name for name in found if name.startswith(("run/", "var/lib/apt/lists/")) and found[name].size
    ]
    assert not [name for name in found if name.startswith("var/log/") and found[name].isreg()]
    docs = [name for name in found if name.startswith("usr/share/doc/") and not found[name].isdir()]
    assert {Path(name).name for name in docs} == {"copyright"}


def test_no_certificate_name_or_proxy_of_this_machine_is_in_any_text_of_the_system(built: Built) -> None:
    needles = [os.environ[name].encode() for name in os.environ if name.lower().endswith("_proxy")]
    for own in Path("/usr/local/share/ca-certificates").rglob("*.crt"):
        needles.append(own.read_bytes().splitlines()[1])
    needles.append(re.escape(os.uname().nodename.encode()) + rb"\n")
    needles.append(b"/mmdebstrap.")
    seen = 0
    with tarfile.open(built.path) as archive:
        for member in archive:
            if member.isreg() and member.name.startswith(("etc/", "var/", "usr/local/", "root/")):
                body = archive.extractfile(member)
                assert body is not None
                content = body.read()
                seen += 1
                assert not [n for n in needles if n and n in content], member.name
    assert seen > 100


def test_compiled_modules_stay_valid_under_fixed_time_stamps(built: Built) -> None:
    flags = set()
    with tarfile.open(built.path) as archive:
        for member in archive:
            if member.name.endswith(".pyc"):
                body = archive.extractfile(member)
                assert body is not None
                flags.add(int.from_bytes(body.read(8)[4:], "little"))
    assert flags == {1}  # PEP 552: by hash, and not checked at import


def test_a_projects_own_recipe_goes_before_the_one_that_comes_with_mirage(tmp_path: Path) -> None:
    own = recipe_in(tmp_path / "images", RECIPE, "python-3.11")
    assert mmdebstrap.find_recipe("python-3.11", tmp_path) == own
    assert mmdebstrap.find_recipe("python-3.11") != own


@pytest.mark.parametrize("name", ["python-3.12x", "../images/python-3.11", "", "python-3.11/"])
def test_an_unknown_base_is_an_error_that_names_the_known_ones(name: str) -> None:
    with pytest.raises(ConfigError, match=r"known: python-3\.11"):
        mmdebstrap.find_recipe(name)


def test_a_recipe_is_the_same_whatever_its_readme_says_and_another_with_other_packages(
    tmp_path: Path,
) -> None:
    folder = recipe_in(tmp_path, RECIPE)
    first = mmdebstrap.load_recipe(folder)
    assert (first.name, first.suite, first.variant, first.components) == (
        "mine",
        "bookworm",
        "minbase",
        ("main",),
    )
    (folder / "README.md").write_text("about it")
    assert mmdebstrap.load_recipe(folder) == first
    (folder / "recipe.yaml").write_text(RECIPE.replace("[python3]", "[python3, git]"))
    assert mmdebstrap.load_recipe(folder).digest != first.digest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("suite: bookworm\npackage: [python3]\npython: '3.11'\n", "unknown key 'package'"),
        ("suite: bookworm\npackages: python3\npython: '3.11'\n", "packages: expected a list"),
        ("suite: bookworm\npackages: ['--foo']\npython: '3.11'\n", "packages: expected a string"),
        ("suite: 'bookworm; rm'\npackages: [python3]\npython: '3.11'\n", "suite: expected"),
        ("suite: bookworm\npackages: [python3]\npython: 3.11\n", "python: expected"),
        ("suite: bookworm\npackages: [python3]\npython: '3.11'\nvariant: essential\n", "unknown variant"),
        ("- a\n", "expected a mapping"),
    ],
)
def test_a_recipe_that_cannot_be_used_is_an_error_with_the_file(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        mmdebstrap.load_recipe(recipe_in(tmp_path, text))
    assert "recipe.yaml" in str(caught.value)


def test_without_mmdebstrap_the_error_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ImageError, match="mmdebstrap is missing") as caught:
        mmdebstrap.build_rootfs(SMALL, tmp_path / "root.tar", report=lambda _: None)
    assert "apt-get install mmdebstrap" in (caught.value.hint or "")


def test_without_a_network_the_error_says_so_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # the discard port: nothing listens there
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(ImageError, match="mirror cannot be reached"):
        mmdebstrap.build_rootfs(SMALL, tmp_path / "root.tar", report=lambda _: None)
    assert list(tmp_path.iterdir()) == []


def test_a_package_that_does_not_exist_is_named(tmp_path: Path) -> None:
    recipe = Recipe("odd", "bookworm", "minbase", ("no-such-thing",), ("main",), "3.11", SMALL.digest)
    with pytest.raises(ImageError, match="no such package: no-such-thing"):
        mmdebstrap.build_rootfs(recipe, tmp_path / "root.tar", report=lambda _: None)


def test_a_folder_that_cannot_be_written_is_an_image_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError):
        mmdebstrap.build_rootfs(SMALL, tmp_path / "missing" / "root.tar", report=lambda _: None)
