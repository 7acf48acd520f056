"""What the host hands to the builder: its network's settings and credentials, and nothing that only it can reach."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from orchestrator.errors import ConfigError
from orchestrator.image import logins
from orchestrator.image.handover import Handover, gather
from orchestrator.locks import lock

PEM = b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def ask(home: Path, index: str = "inherit", ca_bundle: str = "none", **environ: str) -> Handover:
    """Gather with a home, a venv and system folders of our own; /etc/pip.conf of this machine is overridden."""
    base = {
        "HOME": str(home),
        "VIRTUAL_ENV": str(home / "venv"),
        "XDG_CONFIG_DIRS": str(home / "xdg"),
        "PIP_CONFIG_FILE": "/dev/null",
    }
    return gather(ca_bundle, index, {**base, **environ})


def settings(home: Path, **environ: str) -> dict[str, str]:
    return dict(ask(home, **environ).env)


def with_config(home: Path, text: str, **environ: str) -> dict[str, str]:
    path = home / "pip.conf"
    path.write_text(text)
    return settings(home, PIP_CONFIG_FILE=str(path), **environ)


def test_a_machine_without_settings_hands_over_nothing(home: Path) -> None:
    assert ask(home) == Handover((), None, None, ())


def test_proxies_are_handed_over_in_both_spellings_whichever_was_set(home: Path) -> None:
    found = settings(home, https_proxy="http://proxy.example.com:3128", NO_PROXY="example.com")
    assert found == {
        "HTTPS_PROXY": "http://proxy.example.com:3128",
        "https_proxy": "http://proxy.example.com:3128",
        "NO_PROXY": "example.com",
        "no_proxy": "example.com",
    }
    both = settings(home, http_proxy="http://low.example.com", HTTP_PROXY="http://up.example.com")
    assert both["HTTP_PROXY"] == both["http_proxy"] == "http://low.example.com"


def test_proxies_are_handed_over_even_where_the_index_is_not(home: Path) -> None:
    (home / ".netrc").write_text("machine example.com login x password sesame-1234\n")
    found = ask(
        home, index="none", HTTPS_PROXY="http://p.example.com", UV_INDEX="https://i.example.com/simple"
    )
    assert dict(found.env) == {"HTTPS_PROXY": "http://p.example.com", "https_proxy": "http://p.example.com"}
    assert found.netrc is None


def test_an_index_of_the_project_goes_before_the_hosts_own(home: Path) -> None:
    found = ask(home, index="https://own.example.com/simple", UV_DEFAULT_INDEX="https://other.example.com/")
    assert dict(found.env) == {"UV_DEFAULT_INDEX": "https://own.example.com/simple"}


def test_the_ca_bundle_that_is_named_is_taken(home: Path) -> None:
    (home / "ca.pem").write_bytes(PEM)
    assert ask(home, ca_bundle=str(home / "ca.pem")).ca_bundle == PEM


@pytest.mark.parametrize(
    ("content", "message"), [(None, "cannot be read"), (b"", "no PEM"), (b"\x30\x82", "no PEM")]
)
def test_a_ca_bundle_that_is_named_but_cannot_serve_is_an_error(
    home: Path, content: bytes | None, message: str
) -> None:
    if content is not None:
        (home / "ca.pem").write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        ask(home, ca_bundle=str(home / "ca.pem"))
    assert "ca.pem" in caught.value.message


def test_no_ca_bundle_is_taken_where_none_is_asked_for(home: Path) -> None:
    (home / "ca.pem").write_bytes(PEM)
    assert ask(home, ca_bundle="none", SSL_CERT_FILE=str(home / "ca.pem")).ca_bundle is None


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "CURL_CA_BUNDLE"])
def test_the_ca_bundle_of_the_hosts_tools_is_found(home: Path, name: str) -> None:
    (home / "ca.pem").write_bytes(PEM + b"# own\n")
    assert ask(home, ca_bundle="auto", **{name: str(home / "ca.pem")}).ca_bundle == PEM + b"# own\n"


def test_a_variable_that_names_a_missing_or_empty_bundle_is_passed_over(home: Path) -> None:
    (home / "empty").touch()
    (home / "ca.pem").write_bytes(PEM + b"# own\n")
    found = ask(
        home,
        ca_bundle="auto",
        SSL_CERT_FILE=str(home / "missing"),
        REQUESTS_CA_BUNDLE=str(home / "empty"),
        PIP_CERT=str(home / "ca.pem"),
    )
    assert found.ca_bundle == PEM + b"# own\n"


def test_the_ca_bundle_of_pips_configuration_is_found(home: Path) -> None:
    (home / "ca.pem").write_bytes(PEM + b"# own\n")
    (home / "pip.conf").write_text(f"[global]\ncert = {home / 'ca.pem'}\n")
    found = ask(home, ca_bundle="auto", PIP_CONFIG_FILE=str(home / "pip.conf"))
    assert found.ca_bundle == PEM + b"# own\n"


def test_the_index_settings_of_uv_are_handed_over_as_they_are(home: Path) -> None:
    given = {
        "UV_DEFAULT_INDEX": "https://a.example.com/simple",
        "UV_INDEX": "own=https://b.example.com/simple https://c.example.com/simple",
        "UV_INDEX_OWN_USERNAME": "me",
        "UV_INDEX_OWN_PASSWORD": "sesame-1234",
        "UV_FIND_LINKS": "https://d.example.com/x,https://d.example.com/y",
        "UV_INDEX_STRATEGY": "first-index",
        "UV_HTTP_TIMEOUT": "99",
        "UV_HTTP_RETRIES": "1",
        "UV_INSECURE_HOST": "b.example.com",
        "UV_NO_INDEX": "1",
    }
    assert settings(home, **given) == given


def test_no_other_variable_is_handed_over(home: Path) -> None:
    assert settings(home, AWS_SECRET_ACCESS_KEY="x", PIP_TARGET="/x", UV_PYTHON="3.9", PATH="/bin") == {}


def test_pips_settings_become_uvs(home: Path) -> None:
    found = with_config(
        home,
        """
