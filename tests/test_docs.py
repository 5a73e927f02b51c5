"""What the documents say is held against the code: commands, keys, files, tests, and the tables of supported-cmp.md."""

import argparse
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel, TypeAdapter

from cmpd import authority, crl, lifecycle, message, ocsp, pop, status, threads
from cmpd import requests as cmpd_requests
from cmpd.asn1 import cmp, crmf, der, general_names
from cmpd.asn1.algorithms import HMACS
from cmpd.cli import cmpc_arguments, cmpd
from cmpd.client import servers
from cmpd.client.messages import cert_hash, cert_status
from cmpd.config import Config, ProfileConfig
from cmpd.config_status import CERTIFICATE_PATH, CHAIN_PATH, CRL_PATH, DELTA_PATH, OCSP_PATH
from cmpd.errors import CmpError, FailInfo
from cmpd.handlers import ANNOUNCEMENTS, HANDLERS, general, passphrase, revoke
from cmpd.lifecycle import Event
from cmpd.message import BODY_NAMES, ID_IT_CERT_PROFILE, ID_IT_IMPLICIT_CONFIRM, ID_IT_REV_PASSPHRASE
from cmpd.paths import PathLimits
from cmpd.profiles import alt_names, extensions
from cmpd.protection import macs
from cmpd.protection.base import ProtectionPolicy
from cmpd.protection.kembm import ID_IT_KEM_CIPHERTEXT_INFO as KEM_CIPHERTEXT
from cmpd.protection.schemes import SCHEMES
from cmpd.records import CRL_REASONS, CertificateState, CertificateStatus
from cmpd.requests import _FORBIDDEN_FIELDS
from cmpd.rev_requests import _ENTRY, RevTemplate
from cmpd.signatures import REFUSED
from cmpd.status import Wish
from cmpd.transaction import ID_SIZE, MIN_NONCE
from cmpd.wire.tcpmsg import ErrorType, MessageType
from tests.test_house import imports
from tests.world import Seen, World, protect

ROOT = Path(__file__).resolve().parents[1]
NAMES = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "SECURITY.md"]
DOCUMENTS = {
    str(path.relative_to(ROOT)): path.read_text() for path in [*(ROOT / n for n in NAMES), *ROOT.glob("docs/*.md")]
}
LONGEST_ARCHITECTURE = 200
PARSERS = {"cmpd": cmpd.parser, "cmpc": cmpc_arguments.parser}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
every_document = pytest.mark.parametrize("name", DOCUMENTS)


def prose(text: str) -> str:
    return BLOCK.sub("", text)


def inline_code(text: str) -> Iterator[str]:
    yield from re.findall(r"`([^`]+)`", prose(text))


def shell_lines(text: str) -> Iterator[str]:
    for language, block in BLOCK.findall(text):
        if language == "sh":
            yield from block.replace("\\\n", " ").splitlines()


def calls(text: str) -> Iterator[list[str]]:
    """The arguments, with the command first, of each cmpd and cmpc in the text's blocks of commands."""
    for line in shell_lines(text):
        if not re.search(r"\b(cmpd|cmpc) ", line):
            continue
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set("();<>|&"):
                if words and Path(words[0]).name in PARSERS:
                    yield words
                words = [] if word[0] in ";|&()" else ["a file, not a command"]
            else:
                words.append(word)


# --- commands, targets, keys, files -----------------------------------------------------------------------------------


COMMANDS = [(name, call) for name, text in DOCUMENTS.items() for call in calls(text)]


@pytest.mark.parametrize(("name", "call"), COMMANDS, ids=[f"{name}: {shlex.join(call)}" for name, call in COMMANDS])
def test_every_command_line_is_one_that_the_command_understands(name: str, call: list[str]) -> None:
    try:
        PARSERS[Path(call[0]).name]().parse_args(call[1:])
    except (SystemExit, argparse.ArgumentError) as error:
        pytest.fail(f"{name}: {shlex.join(call)}: {error}")


