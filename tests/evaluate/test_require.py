"""Requirements on a report: the grammar, the comparison, and what is said where one fails."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from moemerge.errors import MoemergeError
from moemerge.evaluate.require import OPERATORS, Failure, Requirement, check, parse_requirement

REPORT: dict[str, Any] = {
    "verdict": "It keeps 87 % of the gain",
    "gain_kept": 0.8712345,
    "merge_loss": None,
    "idle_experts": 0,
    "parameters": {"total": 46_702_792_704, "active": 12_879_925_248},
    "baselines": {"linear_merge": None, "oracle_routed": {"gain_kept": 1.0}},
    "domains": {
        "code": {"moe": 1.6758, "linear_merge": None, "specialist": None, "gain_kept": None,
                 "gain_kept_note": "its specialist gains less than 0.02 nats"},
        "my domain": {"moe": 2.0, "gain_kept": None},
        "v1.5": {"moe": 3.0},
    },
    "routing": {"load": [0.25, 0.75], "accuracy": 0.5, "max_vio": float("nan")},
    "chat": {"code": {"stopped": True}},
    "tasks": {},
    "tokens_per_second": None,
    "missing": {"specialist of `code`": "not found", "linear merge": "needs every specialist"},
}  # fmt: skip


def failing(text: str, report: dict[str, Any] = REPORT) -> str:
    """The failing line of a requirement that is not met."""
    failure = check(parse_requirement(text), report)
    assert isinstance(failure, Failure)
    return failure.line


def refused(text: str) -> tuple[str, str | None]:
    """Message and hint of a requirement that is none, or that the report has no number for."""
    with pytest.raises(MoemergeError) as error:
        check(parse_requirement(text), REPORT)
    assert error.value.code == "require"
    return error.value.message, error.value.hint


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gain_kept>=0.9", Requirement(("gain_kept",), ">=", 0.9)),
        ("  idle_experts == 0 ", Requirement(("idle_experts",), "==", 0)),
        ("domains.code.moe<1.8", Requirement(("domains", "code", "moe"), "<", 1.8)),
        ("routing.load[0]>0.1", Requirement(("routing", "load", 0), ">", 0.1)),
        ("routing.load_by_layer[12][1] != -1.5E-3", Requirement(("routing", "load_by_layer", 12, 1), "!=", -0.0015)),
        ('domains."my domain".moe<=+.5', Requirement(("domains", "my domain", "moe"), "<=", 0.5)),
        (r'domains."a \"b\" .[0]".moe<1', Requirement(("domains", 'a "b" .[0]', "moe"), "<", 1)),
        ("tasks.gsm8k.em,strict-match>=3.", Requirement(("tasks", "gsm8k", "em,strict-match"), ">=", 3.0)),
        ("domains.français.moe<2", Requirement(("domains", "français", "moe"), "<", 2)),
    ],
)  # fmt: skip
def test_a_requirement_is_a_name_an_operator_and_a_number(text: str, expected: Requirement) -> None:
    """Spaces round the operator do not count; names with odd characters are quoted."""
    assert parse_requirement(text) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it has no name"),
        (">=0.9", "it has no name"),
        ("[0]>1", "it has no name"),
        ("gain_kept", "it has no operator"),
        ("gain_kept=0.9", "equality is written `==`"),
        ("gain_kept>=", "it has no number"),
        ("gain_kept>=high", "`high` is no number"),
        ("gain_kept>=90%", "`90%` is no number"),
        ("gain_kept>=nan", "`nan` is no number"),
        ("gain_kept>=0x1", "`0x1` is no number"),
        ("gain_kept>=٣", "`٣` is no number"),
        ("gain_kept>=1e999", "`1e999` is too large"),
        ("gain_kept>=>0.9", "`>0.9` is no number"),
        ("gain_kept ~ 0.9", "`~ 0.9` follows the name, where an operator belongs"),
        ("routing.load[-1]>0", "`[-1]>0` follows the name, where an operator belongs"),
        ("routing.>0", "a name is missing after `routing.`"),
        ("routing.[0]>0", "a name is missing after `routing.`"),
        (r'domains."\x".moe<1', r'`"\x"` is no JSON string: Invalid \escape'),
        ('domains."open.moe<1', "a name is missing after `domains.`"),
    ],
)
def test_texts_that_are_no_requirement(text: str, reason: str) -> None:
    """What is wrong is said, with the form."""
    assert refused(text) == (
        f"`{text}` is no requirement: {reason}",
        "write a name of the report, an operator and a number, such as `gain_kept>=0.9` or `routing.load[0]>0.1`",
    )


def test_code_is_only_a_name_that_the_report_does_not_have() -> None:
    """Round brackets may stand in a name, and nothing is run."""
    assert refused("__import__('os').system('id')>0")[0] == "The report has no `__import__('os')`"


@pytest.mark.parametrize(
    "text",
    [
        "gain_kept>=0.8712345", "gain_kept<=0.8712345", "gain_kept==0.8712345", "gain_kept!=0.87", "gain_kept<0.9",
        "idle_experts==0", "idle_experts<1e-300", "parameters.total==46702792704", "routing.load[1]>0.7",
        'domains."my domain".moe==2', 'domains."v1.5".moe>2', "baselines.oracle_routed.gain_kept>=1",
    ],
)  # fmt: skip
def test_requirements_that_are_met(text: str) -> None:
    """Compared exactly; whole numbers and others compare by value."""
    assert check(parse_requirement(text), REPORT) is None


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("gain_kept>=0.9", "gain_kept is 0.871, and >= 0.9 is required"),
        ("gain_kept>=0.8713", "gain_kept is 0.871, and >= 0.8713 is required"),
        ("gain_kept>=0.871235", "gain_kept is 0.871, and >= 0.871235 is required"),
        ("gain_kept<=0.871", "gain_kept is 0.8712, and <= 0.871 is required"),
        ("gain_kept!=0.8712345", "gain_kept is 0.8712345, and != 0.8712345 is required"),
        ("idle_experts>0", "idle_experts is 0, and > 0 is required"),
        ("parameters.total<46702792704", "parameters.total is 46702792704, and < 46702792704 is required"),
        ("routing.load[0] > 0.25", "routing.load[0] is 0.25, and > 0.25 is required"),
        ('domains."my domain".moe<1', 'domains."my domain".moe is 2, and < 1 is required'),
        ("routing.max_vio!=1", "routing.max_vio is nan, and != 1 is required"),
    ],
)
def test_a_requirement_that_is_not_met_says_what_is_so(text: str, line: str) -> None:
    """The value has as many digits as show the difference, three at least; NaN meets nothing."""
    assert failing(text) == line


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("domains.code.gain_kept>0", ": its specialist gains less than 0.02 nats"),
        ("domains.code.specialist<2", ": specialist of `code`: not found"),
        ("domains.code.linear_merge<2", ": linear merge: needs every specialist"),
        ("baselines.linear_merge.gain_kept<2", ": linear merge: needs every specialist"),
        ("merge_loss<2", ": specialist of `code`: not found; linear merge: needs every specialist"),
        ("tokens_per_second.moe.decode>2", ": it was left out by `--without`"),
    ],
)
def test_what_was_not_measured_fails_with_the_reason(text: str, reason: str) -> None:
    """A null fails, at the name or above it; the reason is the report's own."""
    requirement = parse_requirement(text)
    required = f"and {requirement.operator} {requirement.number} is required"
    assert failing(text) == f"{text[: text.index(requirement.operator)]} is not measured{reason}, {required}"
    failure = check(requirement, REPORT)
    assert failure is not None
    assert failure.value is None


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("gain_keep>0", "The report has no `gain_keep`", "did you mean `gain_kept`?"),
        ("domains.cod.moe>0", "The report has no `domains.cod`", "did you mean `domains.code`?"),
        ("domains.v1.5.moe>0", "The report has no `domains.v1`", 'did you mean `domains."v1.5"`?'),
        ("accuracy>0", "The report has no `accuracy`", "did you mean `routing.accuracy`?"),
        ("parameters.zzz>0", "The report has no `parameters.zzz`", "known are `total` and `active`"),
        ("tasks.gsm8k.acc>0", "The report has no `tasks.gsm8k`", "nothing of it was measured"),
        ("routing.load>0", "`routing.load` is a list, and only a number can be required", None),
        ("routing>0", "`routing` is a group of names, and only a number can be required", None),
        ("verdict>0", "`verdict` is text, and only a number can be required", None),
        ("chat.code.stopped==1", "`chat.code.stopped` is true or false, and only a number can be required", None),
        ("routing.load[2]>0", "`routing.load` has no item 2: it has 2, counted from 0", None),
        ("routing.load.code>0", "`routing.load` is a list, so it has no `code`", "name an item: `routing.load[0]`"),
        ("routing[0]>0", "`routing` is a group of names, so it has no item 0", None),
        ("gain_kept.moe>0", "`gain_kept` is a single value, so it has no `moe`", None),
    ],
)
def test_names_that_the_report_does_not_have(text: str, message: str, hint: str | None) -> None:
    """The nearest name is given, with quotes where they are needed."""
    assert refused(text) == (message, hint)


