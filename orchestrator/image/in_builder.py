"""The last steps of an environment, run inside the throw-away builder on the base's own Python.

After the installer: finds files that two packages both claim, removes what changes from build to build,
compiles byte code in a fixed order, and writes the layer. Standard library only; `layer.py` lies beside it.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import py_compile
import re
import shutil
import sys
from typing import Any

import layer  # type: ignore[import-not-found, unused-ignore]  # sent into the builder next to this file

VENV = "/opt/venv"
CHUNK_OF_FILES = 50
# uv and virtualenv leave these; they differ by version or machine, or help only interactive shells.
NOISE = (
    ".lock",
    ".gitignore",
    "CACHEDIR.TAG",
    "bin/activate",
    "bin/activate.bat",
    "bin/activate.csh",
    "bin/activate.fish",
    "bin/activate.nu",
    "bin/activate.ps1",
    "bin/activate.xsh",
    "bin/activate_this.py",
    "bin/deactivate.bat",
    "bin/pydoc.bat",
)
NOISE_IN_SITE_PACKAGES = ("_virtualenv.py", "_virtualenv.pth")


def site_packages() -> str:
    """The one site-packages folder of the environment."""
    return os.path.join(VENV, "lib", "python%d.%d" % sys.version_info[:2], "site-packages")


def distributions(site: str) -> list[tuple[str, str, str]]:
    """(name, version, .dist-info folder) of everything installed, by name."""
    found: list[tuple[str, str, str]] = []
    for item in sorted(os.listdir(site)):
        if item.endswith(".dist-info"):
            name, _, version = item[: -len(".dist-info")].partition("-")
            found.append((re.sub(r"[-_.]+", "-", name).lower(), version, os.path.join(site, item)))
    return found


def record_rows(folder: str) -> list[list[str]]:
    """The rows of a RECORD file: path, hash, size (PEP 376)."""
    try:
        with open(os.path.join(folder, "RECORD"), newline="", encoding="utf-8") as source:
            return [row for row in csv.reader(source) if row]
    except FileNotFoundError:
        return []


def overlaps(site: str) -> list[dict[str, Any]]:
    """Files that several packages claim with different contents: which one stays depends on luck."""
    claims: dict[str, dict[str, str]] = {}
    for name, _, folder in distributions(site):
        for row in record_rows(folder):
            if len(row) > 1 and row[1]:
                claims.setdefault(os.path.normpath(row[0]), {})[name] = row[1]
    return [
        {"path": path, "packages": sorted(by)}
        for path, by in sorted(claims.items())
        if len(set(by.values())) > 1
    ]


def clean(site: str) -> None:
    """Remove what differs between two equal builds; keep RECORD true."""
    for name in NOISE:
        path = os.path.join(VENV, name)
        if os.path.lexists(path):
            os.unlink(path)
    for name in NOISE_IN_SITE_PACKAGES:
        path = os.path.join(site, name)
        if os.path.lexists(path):
            os.unlink(path)
    home = os.path.dirname(os.path.realpath(os.path.join(VENV, "bin", "python")))
    with open(os.path.join(VENV, "pyvenv.cfg"), "w", encoding="utf-8") as config:
        config.write("home = %s\n" % home)
        config.write("include-system-site-packages = false\n")
        config.write("version = %d.%d.%d\n" % sys.version_info[:3])
    for _, _, folder in distributions(site):
        stamp = os.path.join(folder, "uv_cache.json")
        if os.path.exists(stamp):
            os.unlink(stamp)
            rows = [row for row in record_rows(folder) if not row[0].endswith("/uv_cache.json")]
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows(rows)
            with open(os.path.join(folder, "RECORD"), "w", newline="", encoding="utf-8") as record:
                record.write(text.getvalue())
    for folder, names, _ in os.walk(VENV):
        if "__pycache__" in names:
            names.remove("__pycache__")
            shutil.rmtree(os.path.join(folder, "__pycache__"))


def sources(site: str) -> list[str]:
    """The modules to compile, sorted; test suites stay as source (they run rarely, and are half of it)."""
    found: list[str] = []
    for folder, names, files in os.walk(site):
        names[:] = [name for name in names if name != "tests"]
        found.extend(os.path.join(folder, name) for name in files if name.endswith(".py"))
    return sorted(found)


def compile_all(files: list[str]) -> None:
    """Compile in forked children, one per fixed chunk: a module's byte code depends on what the same
    process compiled before it (cpython#129724), so the grouping must not depend on the number of cores.
    """
    chunks = [files[at : at + CHUNK_OF_FILES] for at in range(0, len(files), CHUNK_OF_FILES)]
    at_once = max(1, len(os.sched_getaffinity(0)))
    running: set[int] = set()
    failed = False
    while chunks or running:
        while chunks and len(running) < at_once:
            chunk = chunks.pop(0)
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    for path in chunk:
                        # a file that does not compile (a template, a newer syntax) stays source only
                        py_compile.compile(
                            path, quiet=2, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
                        )
                    status = 0
                finally:
                    os._exit(status)
            running.add(child)
        child, status = os.wait()
        running.discard(child)
        failed = failed or status != 0
    if failed:
        sys.exit("a compiling child process died")


def describe(site: str) -> list[dict[str, Any]]:
    """What was installed: name, version, wheel tags, and the digest of each RECORD."""
    found: list[dict[str, Any]] = []
    for name, version, folder in distributions(site):
        tags: list[str] = []
        record = b""
        try:
            with open(os.path.join(folder, "WHEEL"), encoding="utf-8") as source:
                tags = sorted(line[4:].strip() for line in source if line.startswith("Tag:"))
            with open(os.path.join(folder, "RECORD"), "rb") as raw:
                record = raw.read()
        except FileNotFoundError:
            pass
        found.append(
            {
                "name": name,
                "version": version,
                "tags": tags,
                "record": "sha256:" + hashlib.sha256(record).hexdigest(),
                "files": record.count(b"\n"),
            }
        )
    return found


def damaged(site: str, contested: set[str]) -> list[str]:
    """Packages with files that are missing or not what their RECORD says, but for files that others claim too."""
    wrong: list[str] = []
    for name, _, folder in distributions(site):
        for row in record_rows(folder):
            if len(row) < 2 or not row[1].startswith("sha256=") or os.path.normpath(row[0]) in contested:
                continue
            try:
                with open(os.path.normpath(os.path.join(site, row[0])), "rb") as source:
                    digest = hashlib.sha256(source.read()).digest()
            except FileNotFoundError:
                digest = b""
            if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != row[1][len("sha256=") :].rstrip("="):
                wrong.append(name)
                break
    return wrong


def main() -> None:
    """`inspect` prints clashes and damage as JSON; `finish OUT` cleans, compiles and writes the layer and its manifest."""
    site = site_packages()
    if sys.argv[1] == "inspect":
        clashes = overlaps(site)
        contested = {str(clash["path"]) for clash in clashes}
        print(json.dumps({"overlaps": clashes, "damaged": damaged(site, contested)}))
        return
    out = sys.argv[2]
    clean(site)
    packages = describe(site)
    compile_all(sources(site))
    with open(os.path.join(out, "layer.tar"), "wb") as target:
        layer.to_file(layer.scan(os.fsencode(VENV), b"opt/venv"), target)
    with open(os.path.join(out, "installed.json"), "w", encoding="utf-8") as target:
        json.dump(packages, target, sort_keys=True)


if __name__ == "__main__":
    main()
