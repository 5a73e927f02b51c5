"""The kinds of values in cmpd.toml, as types that pydantic checks: durations, paths, addresses, names from tables.

Each reader raises ValueError with what was wanted and what was found; config_text.py puts the path of the key before.
"""

import difflib
import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

from cmpd.asn1 import names
from cmpd.asn1.signing import SIGNING

MINUTE: Final = 60
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR

_UNITS: Final = {"s": 1, "m": MINUTE, "h": HOUR, "d": DAY, "w": 7 * DAY}

ATTRIBUTES: Final = tuple(names.ATTRIBUTE_TYPES)
"""What profile.NAME.subject_required and .subject_allowed may name: as in the text of a distinguished name."""

KEY_USAGES: Final = (
    "digitalSignature",
    "nonRepudiation",
    "keyEncipherment",
    "dataEncipherment",
    "keyAgreement",
    "encipherOnly",
    "decipherOnly",
)
"""The bits of keyUsage that an end entity may have (RFC 5280 section 4.2.1.3)."""

CA_KEY_USAGES: Final = ("keyCertSign", "cRLSign")
"""Those that only the certificate of a CA has here."""

EXTENDED_KEY_USAGES: Final = {
    "serverAuth": "1.3.6.1.5.5.7.3.1",
    "clientAuth": "1.3.6.1.5.5.7.3.2",
    "codeSigning": "1.3.6.1.5.5.7.3.3",
    "emailProtection": "1.3.6.1.5.5.7.3.4",
    "timeStamping": "1.3.6.1.5.5.7.3.8",
    "OCSPSigning": "1.3.6.1.5.5.7.3.9",
    "ipsecIKE": "1.3.6.1.5.5.7.3.17",
    "cmcCA": "1.3.6.1.5.5.7.3.27",
    "cmcRA": "1.3.6.1.5.5.7.3.28",
    "cmKGA": "1.3.6.1.5.5.7.3.32",
}
"""Names of key purposes and their OIDs (RFC 5280 section 4.2.1.12, RFC 4945, 6402, 9480); others are given dotted."""

KeyType = Literal[
    "rsa",
    "p256",
    "p384",
    "p521",
    "brainpoolP256r1",
    "brainpoolP384r1",
    "brainpoolP512r1",
    "ed25519",
    "ed448",
    "mldsa44",
    "mldsa65",
    "mldsa87",
    "x25519",
    "x448",
    "mlkem768",
    "mlkem1024",
]
SanType = Literal["dns", "ip", "email", "uri", "dn"]


class Table(BaseModel):
    """A table of cmpd.toml: what is not a key of it is a mistake; the text under a key is for the operator."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def quoted(value: object) -> str:
    """A value as TOML writes it, on one line whatever is in it."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"


def shown(value: object) -> str:
    """A value for a report: as TOML writes it, cut to 60 characters."""
    text = quoted(value)
    return text if len(text) <= 60 else text[:57] + "..."


def nearest(value: object, known: Collection[str]) -> str:
    """What to append to the report of a wrong word: `; nearest is "x"`, or the words there are if none is near."""
    folded = {word.lower().replace("-", "_"): word for word in known}
    found = difflib.get_close_matches(str(value).lower().replace("-", "_"), folded, 1)
    return f"; the nearest is {shown(folded[found[0]])}" if found else f"; known are {', '.join(known)}"


class PlacedError(ValueError):
    """A mistake that a check of several tables finds; its text begins with the path of the key."""


def within(part: Collection[str], whole: Collection[str], noun: str) -> None:
    """ValueError unless all of `part`, the value of the key `noun`, is in `whole`."""
    missing = [shown(value) for value in part if value not in whole]
    if missing:
        raise ValueError(f"lacks {', '.join(missing)}, which {noun} has")


def seconds(text: object) -> int:
    """The seconds of a duration such as "30s", "5m", "24h", "365d" or "2w"; ValueError otherwise."""
    found = re.fullmatch(r"([0-9]{1,9})([smhdw])", text) if isinstance(text, str) else None
    if found is None:
        raise ValueError(f'want a duration such as "30s", "5m", "24h" or "365d", have {shown(text)}')
    return int(found[1]) * _UNITS[found[2]]


def duration_text(value: int) -> str:
    """The shortest duration that `seconds` reads as `value`."""
    unit = next(unit for unit in "dhms" if value % _UNITS[unit] == 0 and (value or unit == "s"))
    return f"{value // _UNITS[unit]}{unit}"


def _known_signature(name: str) -> str:
    if name not in SIGNING:
        raise ValueError(f"want the name of a signature algorithm, have {shown(name)}{nearest(name, SIGNING)}")
    return name


