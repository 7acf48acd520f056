"""What the host hands to a build (certificates, proxies, index, credentials) is found nowhere after a run."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from urllib.parse import quote

from tests.image_tools import Index, forms, wheel
from tests.run_tools import Project, engine

USES = "import traced\nfrom mirage import artifact\nartifact.File.save(traced.x, name='seen')\n"


def test_nothing_that_the_host_hands_to_the_build_is_left_after_a_run(tmp_path: Path) -> None:
    password, proxy, login = (f"{name}-{secrets.token_hex(8)}+/" for name in ("pw", "proxy", "netrc"))
    certificate, host = secrets.token_hex(16), secrets.token_hex(8) + ".example.com"
    home = tmp_path / "home"
    home.mkdir()
    bundle = home / "ca.pem"
    bundle.write_text(f"-----BEGIN CERTIFICATE-----\n{certificate}\n-----END CERTIFICATE-----\n")
    (home / ".netrc").write_text(f"machine netrc-{host} login me password {login}\n")
    package = wheel("traced", {"traced.py": f"x = {secrets.token_hex(8)!r}\n".encode()})
    with Index(package, login=f"me:{password}") as index:
        project = Project(
            tmp_path / "repository",
            USES,
            files={
                "requirements.txt": f"traced==1.0 --hash={index.hash('traced')}\n",
                ".mirage/project.yaml": (
                    "project: traced\nworkflow: workflows.main\n"
                    f"build: {{network: host, ca_bundle: {bundle}}}\n"
                ),
            },
        )
        environ = {
            "UV_DEFAULT_INDEX": index.url.replace("//", f"//me:{quote(password, safe='')}@"),
            "HTTPS_PROXY": f"http://me:{quote(proxy, safe='')}@proxy-{host}:3128",
            "NO_PROXY": "127.0.0.1",
            "NETRC": str(home / ".netrc"),
        }
        out, err, code = project.ended(project.start("--config", "configs/a.yaml", "--json", env=environ))
    assert code == 0, err
    assert index.served == [package[0]]
    made = json.loads(out)
    image = made["image"]["engine_id"]
    haystacks = {
        "saved image": b"".join(engine().get_image(image)),
        "inspect": json.dumps(engine().inspect_image(image)).encode(),
        "history": json.dumps(engine().history(image)).encode(),
        "output": (out + err).encode(),
        "show": project.mirage("show", "latest", "--json").encode(),
        "log": project.mirage("logs", "latest").encode(),
        **{
            str(path): path.read_bytes()
            for path in (project.folder / ".mirage").rglob("*")
            if path.is_file() and path.name != "project.yaml"
        },
    }
    assert b"x = '" in haystacks["saved image"]
    for secret in (password, proxy, login, certificate, f"proxy-{host}", f"netrc-{host}"):
        for form in forms(secret):
            assert [name for name, hay in haystacks.items() if form in hay] == [], form
