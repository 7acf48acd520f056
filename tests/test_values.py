"""Values and their grammars: canonical JSON, digests, names, keys."""

from __future__ import annotations

import hashlib
import io
import json
import re
import struct
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import canonical, digest, errors, reference
from orchestrator.digest import Digest
from orchestrator.errors import ArtifactError, ConfigError, MirageError, StoreError
from orchestrator.key import Key, image_key, run_key

D = tuple(Digest("sha256:" + c * 64) for c in "0123456789abcdef")

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        # RFC 8785, 3.2.3: names are sorted by UTF-16 code units
        (
            {"\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\U0001f600": 5, "\x80": 6, "\u00f6": 7},
            '{"\\r":2,"1":4,"\x80":6,"\u00f6":7,"\u20ac":1,"\U0001f600":5,"\ufb33":3}',
        ),
        # RFC 8785, 3.2.2
        (
            {
                "numbers": [333333333.33333329, 1e30, 4.5, 2e-3, 0.000000000000000000000000001],
                "string": "\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"/",
                "literals": [None, True, False],
            },
            '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
            '"string":"\u20ac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}',
        ),
        ([-0.0, 1.0, 1e21, 5e-324], "[0,1,1e+21,5e-324]"),
    ],
)
def test_canonical_json_is_that_of_the_rfc(value: canonical.Json, expected: str) -> None:
    assert canonical.encode(value) == expected.encode()


@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        # RFC 8785, appendix B
        ("0000000000000001", "5e-324"),
        ("7fefffffffffffff", "1.7976931348623157e+308"),
        ("4340000000000001", "9007199254740994"),
        ("44b52d02c7e14af6", "1e+23"),
        ("3eb0c6f7a0b5ed8d", "0.000001"),
        ("41b3de4355555557", "333333333.33333343"),
        ("becbf647612f3696", "-0.0000033333333333333333"),
        ("43143ff3c1cb0959", "1424953923781206.2"),
    ],
)
def test_numbers_are_written_as_the_rfc_writes_them(bits: str, expected: str) -> None:
    (value,) = struct.unpack(">d", bytes.fromhex(bits))
    assert canonical.encode(value) == expected.encode()


@given(json_values)
def test_canonical_json_is_json_with_one_form(value: Any) -> None:
    data = canonical.encode(value)
    again = canonical.decode(data)
    assert again == value
    assert canonical.encode(again) == data
    assert canonical.encode(json.loads(json.dumps(value))) == data


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), 2**53, -(2**53), "\ud800", {"\udfff": 1}, {"a": ["\ud800x"]}]
)
def test_what_json_cannot_hold_exactly_is_a_config_error(value: canonical.Json) -> None:
    with pytest.raises(ConfigError, match="no exact JSON form"):
        canonical.encode(value)


def test_a_digest_is_sha256_however_the_bytes_come() -> None:
    data = bytes(range(256)) * 20000
    expected = "sha256:" + hashlib.sha256(data).hexdigest()
    assert digest.of_bytes(data) == expected
    assert digest.of_chunks([data[:1], data[1:5000], b"", data[5000:]]) == expected
    assert digest.of_file(io.BytesIO(data)) == expected
    assert digest.parse_digest(expected) == expected
    assert digest.hex_of(digest.parse_digest(expected)) == expected[7:]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256:",
        "a" * 64,
        D[0].upper(),
        D[0] + "0",
        D[0] + "\n",
        "sha512:" + "0" * 64,
        "sha256:../x",
        None,
        7,
    ],
)
def test_what_is_no_digest_is_refused(text: object) -> None:
    with pytest.raises(StoreError, match="not a digest"):
        digest.parse_digest(text)


def test_an_artifact_id_has_three_parts_and_comes_back_as_written() -> None:
    found = reference.parse_artifact("dataset:processed_training_data:v1")
    assert (found.kind, found.name, found.version) == ("dataset", "processed_training_data", "v1")
    assert str(found) == "dataset:processed_training_data:v1"
    assert reference.looks_like_artifact("dataset:processed_training_data:v1")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("dataset:x", "kind:name:version"),
        ("dataset:x:v1:y", "kind:name:version"),
        ("data:x:v1", "unknown artifact kind 'data'"),
        ("dataset:X:v1", "name in"),
        ("dataset::v1", "name in"),
        ("dataset:../x:v1", "name in"),
        ("dataset:x:", "version in"),
        ("dataset:x:v1\n", "version in"),
        ("dataset:x:.hidden", "version in"),
        (f"dataset:{'x' * 129}:v1", "name in"),
    ],
)
def test_an_artifact_id_that_is_wrong_is_refused_and_the_wrong_part_named(text: str, named: str) -> None:
    with pytest.raises(ArtifactError, match=re.escape(named)):
        reference.parse_artifact(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dataset:Wrong:V1", True),  # meant as one: it is refused where it is resolved, not passed over
        ("file:x:latest", True),
        ("file:///etc/passwd", False),
        ("model: resnet : v1", False),
        ("see dataset:x:v1", False),
        ("dataset:x", False),
        ("dataset:x:v1\n", False),
        ("image:x:v1", False),
    ],
)
def test_strings_that_look_like_artifacts(text: str, expected: bool) -> None:
    assert reference.looks_like_artifact(text) is expected


