"""Mail as a door (RFC 9483 section 6.4.2, RFC 2510 section 5.3): octets of a mail in, those of the reply out.

Whoever knows the address can send, so nothing here takes more than one pass over the mail for each of a few levels.
Headers are read by the standard library; the parts of a multipart are cut here, because its parser goes down as deep as
a mail says. Of the headers only addresses, message identifiers and the subject reach the reply: the first two if they
have the plain form, the subject without its control characters, so that no header can be smuggled into it.

Mail that a program sent is never answered (RFC 3834), and the reply says that it is such a mail: two programs that
answer each other would never end.
"""

import base64
import binascii
import re
from collections.abc import Iterator, Sequence
from email.message import Message
from email.parser import BytesHeaderParser
from email.utils import formatdate
from typing import Final

from cmpd.asn1 import der
from cmpd.env import Env
from cmpd.errors import CmpdError
from cmpd.frozen import frozen

MEDIA_TYPES: Final = ("application/pkixcmp", "application/x-pkixcmp")
"""The second one is that of drafts of RFC 2510."""

FILE_NAME: Final = "response.pki"

_MAX_HEADER: Final = 262_144  # octets of the header of a mail or part
_MAX_FIELD: Final = 4096  # characters of a header field that is looked at
_MAX_DEPTH: Final = 16
_MAX_PARTS: Final = 1000
_MAX_COMMENTS: Final = 16
_MAX_REFERENCES: Final = 20
_MAX_SUBJECT: Final = 256
_WIDTH: Final = 76

_ADDRESS: Final = re.compile(
    r"(?!-)[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
    r"@([A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*|\[[A-Za-z0-9.:]+\])",
    re.ASCII,
)
_LONGEST_ADDRESS: Final = 254
_MESSAGE_ID: Final = re.compile(r"<[!-;=?-~]{1,240}>", re.ASCII)
_HEADER_END: Final = re.compile(rb"(?:\A|\n)\r?\n")
_WORD: Final = 30  # octets of the subject in one encoded word


class MailError(CmpdError):
    """The mail is none that can be answered; str() is one line for its sender."""


@frozen
class Mail:
    """What matters of a mail. `request`: the octets of its application/pkixcmp part. `message_id`, `references`: as
    they go into the reply, perhaps empty.
    """

    request: bytes
    sender: str
    recipient: str
    subject: str
    message_id: str
    references: tuple[str, ...]


@frozen
class Automatic:
    """A mail that a program sent, and that gets no reply. `reason`: what says so."""

    reason: str


# --- in --------------------------------------------------------------------------------------------------------------


def mail_limit(max_message_octets: int) -> int:
    """Most octets of a mail whose message may be so long: Base64, and room for headers and what else it carries."""
    return 2 * max_message_octets + 1_048_576


def read(octets: bytes, *, max_message_octets: int, answer_from: str = "") -> Mail | Automatic:
    """Read a mail, with LF or CRLF. `answer_from`: the reply comes from this address (default: the mail's To)."""
    header, body = _split(_without_envelope(octets))
    if reason := _is_automatic(header):
        return Automatic(reason)
    sender = _first_address(header, "Reply-To", "From")
    if not sender:
        raise MailError("mail: want an address in Reply-To or From, have none to answer to")
    recipient = answer_from or _first_address(header, "X-Original-To", "To", "Delivered-To")
    if not recipient:
        raise MailError("mail: want an address in To, have none that an answer could come from")
    found = list(_requests(header, body))
    if len(found) != 1:
        raise MailError(f"mail: want one part of type {MEDIA_TYPES[0]}, have {len(found) or 'none'}")
    request = _decoded(*found[0])
    if not request:
        raise MailError(f"mail: want a PKIMessage in its part of type {MEDIA_TYPES[0]}, have no octets")
    if len(request) > max_message_octets:
        raise MailError(f"mail: want a PKIMessage of at most {max_message_octets} octets, have {len(request)}")
    message_id = _message_ids(header, "Message-ID")[:1]
    references = _message_ids(header, "References") or _message_ids(header, "In-Reply-To")[:1]
    return Mail(request, sender, recipient, _subject(header), "".join(message_id), (*references, *message_id))


