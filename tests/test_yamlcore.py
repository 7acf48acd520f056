"""YAML 1.2 core as Mirage reads it, its bounds, its lines, and what it writes for readers of either version."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orchestrator import yamlcore
from orchestrator.errors import ConfigError

# YAML 1.2.2 section 10.3.2, one line for each rule and for each trap of YAML 1.1.
CORE_SCHEMA: list[tuple[str, object]] = [
    ("", None),
    ("~", None),
    ("null", None),
    ("Null", None),
    ("NULL", None),
    ("nULL", "nULL"),
    ("true", True),
    ("True", True),
    ("TRUE", True),
    ("false", False),
    ("tRue", "tRue"),
    ("no", "no"),
    ("yes", "yes"),
    ("on", "on"),
    ("off", "off"),
    ("y", "y"),
    ("0", 0),
    ("-0", 0),
    ("+12", 12),
    ("-19", -19),
    ("010", 10),
    ("0o10", 8),
    ("0x1f", 31),
    ("0x1F", 31),
    ("-0x1f", "-0x1f"),
    ("0b101", "0b101"),
    ("1_000", "1_000"),
    ("1:30", "1:30"),
    ("190:20:30", "190:20:30"),
    ("1e-3", 1e-3),
    ("1E3", 1000.0),
    ("+1.5e+3", 1500.0),
    (".5", 0.5),
    ("-.5", -0.5),
    ("5.", 5.0),
    ("1.0e-07", 1e-07),
    ("685.230_15e+03", "685.230_15e+03"),
    (".", "."),
    ("1e", "1e"),
    ("e3", "e3"),
    ("2020-01-01", "2020-01-01"),
    ("2001-12-14t21:59:43.10-05:00", "2001-12-14t21:59:43.10-05:00"),
    ("=", "="),
    ("a<<", "a<<"),
    ("0.89", 0.89),
    ("9007199254740991", 2**53 - 1),
    ("dataset:processed_training_data:v1", "dataset:processed_training_data:v1"),
    ("'1'", "1"),
    ('"true"', "true"),
    ("''", ""),
    ("!!str 12", "12"),
    ("!!str", ""),
    ("!!int 0x10", 16),
    ("!!float 1", 1.0),
    ("!!bool true", True),
    ("!!null ''", None),
    ("!!map {a: 1}", {"a": 1}),
    ("!!seq [1]", [1]),
    ("!<tag:yaml.org,2002:str> 1", "1"),
    ('"a\\u2028\\x07\\U0001F600"', "a\u2028\x07\U0001f600"),
    ("|\n  a\n  b\n", "a\nb\n"),
    (">-\n  a\n  b\n", "a b"),
]


def read(text: str | bytes) -> Any:
    return yamlcore.parse(text.encode() if isinstance(text, str) else text, "f.yaml").value


def failure(text: str | bytes) -> str:
    with pytest.raises(ConfigError) as caught:
        read(text)
    return str(caught.value)


@pytest.mark.parametrize("text,expected", CORE_SCHEMA)
def test_scalars_follow_the_core_schema_as_value_item_and_root(text: str, expected: object) -> None:
    assert read(f"k: {text}\n") == {"k": expected}
    assert type(read(f"k: {text}\n")["k"]) is type(expected)
    if not text.startswith((">", "|")):
        assert read(f"- {text}\n- 1\n") == [expected, 1]
        assert read(text) == expected


@pytest.mark.parametrize("text,expected", CORE_SCHEMA)
def test_the_pure_python_parser_reads_the_same(
    text: str, expected: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(yaml, "CLoader")
    assert read(f"k: {text}\n") == {"k": expected}


@pytest.mark.parametrize(
    "text,line,words",
    [
        ("a: 1\nb: 2\na: 3", 3, ["duplicate key 'a'", "line 1"]),
        ("x:\n  {a: 1,\n   a: 2}", 3, ["duplicate key 'a'", "line 2"]),
        ('a: 1\n"a": 2', 2, ["duplicate"]),
        ("a: 1\n2: b", 2, ["the key 2 is not a string", "quotes"]),
        ("true: b", 1, ["the key true", "quotes"]),
        ("a:\n  ~: b", 2, ["the key null", "quotes"]),
        ("1.5: b", 1, ["the key 1.5"]),
        ("? [a]\n: b", 1, ["cannot be a key"]),
        ("a: &x {b: 1}\n*x : 2", 2, ["not a string"]),
        ("a: 1\n<<: {b: 1}", 2, ["merge key", "YAML 1.2"]),
        ("a: &a\n  - *a", 2, ["inside of what it refers to"]),
        ("a: 1\nb: *nope", 2, ["nope"]),
        ("a: 1\n---\nb: 1", 2, ["second document"]),
        ("a: 1\nb: !!python/object/apply:os.system [ls]", 2, ["!!python/object/apply:os.system"]),
        ("a: !!python/name:os.system", 1, ["not supported"]),
        ("a: !mine 1", 1, ["!mine"]),
        ("a: ! 12", 1, ["tag !"]),
        ("a: é\U0001f600\nb: &x ! 12", 2, ["tag !"]),
        ("a: !!binary aGk=", 1, ["!!binary"]),
        ("a: !!set {b}", 1, ["!!set"]),
        ("a: !!int no", 1, ["not a value of !!int"]),
        ("a: !!map [1]", 1, ["!!map"]),
        ("a:\n- .nan", 2, [".nan", "quoted"]),
        ("a: -.INF", 1, ["-.INF"]),
        ("a: 1e999", 1, ["does not fit"]),
        ("a: 1e-999", 1, ["does not fit"]),
        ("a: 9007199254740992", 1, ["2^53"]),
        ("a: 0xffffffffffffffff", 1, ["2^53"]),
        ("a: " + "9" * 100_000, 1, ["2^53"]),
        ("a:\n\t- b", 2, ["indent with spaces"]),
        ("a: b: c", 1, ["mapping values", "quote"]),
        ("a: [1, 2\nb: 3", 2, ["line 1"]),
        ("a: 'x", 1, ["quoted scalar"]),
        ('a: "\\q"', 1, ["escape"]),
        ('a: "\\ud800"', 1, ["escape"]),
        ("a: 1\r\nb: \x01", 2, ["U+0001"]),
        ("a: 1\nb: x\u2028y", 2, ["U+2028", "escape"]),
        (b"a: 1\nb: \xff", 2, ["not UTF-8"]),
        ("a: 1".encode("utf-16"), 1, ["not UTF-8"]),
        ("%YAML 1.1\n---\na: 1", 1, ["YAML 1.1"]),
        ("[" * 65, 1, ["64 levels"]),
    ],
)
def test_what_cannot_be_read_names_the_line(text: str | bytes, line: int, words: list[str]) -> None:
    message = failure(text)
    assert message.startswith(f"f.yaml:{line}: ")
    for word in words:
        assert word in message


@pytest.mark.parametrize("text", ['a: "\\ud800"', 'a: "\\U00110000"', "a: ! 12", 'a: ! "12"', "? [a]\n: b"])
def test_the_pure_python_parser_refuses_the_same(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(yaml, "CLoader")
    assert failure(text).startswith("f.yaml")


def test_a_byte_order_mark_crlf_and_a_version_line_are_accepted() -> None:
    assert read(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n") == {"a": 1, "b": 2}
    assert read("%YAML 1.2\n---\na: 1\n...\n") == {"a": 1}


def test_an_empty_document_is_null() -> None:
    assert read("") is None
    assert read("# only a comment\n") is None


def test_the_bounds_are_where_the_design_puts_them() -> None:
    assert read("[" * 64 + "]" * 64)
    assert len(read("a: " + "x" * ((1 << 20) - 3))["a"]) == (1 << 20) - 3
    assert "1 MiB" in failure("a: " + "x" * ((1 << 20) - 2))
    aliases = "a: &a 1\nb: [" + "*a, " * 100 + "]"
    assert read(aliases)["b"] == [1] * 100
    assert "100 aliases" in failure(aliases + "\nc: *a")
    assert len(read("[" + "1," * 99_999 + "]")) == 99_999
    assert "100000 values" in failure("[" + "1," * 100_000 + "]")


def test_alias_bombs_do_not_go_off() -> None:
    bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)
    )
    assert "100000 values" in failure(bomb)
    long = "a: &a " + "x" * 500_000 + "\nb: [" + "*a, " * 50 + "]"
    assert "8 MiB" in failure(long)
    deep = "a: &a " + "[" * 40 + "]" * 40 + "\nb: " + "[" * 30 + "*a" + "]" * 30
    assert "64 levels" in failure(deep)


def test_aliases_share_nothing() -> None:
    value = read("a: &x {list: [1], map: {b: 2}}\nc: *x\nd: *x\n")
    value["c"]["list"].append(2)
    value["c"]["map"]["b"] = 3
    assert value["a"] == value["d"] == {"list": [1], "map": {"b": 2}}
    assert read("k: &k name\n*k : 1\n") == {"k": "name", "name": 1}


def test_lines_of_keys_and_items() -> None:
    document = yamlcore.parse(
        b"# head\na: 1\nb:\n  - x\n  - c: 1\n    d:\n      e: 2\nf: &f\n  g: 1\nh: *f\n", "f.yaml"
    )
    lines = {
        path: document.line(path) for path in [(), ("a",), ("b",), ("b", 0), ("b", 1), ("b", 1, "d", "e")]
    }
    assert lines == {(): 2, ("a",): 2, ("b",): 3, ("b", 0): 4, ("b", 1): 5, ("b", 1, "d", "e"): 7}
    assert (document.line(("h",)), document.line(("h", "g"))) == (10, 9)
    assert document.line(("b", 2)) is None
    assert document.line(("a", "x")) is None
    assert document.at(("b", 1, "zzz")) == "f.yaml:5"


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.sampled_from([text for text, _ in CORE_SCHEMA])
    | st.sampled_from(
        ["- a", "a: b", "a #b", "#", "? a", "%a", "@a", "`", "---", "...", " a", "a ", "\n", "<<", "\ufeff"]
    ),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text() | st.sampled_from(["no", "1", "<<", "=", "a: b", "? x", "k" * 1500]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(JSON_VALUES)
@example(
    {
        "a": [[], {}, [[1, [2]], {"b": []}], {"x" * 2000: {"y": [1]}}],
        "b": {"\U0001f600\x85\u2028": "\x7f\ufffe"},
    }
)
@example([1e-07, 1e16, 1.5e300, 5e-324, -0.0, 100000.0, 1.0])
@settings(max_examples=150, deadline=None)
def test_what_is_written_reads_back_in_both_versions(value: Any) -> None:
    data = yamlcore.dump(value)
    for back in (read(data), yaml.safe_load(data), yaml.load(data, Loader=yaml.CSafeLoader)):
        assert json.dumps(back) == json.dumps(value)  # tells 1 from 1.0 and True, and holds the order of keys


def test_written_yaml_looks_as_people_write_it() -> None:
    value = {
        "z": {"lr": 1e-07, "size": 32},
        "a": ["no", "1e-3", "1:30", "2020-01-01", "plain words"],
        "e": [{"k": 1, "l": []}],
    }
    assert yamlcore.dump(value).decode() == (  # type: ignore[arg-type]  # Json is invariant
        'z:\n  lr: 1.0e-07\n  size: 32\na:\n  - "no"\n  - "1e-3"\n  - "1:30"\n  - "2020-01-01"\n  - plain words\n'
        "e:\n  - k: 1\n    l: []\n"
    )


@pytest.mark.parametrize("value", [math.nan, [math.inf], "\ud800"])
def test_what_yaml_cannot_hold_is_not_written(value: Any) -> None:
    with pytest.raises(ConfigError):
        yamlcore.dump(value)


PIECES = st.sampled_from(
    [
        "a", "b: ", "- ", "\n", "  ", "    ", "{", "}", "[", "]", ", ", ": ", "? ", "&a ", "*a", "!!str ", "!", "! ", "|\n",
        ">", "'", '"', "\\", "#", "---\n", "...\n", "%YAML 1.2\n", "<<: ", "1e-3", "0x", "~", "\t", "\r", "\x00", "\u2028", "é",
        "\\ud800", "\\U00110000", ".inf", "9" * 30, "\ufeff",
    ]
)  # fmt: skip


@given(st.lists(PIECES, max_size=25).map("".join) | st.text(max_size=60) | st.binary(max_size=40))
@settings(max_examples=400, deadline=None)
def test_any_bytes_give_json_data_or_a_config_error(text: str | bytes) -> None:
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    try:
        value = read(data)
    except ConfigError as error:
        assert str(error).startswith("f.yaml")
        return
    assert json.loads(json.dumps(value, allow_nan=False)) == value
    assert read(yamlcore.dump(value)) == value