@pytest.mark.parametrize(
    ("version", "number"),
    [("v1", 1), ("v120", 120), ("v0", None), ("v01", None), ("exp001", None), ("v", None)],
)
def test_only_automatic_versions_have_a_number(version: str, number: int | None) -> None:
    assert reference.auto_version(version) == number


def test_run_ids_are_new_and_of_their_own_grammar() -> None:
    in_order = []
    for _ in range(50):
        in_order.append(reference.new_run_id())
        time.sleep(0.0001)  # a run is never made faster than this
    made = set(in_order)
    assert in_order == sorted(made)
    assert {reference.parse_run_id(run_id) for run_id in made} == made
    for text in (
        "",
        "latest",
        "20260101-000000-ABCDEF",
        "../20260101-000000-abcdef",
        next(iter(made)) + "\n",
    ):
        with pytest.raises(ConfigError, match="not a run id"):
            reference.parse_run_id(text)


IMAGE: dict[str, Any] = {
    "env_key": D[1],
    "commit": "c" * 40,
    "tree": "d" * 40,
    "path": "",
    "sdk": D[2],
    "config_path": "configs/a.yaml",
    "config": D[3],
}
RUN: dict[str, Any] = {
    "argv": ("python", "-m", "w"),
    "inputs": (("dataset:x:v1", D[4]),),
    "env": (("A", "1"),),
    "secrets": ("TOKEN",),
    "network": "none",
    "threads": 1,
    "seed": 0,
}


def key_of_run(**changes: Any) -> Key:
    image = image_key(**{**IMAGE, **{name: v for name, v in changes.items() if name in IMAGE}})
    return run_key(image, **{**RUN, **{name: v for name, v in changes.items() if name in RUN}})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("env_key", D[9]),
        ("commit", "e" * 40),
        ("tree", "e" * 40),
        ("path", "sub"),
        ("sdk", D[9]),
        ("config_path", "configs/b.yaml"),
        ("config", D[9]),
    ],
)
def test_every_component_of_an_image_decides_its_key(name: str, value: str) -> None:
    assert image_key(**{**IMAGE, name: value}).digest != image_key(**IMAGE).digest
    # two commits with one tree hold the same computation
    assert (key_of_run(**{name: value}).digest == key_of_run().digest) is (name == "commit")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("argv", ("python", "-m", "v")),
        ("inputs", (("dataset:x:v1", D[9]),)),
        ("env", (("A", "2"),)),
        ("secrets", ("OTHER",)),
        ("network", "bridge"),
        ("threads", 2),
        ("seed", 1),
    ],
)
def test_every_component_of_a_run_decides_its_key(name: str, value: object) -> None:
    assert key_of_run(**{name: value}).digest != key_of_run().digest


def test_a_key_is_the_digest_of_its_manifest_which_has_a_form_of_its_own() -> None:
    for key in (image_key(**IMAGE), key_of_run()):
        assert key.digest == digest.of_bytes(key.manifest)
        assert canonical.encode(canonical.decode(key.manifest)) == key.manifest
    assert key_of_run(secrets=("B", "A")) == key_of_run(secrets=("A", "B"))
    assert replace(key_of_run()) == key_of_run()


def test_the_manifest_of_a_key_names_all_components_and_nothing_of_this_machine() -> None:
    found = canonical.decode(key_of_run().manifest)
    assert isinstance(found, dict)
    assert set(found) == {*IMAGE, *RUN, "schema", "recipe"} - {"commit"}


def test_every_kind_of_error_has_an_exit_code_of_its_own() -> None:
    kinds = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, MirageError)
    ]
    codes = [kind.exit_code for kind in kinds if kind is not MirageError]
    assert sorted(codes) == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 130]


def test_an_error_says_what_happened_and_what_to_do() -> None:
    assert str(StoreError("it broke")) == "it broke"
    assert str(StoreError("it broke", hint="mend it")) == "it broke\n  -> mend it"
    assert errors.at_line("a.txt", 3) == "a.txt:3"
    assert errors.at_line("a.txt", None) == "a.txt"
    assert errors.did_you_mean("requirments", ["requirements", "run"]) == "did you mean 'requirements'?"
    assert errors.did_you_mean("zzz", ["requirements"]) is None
