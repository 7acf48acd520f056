"""Which base stands where several were made, that each is made once, and what happens to damaged ones."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.canonical import encode
from orchestrator.digest import Digest, of_bytes
from orchestrator.errors import ConfigError, ImageError, LockError
from orchestrator.image import mmdebstrap
from orchestrator.image.base import Bases, Pin, write_pin
from orchestrator.image.base_image import Base, Python, from_json
from orchestrator.image.base_shelf import Shelf
from orchestrator.image.library import Library
from orchestrator.image.oci import Layer, Platform, RunConfig, build
from orchestrator.store.folder import FolderStore
from tests.base_tools import Spy
from tests.image_tools import Notes

KEY = encode({"schema": "test", "of": "a base"})
PLATFORM = Platform("linux", "amd64")
PYTHON = Python("3.11.2", "/usr/bin/python3", "CPython", "glibc 2.36")
RECIPE = "suite: bookworm\npackages: [python3]\npython: '3.11'\n"


def library(folder: Path) -> Library:
    return Library(FolderStore.open_at(folder / "cache"), FolderStore.open_at(folder / "bank"))


def base_of(place: Library, content: bytes, name: str = "mine", source: str = "recipe:mine") -> Base:
    layer = Layer(place.put(content), len(content), "test")
    image = build(PLATFORM, (layer,), RunConfig(), 0)
    packages = (("apt", "2.6.1"),)
    return Base(name, image.digest, source, image, (("PATH", "/bin"),), PYTHON, PLATFORM, packages)


class Kitchen:
    """A shelf, and bases to put on it one after the other."""

    def __init__(self, folder: Path) -> None:
        self.notes = Notes()
        self.library = library(folder)
        self.shelf = Shelf(Spy(), self.library, self.notes)
        self.made = 0

    def maker(self, content: bytes) -> Callable[[], Base]:
        def make() -> Base:
            self.made += 1
            base = base_of(self.library, content)
            self.shelf.publish(base)
            return base

        return make

    def ask(self, content: bytes, *, fresh: bool = False, newest: bool = False) -> Base:
        return self.shelf.made("recipe", KEY, "mine", self.maker(content), fresh=fresh, newest=newest)


def test_a_base_is_made_once_and_then_known(tmp_path: Path) -> None:
    kitchen = Kitchen(tmp_path)
    first = kitchen.ask(b"one")
    assert kitchen.ask(b"two") == first
    assert kitchen.made == 1
    assert not kitchen.notes.warnings


def test_when_packages_moved_on_it_is_told_and_the_first_base_stands_until_a_pin_asks_for_the_last(
    tmp_path: Path,
) -> None:
    kitchen = Kitchen(tmp_path)
    first = kitchen.ask(b"one")
    second = kitchen.ask(b"two", fresh=True)
    assert first.digest != second.digest
    (warning,) = kitchen.notes.warnings
    assert second.digest in warning
    assert "`mirage base pin mine`" in warning
    assert kitchen.ask(b"three") == first
    assert kitchen.ask(b"three", newest=True) == second
    assert kitchen.made == 2


def test_making_the_same_again_is_no_drift(tmp_path: Path) -> None:
    kitchen = Kitchen(tmp_path)
    assert kitchen.ask(b"one") == kitchen.ask(b"one", fresh=True)
    assert not kitchen.notes.warnings


def test_of_several_that_ask_at_once_one_makes_it(tmp_path: Path) -> None:
    kitchen = Kitchen(tmp_path)
    threads = [threading.Thread(target=kitchen.ask, args=(b"one",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert kitchen.made == 1


def test_a_base_whose_layer_is_lost_is_made_again(tmp_path: Path) -> None:
    kitchen = Kitchen(tmp_path)
    base = kitchen.ask(b"one")
    for place in ("cache", "bank"):
        FolderStore.open_at(tmp_path / place).blob_path(base.image.diff_ids[0]).unlink()
    assert kitchen.shelf.find(base.digest) is None
    assert kitchen.ask(b"one") == base
    assert kitchen.made == 2


def test_a_base_that_this_machine_knows_gets_into_every_projects_store(tmp_path: Path) -> None:
    kitchen = Kitchen(tmp_path)
    base = kitchen.ask(b"one")
    other = Library(FolderStore.open_at(tmp_path / "cache"), FolderStore.open_at(tmp_path / "other"))
    assert Shelf(Spy(), other, kitchen.notes).find(base.digest) == base
    assert FolderStore.open_at(tmp_path / "other").has(base.image.diff_ids[0])


def test_what_is_kept_of_a_base_is_read_back_as_it_was_or_refused(tmp_path: Path) -> None:
    base = base_of(library(tmp_path), b"one")
    assert from_json(base.to_json()) == base
    for change in ({"digest": "x"}, {"python": None}, {"manifest": "{"}, {"packages": [["a"]]}, {"env": 1}):
        with pytest.raises(ImageError, match="damaged"):
            from_json({**base.to_json(), **change})  # type: ignore[dict-item, unused-ignore]


def project(folder: Path, recipe: str = RECIPE) -> Path:
    (folder / "images/mine").mkdir(parents=True)
    (folder / "images/mine/recipe.yaml").write_text(recipe)
    return folder


def test_a_pinned_base_is_taken_without_a_build(tmp_path: Path) -> None:
    folder = project(tmp_path / "project")
    place = library(tmp_path)
    recipe = mmdebstrap.load_recipe(folder / "images/mine")
    base = base_of(place, b"one", source=f"recipe:mine@{recipe.digest}")
    Shelf(Spy(), place, Notes()).publish(base)
    write_pin(folder, "mine", str(PLATFORM), Pin(base.digest, base.source))
    bases = Bases(Spy(), place, folder, Notes())
    assert bases.resolve("mine", PLATFORM) == base
    (folder / "images/mine/recipe.yaml").write_text(RECIPE.replace("[python3]", "[python3, git]"))
    with pytest.raises(LockError, match="pins the base mine as it was before") as caught:
        bases.resolve("mine", PLATFORM)
    assert caught.value.hint == "`mirage base pin mine`, and commit both"


def test_a_recipe_that_changes_has_another_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = project(tmp_path / "project")
    place = library(tmp_path)
    shelf = Shelf(Spy(), place, Notes())
    asked: list[tuple[str, ...]] = []

    def make(recipe: mmdebstrap.Recipe, *_: object, **__: object) -> Base:
        asked.append(recipe.packages)
        base = base_of(place, " ".join(recipe.packages).encode())
        shelf.publish(base)
        return base

    monkeypatch.setattr("orchestrator.image.recipe_base.make", make)
    notes = Notes()
    bases = Bases(Spy(), place, folder, notes)
    first = bases.resolve("mine", PLATFORM)
    (folder / "images/mine/recipe.yaml").write_text(RECIPE.replace("[python3]", "[python3, git]"))
    second = bases.resolve("mine", PLATFORM)
    assert bases.resolve("mine", PLATFORM) == second != first
    assert asked == [("python3",), ("git", "python3")]
    assert not notes.warnings


def test_a_pinned_recipe_that_gives_another_base_now_and_is_not_in_the_store_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = library(tmp_path)
    monkeypatch.setattr("orchestrator.image.recipe_base.make", lambda *_, **__: base_of(place, b"new"))
    gone = Digest(of_bytes(b"gone"))
    (tmp_path / "project").mkdir()
    write_pin(tmp_path / "project", "python-3.11", str(PLATFORM), Pin(gone, "recipe:python-3.11"))
    with pytest.raises(ImageError, match="have moved on") as caught:
        Bases(Spy(), place, tmp_path / "project", Notes()).resolve("python-3.11", PLATFORM)
    assert gone in caught.value.message
    assert "mirage base pin python-3.11" in (caught.value.hint or "")


def test_an_unknown_recipe_is_a_config_error_that_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"python-3\.11"):
        Bases(Spy(), library(tmp_path), tmp_path, Notes()).resolve("python-9", PLATFORM)