SignatureName = Annotated[str, AfterValidator(_known_signature)]
"""A signature algorithm that a private key may be told to use."""


class Span:
    """Reads a duration between two bounds; with `off` also the word "off", as None."""

    def __init__(self, low: int, high: int, *, off: bool = False) -> None:
        self.low, self.high, self.off = low, high, off

    def __call__(self, value: object, info: ValidationInfo) -> int | None:
        """The seconds, or None for "off"; code, which has no context, may give them as a number."""
        if self.off and value in ("off", None):
            return None
        found = value if type(value) is int and info.context is None else seconds(value)
        if not self.low <= found <= self.high:
            low, high = duration_text(self.low), duration_text(self.high)
            raise ValueError(f"want {low} to {high}, have {shown(value)}")
        return found


def _path(value: object, info: ValidationInfo) -> Path:
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f"want a path, have {shown(value)}")
    base: Path = (info.context or {}).get("base", Path())
    return base / value


def _distinct(values: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
    for value in values or ():
        if values and values.count(value) > 1:
            raise ValueError(f"{shown(value)} is there twice")
    return values


def _known(table: Collection[str], noun: str) -> AfterValidator:
    def check(value: str) -> str:
        if value not in table:
            raise ValueError(f"{shown(value)} is no {noun} known here{nearest(value, table)}")
        return value

    return AfterValidator(check)


def _purpose(value: str) -> str:
    known = {oid: name for name, oid in EXTENDED_KEY_USAGES.items()}
    if re.fullmatch(r"([01]\.[1-3]?[0-9]|2\.(0|[1-9][0-9]{0,8}))(\.(0|[1-9][0-9]{0,38})){1,30}", value):
        return known.get(value, value)
    if value not in EXTENDED_KEY_USAGES:
        raise ValueError(
            f"{shown(value)} is neither a key purpose known here nor a dotted OID"
            f"{nearest(value, tuple(EXTENDED_KEY_USAGES))}"
        )
    return value


def listen_address(text: str) -> tuple[str, int] | None:
    """(host, port) of "HOST:PORT" or "[IPv6]:PORT", None for "systemd" and "systemd:NAME"; ValueError otherwise."""
    if text == "systemd" or socket_name(text):
        return None
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%]+[\w.]*)\]|([^\s:\[\]/]+)):([0-9]{1,5})", text)
    if found is None or int(found[3]) > 65535:
        raise ValueError(f'want "HOST:PORT", "[IPv6 address]:PORT", "systemd" or "systemd:NAME", have {shown(text)}')
    return found[1] or found[2], int(found[3])


def socket_name(text: str) -> str:
    """NAME of "systemd:NAME", empty for all other values of `listen`."""
    found = re.fullmatch(r"systemd:(?![0-9]+$)([A-Za-z0-9_.@-]{1,255})", text)
    return found[1] if found else ""


def publish_address(text: str) -> str:
    """A value of publish.listen: "HOST:PORT", or without a host (":8080", "8080") one on 127.0.0.1; ValueError."""
    address = f"127.0.0.1:{text.removeprefix(':')}" if re.fullmatch(r":?[0-9]{1,5}", text) else text
    if listen_address(address) is None:
        raise ValueError(f'want "HOST:PORT" or "PORT", have {shown(text)}: this door is opened by the server itself')
    return address


def _listen(value: str) -> str:
    listen_address(value)
    return value


def _base_url(value: str) -> str:
    """A URL to which paths are appended: http (RFC 5280 section 8: what is published is signed, https would loop)."""
    if not re.fullmatch(r"https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(:[0-9]{1,5})?(/[A-Za-z0-9._~-]+)*/?", value):
        raise ValueError(f'want a URL such as "http://pki.example.com", have {shown(value)}')
    return value.rstrip("/")


Listen = Annotated[str, AfterValidator(_listen)]
BaseUrl = Annotated[str, AfterValidator(_base_url)]
File = Annotated[Path, BeforeValidator(_path)]
Flag = Annotated[bool, Field(strict=True)]
KeyUsage = Annotated[str, _known((*KEY_USAGES, *CA_KEY_USAGES), "keyUsage")]
Attribute = Annotated[str, _known(ATTRIBUTES, "attribute")]
Purpose = Annotated[str, AfterValidator(_purpose)]


def _not_empty(values: Collection[Any]) -> Collection[Any]:
    if not values:
        raise ValueError("want at least one, have none")
    return values


NOT_EMPTY: Final = AfterValidator(_not_empty)
DISTINCT: Final = AfterValidator(_distinct)


def span(low: int, high: int, *, off: bool = False) -> BeforeValidator:
    """The rule for a duration of `low` to `high` seconds."""
    return BeforeValidator(Span(low, high, off=off))
