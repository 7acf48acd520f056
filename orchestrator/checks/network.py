"""Proxies, certificates and package indexes that builds get from this machine: which there are, never their values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from orchestrator.checks.finding import FAIL, OK, WARN, Finding
from orchestrator.errors import ConfigError

_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


def examine(ca_bundle: str, index: str, environment: Mapping[str, str]) -> Iterator[Finding]:
    """``ca_bundle`` and ``index`` are those of `build` in project.yaml."""
    from orchestrator.image.handover import gather

    try:
        found = gather(ca_bundle, index, environment)
    except ConfigError as error:
        yield Finding("network", FAIL, error.message, error.hint, error.exit_code)
        return
    names = sorted({name.upper() for name, _ in found.env if name.upper() in _PROXIES})
    other = sorted({name for name, _ in found.env if name.upper() not in _PROXIES})
    told = [f"proxies ({', '.join(names)})" if names else "no proxy"]
    told.append("a CA bundle" if found.ca_bundle else "no CA bundle")
    told += [f"settings of the index ({', '.join(other)})"] if other else []
    told += ["logins (netrc)"] if found.netrc else []
    yield Finding("network", OK, f"builds get {', '.join(told)}; runs get none of it")
    for name in _PROXIES:
        one, two = environment.get(name), environment.get(name.lower())
        if one and two and one != two:
            yield Finding(
                "network",
                WARN,
                f"{name} and {name.lower()} differ: programs disagree which counts",
                "set both alike",
            )
