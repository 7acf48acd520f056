"""What the host hands to the builder and to nothing else: CA bundle, proxies, index settings, credentials.

All of it reaches the builder's commands as their environment or as files beside them; the layer is searched
for every secret value before it is kept.
"""

from __future__ import annotations

import configparser
import netrc
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from orchestrator.errors import ConfigError

_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
_CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "CURL_CA_BUNDLE")
_CA_FILES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Alpine
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",  # openSUSE
)
# uv's own names, and what they are in pip's configuration.
_INDEX_SETTINGS = {
    "UV_DEFAULT_INDEX": "index-url",
    "UV_INDEX": "extra-index-url",
    "UV_FIND_LINKS": "find-links",
}
_OTHER_UV = ("UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_INDEX_STRATEGY", "UV_HTTP_TIMEOUT", "UV_INSECURE_HOST")


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
    for name in _PROXIES:
        value = environ.get(name) or environ.get(name.lower())
        if value:
            env[name] = env[name.lower()] = value
    login: bytes | None = None
    if index == "inherit":
        env.update(_index_settings(environ))
        login = _read(Path(environ.get("NETRC") or Path.home() / ".netrc"))
    elif index != "none":
        env["UV_DEFAULT_INDEX"] = index
    return Handover(
        env=tuple(sorted(env.items())),
        ca_bundle=_ca_bundle(ca_bundle, environ),
        netrc=login,
        secrets=tuple(sorted(set(_secrets(env, login)))),
    )


def _index_settings(environ: Mapping[str, str]) -> dict[str, str]:
    found = {name: environ[name] for name in _OTHER_UV if environ.get(name)}
    for name, value in environ.items():
        if name.startswith("UV_INDEX_") and name.endswith(("_USERNAME", "_PASSWORD")):
            found[name] = value
    configured = _pip_configuration(environ)
    for name, option in _INDEX_SETTINGS.items():
        value = environ.get(name, "")
        if not value and not (name == "UV_DEFAULT_INDEX" and "UV_INDEX_URL" in found):
            value = environ.get("PIP_" + option.upper().replace("-", "_")) or configured.get(option, "")
        remote = [part for part in value.split() if urlsplit(part).scheme in ("http", "https")]
        if remote:
            found[name] = " ".join(remote)
    timeout = environ.get("PIP_DEFAULT_TIMEOUT") or configured.get("timeout", "")
    if timeout.isdigit():
        found.setdefault("UV_HTTP_TIMEOUT", timeout)
    return found


def _pip_configuration(environ: Mapping[str, str]) -> dict[str, str]:
    """pip.conf as pip reads it: global, user, PIP_CONFIG_FILE; later files win (pip docs, "Configuration")."""
    home = Path.home()
    config_home = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    places = [Path("/etc/pip.conf"), home / ".pip" / "pip.conf", config_home / "pip" / "pip.conf"]
    if environ.get("PIP_CONFIG_FILE"):
        places.append(Path(environ["PIP_CONFIG_FILE"]))
    found: dict[str, str] = {}
    for place in places:
        parser = configparser.RawConfigParser()
        try:
            parser.read(place, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError, OSError):
            continue  # pip itself will complain about it; it is not ours to judge
        for section in ("global", "install"):
            if parser.has_section(section):
                found.update(parser.items(section))
    return found


def _ca_bundle(wanted: str, environ: Mapping[str, str]) -> bytes | None:
    if wanted == "none":
        return None
    if wanted != "auto":
        data = _read(Path(wanted).expanduser())
        if data is None:
            raise ConfigError(
                f"build.ca_bundle: {wanted} cannot be read", hint="name a PEM file, `auto` or `none`"
            )
        return data
    named = [environ[name] for name in _CA_VARIABLES if environ.get(name)]
    for place in [*named, *_CA_FILES]:
        data = _read(Path(place))
        if data:
            return data
    return None


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _secrets(env: Mapping[str, str], login: bytes | None) -> Iterator[bytes]:
    """Every password in what is handed over, as it stands and decoded."""
    for name, value in env.items():
        if name.endswith("_PASSWORD"):
            yield value.encode()
        for part in value.split():
            password = urlsplit(part).password if "://" in part else None
            if password:
                yield password.encode()
                yield unquote(password).encode()
    if login is not None:
        try:
            path = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
            hosts = netrc.netrc(str(path)).hosts
        except (OSError, netrc.NetrcParseError):
            return
        for _, _, password in hosts.values():
            if password:
                yield password.encode()
