"""A base image's file system made from Debian packages with mmdebstrap: recipes, the build, what is in it.

Owns `images/NAME/recipe.yaml`. Does not make layers or images: it gives a tar and the package versions.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from orchestrator import canonical, yamlcore
from orchestrator.digest import Digest, of_bytes
from orchestrator.errors import ConfigError, ImageError, did_you_mean
from orchestrator.image import debian
from orchestrator.process import ProgramMissing, lines

SOURCE_DATE_EPOCH = 315532800  # 1980-01-01T00:00:00Z, as in every layer
RECIPE_VERSION = 2  # counts up when this file makes other bytes from the same packages

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")  # Debian policy 5.6.1
_WORD = re.compile(r"[a-z][a-z0-9-]*")
_VARIANTS = ("apt", "minbase", "required", "important")
_KEYS = ("suite", "variant", "components", "packages", "python")
# Makes /usr merged from the start; without it, a suite of that time pulls in all of perl to convert itself.
_MERGED_USR = Path("/usr/share/mmdebstrap/hooks/maybe-merged-usr")

# What dpkg leaves out. apt's example sources stay until the last step has put them in their place.
_UNWANTED = (
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-include=/usr/share/doc/apt/examples/*sources*",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/lintian/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/i18n/*",
)

# Right after the merged-/usr hook has fetched the lists: a wrong name fails now, not half a minute later.
_LOOK_UP = r"""#!/bin/sh
for name in @PACKAGES@; do
  APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-cache show --no-all-versions "$name" > /dev/null 2>&1 && continue
  echo "E: Unable to locate package $name" >&2
  exit 1
done
"""

# $1 is the root. Removes what a build leaves of this machine and of today, and what differs between two
# builds; beyond mmdebstrap's own clean-up (/tmp, /run, apt's and dpkg's logs and caches, ldconfig's aux-cache).
# /tmp must stay as it is until then: it holds mmdebstrap's APT_CONFIG, without which its clean-up would remove
# this machine's own package lists.
_FINISH = r"""#!/bin/sh
set -eu
cd "$1"
rm -rf etc/apt/sources.list etc/apt/sources.list.d/* etc/apt/apt.conf.d/99mmdebstrap
for example in usr/share/doc/apt/examples/*sources*; do
  case "$example" in
  */sources.list) sed -nE 's/^(deb [^#]*) main .*/\1 @COMPONENTS@/p' "$example" > etc/apt/sources.list ;;
  */debian.sources) sed -E 's/^Components:.*/Components: @COMPONENTS@/' "$example" > etc/apt/sources.list.d/debian.sources ;;
  esac
done
find usr/share/doc ! -type d ! -name copyright -delete
rm -rf usr/share/man/* usr/share/info/* usr/share/lintian/* usr/share/locale/* usr/share/i18n/*
find usr/share/doc -type d -empty -delete
rm -f etc/resolv.conf etc/hostname etc/machine-id var/lib/dbus/machine-id var/cache/ldconfig/aux-cache
rm -f etc/passwd- etc/shadow- etc/group- etc/gshadow- etc/.pwd.lock
rm -f var/lib/dpkg/status-old var/lib/dpkg/available var/lib/dpkg/diversions-old var/lib/dpkg/statoverride-old
rm -f var/cache/debconf/*-old
find var/log -type f -delete
find usr -name __pycache__ -type d -prune -exec rm -rf {} +
# The names are those in the root: this machine may have another Python.
PYTHONHASHSEED=0 chroot . sh -c \
  'exec python3 -m compileall -q -f --invalidation-mode unchecked-hash /usr/lib/python3 /usr/lib/python3.*'
find var/tmp -mindepth 1 -delete
chmod 1777 tmp var/tmp
"""


@dataclass(frozen=True)
class Recipe:
    """What a base is made of; ``digest`` covers its folder (but the README) and how this module builds."""

    name: str
    suite: str
    variant: str
    packages: tuple[str, ...]
    components: tuple[str, ...]
    python: str
    digest: Digest


Packages = tuple[tuple[str, str], ...]  # names and versions


def find_recipe(name: str, project: Path | None = None) -> Path:
    """The folder of a recipe: the project's `images/`, the installed package's, the repository's.

    Raises ConfigError that names the known recipes.
    """
    package = Path(__file__).resolve().parent.parent
    places = [package / "_images", package.parent / "images"]
    if project is not None:
        places.insert(0, project / "images")
    if _NAME.fullmatch(name):
        for place in places:
            if (place / name / "recipe.yaml").is_file():
                return place / name
    known = sorted({path.parent.name for place in places for path in place.glob("*/recipe.yaml")})
    raise ConfigError(
        f"no base named {name!r} (known: {', '.join(known) or 'none'})",
        hint=did_you_mean(name, known) or "put a recipe into images/NAME/recipe.yaml",
    )


