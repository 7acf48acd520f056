"""A NAS and the machines that mount it: one guest exports folders by NFS and SMB, the others mount them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.nas_guests import Guest, Images, Lab, accelerator, images

UP = 400.0  # seconds within which a guest is there; it takes ten, and a busy machine stalls
SERVE = """
set -e
modprobe -a nfsd ext4
for disk in vdc vdd; do
  mkdir -p /export/$disk
  blkid /dev/$disk > /dev/null || mkfs.ext4 -q -O quota -E quotatype=usrquota /dev/$disk
  mount -o usrquota /dev/$disk /export/$disk
  chmod 1777 /export/$disk
done
mkdir -p /export/vdc/.nfs && mount --bind /export/vdc/.nfs /var/lib/nfs
mkdir -p /var/lib/nfs/sm /var/lib/nfs/sm.bak /var/lib/nfs/nfsdcld /var/lib/nfs/rpc_pipefs /var/lib/nfs/v4recovery
touch /var/lib/nfs/etab /var/lib/nfs/rmtab /var/lib/nfs/state
chown -R statd /var/lib/nfs/sm /var/lib/nfs/sm.bak /var/lib/nfs/state
mount -t rpc_pipefs sunrpc /var/lib/nfs/rpc_pipefs
mount -t nfsd nfsd /proc/fs/nfsd
echo 10 > /proc/fs/nfsd/nfsv4leasetime
echo 10 > /proc/fs/nfsd/nfsv4gracetime
echo 10 > /proc/sys/fs/lease-break-time
for disk in vdc vdd; do
  echo "/export/$disk 10.0.0.0/8(rw,sync,no_subtree_check,no_root_squash,fsid=$disk)"
done | sed 's/fsid=vdc/fsid=1/; s/fsid=vdd/fsid=2/' > /etc/exports
rpcbind -w
nfsdcld
exportfs -ra
rpc.mountd
rpc.statd
rpc.nfsd 8
mkdir -p /run/samba /var/log/samba
printf '[global]\\nserver role = standalone\\nload printers = no\\ndisable spoolss = yes\\nlog level = 0\\n\
server min protocol = SMB3\\n[share]\\npath = /export/vdc\\nread only = no\\n' > /etc/samba/smb.conf
printf 'nas\\nnas\\n' | smbpasswd -s -a root
smbd -D
"""


class Nas:
    """A server and its clients."""

    def __init__(self, lab: Lab, disks: tuple[Path, Path], count: int) -> None:
        self.lab = lab
        self.disks = disks
        self.count = count
        self.clients: dict[int, Guest] = {}
        self.server: Guest

    def address(self, number: int) -> str:
        """The server's, for that client."""
        return f"10.1.{number}.1"

    def begin_server(self) -> None:
        """Switch it on, with its disks. By the thread that lives as long as it shall."""
        self.server = self.lab.start(
            "server", [f"server-client{each}" for each in range(self.count)], self.disks
        )

    def serve(self) -> None:
        """Wait until it is there, and let it export its disks."""
        self.server.wait(UP)
        for number in range(self.count):
            self.server.sh(
                f"ip link set eth{number + 1} up; ip address add {self.address(number)}/24 dev eth{number + 1}"
            )
        self.server.sh(SERVE, seconds=240)

    def begin_client(self, number: int) -> None:
        """Switch a client on, in the place of one that was cut off too."""
        self.clients[number] = self.lab.start(f"client{number}", [f"client{number}-server"])

    def join(self, number: int) -> None:
        """Wait until it is there, and let it speak to the server."""
        self.clients[number].wait(UP)
        self.clients[number].sh(
            f"hostname client{number}; ip link set eth1 up; ip address add 10.1.{number}.2/24 dev eth1;"
            "modprobe -a nfs nfsv4 nfsv3 cifs; rpcbind -w; rpc.statd"
        )

    def cut(self) -> None:
        """End all of them."""
        for guest in (self.server, *self.clients.values()):
            guest.cut()

    def mount(self, number: int, kind: str, where: str, *, disk: str = "vdc", options: str = "") -> None:
        """Mount an export on a client: "nfs4", "nfs3" or "smb3"."""
        own = {"nfs4": "vers=4.2", "nfs3": "vers=3", "smb3": "vers=3.1.1,username=root,password=nas"}[kind]
        words = ",".join(filter(None, (own, options)))
        source = (
            f"//{self.address(number)}/share" if kind == "smb3" else f"{self.address(number)}:/export/{disk}"
        )
        self.clients[number].sh(
            f"mkdir -p {where} && mount -t {'cifs' if kind == 'smb3' else 'nfs'} -o {words} {source} {where}"
        )


@contextmanager
def nas(folder: Path, *, clients: int = 2, made: Images | None = None) -> Iterator[Nas]:
    """A NAS with its clients, started; two minutes and more where there is no KVM."""
    made = made or images(folder)
    lab = Lab(folder, made, accelerator(made, folder))
    disks = (folder / "large.disk", folder / "small.disk")
    for path, size in zip(disks, (4096, 48), strict=True):
        path.unlink(missing_ok=True)
        with path.open("wb") as sink:
            sink.truncate(size << 20)
    with ExitStack() as stack:
        place = Nas(lab, disks, clients)
        place.begin_server()
        stack.callback(place.cut)
        for number in range(clients):
            place.begin_client(number)
        with ThreadPoolExecutor() as pool:
            begun = [
                pool.submit(place.serve),
                *(pool.submit(place.join, number) for number in range(clients)),
            ]
        for each in begun:
            each.result()
        yield place
    for path in disks:
        path.unlink()