def test_the_readme_has_commands_of_each_kind() -> None:
    shown = [call for name, call in COMMANDS if name == "README.md"]
    kinds = {(Path(call[0]).name, call[1]) for call in shown}
    assert {("cmpc", command) for command in cmpc_arguments._COMMANDS} <= kinds
    assert {("cmpd", command) for command in cmpd.COMMANDS.keys() - {"serve"}} <= kinds  # units do that
    assert {call[2] for call in shown if call[1:2] == ["cert"]} >= {
        "list",
        "show",
        "export",
        "revoke",
        "suspend",
        "resume",
    }
    assert {call[2] for call in shown if call[1:2] == ["crl"]} == {"issue", "show"}


def test_the_doors_document_has_every_scheme_of_cmpc_and_every_command_about_requests() -> None:
    shown = {call[2] for name, call in COMMANDS if name == "docs/doors.md" and call[1] == "request"}
    assert shown == {"list", "show", "approve", "reject"}
    named = {found[1] for code in inline_code(DOCUMENTS["docs/doors.md"]) if (found := re.match(r"([a-z]+):/", code))}
    assert named == set(servers._SCHEMES)


def test_the_line_to_paste_is_the_one_that_make_run_prints() -> None:
    from tests.demo import ENROL

    assert f".venv/bin/{ENROL.format(listen='127.0.0.1:8829', var='var')}" in shell_lines(DOCUMENTS["README.md"])


@every_document
def test_every_make_target_exists(name: str) -> None:
    text = DOCUMENTS[name]
    code = [*inline_code(text), *shell_lines(text)]
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {target for line in code for target in re.findall(r"^make ([a-z-]+)", line)}
    assert named <= targets


def key_exists(path: str) -> bool:
    table: type[BaseModel] = Config
    *tables, last = path.split(".")
    for part in tables:
        if part == "NAME":
            continue
        [found] = [f for n, f in table.model_fields.items() if part in (n, f.alias)] or [None]
        models = [found.annotation, *get_args(found.annotation)] if found else []
        models = [m for m in models if isinstance(m, type) and issubclass(m, BaseModel)]
        if not models:
            return False
        table = models[0]
    return any(last in (n, f.alias) for n, f in table.model_fields.items())


KEY = re.compile(rf"((?:{'|'.join(Config.model_fields)})(?:\.NAME)?\.[a-z0-9_]+)(?: = .*)?")


@every_document
def test_every_key_of_the_configuration_exists(name: str) -> None:
    named = {found[1] for code in inline_code(DOCUMENTS[name]) if (found := KEY.fullmatch(code))}
    named -= {code for code in named if code.rpartition(".")[2] in ("pem", "db", "toml", "py", "csr", "crl", "cer")}
    assert {key for key in named if not key_exists(key)} == set()


def test_keys_are_looked_for_in_their_tables() -> None:
    assert key_exists("tcp.max_in_flight")
    assert key_exists("log.json")
    assert key_exists("profile.NAME.san_allowed")
    assert not key_exists("store.max_in_flight")
    assert KEY.fullmatch("tcp.rfc2510 = false")


def tables(name: str) -> list[dict[str, Any]]:
    """What the blocks of configuration in a document say."""
    return [tomllib.loads(block) for language, block in BLOCK.findall(DOCUMENTS[name]) if language == "toml"]


@every_document
def test_the_configuration_that_is_shown_is_understood(name: str) -> None:
    for shown in tables(name):
        for profile in shown.pop("profile", {}).values():
            ProfileConfig.model_validate(profile)
        for table, values in shown.items():
            TypeAdapter(Config.model_fields[table].annotation).validate_python(values)


def test_a_profile_and_the_door_are_shown() -> None:
    assert any("profile" in shown for shown in tables("README.md"))
    assert any({"crl", "ocsp", "publish"} <= set(shown) for shown in tables("docs/publishing.md"))