names = st.text(min_size=1) | st.sampled_from(["gain_kept", "load", "my domain", 'a"b', "v1.5", "<|im_end|>"])
numbers = st.integers(-(10**40), 10**40) | st.floats(allow_nan=False, allow_infinity=False)


@given(
    st.builds(
        Requirement,
        st.tuples(names).flatmap(lambda first: st.lists(names | st.integers(0, 10**9 - 1)).map(lambda r: (*first, *r))),
        st.sampled_from(sorted(OPERATORS)),
        numbers,
    )
)
def test_a_requirement_written_out_is_read_as_it_was(requirement: Requirement) -> None:
    """Whatever its names hold."""
    assert parse_requirement(str(requirement)) == requirement


pieces = st.lists(
    st.sampled_from(["gain_kept", "domains", ".", "[", "]", "0", '"', "\\", ">=", "<", "=", "!", " ", "1e5", "-", "%"])
)


@given(st.text() | pieces.map("".join))
@example('"\\ud800"<1')
@example("a<" + "1" * 5000)
def test_no_text_raises_anything_but_our_error(text: str) -> None:
    """It is a requirement or it is refused, and so is what it asks of a report."""
    with contextlib.suppress(MoemergeError):
        check(parse_requirement(text), REPORT)


@given(numbers, st.sampled_from(sorted(OPERATORS)), numbers)
def test_a_failing_line_never_shows_a_value_that_would_do(value: float, operator: str, number: float) -> None:
    """However near the value is to the number."""
    requirement = Requirement(("gain_kept",), operator, number)
    failure = check(requirement, {"gain_kept": value})
    assert (failure is None) == OPERATORS[operator](value, number)
    if failure is not None and isinstance(value, float):
        shown = float(failure.line.split()[2].rstrip(","))
        assert not OPERATORS[operator](shown, number)
