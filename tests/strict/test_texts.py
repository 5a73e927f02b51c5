"""What peers are told: every text that the server gives a CmpError is found in its source and held to one form.

The form is noun, colon, what was wanted and what was found; the section is in the text, or is that of its noun or of
its failInfo (errors.py), and statusString always ends with it.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import cmpd
from cmpd import errors
from cmpd.asn1 import der
from cmpd.errors import SECTIONS, CmpError
from cmpd.replies import rejection

ROOT = Path(cmpd.__file__).parent
NOT_FOR_PEERS = {"client", "cli"}
OF_OCSP = {"ocsp.py", "ocsp_signer.py"}  # answered without a text
FOR_THE_LOG = {"CannotDecrypt"}  # what it is given: peers are told one text whatever is wrong

PASSED_ON = re.compile(r"str\((fault|error)\)|search\.fault|text|\w*(CONFLICTS|FAULTS)\[.*\]|f'\{text\} \(RFC 9483 .*")
"""What is made elsewhere: the text of another error, or one of a table."""

STATES = {"is", "are", "has", "does", "did", "cannot", "could", "may", "must", "not", "no", "too", "more", "was"}
"""Words that begin what is found, where nothing else could be wanted than its contrary."""


class Text(NamedTuple):
    """A text in the source, with what is put into it at run time as {}."""

    place: str
    kind: str
    text: str


def _classes(trees: list[ast.Module]) -> set[str]:
    """The names of CmpError's subclasses, those in other files than errors.py too."""
    names = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, CmpError)}
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and any(isinstance(b, ast.Name) and b.id in names for b in node.bases):
                names.add(node.name)
    return names


def _constants(trees: list[ast.Module]) -> dict[str, str]:
    """The texts that have a name of their own: NAME: Final = "text"."""
    named = {}
    for node in (node for tree in trees for node in tree.body if isinstance(node, ast.AnnAssign)):
        if isinstance(node.target, ast.Name) and isinstance(node.value, ast.Constant):
            named[node.target.id] = str(node.value.value)
    return named


def _text(node: ast.expr, constants: dict[str, str]) -> Iterator[str]:
    if isinstance(node, ast.Constant):
        yield str(node.value)
    elif isinstance(node, ast.Name) and node.id in constants:
        yield constants[node.id]
    elif isinstance(node, ast.JoinedStr):
        yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    elif isinstance(node, ast.IfExp):
        yield from _text(node.body, constants)
        yield from _text(node.orelse, constants)
    elif not PASSED_ON.fullmatch(ast.unparse(node)):
        yield f"?{ast.unparse(node)}"


def _texts() -> Iterator[Text]:
    paths = [path for path in sorted(ROOT.rglob("*.py")) if not NOT_FOR_PEERS & {*path.parts}]
    trees = [ast.parse(path.read_text()) for path in paths]
    names, constants = _classes(trees), _constants(trees)
    for path, tree in zip(paths, trees, strict=True):
        if path.name in OF_OCSP:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names - FOR_THE_LOG:
                for text in (text for argument in node.args[:1] for text in _text(argument, constants)):
                    yield Text(f"{path.relative_to(ROOT)}:{node.lineno}", node.func.id, text)


TEXTS = list(_texts())
FORM = re.compile(r"(\{\}|[A-Za-z][\w-]*)([ .][\w-]+|[ .]\{\}|[ .]sections?)*: \S")


def test_there_are_texts_of_every_kind() -> None:
    assert len(TEXTS) > 150
    raised = {text.kind for text in TEXTS}
    assert {"BadDataFormat", "BadRequest", "BadCertTemplate", "BadPop", "NotAuthorized", "BadAlg"} <= raised


@pytest.mark.parametrize("text", TEXTS, ids=[f"{text.place} {text.text[:40]}" for text in TEXTS])
def test_a_text_begins_with_its_noun_and_says_what_was_wanted(text: Text) -> None:
    assert FORM.match(text.text), text
    said = text.text.partition(": ")[2]
    wanted = "want" in said or "{}" in (said[:2], said[-2:]) or bool(STATES & set(re.findall(r"\w+", said)))
    assert wanted, text
    if "want" in said and "have" not in said:
        assert re.search(r"want\w* .*(\{\}|;|,|, which)", said) or "RFC" in said, text
    assert not text.text.endswith("."), text


@pytest.mark.parametrize("kind", sorted({text.kind for text in TEXTS} & {*vars(errors)}))
def test_every_failinfo_has_a_section(kind: str) -> None:
    error = getattr(errors, kind)
    assert re.fullmatch(r"RFC \d{4} (section \d+(\.\d+)*|appendix [A-Z])", error.section)
    info = rejection(error("a noun that nobody has: want one, have none"))
    assert error.section.encode() in info


@pytest.mark.parametrize(
    "section",
    sorted(
        {
            *SECTIONS.values(),
            *re.findall(r"RFC \d{4} (?:section|appendix) [\w.]*\w", "\n".join(text.text for text in TEXTS)),
        }
    ),
)
def test_a_section_is_well_formed(section: str) -> None:
    assert re.fullmatch(r"RFC \d{4} (section \d+(\.\d+)*|appendix [A-Z](\.\d+)*)", section)


def test_a_long_text_is_cut_before_its_section() -> None:
    info = rejection(errors.BadCertId("certDetails: " + "x" * 5000))
    start, stop = der.header(info, 0, len(info))[1:]
    assert stop - start < 1200
    assert b"(RFC 9483 section 4.2)" in info


def test_a_text_with_a_section_gets_no_second_one() -> None:
    assert errors.BadPop("popo: want one, have none (RFC 4211 section 4.1)").cited == ""
    assert errors.BadPop("popo: want one, have none").cited == "RFC 4211 section 4"
    assert errors.BadRequest("generalInfo certProfile: want one, have two").cited == "RFC 9483 section 3.1"
    assert errors.BadAlg("unheard-of: want one, have none").cited == "RFC 9483 section 3.5"
