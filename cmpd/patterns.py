r"""Patterns of the configuration: regular expressions for whole values, matched in time that is linear in the value.

Patterns are the operator's, values are the peer's: with a matcher that goes back and tries again, one careless pattern
lets a peer stop the server. This one never goes back. A pattern becomes a graph of states once; a value is read
character by character, and all states that can be reached are kept at the same time, as the bits of one number. So the
worst cost is the number of states (MAX_STATES) times the length of the value (MAX_TEXT), and in the usual case two
look-ups a character: which states take it, and where these lead to, are remembered, in tables of bounded size.

What there is means the same as in Python's `re.fullmatch` with ASCII and DOTALL: characters, `.`, `[a-z]`, `[^a-z]`,
`\d`, `\w`, a backslash before what is neither letter nor digit, `( )`, `(?: )`, `|`, and after one of these `?`, `*`,
`+`, `{2}`, `{2,}`, `{2,6}`. What `re` has beyond that is refused with a word on it.
"""

import string
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

MAX_TEXT: Final = 512
"""Characters; a longer value matches nothing."""
MAX_PATTERN: Final = 512
MAX_STATES: Final = 4096
_MAX_DEPTH: Final = 20
_MAX_COUNT: Final = 512
_MAX_REMEMBERED: Final = 1024

_CLASSES: Final = {"d": frozenset(string.digits), "w": frozenset(string.ascii_letters + string.digits + "_")}
_SPECIAL: Final = frozenset("()[]{}*+?|^$.\\")


@dataclass(frozen=True, slots=True)
class _Chars:
    """One character of a set, or with `but` one that is not in it."""

    members: frozenset[str]
    but: bool = False
    ranges: tuple[tuple[str, str], ...] = ()

    def __contains__(self, char: object) -> bool:
        found = char in self.members or any(low <= str(char) <= high for low, high in self.ranges)
        return found is not self.but


@dataclass(frozen=True, slots=True)
class _Series:
    parts: tuple["_Node", ...]


@dataclass(frozen=True, slots=True)
class _Choice:
    parts: tuple["_Node", ...]


@dataclass(frozen=True, slots=True)
class _Repeat:
    part: "_Node"
    least: int
    most: int | None


_Node = _Chars | _Series | _Choice | _Repeat

_ANY: Final = _Chars(frozenset(), but=True)


class Pattern:
    """One pattern, ready to match. ValueError says what is wrong with its text, and where."""

    def __init__(self, text: str) -> None:
        if len(text) > MAX_PATTERN:
            raise ValueError(f"want a pattern of at most {MAX_PATTERN} characters, have {len(text)}")
        self.text = text
        graph = _Graph()
        end = graph.add(None, ())
        begin = graph.build(_Reader(text).read(), end)
        graph.finish()
        self._graph = graph
        self._end = 1 << end
        self._begin = graph.closures[begin]
        self._takers: dict[str, int] = {}
        self._steps: dict[int, int] = {}

    def matches(self, value: str) -> bool:
        """Whether the whole value is one that the pattern describes; never one of more than MAX_TEXT characters."""
        if len(value) > MAX_TEXT:
            return False
        states, takers, steps = self._begin, self._takers, self._steps
        for char in value:
            able = takers.get(char)
            if able is None:
                able = _remember(takers, char, self._graph.takers(char))
            states &= able
            following = steps.get(states)
            if following is None:
                following = _remember(steps, states, self._graph.step(states))
            if not following:
                return False
            states = following
        return bool(states & self._end)


_Key = TypeVar("_Key", int, str)


def _remember(table: dict[_Key, int], key: _Key, value: int) -> int:
    if len(table) >= _MAX_REMEMBERED:  # peers choose the characters
        table.clear()
    table[key] = value
    return value


class _Graph:
    """States: each needs a character of its set (None: nothing) to go on to the next ones. A set of states is a number
    that has their bits.
    """

    def __init__(self) -> None:
        self._needs: list[_Chars | None] = []
        self._next: list[tuple[int, ...]] = []
        self._takers: dict[_Chars, int] = {}  # the states that need a character of this set
        self.closures: list[int] = []
        self._reached: list[int] = []  # by state: what one of its characters leads to

    def add(self, needs: _Chars | None, following: tuple[int, ...]) -> int:
        """A new state, by number."""
        number = len(self._needs)
        if number >= MAX_STATES:
            raise ValueError(f"the pattern is too large: its counts make more than {MAX_STATES} states")
        self._needs.append(needs)
        self._next.append(following)
        if needs is not None:
            self._takers[needs] = self._takers.get(needs, 0) | 1 << number
        return number

    def build(self, node: _Node, after: int) -> int:
        """The state before a part of the pattern, `after` being the one behind it."""
        if isinstance(node, _Chars):
            return self.add(node, (after,))
        if isinstance(node, _Series):
            for part in reversed(node.parts):
                after = self.build(part, after)
            return after
        if isinstance(node, _Choice):
            return self.add(None, tuple(self.build(part, after) for part in node.parts))
        if node.most is None:
            loop = self.add(None, ())
            self._next[loop] = (self.build(node.part, loop), after)
            after = loop
        else:
            end = after
            for _ in range(node.most - node.least):
                after = self.add(None, (self.build(node.part, after), end))
        for _ in range(node.least):
            before = self.build(node.part, after)
            if before == after:  # the part needs nothing, however often
                break
            after = before
        return after

    def finish(self) -> None:
        """After the last `add`: find what is reached from each state without a character, as the states that need one
        (and the end, which none follows). States lead to those that were added before them, but for loops: so a few
        rounds are enough, one for each loop in another.
        """
        found = self.closures = [
            0 if needs is None and following else 1 << number
            for number, (needs, following) in enumerate(zip(self._needs, self._next, strict=True))
        ]
        waiting = [number for number, known in enumerate(found) if not known]
        while waiting:
            changed = False
            for number in waiting:
                known = 0
                for following in self._next[number]:
                    known |= found[following]
                if known != found[number]:
                    found[number], changed = known, True
            if not changed:
                break
        self._reached = [
            0 if needs is None else found[following[0]]
            for needs, following in zip(self._needs, self._next, strict=True)
        ]

    def takers(self, char: str) -> int:
        """All states that need a set with this character in it."""
        able = 0
        for needs, states in self._takers.items():
            if char in needs:
                able |= states
        return able

    def step(self, states: int) -> int:
        """Where these states lead to, each with a character that it takes."""
        reached = 0
        while states:
            state = states.bit_length() - 1
            states ^= 1 << state
            reached |= self._reached[state]
        return reached