def _without_envelope(octets: bytes) -> bytes:
    """Without the line that is no header field, which programs that deliver mail put in front."""
    return octets[octets.find(b"\n") + 1 :] if octets.startswith((b"From ", b">From ")) and b"\n" in octets else octets


def _split(entity: bytes) -> tuple[Message, bytes]:
    """Header and body of a mail or part."""
    end = _HEADER_END.search(entity, 0, _MAX_HEADER)
    if end is None and len(entity) >= _MAX_HEADER:
        raise MailError(f"mail: want headers of at most {_MAX_HEADER} octets")
    head, body = (entity, b"") if end is None else (entity[: end.end()], entity[end.end() :])
    return BytesHeaderParser().parsebytes(head), body


def _requests(header: Message, body: bytes) -> Iterator[tuple[Message, bytes]]:
    """The parts with a PKIMessage, those in mails inside the mail too, in their order."""
    waiting = [(header, body, 0)]
    count = 0
    while waiting:
        header, body, depth = waiting.pop()
        count += 1
        kind = header.get_content_type() if _is_short(header, "Content-Type") else "text/plain"
        inner: Sequence[bytes] = ()
        if kind == "message/rfc822":
            inner = [body]
        elif kind.startswith("multipart/"):
            inner = _cut(body, _boundary(header))
        if kind in MEDIA_TYPES:
            yield header, body
        if inner and depth >= _MAX_DEPTH:
            raise MailError(f"mail: want parts in parts at most {_MAX_DEPTH} deep")
        if count + len(waiting) + len(inner) > _MAX_PARTS:
            raise MailError(f"mail: want at most {_MAX_PARTS} parts")
        waiting += [(*_split(part), depth + 1) for part in reversed(inner)]


def _boundary(header: Message) -> str:
    try:
        return header.get_boundary() or ""
    except (ValueError, LookupError, TypeError):  # RFC 2231 offers many ways to be wrong
        return ""


def _cut(body: bytes, boundary: str) -> list[bytes]:
    """The parts between the lines with the boundary, without the line end before each; one without its end counts."""
    mark = boundary.encode("ascii", "replace")
    if not 0 < len(mark) <= 200:  # RFC 2046 allows 70
        return []
    found: list[bytes] = []
    start = None
    for line in re.finditer(rb"(?:\A|\r?\n)--" + re.escape(mark) + rb"(--)?[ \t]*\r?(?=\n|\Z)", body):
        if start is not None:
            found.append(body[start : max(start, line.start())])
        start = None if line[1] else line.end() + 1
        if start is None or len(found) > _MAX_PARTS:
            break
    if start is not None:
        found.append(body[start:])
    return found


def _decoded(header: Message, body: bytes) -> bytes:
    encoding = _field(header, "Content-Transfer-Encoding").lower() or "7bit"
    if encoding == "base64":
        try:
            return base64.b64decode(body.translate(None, b" \t\r\n"), validate=True)
        except binascii.Error as error:
            raise MailError("mail: its PKIMessage is not good Base64") from error
    if encoding == "quoted-printable":
        return binascii.a2b_qp(body)
    if encoding in ("7bit", "8bit", "binary"):
        return _without_line_end(body)
    raise MailError("mail: want the Content-Transfer-Encoding base64, have one that is not known")


def _without_line_end(body: bytes) -> bytes:
    """What is not encoded has perhaps got a line end behind it, which looks as if it were a part of it."""
    try:
        _, _, stop = der.header(body, 0, len(body))
    except der.DerError:
        return body
    return body if body[stop:].strip() else body[:stop]


# --- header fields ---------------------------------------------------------------------------------------------------


def _field(header: Message, name: str) -> str:
    """The first field of this name on one line, without control characters; empty if there is none, or it is too long
    to be meant well.
    """
    if not _is_short(header, name):
        return ""
    value = _raw(header, name).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return " ".join("".join(c if c.isprintable() else " " for c in value).split())


def _is_short(header: Message, name: str) -> bool:
    return len(_raw(header, name)) <= _MAX_FIELD


def _raw(header: Message, name: str) -> str:
    """As it came; octets that are not ASCII as surrogates."""
    folded = name.lower()
    return next((str(value) for found, value in header.raw_items() if found.lower() == folded), "")