def load_recipe(folder: Path) -> Recipe:
    """Read `recipe.yaml` and check every word of it. Raises ConfigError with the file's name."""
    file = folder / "recipe.yaml"
    where = str(file)
    try:
        data = yamlcore.parse(file.read_bytes(), where).value
    except OSError as error:
        raise ConfigError(f"{where}: cannot be read: {error.strerror}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: expected a mapping with the keys {', '.join(_KEYS)}")
    for key in data:
        if key not in _KEYS:
            raise ConfigError(f"{where}: unknown key {key!r}", hint=did_you_mean(str(key), list(_KEYS)))
    variant = _word(data.get("variant", "minbase"), "variant", where, _WORD)
    if variant not in _VARIANTS:
        raise ConfigError(f"{where}: unknown variant {variant!r} (known: {', '.join(_VARIANTS)})")
    return Recipe(
        name=folder.name,
        suite=_word(data.get("suite"), "suite", where, _WORD),
        variant=variant,
        packages=_words(data.get("packages"), "packages", where, _PACKAGE),
        components=_words(data.get("components", ["main"]), "components", where, _WORD),
        python=_word(data.get("python"), "python", where, re.compile(r"3\.[0-9]+")),
        digest=_digest_of(folder),
    )


def _word(value: object, key: str, where: str, grammar: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not grammar.fullmatch(value):
        raise ConfigError(f"{where}: {key}: expected a string like {grammar.pattern}, got {value!r}")
    return value


def _words(value: object, key: str, where: str, grammar: re.Pattern[str]) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise ConfigError(f"{where}: {key}: expected a list of strings, got {value!r}")
    return tuple(sorted({_word(each, key, where, grammar) for each in value}))


def _digest_of(folder: Path) -> Digest:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "README.md")
    content = {path.relative_to(folder).as_posix(): of_bytes(path.read_bytes()) for path in files}
    return of_bytes(canonical.encode({"recipe": RECIPE_VERSION, "files": {**content}}))


def build_rootfs(
    recipe: Recipe, out: Path, *, report: Callable[[str], None], architecture: str | None = None
) -> Packages:
    """Write the recipe's root file system as a tar at ``out``; gives what is installed in it.

    The same package versions give the same bytes on every machine. Takes about half a minute and as much
    disk as four times the result; several minutes where ``architecture`` is another one than this machine's. ``report``
    gets mmdebstrap's own steps. Raises ImageError; nothing is at ``out`` then.
    """
    from orchestrator.image import dpkg  # most runs build no base
    from orchestrator.image.sealing import seal

    part, sealed = out.with_name(out.name + ".part"), out.with_name(out.name + ".sealed")
    try:
        with _inputs(recipe) as inputs:
            _run(_command(recipe, part, inputs, architecture), report)
        packages = dpkg.installed(part)
        _check_python(recipe, packages)
        with sealed.open("wb") as target:
            seal(part, target.write)
        sealed.replace(out)
    except OSError as error:
        raise ImageError(f"the base {recipe.name} cannot be written to {out.parent}: {error}") from error
    finally:
        part.unlink(missing_ok=True)
        sealed.unlink(missing_ok=True)
    return packages


@dataclass(frozen=True)
class _Inputs:
    options: Path
    sources: Path | None
    look_up: Path
    finish: Path


def _command(recipe: Recipe, part: Path, inputs: _Inputs, architecture: str | None) -> list[str]:
    command = ["mmdebstrap", "--format=tar", f"--variant={recipe.variant}", "--skip=output/dev"]
    command.append("--mode=root" if os.geteuid() == 0 else "--mode=unshare")
    command += [f"--architectures={architecture}"] if architecture else []
    command += [f"--components={','.join(recipe.components)}", f"--include={','.join(recipe.packages)}"]
    if _MERGED_USR.is_dir():
        command += [f"--hook-dir={_MERGED_USR}", f"--setup-hook={inputs.look_up}"]
    command += [f"--keyring={path}" for path in debian.KEYRINGS if path.exists()]
    command += [f"--aptopt={inputs.options}", *(f"--dpkgopt={line}" for line in _UNWANTED)]
    command += [f"--customize-hook={inputs.finish}", recipe.suite, str(part)]
    return command if inputs.sources is None else [*command, str(inputs.sources)]