class _Reader:
    """The text of a pattern, read from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0

    def read(self) -> _Node:
        """The whole pattern."""
        node = self._choice()
        if self._at < len(self._text):
            raise self._fault("a ) without (")
        return node

    def _fault(self, what: str) -> ValueError:
        return ValueError(f"not a pattern: {what} at character {self._at + 1}")

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self) -> str:
        char = self._peek()
        if not char:
            raise self._fault("it ends too early,")
        self._at += 1
        return char

    def _choice(self) -> _Node:
        parts = [self._series()]
        while self._peek() == "|":
            self._at += 1
            parts.append(self._series())
        return parts[0] if len(parts) == 1 else _Choice(tuple(parts))

    def _series(self) -> _Node:
        parts: list[_Node] = []
        while self._peek() not in ("", "|", ")"):
            parts.append(self._repeated(self._one()))
        return _Series(tuple(parts))

    def _one(self) -> _Node:
        char = self._take()
        made = _MAKERS.get(char)
        if made is not None:
            return made(self)
        if char in _SPECIAL:
            self._at -= 1
            raise self._fault(_REFUSED.get(char, f"{char} has to be written \\{char}"))
        return _Chars(frozenset(char))

    def group(self) -> _Node:
        """What is behind a "("."""
        if self._peek() == "?":
            if self._text[self._at : self._at + 2] != "?:":
                raise self._fault("groups that begin with (? are not supported, but for (?:")
            self._at += 2
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise self._fault(f"more than {_MAX_DEPTH} groups in one another")
        node = self._choice()
        if self._peek() != ")":
            raise self._fault("a ( without ),")
        self._at += 1
        self._depth -= 1
        return node

    def escaped(self) -> _Chars:
        """What is behind a backslash."""
        char = self._take()
        if char in _CLASSES:
            return _Chars(_CLASSES[char])
        if char.isalnum():
            self._at -= 1
            raise self._fault(f"\\{char} is not supported")
        return _Chars(frozenset(char))

    def members(self) -> _Chars:
        """What is behind a "[", up to its "]"."""
        but = self._peek() == "^"
        self._at += but
        members: set[str] = set()
        ranges: list[tuple[str, str]] = []
        first = True
        while (char := self._take()) != "]":
            one = self.escaped().members if char == "\\" else frozenset(char)
            if char == "[" or (char == "-" and not first and self._peek() != "]"):
                self._at -= 1
                raise self._fault(f"{char} among characters has to be written \\{char}")
            if self._peek() == "-" and self._text[self._at + 1 : self._at + 2] not in ("]", ""):
                ranges.append(self._range(one))
            else:
                members |= one
            first = False
        if first:
            raise self._fault("a [] without characters,")
        return _Chars(frozenset(members), but, tuple(ranges))

    def _range(self, one: frozenset[str]) -> tuple[str, str]:
        self._at += 1
        char = self._take()
        other = self.escaped().members if char == "\\" else frozenset(char)
        if len(one) != 1 or len(other) != 1 or min(one) > min(other) or char == "[":
            raise self._fault("a range such as a-z was expected")
        return min(one), min(other)

    def _repeated(self, part: _Node) -> _Node:
        counts = {"?": (0, 1), "*": (0, None), "+": (1, None)}
        char = self._peek()
        if char in counts:
            self._at += 1
            part = _Repeat(part, *counts[char])
        elif char == "{":
            self._at += 1
            part = _Repeat(part, *self._counts())
        else:
            return part
        if self._peek() in ("?", "*", "+", "{"):
            raise self._fault(f"{self._peek()} behind another count is not supported,")
        return part

    def _counts(self) -> tuple[int, int | None]:
        start = self._at
        while self._take() != "}":
            pass
        low, comma, high = self._text[start : self._at - 1].partition(",")
        given = [number for number in (low, high) if number]
        if not low or any(not number.isascii() or not number.isdigit() for number in given):
            raise self._fault("a count such as {2}, {2,} or {2,6} was expected before the end")
        least = int(low[:6])
        most = int(high[:6]) if high else None if comma else least
        if max(least, most or 0) > _MAX_COUNT or (most is not None and most < least):
            raise self._fault(f"a count of at most {_MAX_COUNT}, the lower one first, was expected before the end")
        return least, most


_MAKERS: Final[dict[str, Callable[[_Reader], _Node]]] = {
    "(": _Reader.group,
    "[": _Reader.members,
    "\\": _Reader.escaped,
    ".": lambda _: _ANY,
}
_REFUSED: Final = {
    "^": "a pattern is about the whole value, without ^,",
    "$": "a pattern is about the whole value, without $,",
    **dict.fromkeys("?*+{", "a count without anything before it"),
}
