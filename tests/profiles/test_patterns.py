"""Patterns of the configuration: they mean what Python's `re` means by them, and cost what was promised."""

import re
import time
import tracemalloc

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cmpd.patterns import MAX_PATTERN, MAX_TEXT, Pattern


def same(pattern: str, text: str) -> bool:
    return re.fullmatch(pattern, text, re.ASCII | re.DOTALL) is not None


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        ("", [""], ["a"]),
        ("pump-[0-9]{1,6}", ["pump-1", "pump-123456"], ["pump-", "pump-1234567", "pump-1\n", "xpump-1", "PUMP-1"]),
        (r"([a-z0-9-]+\.)*example\.com", ["example.com", "a.b-c.example.com"], ["aexample.com", "a.example.com.x"]),
        ("a|bc|", ["a", "bc", ""], ["abc", "b"]),
        ("(?:ab?)+", ["a", "ab", "aab"], ["", "b"]),
        ("[^a-c]", ["d", "ä", "\n"], ["a", "", "dd"]),
        (r"[a\-\]]{2}", ["a-", "]]"], ["b-"]),
        ("[-a]|[a-]", ["-", "a"], ["b"]),
        (r"\d\w.", ["1_ä"], ["١_a", "1ää"]),
        ("a{2,}", ["aa", "aaaa"], ["a"]),
        ("a{0}b", ["b"], ["ab"]),
        ("(a*)*b", ["b", "aab"], ["a"]),
        ("(){512}", [""], ["a"]),
        ("(((){512}){512}){512}", [""], ["a"]),
        (r"\(\)", ["()"], [""]),
    ],
)
def test_a_pattern_describes_whole_values(pattern: str, good: list[str], bad: list[str]) -> None:
    made = Pattern(pattern)
    assert [text for text in good if not made.matches(text)] == []
    assert [text for text in bad if made.matches(text)] == []
    assert [text for text in good + bad if same(pattern, text) != made.matches(text)] == []


@pytest.mark.parametrize(
    ("pattern", "fault"),
    [
        ("^a", "not a pattern: a pattern is about the whole value, without ^, at character 1"),
        ("a$", "a pattern is about the whole value, without $, at character 2"),
        ("(a", "a ( without ), at character 3"),
        ("a)", "a ) without ( at character 2"),
        ("[a", "it ends too early"),
        ("[]", "a [] without characters"),
        ("[b-a]", "a range such as a-z was expected"),
        ("[[:alpha:]]", "[ among characters has to be written \\["),
        ("*a", "a count without anything before it at character 1"),
        ("a**", "* behind another count is not supported"),
        ("a+?", "? behind another count is not supported"),
        ("a{1", "it ends too early"),
        ("a{}", "a count such as {2}, {2,} or {2,6} was expected"),
        ("a{,3}", "a count such as"),
        ("a{3,2}", "a count of at most 512, the lower one first"),
        ("a{513}", "a count of at most 512"),
        ("a}", "} has to be written \\}"),
        (r"\b", "\\b is not supported"),
        (r"(a)\1", "\\1 is not supported"),
        ("(?i)a", "groups that begin with (? are not supported"),
        ("(?=a)", "groups that begin with (?"),
        ("\\", "it ends too early"),
        ("(" * 21 + ")" * 21, "more than 20 groups in one another"),
        ("(a{500}){500}", "the pattern is too large: its counts make more than 4096 states"),
        ("a" * (MAX_PATTERN + 1), f"want a pattern of at most {MAX_PATTERN} characters"),
    ],
)
def test_what_is_no_pattern_is_told_with_its_place(pattern: str, fault: str) -> None:
    with pytest.raises(ValueError, match=re.escape(fault)):
        Pattern(pattern)


ATOMS = st.sampled_from(["a", "b", ".", "[ab]", "[^a]", "[a-c]", r"\d", r"\w", r"\.", "[-c]", r"[\d-]", "1"])
PATTERNS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.builds("{}{}".format, inner, inner),
        st.builds("({}|{})".format, inner, inner),
        st.builds("({}){}".format, inner, st.sampled_from(["?", "*", "+", "{2}", "{1,}", "{0,2}"])),
        st.builds("(?:{}|)".format, inner),
    ),
    max_leaves=8,
)


@settings(max_examples=300)
@given(PATTERNS, st.lists(st.text("abcd1-._ä\n", max_size=8), max_size=8))
@example("(a|ab)(c|bcd)(d*)", ["abcd"])
def test_a_pattern_means_what_python_means_by_it(pattern: str, texts: list[str]) -> None:
    made = Pattern(pattern)
    assert [made.matches(text) for text in texts] == [same(pattern, text) for text in texts]


@settings(max_examples=200)
@given(st.text(r"ab[]()*+?{}|\^$.-,:12d", max_size=12))
def test_any_text_is_a_pattern_or_told_not_to_be_one(text: str) -> None:
    try:
        made = Pattern(text)
    except ValueError:
        return
    assert made.matches("ab1") is same(text, "ab1")


@pytest.mark.parametrize(
    "pattern", ["(a+)+b", "(a|a)*b", "(a*)*(a*)*(a*)*b", "(.{0,60}.{0,60}){16}b", "(a?){500}a{500}"]
)
def test_a_pattern_that_takes_others_for_ever_takes_a_moment(pattern: str) -> None:
    made = Pattern(pattern)
    begun = time.process_time()
    assert not made.matches("a" * (MAX_TEXT - 1) + "c")
    assert time.process_time() - begun < 1


@pytest.mark.parametrize("pattern", ["[^x]*", ".{0,512}", "((a|b|c|.){0,5}){100}"])
def test_what_is_remembered_is_bounded(pattern: str) -> None:
    tracemalloc.start()
    try:
        made = Pattern(pattern)
        for start in range(0, 20_000, 500):
            assert made.matches("".join(chr(0x4000 + start + i) for i in range(500)))
        assert tracemalloc.get_traced_memory()[0] < 4 << 20
    finally:
        tracemalloc.stop()
    assert 0 < len(made._steps) <= 1024
    assert 0 < len(made._takers) <= 1024


def test_a_long_value_matches_nothing() -> None:
    assert Pattern("a*").matches("a" * MAX_TEXT)
    assert not Pattern("a*").matches("a" * (MAX_TEXT + 1))