def _is_automatic(header: Message) -> str:
    """What says that no person, and no CMP client, waits for a reply (RFC 3834 section 2); empty if nothing does."""
    submitted = _field(header, "Auto-Submitted").partition(";")[0].strip().lower()
    if "Auto-Submitted" in header and submitted != "no":
        return "Auto-Submitted"
    if _field(header, "Return-Path").replace(" ", "") == "<>":
        return "an empty Return-Path"
    if _field(header, "Precedence").lower() in ("bulk", "list", "junk"):
        return "Precedence"
    for name in ("List-Id", "List-Post", "List-Unsubscribe"):
        if name in header:
            return name
    if _is_short(header, "Content-Type") and header.get_content_type() == "multipart/report":
        return "a report on delivery"
    if _first_address(header, "Return-Path", "From").lower().startswith("mailer-daemon@"):
        return "its sender"
    return ""


def is_address(text: str) -> bool:
    """Whether this is a plain address such as ca@example.com: ASCII, no quotes, nor what looks like an option of a
    command.
    """
    return len(text) <= _LONGEST_ADDRESS and _ADDRESS.fullmatch(text) is not None


def _first_address(header: Message, *names: str) -> str:
    """The first address in the first of these fields that has one; empty if none has."""
    for name in names:
        text = re.sub(r'"(?:[^"\\]|\\.)*+"', " ", _field(header, name))
        for _ in range(_MAX_COMMENTS):  # from the innermost
            text, count = re.subn(r"\([^()]*+\)", " ", text)
            if not count:
                break
        angled = re.findall(r"<([^<>]*+)>", text)
        for found in angled or re.split(r"[,;:]", text):
            if is_address(address := found.strip()):
                return address
    return ""


def _message_ids(header: Message, name: str) -> tuple[str, ...]:
    found = _MESSAGE_ID.findall(_field(header, name))
    return tuple(found if len(found) < _MAX_REFERENCES else [found[0], *found[2 - _MAX_REFERENCES :]])


def _subject(header: Message) -> str:
    return _field(header, "Subject")[:_MAX_SUBJECT]


# --- out -------------------------------------------------------------------------------------------------------------


def reply(mail: Mail, answer: bytes, env: Env) -> bytes:
    """The mail that brings `answer` (DER) to the sender; lines end with LF, as programs that send mail want it."""
    subject = mail.subject or "request"
    domain = mail.recipient.partition("@")[2]
    fields = {
        "From": mail.recipient,
        "To": mail.sender,
        "Subject": subject if re.match(r"re:", subject, re.IGNORECASE) else f"Re: {subject}",
        "Date": formatdate(env.now()),
        "Message-ID": f"<{env.random(16).hex()}@{domain}>",
        "In-Reply-To": mail.message_id,
        "References": " ".join(mail.references),
        "Auto-Submitted": "auto-replied",
        "MIME-Version": "1.0",
        "Content-Type": f'{MEDIA_TYPES[0]}; name="{FILE_NAME}"',
        "Content-Transfer-Encoding": "base64",
        "Content-Disposition": f'attachment; filename="{FILE_NAME}"',
    }
    header = "".join(f"{_folded(name, value)}\n" for name, value in fields.items() if value)
    return header.encode("ascii") + b"\n" + base64.encodebytes(answer)


def _folded(name: str, value: str) -> str:
    """A header field in ASCII, on lines that are as short as its words allow."""
    text = value if value.isascii() else _encoded_words(value)
    lines = [f"{name}:"]
    for word in text.split():
        if len(lines[-1]) + 1 + len(word) > _WIDTH and not lines[-1].endswith(":"):
            lines.append("")
        lines[-1] += f" {word}"
    return "\n".join(lines)


def _encoded_words(text: str) -> str:
    """RFC 2047: every word whole characters of UTF-8 in Base64."""
    words: list[bytes] = [b""]
    for char in text:
        octets = char.encode("utf-8", "replace")
        if len(words[-1]) + len(octets) > _WORD:
            words.append(b"")
        words[-1] += octets
    return " ".join(f"=?utf-8?b?{base64.b64encode(word).decode()}?=" for word in words)
