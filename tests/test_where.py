"""The questions of `mirage ls`: what they match, what cannot be asked, and the order of the answer."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import ConfigError
from orchestrator.where import And, Comparison, Not, Or, Sort, Value, matches, order, parse, parse_sort

RUN: dict[str, Any] = {
    "status": "succeeded",
    "branch": "experiment/lr-sweep",
    "commit": "12345678",
    "started": "2026-11-24T10:00:00Z",
    "dirty": False,
    "exit_code": 0,
    "reason": None,
    "inputs": ["dataset:processed:v1", "model:base:exp001"],
    "tags": [],
    "metrics.accuracy": 0.8949,
    "metrics.val/loss": 1.25,
    "metrics.delta": -0.885,
    "config.training.lr": 1e-3,
    "config.layers.0": 8,
    "config.name": "no",
    "config.nested": {"a": 1},
}


@pytest.mark.parametrize(
    "question,expected",
    [
        ("metrics.accuracy >= 0.89 and status == succeeded and config.training.lr < 0.01", True),
        ("metrics.accuracy>=0.8949", True),
        ("metrics.accuracy > 0.8949", False),
        ("metrics.accuracy <= 0.8949", True),
        ("metrics.accuracy < 0.8949", False),
        ("config.training.lr = 1e-3", True),
        ("config.training.lr == 0.001", True),
        ("config.training.lr == '0.001'", False),
        ("metrics.delta < -0.5", True),
        ("metrics.val/loss = 1.25", True),
        ("config.layers.0 = 0x8", True),
        ("exit_code = 0", True),
        ("exit_code = false", False),
        ("dirty = false", True),
        ("dirty = 0", False),
        ("dirty != true", True),
        ("dirty < true", False),
        ("config.name = no", True),
        ("commit = 12345678", True),
        ("commit ~ 1234*", True),
        ("started >= 2026-11-01", True),
        ("started < 2026", False),
        ("status > 3", True),  # "succeeded" comes after "3": strings compare as strings
        ("metrics.accuracy > succeeded", False),
        # what rounds to it, at the digits given
        ("metrics.accuracy ~0.89", True),
        ("metrics.accuracy ~ 0.895", True),
        ("metrics.accuracy ~ 0.90", False),
        ("metrics.accuracy ~ 0.9", True),
        ("metrics.accuracy ~ 1", True),
        ("metrics.delta ~ -0.89", True),
        ("metrics.delta ~ -0.88", False),
        ("metrics.delta ~ 0.89", False),
        ("config.training.lr ~ 1e-3", True),
        ("config.training.lr ~ 0.00", True),
        ("exit_code ~ 0", True),
        ("config.layers.0 ~ 1e1", True),
        ("metrics.accuracy ~ 0e999999999999", True),
        ("metrics.accuracy ~ 0e-999999999999", False),
        # shell patterns, the whole string
        ("branch ~ experiment/*", True),
        ("branch ~ 'experiment/lr-?weep'", True),
        ("branch ~ experiment", False),
        ("branch ~ EXPERIMENT/*", False),
        ("branch ~ '[!e]*'", False),
        # lists: any element
        ("inputs = dataset:processed:v1", True),
        ("inputs ~ model:*", True),
        ("inputs = dataset:processed", False),
        ("inputs != dataset:processed:v1", False),
        ("inputs != dataset:other:v1", True),
        ("tags = x", False),
        ("tags != x", True),
        # missing fields
        ("nothing = 1", False),
        ("nothing ~ *", False),
        ("nothing < 1", False),
        ("nothing != 1", True),
        ("nothing = null", True),
        ("reason = null", True),
        ("status = null", False),
        ("status != null", True),
        ("status = 'null'", False),
        ("config.nested = 1", False),
        # not binds closer than and, and closer than or
        ("status = failed or status = succeeded and dirty = true", False),
        ("status = succeeded or status = failed and dirty = true", True),
        ("(status = succeeded or status = failed) and dirty = true", False),
        ("not status = failed and dirty = false", True),
        ("not (status = failed or dirty = false)", False),
        ("not not dirty = false", True),
        ("NOT dirty = true AND status = succeeded", True),
    ],
)
def test_what_a_question_matches(question: str, expected: bool) -> None:
    assert matches(parse(question), RUN.get) is expected


def test_an_expression_is_a_frozen_tree() -> None:
    one, two = Comparison("a", "==", Value("1", 1)), Comparison("b.c-d", "~", Value("x y", "x y"))
    assert parse("a = 1 and b.c-d ~ 'x y' or not a=1") == Or((And((one, two)), Not(one)))
    hash(parse("a = 1 and (b = 2 or c = 3)"))


@pytest.mark.parametrize(
    "question,column,words",
    [
        ("", 0, "expected a field"),
        ("metrics.accuracy", 16, "expected one of = != < <= > >= ~ after metrics.accuracy"),
        ("metrics.accuracy >=", 19, "expected a value after >="),
        ("a = 1 adn b = 2", 6, "expected `and`, `or` or the end"),
        ("a = 1 and", 9, "expected a field"),
        ("a = 1 and  or b = 1", 11, "expected a field"),
        ("= 3", 0, "expected a field"),
        ("0.89 < metrics.accuracy", 0, "expected a field"),
        ("a.b. = 1", 0, "expected a field"),
        ("a = and", 4, "expected a value"),
        ("a = ~b", 4, "expected a value"),
        ("(a = 1", 6, "a closing bracket"),
        ("a = 1)", 5, "never opened"),
        ("a = 'x", 4, "quote is never closed"),
        ("a ! b", 2, "'!' cannot stand here"),
        ("a && b", 2, "expected one of"),
        ("a = 99999999999999999999", 4, "2^53"),
        ("(" * 100 + "a = 1" + ")" * 100, 64, "64 levels"),
        ("not " * 100 + "a = 1", 256, "64 levels"),
    ],
)
def test_a_caret_stands_under_the_mistake(question: str, column: int, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(question)
    first, shown, caret = caught.value.message.split("\n")
    assert words in first
    assert shown[caret.index("^") :] == question[column : column + 40]
    assert caret.strip() == "^"
    assert caught.value.hint


def test_a_very_long_question_is_refused() -> None:
    with pytest.raises(ConfigError, match="longer than"):
        parse("a = 1 and " * 2000 + "a = 1")
    assert matches(parse("a = 1 and " * 900 + "a = 1"), {"a": 1}.get)


def test_runs_without_the_value_come_last_either_way() -> None:
    runs: list[dict[str, Any]] = [
        {"id": 1, "m": 0.5},
        {"id": 2},
        {"id": 3, "m": 0.9},
        {"id": 4, "m": 0.5},
        {"id": 5, "m": None},
        {"id": 6, "m": "text"},
    ]

    def ids(text: str) -> list[int]:
        return [run["id"] for run in order(runs, parse_sort(text), lambda run, path: run.get(path))]

    assert ids("m") == [1, 4, 3, 6, 2, 5]
    assert ids("-m") == [6, 3, 1, 4, 2, 5]
    assert parse_sort("-metrics.accuracy") == Sort("metrics.accuracy", True)


@pytest.mark.parametrize("text", ["", "-", "--m", "a b", ".a", "a..b", "a\n"])
def test_what_cannot_be_sorted_by(text: str) -> None:
    with pytest.raises(ConfigError, match="expected a field"):
        parse_sort(text)


PIECES = st.sampled_from(
    [*RUN, "and", "or", "not", "(", ")", "=", "==", "!=", "<", ">=", "~", "0.89", "1e-3", "0e99999", "0x1F", "true", "null",
     "'q s'", '"', "'", "experiment/*", "[z-a]", "[", "!", " ", "é", "\n", "9" * 30, "-0", "."]
)  # fmt: skip
TERMS = st.tuples(st.sampled_from([*RUN]), st.sampled_from(["=", "!=", "<", ">=", "~"]), PIECES).map(" ".join)


@given(st.lists(PIECES | TERMS, max_size=8).map(" ".join) | st.text(max_size=40))
@settings(max_examples=500, deadline=None)
def test_any_text_gives_an_answer_or_a_config_error(text: str) -> None:
    try:
        expression = parse(text)
    except ConfigError as error:
        assert str(error).startswith("--where: ")
        return
    assert matches(Not(expression), RUN.get) is not matches(expression, RUN.get)
