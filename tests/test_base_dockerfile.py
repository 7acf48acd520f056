"""Dockerfiles: what is read out of them before the engine sees anything, and what is sent to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator import process
from orchestrator.errors import ConfigError
from orchestrator.image import dockerfile, dockerfile_recipe
from orchestrator.image.dockerfile import Source

START = "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\n"


def read(text: str) -> dockerfile.Dockerfile:
    return dockerfile.parse("Dockerfile.base", text.encode())


def images(text: str) -> list[str]:
    return [each.image for each in dockerfile.froms(read(text), {"BASE_IMAGE": "BASE_IMAGE"})]


def paths(text: str) -> list[Source]:
    return list(dockerfile.sources(read(START + text)))


def project(folder: Path, files: dict[str, str], ignored: str = "") -> Path:
    process.run(["git", "init", "-q", str(folder)])
    for name, text in {**files, ".gitignore": ignored}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_instructions_keep_their_lines_through_comments_continuations_and_blank_lines() -> None:
    file = read("# syntax=docker/dockerfile:1\n\nfrom a\nRUN one \\\n  # why\n\n  && two\nCOPY\tx y\n")
    assert [(each.word, each.line, each.last_line) for each in file.instructions] == [
        ("FROM", 3, 3),
        ("RUN", 4, 7),
        ("COPY", 8, 8),
    ]
    assert file.instructions[1].rest == "one   && two"
    assert file.instructions[2].rest == "x y"


def test_the_escape_directive_is_obeyed() -> None:
    file = read("# escape=`\nFROM a\nRUN one `\n && two\n")
    assert [each.word for each in file.instructions] == ["FROM", "RUN"]


def test_variables_of_from_are_filled_from_the_args_before_it() -> None:
    assert images(START) == ["BASE_IMAGE"]
    assert images("ARG V=3.12\nFROM --platform=linux/amd64 python:${V}-slim AS build\n") == [
        "python:3.12-slim"
    ]
    assert images("ARG V\nARG W=1\nFROM r/x:${V:-2}${W:+-slim}\n") == ["r/x:2-slim"]


def test_the_dockerfile_that_comes_with_mirage_starts_from_mirages_own_base() -> None:
    shipped = Path(__file__).parent.parent / "Dockerfile.base"
    recipe = dockerfile_recipe.load("Dockerfile.base", shipped.parent)
    assert [each.image for each in recipe.starts] == [dockerfile_recipe.MIRAGE_BASE]
    assert recipe.context == ()


def test_the_dockerfile_for_cuda_starts_from_one_image_that_must_be_pinned(tmp_path: Path) -> None:
    text = (Path(__file__).parent.parent / "images" / "cuda-12" / "Dockerfile.base").read_text()
    process.run(["git", "init", "-q", str(tmp_path)])
    (tmp_path / "Dockerfile.base").write_text(text)
    recipe = dockerfile_recipe.load("Dockerfile.base", tmp_path)
    assert [start.image for start in recipe.starts] == ["nvidia/cuda:12.8.1-base-ubuntu24.04"]
    assert recipe.context == ()
    with pytest.raises(ConfigError, match="moving name"):
        dockerfile_recipe.starts_of(recipe, lambda: pytest.fail("not Mirage's own"), lambda image: None)


def test_a_files_own_stages_and_scratch_are_no_images_to_resolve() -> None:
    text = (
        "FROM a@sha256:" + "0" * 64 + " AS Build\nFROM scratch AS empty\nFROM build\nCOPY --from=empty / /\n"
    )
    assert images(text) == ["a@sha256:" + "0" * 64]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("RUN true\n", "has no FROM"),
        ("FROM $NOTHING\n", r"Dockerfile.base:1: \$NOTHING has no value"),
        ("ARG A\nFROM ${A}\n", "Dockerfile.base:2: FROM .* names no image"),
        ("FROM a b c\n", "Dockerfile.base:1: cannot read FROM"),
        ("FROM a\nRUN <<EOF\necho hi\nEOF\n", "Dockerfile.base:2: here-documents"),
    ],
)
def test_what_cannot_be_read_is_an_error_with_its_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        images(text)


def test_sources_of_copy_and_add_are_named_relative_to_the_project() -> None:
    text = 'COPY --chown=1:1 a ./b/ /x/\nADD ["c d", "/y"]\nCOPY --from=other z /z\nADD https://e.org/f /f\nCOPY . /all\n'
    assert paths(text) == [Source(3, "a"), Source(3, "b"), Source(4, "c d"), Source(7, "")]


@pytest.mark.parametrize(
    ("text", "message"),
    [("RUN true\nCOPY $X /x\n", ":4: COPY .*known only during"), ("ADD ../x /x\n", ":3: .*outside")],
)
def test_sources_that_the_file_alone_does_not_tell_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        paths(text)


@pytest.mark.parametrize(
    ("source", "path", "taken"),
    [
        ("data", "data/a/b", True),
        ("data", "database", False),
        ("data/*.csv", "data/a.csv", True),
        ("data/*.csv", "data/deep/a.csv", False),
        ("*", ".hidden/a", True),
        ("a[1]", "a1", True),
        ("", "anything", True),
        ("data/a", "data", False),
    ],
)
def test_a_source_means_a_file_a_folder_or_what_its_wildcard_fits(
    source: str, path: str, taken: bool
) -> None:
    assert dockerfile.takes(Source(1, source), path) is taken


def test_what_is_sent_has_exact_froms_and_every_step_knows_its_line() -> None:
    file = read("# mine\nARG BASE_IMAGE\nFROM \\\n  ${BASE_IMAGE}\nRUN a \\\n && b\n")
    text, steps = dockerfile.rewritten(file, {3: "FROM exact@sha256:1"}, ("ARG ONE=1", "ARG TWO=2"))
    assert text.decode() == (
        "# mine\nARG BASE_IMAGE\nFROM exact@sha256:1\nARG ONE=1\nARG TWO=2\nRUN a \\\n && b\n"
    )
    assert steps == (2, 3, 3, 3, 5)


def test_the_recipe_covers_the_files_that_are_copied_and_no_others(tmp_path: Path) -> None:
    text = START + "COPY data /data\n"
    folder = project(tmp_path, {"Dockerfile.base": text, "data/a": "1", "src/train.py": "2"})

    def digest() -> str:
        return dockerfile_recipe.load("Dockerfile.base", folder).digest

    first = digest()
    (folder / "src/train.py").write_text("changed")
    assert digest() == first
    (folder / "data/a").chmod(0o755)
    second = digest()
    (folder / "data/a").write_text("changed")
    third = digest()
    (folder / "Dockerfile.base").write_text(text + "# a comment\n")
    assert len({first, second, third, digest()}) == 4


def test_copying_a_file_that_git_does_not_take_is_an_error_with_its_line(tmp_path: Path) -> None:
    text = START + "COPY secret.txt /x\n"
    folder = project(tmp_path, {"Dockerfile.base": text, "secret.txt": "1"}, ignored="secret.txt\n")
    with pytest.raises(ConfigError, match=r"Dockerfile.base:3: secret.txt is no file") as caught:
        dockerfile_recipe.load("Dockerfile.base", folder)
    assert "git add" in (caught.value.hint or "")


@pytest.mark.parametrize("name", ["/etc/Dockerfile", "../Dockerfile", "docker/../../Dockerfile.x"])
def test_a_dockerfile_outside_of_the_project_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="outside"):
        dockerfile_recipe.load(name, tmp_path)


def test_a_missing_dockerfile_is_an_error_that_says_where_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        dockerfile_recipe.load("Dockerfile.base", tmp_path)
    assert caught.value.exit_code == 2
    assert "copy Dockerfile.base" in (caught.value.hint or "")


def test_a_moving_from_is_an_error_with_its_line_and_the_command_that_pins_it(tmp_path: Path) -> None:
    folder = project(tmp_path, {"Dockerfile.base": "# mine\nFROM python:3.12-slim\n"})
    recipe = dockerfile_recipe.load("Dockerfile.base", folder)
    with pytest.raises(ConfigError, match=r"Dockerfile.base:2: FROM python:3.12-slim is a moving") as caught:
        dockerfile_recipe.starts_of(recipe, lambda: pytest.fail("not asked"), lambda image: None)
    assert "mirage base pin Dockerfile.base" in (caught.value.hint or "")