[global]
index-url = https://a.example.com/simple
extra_index_url =
    https://b.example.com/simple
    https://c.example.com/simple
find-links = https://d.example.com/x https://d.example.com/y
trusted-host = b.example.com c.example.com
timeout = 77
""",
    )
    assert found == {
        "UV_DEFAULT_INDEX": "https://a.example.com/simple",
        "UV_INDEX": "https://b.example.com/simple https://c.example.com/simple",
        "UV_FIND_LINKS": "https://d.example.com/x,https://d.example.com/y",
        "UV_INSECURE_HOST": "b.example.com c.example.com",
        "UV_HTTP_TIMEOUT": "77",
    }


def test_pips_variables_go_before_its_files_and_uvs_own_before_both(home: Path) -> None:
    text = (
        "[install]\nindex-url = https://file.example.com\n[global]\nindex-url = https://global.example.com\n"
    )
    assert with_config(home, text)["UV_DEFAULT_INDEX"] == "https://file.example.com"
    pip = {"PIP_INDEX_URL": "https://pip.example.com"}
    assert with_config(home, text, **pip)["UV_DEFAULT_INDEX"] == "https://pip.example.com"
    own = with_config(home, text, **pip, UV_DEFAULT_INDEX="https://uv.example.com")
    assert own["UV_DEFAULT_INDEX"] == "https://uv.example.com"
    old = with_config(home, text, **pip, UV_INDEX_URL="https://old.example.com")
    assert old == {"UV_INDEX_URL": "https://old.example.com"}


def test_pips_files_are_read_in_its_own_order(home: Path) -> None:
    places = ["xdg/pip/pip.conf", ".pip/pip.conf", ".config/pip/pip.conf", "venv/pip.conf"]
    for number, place in enumerate(places):
        (home / place).parent.mkdir(parents=True, exist_ok=True)
        (home / place).write_text(f"[global]\nindex-url = https://{number}.example.com\n")
        found = settings(home, PIP_CONFIG_FILE="")
        assert found["UV_DEFAULT_INDEX"] == f"https://{number}.example.com", place
    assert settings(home, PIP_CONFIG_FILE="/dev/null") == {}
    # a section for the command goes before the general one, whichever file it stands in
    (home / ".pip/pip.conf").write_text("[install]\nindex-url = https://install.example.com\n")
    assert settings(home, PIP_CONFIG_FILE="")["UV_DEFAULT_INDEX"] == "https://install.example.com"


def test_a_pip_conf_that_cannot_be_read_is_left_to_pip(home: Path) -> None:
    assert with_config(home, "index-url = no section\n") == {}


@pytest.mark.parametrize(
    "environ",
    [
        {"PIP_FIND_LINKS": "/opt/wheels file:///opt/more ./wheels"},
        {"PIP_INDEX_URL": "file:///opt/simple"},
        {"PIP_EXTRA_INDEX_URL": "file:///opt/simple /opt/other"},
        {"UV_FIND_LINKS": "/opt/wheels,file:///opt/more"},
        {"UV_INDEX": "own=file:///opt/simple ./simple"},
        {"UV_DEFAULT_INDEX": "file:///opt/simple"},
        {"UV_INDEX_URL": "file:///opt/simple"},
        {"UV_EXTRA_INDEX_URL": "/opt/simple"},
    ],
)
def test_places_that_only_this_machine_can_reach_are_not_handed_over(
    home: Path, environ: dict[str, str]
) -> None:
    assert settings(home, **environ) == {}


def test_the_places_beside_them_are(home: Path) -> None:
    found = settings(home, PIP_FIND_LINKS="/opt/wheels https://a.example.com/x file:///opt/more")
    assert found == {"UV_FIND_LINKS": "https://a.example.com/x"}


def test_netrc_is_handed_over_and_its_passwords_are_secrets(home: Path) -> None:
    text = b'machine a.example.com login me password sesame-1234\nmachine b.example.com\n  password "q-uoted 99"\n'
    (home / ".netrc").write_bytes(text)
    found = ask(home)
    assert found.netrc == text
    assert {b"sesame-1234", b"q-uoted 99"} <= set(found.secrets)
    (home / "other").write_bytes(b"machine c.example.com login me password another-55\n")
    assert b"another-55" in ask(home, NETRC=str(home / "other")).secrets


def test_a_netrc_that_python_cannot_parse_still_gives_its_passwords(home: Path) -> None:
    (home / ".netrc").write_bytes(b"nonsense first\nmachine a.example.com login me password sesame-1234\n")
    assert b"sesame-1234" in ask(home).secrets


@pytest.mark.parametrize(
    "environ",
    [
        {"UV_DEFAULT_INDEX": "https://me:s%40same-1234@a.example.com/simple"},
        {"UV_INDEX": "https://b.example.com/ own=https://me:s%40same-1234@a.example.com/simple"},
        {"UV_INDEX_URL": "https://me:s%40same-1234@a.example.com/simple"},
        {"UV_FIND_LINKS": "https://b.example.com/,https://me:s%40same-1234@a.example.com/x"},
        {"PIP_INDEX_URL": "https://me:s%40same-1234@a.example.com/simple"},
        {"PIP_EXTRA_INDEX_URL": "https://me:s%40same-1234@a.example.com/simple"},
        {"HTTPS_PROXY": "http://me:s%40same-1234@proxy.example.com:3128"},
        {"https_proxy": "me:s%40same-1234@proxy.example.com:3128"},
    ],
)
def test_a_password_in_a_url_is_a_secret_encoded_decoded_and_as_basic_credentials(
    home: Path, environ: dict[str, str]
) -> None:
    secrets = ask(home, **environ).secrets
    assert {b"s%40same-1234", b"s@same-1234", base64.b64encode(b"me:s@same-1234")} <= set(secrets)


def test_a_password_by_variable_is_a_secret(home: Path) -> None:
    found = ask(home, UV_INDEX_OWN_USERNAME="me", UV_INDEX_OWN_PASSWORD="sesame-1234")
    assert {b"sesame-1234", base64.b64encode(b"me:sesame-1234")} <= set(found.secrets)


def test_a_password_may_be_in_a_file(home: Path) -> None:
    (home / "secret").write_text("hunter2-in-a-file\n")
    names = {"UV_INDEX_OWN_USERNAME": "me", "UV_INDEX_OWN_PASSWORD_FILE": str(home / "secret")}
    found = ask(home, **names)
    assert dict(found.env)["UV_INDEX_OWN_PASSWORD"] == "hunter2-in-a-file"
    assert "UV_INDEX_OWN_PASSWORD_FILE" not in dict(found.env)
    assert b"hunter2-in-a-file" in found.secrets
    assert ask(home, "none", **names).secrets == ()
    for text, message in ((None, "cannot be read"), ("\n", "is empty")):
        (home / "secret").unlink()
        if text is not None:
            (home / "secret").write_text(text)
        with pytest.raises(ConfigError, match=f"UV_INDEX_OWN_PASSWORD_FILE: .*{message}"):
            ask(home, **names)
        (home / "secret").write_text("again")


def test_a_token_in_the_place_of_a_user_name_is_a_secret(home: Path) -> None:
    assert b"tok-0123456789" in ask(home, UV_INDEX="https://tok-0123456789@a.example.com/simple").secrets


def test_an_everyday_word_is_looked_for_in_its_context_only(home: Path) -> None:
    found = ask(home, HTTPS_PROXY="http://me:password@proxy.example.com", UV_INDEX_X_PASSWORD="test")
    assert b":password@" in found.secrets
    assert base64.b64encode(b"me:password") in found.secrets
    assert not {b"password", b"test"} & set(found.secrets)


def test_a_host_that_forbids_indexes_forbids_them_to_the_builder(home: Path) -> None:
    assert settings(home, PIP_NO_INDEX="1") == {"UV_NO_INDEX": "1"}
    assert settings(home, PIP_NO_INDEX="0") == {}


NETRC = b"""# a comment: machine a.example.com login nobody password none
machine a.example.com login me password sesame-1234
machine git.example.org
  login machine password "two words"
