#!/usr/bin/env python3
"""The container engine of this machine: finds the one that answers, installs and starts one where none is.

    scripts/engine.py status           which engine answers, or what is missing
    scripts/engine.py up               make sure that one answers, and leave it running
    scripts/engine.py down             stop the daemon that this script started by hand, no other
    scripts/engine.py exec -- CMD...   run CMD with an engine; stop it after the last such CMD if it was
                                       started by hand for one; exit with CMD's own code

Exit code 8 where there is no engine. Standard library only, Python 3.9 or later: it runs before there is
a virtual environment.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from orchestrator.errors import EngineError
from scripts import endpoints, packages
from scripts.packages import Missing, say

NO_ENGINE = 8
START_SECONDS = 60
STOP_SECONDS = 60


def state_folder() -> Path:
    """Where the pid file, the log and the locks of a daemon started by hand are."""
    if os.geteuid() == 0:
        folder = Path("/run/mirage-engine")
    else:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mirage" / "engine"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


@contextmanager
def locked(name: str, how: int = fcntl.LOCK_EX) -> Iterator[None]:
    """Hold a lock between processes; raises BlockingIOError with LOCK_NB where another holds it."""
    with (state_folder() / name).open("a") as handle:
        fcntl.flock(handle, how)
        yield


def find() -> tuple[endpoints.Answer | None, list[endpoints.Answer]]:
    """The first engine that answers, and what all that were asked said. Raises Missing for a bad choice."""
    said = []
    try:
        places = endpoints.candidates(os.environ)
    except EngineError as error:
        raise Missing(error.message, error.hint or "set DOCKER_HOST") from error
    for place in places:
        answer = endpoints.ask(place)
        said.append(answer)
        if answer.version is not None:
            return answer, said
    if places[0].chosen:
        raise Missing(
            f"the engine that {places[0].origin} names does not answer: {places[0].url}: {said[0].reason}",
            f"start that engine, or choose another one (unset what {places[0].origin} says)",
        )
    return None, said


def ensure() -> endpoints.Answer:
    """An engine that answers (or one whose socket only a member of its group may open). Raises Missing."""
    answer, said = find()
    if answer is None and not any(each.denied for each in said):
        with locked("start.lock"):
            answer, said = find()
            if answer is None:
                start()
                answer, said = find()
    if answer is not None:
        return answer
    denied = [each for each in said if each.denied]
    if denied:
        return denied[0]
    raise Missing(f"no engine answers: {said[0].endpoint.url}: {said[0].reason}", "scripts/engine.py status")


def start() -> None:
    """Start the engine of this machine, installing it first where there is none. Raises Missing."""
    if sys.platform != "linux":
        raise Missing("no container engine answers", "start Docker (or set DOCKER_HOST), then try again")
    if packages.program("dockerd") is None:
        needs = ["docker.io", "iptables", "ca-certificates"]
        enabled = Path("/sys/module/apparmor/parameters/enabled")
        if enabled.exists() and enabled.read_text().strip() == "Y":
            needs.append("apparmor")  # without its parser, the engine starts and its containers do not
        packages.install(needs, "a container engine")
    daemon = packages.program("dockerd")
    prefix = packages.root_prefix()
    if daemon is None:
        raise Missing("the package docker.io brought no dockerd", "install Docker's own engine packages")
    if prefix is None:
        raise Missing(
            f"{daemon} does not run, and you are neither root nor have sudo without a password",
            "ask for: sudo systemctl start docker" if packages.systemd_runs() else f"ask for: sudo {daemon}",
        )
    if packages.systemd_runs():
        done = subprocess.run([*prefix, "systemctl", "start", "docker"], capture_output=True)
        if done.returncode == 0:
            wait(None)
            return
        say(done.stderr.decode("utf-8", "replace").strip())
    start_by_hand([*prefix, daemon])


def start_by_hand(command: Sequence[str]) -> None:
    """Run dockerd in a session of its own, until it answers. Raises Missing with the end of its log."""
    folder = state_folder()
    log, pid_file = folder / "dockerd.log", folder / "dockerd.pid"
    if daemon_pid() is None:
        pid_file.unlink(missing_ok=True)  # dockerd takes a stale number that was given out again for itself
    say("starting dockerd")
    path = f"{packages.SYSTEM_PATH}:{os.environ.get('PATH', '')}"
    with log.open("wb") as sink:
        child = subprocess.Popen(
            [*command, "--pidfile", str(pid_file)],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
            cwd="/",
            env={**os.environ, "PATH": path},
        )
    wait(child)


def wait(child: subprocess.Popen[bytes] | None) -> None:
    """Wait until the default socket answers, or is there and not ours. Raises Missing."""
    place = endpoints.Endpoint(endpoints.DEFAULT, "the default socket")
    deadline = time.monotonic() + START_SECONDS
    answer = endpoints.ask(place)
    while answer.version is None and not answer.denied and time.monotonic() < deadline:
        if child is not None and child.poll() is not None:
            break
        time.sleep(0.1)
        answer = endpoints.ask(place)
    if answer.version is not None or answer.denied:
        return
    if child is None:
        raise Missing("docker.service is started but does not answer", "see: journalctl -u docker")
    ended = child.poll()
    log = state_folder() / "dockerd.log"
    say("\n".join(log.read_text(errors="replace").splitlines()[-25:]))
    stop()
    state = f"ended with {ended}" if ended is not None else f"did not answer within {START_SECONDS} s"
    raise Missing(f"dockerd {state}; the end of its log is above", f"the whole log: {log}")


def daemon_pid() -> int | None:
    """The process id of the daemon that this script started by hand, as long as that still is a dockerd."""
    try:
        pid = int((state_folder() / "dockerd.pid").read_text())
        name = Path(f"/proc/{pid}/comm").read_text().strip()
    except (OSError, ValueError):
        return None
    return pid if name == "dockerd" else None


def stop() -> bool:
    """Stop the daemon that this script started by hand and wait for its end; False where there is none.

    Raises Missing where it does not end.
    """
    pid = daemon_pid()
    if pid is None:
        return False
    prefix = packages.root_prefix()
    # The shell's own kill: a minimal system has no program of that name.
    if prefix is None or subprocess.run([*prefix, "sh", "-c", f"kill -TERM {pid}"]).returncode != 0:
        raise Missing(f"dockerd ({pid}) cannot be stopped by you", f"ask for: sudo kill {pid}")
    deadline = time.monotonic() + STOP_SECONDS
    while daemon_pid() == pid:
        if time.monotonic() > deadline:
            raise Missing(
                f"dockerd ({pid}) has not ended in {STOP_SECONDS} s", "see which containers it runs"
            )
        time.sleep(0.05)
    (state_folder() / "transient").unlink(missing_ok=True)
    return True


def execute(words: Sequence[str]) -> int:
    """Run a command with an engine; gives its exit code (128 + the signal's number for a signal)."""
    transient = state_folder() / "transient"
    before = daemon_pid()
    with locked("users.lock", fcntl.LOCK_SH):
        answer = ensure()
        now = daemon_pid()
        if now is not None and now != before:
            transient.write_text(f"{now}\n")
        code = run_with(answer, words)
    pid = daemon_pid()
    if pid is not None and transient.exists() and transient.read_text().strip() == str(pid):
        try:
            with locked("users.lock", fcntl.LOCK_EX | fcntl.LOCK_NB):
                stop()
        except BlockingIOError:
            say("leaving dockerd running: another command still uses it")
    return code


def run_with(answer: endpoints.Answer, words: Sequence[str]) -> int:
    """Run a command with the engine's address in its environment where it is not the default one."""
    env = dict(os.environ)
    place = answer.endpoint
    if place.url != endpoints.DEFAULT:
        env["DOCKER_HOST"] = place.url
    if place.tls and place.certificates:
        env["DOCKER_TLS_VERIFY"], env["DOCKER_CERT_PATH"] = "1", place.certificates
    command = [*as_member_of_group(place), *words] if answer.denied else list(words)
    try:
        child = subprocess.Popen(command, env=env)
    except OSError as error:
        say(f"error: cannot run {words[0]}: {error.strerror}")
        return 127 if isinstance(error, FileNotFoundError) else 126

    def forward(number: int, _frame: FrameType | None) -> None:
        child.send_signal(number)

    # A terminal sends Ctrl-C to the command as well: it decides what that means, we only wait for it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, forward)
    signal.signal(signal.SIGHUP, forward)
    code = child.wait()
    return code if code >= 0 else 128 - code


def as_member_of_group(place: endpoints.Endpoint) -> list[str]:
    """What runs a command as this user with the socket's group added, changing nothing on the machine.

    Raises Missing where there is no sudo without a password.
    """
    socket_file = place.url.split("://", 1)[1]
    prefix = packages.root_prefix()
    if not prefix:
        raise Missing(
            f"an engine is there ({place.url}), but you may not open its socket",
            "ask for: sudo usermod -aG docker $USER (then log in again), or use a rootless engine",
        )
    group = Path(socket_file).stat().st_gid
    groups = ",".join(str(each) for each in sorted({*os.getgroups(), os.getgid(), group}))
    kept = [
        f"{name}={os.environ[name]}" for name in ("PATH", "HOME", "USER", "LOGNAME") if name in os.environ
    ]
    who = [f"--reuid={os.getuid()}", f"--regid={os.getgid()}", f"--groups={groups}"]
    return [*prefix, "--preserve-env", "env", *kept, "setpriv", *who]


def status() -> int:
    """Print which engine answers, or what was asked and said; exit code 8 where none does."""
    answer, said = find()
    if answer is not None:
        print(f"engine {answer.version} at {answer.endpoint.url} ({answer.endpoint.origin})")
        return 0
    for each in said:
        print(f"{each.endpoint.url} ({each.endpoint.origin}): {each.reason}")
    if any(each.denied for each in said):
        print(
            "  -> scripts/engine.py exec -- CMD... (with sudo), or: sudo usermod -aG docker $USER, then log in again"
        )
        return NO_ENGINE
    daemon = packages.program("dockerd")
    print(
        f"{daemon} is installed but does not run"
        if daemon
        else "dockerd is not installed (Debian: docker.io)"
    )
    print("  -> scripts/engine.py up")
    return NO_ENGINE


def up() -> int:
    """Make sure that an engine answers and stays; also where a command has started it only for itself."""
    answer = ensure()
    (state_folder() / "transient").unlink(missing_ok=True)
    if answer.denied:
        as_member_of_group(answer.endpoint)
        say("an engine runs; `scripts/engine.py exec -- CMD...` lets CMD open its socket")
    else:
        say(f"engine {answer.version} at {answer.endpoint.url}")
    return 0


def down() -> int:
    """Stop the daemon that this script started by hand."""
    say("dockerd has ended" if stop() else "no dockerd that this script started by hand is running")
    return 0


def main(argv: Sequence[str]) -> int:
    """Run a subcommand; gives the exit code."""
    try:
        if argv[:2] == ["exec", "--"] and len(argv) > 2:
            return execute(argv[2:])
        if len(argv) == 1 and argv[0] in ("status", "up", "down"):
            return {"status": status, "up": up, "down": down}[argv[0]]()
    except Missing as error:
        say(f"error: {error}\n  -> {error.hint}")
        return NO_ENGINE
    except KeyboardInterrupt:
        return 130
    say((__doc__ or "").split("\n\n")[1])
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
