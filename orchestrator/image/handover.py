"""What the host hands to the builder and to nothing else: CA bundle, proxies, index settings, credentials.

All of it reaches the builder's commands as their environment or as files beside them; the layer is searched
for every secret value before it is kept.
"""

from __future__ import annotations

import base64
import configparser
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from orchestrator.errors import ConfigError

_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
_CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "CURL_CA_BUNDLE")
_PEM = b"-----BEGIN CERTIFICATE-----"
_CA_FILES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Alpine
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",  # openSUSE
)
# uv's name of a list of places, pip's name of the same, and what stands between two of them in uv's.
_PLACES = (
    ("UV_DEFAULT_INDEX", "index-url", " "),
    ("UV_INDEX", "extra-index-url", " "),
    ("UV_FIND_LINKS", "find-links", ","),
)
_OLD_PLACES = ("UV_INDEX_URL", "UV_EXTRA_INDEX_URL")
_OTHER_UV = ("UV_INDEX_STRATEGY", "UV_HTTP_TIMEOUT", "UV_HTTP_RETRIES", "UV_INSECURE_HOST", "UV_NO_INDEX")
_NAMED = re.compile(r"^[A-Za-z0-9_.-]+=")  # uv takes `name=https://...`
_USERINFO = re.compile(r"(?:^|/|=)([^/\s:@]*)(?::([^/\s@]*))?@")
_TELLING = 8  # characters that make a password one that no package holds by chance
_NETRC_PASSWORD = re.compile(rb'(?:^|\s)password\s+("(?:[^"\\]|\\.)*"|\S+)')


@dataclass(frozen=True)
class Handover:
    """Environment, files (name, bytes) and the values that must never be found in a layer."""

    env: tuple[tuple[str, str], ...]
    ca_bundle: bytes | None
    netrc: bytes | None
    secrets: tuple[bytes, ...]


def gather(ca_bundle: str, index: str, environ: Mapping[str, str]) -> Handover:
    """Collect the host's settings.

    ``ca_bundle`` is `auto`, `none` or a path; ``index`` is `inherit`, `none` or the URL of an index.
    Raises ConfigError where a bundle that was named is not there.
    """
    env: dict[str, str] = {}
    configured = _pip_configuration(environ)
    for name in _PROXIES:
        value = environ.get(name.lower()) or environ.get(name)  # in curl's and Python's order
        if value:
            env[name] = env[name.lower()] = value
    login: bytes | None = None
    if index == "inherit":
        env.update(_index_settings(environ, configured))
        login = _read(Path(environ.get("NETRC") or _home(environ) / ".netrc"))
    elif index != "none":
        env["UV_DEFAULT_INDEX"] = index
    return Handover(
        env=tuple(sorted(env.items())),
        ca_bundle=_ca_bundle(ca_bundle, environ, configured.get("cert", "")),
        netrc=login,
        secrets=tuple(sorted(set(_secrets(env, login)))),
    )


def _home(environ: Mapping[str, str]) -> Path:
    return Path(environ["HOME"]) if environ.get("HOME") else Path.home()


def _index_settings(environ: Mapping[str, str], configured: Mapping[str, str]) -> dict[str, str]:
    """uv's own settings first, pip's in their place where there are none; places on this machine left out."""
    found = {name: environ[name] for name in _OTHER_UV if environ.get(name)}
    found.update({name: _remote(environ[name], " ") for name in _OLD_PLACES if environ.get(name)})
    for name, value in environ.items():
        if name.startswith("UV_INDEX_") and name.endswith(("_USERNAME", "_PASSWORD")):
            found[name] = value
        elif name.startswith("UV_INDEX_") and name.endswith("_PASSWORD_FILE") and value:
            found.setdefault(name.removesuffix("_FILE"), _in_file(name, value))

    def pip(option: str) -> str:
        return environ.get("PIP_" + option.upper().replace("-", "_")) or configured.get(option, "")

    for (name, option, between), old in zip(_PLACES, (*_OLD_PLACES, ""), strict=True):
        if environ.get(name):
            found[name] = _remote(environ[name], between)
        elif not found.get(old):
            found[name] = _remote(" ".join(pip(option).split()), " ").replace(" ", between)
    timeout = environ.get("PIP_DEFAULT_TIMEOUT") or pip("timeout")
    if timeout.isdigit():
        found.setdefault("UV_HTTP_TIMEOUT", timeout)
    if pip("trusted-host"):
        found.setdefault("UV_INSECURE_HOST", " ".join(pip("trusted-host").split()))
    if pip("no-index").lower() in ("1", "true", "yes", "on"):
        found.setdefault("UV_NO_INDEX", "1")
    return {name: value for name, value in found.items() if value}


