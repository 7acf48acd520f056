"""Secrets of a run: where they come from, how they arrive, and that their values are found nowhere afterwards."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator import process
from orchestrator.engine_values import ContainerSpec
from orchestrator.errors import ConfigError
from orchestrator.executors import secret_delivery
from orchestrator.redaction import forms
from orchestrator.secret_sources import SecretsMissing, gather
from tests import canary_tools
from tests.canary_tools import Processes, canaries, files_of, found
from tests.image_tools import engine as ours
from tests.run_tools import Project, engine

VALUE = "sk-live/0123456789+abcdef"
USES = """
import os, stat, sys
from mirage import artifact, secret
path = os.environ["API_KEY_FILE"]
seen = os.stat(path)
artifact.Report.save({
    "length": len(secret("API_KEY")), "path": path, "mode": stat.filemode(seen.st_mode),
    "mine": seen.st_uid == os.getuid(), "folder": stat.filemode(os.stat(os.path.dirname(path)).st_mode),
    "type": next(line.split()[2] for line in open("/proc/mounts") if line.split()[1] == os.path.dirname(path)),
    "stdin": sys.stdin.read(), "argv": open("/proc/self/cmdline").read().split("\\0")[:3],
    "environment": sorted(name for name, value in os.environ.items() if secret("API_KEY") in value),
}, name="seen")
"""
WITH = "mirage: {run: {secrets: [API_KEY]}}\n"


def saved(project: Project, made: dict[str, Any]) -> Any:
    shown = project.asked("artifact", "show", made["outputs"][0]["id"])
    return json.loads(project.blob(shown["tree"][0]["d"]))


def test_thirty_canaries_leaked_everywhere_are_found_nowhere(tmp_path: Path) -> None:
    values = canaries(30)
    temporary, keys, home = tmp_path / "tmp", tmp_path / "keys", tmp_path / "config"
    for folder in (temporary, keys, home / "mirage"):
        folder.mkdir(parents=True)
    environ, listed = {"TMPDIR": str(temporary), "XDG_CONFIG_HOME": str(home)}, ""
    for n, (name, value) in enumerate(values.items()):
        (keys / name).write_text(f"{value}\n")
        if n % 3 == 0:
            environ[f"MIRAGE_SECRET_{name}_FILE"] = str(keys / name)
        elif n % 3 == 1:
            environ[f"MIRAGE_SECRET_{name}_COMMAND"] = f"cat {keys / name}"
        else:
            listed += f"{name}: {{file: {keys / name}}}\n"
    (home / "mirage" / "secrets.yaml").write_text(listed)
    names = ", ".join(values)
    project = Project(
        tmp_path / "repository",
        canary_tools.LEAKS,
        files={"configs/a.yaml": f"x: 1\nmirage: {{run: {{secrets: [{names}]}}}}\n"},
    )
    begun, containers = time.time(), list[bytes]()
    with Processes() as processes, canary_tools.inspected(containers):
        out, err, code = project.ended(project.start("--config", "configs/a.yaml", "--json", env=environ))
    assert code == 1, err
    made = json.loads(out)
    assert "30 secrets as" in err and err.count("[secret CANARY_29]") >= 4 * 5
    assert containers and processes.looks > 5
    haystacks = {
        "terminal": (out + err).encode(),
        "processes": processes.text(),
        "containers": b"".join(containers),
        "events": canary_tools.events(begun),
        **canary_tools.left_of(project, made),
        **files_of(project.folder, temporary),
    }
    byproducts = project.record(made["run_id"])["predicate"]["runDetails"]["byproducts"]
    times = next(each["digest"]["sha256"] for each in byproducts if each["name"] == "log.times")
    assert any(times in where for where in haystacks), "the times of the log are searched too"
    assert b"CANARY" in haystacks["image"], "the image holds the workflow, and could be searched"
    assert found(haystacks, values) == []
    assert [output["id"] for output in made["outputs"]] == ["report:answers:v1"]
    answers = saved(project, made)
    assert len(answers) == 11
    assert all(answer.startswith("ArtifactErrorthe value of the secret CANARY_0") for answer in answers)
    assert any("[secret CANARY_" in name for name in made["audit"]["missing"])
    assert made["metrics"] and all("[secret CANARY_" in name for name in made["metrics"])


def test_the_search_finds_what_is_there(tmp_path: Path) -> None:
    values = canaries(1)
    (value,) = values.values()
    for form in forms(value.encode()):
        for much in (1000, 1 << 20):
            assert found({"planted": b"x" * much + form + b"y"}, values)
    project = Project(
        tmp_path / "repository",
        "from mirage import artifact, secret\nartifact.File.save('x' + secret('CANARY_00'), name='leak')\n",
        files={
            "configs/a.yaml": "mirage: {run: {secrets: [CANARY_00], outputs: {secrets: allow}}}\n",
        },
    )
    with Processes() as processes:
        made = project.run(env={"CANARY_00": value})
    assert [output["id"] for output in made["outputs"]] == ["file:leak:v1"]
    assert found({"processes": processes.text()}, values) != []  # the caller's own variable
    places = found(files_of(project.folder), values)
    assert places and all("/artifacts/blobs/" in place for place in places)


@pytest.mark.parametrize("way", ["variable", "file", "command", "listed"])
def test_a_secret_comes_from_where_the_user_says_and_arrives_as_a_file(tmp_path: Path, way: str) -> None:
    home = tmp_path / "config"
    (home / "mirage").mkdir(parents=True)
    (home / "key").write_text(f"{VALUE}\n")
    environ = {"XDG_CONFIG_HOME": str(home)}
    if way == "variable":
        environ["API_KEY"] = VALUE
    elif way == "listed":
        (home / "mirage" / "secrets.yaml").write_text("API_KEY: {command: [cat, " + f"{home}/key]}}\n")
    else:
        environ[f"MIRAGE_SECRET_API_KEY_{way.upper()}"] = f"{'cat ' * (way == 'command')}{home / 'key'}"
    project = Project(tmp_path / "repository", USES, files={"configs/a.yaml": WITH})
    made = project.run(env=environ)
    assert saved(project, made) == {
        "length": len(VALUE),
        "path": "/run/mirage-secrets/API_KEY",
        "mode": "-r--------",
        "mine": True,
        "folder": "drwx------",
        "type": "tmpfs",
        "stdin": "",
        "argv": ["python", "-m", "workflows.main"],
        "environment": [],
    }
    definition = project.record(made["run_id"])["predicate"]["buildDefinition"]
    assert definition["externalParameters"]["secretNames"] == ["API_KEY"]
    assert definition["externalParameters"]["entrypoint"][:3] == ["python", "-m", "workflows.main"]
    if way == "variable":  # in the key by name only, and needed again by who makes it again
        again = project.run(env={**environ, "API_KEY": "another-value"})
        assert again["run_key"] == made["run_key"]
        asked = ("reproduce", made["run_id"], "--allow", "secrets")
        error = project.refused(*asked[:2], program="mirage", code=10)
        assert "asks for weaker fences" in error and "--allow secrets" in error
        error = project.refused(*asked, program="mirage", code=10)
        assert "needs secrets" in error and "API_KEY" in error and "MIRAGE_SECRET_API_KEY_FILE" in error
        project.mirage(*asked, code=9, env={**environ, "API_KEY": "other-value"})
        project.mirage(*asked, env=environ)


def test_what_keeps_a_secret_from_being_used_is_said_before_anything_is_built(tmp_path: Path) -> None:
    project = Project(
        tmp_path / "repository",
        USES,
        files={"configs/a.yaml": WITH, "configs/b.yaml": f"k: '{VALUE}'\n{WITH}"},
    )
    error = project.refused("--config", "configs/a.yaml", code=2)
    assert "the secret API_KEY has no value here" in error and "secrets.yaml" in error
    for words, told in {
        ("configs/b.yaml",): "configs/b.yaml",
        ("configs/a.yaml", "--", VALUE): "the command line",
        ("configs/a.yaml", "--set", f"mirage.run.env.X={VALUE}"): "run.env",
    }.items():
        out, err, code = project.ended(project.start("--config", *words, env={"API_KEY": VALUE}))
        assert code == 2 and f"API_KEY stands in {told}" in err and VALUE not in err + out
    assert not (project.folder / ".mirage" / "runs").exists()


def test_a_killed_process_leaves_no_value_and_recovery_needs_it_again(tmp_path: Path) -> None:
    work = (
        "import time\nfrom mirage import artifact, secret\nartifact.File.save('x', name='first')\n"
        "print('with', secret('API_KEY'), flush=True)\ntime.sleep(3)\nprint('end', secret('API_KEY'), flush=True)\n"
    )
    project = Project(tmp_path / "repository", work, files={"configs/a.yaml": WITH})
    running = project.start("--config", "configs/a.yaml", env={"API_KEY": VALUE})
    project.wait_for_event("published")
    time.sleep(0.3)
    os.killpg(running.pid, signal.SIGKILL)
    project.ended(running)
    assert found(files_of(project.folder, Path("/dev/shm"), Path("/run/user")), {"API_KEY": VALUE}) == []
    told = project.mirage("recover")
    assert "left alone: the secret API_KEY has no value here" in told
    project.mirage("recover", env={"API_KEY": VALUE})
    assert project.asked("show", "latest")["status"] == "succeeded"
    assert project.mirage("logs", "latest") == "with [secret API_KEY]\nend [secret API_KEY]\n"
    assert found(files_of(project.folder), {"API_KEY": VALUE}) == []
    assert project.containers() == []


def test_a_container_whose_secrets_do_not_come_ends_by_itself(tmp_path: Path) -> None:
    """The process dies between the start and the values."""
    project = Project(tmp_path / "repository", "print('ran')\n")
    image = project.run()["image"]["engine_id"]
    for sent in (b"", b"API_KEY 25\nsk-live", b"API_KEY"):
        argv = secret_delivery.command(("python", "-c", "print('ran')"))
        spec = ContainerSpec(
            image=image,
            argv=argv,
            user="10001:10001",
            stdin=True,
            tmpfs=(secret_delivery.folder(10001, 10001),),
        )
        container = ours().create(spec)
        try:
            ours().start(container, sent)
            ours().wait(container)
            state = ours().inspect(container)
            assert state is not None and state.exit_code == secret_delivery.NOT_ARRIVED
            assert engine().logs(container) == b"mirage: the secrets did not arrive\n"
        finally:
            ours().remove(container)


def test_a_workflow_outside_a_container_reads_them_the_same_way(tmp_path: Path) -> None:
    project = Project(
        tmp_path / "repository",
        "import sys\nfrom mirage import artifact, secret\nfrom mirage.errors import ConfigError\n"
        "print(len(secret('API_KEY')))\n"
        "try:\n    secret('OTHER')\nexcept ConfigError as error:\n    print(error.message)\n"
        "artifact.File.save(secret('API_KEY'), name='leak')\n",
        files={"configs/a.yaml": WITH},
    )
    done = subprocess.run(
        [sys.executable, "-m", "workflows.main", "--config", "configs/a.yaml"],
        cwd=project.folder,
        env={**os.environ, "API_KEY": VALUE, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines()[:2] == [
        str(len(VALUE)),
        "OTHER is not among this run's secrets (API_KEY)",
    ]
    assert "the value of the secret API_KEY is in its file" in done.stderr
    assert found(files_of(project.folder), {"API_KEY": VALUE}) == []


def test_a_traceback_of_ours_shows_no_value() -> None:
    code = (
        "from orchestrator.cli import terminal\nfrom orchestrator.redaction import Secrets\nimport threading, resource\n"
        f"terminal.hide(Secrets((('K', {VALUE.encode()!r}),)))\n"
        "def work(): raise ValueError('in a thread ' + value)\n"
        f"value = bytes.fromhex('{VALUE.encode().hex()}').decode()\n"
        "thread = threading.Thread(target=work); thread.start(); thread.join()\n"
        "terminal.fail('told ' + value, 'hint ' + value, 1)\nterminal.print_json({'x': value})\n"
        "print(resource.getrlimit(resource.RLIMIT_CORE)[0])\nraise RuntimeError('at the end ' + value)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert VALUE not in done.stdout + done.stderr
    for text in ("in a thread [secret K]", "told [secret K]", "hint [secret K]", "at the end [secret K]"):
        assert text in done.stderr
    assert done.stdout.splitlines()[-1] == "0" and '"x": "[secret K]"' in done.stdout


# Sources


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / ".config" / "mirage").mkdir(parents=True)
    return tmp_path


def ask(home: Path, *names: str, text: str | None = None, **environ: str) -> dict[str, bytes]:
    if text is not None:
        (home / ".config" / "mirage" / "secrets.yaml").write_text(text)
    return dict(gather(names or ("K",), {"HOME": str(home), **environ}).values)


def test_the_environment_says_it_before_the_users_file_and_that_before_the_variable(home: Path) -> None:
    (home / "a").write_bytes(b"from-file-a\r\n")
    text = "K: {command: 'printf from-the-list'}\n"
    assert ask(home, K="from-variable") == {"K": b"from-variable"}
    assert ask(home, text=text, K="from-variable") == {"K": b"from-the-list"}
    assert ask(home, K="x", MIRAGE_SECRET_K_FILE=str(home / "a")) == {"K": b"from-file-a"}
    assert ask(home, text="K: {env: OTHER}\n", OTHER="from-another") == {"K": b"from-another"}


def test_missing_ones_are_named_together(home: Path) -> None:
    with pytest.raises(SecretsMissing, match="the secrets A, C have no value here") as caught:
        ask(home, "A", "B", "C", B="there-it-is", C="")
    assert caught.value.exit_code == 2 and caught.value.names == ("A", "C")


@pytest.mark.parametrize(
    ("text", "environ", "told"),
    [
        ("", {"K": "short"}, "has 5 bytes"),
        ("", {"MIRAGE_SECRET_K_FILE": "relative"}, "the absolute path of a file"),
        ("", {"MIRAGE_SECRET_K_FILE": "/nonexistent/x"}, "No such file"),
        ("", {"MIRAGE_SECRET_K_FILE": "/dev/zero"}, "from 8 to 65536"),
        ("", {"MIRAGE_SECRET_K_COMMAND": "sh -c 'echo sesame-1234; exit 3'"}, "sh ended with 3"),
        ("", {"MIRAGE_SECRET_K_COMMAND": "'"}, "MIRAGE_SECRET_K_COMMAND: No closing quotation"),
        ("", {"MIRAGE_SECRET_K_COMMAND": "no-such-program-here"}, "there is no program"),
        ("", {"MIRAGE_SECRET_K_COMMAND": "true", "MIRAGE_SECRET_K_FILE": "/x"}, "both set"),
        ("K: sesame-1234\n", {}, "secrets.yaml:1: K: expected one of env, file, command"),
        ("J: {env: X}\nK: {value: sesame-1234}\n", {}, "secrets.yaml:2: unknown source 'value' of K"),
        ("K: {comand: x}\n", {}, "secrets.yaml:1: unknown source 'comand' of K"),
        ("- K\n", {}, "secrets.yaml:1: expected a mapping"),
        ("K: {env: a b}\n", {}, "expected the name of a variable"),
        ("K: {command: []}\n", {}, "expected a command"),
    ],
)
def test_a_source_that_cannot_be_used_says_so_without_the_value(
    home: Path, text: str, environ: dict[str, str], told: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        ask(home, text=text or None, **environ)
    assert told in str(caught.value)
    assert "sesame" not in str(caught.value)


def test_a_list_that_others_can_write_is_not_followed(home: Path) -> None:
    path = home / ".config" / "mirage" / "secrets.yaml"
    path.write_text("K: {command: 'printf sesame-1234'}\n")
    path.chmod(0o666)
    with pytest.raises(ConfigError, match="could be changed by somebody else"):
        ask(home)
    path.chmod(0o644)
    assert ask(home) == {"K": b"sesame-1234"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_programs_that_are_started_do_not_get_the_variable(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_withheld", set())
    monkeypatch.setenv("K_TEST_SECRET", "sesame-1234")
    monkeypatch.setenv("K_OTHER", "sesame-5678")
    ask(
        home,
        "K_TEST_SECRET",
        "J",
        text="J: {env: K_OTHER}\n",
        K_TEST_SECRET="sesame-1234",
        K_OTHER="sesame-5678",
    )
    assert b"sesame" not in process.run(["env"]).stdout
    assert not any("sesame" in line for line, _ in process.lines(["env"]))