def test_a_profile_that_a_command_names_is_shown() -> None:
    shown = [shown.get("profile", {}) for name in DOCUMENTS for shown in tables(name)]
    named = {call[call.index("--profile") + 1] for _, call in COMMANDS if "--profile" in call}
    assert named
    assert named <= {name for table in shown for name in table}


@every_document
def test_every_linked_file_exists(name: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", DOCUMENTS[name]):
        if "://" not in target:
            assert (ROOT / name).parent.joinpath(target).exists(), target


@every_document
def test_every_file_and_test_that_is_named_exists(name: str) -> None:
    for code in inline_code(DOCUMENTS[name]):
        path, _, function = code.partition("::")
        if re.fullmatch(r"(cmpd|tests|docs|systemd)/[\w./-]*", path):
            assert (ROOT / path).exists(), code
        if function:
            assert re.search(rf"^(async )?def {function}\(", (ROOT / path).read_text(), re.MULTILINE), code


def test_every_invariant_names_its_file_and_its_test() -> None:
    section = DOCUMENTS["ARCHITECTURE.md"].partition("## Invariants")[2].partition("\n## ")[0]
    items = re.split(r"^\d+\. ", section, flags=re.MULTILINE)[1:]
    assert len(items) >= 10
    for item in items:
        named = list(inline_code(item))
        assert any("::test_" in code for code in named), item
        assert any(("/" in code and "::" not in code) or code == "pyproject.toml" for code in named), item


def test_the_architecture_is_short() -> None:
    assert DOCUMENTS["ARCHITECTURE.md"].count("\n") <= LONGEST_ARCHITECTURE


def test_the_layout_is_that_of_the_import_contract() -> None:
    """Each module of the contract stands in the layout, those of one layer together and the layers in their order."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    [layers] = [contract["layers"] for contract in contracts if contract["id"] == "layers"]
    section = DOCUMENTS["ARCHITECTURE.md"].partition("## Layout and the rule of imports")[2]
    rows = [re.sub(r"\([^)]*\)|:.*?(\||$)", " ", line) for line in BLOCK.findall(section)[0][1].splitlines()]
    row_of = {word: number for number, row in reversed([*enumerate(rows)]) for word in re.findall(r"\w+", row)}
    there = [re.findall(r"\w+", layer) for layer in layers]
    there = [[name for name in layer if list((ROOT / "cmpd").glob(f"{name}*"))] for layer in there]
    found = [{row_of.get(name) for name in layer} for layer in there if layer and layer != ["__main__"]]
    assert [
        layer for layer, numbers in zip(there[1:], found, strict=True) if len(numbers) != 1 or None in numbers
    ] == []
    order = [number for numbers in found for number in numbers if number is not None]
    assert order == sorted(order)


NUMBERS = {
    "ARCHITECTURE.md": [
        f"derivations of more than {ProtectionPolicy().inline_iterations} iterations",
        f"two lanes, up to {threads._SHORT_DERIVATION} iterations",
    ],
    "docs/supported-cmp.md": [
        f"| transactionID | {ID_SIZE} octets in a first message; lenient: 1 to {message.MAX_IDENTIFIER},",
        f"| senderNonce | {MIN_NONCE} to {message.MAX_IDENTIFIER} octets; lenient: 0 to {message.MAX_IDENTIFIER},",
        f"or more than {general_names.MAX_GENERAL_NAME} octets: error badDataFormat",
        f"at most {message._MAX_GENERAL_INFO} items",
        f"more than {message._MAX_EXTRA_CERTS} extraCerts",
        f"more than {PathLimits().max_certificates} certificates beside",
        f"or {PathLimits().max_octets} octets of certificates",
        f"a certReqId of more than {8 * cmpd_requests._MAX_CERT_REQ_ID} bits",
        f"at most {alt_names.MAX_SAN_NAMES} names",
        f"at most {pop._KEY_MAC_ITERATIONS} iterations",
        f"More than {general.MAX_ITEMS} items",
        f"more than {general.MAX_ITEMS} sources in crlStatusList",
        f"| passphrase | {passphrase.MIN_PASSPHRASE} to {passphrase.MAX_PASSPHRASE} octets |",
        f"the senderKID of the message; 1 to {passphrase.MAX_KEY_ID} octets",
        f"| {passphrase.MAX_KEPT} for one holder;",
        f"at most {ocsp.MAX_REQUEST_OCTETS} octets and {ocsp.MAX_CERTIFICATES} certificates",
        f"| nonce | 1 to {ocsp._MAX_NONCE_OCTETS} octets",
    ],
}


@pytest.mark.parametrize(("name", "phrase"), [(name, phrase) for name in NUMBERS for phrase in NUMBERS[name]])
def test_numbers_are_those_of_the_code(name: str, phrase: str) -> None:
    assert phrase in " ".join(DOCUMENTS[name].split())


@pytest.mark.parametrize("name", ["README.md", "SECURITY.md", "docs/supported-cmp.md"])
@pytest.mark.parametrize(
    "phrase",
    [
        pytest.param(r"(?i)new registration|--subject` binds", id="what surprises"),
        pytest.param(
            r"(?i)disable the registration|the registration \(`cmpd entity disable`", id="no CRLs are fetched"
        ),
    ],
)
def test_what_an_operator_must_know_is_said_where_he_reads(name: str, phrase: str) -> None:
    assert re.search(phrase, " ".join(DOCUMENTS[name].split()))


@every_document
def test_no_document_knows_a_machine_or_a_registry(name: str) -> None:
    found = re.search(r"/root\b|/home/|/tmp/|index-url", DOCUMENTS[name], re.IGNORECASE)
    assert found is None


@every_document
def test_no_line_is_longer_than_a_screen(name: str) -> None:
    lines = prose(DOCUMENTS[name]).splitlines()
    assert [line for line in lines if len(line) > 120 and not line.startswith(("|", "   `", "    `"))] == []


# --- docs/supported-cmp.md --------------------------------------------------------------------------------------------


def table(head: str) -> list[list[str]]:
    """The rows of the table of supported-cmp.md whose head begins with these columns."""
    lines = iter(DOCUMENTS["docs/supported-cmp.md"].splitlines())
    [_] = [line for line in lines if line.startswith(f"| {head} |")][:1] or [pytest.fail(f"no table | {head} |")]
    lines = iter(DOCUMENTS["docs/supported-cmp.md"].partition(f"\n| {head} |")[2].splitlines()[2:])
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def test_the_bodies_are_the_27_of_the_rfc_and_their_states_those_of_the_code() -> None:
    rows = table("tag | body")
    assert [(int(row[0]), row[1]) for row in rows] == list(enumerate(BODY_NAMES))
    state = {row[1]: row[2] for row in rows}
    assert {name for name, word in state.items() if word == "done"} == set(HANDLERS)
    assert {name for name, word in state.items() if word == "noted"} == ANNOUNCEMENTS
    assert set(state.values()) == {"done", "noted", "refused"}


@pytest.mark.parametrize("row", [row for row in table("tag | body") if row[2] != "done"], ids=lambda row: row[1])
async def test_a_body_is_answered_as_its_row_says(row: list[str]) -> None:
    world = World()
    secret = await world.add_secret()
    seen = await world.send(protect(row[1], b"\x30\x00", secret.protector(world.env), world.env).der)
    if seen is None:
        assert row[3] == "none (finRep)"
    else:
        assert row[3] == f"{seen.body} {' '.join(seen.status()[2])}"


@pytest.mark.parametrize("body", [row[1] for row in table("tag | body") if row[2] == "done"])
async def test_a_body_that_is_done_has_the_answer_of_its_row(body: str) -> None:
    answers = {row[1]: row[3] for row in table("tag | body")}
    world = World()
    secret = await world.add_secret()
    if body in ("ir", "cr"):
        _, seen, _ = await world.ir(secret, body=body)
    elif body == "kur":
        _, seen, _ = await world.ir(await world.holder(secret), body=body)
    elif body in ("rr", "genm"):
        seen = await world.send(protect(body, b"\x30\x00", secret.protector(world.env), world.env).der)
        assert seen is not None
    else:
        request, granted, _ = await world.ir(secret, implicit=False)
        contents = {"pkiconf": der.NULL_TLV, "certConf": b"\x30\x00"}
        contents["error"] = der.seq(der.seq(der.encode_integer(2)))
        if body not in contents:
            # tests/test_enrolment.py, tests/test_waiting.py, tests/test_pop_challenge.py
            assert answers[body] == {"p10cr": "cp", "pollReq": "pollRep", "popdecr": "ip"}[body]
            return
        answer = await world.send(world.follow(request, granted, body, contents[body]).der)
        assert answers[body] == ("none (finRep)" if answer is None else answer.body)
        return
    assert answers[body] == seen.body


async def confirm(world: World, content: Any, then: Any) -> Seen:
    """The answer to certConf with what `content` makes of the certificate, or to another one after it."""
    secret = await world.add_secret()
    request, granted, _ = await world.ir(secret, implicit=False)
    certificate = granted.certificate()
    seen = await world.ask(world.follow(request, granted, "certConf", content(certificate)), secret)
    if then is not None:
        recipient = {"recip_nonce": seen.envelope.header.sender_nonce}
        seen = await world.ask(world.follow(request, granted, "certConf", then(certificate), **recipient), secret)
    return seen


def accepts(certificate: Any) -> bytes:
    return der.seq(cert_status(certificate, 0))


def rejects(certificate: Any) -> bytes:
    right = cert_hash(certificate)
    status = cert_status(certificate, 0, reject="no")
    assert right in status
    return der.seq(status.replace(right, bytes(len(right))))


def wrong_hash(_: Any) -> bytes:
    return der.seq(der.seq(der.encode_octets(bytes(32)), der.encode_integer(0)))


CONFIRMATIONS = {
    "certConf accepts": (accepts, None),
    "certConf with status rejection, or without a CertStatus for a certificate": (rejects, None),
    "wrong certHash, or certReqId that does not wait": (wrong_hash, None),
    "two CertStatus for one certificate, or contents that are malformed": (lambda _: der.seq(der.NULL_TLV), None),
    "another certConf after confirmation": (accepts, rejects),
    "another certConf after rejection, a fault or the time limit": (wrong_hash, accepts),
}


@pytest.mark.parametrize("case", CONFIRMATIONS)
async def test_a_confirmation_is_answered_as_its_row_says(case: str) -> None:
    [what] = [row[1] for row in table("case | what happens") if row[0] == case]
    content, then = CONFIRMATIONS[case]
    world = World()
    seen = await confirm(world, content, then)
    answer = " ".join([seen.body, *(seen.status()[2] if seen.body == "error" else ())])
    assert answer != "error"
    assert re.search(rf"\b{answer}\b", what)
    [record] = await world.store.list_certificates()
    good = case in ("certConf accepts", "another certConf after confirmation")
    assert record.state == ("confirmed" if good else "revoked")


@pytest.mark.parametrize("body", ["error", "pkiconf"])
async def test_contents_that_are_none_of_the_body_are_told_what_its_row_says(body: str) -> None:
    [notes] = [row[4] for row in table("tag | body") if row[1] == body]
    world = World()
    secret = await world.add_secret()
    request, granted, _ = await world.ir(secret, implicit=False)
    seen = await world.ask(world.follow(request, granted, body, b"\x30\x00"), secret)
    [failure] = seen.status()[2]
    assert f"{seen.body} {failure}" in notes


@pytest.mark.parametrize("row", table("method | state"), ids=lambda row: row[0])
async def test_what_is_refused_as_proof_of_possession_is_refused_as_its_row_says(row: list[str]) -> None:
    choices = {"raVerified": b"\x80\x00", "keyEncipherment": b"\xa2\x03\x81\x01\x00"}
    choices |= {"keyAgreement": b"\xa3\x03\x81\x01\x00", "absent": b""}
    choices |= {"encryptedKey, thisMessage": b"\xa3\x02\xa4\x00"}
    if row[0] not in choices:
        # tests/test_enrolment.py, test_enrolment_edges.py, test_pop_{encrcert,challenge,agreed}.py
        assert row[1] == "done"
        return
    world = World()
    secret = await world.add_secret()
    request, _, _ = await world.ir(secret)
    items = message.decode(request.der).body
    start = der.header(items, 0, len(items))[1]
    start = der.header(items, start, len(items))[1]
    asked = items[start : der.header(items, start, len(items))[2]]
    seen = await world.ask(
        protect("ir", der.seq(der.seq(asked, choices[row[0]])), secret.protector(world.env), world.env), secret
    )
    assert seen.body == "ip"
    [failure] = seen.status()[2]
    assert failure in f"{row[1]} {row[2]}"


def test_every_failure_that_a_row_names_is_one_that_is_sent() -> None:
    sent = {row[1] for row in table("bit | failInfo") if row[2] == "yes"}
    rows = [line for line in DOCUMENTS["docs/supported-cmp.md"].splitlines() if line.startswith("|")]
    rows = [row for row in rows if not re.match(r"\| \d+ \| \w+ \| (yes|no) \|", row)]
    named = {
        name
        for row in rows
        for name in re.findall(r"(?:error|kup|rejection|refused|unknown|otherwise) ([a-z]+[A-Z]\w+)", row)
    }
    named |= {name for row in rows for name in re.findall(r"\bbad[A-Z]\w+", row)}
    assert named <= sent
    assert len(named) > 10


def test_the_general_info_is_all_that_the_rfc_has_and_done_what_the_code_reads() -> None:
    rows = table("id-it | name")
    assert {f"1.3.6.1.5.5.7.4.{row[0]}": row[1] for row in rows} == cmp.InfoType._map
    in_headers = (ID_IT_IMPLICIT_CONFIRM, ID_IT_CERT_PROFILE, ID_IT_REV_PASSPHRASE, KEM_CIPHERTEXT)
    read = {der.dotted(oid) for oid in in_headers}
    assert {f"1.3.6.1.5.5.7.4.{row[0]}" for row in rows if row[2] == "done"} == read
    answered = {der.dotted(oid) for oid in (*general.INFO_TYPES, KEM_CIPHERTEXT)}  # that one without protection
    assert {f"1.3.6.1.5.5.7.4.{row[0]}" for row in rows if row[3] == "done"} == answered
    assert {row[3] for row in rows} == {"done", "unsupported"}


def test_the_algorithms_are_those_of_the_tables() -> None:
    rows = table("algorithm | OID")
    state: dict[str, set[str]] = {}
    for _, oid, word, _ in rows:
        state.setdefault(word, set()).add(oid)
    assert state["done"] == {der.dotted(oid) for oid in SCHEMES}
    assert state["refused badAlg"] == {der.dotted(oid) for oid in REFUSED}
    assert not state["unknown badAlg"] & (state["done"] | state["refused badAlg"])
    assert len(state) == 3


def test_the_macs_inside_are_those_of_the_tables() -> None:
    state: dict[str, set[str]] = {}
    for _, oid, word, _ in table("MAC | OID"):
        state.setdefault(word, set()).add(oid)
    assert state["done"] == {der.dotted(oid) for oid in (*HMACS, *macs.GMACS)}
    assert state["refused badAlg"] == {der.dotted(oid) for oid in macs._KMACS}
    assert len(state) == 2


def test_the_controls_are_all_that_the_rfc_has_and_done_what_the_code_uses() -> None:
    rows = table("control | OID")
    known = {oid: name for oid, name in crmf.AttributeType._map.items() if ".5.7.5." in oid}
    assert {row[1]: row[0] for row in rows} == known
    constants = {"ID_REG_CTRL_REG_TOKEN": "regToken", "ID_REG_CTRL_AUTHENTICATOR": "authenticator"}
    constants |= {"ID_REG_CTRL_OLD_CERT_ID": "oldCertID", "ID_REG_CTRL_PKI_ARCHIVE_OPTIONS": "pkiArchiveOptions"}
    constants |= {"ID_REG_CTRL_ALT_CERT_TEMPLATE": "altCertTemplate", "ID_REG_INFO_CERT_REQ": "certReq"}
    constants |= {"ID_REG_INFO_UTF8_PAIRS": "utf8Pairs"}
    server = [path.read_text() for path in (ROOT / "cmpd").rglob("*.py") if "client" not in path.parts]
    used = {key for key in constants if len(re.findall(rf"\b{key}\b", "\n".join(server))) > 1}  # not only defined
    read = {"done", "refused badCertTemplate", "read"}
    assert {row[0] for row in rows if row[2] in read} == {name for key, name in constants.items() if key in used}
    assert {row[2] for row in rows} == {*read, "ignored"}


def test_the_template_fields_are_those_of_the_rfc_and_refused_what_the_code_forbids() -> None:
    rows = table("field | state")
    fields = [re.sub("_uid$", "_UID", name) for name, *_ in crmf.CertTemplate._fields]
    assert [row[0] for row in rows] == [re.sub("_([a-z]?)", lambda found: found[1].upper(), name) for name in fields]
    assert {row[0] for row in rows if row[1] == "refused badCertTemplate"} == set(_FORBIDDEN_FIELDS.values())


def test_the_extensions_are_those_that_have_a_builder() -> None:
    rows = table("extension | OID")
    assert [row[0] for row in rows] == [*extensions.BUILDERS, *extensions._OF_THE_CA.values()]
    named = {der.dotted(getattr(extensions, name)) for name in vars(extensions) if name.startswith("OID_")}
    assert {row[1] for row in rows} == named


def test_the_failure_names_are_the_27_and_sent_those_that_something_raises() -> None:
    rows = table("bit | failInfo")
    assert [(int(row[0]), row[1]) for row in rows] == list(enumerate(get_args(FailInfo)))
    server = [path for path in (ROOT / "cmpd").rglob("*.py") if "client" not in path.parts]
    used = {name.rpartition(".")[2] for path in server for name in imports(path)}
    raised = {error.failure for error in CmpError.__subclasses__() if error.__name__ in used}
    assert {row[1] for row in rows if row[2] == "yes"} == raised


def test_the_messages_of_both_framings_are_those_of_the_wire() -> None:
    assert [(int(row[0], 16), row[1]) for row in table("type | message")] == [(m.value, m.name) for m in MessageType]
    assert [int(row[0], 16) for row in table("flag | message")] == [m.value for m in MessageType]


def test_the_error_types_are_those_of_the_wire() -> None:
    assert [(int(row[0], 16), row[1]) for row in table("Error-Type | name")] == [(e.value, e.name) for e in ErrorType]


# --- docs/supported-cmp.md: status ------------------------------------------------------------------------------------


def test_the_rr_table_has_every_field_of_the_template_and_every_entry_extension() -> None:
    names = [row[0].split() for row in table("rr | what happens")]
    fields = {name.partition(".")[2] for first, *_ in names if (name := first).startswith("certDetails.")}
    said = {re.sub("_([a-z]?)", lambda found: found[1].upper(), name) for name in RevTemplate.__dataclass_fields__}
    said = said - {"notBefore", "notAfter"} | {"validity", "issuer", "serialNumber"}
    assert {name.lower() for name in fields} == {name.lower() for name in said}
    extensions_of_entries = {"reasonCode": "21", "invalidityDate": "24", "certificateIssuer": "29"}
    assert {name[1] for name in names if name[0] == "crlEntryDetails"} == set(extensions_of_entries)
    assert {der.dotted(oid) for oid in _ENTRY} == {f"2.5.29.{number}" for number in extensions_of_entries.values()}


def test_the_reasons_are_those_of_the_rfc_and_do_what_the_code_does() -> None:
    rows = table("number | reasonCode")
    assert {row[1]: int(row[0]) for row in rows} == CRL_REASONS
    verbs = {Event.REVOKE: "revokes", Event.SUSPEND: "suspends", Event.RESUME: "resumes"}
    assert {row[1]: row[2].partition(";")[0] for row in rows} == {n: verbs[Wish(n).event] for n in CRL_REASONS}
    assert {row[1] for row in rows if row[3].startswith("an operator")} == status._OPERATORS_REASONS


def test_what_follows_what_is_the_table_of_the_lifecycle() -> None:
    rows = table("state | revoke | suspend | resume")
    assert {row[0] for row in rows} == {state.value for state in CertificateState}
    for name, *cells, _ in rows:
        for event, cell in zip((Event.REVOKE, Event.SUSPEND, Event.RESUME), cells, strict=True):
            key = (CertificateState(name), event)
            refused = status.FAULTS.get(key)
            assert cell == (refused[0].failure if refused else lifecycle.NEXT[key].value), key


def test_who_may_is_the_table_of_the_code() -> None:
    rows: list[list[str]] = []
    for line in (authority.__doc__ or "").splitlines():
        if line.startswith("| "):
            who, which = (cell.strip() for cell in line.strip("|").split("|"))
            rows = [*rows, [who, which]] if who else [*rows[:-1], [rows[-1][0], f"{rows[-1][1]} {which}"]]
    assert len(rows) > 5
    assert table("requester | certificates whose status it may change") == rows[1:]


def test_the_crl_extensions_are_those_that_the_code_makes() -> None:
    made = {der.dotted(value) for name, value in vars(crl).items() if name.startswith("_OID_")}
    made.add(der.dotted(extensions.OID_AKI))
    assert {row[1] for row in table("CRL extension | OID")} == made


def test_ocsp_says_of_each_state_what_its_row_says() -> None:
    rows = table("state in the records | OCSP says")
    never_issued = {"no record", "intended", "abandoned"}
    for name, said in rows:
        found = None
        if name not in never_issued:
            state = CertificateState(name)
            reason = "certificateHold" if state is CertificateState.SUSPENDED else "keyCompromise"
            found = CertificateStatus(b"\x01", state, 0, reason)
        words = {0x80: "good", 0xA1: "revoked", 0x82: "unknown"}
        assert said.partition(",")[0] == words[ocsp._cert_status(found, 0)[0]]
    assert {row[0] for row in rows} - {"no record"} == {state.value for state in CertificateState}
    assert {state.value for state in revoke._NEVER_ISSUED} == never_issued - {"no record"}


def test_the_paths_are_those_of_the_door() -> None:
    rows = [row[0] for row in table("path | methods")]
    assert rows == ["/", CRL_PATH, DELTA_PATH, CERTIFICATE_PATH, CHAIN_PATH, OCSP_PATH, f"{OCSP_PATH}/BASE64"]


def test_the_hash_functions_of_a_certid_are_those_of_the_code() -> None:
    [said] = [row[1] for row in table("feature | what is done") if row[0] == "CertID"]
    assert [name.lower().replace("-", "") for name in re.findall(r"SHA-\d+", said)] == list(ocsp._HASH_FUNCTIONS)
