"""Bases from a Dockerfile, built by the real engine and sealed: the same digest again, and nothing of this machine."""

from __future__ import annotations

import dataclasses
import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.engine_values import ContainerSpec
from orchestrator.errors import ConfigError, ImageError, LockError
from orchestrator.image.base import Base
from orchestrator.image.loading import ensure
from tests.base_tools import Place, place

MARK = "a-name-that-only-this-host-knows.example"
FULL = """\
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
ARG SOURCE_DATE_EPOCH=315532800
ENV FLAVOUR=vanilla
RUN apt-get update \\
 && apt-get install -y --no-install-recommends python3-yaml dbus \\
 && rm -rf /var/lib/apt/lists/*
# The CA bundle of the host is there, for whoever speaks TLS:
RUN python3 -c 'import os, ssl; ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])'
RUN useradd --system worker && date > /tmp/now && python3 -c 'import xml.dom.minidom'
COPY . /everything
COPY run.sh data /opt/own/
CMD ["never"]
"""
QUICK = "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nCOPY data /data\n"


@dataclass(frozen=True)
class Twice:
    place: Place
    first: Base
    second: Base
    entries: dict[str, tarfile.TarInfo]
    bodies: dict[str, bytes]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place(tmp_path_factory.mktemp("building")) as made:
        made.write("Dockerfile.base", FULL)
        made.write("Dockerfile.quick", QUICK)
        made.write("run.sh", "#!/bin/sh\n")
        (made.project / "run.sh").chmod(0o700)
        made.write("data/a.csv", "1,2\n")
        made.write("data/link", "")
        (made.project / "data/link").unlink()
        (made.project / "data/link").symlink_to("a.csv")
        made.write(".gitignore", "ignored\n.mirage\n")
        made.write("ignored", MARK)
        yield made


@pytest.fixture(scope="module")
def twice(here: Place) -> Twice:
    """One Dockerfile, built, and built again by an engine that reuses no step."""
    bundle = (here.handover.ca_bundle or b"") + f"# {MARK}\n".encode()
    env = (*here.handover.env, ("NO_PROXY", MARK), ("no_proxy", MARK), ("UV_DEFAULT_INDEX", MARK))
    here.handover = dataclasses.replace(here.handover, env=env, ca_bundle=bundle)
    first = here.resolve("Dockerfile.base")
    second = here.resolve("Dockerfile.base", fresh=True)
    data = b"".join(here.library.read(first.image.layers[0].digest))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        entries = {member.name: member for member in archive}
        files = {name: archive.extractfile(member) for name, member in entries.items() if member.isreg()}
        bodies = {name: body.read() for name, body in files.items() if body is not None}
    return Twice(here, first, second, entries, bodies)


def test_two_builds_give_the_same_digest(twice: Twice) -> None:
    assert [spec.fresh for spec in twice.place.engine.built] == [False, True]
    assert twice.first == twice.second
    assert twice.first.digest == twice.first.image.digest
    assert not twice.place.notes.warnings


def test_a_built_base_is_one_layer_known_with_python_packages_and_source(twice: Twice) -> None:
    base = twice.first
    assert len(base.image.layers) == 1
    assert base.python.version.startswith("3.11.")
    assert {"dbus", "python3-yaml", "libc6"} <= {name for name, _ in base.packages}
    assert base.source.startswith("dockerfile:Dockerfile.base@sha256:")


def test_the_environment_is_the_dockerfiles_without_what_served_the_build(twice: Twice) -> None:
    assert dict(twice.first.env).keys() == {"PATH", "FLAVOUR"}


def test_nothing_that_the_host_handed_over_is_in_the_layer(twice: Twice) -> None:
    assert not [name for name, body in twice.bodies.items() if MARK.encode() in body]
    assert not [name for name in twice.entries if "mirage" in name]
    assert not [name for name, body in twice.bodies.items() if b"mirage-build" in body]


def test_noise_of_the_build_and_the_engine_is_gone(twice: Twice) -> None:
    gone = (".dockerenv", "etc/resolv.conf", "etc/hostname", "etc/hosts", "etc/machine-id", "tmp/now")
    assert not [name for name in gone if name in twice.entries]
    assert not [name for name in twice.bodies if name.startswith(("var/log/", "var/cache/apt/", "run/"))]
    assert "worker:!:3652:" in twice.bodies["etc/shadow"].decode()  # the day of 1980-01-01, not today


def test_every_compiled_module_is_valid_for_its_source(twice: Twice) -> None:
    stamps = {
        body[8:12]
        for name, body in twice.bodies.items()
        if name.endswith(".pyc") and body[4:8] == b"\0\0\0\0"
    }
    assert stamps <= {(315532800).to_bytes(4, "little")}
    assert [
        name for name in twice.bodies if name.startswith("usr/lib/python3/dist-packages/yaml/__pycache__/")
    ]


