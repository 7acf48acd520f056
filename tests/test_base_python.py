"""Asking an image which Python it has: by either name, and what is said where there is none that works."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.digest import Digest, of_bytes
from orchestrator.errors import ImageError
from orchestrator.executors.docker_engine import DockerEngine
from orchestrator.executors.endpoint import choose
from orchestrator.image import interpreter
from orchestrator.image.base_image import Base
from orchestrator.image.layer import Entry, to_bytes
from orchestrator.image.library import Library, cache_folder
from orchestrator.image.loading import Parent, ensure, tag_of
from orchestrator.image.oci import Layer, RunConfig, build
from orchestrator.store.folder import FolderStore
from tests.base_tools import own_base

BROKEN = b"#!/bin/sh\necho out of order >&2\nexit 3\n"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return own_base(tmp_path_factory.mktemp("bank"), tmp_path_factory.mktemp("project"))


class Changed:
    """Images of Mirage's base with one more layer, taken out of the engine at the end."""

    def __init__(self, engine: DockerEngine, base: Base) -> None:
        self._engine = engine
        self._base = base
        self._library = Library(FolderStore.open_at(cache_folder()), FolderStore.open_at(cache_folder()))
        self.tags: list[str] = []

    def by(self, entries: list[Entry], path: str = "/usr/local/bin:/usr/bin:/bin") -> str:
        data = to_bytes(entries)
        top = Layer(of_bytes(data), len(data), "test")
        layers = (*self._base.image.layers, top)
        image = build(self._base.platform, layers, RunConfig(env=(("PATH", path),)), 0)
        self.tags.append(tag_of("test", image))
        parents = (Parent(self._base.tag, self._base.image),)

        def read(digest: Digest) -> Iterator[bytes]:
            return iter((data,)) if digest == top.digest else self._library.read(digest)

        return ensure(self._engine, image, self.tags[-1], parents, read)


@pytest.fixture
def changed(own: Base) -> Iterator[Changed]:
    engine = DockerEngine(choose(os.environ))
    made = Changed(engine, own)
    yield made
    for tag in made.tags:
        engine.remove_image(tag)


def test_an_image_that_only_has_python_is_asked_by_that_name(
    engine: DockerEngine, changed: Changed, own: Base
) -> None:
    link = Entry(b"opt/only/python", "link", data=b"/usr/bin/python3.11")
    found = interpreter.ask(engine, "mine", changed.by([link], "/opt/only"))
    assert found.version == own.python.version
    assert found.executable == "/opt/only/python"


def test_the_first_python3_on_the_path_is_the_one(engine: DockerEngine, changed: Changed) -> None:
    link = Entry(b"usr/local/bin/python3", "link", data=b"/usr/bin/python3.11")
    assert interpreter.ask(engine, "mine", changed.by([link])).executable == "/usr/local/bin/python3"


def test_without_any_python_both_names_are_in_the_message(engine: DockerEngine, changed: Changed) -> None:
    with pytest.raises(ImageError, match="python3: not found; python: not found") as caught:
        interpreter.ask(engine, "mine", changed.by([Entry(b"opt/only", "dir")], "/opt/only"))
    assert "base: python-3.11" in (caught.value.hint or "")


def test_a_python_that_does_not_work_is_quoted(engine: DockerEngine, changed: Changed) -> None:
    broken = Entry(b"usr/local/bin/python3", "file", True, data=BROKEN)
    with pytest.raises(ImageError, match="python3: 'out of order'"):
        interpreter.ask(engine, "mine", changed.by([broken]))


def test_no_probe_is_left_behind(engine: DockerEngine) -> None:
    assert engine.find("flow.mirage.builder=probe") == ()


def test_the_answer_is_ones_own_pythons(engine: DockerEngine, own: Base, tmp_path: Path) -> None:
    library = Library(FolderStore.open_at(cache_folder()), FolderStore.open_at(tmp_path))
    image = ensure(engine, own.image, own.tag, (), library.read)
    assert interpreter.ask(engine, own.name, image) == own.python
