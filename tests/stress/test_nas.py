"""A store on a real NAS: NFS 4.2, NFS 3 and SMB 3, from a server guest to two client guests (tests/nas_tools.py)."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Iterator

import pytest

from tests.figures import Counted, how_many
from tests.nas_tools import Nas, nas
from tests.race_tools import RACES
from tests.store_tools import needs_root

pytestmark = [pytest.mark.stress, pytest.mark.timeout(3600)]
KINDS = {"nfs4": "nfs4", "nfs3": "nfs"}  # what the kernel calls them
EACH = 3  # processes on each client
STALE = "NAS: what another machine changed"
LOST = "NAS: the server begins anew, its answers are lost"
CUT = "NAS: a client's power is cut"
FULL = "NAS: the export is full"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nas]:
    """Two machines that have mounted one NAS in each way."""
    needs_root()
    with nas(tmp_path_factory.mktemp("nas")) as made:
        for number in made.clients:
            mount_all(made, number)
        yield made


def mount_all(place: Nas, number: int) -> None:
    for kind in (*KINDS, "smb3"):
        place.mount(number, kind, f"/mnt/{kind}")
    for kind in KINDS:
        place.mount(number, kind, f"/mnt/{kind}-small", disk="vdd")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def name(place: Nas) -> str:
    """A new folder on the NAS, for one test."""
    made = secrets.token_hex(4)
    place.server.sh(f"mkdir -m 777 /export/vdc/{made}; mkdir -m 777 /export/vdd/{made}")
    return made


def test_the_suite_of_all_stores(place: Nas, kind: str, name: str, counted: Counted) -> None:
    guest = place.clients[list(KINDS).index(kind)]
    env = {
        "MIRAGE_NAS_MOUNT": f"/mnt/{kind}/{name}",
        "MIRAGE_NAS_KIND": KINDS[kind],
        "MIRAGE_STRESS_TABLE": "/tmp/table",
    }
    done = guest.run(
        *(
            "python3",
            "-m",
            "pytest",
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
            "tests/nas_suite.py",
        ),
        seconds=1500,
        env=env,
    )
    assert re.search(r"^\d+ passed in ", done.out, re.MULTILINE), done.out  # and none failed or was skipped
    for line in guest.sh("cat /tmp/table").splitlines():  # a harm fails the test there
        told = json.loads(line)
        counted(told["figure"]).trials += told["trials"]


def test_smb_is_refused(place: Nas, name: str) -> None:
    told = place.clients[0].work("opened", f"/mnt/smb3/{name}/store").json
    assert told["code"] == 7, told
    assert "is SMB (cifs)" in told["message"] and "give the same folder by NFS too" in told["hint"]


def test_nfs_that_does_not_ask_at_an_opening_is_refused(place: Nas, name: str) -> None:
    place.mount(0, "nfs4", "/mnt/nocto", options="nocto,nosharecache")
    told = place.clients[0].work("opened", f"/mnt/nocto/{name}/store").json
    place.clients[0].sh("umount /mnt/nocto")
    assert told["code"] == 7 and "is mounted with nocto" in told["message"], told
    assert told["hint"] == "mount it without nocto"


def test_a_machine_sees_at_once_what_another_did(place: Nas, kind: str, name: str, counted: Counted) -> None:
    """A blob that went, an object that came in a folder that was not there: whatever was looked up a moment before."""
    counts, one, two = counted(STALE), *place.clients.values()
    root, begin, end = (f"/mnt/{kind}/{name}/{each}" for each in ("store", "begin", "end"))
    for turn in range(10):
        counts.trials += 1
        one.work("put", root, "going")
        looking = two.starts("remembers", root, f"{begin}{turn}", f"{end}{turn}", f"new{turn}")
        assert one.work("changes", root, f"{begin}{turn}", f"{end}{turn}", f"new{turn}").json is True
        before, after = looking.result().json
        assert before == [True, False, [], False]
        wanted = [f"comingnew{turn}", False, True, [f"refs/dataset/new{turn}/v1.json"]]
        counts.unless(after == wanted, "corrupt", f"{kind}: {after}")


def test_two_names_within_one_tick_are_both_listed(
    place: Nas, kind: str, name: str, counted: Counted
) -> None:
    """NFS 3 knows a folder by its time of change: what came within the same tick as the last list is never listed."""
    counts, client, rounds, pace = counted(STALE), place.clients[1], how_many("races", 200), 0.25
    client.work("opened", f"/mnt/{kind}/{name}/store")
    place.server.sh(f"mkdir -p /export/vdc/{name}/store/runs")
    begin = time.time() + 20
    adding = place.server.starts("adds", f"/export/vdc/{name}/store/runs", str(begin), str(rounds), str(pace))
    found = client.work("lists", f"/mnt/{kind}/{name}/store", "runs", str(begin), str(rounds), str(pace)).json
    adding.result()
    print(f"{kind}: {found} of {rounds}")
    counts.trials += rounds
    counts.bitten += found["plain"]  # lists that stayed wrong without the store's care
    counts.unless(found["ours"] == 0, "lost", f"{kind}: {found['ours']} lists")


def test_two_machines_race_for_names(place: Nas, kind: str, name: str, counted: Counted) -> None:
    counts, rounds, root = counted(RACES), how_many("races", 200), f"/mnt/{kind}/{name}/store"
    publishers = EACH * len(place.clients)
    for guest in place.clients.values():
        guest.sh("rm -f /run/over")
        guest.work("opened", root)
    gate = place.server.starts("gate", str(publishers), seconds=3300)
    reading = [guest.starts("read", root, seconds=3400) for guest in place.clients.values()]
    racing = [
        guest.starts("race", root, f"{number}-{each}", str(rounds), place.address(number), seconds=3300)
        for number, guest in place.clients.items()
        for each in range(EACH)
    ]
    won = [version for each in racing for version in each.result().json]
    for guest in place.clients.values():
        guest.sh("touch /run/over")
    for each in reading:
        told = each.result().json
        assert told["seen"] > 0
        for torn in told["torn"]:
            counts.found("corrupt", f"{kind}: {torn}")
    assert gate.result().json == {"rounds": rounds}
    code = "import sys; open('/run/won', 'w').write(sys.argv[1])"
    place.server.run("python3", "-c", code, json.dumps(won))
    words = (str(publishers), str(rounds), "/run/won")
    found = place.server.work("judged", f"/export/vdc/{name}/store", *words).json
    counts.trials += found["trials"]
    for harm in found["said"]:
        counts.found(harm.partition(":")[0], f"{kind}: {harm}")


def test_what_is_live_stays_while_both_collect(place: Nas, kind: str, name: str, counted: Counted) -> None:
    """Writers on both machines use the same contents again and again, and a collector on each never rests."""
    counts, root, seconds = counted("NAS: collected while others publish"), f"/mnt/{kind}/{name}/store", 60
    place.clients[0].work("opened", root)
    running = [
        guest.starts("gc_write", root, str(2 * number + each), str(seconds))
        for number, guest in place.clients.items()
        for each in range(2)
    ]
    collecting = [guest.starts("gc_collect", root, str(seconds)) for guest in place.clients.values()]
    wrote = [each.result().json for each in running]
    collected = [each.result().json for each in collecting]
    ends = place.clients[0].work("gc_ends", root).json
    print(f"{kind}: {wrote} {collected} {ends}")
    counts.trials += sum(each["done"] for each in wrote)
    counts.unless(not any(each["broken"] for each in wrote), "lost", f"{kind}: {wrote}")
    counts.unless(ends["garbage"] == 0, "orphans", f"{kind}: {ends}")
    assert sum(each["removed"] for each in collected) > 0 and ends["whole"] > 0


def test_a_clients_power_is_cut(place: Nas, kind: str, name: str, counted: Counted) -> None:
    """In the middle of publishing; the other one goes on, nothing that was told is lost, nothing is torn."""
    counts, root = counted(CUT), f"/mnt/{kind}/{name}/store"
    cuts = how_many("cuts", 200) // 100
    other = "nfs3" if kind == "nfs4" else "nfs4"
    told = [f"/export/vdc/{name}/told-{turn}-{number}" for turn in range(cuts) for number in place.clients]
    for turn in range(cuts):
        for guest in place.clients.values():
            guest.sh("rm -f /run/over")
        publishing = [
            guest.starts("publish_on", root, f"{turn}-{number}", f"/mnt/{other}/{name}/told-{turn}-{number}")
            for number, guest in place.clients.items()
        ]
        for number in place.clients:
            place.server.sh(f"until grep -q '[0-9]$' {told[2 * turn + number]}; do sleep 0.2; done")
        time.sleep(2 + turn)
        place.clients[1].cut()
        time.sleep(3)
        place.clients[0].sh("touch /run/over")
        publishing[0].result()
        with pytest.raises(OSError):
            publishing[1].result()
        place.begin_client(1)
        place.join(1)
        mount_all(place, 1)
        counts.trials += 1
    for guest in (place.server, place.clients[1]):
        found = guest.work(
            "check",
            f"/export/vdc/{name}/store" if guest is place.server else root,
            *(told if guest is place.server else []),
        ).json
        print(f"{kind}: {found['versions']} versions, left under staging: {len(found['staged'])}")
        counts.unless(not found["lost"], "lost", f"{kind}: {found['lost']}")
        assert found["versions"] > cuts


def test_the_server_begins_anew_and_its_answers_are_lost(
    place: Nas, kind: str, name: str, counted: Counted
) -> None:
    """It carries out what it is asked, says nothing for a second, and forgets that it did: the clients ask again."""
    counts, root = counted(LOST), f"/mnt/{kind}/{name}/store"
    restarts = how_many("restarts", 5)
    place.clients[0].work("opened", root)
    for guest in place.clients.values():
        guest.sh("rm -f /run/over")
    running = [
        guest.starts("create_on", root, f"{number}-{each}", seconds=900)
        for number, guest in place.clients.items()
        for each in range(EACH)
    ]
    for _ in range(restarts):
        time.sleep(4)
        place.server.sh(
            "nft add table inet mute; nft add chain inet mute out '{ type filter hook output priority 0; }';"
            "nft add rule inet mute out tcp sport 2049 drop; sleep 1.5"
        )
        place.server.cut()
        place.begin_server()
        place.serve()
        counts.trials += 1
        time.sleep(12)  # its clients have ten seconds to tell what they had
    time.sleep(4)
    for guest in place.clients.values():
        guest.sh("touch /run/over")
    for each in running:
        found = each.result().json
        print(f"{kind}: {found['done']} done")
        assert found["done"] > restarts
        for wrong in found["wrong"]:
            counts.found("lost", f"{kind}: {wrong}")
    place.server.work("check", f"/export/vdc/{name}/store")


@pytest.mark.parametrize("quota", [False, True], ids=["disk", "quota"])
def test_a_full_export(place: Nas, kind: str, name: str, quota: bool, counted: Counted) -> None:
    """Both fill it until they are refused; what was published before is whole, and with space again it goes on."""
    counts, root, uid = counted(FULL), f"/mnt/{kind}-small/{name}/store", 1000
    limit = "9000 9000 0 0" if quota else "0 0 0 0"
    place.server.sh(f"setquota -u {uid} {limit} /export/vdd")
    # what was removed is free when the server has closed it
    place.server.sh(
        "until [ $(df --output=pcent /export/vdd | tail -1 | tr -d ' %') -lt 30 ]; do sleep 1; done"
    )
    place.clients[0].work("opened", root, uid=uid)
    filling = [
        guest.starts("fill", root, str(number), uid=uid, seconds=600)
        for number, guest in place.clients.items()
    ]
    ends = [each.result().json for each in filling]
    counts.trials += len(ends)
    for end in ends:
        assert end["code"] == 7, end
        # with a quota NFS 4.2 was seen to say `No space left` all the same; why was not found out
        words = ("No space left", "quota") if quota else ("No space left",)
        assert any(each in end["message"] for each in words), end
        assert "free some space" in end["hint"], end
        assert end["made"], "nothing was published before"
    found = place.server.work("check", f"/export/vdd/{name}/store").json
    counts.unless(
        found["versions"] == sum(len(end["made"]) for end in ends), "lost", f"{found['versions']} of {ends}"
    )
    counts.unless(found["staged"] == [], "orphans", str(found["staged"]))
    place.server.sh(f"setquota -u {uid} 0 0 0 0 /export/vdd; rm -rf /export/vdd/{name}")
