"""`environment: {unpinned: resolve}`: resolved once by what the index has then, and the same ever after."""

from __future__ import annotations

import json
from pathlib import Path

from tests.base_tools import own_base
from tests.image_tools import Index, wheel
from tests.run_tools import Project

SETTINGS = (
    "project: probe\nworkflow: workflows.main\nbuild: {network: host}\nenvironment: {unpinned: resolve}\n"
)
WORKFLOW = (
    "import plain\nfrom mirage import artifact\nartifact.File.save(str(plain.x).encode(), name='seen')\n"
)


def newer(name: str, version: str, files: dict[str, bytes]) -> tuple[str, bytes]:
    """A wheel of another version."""
    file, data = wheel(name, files)
    import io
    import zipfile

    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(out, "w") as target:
        for item in source.infolist():
            body = source.read(item).replace(b"\nVersion: 1.0\n", f"\nVersion: {version}\n".encode())
            body = body.replace(f"{name}-1.0".encode(), f"{name}-{version}".encode())
            if item.filename.endswith("/RECORD"):
                body = b""
            target.writestr(item.filename.replace("-1.0.", f"-{version}."), body)
    return file.replace("-1.0-", f"-{version}-"), out.getvalue()


def test_what_was_resolved_once_stays_although_the_index_moves_on(tmp_path: Path) -> None:
    files = {"requirements.txt": "plain>=1\n", ".mirage/project.yaml": SETTINGS}
    project = Project(tmp_path / "repository", WORKFLOW, files=files)
    own_base(project.store, project.folder)
    project.commit()
    with Index(wheel("plain", {"plain.py": b"x = 1\n"})) as index:
        env = {"UV_DEFAULT_INDEX": index.url, "PIP_CONFIG_FILE": "/dev/null", "PIP_FIND_LINKS": ""}
        env |= {"MIRAGE_CACHE": str(tmp_path / "cache")}
        told = json.loads(project.mirage("explain", "--config", "configs/a.yaml", "--json", env=env))
        assert {each["state"] for each in told["keys"]} == {"unknown"}
        assert "a run resolves it first" in told["keys"][0]["reason"]
        out, err, code = project.ended(
            project.start("--config", "configs/a.yaml", "--json", program="mirage-run", env=env)
        )
        assert code == 0, err
        first = json.loads(out)
        assert "requirements.txt pins 0 of 1 packages; the others were resolved now" in err

        index.files |= dict([newer("plain", "2.0", {"plain.py": b"x = 2\n"})])
        env["MIRAGE_CACHE"] = str(tmp_path / "another machine")
        second = project.run("--no-cache", env=env)
        assert second["image"]["digest"] == first["image"]["digest"]
        assert second["outputs"] == [{**first["outputs"][0], "id": second["outputs"][0]["id"]}]
        told = json.loads(project.mirage("explain", "--config", "configs/a.yaml", "--json", env=env))
        assert [each["state"] for each in told["keys"]] == ["hit", "hit", "hit"]

        # another store knows nothing of it: the same commit, as the index has it now
        env["MIRAGE_CACHE"] = str(tmp_path / "third")
        other = Project(tmp_path / "other", WORKFLOW, files=files)
        own_base(other.store, other.folder)
        other.commit()
        third = other.run(env=env)
        assert third["commit"] == first["commit"]
        assert third["image"]["key"] != first["image"]["key"]
        assert other.blob(third["outputs"][0]["digest"]) != project.blob(first["outputs"][0]["digest"])
    record = project.record(first["run_id"])
    byproducts = {item["name"]: item for item in record["predicate"]["runDetails"]["byproducts"]}
    (package,) = json.loads(project.blob(byproducts["environment.json"]["digest"]["sha256"]))
    assert (package["name"], package["version"], package["hashes"]) == ("plain", "1.0", [index_hash(project)])
    bill = json.loads(project.blob(byproducts["sbom.cdx.json"]["digest"]["sha256"]))
    assert "pkg:pypi/plain@1.0" in {each["bom-ref"] for each in bill["components"]}
    assert project.mirage("verify", first["run_id"])


def index_hash(project: Project) -> str:
    """The hash that the resolution kept in the store names."""
    (kept,) = (project.store / "keys" / "resolved").glob("*/results/*.json")
    lines = project.blob(json.loads(kept.read_bytes())["digest"]).decode()
    return lines.rpartition("--hash=")[2].strip()
