"""Taking secrets out of text: every form, however it is cut into pieces, and nothing else."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orchestrator.redaction import LEAST, Redactor, Secrets, forms

VALUE = 'p"ss/w+rd\\ é='.encode()
WAYS = {
    "raw": VALUE,
    "hex": VALUE.hex().encode(),
    "HEX": VALUE.hex().upper().encode(),
    "url": quote(VALUE, safe="").encode(),
    "url, lower": quote(VALUE, safe="").lower().encode(),
    "json": json.dumps(VALUE.decode()).encode(),
    "json, not ascii": json.dumps(VALUE.decode(), ensure_ascii=False).encode(),
    "repr": repr(VALUE.decode()).encode(),
    "repr of bytes": repr(VALUE).encode(),
    **{f"base64 at {n}": base64.b64encode(bytes(n) + VALUE + b"x" * 5) for n in range(4)},
    **{f"base64url at {n}": base64.urlsafe_b64encode(bytes(n) + VALUE + b"x" * 5) for n in range(4)},
}
ONE = Redactor((("TOKEN", VALUE),))


@pytest.mark.parametrize("way", WAYS)
def test_a_secret_is_taken_out_in_every_form(way: str) -> None:
    data = b"before " + WAYS[way] + b" after"
    clean = ONE.clean(data)
    assert b"[secret TOKEN]" in clean
    assert clean.startswith(b"before ") and clean.endswith(b" after")
    assert ONE.found_in(data) == "TOKEN"
    for form in forms(VALUE):
        assert form not in clean


@pytest.mark.parametrize("way", WAYS)
def test_also_byte_by_byte_and_at_each_cut(way: str) -> None:
    data = b"before " + WAYS[way] + b" after"
    expected = ONE.clean(data)
    cuts = [[data[:at], data[at:]] for at in range(len(data))] + [[bytes([byte]) for byte in data]]
    for pieces in cuts:
        stream = ONE.stream()
        assert b"".join([*map(stream.feed, pieces), stream.end()]) == expected


def test_other_text_passes_as_the_object_that_it_is() -> None:
    data = b"loss=0.123 " * 100
    assert ONE.clean(data) is data
    assert Redactor().clean(data) is data
    pieces = iter([("stdout", data)])
    assert Redactor().output(pieces) is pieces
    assert ONE.found_in(data) is None


def test_only_what_may_become_a_secret_is_held_back() -> None:
    stream = ONE.stream()
    assert stream.feed(b"Password: ") == b"Password: "
    assert stream.feed(b"loading p") == b"loading "
    assert stream.feed(b"arts\n") == b"parts\n"


def test_streams_do_not_mix_and_a_broken_one_gives_what_it_held() -> None:
    def pieces() -> Iterator[tuple[str, bytes]]:
        yield "stdout", VALUE[:5]
        yield "stderr", b"warning\n"
        yield "stdout", VALUE[5:] + b"\n" + VALUE[:4]
        raise OSError("the engine went away")

    seen = []
    with pytest.raises(OSError, match="went away"):
        for pair in ONE.output(pieces()):
            seen.append(pair)
    assert seen == [("stderr", b"warning\n"), ("stdout", b"[secret TOKEN]\n"), ("stdout", VALUE[:4])]


def test_the_lines_of_a_long_secret_count_by_themselves() -> None:
    key = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0\nBAQEFAASCBKcwggSjAgEAAo\n-----END KEY-----"
    redactor = Redactor((("KEY", key.encode()),))
    assert redactor.text(f"all: {key}.") == "all: [secret KEY]."
    assert redactor.text("one: BAQEFAASCBKcwggSjAgEAAo.") == "one: [secret KEY]."
    assert redactor.text("-----BEGIN KEY-----") == "-----BEGIN KEY-----"


def test_json_is_cleaned_by_its_strings() -> None:
    secret = VALUE.decode()
    cleaned = ONE.json({secret: [secret, 1, None, {"x": f"a{secret}"}]})
    assert cleaned == {"[secret TOKEN]": ["[secret TOKEN]", 1, None, {"x": "a[secret TOKEN]"}]}


def test_values_never_show_in_a_representation() -> None:
    secrets = Secrets((("TOKEN", b"sesame-1234"),))
    assert "sesame" not in repr(secrets) + str(secrets) + repr(secrets.redactor) + f"{secrets!r:>99}"
    assert secrets.names == ("TOKEN",)


ALPHABET = st.sampled_from(list(b"ab\n/+"))
VALUES = st.lists(ALPHABET, min_size=LEAST, max_size=40).map(bytes)


@settings(max_examples=300, deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=3), st.data())
@example([b"aaaaaaaa", b"aaaaaaaaab"], None)
def test_cut_anywhere_the_result_is_that_of_the_whole(
    values: list[bytes], data: st.DataObject | None
) -> None:
    redactor = Redactor(tuple((f"S{n}", value) for n, value in enumerate(values)))
    noise = st.lists(ALPHABET, max_size=12).map(bytes)
    parts = st.lists(
        st.one_of(noise, *(st.sampled_from(sorted(forms(value))) for value in values)), max_size=6
    )
    whole = b"".join(values) * 2 if data is None else b"".join(data.draw(parts))
    cuts = [1] * len(whole) if data is None else data.draw(st.lists(st.integers(0, 30), max_size=20))
    stream, at, made = redactor.stream(), 0, b""
    for cut in cuts:
        made += stream.feed(whole[at : at + cut])
        at += cut
    made += stream.feed(whole[at:]) + stream.end()
    assert made == redactor.clean(whole)
    assert redactor.found_in(made) is None


def test_it_is_faster_than_a_log_comes() -> None:
    line = b"epoch %d step 100 loss=0.1234567 accuracy=0.876 lr=1e-3 throughput=123 img/s eta=00:01:02\n"
    block = b"".join(line % n for n in range(11_000))
    redactor = Redactor(tuple((f"S{n}", b"sk-%032d/+" % n) for n in range(3)))
    stream, begun = redactor.stream(), time.monotonic()
    for _ in range(20):
        stream.feed(block)
    speed = 20 * len(block) / (time.monotonic() - begun) / 1e6
    assert speed > 20, f"{speed:.0f} MB/s"
    begun = time.monotonic()
    for n in range(20_000):
        stream.feed(line % n)
    assert time.monotonic() - begun < 4