@contextmanager
def _inputs(recipe: Recipe) -> Iterator[_Inputs]:
    """Files for one build. mmdebstrap reads neither the machine's apt settings nor its mirror by itself, and
    a hook that is a file is not repeated in its output.
    """
    import tempfile  # as above

    with tempfile.TemporaryDirectory(prefix="mirage-base-") as name:
        folder = Path(name)
        sources = debian.sources(recipe.suite, recipe.components)
        texts = {
            "apt.conf": debian.apt_options(),
            "look-up": _LOOK_UP.replace("@PACKAGES@", " ".join(recipe.packages)),
            "finish": _FINISH.replace("@COMPONENTS@", " ".join(recipe.components)),
            "sources.list": sources,
        }
        for file, text in texts.items():
            (folder / file).write_text(text)
            (folder / file).chmod(0o644 if "." in file else 0o755)
        folder.chmod(0o755)  # without root, mmdebstrap reads them as another user of its namespace
        yield _Inputs(
            folder / "apt.conf",
            folder / "sources.list" if sources else None,
            folder / "look-up",
            folder / "finish",
        )


def _run(command: list[str], report: Callable[[str], None]) -> None:
    env = {
        "SOURCE_DATE_EPOCH": str(SOURCE_DATE_EPOCH),
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "PYTHONHASHSEED": "0",
    }
    said: list[str] = []
    code: int | None = None
    try:
        for line, ended in lines(command, env=env):
            code = ended
            if line:
                said.append(line)
                if _STEP.fullmatch(line):
                    report(line[3:])
    except ProgramMissing as error:
        raise ImageError(
            "mmdebstrap is missing: it makes the base from Debian packages",
            hint="scripts/packages.py mmdebstrap (or: apt-get install mmdebstrap debian-archive-keyring), "
            "or name an image of a registry as the base: mirage base pin IMAGE",
        ) from error
    if code != 0:
        _explain("\n".join(said), code)


_STEP = re.compile(
    r"I: (running apt-get update|downloading|extracting|installing|cleaning|creating) ?.*\.\.\."
)
_REASONS = (
    (r"No space left on device", "there is no space left", "free some disk, or point TMPDIR to a larger one"),
    (
        r"Unable to locate package (\S+)|Package '?(\S+?)'? has no installation candidate",
        "the suite has no such package",
        "correct the name under `packages:` in recipe.yaml",
    ),
    (
        r"NO_PUBKEY|is not signed|EXPKEYSIG",
        "the mirror's signature cannot be checked",
        "apt-get install debian-archive-keyring, or put the mirror's key into /etc/apt/trusted.gpg.d",
    ),
    (
        r"does not have a Release file|404  ?Not Found",
        "the mirror does not have what was asked for",
        "check `suite:` in recipe.yaml and this machine's apt sources (does apt-get update work?)",
    ),
    (
        r"Could not resolve|Temporary failure|Could not connect|Unable to connect|Connection (failed|refused|timed out)"
        r"|Certificate verification failed|Failed to fetch|Network is unreachable",
        "the Debian mirror cannot be reached",
        "check the network and apt's proxy (does apt-get update work?)",
    ),
    (
        r"unshare|newuidmap|subuid|user namespace",
        "this user may not make the user namespaces that building without root needs",
        "run as root, or: apt-get install uidmap, a range in /etc/subuid, kernel.unprivileged_userns_clone=1",
    ),
)


def _explain(said: str, code: int | None) -> NoReturn:
    """Raise ImageError with the reason that mmdebstrap's output gives, and the end of that output."""
    tail = "\n".join(line for line in said.splitlines() if not line.startswith("I: "))[-2000:]
    for pattern, reason, hint in _REASONS:
        match = re.search(pattern, said)
        if match:
            what = next((group for group in match.groups() if group), "")
            raise ImageError(
                f"the base cannot be made: {reason}{': ' if what else ''}{what}\n{tail}", hint=hint
            )
    raise ImageError(
        f"mmdebstrap ended with {code}:\n{tail}", hint="does apt-get update work on this machine?"
    )


def _check_python(recipe: Recipe, packages: Packages) -> None:
    versions = [version for name, version in packages if name == "python3"]
    if not versions or not versions[0].startswith(f"{recipe.python}."):
        got = f"brings {versions[0]}" if versions else "has no package python3"
        raise ImageError(f"recipe {recipe.name} says python {recipe.python}, but {recipe.suite} {got}")