machine evil.example.net login x password y macdef init
machine a.example.com login in-a-macro password z

default login anonymous password everybody
machine B.example.com login b password last-one
"""


@pytest.mark.parametrize(
    ("hosts", "kept"),
    [
        ((), None),
        (("a.example.com",), b"machine a.example.com login me password sesame-1234\n"),
        (("git.example.org",), b'machine git.example.org login machine password "two words"\n'),
        (("b.example.com",), b"machine B.example.com login b password last-one\n"),
        (("example.com", "anywhere.example"), None),
    ],
)
def test_a_builder_gets_the_logins_of_its_indexes_alone(hosts: tuple[str, ...], kept: bytes | None) -> None:
    assert logins.narrowed(NETRC.replace(b" macdef", b"\nmacdef"), hosts) == kept


@pytest.mark.parametrize(
    "data", [None, b"", b"nonsense", b"machine", b"# only a comment", b"default login a"]
)
def test_a_netrc_without_entries_gives_none(data: bytes | None) -> None:
    assert logins.narrowed(data, ("a.example.com",)) is None


def test_the_hosts_of_the_indexes_are_those_of_the_settings_and_of_the_lock() -> None:
    locked = lock.parse(
        "requirements.txt",
        b"--index-url https://a.example.com/simple\nsix==1.17.0 --hash=sha256:" + b"0" * 64,
    )
    env = {"UV_INDEX": "x=https://B.example.com:8443/simple", "HTTPS_PROXY": "http://proxy.example.com"}
    assert logins.hosts_of(env, locked) == {"a.example.com", "b.example.com"}
