"""No program that a repository names is started, and nothing around Mirage changes which repository it reads.

Each hostile setting is planted as a program that leaves a canary. Where plain git would run it, the test shows
that first: a canary that cannot sing proves nothing.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.errors import SourceError
from orchestrator.source import git
from orchestrator.source.content import read_blobs
from orchestrator.source.snapshot import take
from tests import git_tools
from tests.git_tools import Repository, add_submodule, clone, contents, new, project


@dataclass(frozen=True)
class Canary:
    """A program that leaves a file behind."""

    program: Path
    trace: Path

    @property
    def sang(self) -> bool:
        """Whether it was started since the last time this was asked."""
        was = self.trace.exists()
        self.trace.unlink(missing_ok=True)
        return was


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return git_tools.isolate(tmp_path, monkeypatch)


@pytest.fixture
def repo(work: Path) -> Repository:
    return project(work / "project")


@pytest.fixture
def canary(tmp_path: Path) -> Canary:
    trace = tmp_path / "sang"
    path = git_tools.program(tmp_path / "evil", f'echo "$0 $*" >> "{trace}"\nexit 1')
    return Canary(path, trace)


def take_all_ways(folder: Path) -> list[SourceError]:
    """Take it clean or not, and as a snapshot, content too; what was refused."""
    refused: list[SourceError] = []
    for allow_dirty in (False, True):
        try:
            taken = take(folder, allow_dirty=allow_dirty)
            for _ in read_blobs(taken.files):
                pass
        except SourceError as error:
            refused.append(error)
    return refused


def touch(repo: Repository) -> None:
    """Give git a reason to look into files: same size, other time; a changed one; a new one."""
    os.utime(repo.path / "pkg/a.py", (1, 1))
    repo.write("main.py", "print(2)\n")
    repo.write("new.py", "new\n")


# What is planted, and the plain git command that would start it (none where it needs a terminal or a network).
Plant = Callable[[Repository, Canary], object]
FILTERED = "* filter=evil diff=evil\n"


def _config(*pairs: str) -> Plant:
    def plant(repo: Repository, canary: Canary) -> None:
        for pair in pairs:
            key, _, value = pair.partition("=")
            repo.git("config", "--local", key, value.replace("{evil}", str(canary.program)))

    return plant


def _hook(name: str) -> Plant:
    def plant(repo: Repository, canary: Canary) -> None:
        git_tools.program(repo.git_dir / "hooks" / name, f'exec "{canary.program}"')

    return plant


def _hooks_path(repo: Repository, canary: Canary) -> None:
    folder = repo.path / ".git" / "other-hooks"
    for name in (
        "post-index-change",
        "reference-transaction",
        "post-checkout",
        "pre-auto-gc",
        "fsmonitor-watchman",
    ):
        git_tools.program(folder / name, f'exec "{canary.program}"')
    repo.git("config", "core.hooksPath", str(folder))


def _included(repo: Repository, canary: Canary) -> None:
    (repo.git_dir / "more").write_text(f'[filter "evil"]\n\tclean = {canary.program}\n')
    repo.git("config", "include.path", "more")


def _included_if(repo: Repository, canary: Canary) -> None:
    (repo.git_dir / "more").write_text(f'[filter "evil"]\n\tprocess = {canary.program}\n')
    repo.git("config", "includeIf.onbranch:main.path", "more")


def _nameless(repo: Repository, canary: Canary) -> None:
    repo.git("config", "filter..clean", str(canary.program))
    (repo.git_dir / "info").mkdir(exist_ok=True)
    (repo.git_dir / "info" / "attributes").write_text("* filter=\n")


def _dotted(repo: Repository, canary: Canary) -> None:
    repo.git("config", "filter.clean.process.clean", str(canary.program))
    (repo.git_dir / "info").mkdir(exist_ok=True)
    (repo.git_dir / "info" / "attributes").write_text("* filter=clean.process\n")


def _worktree_config(repo: Repository, canary: Canary) -> None:
    repo.git("config", "extensions.worktreeConfig", "true")
    repo.git("config", "--worktree", "filter.evil.clean", str(canary.program))
    repo.git("config", "--worktree", "core.fsmonitor", str(canary.program))


PLANTS: list[tuple[Plant, tuple[str, ...]]] = [
    (_config("core.fsmonitor={evil}"), ("status",)),
    (_config("core.fsmonitor={evil}", "core.fsmonitorHookVersion=1"), ("status",)),
    (_config("filter.evil.clean={evil}"), ("status",)),
    (_config("filter.evil.clean={evil} %f", "filter.evil.required=true"), ("add", "-A")),
    (_config("filter.evil.process={evil}"), ("add", "-A")),
    (_config("filter.evil.smudge={evil}"), ("checkout", "main.py")),
    (_nameless, ("add", "-A")),
    (_dotted, ("add", "-A")),
    (_worktree_config, ("add", "-A")),
    (_included, ("add", "-A")),
    (_included_if, ("add", "-A")),
    (_hooks_path, ("add", "-A")),
    (_hook("post-index-change"), ("add", "-A")),
    (_hook("reference-transaction"), ("update-ref", "refs/x", "HEAD")),
    (_config("diff.external={evil}"), ("diff",)),
    (_config("diff.evil.textconv={evil}"), ("diff",)),
    (_config("diff.evil.command={evil}"), ("diff",)),
    (_config("gpg.program={evil}", "commit.gpgSign=true", "tag.gpgSign=true"), ("commit", "-am", "x")),
    (_config("gpg.format=ssh", "gpg.ssh.program={evil}", "commit.gpgSign=true"), ()),
    (_config("gpg.program={evil}", "log.showSignature=true"), ()),
    (_config("core.editor={evil}", "sequence.editor={evil}"), ("commit", "-a")),
    (_config("core.pager={evil}", "pager.status={evil}", "pager.config={evil}", "pager.ls-tree={evil}"), ()),
    (_config("alias.status=!{evil}", "alias.x=!{evil}"), ("x",)),
    (_config("alias.rev-parse=!{evil}", "alias.ls-tree=!{evil}", "alias.cat-file=!{evil}"), ()),
    (_config("credential.helper={evil}", "core.askPass={evil}"), ()),
    (_config("core.alternateRefsCommand={evil}", "core.gitProxy={evil}", "gc.auto=1"), ()),
    (_config("uploadpack.packObjectsHook={evil}", "merge.evil.driver={evil}"), ()),
    (_config("trailer.evil.command={evil}", "trailer.evil.cmd={evil}", "submodule.recurse=true"), ()),
    (_config("core.sshCommand={evil}", "remote.origin.url=ssh://h/x"), ("fetch",)),
    (_config("remote.origin.url=/x", "remote.origin.uploadpack={evil}"), ("fetch",)),
]


@pytest.mark.parametrize("plant,provoke", PLANTS)
def test_no_program_of_the_repositorys_config_is_started(
    repo: Repository, canary: Canary, plant: Plant, provoke: tuple[str, ...]
) -> None:
    repo.write(".gitattributes", FILTERED)
    repo.commit()
    plant(repo, canary)
    touch(repo)
    refused = take_all_ways(repo.path)
    assert not canary.sang
    assert "3 files differ" in refused[0].message or "2 files differ" in refused[0].message
    if provoke:
        repo.git(*provoke, codes=range(256), env={"GIT_EDITOR": ""} if "core.editor" in provoke else None)
        assert canary.sang, "plain git would not have started it: the test proves nothing"


@pytest.mark.parametrize("plant,provoke", [each for each in PLANTS if each[1] == ("add", "-A")])
def test_nor_of_a_submodules_config(
    work: Path, repo: Repository, canary: Canary, plant: Plant, provoke: tuple[str, ...]
) -> None:
    source = project(work / "source")
    source.write(".gitattributes", FILTERED)
    source.commit()
    inner = add_submodule(repo, source, "libs/one")
    plant_in_submodule(inner, canary, plant)
    touch(inner)
    take_all_ways(repo.path)
    repo.write("main.py", "print(3)\n")
    take_all_ways(repo.path)
    take_all_ways(repo.path / "libs")
    assert not canary.sang
    inner.git(*provoke, codes=range(256))
    assert canary.sang


def plant_in_submodule(inner: Repository, canary: Canary, plant: Plant) -> None:
    if plant is _worktree_config:
        # `core.worktree` of a submodule has to move into its config.worktree (git-worktree(1)).
        place = inner.git("config", "core.worktree")
        inner.git("config", "extensions.worktreeConfig", "true")
        inner.git("config", "--worktree", "core.worktree", place)
        inner.git("config", "--unset", "core.worktree")
    elif plant is _hooks_path:
        folder = inner.git_dir / "other-hooks"
        git_tools.program(folder / "post-index-change", f'exec "{canary.program}"')
        inner.git("config", "core.hooksPath", str(folder))
        return
    plant(inner, canary)


def test_nor_of_a_submodule_whose_repository_lies_in_its_own_folder(repo: Repository, canary: Canary) -> None:
    inner = project(repo.path / "own")
    inner.write(".gitattributes", FILTERED)
    inner.commit()
    repo.git("-c", "advice.addEmbeddedRepo=false", "add", "own")
    repo.git("commit", "-qm", "a link without .gitmodules")
    _config("filter.evil.clean={evil}", "core.fsmonitor={evil}")(inner, canary)
    for folder in (repo.path, repo.path / "own"):
        touch(inner)
        take_all_ways(folder)
        assert not canary.sang
    repo.git("status", codes=range(256))
    assert canary.sang


def test_nor_of_a_nested_submodule(work: Path, repo: Repository, canary: Canary) -> None:
    source = project(work / "source")
    source.write(".gitattributes", FILTERED)
    source.commit()
    middle = project(work / "middle")
    add_submodule(middle, source, "deep")
    add_submodule(repo, middle, "mid")
    repo.git("submodule", "--quiet", "update", "--init", "--recursive")
    inner = Repository(repo.path / "mid/deep")
    _config("filter.evil.clean={evil}", "core.fsmonitor={evil}")(inner, canary)
    touch(inner)
    refused = take_all_ways(repo.path)
    assert not canary.sang
    assert [("mid/deep/main.py" in error.message) for error in refused] == [True, True]
    repo.git("status", codes=range(256))
    assert canary.sang


def test_nor_of_a_linked_worktrees_config(work: Path, repo: Repository, canary: Canary) -> None:
    repo.write(".gitattributes", FILTERED)
    repo.commit()
    repo.git("worktree", "add", "-q", str(work / "linked"))
    linked = Repository(work / "linked")
    _worktree_config(linked, canary)
    touch(linked)
    take_all_ways(linked.path)
    assert not canary.sang
    linked.git("add", "-A", codes=range(256))
    assert canary.sang


def test_nor_of_a_repository_of_its_own_that_is_untracked(repo: Repository, canary: Canary) -> None:
    inner = project(repo.path / "own")
    _config("core.fsmonitor={evil}", "filter.evil.clean={evil}")(inner, canary)
    touch(inner)
    take_all_ways(repo.path)
    assert not canary.sang


def test_a_bare_repository_among_the_files_is_only_files(
    repo: Repository, canary: Canary, work: Path
) -> None:
    inside = clone(repo, repo.path / "fixture", "--bare")
    inside.git("config", "core.fsmonitor", str(canary.program))
    repo.commit()
    assert b"fixture/HEAD" in contents(take(repo.path, allow_dirty=False))
    inside.git("config", "core.bare", "false")
    inside.git("config", "core.worktree", str(repo.path))
    take_all_ways(inside.path)
    assert not canary.sang
    inside.git("status", codes=range(256))
    assert canary.sang


def test_a_work_tree_that_the_config_puts_elsewhere_is_not_taken_for_the_project(
    repo: Repository, work: Path
) -> None:
    (work / "private").mkdir()
    (work / "private" / "secret").write_text("secret\n")
    repo.git("config", "core.worktree", str(work / "private"))
    for error in take_all_ways(repo.path):
        assert "not in a work tree" in error.message and "secret" not in error.message


def test_a_filter_of_the_repository_is_said_and_never_skipped_in_silence(repo: Repository) -> None:
    repo.write(".gitattributes", "*.ipynb filter=strip\n")
    repo.write("a.ipynb", "stripped\n")
    repo.commit()
    repo.git("config", "filter.strip.clean", "sed s/.*/stripped/")
    assert contents(take(repo.path, allow_dirty=False))[b"a.ipynb"] == b"stripped\n"
    repo.write("a.ipynb", "with output\n")
    refused, unfiltered = take_all_ways(repo.path)
    assert "not run: 'strip'" in refused.message
    assert "a.ipynb" in unfiltered.message and "'strip'" in unfiltered.message
    assert unfiltered.hint is not None and "--global" in unfiltered.hint
    repo.git("checkout", "-q", "a.ipynb")
    repo.write("main.py", "2\n")  # a file that has nothing to do with it
    assert contents(take(repo.path, allow_dirty=True))[b"main.py"] == b"2\n"


def test_a_filter_of_the_users_own_config_is_run(repo: Repository) -> None:
    repo.git("config", "--global", "filter.up.clean", "tr a-z A-Z")
    repo.git("config", "--global", "filter.up.required", "true")
    repo.write(".gitattributes", "*.up filter=up\n")
    repo.write("a.up", "abc\n")
    assert contents(take(repo.path, allow_dirty=True))[b"a.up"] == b"ABC\n"
    repo.commit()
    os.utime(repo.path / "a.up", (1, 1))
    assert not take(repo.path, allow_dirty=False).dirty


def test_a_filter_with_an_equals_sign_cannot_slip_through(repo: Repository, canary: Canary) -> None:
    repo.write(".gitattributes", "* filter=a=b\n")
    repo.commit()
    repo.git("config", "filter.a=b.clean", str(canary.program))
    touch(repo)
    for error in take_all_ways(repo.path):
        assert "'a=b'" in error.message and error.hint
    assert not canary.sang
    repo.git("add", "-A")
    assert canary.sang


def test_lfs_set_up_in_the_repository_runs_git_lfs_and_nothing_else(
    repo: Repository, canary: Canary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo.write(".gitattributes", "*.bin filter=lfs\n")
    repo.commit()
    _config("filter.lfs.clean={evil}", "filter.lfs.process={evil}", "filter.lfs.required=false")(repo, canary)
    repo.write("a.bin", "data\n")
    called = tmp_path / "called"
    git_tools.program(tmp_path / "bin" / "git-lfs", f'echo "$*" >> "{called}"\nexit 1')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    _, error = take_all_ways(repo.path)
    assert not canary.sang
    assert called.read_text().splitlines()[0] == "filter-process"
    assert "git update-index" in error.message
    repo.git("config", "lfs.extension.evil.clean", str(canary.program))
    called.unlink()
    _, error = take_all_ways(repo.path)
    assert not called.exists() and "'lfs'" in error.message


def test_a_missing_git_lfs_has_a_next_step(
    repo: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo.write(".gitattributes", "*.bin filter=lfs\n")
    repo.commit()
    repo.git("config", "--global", "filter.lfs.process", "git-lfs filter-process")
    repo.git("config", "--global", "filter.lfs.required", "true")
    repo.write("a.bin", "data\n")
    (tmp_path / "bin").mkdir()
    for name in ("git", "sh"):
        found = shutil.which(name)
        assert found is not None
        (tmp_path / "bin" / name).symlink_to(found)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    _, error = take_all_ways(repo.path)
    assert error.hint is not None and "install git-lfs" in error.hint


def test_hooks_in_a_config_are_turned_off_one_by_one(repo: Repository) -> None:
    repo.git("config", "--global", "hook.mine.command", "true")
    repo.git("config", "hook.evil.one.command", "true")
    found = git.settings(repo.path)
    assert found.overrides == ("hook.evil.one.enabled=false", "hook.mine.enabled=false")
    assert found.inert == ()
    repo.write("main.py", "2\n")
    assert take(repo.path, allow_dirty=True).dirty


# --- missing objects ----------------------------------------------------------------------------------------


def test_a_missing_object_is_not_fetched(work: Path, repo: Repository, canary: Canary) -> None:
    repo.git("config", "uploadpack.allowFilter", "true")
    partial = clone(repo, work / "partial", "--filter=blob:none", "--sparse")
    for url in ("ssh://host.example/x", f"ext::{canary.program} %S", f"file://{work}/gone"):
        partial.git("config", "remote.origin.url", url)
        partial.git("config", "protocol.ext.allow", "always")
        _config("core.sshCommand={evil}", "remote.origin.uploadpack={evil}", "ssh.variant=simple")(
            partial, canary
        )
        take_all_ways(partial.path)
        partial.write("main.py", "2\n")
        take_all_ways(partial.path)
        assert not canary.sang
        partial.git("cat-file", "blob", "HEAD:pkg/a.py", codes=range(256))
        assert canary.sang


# --- the environment ----------------------------------------------------------------------------------------


def test_the_environment_of_a_calling_hook_does_not_lead_elsewhere(
    work: Path, repo: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = new(work / "other")
    other.write("other.py", "other\n")
    other.commit()
    expected = take(repo.path, allow_dirty=False)
    for name, value in {
        "GIT_DIR": str(other.path / ".git"),
        "GIT_WORK_TREE": str(other.path),
        "GIT_INDEX_FILE": str(other.path / ".git/index"),
        "GIT_COMMON_DIR": str(other.path / ".git"),
        "GIT_OBJECT_DIRECTORY": str(other.path / ".git/objects"),
        "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(other.path / ".git/objects"),
        "GIT_NAMESPACE": "other",
        "GIT_PREFIX": "pkg/",
        "GIT_SHALLOW_FILE": os.devnull,
        "GIT_GRAFT_FILE": os.devnull,
        "GIT_REPLACE_REF_BASE": "refs/heads/",
        "GIT_ICASE_PATHSPECS": "1",
        "GIT_GLOB_PATHSPECS": "1",
        "GIT_NOGLOB_PATHSPECS": "1",
        "GIT_QUARANTINE_PATH": str(other.path),
        "GIT_DEFAULT_HASH": "sha256",
        "GIT_TRACE": "1",
    }.items():
        monkeypatch.setenv(name, value)
    before = (other.path / ".git/index").read_bytes()
    assert take(repo.path, allow_dirty=False) == expected
    repo.write("main.py", "2\n")
    assert contents(take(repo.path, allow_dirty=True))[b"main.py"] == b"2\n"
    assert (other.path / ".git/index").read_bytes() == before
    assert not (other.path / ".git/refs/mirage").exists()


def test_a_run_from_a_real_hook_sees_its_own_project(work: Path, repo: Repository) -> None:
    other = new(work / "other")
    other.write("other.py", "other\n")
    head = other.commit()
    result = work / "result"
    code = (
        "import os, pathlib; from orchestrator.source.snapshot import take\n"
        f"taken = take(pathlib.Path({str(other.path)!r}), allow_dirty=False)\n"
        f"pathlib.Path({str(result)!r}).write_text(os.environ['GIT_DIR'] + ' ' + taken.commit)"
    )
    git_tools.program(
        repo.git_dir / "hooks" / "pre-commit", f"exec '{sys.executable}' - <<'END'\n{code}\nEND"
    )
    repo.git(
        "worktree", "add", "-q", str(work / "linked")
    )  # in one, hooks get GIT_DIR and not only GIT_INDEX_FILE
    linked = Repository(work / "linked")
    linked.write("main.py", "2\n")
    linked.git("commit", "-qam", "x", env={"PYTHONPATH": str(Path(__file__).parents[1])})
    assert result.read_text() == f"{linked.git_dir} {head}"


def test_config_in_the_environment_is_not_read(
    repo: Repository, canary: Canary, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo.write(".gitattributes", FILTERED)
    repo.commit()
    monkeypatch.setenv("GIT_CONFIG_COUNT", "2")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "filter.evil.clean")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", str(canary.program))
    monkeypatch.setenv("GIT_CONFIG_KEY_1", "core.fsmonitor")
    monkeypatch.setenv("GIT_CONFIG_VALUE_1", str(canary.program))
    monkeypatch.setenv("GIT_CONFIG_PARAMETERS", f"'filter.evil.process'='{canary.program}'")
    monkeypatch.setenv("GIT_CONFIG", str(repo.path / "main.py"))
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", str(canary.program))
    monkeypatch.setenv("GIT_SSH_COMMAND", str(canary.program))
    touch(repo)
    assert len(take_all_ways(repo.path)) == 1
    assert not canary.sang
    repo.git("add", "-A", codes=range(256))
    assert canary.sang


def test_a_repository_of_another_user_is_read(
    repo: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # t/t0033-safe-directory.sh: git takes every folder as somebody else's under this variable.
    git_tools.git_wrapper(tmp_path / "bin", monkeypatch, "export GIT_TEST_ASSUME_DIFFERENT_OWNER=1")
    repo.git("status", codes=(128,))
    assert not take(repo.path, allow_dirty=False).dirty
    repo.write("main.py", "2\n")
    assert take(repo.path, allow_dirty=True).dirty


def test_a_git_too_old_to_be_told_so_has_a_next_step(
    repo: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Gits before 2.38 ignore `-c safe.directory`, as this one does when the setting is taken out of the call.
    script = (
        "export GIT_TEST_ASSUME_DIFFERENT_OWNER=1\n"
        'for word; do shift; [ "$word" = "safe.directory=*" ] && word=x.y=z; set -- "$@" "$word"; done'
    )
    git_tools.git_wrapper(tmp_path / "bin", monkeypatch, script)
    with pytest.raises(SourceError, match="dubious ownership") as caught:
        take(repo.path, allow_dirty=False)
    assert caught.value.hint is not None and "safe.directory" in caught.value.hint


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_repository_that_really_is_another_users(repo: Repository) -> None:
    for path in (repo.path, *repo.path.rglob("*")):
        os.lchown(path, 12345, 12345)
    repo.git("status", codes=(128,))
    assert not take(repo.path, allow_dirty=False).dirty


@pytest.mark.parametrize("present", [False, True])
def test_no_git_program(
    repo: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, present: bool
) -> None:
    (tmp_path / "bin").mkdir()
    if present:  # a file that nobody may run
        (tmp_path / "bin" / "git").write_text("no program\n")
        (tmp_path / "bin" / "git").chmod(0o644)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(SourceError, match="git is not installed") as caught:
        take(repo.path, allow_dirty=False)
    assert caught.value.exit_code == 3
    assert caught.value.hint is not None and "install" in caught.value.hint