def test_copied_files_are_the_ones_that_git_takes(twice: Twice) -> None:
    assert twice.bodies["opt/own/run.sh"] == b"#!/bin/sh\n"
    assert twice.entries["opt/own/run.sh"].mode == 0o755
    assert twice.bodies["opt/own/a.csv"] == b"1,2\n"
    assert twice.entries["opt/own/link"].linkname == "a.csv"
    copied = {name.removeprefix("everything/") for name in twice.entries if name.startswith("everything/")}
    files = {name for name in copied if not name.startswith("Dockerfile.")}
    assert files == {"run.sh", "data", "data/a.csv", "data/link", ".gitignore"}
    assert twice.bodies["everything/Dockerfile.base"].decode() == FULL


def test_what_a_run_does_not_take_from_a_dockerfile_is_told(twice: Twice) -> None:
    assert "Dockerfile.base:13: CMD has no effect in a base" in twice.place.notes.notes


def test_a_known_base_is_found_without_the_engine(twice: Twice) -> None:
    before = len(twice.place.engine.built)
    assert twice.place.resolve("Dockerfile.base") == twice.first
    assert len(twice.place.engine.built) == before


def test_another_machine_takes_it_from_the_store(twice: Twice, tmp_path: Path) -> None:
    other = twice.place.another_machine(tmp_path / "cache")
    assert other.resolve("Dockerfile.base") == twice.first
    assert other.engine.built == []


def test_a_sealed_base_runs(twice: Twice) -> None:
    engine = twice.place.engine
    image = ensure(engine, twice.first.image, twice.first.tag, (), twice.place.library.read)
    code = "import yaml, os; print(yaml.safe_load('[1]'), os.environ['FLAVOUR'])"
    container = engine.create(ContainerSpec(image=image, argv=("python3", "-c", code)))
    try:
        output = engine.attach(container)
        engine.start(container)
        assert b"".join(piece for _, piece in output) == b"[1] vanilla\n"
    finally:
        engine.remove(container)


def test_the_engine_keeps_neither_image_nor_container_of_the_build(twice: Twice) -> None:
    engine = twice.place.engine
    assert [engine.image(image) for image in engine.made] == [None] * len(engine.made)
    assert engine.find("flow.mirage.builder=seal") == ()


def test_a_copied_file_that_changes_makes_another_base_and_a_pin_wants_to_be_renewed(here: Place) -> None:
    first = here.pin("Dockerfile.quick")
    assert here.resolve("Dockerfile.quick") == first
    here.write("data/a.csv", "3,4\n")
    with pytest.raises(LockError, match=r"pins the base Dockerfile\.quick as it was") as caught:
        here.resolve("Dockerfile.quick")
    assert "mirage base pin Dockerfile.quick" in (caught.value.hint or "")
    second = here.pin("Dockerfile.quick")
    assert second.digest != first.digest
    assert here.resolve("Dockerfile.quick") == second


def test_a_step_that_fails_is_an_error_with_its_line_and_last_words(here: Place) -> None:
    here.write(
        "Dockerfile.bad", "ARG BASE_IMAGE\n# why\nFROM ${BASE_IMAGE}\nRUN echo on my way \\\n && exit 7\n"
    )
    with pytest.raises(ImageError) as caught:
        here.resolve("Dockerfile.bad")
    assert caught.value.message.startswith("Dockerfile.bad:4: ")
    assert "non-zero code: 7" in caught.value.message
    assert "  on my way" in caught.value.message
    assert caught.value.exit_code == 5


def test_a_password_of_the_proxy_that_a_command_writes_down_is_found(here: Place) -> None:
    here.write("Dockerfile.leak", "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nRUN echo $HTTP_PROXY > /etc/proxy\n")
    kept = here.handover
    here.handover = dataclasses.replace(
        kept, env=(("HTTP_PROXY", "http://me:s3cr%45t-word@proxy.example:1"),)
    )
    try:
        with pytest.raises(ImageError, match="password of this host's proxy"):
            here.resolve("Dockerfile.leak")
    finally:
        here.handover = kept


def test_a_file_without_python_is_refused(here: Place) -> None:
    here.write("Dockerfile.empty", "FROM scratch\nCOPY run.sh /\n")
    with pytest.raises(ImageError, match="no working Python"):
        here.resolve("Dockerfile.empty")


def test_a_dockerfile_that_is_not_there_is_a_config_error(here: Place) -> None:
    with pytest.raises(ConfigError, match=r"Dockerfile\.nowhere cannot be read"):
        here.resolve("Dockerfile.nowhere")
