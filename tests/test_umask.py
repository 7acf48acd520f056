"""What Mirage makes cannot be written by every user of the machine, whatever the umask of its caller."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.run_tools import BIN, Project


def test_nothing_is_for_everybody_to_write(tmp_path: Path) -> None:
    project = Project(tmp_path / "repository")
    (tmp_path / "data").write_text("data")
    words = ["artifact", "add", str(tmp_path / "data"), "--as", "file:data"]
    subprocess.run([str(BIN / "mirage"), "init", str(tmp_path / "new")], check=True, umask=0)
    subprocess.run([str(BIN / "mirage"), *words], cwd=project.folder, check=True, umask=0)
    made = [*(tmp_path / "new").rglob("*"), *project.store.rglob("*")]
    assert len(made) > 20
    assert [path for path in made if not path.is_symlink() and path.lstat().st_mode & 0o002] == []
