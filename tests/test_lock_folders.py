"""Packages in folders of the commit itself: read in each format, part of the key, built from the commit's tree."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import uv

from orchestrator.errors import LockError, SourceError
from orchestrator.locks import pipfile
from orchestrator.locks.committed import of_snapshot
from orchestrator.locks.local import folder_of
from orchestrator.locks.pinned import Lock
from orchestrator.locks.poetry import content_hash
from orchestrator.locks.selection import select
from orchestrator.settings import EnvironmentSettings
from orchestrator.source import snapshot
from tests.base_tools import own_base
from tests.image_tools import engine
from tests.lock_tools import LINUX, built_here, read
from tests.run_tools import Project

PART = {
    "libs/part/pyproject.toml": b'[project]\nname = "The.Part"\nversion = "1"\n',
    "libs/part/the_part.py": b"x = 1\n",
}


def of_line(line: str, more: dict[str, bytes] | None = None) -> Lock:
    return read({**PART, **(more or {}), "requirements.txt": f"{line}\n".encode()}, "requirements.txt")


@pytest.mark.parametrize(
    "line",
    [
        "./libs/part",
        "libs/part",
        "./libs/part/",
        "-e ./libs/part",
        "-e libs/part",
        "--editable=./libs/part",
        "./libs/part ; python_version >= '3.8'",
        "./libs/part[more]",
    ],
)
def test_a_folder_of_the_commit_pins_a_package_by_what_it_holds(line: str) -> None:
    (package,) = select(of_line(line), LINUX).packages
    assert (package.name, package.build, package.hashes) == ("the-part", True, ())
    assert folder_of(package.vcs) == "libs/part"
    assert re.fullmatch(r"folder:libs/part@sha256:[0-9a-f]{64}", package.vcs)
    (other,) = select(of_line(line, {"libs/part/the_part.py": b"x = 2\n"}), LINUX).packages
    assert other.to_json() != package.to_json()
    (same,) = select(of_line(line, {"libs/parted.py": b"beside it"}), LINUX).packages
    assert same.to_json() == package.to_json()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("./libs/none", "of which the commit has no file"),
        ("-e ./libs/none", "of which the commit has no file"),
        ("../beside", "lies outside of the project"),
        ("-e ../../etc", "lies outside of the project"),
        ("./libs", "does not say its name"),
        ("./wheels/six-1.17.0-py2.py3-none-any.whl", "a file of a package"),
        ("-e ./dist/x-1.0.tar.gz", "a file of a package"),
        ("./libs/part --hash=sha256:" + "a" * 64, "not a folder of the project"),
        ("-e /srv/part", "not supported in a lock"),
        ("the-part @ file:///srv/libs/part", "comes from a path"),
        ("./libs/part\nthe-part==1", "pinned twice"),
    ],
)
def test_what_the_commit_does_not_have_is_refused_with_its_line(line: str, message: str) -> None:
    with pytest.raises(LockError, match=message) as caught:
        of_line(line)
    assert re.match(r"requirements\.txt:[12]: ", caught.value.message)


def test_the_name_may_be_poetrys_or_in_setup_cfg() -> None:
    poetry = {"libs/part/pyproject.toml": b'[tool.poetry]\nname = "one"\n'}
    setup = {
        "libs/part/pyproject.toml": b"",
        "libs/part/setup.cfg": b"[metadata]\nversion = 1\nname = two\n[x]\n",
    }
    assert [p.name for p in of_line("./libs/part", poetry).packages] == ["one"]
    assert [p.name for p in of_line("./libs/part", setup).packages] == ["two"]


def test_poetry_and_pipenv_name_folders_too() -> None:
    table = {"tool": {"poetry": {"dependencies": {"the-part": {"path": "libs/part"}}}}}
    manifest = b'[tool.poetry.dependencies]\nthe-part = {path = "libs/part"}\n'
    lock = (
        '[[package]]\nname = "the-part"\nversion = "1"\noptional = false\npython-versions = "*"\nfiles = []\n'
        'develop = true\ngroups = ["main"]\n[package.source]\ntype = "directory"\nurl = "URL"\n'
        '[metadata]\nlock-version = "2.1"\npython-versions = "*"\n'
        f'content-hash = "{content_hash(table, with_groups=True)}"\n'
    )
    files = {**PART, "pyproject.toml": manifest, "poetry.lock": lock.replace("URL", "libs/part").encode()}
    (package,) = select(read(files, "poetry.lock"), LINUX).packages
    assert (package.version, folder_of(package.vcs)) == ("1", "libs/part")
    files["poetry.lock"] = lock.replace("URL", "../part").encode()
    with pytest.raises(LockError, match=r"poetry\.lock:1: the-part comes from \.\./part, which lies outside"):
        select(read(files, "poetry.lock"), LINUX)
    pip = {"packages": {"the-part": {"path": "./libs/part", "editable": True}}}
    meta = {"hash": {"sha256": pipfile.content_hash(pip, {"sources": []})}, "sources": []}
    entry = {"the-part": {"path": "./libs/part", "editable": True}}
    piped = {
        **PART,
        "Pipfile": b'[packages]\nthe-part = {path = "./libs/part", editable = true}\n',
        "Pipfile.lock": json.dumps({"_meta": meta, "default": entry, "develop": {}}).encode(),
    }
    (found,) = select(read(piped, "Pipfile.lock"), LINUX).packages
    assert found.vcs == package.vcs


def test_members_of_a_workspace_and_folders_of_uv_are_built_and_the_project_is_not(tmp_path: Path) -> None:
    system = b'[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
    files = {
        "pyproject.toml": b'[project]\nname = "top"\nversion = "1"\nrequires-python = ">=3.10"\n'
        b'dependencies = ["part", "lent"]\n[tool.uv.workspace]\nmembers = ["packages/*"]\n'
        b'[tool.uv.sources]\npart = { workspace = true }\nlent = { path = "lent" }\n' + system,
        "packages/part/pyproject.toml": b'[project]\nname = "part"\nversion = "1"\nrequires-python = ">=3.10"\n'
        b"dependencies = []\n" + system,
        "packages/idle/pyproject.toml": b'[project]\nname = "idle"\nversion = "1"\nrequires-python = ">=3.10"\n'
        b"dependencies = []\n" + system,
        "lent/pyproject.toml": b'[project]\nname = "lent"\nversion = "3"\nrequires-python = ">=3.10"\n'
        + system,
    }
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    subprocess.run([uv.find_uv_bin(), "lock", "-q", "--offline", "--no-cache"], cwd=tmp_path, check=True)
    files["uv.lock"] = (tmp_path / "uv.lock").read_bytes()
    found = select(read(files, "uv.lock"), LINUX)
    assert {p.name: folder_of(p.vcs) for p in found.packages} == {"part": "packages/part", "lent": "lent"}
    assert found.notes == ("uv.lock: idle, top left out: the project's own code is in the image",)
    below = {f"sub/{name}": data for name, data in files.items()}
    assert {folder_of(p.vcs) for p in read(below, "sub/uv.lock").packages} == {
        "sub/packages/part",
        "sub/lent",
    }
    files["pylock.toml"] = (
        b'lock-version = "1.0"\ncreated-by = "x"\n[[packages]]\nname = "part"\n'
        b'directory = { path = "packages/part", editable = true }\n'
    )
    assert [folder_of(p.vcs) for p in read(files, "pylock.toml").packages] == ["packages/part"]
    del files["packages/part/pyproject.toml"]
    with pytest.raises(LockError, match=r"packages/part/pyproject\.toml, which is not in the commit"):
        read(files, "uv.lock")


def test_it_is_built_from_the_commit_and_the_same_again_elsewhere(tmp_path: Path) -> None:
    files = {f"libs/own/{name}": text for name, text in built_here("own").items()}
    workflow = (
        "import own\nfrom mirage import artifact\nartifact.File.save(own.__file__.encode(), name='seen')\n"
    )
    project = Project(tmp_path / "a", workflow, files={**files, "requirements.txt": "-e ./libs/own\n"})
    own_base(project.store, project.folder)
    project.commit()
    env = {"MIRAGE_CACHE": str(tmp_path / "cache")}
    first = project.run(env=env)
    (output,) = first["outputs"]
    assert output["id"].startswith("file:seen:")
    # what lies on the disk beside the commit has no part in it
    project.write("libs/own/own.py", "raise SystemExit('never')\n")
    project.write("libs/own/other.py", "ignored\n")
    err = project.refused("--config", "configs/a.yaml", code=3)
    assert "libs/own/own.py" in err
    subprocess.run(["git", "-C", str(project.folder), "checkout", "-q", "libs"], check=True)
    (project.folder / "libs/own/other.py").unlink()
    # code beside the package leaves the environment as it is; the package's own does not
    project.write("beside.py", "x = 1\n")
    project.commit()
    told = json.loads(project.mirage("image", "build", "--config", "configs/a.yaml", "--json", env=env))
    layers = [layer["digest"] for layer in told["layers"] if "environment" in layer["of"]]
    record = project.record(first["run_id"])
    assert layers[0] in json.dumps(record)
    project.write("libs/own/more.py", "x = 1\n")
    project.commit()
    changed = json.loads(project.mirage("image", "build", "--config", "configs/a.yaml", "--json", env=env))
    # its build takes no notice of that file, so the same wheel comes out under another key
    assert changed["key"] != told["key"]
    assert [each["digest"] for each in changed["layers"] if "environment" in each["of"]] == layers
    again = json.loads(
        project.mirage(
            "image", "verify", first["run_id"], "--json", env={"MIRAGE_CACHE": str(tmp_path / "b")}
        )
    )
    assert again["equal"]
    assert again["wanted"] == again["digest"] == first["image"]["digest"]
    for each in (first["image"]["digest"], told["digest"], changed["digest"]):
        engine().remove_image(f"mirage/run:{each[7:31]}")


def test_a_folder_of_the_repository_beside_the_project_is_built_as_it_is_committed(tmp_path: Path) -> None:
    workflow = (
        "import own\nfrom mirage import artifact\nartifact.File.save(str(own.built).encode(), name='seen')\n"
    )
    lock = {"requirements.txt": "-r ../../shared.txt\n"}
    project = Project(tmp_path / "a", workflow, below="apps/one", files=lock)
    own_base(project.store, project.folder)
    beside = project.root / "libs" / "own"
    for name, text in built_here("own").items():
        (beside / name).parent.mkdir(parents=True, exist_ok=True)
        (beside / name).write_text(text)
    code = (beside / "own.py").read_text()
    (project.root / "shared.txt").write_text("-e ../../libs/own\n")
    project.commit()
    env = {"MIRAGE_CACHE": str(tmp_path / "cache")}

    def built() -> dict[str, str]:
        told = json.loads(project.mirage("image", "build", "--config", "configs/a.yaml", "--json", env=env))
        return {layer["of"]: layer["digest"] for layer in told["layers"]}

    first = project.run(env=env)
    before = built()
    (beside / "own.py").write_text(code.replace("built = True", "built = False"))
    for option in ((), ("--snapshot",)):
        err = project.refused("--config", "configs/a.yaml", *option, code=3)
        assert (
            "../../libs/own, outside of the project and part of its environment, is not as committed" in err
        )
        assert "libs/own/own.py" in err
    project.commit()
    after = built()
    assert {what for what in before if before[what] != after[what]} >= {"mirage environment"}
    again = json.loads(project.mirage("image", "verify", first["run_id"], "--json", env=env))
    assert again["equal"]
    (project.root / "shared.txt").write_text("-e ../elsewhere\n")
    project.commit()
    err = project.refused("--config", "configs/a.yaml", code=4)
    assert "../elsewhere, which lies outside of the project, and the commit has no file there" in err
    (project.root / "shared.txt").write_text("-e ../../libs/own\n")
    (project.root / "shared.txt").unlink()
    err = project.refused("--config", "configs/a.yaml", code=3)
    assert "shared.txt" in err
    for each in {first["image"]["digest"]}:
        engine().remove_image(f"mirage/run:{each[7:31]}")


def test_a_project_that_is_a_member_of_a_workspace_has_the_workspaces_lock(tmp_path: Path) -> None:
    def manifest(name: str, needs: str, more: str = "") -> str:
        return f'[project]\nname = "{name}"\nversion = "1"\nrequires-python = ">=3.10"\ndependencies = [{needs}]\n{more}'

    workspace = '[tool.uv.workspace]\nmembers = ["packages/*"]\n'
    own = '[tool.uv.sources]\npart = { workspace = true }\n[dependency-groups]\ntools = ["idle"]\n'
    project = Project(tmp_path / "a", below="packages/app")
    for name, text in {
        "pyproject.toml": manifest("top", "", workspace),
        "packages/app/pyproject.toml": manifest(
            "app", '"part"', f"{own}[tool.uv.sources.idle]\nworkspace = true\n"
        ),
        "packages/part/pyproject.toml": manifest("part", "", "[tool.uv]\npackage = true\n"),
        "packages/idle/pyproject.toml": manifest("idle", "", "[tool.uv]\npackage = true\n"),
        "other/pyproject.toml": manifest("other", ""),
    }.items():
        (project.root / name).parent.mkdir(parents=True, exist_ok=True)
        (project.root / name).write_text(text)
    words = [uv.find_uv_bin(), "lock", "-q", "--offline", "--no-cache"]
    subprocess.run(words, cwd=project.root, check=True)
    project.commit()

    def locked(folder: Path, lock: str, *groups: str) -> Lock:
        taken = snapshot.take(folder, allow_dirty=False)
        settings = EnvironmentSettings(lock=lock, groups=("main", *groups))
        return select(of_snapshot(taken, settings), LINUX)

    found = locked(project.folder, "../../uv.lock")
    assert {each.name: folder_of(each.vcs) for each in found.packages} == {"part": "../../packages/part"}
    assert found.notes == ("../../uv.lock: app, idle, top left out: the project's own code is in the image",)
    more = locked(project.folder, "../../uv.lock", "tools")
    assert [each.name for each in more.packages] == ["idle", "part"]
    with pytest.raises(
        LockError, match=r"\.\./uv\.lock is the lock of a workspace, and other is no member of it"
    ):
        locked(project.root / "other", "../uv.lock")
    with pytest.raises(LockError, match=r"the lock file \.\./uv\.lock is not in the commit"):
        locked(project.folder, "../uv.lock")
    (project.root / "uv.lock").write_text("changed\n")
    with pytest.raises(SourceError, match=r"\.\./\.\./uv\.lock, outside of the project and part"):
        locked(project.folder, "../../uv.lock")