def _in_file(name: str, path: str) -> str:
    """A password in a file, as secrets are mounted: without the end of its line. Raises ConfigError."""
    data = _read(Path(path))
    if not data or not data.strip():
        raise ConfigError(
            f"{name}: {path} {'cannot be read' if data is None else 'is empty'}, and a package index asks for it",
            hint="is it mounted, and yours to read?",
        )
    return data.decode("utf-8", "replace").strip()


def _remote(places: str, between: str) -> str:
    """Those of several places that the builder can reach: URLs of the network, not folders of this machine."""
    kept = (place.strip() for place in places.split(between))
    return between.join(
        place for place in kept if urlsplit(_NAMED.sub("", place, count=1)).scheme in ("http", "https")
    )


def _pip_configuration(environ: Mapping[str, str]) -> dict[str, str]:
    """pip.conf as pip reads it: global, user, venv, PIP_CONFIG_FILE; later files win, and `[install]` over
    `[global]` (pip docs, "Configuration", with the null device meaning: read none).
    """
    last = environ.get("PIP_CONFIG_FILE", "")
    if last == os.devnull:
        return {}
    home = _home(environ)
    places = [Path(folder) / "pip" / "pip.conf" for folder in _global_folders(environ)]
    places += [Path("/etc/pip.conf"), home / ".pip" / "pip.conf"]
    places.append(Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip" / "pip.conf")
    places.append(Path(environ.get("VIRTUAL_ENV") or sys.prefix) / "pip.conf")
    places += [Path(last)] if last else []
    sections: dict[str, dict[str, str]] = {"global": {}, "install": {}}
    for place in places:
        parser = configparser.RawConfigParser()
        try:
            parser.read(place, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError, OSError):
            continue  # pip itself will complain about it; it is not ours to judge
        for section, found in sections.items():
            if parser.has_section(section):
                found.update({name.replace("_", "-"): value for name, value in parser.items(section)})
    return {**sections["global"], **sections["install"]}


def _global_folders(environ: Mapping[str, str]) -> list[str]:
    folders = (environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":")
    return [folder for folder in folders if folder]


def _ca_bundle(wanted: str, environ: Mapping[str, str], configured: str) -> bytes | None:
    if wanted == "none":
        return None
    if wanted != "auto":
        data = _read(Path(wanted).expanduser())
        if data is None or _PEM not in data:
            problem = "cannot be read" if data is None else "holds no PEM certificate"
            raise ConfigError(
                f"build.ca_bundle: {wanted} {problem}", hint="name a PEM file, `auto` or `none`"
            )
        return data
    named = [environ[name] for name in _CA_VARIABLES if environ.get(name)]
    for place in [*named, *([configured] if configured else []), *_CA_FILES]:
        data = _read(Path(place))
        if data is not None and _PEM in data:
            return data
    return None


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _secrets(env: Mapping[str, str], login: bytes | None) -> Iterator[bytes]:
    """Every password and token in what is handed over, in the forms in which one may be written down."""
    for name, value in env.items():
        if name.endswith("_PASSWORD"):
            yield from _forms(env.get(name.removesuffix("PASSWORD") + "USERNAME", ""), value)
        for part in value.replace(",", " ").split():
            for user, password in _USERINFO.findall(part):
                # a user name alone may be a token (`https://TOKEN@host/`)
                yield from _forms(user, password) if password else _forms("", user)
    for found in _NETRC_PASSWORD.findall(login or b""):
        yield from _forms("", found.strip(b'"').decode("utf-8", "surrogateescape"))


def _forms(user: str, password: str) -> Iterator[bytes]:
    """As it stands, decoded, as HTTP's basic credentials, and inside a URL.

    A short or plain word is looked for in its context only: every larger package holds the word `password`.
    """
    plain = unquote(password)
    if not plain:
        return
    if user:
        yield base64.b64encode(os.fsencode(f"{unquote(user)}:{plain}"))
    for form in (password, plain):
        yield os.fsencode(f":{form}@")
        if len(form) >= _TELLING and not form.isalpha():
            yield os.fsencode(form)
