"""The stage `snapshot`: clean or dirty, the commit of a dirty tree, and the way from a commit to bytes."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import SourceError
from orchestrator.source import content, git, lfs
from orchestrator.source.content import read_blob, read_blobs
from orchestrator.source.listing import OWN_FOLDERS
from orchestrator.source.snapshot import Snapshot, take
from tests import git_tools
from tests.git_tools import Repository, add_submodule, clone, contents, modes, new, project


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return git_tools.isolate(tmp_path, monkeypatch)


@pytest.fixture
def repo(work: Path) -> Repository:
    return project(work / "project")


def clean(folder: Path) -> Snapshot:
    taken = take(folder, allow_dirty=False)
    assert not taken.dirty
    return taken


def dirty(folder: Path) -> Snapshot:
    taken = take(folder, allow_dirty=True)
    assert taken.dirty
    return taken


def refused(folder: Path, *, allow_dirty: bool = False) -> SourceError:
    with pytest.raises(SourceError) as caught:
        take(folder, allow_dirty=allow_dirty)
    assert caught.value.exit_code == 3
    return caught.value


# --- where the project is -----------------------------------------------------------------------------------


def test_a_clean_project_at_the_root_is_its_commit(repo: Repository) -> None:
    taken = clean(repo.path)
    head = repo.git("rev-parse", "HEAD")
    assert (taken.commit, taken.base_commit) == (head, head)
    assert taken.tree == repo.git("rev-parse", "HEAD^{tree}")
    assert (taken.prefix, taken.branch, taken.remote, taken.shallow) == ("", "main", None, False)
    assert taken.commit_time == 1700000000
    assert contents(taken) == {b"main.py": b"print(1)\n", b"pkg/a.py": b"a = 1\n"}


def test_a_project_in_a_subfolder_has_its_own_tree_and_paths(repo: Repository) -> None:
    taken = clean(repo.path / "pkg")
    assert taken.prefix == "pkg"
    assert taken.tree == repo.git("rev-parse", "HEAD:pkg")
    assert contents(taken) == {b"a.py": b"a = 1\n"}
    assert read_blob(taken, b"a.py") == b"a = 1\n"
    with pytest.raises(SourceError, match="is not in the commit"):
        read_blob(taken, b"pkg/a.py")


def test_changes_outside_of_the_project_do_not_make_it_dirty(repo: Repository) -> None:
    before = clean(repo.path / "pkg")
    repo.write("main.py", "changed\n")
    repo.write("staged.py", "x\n")
    repo.git("add", "staged.py")
    repo.write("untracked.py", "x\n")
    assert clean(repo.path / "pkg") == before


def test_a_snapshot_of_a_subfolder_keeps_the_rest_of_heads_tree(repo: Repository) -> None:
    repo.write("pkgs/a.py", "a name that begins alike\n")
    repo.commit()
    repo.write("main.py", "changed outside\n")
    repo.write("staged.py", "staged outside\n")
    repo.git("add", "staged.py")
    repo.git("rm", "-q", "pkgs/a.py")
    repo.write("pkg/a.py", "a = 2\n")
    taken = dirty(repo.path / "pkg")
    assert contents(taken) == {b"a.py": b"a = 2\n"}
    assert repo.git("rev-parse", f"{taken.commit}:pkg") == taken.tree
    assert repo.git("diff", "--name-only", "HEAD", taken.commit) == "pkg/a.py"


def test_a_conflict_outside_of_the_project_is_no_hindrance(repo: Repository) -> None:
    conflict(repo, "main.py")
    repo.write("pkg/a.py", "a = 2\n")
    taken = dirty(repo.path / "pkg")
    assert repo.git("diff", "--name-only", "HEAD", taken.commit) == "pkg/a.py"


def test_a_project_folder_reached_by_a_symlink_is_the_real_one(repo: Repository, work: Path) -> None:
    (work / "link").symlink_to(repo.path / "pkg")
    assert clean(work / "link") == clean(repo.path / "pkg")


@pytest.mark.parametrize("name", ["a\nb", "-rf", ":(top)x", "ü ß", "*", 'q"u', "a\\b", " "])
def test_the_project_folder_may_have_any_name(repo: Repository, name: str) -> None:
    repo.write(f"{name}/deep/a.py", "1\n")
    repo.write(f"{name}/deep/.mirage/cache/x", "x")
    repo.git("add", "--", f"./{name}/deep/a.py", env={"GIT_LITERAL_PATHSPECS": "1"})
    repo.git("commit", "-qm", "odd")
    taken = clean(repo.path / name / "deep")
    assert (taken.prefix, contents(taken)) == (f"{name}/deep", {b"a.py": b"1\n"})
    repo.write(f"{name}/deep/a.py", "2\n")
    assert contents(dirty(repo.path / name / "deep")) == {b"a.py": b"2\n"}


def test_a_project_folder_that_is_not_utf8_is_refused(repo: Repository) -> None:
    repo.write(b"caf\xe9/a.py", "1\n")
    repo.commit()
    error = refused(repo.path / os.fsdecode(b"caf\xe9"))
    assert "not UTF-8" in error.message and error.hint


def test_no_repository(work: Path) -> None:
    error = refused(work)
    assert "not in a git repository" in error.message
    assert error.hint is not None and "git init" in error.hint


def test_a_bare_repository(repo: Repository, work: Path) -> None:
    bare = clone(repo, work / "bare", "--bare")
    for folder in (bare.path, repo.path / ".git"):
        error = refused(folder)
        assert "not in a work tree" in error.message and error.hint


def test_no_commit_yet(work: Path) -> None:
    empty = new(work / "empty")
    empty.write("a.py", "1\n")
    error = refused(empty.path, allow_dirty=True)
    assert "no commit yet" in error.message
    assert error.hint is not None and "git commit" in error.hint


def test_a_commit_that_cannot_be_read_is_not_called_missing(repo: Repository) -> None:
    head = repo.git("rev-parse", "HEAD")
    (repo.path / ".git" / "objects" / head[:2] / head[2:]).unlink()
    error = refused(repo.path)
    assert "cannot be read" in error.message and error.hint == "git fsck"


def test_a_project_that_is_not_in_the_commit(repo: Repository) -> None:
    repo.write("new/a.py", "1\n")
    error = refused(repo.path / "new", allow_dirty=True)
    assert "not in the commit" in error.message
    assert error.hint is not None and "git add" in error.hint


def test_a_folder_that_is_not_there(work: Path) -> None:
    assert "cannot read the repository" in refused(work / "nowhere").message


def test_detached_head_has_no_branch(repo: Repository) -> None:
    repo.git("checkout", "-q", "--detach")
    assert clean(repo.path).branch is None


@pytest.mark.parametrize(
    "name,shown",
    [
        (b"feature/x", "feature/x"),
        ("experiment/ü-é".encode(), "experiment/ü-é"),
        (b"it's\"$(x)`;&", "it's\"$(x)`;&"),
        (b"caf\xe9", "caf\\xe9"),
        (b"HEAD", "HEAD"),
        (b"refs/heads/main", "refs/heads/main"),
        (b"(detached)", "(detached)"),
        (b"a@b", "a@b"),
    ],
)
def test_branches_with_odd_names(repo: Repository, name: bytes, shown: str) -> None:
    repo.git("update-ref", b"refs/heads/" + name, "HEAD")
    repo.git("symbolic-ref", "HEAD", b"refs/heads/" + name)
    taken = clean(repo.path)
    assert taken.branch == shown
    assert taken.branch.encode()  # a record can hold it
    repo.write("main.py", "2\n")
    dirty(repo.path)


def test_refs_called_head_or_like_the_commit_do_not_mislead(repo: Repository) -> None:
    first = repo.git("rev-parse", "HEAD")
    repo.write("main.py", "second\n")
    head = repo.commit()
    for name in (
        "refs/heads/HEAD",
        "refs/tags/HEAD",
        f"refs/heads/{head}",
        f"refs/tags/{head}",
        "refs/tags/main",
    ):
        repo.git("update-ref", name, first)
    taken = clean(repo.path)
    assert (taken.commit, taken.branch) == (head, "main")
    assert read_blob(taken, b"main.py") == b"second\n"
    (repo.git_dir / "HEAD").write_text(f"{head}\n")
    assert clean(repo.path).branch is None
    repo.write("main.py", "third\n")
    assert f"parent {head}" in repo.git("cat-file", "commit", dirty(repo.path).commit)


def test_a_shallow_clone(repo: Repository, work: Path) -> None:
    repo.write("main.py", "2\n")
    head = repo.commit()
    shallow = clone(repo, work / "shallow", "--depth=1")
    taken = clean(shallow.path)
    assert taken.shallow and taken.commit == head
    assert taken.remote == f"file://{repo.path}"
    shallow.write("main.py", "3\n")
    repo.write("main.py", "3\n")
    assert dirty(shallow.path).commit == dirty(repo.path).commit


def test_a_linked_worktree(repo: Repository, work: Path) -> None:
    repo.git("worktree", "add", "-q", "-b", "side", str(work / "linked"))
    linked = Repository(work / "linked")
    linked.write("main.py", "2\n")
    state = linked.state()
    taken = dirty(linked.path)
    assert (taken.branch, read_blob(taken, b"main.py")) == ("side", b"2\n")
    assert linked.state() == state
    clean(repo.path)
    assert repo.git("rev-parse", f"refs/mirage/snapshots/{taken.commit}") == taken.commit


def test_a_sparse_checkout_is_the_whole_commit(repo: Repository) -> None:
    repo.write("far/b.py", "b\n")
    repo.write("far/c.py", "c\n")
    repo.commit()
    for words in (["--cone", "pkg"], ["--sparse-index", "--cone", "pkg"]):
        repo.git("sparse-checkout", "set", *words)
        assert not (repo.path / "far").exists()
        assert contents(clean(repo.path))[b"far/b.py"] == b"b\n"
        repo.write("main.py", "2\n")
        taken = dirty(repo.path)
        assert repo.git("diff", "--name-only", "HEAD", taken.commit) == "main.py"
        repo.git("checkout", "-q", "main.py")


def test_a_split_index_leaves_nothing_behind(repo: Repository) -> None:
    repo.git("config", "core.splitIndex", "true")
    repo.git("update-index", "--split-index")
    shared = sorted(repo.git_dir.glob("sharedindex.*"))
    repo.write("main.py", "2\n")
    assert read_blob(dirty(repo.path), b"main.py") == b"2\n"
    assert sorted(repo.git_dir.glob("sharedindex.*")) == shared


def test_a_sha256_repository(work: Path) -> None:
    repo = project(work / "long", "--object-format=sha256")
    assert len(clean(repo.path).commit) == 64
    repo.write("main.py", "2\n")
    (repo.path / "pkg/a.py").unlink()
    assert contents(dirty(repo.path)) == {b"main.py": b"2\n"}


# --- clean or dirty -----------------------------------------------------------------------------------------


def conflict(repo: Repository, name: str) -> None:
    repo.git("checkout", "-q", "-b", "other")
    repo.write(name, "theirs\n")
    repo.commit("theirs")
    repo.git("checkout", "-q", "main")
    repo.write(name, "ours\n")
    repo.commit("ours")
    repo.git("merge", "-q", "other", codes=(1,))


def _staged(repo: Repository) -> None:
    repo.write("main.py", "2\n")
    repo.git("add", "main.py")


def _renamed(repo: Repository) -> None:
    repo.git("mv", "main.py", "other.py")


def _mode(repo: Repository) -> None:
    (repo.path / "main.py").chmod(0o755)


def _conflict(repo: Repository) -> None:
    conflict(repo, "main.py")


def _intent(repo: Repository) -> None:
    repo.write("soon.py", "soon\n")
    repo.git("add", "-N", "soon.py")


def _cached(repo: Repository) -> None:
    repo.git("rm", "-q", "--cached", "main.py")


def _cached_and_ignored(repo: Repository) -> None:
    repo.git("rm", "-q", "--cached", "main.py")
    (repo.git_dir / "info").mkdir(exist_ok=True)
    (repo.git_dir / "info" / "exclude").write_text("main.py\n")


def _link(repo: Repository) -> None:
    (repo.path / "main.py").unlink()
    (repo.path / "main.py").symlink_to("pkg/a.py")


def _folder(repo: Repository) -> None:
    (repo.path / "main.py").unlink()
    repo.write("main.py/inner.py", "x\n")


def _file_for_folder(repo: Repository) -> None:
    (repo.path / "pkg/a.py").unlink()
    (repo.path / "pkg").rmdir()
    repo.write("pkg", "a file now\n")


def _staged_then_changed(repo: Repository) -> None:
    repo.write("main.py", "staged\n")
    repo.git("add", "main.py")
    repo.write("main.py", "2\n")


def _added_then_deleted(repo: Repository) -> None:
    repo.write("gone.py", "x\n")
    repo.git("add", "gone.py")
    (repo.path / "gone.py").unlink()
    (repo.path / "main.py").unlink()


A, MAIN = {b"pkg/a.py": b"a = 1\n"}, {b"main.py": b"print(1)\n"}
CASES: list[tuple[Callable[[Repository], object], list[str], dict[bytes, bytes]]] = [
    (_staged, ["M  'main.py'"], {**A, b"main.py": b"2\n"}),
    (lambda repo: repo.write("main.py", "2\n"), [" M 'main.py'"], {**A, b"main.py": b"2\n"}),
    (lambda repo: repo.write("new.py", "n\n"), ["?? 'new.py'"], {**A, **MAIN, b"new.py": b"n\n"}),
    (lambda repo: repo.write("d/e/n.py", "n\n"), ["?? 'd/e/n.py'"], {**A, **MAIN, b"d/e/n.py": b"n\n"}),
    (lambda repo: (repo.path / "main.py").unlink(), [" D 'main.py'"], A),
    (_renamed, ["D  'main.py'", "A  'other.py'"], {**A, b"other.py": b"print(1)\n"}),
    (_mode, [" M 'main.py'"], {**A, **MAIN}),
    (_conflict, ["UU 'main.py'"], {}),
    (_intent, [" A 'soon.py'"], {**A, **MAIN, b"soon.py": b"soon\n"}),
    (_cached_and_ignored, ["D  'main.py'"], A),
    (_link, [" T 'main.py'"], {**A, b"main.py": b"pkg/a.py"}),
    (_folder, [" D 'main.py'", "?? 'main.py/inner.py'"], {**A, b"main.py/inner.py": b"x\n"}),
    (_file_for_folder, [" D 'pkg/a.py'", "?? 'pkg'"], {**MAIN, b"pkg": b"a file now\n"}),
    (_staged_then_changed, ["MM 'main.py'"], {**A, b"main.py": b"2\n"}),
    (_added_then_deleted, ["AD 'gone.py'", " D 'main.py'"], A),
]


@pytest.mark.parametrize("change,lines,expected", CASES)
def test_a_dirty_tree_is_refused_with_its_files_or_taken_as_it_is_on_disk(
    repo: Repository, change: Callable[[Repository], object], lines: list[str], expected: dict[bytes, bytes]
) -> None:
    change(repo)
    before = repo.state()
    error = refused(repo.path)
    assert set(error.message.splitlines()[1:]) == {f"  {line}" for line in lines}
    assert error.hint is not None
    assert all(word in error.hint for word in ("git commit", ".gitignore", "--snapshot"))
    assert "refs/mirage" not in repo.git("show-ref")

    taken = dirty(repo.path)
    if expected:
        assert contents(taken) == expected
    assert taken.base_commit == repo.git("rev-parse", "HEAD") == repo.git("rev-parse", f"{taken.commit}^")
    assert taken.tree == repo.git("rev-parse", f"{taken.commit}^{{tree}}")
    assert repo.state() == before
    # The index that a user's own `git add -A` makes has the same tree (that adds what was only untracked before).
    repo.git("add", "-A")
    assert repo.git("write-tree") == taken.tree


def test_a_file_taken_out_of_the_index_only_is_still_in_the_snapshot(repo: Repository) -> None:
    _cached(repo)
    assert set(refused(repo.path).message.splitlines()[1:]) == {"  D  'main.py'", "  ?? 'main.py'"}
    taken = take(repo.path, allow_dirty=True)  # on disk all is as committed
    assert not taken.dirty and taken.commit == taken.base_commit
    assert contents(taken) == {**A, **MAIN}


def test_a_conflict_is_taken_with_its_marks_and_deleted_sides_as_they_are_on_disk(repo: Repository) -> None:
    repo.write("both.py", "base\n")
    repo.write("theirs.py", "base\n")
    repo.write("left.py", "base\n")
    repo.commit()
    repo.git("checkout", "-q", "-b", "other")
    repo.write("both.py", "theirs\n")
    repo.git("rm", "-q", "theirs.py", "left.py")
    repo.write("main.py", "theirs\n")
    repo.commit()
    repo.git("checkout", "-q", "main")
    repo.git("rm", "-q", "both.py")
    repo.write("theirs.py", "ours\n")
    repo.write("left.py", "ours\n")
    repo.write("main.py", "ours\n")
    repo.commit()
    repo.git("merge", "-q", "other", codes=(1,))
    (repo.path / "theirs.py").unlink()
    listed = refused(repo.path).message
    assert "DU 'both.py'" in listed and "UD 'theirs.py'" in listed and "UU 'main.py'" in listed
    found = contents(dirty(repo.path))
    assert b"<<<<<<< HEAD\nours\n=======\ntheirs\n" in found[b"main.py"]
    assert (found[b"both.py"], found[b"left.py"]) == (b"theirs\n", b"ours\n")
    assert b"theirs.py" not in found


def test_the_list_of_a_refusal_is_short_and_relative_to_the_project(repo: Repository) -> None:
    for number in range(25):
        repo.write(f"pkg/n{number:02}.py", "x\n")
    error = refused(repo.path / "pkg")
    assert "25 files differ" in error.message
    assert "?? 'n00.py'" in error.message
    assert error.message.splitlines()[-1] == "  and 5 more"


def test_ignored_files_do_not_count(repo: Repository, tmp_path: Path) -> None:
    repo.write(".gitignore", "*.log\nout/\n")
    repo.commit()
    repo.write("a.log", "x")
    repo.write("out/x", "x")
    clean(repo.path)
    repo.write("main.py", "2\n")
    assert set(contents(dirty(repo.path))) == {b".gitignore", b"main.py", b"pkg/a.py"}


def test_no_setting_of_the_user_hides_or_adds_a_change(repo: Repository) -> None:
    for setting in (
        "status.showUntrackedFiles=no",
        "status.branch=true",
        "status.showStash=true",
        "status.short=true",
        "status.relativePaths=true",
        "status.renames=copies",
        "status.submoduleSummary=true",
        "color.ui=always",
        "column.ui=always",
        "core.quotePath=true",
        "diff.ignoreSubmodules=all",
        "diff.noprefix=true",
        "log.showSignature=true",
    ):
        key, _, value = setting.partition("=")
        repo.git("config", "--global", key, value)
    clean(repo.path)
    repo.git("mv", "main.py", "moved.py")
    repo.write("new ü.py", "x\n")
    assert set(refused(repo.path).message.splitlines()[1:]) == {
        "  D  'main.py'",
        "  A  'moved.py'",
        "  ?? 'new ü.py'",
    }


def test_a_touched_file_with_the_same_content_is_clean(repo: Repository) -> None:
    os.utime(repo.path / "main.py", (1, 1))
    index = (repo.git_dir / "index").read_bytes()
    clean(repo.path)
    assert (repo.git_dir / "index").read_bytes() == index


def test_a_change_of_the_same_size_in_the_second_of_the_index_write_is_seen(repo: Repository) -> None:
    for number in range(3):
        repo.write("main.py", f"print({number + 2})\n")
        repo.git("add", "-A")
        repo.git("commit", "-qm", "racy")
        written = (repo.path / "main.py").stat()
        repo.write("main.py", f"PRINT({number + 2})\n")
        os.utime(repo.path / "main.py", ns=(written.st_atime_ns, written.st_mtime_ns))
        assert read_blob(dirty(repo.path), b"main.py") == f"PRINT({number + 2})\n".encode()
        assert "main.py" in refused(repo.path).message


def test_a_mode_that_is_only_in_the_index_is_kept(repo: Repository) -> None:
    repo.git("config", "core.fileMode", "false")
    repo.git("update-index", "--chmod=+x", "main.py")
    assert modes(dirty(repo.path))[b"main.py"] == "100755"


def test_what_the_user_told_git_not_to_look_at_is_taken_from_the_commit(repo: Repository) -> None:
    repo.git("update-index", "--assume-unchanged", "main.py")
    repo.write("main.py", "not looked at\n")
    assert contents(clean(repo.path)) == {**A, **MAIN}


def test_a_new_file_where_the_commit_has_a_folder_that_git_does_not_look_at(repo: Repository) -> None:
    repo.git("update-index", "--assume-unchanged", "pkg/a.py")
    (repo.path / "pkg/a.py").unlink()
    (repo.path / "pkg").rmdir()
    repo.write("pkg", "a file now\n")
    assert contents(dirty(repo.path)) == {**MAIN, b"pkg": b"a file now\n"}


def test_a_pipe_in_the_place_of_a_file_is_an_error_and_no_hang(repo: Repository) -> None:
    (repo.path / "main.py").unlink()
    os.mkfifo(repo.path / "main.py")
    assert "main.py" in refused(repo.path).message
    assert "git update-index" in refused(repo.path, allow_dirty=True).message


def test_mirages_own_folders_are_never_in_it(repo: Repository) -> None:
    for top in ("", "pkg/"):
        for own in OWN_FOLDERS:
            repo.write(f"{top}{own}/x", "x\n")
            assert not repo.git("check-ignore", f"{top}{own}/x", codes=(1,))
        repo.write(f"{top}.mirage/project.yaml", "version: 1\n")
    repo.git("add", ".mirage/project.yaml", "pkg/.mirage/project.yaml")
    repo.git("commit", "-qm", "config")
    clean(repo.path / "pkg")
    repo.write("pkg/a.py", "2\n")
    assert set(contents(dirty(repo.path / "pkg"))) == {b"a.py", b".mirage/project.yaml"}
    # Seen from the root, the folder below is another project's: nothing special.
    assert {f"  ?? 'pkg/{own}/x'" for own in OWN_FOLDERS} < set(refused(repo.path).message.splitlines())


def test_a_committed_store_is_left_out(repo: Repository) -> None:
    repo.write(".mirage/artifacts/x", "x\n")
    repo.write(".mirage/runs.yaml", "a name that begins alike\n")
    repo.commit()
    assert set(contents(clean(repo.path))) == {b"main.py", b"pkg/a.py", b".mirage/runs.yaml"}
    repo.write(".mirage/artifacts/x", "changed\n")
    clean(repo.path)


@pytest.mark.parametrize("own", [each for each in OWN_FOLDERS if each != ".mirage/artifacts"])
def test_a_machines_own_state_is_not_taken_from_the_repository(repo: Repository, own: str) -> None:
    repo.write(f"{own}/x", "somebody's\n")
    repo.commit()
    assert f"git rm -r --cached {own}" in (refused(repo.path).hint or "")


# --- the snapshot commit ------------------------------------------------------------------------------------


def test_the_same_content_gives_the_same_commit_elsewhere_later_and_by_another_user(
    repo: Repository, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = clone(repo, work / "other")

    def change(repository: Repository, names: list[str]) -> None:
        for name in names:
            repository.write(name, f"{name}\n")
        repository.write("run.sh", "#!/bin/sh\n", mode=0o755)
        (repository.path / "main.py").unlink()

    change(repo, ["b", "a", "c/d"])
    first = dirty(repo.path)
    time.sleep(1.1)
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    monkeypatch.setenv("GIT_AUTHOR_NAME", "Someone")
    monkeypatch.setenv("GIT_COMMITTER_DATE", "1234567890 +0500")
    for key, value in {
        "user.name": "Bob",
        "user.email": "bob@example.org",
        "i18n.commitEncoding": "UTF-16",
    }.items():
        other.git("config", "--global", key, value)
    other.git("checkout", "-q", "-b", "elsewhere")
    change(other, ["c/d", "a", "b"])
    other.git("add", "a", "run.sh")
    second = dirty(other.path)
    assert second.commit == first.commit
    assert (second.branch, first.branch) == ("elsewhere", "main")
    assert dirty(repo.path) == first
    assert repo.git("cat-file", "commit", first.commit).splitlines()[1:] == [
        f"parent {first.base_commit}",
        "author Mirage <mirage@localhost> 1700000000 +0000",
        "committer Mirage <mirage@localhost> 1700000000 +0000",
        "",
        "Mirage snapshot of uncommitted work",
    ]


def test_other_content_or_another_mode_gives_another_commit(repo: Repository) -> None:
    repo.write("main.py", "2\n")
    first = dirty(repo.path)
    (repo.path / "main.py").chmod(0o755)
    second = dirty(repo.path)
    repo.write("main.py", "3\n")
    third = dirty(repo.path)
    assert len({first.commit, second.commit, third.commit}) == 3


def test_a_snapshot_outlives_the_garbage_collector(repo: Repository) -> None:
    repo.write("data.bin", bytes(range(256)) * 100)
    taken = dirty(repo.path)
    (repo.path / "data.bin").unlink()
    repo.git("reflog", "expire", "--expire=now", "--all")
    repo.git("gc", "-q", "--prune=now")
    assert repo.git("rev-parse", f"refs/mirage/snapshots/{taken.commit}") == taken.commit
    assert contents(taken)[b"data.bin"] == bytes(range(256)) * 100
    assert repo.git("fsck", "--strict", "--no-dangling") == ""


def test_the_users_index_and_work_tree_are_untouched(repo: Repository) -> None:
    repo.write("main.py", "staged\n")
    repo.git("add", "main.py")
    repo.write("main.py", "changed\n")
    repo.write("new.py", "n\n")
    repo.git("stash", "create")
    before = (
        repo.state(),
        sorted(
            (path, path.lstat().st_mtime_ns) for path in repo.path.rglob("*") if ".git/" not in f"{path}/"
        ),
    )
    dirty(repo.path)
    refused(repo.path)
    assert before == (
        repo.state(),
        sorted(
            (path, path.lstat().st_mtime_ns) for path in repo.path.rglob("*") if ".git/" not in f"{path}/"
        ),
    )
    assert not list(repo.git_dir.glob("*.lock"))


def test_a_clean_project_and_a_refusal_write_nothing_at_all(repo: Repository) -> None:
    def stamps() -> list[tuple[Path, int]]:
        return sorted((path, path.lstat().st_mtime_ns) for path in repo.path.rglob("*"))

    os.utime(repo.path / "main.py", (1, 1))  # `git status` would write this into the index
    before = stamps()
    clean(repo.path)
    assert stamps() == before
    repo.write("new.py", "x\n")
    before = stamps()
    refused(repo.path)
    assert stamps() == before


def test_several_snapshots_at_once_agree(repo: Repository) -> None:
    repo.write("main.py", "2\n")
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(dirty(repo.path).commit)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6 and len(set(found)) == 1


ODD_NAMES = [
    b"new\nline",
    b"caf\xe9",
    b"-rf",
    b"--all",
    b":(exclude)x",
    b":colon",
    b"star*?[a]",
    b"!bang",
    b"#hash",
    b'"quoted"',
    b"it's",
    b"back\\slash",
    b"tab\there",
    b" space ",
    b"\xff\xfe",
    b"~",
    b"1 .M N... 100644",
    b"? untracked",
    b"long/" * 30 + b"x" * 255,
]


def test_names_of_every_kind(repo: Repository) -> None:
    for name in ODD_NAMES:
        repo.write(name, name + b"\n")
    error = refused(repo.path)
    assert f"{len(ODD_NAMES)} files differ" in error.message
    assert error.message.isprintable() or "\n" in error.message
    expected = {name: name + b"\n" for name in ODD_NAMES}
    taken = dirty(repo.path)
    assert contents(taken) == {**A, **MAIN, **expected}
    repo.commit()
    assert contents(clean(repo.path)) == {**A, **MAIN, **expected}
    for name in ODD_NAMES:
        (repo.path / os.fsdecode(name)).unlink()
    assert contents(dirty(repo.path)) == {**A, **MAIN}


def test_binaries_exec_bits_and_symlinks(repo: Repository) -> None:
    data = os.urandom(300_000) + b"\r\n\0"
    repo.write("data.bin", data)
    repo.write("empty", "")
    repo.write("run.sh", "#!/bin/sh\n", mode=0o755)
    (repo.path / "link").symlink_to("nowhere/at all")
    (repo.path / "out").symlink_to("/")
    (repo.path / "to_folder").symlink_to("pkg")
    taken = dirty(repo.path)
    found = contents(taken)
    assert (found[b"data.bin"], found[b"empty"], found[b"link"]) == (data, b"", b"nowhere/at all")
    assert (found[b"out"], found[b"to_folder"]) == (b"/", b"pkg")
    assert modes(taken) == {
        b"data.bin": "100644",
        b"empty": "100644",
        b"link": "120000",
        b"main.py": "100644",
        b"out": "120000",
        b"pkg/a.py": "100644",
        b"run.sh": "100755",
        b"to_folder": "120000",
    }


def test_content_comes_in_batches_and_in_order(repo: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "BATCH_BYTES", 100_000)
    for number in range(7):
        repo.write(f"big{number}", bytes([number]) * 40_000)
    repo.write("huge", b"x" * 250_000)
    repo.commit()
    calls: list[int] = []
    plain = git.ask

    def counted(*words: Any, **options: Any) -> bytes:
        out = plain(*words, **options)
        calls.append(len(out))
        return out

    taken = clean(repo.path)
    monkeypatch.setattr(git, "ask", counted)
    seen = list(read_blobs(taken.files))
    assert [file for file, _ in seen] == list(taken.files)
    assert all(len(data) == file.size for file, data in seen)
    assert dict(seen)[taken.files[3]] == b"\3" * 40_000
    assert len(calls) >= 4 and sorted(calls)[-2] < 110_000  # only the one huge file is more than a batch


# --- attributes ---------------------------------------------------------------------------------------------


def test_attributes_do_not_change_the_bytes_of_a_commit(repo: Repository) -> None:
    repo.write(
        ".gitattributes",
        "*.txt text eol=crlf\n*.id ident\n*.sub export-subst\nleft-out export-ignore\n"
        "*.u16 text working-tree-encoding=UTF-16LE eol=lf\n",
    )
    repo.write("a.txt", "one\r\ntwo\r\n")
    repo.write("a.id", "$Id$\n")
    repo.write("a.sub", "$Format:%H$\n")
    repo.write("left-out", "kept\n")
    repo.write("a.u16", "grüß\n".encode("utf-16-le"))
    repo.commit()
    for name in ("a.txt", "a.id", "a.u16"):
        (repo.path / name).unlink()
    repo.git("checkout", "-q", ".")
    assert (repo.path / "a.id").read_bytes() != b"$Id$\n"
    assert (repo.path / "a.txt").read_bytes() == b"one\r\ntwo\r\n"
    expected = {
        b"a.txt": b"one\ntwo\n",
        b"a.id": b"$Id$\n",
        b"a.sub": b"$Format:%H$\n",
        b"left-out": b"kept\n",
        b"a.u16": "grüß\n".encode(),
    }
    found = contents(clean(repo.path))
    assert {name: found[name] for name in expected} == expected
    repo.write("main.py", "2\n")
    repo.write("b.txt", "three\r\n")
    found = contents(dirty(repo.path))
    assert {name: found[name] for name in expected} == expected
    assert found[b"b.txt"] == b"three\n"


@pytest.mark.parametrize("value", ["true", "input"])
def test_line_ends_are_those_of_the_blob(repo: Repository, value: str) -> None:
    repo.git("config", "--global", "core.autocrlf", value)
    repo.git("config", "--global", "core.safecrlf", "true")
    repo.write("dos.txt", "a\r\nb\r\n")
    assert contents(dirty(repo.path))[b"dos.txt"] == b"a\nb\n"


def test_a_file_committed_with_crlf_stays_so(repo: Repository) -> None:
    repo.write("dos.txt", "a\r\n")
    repo.commit()
    repo.git("config", "core.autocrlf", "true")
    repo.write("dos.txt", "a\r\nb\r\n")
    assert contents(dirty(repo.path))[b"dos.txt"] == b"a\r\nb\r\n"


# --- time ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "written,expected",
    [
        ("-100", 0),
        ("0", 0),
        ("5", 5),
        ("99999999", 99999999),
        ("4102444800", 4102444800),
        ("9" * 15, 253402300799),
    ],
)
def test_commits_of_any_time(repo: Repository, written: str, expected: int) -> None:
    tree = repo.git("rev-parse", "HEAD^{tree}")
    data = f"tree {tree}\nauthor A <a@b.c> {written} +0000\ncommitter A > 7 <a@b.c> {written} -1130\n\ntime\n"
    commit = repo.git("hash-object", "-w", "-t", "commit", "--literally", "--stdin", stdin=data.encode())
    repo.git("update-ref", "--no-deref", "HEAD", commit)
    assert clean(repo.path).commit_time == expected
    repo.write("main.py", "2\n")
    taken = dirty(repo.path)
    assert taken.commit_time == expected
    assert repo.git("cat-file", "commit", taken.commit).splitlines()[3].endswith(f"> {expected} +0000")


def test_a_commit_in_another_encoding(repo: Repository) -> None:
    repo.git("config", "i18n.commitEncoding", "ISO-8859-1")
    repo.write("main.py", "2\n")
    repo.git("add", "-A")
    name = os.fsdecode(b"Jos\xe9")
    repo.git("commit", "-q", "-m", b"caf\xe9", env={"GIT_COMMITTER_NAME": name})
    assert "encoding ISO-8859-1" in repo.git("cat-file", "commit", "HEAD")
    assert clean(repo.path).commit_time == 1700000000
    repo.write("main.py", "3\n")
    assert "encoding" not in repo.git("cat-file", "commit", dirty(repo.path).commit)


# --- objects ------------------------------------------------------------------------------------------------


def test_replacements_and_grafts_do_not_count(repo: Repository) -> None:
    first = repo.git("rev-parse", "HEAD")
    repo.write("main.py", "second\n")
    head = repo.commit()
    repo.git("replace", head, first)
    blob = repo.git("rev-parse", f"{first}:main.py")
    repo.git("replace", "-f", repo.git("hash-object", "main.py"), blob)
    (repo.git_dir / "info").mkdir(exist_ok=True)
    (repo.git_dir / "info" / "grafts").write_text(f"{head}\n")
    taken = clean(repo.path)
    assert (taken.commit, contents(taken)[b"main.py"]) == (head, b"second\n")
    repo.write("main.py", "third\n")
    taken = dirty(repo.path)
    assert f"parent {head}" in repo.git("--no-replace-objects", "cat-file", "commit", taken.commit)


def test_a_blob_that_is_missing_names_the_file(repo: Repository) -> None:
    blob = repo.git("rev-parse", "HEAD:pkg/a.py")
    taken = clean(repo.path)
    (repo.git_dir / "objects" / blob[:2] / blob[2:]).unlink()
    with pytest.raises(SourceError, match=r"pkg/a\.py is not in this clone"):
        contents(taken)
    error = refused(repo.path)
    assert blob in error.message or "pkg/a.py" in error.message
    assert error.hint is not None and "new clone" in error.hint


def test_a_partial_clone_gives_what_it_has_and_names_what_it_has_not(repo: Repository, work: Path) -> None:
    repo.git("config", "uploadpack.allowFilter", "true")
    partial = clone(repo, work / "partial", "--filter=blob:none", "--sparse")
    assert not (partial.path / "pkg").exists()
    before = sorted((partial.git_dir / "objects").rglob("*"))
    error = refused(partial.path)
    assert repo.git("rev-parse", "HEAD:pkg/a.py") in error.message or "pkg/a.py" in error.message
    assert error.hint is not None and "--refetch" in error.hint
    assert sorted((partial.git_dir / "objects").rglob("*")) == before
    partial.git("sparse-checkout", "disable")
    assert contents(clean(partial.path)) == {**A, **MAIN}


# --- submodules ---------------------------------------------------------------------------------------------


@pytest.fixture
def library(work: Path) -> Repository:
    source = new(work / "library")
    source.write("lib.py", "lib = 1\n")
    source.commit()
    return source


def test_a_submodule_is_read_at_its_commit(repo: Repository, library: Repository) -> None:
    inner = add_submodule(repo, library, "libs/one")
    taken = clean(repo.path)
    assert contents(taken)[b"libs/one/lib.py"] == b"lib = 1\n"
    (module,) = taken.submodules
    assert (module.path, module.commit) == ("libs/one", inner.git("rev-parse", "HEAD"))
    assert module.url == f"file://{library.path}"
    assert contents(clean(repo.path / "libs"))[b"one/lib.py"] == b"lib = 1\n"
    assert b"lib.py" in contents(clean(inner.path))


def test_the_address_of_a_submodule_has_no_credentials(repo: Repository, library: Repository) -> None:
    add_submodule(repo, library, "one")
    for url, shown in {
        "https://user:secret@host.example/x.git?t=1#f": "https://host.example/x.git",
        "user@host.example:team/x.git": "ssh://host.example/team/x.git",
        "../x.git": "../x.git",
    }.items():
        repo.git("config", "-f", ".gitmodules", "submodule.one.url", url)
        repo.commit()
        assert [module.url for module in clean(repo.path).submodules] == [shown]


def test_a_submodule_that_is_not_checked_out(repo: Repository, library: Repository, work: Path) -> None:
    add_submodule(repo, library, "one")
    other = clone(repo, work / "other")
    for _ in range(2):
        error = refused(other.path)
        assert "'one' is not checked out" in error.message
        assert error.hint == "git submodule update --init --recursive"
        (other.path / "one" / ".git").mkdir(exist_ok=True)  # no repository: git would look further up
    (other.path / "one" / ".git").rmdir()
    (other.path / "one").rmdir()
    assert set(contents(dirty(other.path))) == {b".gitmodules", b"main.py", b"pkg/a.py"}


def test_a_submodule_that_lacks_the_commit(repo: Repository, library: Repository, work: Path) -> None:
    add_submodule(repo, library, "one")
    other = clone(repo, work / "other", "--recurse-submodules")
    library.write("lib.py", "lib = 2\n")
    library.commit()
    Repository(repo.path / "one").git("pull", "-q")
    repo.commit()
    other.git("fetch", "-q", "--no-recurse-submodules")
    other.git("reset", "-q", "--soft", "origin/main")
    other.git("update-index", "--cacheinfo", f"160000,{library.git('rev-parse', 'HEAD')},one")
    assert " M 'one'" in refused(other.path).message
    other.git("update-index", "--assume-unchanged", "one")
    error = refused(other.path)
    assert "does not have the commit" in error.message and error.hint


def test_another_commit_of_a_submodule_is_a_change(repo: Repository, library: Repository) -> None:
    inner = add_submodule(repo, library, "one")
    inner.write("lib.py", "lib = 2\n")
    commit = inner.commit()
    assert " M 'one'" in refused(repo.path).message
    taken = dirty(repo.path)
    assert contents(taken)[b"one/lib.py"] == b"lib = 2\n"
    assert [module.commit for module in taken.submodules] == [commit]
    assert repo.git("diff", "--name-only", "HEAD", taken.commit) == "one"


@pytest.mark.parametrize("name", ["lib.py", "new.py"])
@pytest.mark.parametrize("ignored", [False, True])
def test_changes_inside_of_a_submodule_are_refused(
    repo: Repository, library: Repository, name: str, ignored: bool
) -> None:
    inner = add_submodule(repo, library, "libs/one")
    if ignored:
        repo.git("config", "submodule.libs/one.ignore", "all")
    inner.write(name, "changed\n")
    assert f"'libs/one/{name}'" in refused(repo.path).message
    error = refused(repo.path, allow_dirty=True)
    assert "'libs/one/" in error.message and error.hint is not None and "in the submodule" in error.hint
    assert f"'one/{name}'" in refused(repo.path / "libs").message
    clean(repo.path / "pkg")
    repo.write("main.py", "2\n")
    refused(repo.path, allow_dirty=True)
    assert "refs/mirage" not in repo.git("show-ref")


def test_submodules_in_submodules(repo: Repository, library: Repository, work: Path) -> None:
    middle = project(work / "middle")
    add_submodule(middle, library, "deep")
    inner = add_submodule(repo, middle, "mid")
    assert "'mid/deep' is not checked out" in refused(repo.path).message
    inner.git("submodule", "--quiet", "update", "--init")
    taken = clean(repo.path)
    assert contents(taken)[b"mid/deep/lib.py"] == b"lib = 1\n"
    assert [module.path for module in taken.submodules] == ["mid", "mid/deep"]
    inner.write("deep/lib.py", "changed\n")
    assert "'mid/deep/lib.py'" in refused(repo.path, allow_dirty=True).message
    Repository(inner.path / "deep").commit()
    assert "'mid/deep'" in refused(repo.path, allow_dirty=True).message


def test_a_submodule_below_a_folder_of_the_projects_own_name(repo: Repository, library: Repository) -> None:
    inner = add_submodule(repo, library, "pkg/pkg/one")
    inner.write("lib.py", "changed\n")
    assert "  M 'pkg/one/lib.py'" in refused(repo.path / "pkg").message


@pytest.mark.parametrize("name", [b"..", b".git", b".GIT", b"."])
def test_a_commit_with_a_path_that_git_would_not_write_is_refused(
    repo: Repository, library: Repository, name: bytes
) -> None:
    inner = add_submodule(repo, library, "one")
    blob = inner.git("rev-parse", "HEAD:lib.py")
    below = inner.git("mktree", stdin=f"100644 blob {blob}\tx\n".encode())
    entry = b"40000 " + name + b"\0" + bytes.fromhex(below)
    tree = inner.git("hash-object", "-w", "-t", "tree", "--literally", "--stdin", stdin=entry)
    commit = inner.git("commit-tree", tree, "-m", "hostile")
    repo.git("update-index", "--cacheinfo", f"160000,{commit},one")
    repo.git("commit", "-qm", "a link to it")
    repo.git("update-index", "--assume-unchanged", "one")
    assert "git itself would not write" in refused(repo.path).message


def test_a_submodule_replaced_by_a_file_or_gone(repo: Repository, library: Repository) -> None:
    inner = add_submodule(repo, library, "one")
    repo.git("rm", "-q", "-f", "one")
    assert not inner.path.exists()
    assert b"one/lib.py" not in contents(dirty(repo.path))
    repo.write("one", "a file\n")
    taken = dirty(repo.path)
    assert contents(taken)[b"one"] == b"a file\n"
    assert taken.submodules == ()


def test_a_replacement_in_a_submodule_does_not_make_it_clean(repo: Repository, library: Repository) -> None:
    inner = add_submodule(repo, library, "one")
    head = inner.git("rev-parse", "HEAD")
    inner.write("lib.py", "other\n")
    other = inner.commit()
    inner.git("reset", "-q", "--soft", head)
    inner.git("replace", head, other)
    assert inner.git("status", "--porcelain") == ""
    assert "one/lib.py" in refused(repo.path, allow_dirty=True).message


@pytest.mark.parametrize("with_commit", [True, False])
def test_a_repository_of_its_own_in_the_project_is_refused(repo: Repository, with_commit: bool) -> None:
    inner = new(repo.path / "own")
    inner.write("x.py", "x\n")
    if with_commit:
        inner.commit()
    assert "'own/'" in refused(repo.path).message
    error = refused(repo.path, allow_dirty=True)
    assert "a git repository of its own" in error.message
    assert error.hint is not None and "git submodule add" in error.hint
    repo.write(".gitignore", "own/\n")
    dirty(repo.path)


# --- LFS ----------------------------------------------------------------------------------------------------


def pointer(data: bytes) -> bytes:
    oid = hashlib.sha256(data).hexdigest()
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(data)}\n".encode()


def store(folder: Path, data: bytes) -> Path:
    oid = hashlib.sha256(data).hexdigest()
    path = folder / "objects" / oid[:2] / oid[2:4] / oid
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


DATA = b"the content\0" * 1000


def test_a_pointer_stands_for_its_object(repo: Repository) -> None:
    repo.write("data/.gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n")
    repo.write("data/a.bin", pointer(DATA))
    repo.write("data/plain.bin", "no pointer\n")
    repo.write("fixture.txt", pointer(b"another"))
    repo.commit()
    store(repo.git_dir / "lfs", DATA)
    taken = clean(repo.path)
    assert taken.lfs
    assert [file.path for file in taken.files if file.lfs] == [b"data/a.bin"]
    found = contents(taken)
    assert found[b"data/a.bin"] == DATA == read_blob(taken, b"data/a.bin")
    assert found[b"data/plain.bin"] == b"no pointer\n"
    assert found[b"fixture.txt"] == pointer(b"another")  # it has no `filter=lfs`: git would not touch it


def test_pointers_without_objects_are_named(repo: Repository) -> None:
    repo.write(".gitattributes", "*.bin filter=lfs\n")
    repo.write("a.bin", pointer(DATA))
    repo.write("caf\\.bin", pointer(b"two"))
    repo.commit()
    error = refused(repo.path)
    assert "a.bin" in error.message and "caf\\.bin" in error.message
    assert error.hint == "git lfs pull"
    store(repo.git_dir / "lfs", b"two")
    path = store(repo.git_dir / "lfs", DATA)
    taken = clean(repo.path)
    path.write_bytes(b"X" * len(DATA))
    with pytest.raises(SourceError, match="absent or damaged") as caught:
        contents(taken)
    assert caught.value.hint
    path.write_bytes(DATA[:-1])
    assert "a.bin" in refused(repo.path).message


def test_a_pointer_without_any_attribute_is_a_file(repo: Repository) -> None:
    repo.write("a.bin", pointer(DATA))
    repo.commit()
    taken = clean(repo.path)
    assert not taken.lfs and contents(taken)[b"a.bin"] == pointer(DATA)


def test_attributes_of_the_commit_count_above_the_project_and_as_macros(repo: Repository) -> None:
    repo.write(".gitattributes", "[attr]big filter=lfs -text\npkg/**/*.bin big\npkg/x/*.bin -filter\n")
    repo.write("pkg/a.bin", pointer(DATA))
    repo.write("pkg/x/b.bin", pointer(b"b"))
    (repo.path / "pkg" / "link.bin").symlink_to(os.fsdecode(pointer(b"c")))
    repo.commit()
    store(repo.git_dir / "lfs", DATA)
    found = contents(clean(repo.path / "pkg"))
    assert (found[b"a.bin"], found[b"x/b.bin"]) == (DATA, pointer(b"b"))
    assert found[b"link.bin"] == pointer(b"c")


def test_attributes_of_the_snapshot_count(repo: Repository) -> None:
    repo.write("a.bin", pointer(DATA))
    repo.commit()
    store(repo.git_dir / "lfs", DATA)
    repo.write(".gitattributes", "a.bin filter=lfs\n")
    taken = dirty(repo.path)
    assert contents(taken)[b"a.bin"] == DATA


def test_the_users_own_attributes_do_not_count(repo: Repository, tmp_path: Path) -> None:
    (tmp_path / "attributes").write_text("*.txt filter=lfs\n")
    repo.git("config", "--global", "core.attributesFile", str(tmp_path / "attributes"))
    repo.write(".gitattributes", "*.bin filter=lfs\n")
    repo.write("fixture.txt", pointer(DATA))
    repo.write("a.bin", pointer(DATA))
    repo.commit()
    store(repo.git_dir / "lfs", DATA)
    found = contents(clean(repo.path))
    assert (found[b"fixture.txt"], found[b"a.bin"]) == (pointer(DATA), DATA)


def test_lfs_in_a_linked_worktree_a_submodule_and_another_storage(repo: Repository, work: Path) -> None:
    source = new(work / "lib")
    source.write(".gitattributes", "*.bin filter=lfs\n")
    source.write("deep/a.bin", pointer(DATA))
    source.commit()
    inner = add_submodule(repo, source, "one")
    assert "one/deep/a.bin" in refused(repo.path).message
    store(inner.git_dir / "lfs", DATA)
    assert contents(clean(repo.path))[b"one/deep/a.bin"] == DATA

    source.git("worktree", "add", "-q", str(work / "linked"))
    store(source.git_dir / "lfs", DATA)
    assert contents(clean(work / "linked"))[b"deep/a.bin"] == DATA

    (source.git_dir / "lfs").rename(work / "elsewhere")
    refused(source.path)
    source.git("config", "lfs.storage", str(work / "elsewhere"))
    assert contents(clean(source.path))[b"deep/a.bin"] == DATA


def test_pointer_grammar() -> None:
    good = pointer(DATA)
    assert lfs.parse_pointer(good) == lfs.Pointer(hashlib.sha256(DATA).hexdigest(), len(DATA), False)
    assert lfs.parse_pointer(good[:-1]) is not None
    assert lfs.parse_pointer(good.replace(b"git-lfs.github.com", b"hawser.github.com")) is not None
    extension = b"v1\next-0-foo sha256:" + b"0" * 64 + b"\n"
    extended = lfs.parse_pointer(good.replace(b"v1\n", extension))
    assert extended is not None and extended.extended
    for bad in (
        b"",
        good + b"\n",
        good + b"more\n",
        good.replace(b"spec/v1", b"spec/v2"),
        good.replace(b"sha256:", b"sha1:"),
        good.replace(b"size ", b"size -"),
        good + b" " * 1024,
    ):
        assert lfs.parse_pointer(bad) is None


# --- settings and cost --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url,shown",
    [
        ("https://user:p%40ss@host.example:8443/a/b.git", "https://host.example:8443/a/b.git"),
        ("https://a@b@host.example/x", "https://host.example/x"),
        ("https://host.example/x@y", "https://host.example/x@y"),
        ("https://host.example?token=secret", "https://host.example"),
        ("ssh://git@host.example/x", "ssh://host.example/x"),
        ("git@host.example:x/y.git", "ssh://host.example/x/y.git"),
        ("user:secret@host.example:x", "ssh://host.example/x"),
        ("/srv/a b.git", "file:///srv/a%20b.git"),
        ("../up.git", "../up.git"),
        ("./a:b", "./a:b"),
    ],
)
def test_a_public_url_has_no_credentials(repo: Repository, url: str, shown: str) -> None:
    assert git.public_url(url) == shown
    repo.git("config", "remote.origin.url", url)
    assert clean(repo.path).remote == shown


def test_a_remote_that_is_not_utf8_can_be_recorded(repo: Repository) -> None:
    repo.git("config", "remote.origin.url", b"https://host.example/caf\xe9")
    assert clean(repo.path).remote == "https://host.example/caf\\xe9"


def test_a_clean_project_costs_five_calls_of_git(
    repo: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "calls"
    git_tools.git_wrapper(tmp_path / "bin", monkeypatch, f'echo call >> "{log}"')
    clean(repo.path)
    assert log.read_text().count("call") == 5
    log.unlink()
    (repo.path / "main.py").write_text("2\n")
    dirty(repo.path)
    assert log.read_text().count("call") <= 13


def test_two_hundred_lfs_pointers_cost_no_more_calls_than_one(
    repo: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo.write(".gitattributes", "*.bin filter=lfs\n")
    for number in range(200):
        repo.write(f"{number}.bin", pointer(b"%d" % number))
        store(repo.git_dir / "lfs", b"%d" % number)
    repo.commit()
    log = tmp_path / "calls"
    git_tools.git_wrapper(tmp_path / "bin", monkeypatch, f'echo call >> "{log}"')
    assert contents(clean(repo.path))[b"7.bin"] == b"7"
    assert log.read_text().count("call") <= 16


def test_no_file_of_a_snapshot_is_read_from_the_work_tree(repo: Repository) -> None:
    taken = clean(repo.path)
    (repo.path / "main.py").write_text("later\n")
    assert contents(taken)[b"main.py"] == b"print(1)\n"
    assert stat.S_ISREG((repo.path / "main.py").stat().st_mode)
