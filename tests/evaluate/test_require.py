"""Requirements on a report: the grammar, the comparison, and what is said where one fails."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from moemerge.errors import MoemergeError
from moemerge.evaluate.options import REPORT as NAMES
from moemerge.evaluate.require import OPERATORS, Requirement, check, parse_requirement

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


def failing(text: str, report: dict[str, Any] = REPORT) -> str | None:
    """What is said of a requirement that is not met; None of one that is."""
    return check(parse_requirement(text, NAMES), report)


def refused(text: str) -> tuple[str, str | None]:
    """Message and hint of a requirement that is none, or that the report has no number for."""
    with pytest.raises(MoemergeError) as error:
        failing(text)
    assert error.value.code == "require"
    return error.value.message, error.value.hint


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gain_kept>=0.9", Requirement("gain_kept", ">=", 0.9)),
        ("  idle_experts == 0 ", Requirement("idle_experts", "==", 0)),
        ("domains.code.moe<1.8", Requirement("domains.code.moe", "<", 1.8)),
        ("routing.load[0]>0.1", Requirement("routing.load[0]", ">", 0.1)),
        ("routing.load_by_layer[12][1] != -1.5E-3", Requirement("routing.load_by_layer[12][1]", "!=", -0.0015)),
        ("domains.my domain.moe<=+.5", Requirement("domains.my domain.moe", "<=", 0.5)),
        ("tasks.gsm8k.em,strict-match>=3.", Requirement("tasks.gsm8k.em,strict-match", ">=", 3.0)),
        ("domains.français.moe<2", Requirement("domains.français.moe", "<", 2)),
    ],
)
def test_a_requirement_is_a_name_an_operator_and_a_number(text: str, expected: Requirement) -> None:
    """Spaces round the operator do not count; names are written as they are."""
    assert parse_requirement(text, NAMES) == expected


@pytest.mark.parametrize(
    "text",
    [
        "", ">=0.9", "gain_kept", "gain_kept=0.9", "gain_kept>=", "gain_kept>=high", "gain_kept>=90%", "gain_kept>=nan",
        "gain_kept>=0x1", "gain_kept>=٣", "gain_kept>=1e999", "gain_kept>=>0.9", "gain_kept ~ 0.9",
    ],
)  # fmt: skip
def test_texts_that_are_no_requirement(text: str) -> None:
    """The form is said."""
    assert refused(text) == (
        f"`{text}` is not a requirement",
        "write a name of the report, one of >= <= == != < >, and a number, such as `gain_kept>=0.9`",
    )


def test_code_is_only_a_name_that_the_report_does_not_have() -> None:
    """Nothing is run."""
    assert refused("__import__('os').system('id')>0")[0] == "The report has no `__import__('os')`"


@pytest.mark.parametrize(
    "text",
    [
        "gain_kept>=0.8712345", "gain_kept<=0.8712345", "gain_kept==0.8712345", "gain_kept!=0.87", "gain_kept<0.9",
        "idle_experts==0", "idle_experts<1e-300", "parameters.total==46702792704", "routing.load[1]>0.7",
        "domains.my domain.moe==2", "domains.v1.5.moe>2", "baselines.oracle_routed.gain_kept>=1",
    ],
)  # fmt: skip
def test_requirements_that_are_met(text: str) -> None:
    """Compared exactly; whole numbers and others compare by value; a name may hold a space or a dot."""
    assert failing(text) is None


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
        ("domains.my domain.moe<1", "domains.my domain.moe is 2, and < 1 is required"),
        ("routing.max_vio!=1", "routing.max_vio is nan, and != 1 is required"),
    ],
)
def test_a_requirement_that_is_not_met_says_what_is_so(text: str, line: str) -> None:
    """The value has as many digits as show the difference, three at least; NaN meets nothing."""
    assert failing(text) == line


MISSING = "specialist of `code`: not found; linear merge: needs every specialist"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("domains.code.gain_kept>0", "its specialist gains less than 0.02 nats"),
        ("domains.code.specialist>0", MISSING),
        ("baselines.linear_merge.gain_kept>0", MISSING),
        ("merge_loss>0", MISSING),
        ("tokens_per_second.moe.decode>0", MISSING),
    ],
)
def test_what_was_not_measured_fails_with_the_reason(text: str, reason: str) -> None:
    """A null fails, at the name or above it; the reason is its note in the report, or all that is missing there."""
    assert failing(text) == f"{text.removesuffix('>0')} is not measured, and > 0 is required ({reason})"
    assert failing("merge_loss>0", {"merge_loss": None}) == "merge_loss is not measured, and > 0 is required"


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("gain_keep>0", "The report has no `gain_keep`", "did you mean `gain_kept`?"),
        ("domains.cod.moe>0", "The report has no `domains.cod.moe`", "did you mean `domains.code.moe`?"),
        ('domains."v1.5".moe>0', 'The report has no `domains."v1.5".moe`', "did you mean `domains.v1.5.moe`?"),
        ("parameters.totals>0", "The report has no `parameters.totals`", "did you mean `parameters.total`?"),
        ("tasks.gsm8k.acc,none>0", "The report has no `tasks.gsm8k.acc,none`", None),
        ("routing.load>0", "`routing.load` holds more than one value", "name one, such as `routing.load[0]`"),
        ("routing>0", "`routing` holds more than one value", "name one, such as `routing.load[0]`"),
        ("verdict>0", "`verdict` is not a number, and only a number can be required", None),
        ("chat.code.stopped==1", "`chat.code.stopped` is not a number, and only a number can be required", None),
        ("routing.load[2]>0", "The report has no `routing.load[2]`", "did you mean `routing.load[1]`?"),
        ("gain_kept.moe>0", "The report has no `gain_kept.moe`", "did you mean `gain_kept`?"),
    ],
)
def test_names_that_the_report_does_not_have(text: str, message: str, hint: str | None) -> None:
    """The nearest name is given."""
    assert refused(text) == (message, hint)


pieces = st.lists(
    st.sampled_from(["gain_kept", "domains", ".", "[", "]", "0", '"', "\\", ">=", "<", "=", "!", " ", "1e5", "-", "%"])
)


@given(st.text() | pieces.map("".join))
@example("gain_kept<" + "1" * 5000)
def test_no_text_raises_anything_but_our_error(text: str) -> None:
    """It is a requirement or it is refused, and so is what it asks of a report."""
    with contextlib.suppress(MoemergeError):
        failing(text)


numbers = st.integers(-(10**40), 10**40) | st.floats(allow_nan=False, allow_infinity=False)


@given(numbers, st.sampled_from(sorted(OPERATORS)), numbers.map(float))
def test_a_failing_line_never_shows_a_value_that_would_do(value: float, operator: str, number: float) -> None:
    """However near the value is to the number."""
    line = check(Requirement("gain_kept", operator, number), {"gain_kept": value})
    assert (line is None) == OPERATORS[operator](value, number)
    if line is not None and isinstance(value, float):
        assert not OPERATORS[operator](float(line.split()[2].rstrip(",")), number)
