"""Full and delta CRLs (RFC 5280 section 5) from records: octets only; when and where to is publisher.py's business.

An entry is encoded once, when its change becomes known, and kept in CrlEntries; a CRL is then these octets in a row,
between a head and a tail of a few hundred octets. One mapping has what the full CRL says, another what has changed
since the last scheduled CRL, from which every delta CRL starts.

The scope of both is all end entity certificates of this CA. IssuingDistributionPoint says so, unless it is left out for
software that would find no CRL about the CA's own certificate then, or does not know this critical extension. It names
no distributionPoint: there are certificates without cRLDistributionPoints, and whoever compares the names would refuse
the CRL for them.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

from cmpd.asn1 import der
from cmpd.asn1.der import DerError
from cmpd.asn1.oids import contents
from cmpd.frozen import frozen
from cmpd.profiles.prepared import encode_extension
from cmpd.records import CRL_REASONS, CertificateState, CrlRecord, RevokedCertificate, StatusChange
from cmpd.requests import read_extensions, read_time

_OID_CRL_NUMBER: Final = contents("2.5.29.20")
_OID_REASON_CODE: Final = contents("2.5.29.21")
_OID_INVALIDITY_DATE: Final = contents("2.5.29.24")
_OID_DELTA_CRL_INDICATOR: Final = contents("2.5.29.27")
_OID_ISSUING_DISTRIBUTION_POINT: Final = contents("2.5.29.28")
_OID_FRESHEST_CRL: Final = contents("2.5.29.46")

_VERSION_2: Final = der.encode_integer(1)
_ONLY_CONTAINS_USER_CERTS: Final = b"\x81\x01\xff"  # [1] TRUE
_END_ENTITIES: Final = der.seq(_ONLY_CONTAINS_USER_CERTS)
_SCOPE: Final = encode_extension(_OID_ISSUING_DISTRIBUTION_POINT, _END_ENTITIES, critical=True)


# --- entries ---------------------------------------------------------------------------------------------------------


_REMOVE: Final = "removeFromCRL"
_REASONS: Final[dict[str | None, bytes]] = {
    **{
        name: encode_extension(_OID_REASON_CODE, der.tlv(der.ENUMERATED, bytes((number,))))
        for name, number in CRL_REASONS.items()
    },
    "unspecified": b"",  # RFC 5280 section 5.3.1: should be absent
    None: b"",
}
_REASON_ALONE: Final = {name: der.seq(extension) if extension else b"" for name, extension in _REASONS.items()}
_DAY: Final = 86_400


def encode_entry(serial: bytes, revoked_at: int, reason: str | None, invalidity_date: int | None) -> bytes:
    """One element of revokedCertificates. `reason`: a key of CRL_REASONS, removeFromCRL in delta CRLs alone.

    Any other reason is left out: one record must not keep the CRL from all others.
    """
    day, second = divmod(revoked_at, _DAY)
    start, end = _day(day)
    if invalidity_date is None:
        extensions = _REASON_ALONE.get(reason, b"")
    else:
        date = encode_extension(_OID_INVALIDITY_DATE, der.encode_generalized_time(invalidity_date))
        extensions = der.seq(_REASONS.get(reason, b""), date)
    clock = b"%02d%02d%02d" % (second // 3600, second // 60 % 60, second % 60)
    return der.tlv(der.SEQUENCE, b"".join((der.tlv(der.INTEGER, serial), start, clock, end, extensions)))


@lru_cache(maxsize=4096)
def _day(day: int) -> tuple[bytes, bytes]:
    """What stands before and after the time of day in every Time of a day since 1970: strftime for each takes long."""
    midnight = der.encode_time(day * _DAY)
    return midnight[:-7], midnight[-1:]


class CrlEntries:
    """The entries of the next full and delta CRL, by serial number; grows by pages of rows and of status changes.

    `full`: what is revoked or on hold, unless it expired before the CRL `scheduled` and has not changed since then.
    `delta`: what has changed since `scheduled`, what was resumed as removeFromCRL (RFC 5280 section 5.2.4: also if it
    was never on hold in a full CRL). `last_change`: id of the last StatusChange that is in them.
    """

    __slots__ = ("_ends", "delta", "full", "last_change", "scheduled")

    def __init__(self, scheduled: CrlRecord | None, last_change: int) -> None:
        """`last_change`: every change up to this one is in the rows that `add` brings, or to be applied again."""
        self.scheduled = scheduled
        self.last_change = last_change
        self.full: dict[bytes, bytes] = {}
        self.delta: dict[bytes, bytes] = {}
        self._ends: defaultdict[int, dict[bytes, int]] = defaultdict(dict)  # day of notAfter -> serial -> notAfter

    def add(self, rows: Sequence[RevokedCertificate]) -> None:
        """Take in what is revoked or on hold."""
        for row in rows:
            self.full[row.serial] = encode_entry(row.serial, row.revoked_at, row.reason, row.invalidity_date)
            self._ends[row.not_after // _DAY][row.serial] = row.not_after

    def apply(self, changes: Sequence[StatusChange]) -> None:
        """Take in changes, in the order of their ids."""
        for change in changes:
            serial = change.serial
            if change.state is CertificateState.CONFIRMED:  # resumed
                self.delta[serial] = encode_entry(serial, change.at, _REMOVE, None)
                self.full.pop(serial, None)
                self._ends[change.not_after // _DAY].pop(serial, None)
            else:
                octets = encode_entry(serial, change.revoked_at, change.reason, change.invalidity_date)
                self.full[serial] = self.delta[serial] = octets
                self._ends[change.not_after // _DAY][serial] = change.not_after
            self.last_change = change.id

    def rebase(self, scheduled: CrlRecord) -> None:
        """A scheduled CRL with all of this was published: what had expired before was on it and need not come again."""
        self.scheduled = scheduled
        self.delta.clear()
        for day in [one for one in self._ends if one <= scheduled.this_update // _DAY]:
            ends = self._ends[day]
            for serial in [one for one, end in ends.items() if end < scheduled.this_update]:
                del self.full[serial], ends[serial]
            if not ends:
                del self._ends[day]


# --- lists -----------------------------------------------------------------------------------------------------------


@frozen
class CrlTemplate:
    """What is the same in all CRLs of a CA: `issuer` (a Name), `algorithm` of its signatures and `aki` are DER.

    `delta_url`: where delta CRLs are (FreshestCRL), None = nowhere that could be told. `has_scope`: whether they have
    an IssuingDistributionPoint.
    """

    issuer: bytes
    algorithm: bytes
    aki: bytes
    delta_url: str | None = None
    has_scope: bool = True

    @property
    def scope(self) -> bytes | None:
        """Contents of the IssuingDistributionPoint. A delta CRL is good only with a full one of the same scope."""
        return _END_ENTITIES if self.has_scope else None

    def full(self, crl: CrlRecord, entries: Iterable[bytes]) -> bytes:
        """DER of the TBSCertList of a full CRL. FreshestCRL only if there is a delta CRL beside it."""
        return self._tbs(crl, entries, self._freshest_crl(crl))

    def delta(self, crl: CrlRecord, entries: Iterable[bytes]) -> bytes:
        """DER of the TBSCertList of a delta CRL; ValueError if `crl` has no base."""
        return self._tbs(crl, entries, _indicator(crl))

    def has_made(self, crl: CrlRecord, full: bytes, delta: bytes | None) -> bool:
        """Whether signed CRLs have all that `full` and `delta` would give them now around their entries; DerError if
        one is no CRL.
        """
        if not _is_within(full, *self._frame(crl, self._freshest_crl(crl))):
            return False
        if delta is None or crl.base is None:
            return delta is None and crl.base is None
        return _is_within(delta, *self._frame(crl, _indicator(crl)))

    def _tbs(self, crl: CrlRecord, entries: Iterable[bytes], extension: bytes) -> bytes:
        head, tail = self._frame(crl, extension)
        listed = b"".join(entries)
        length = _sequence_header(len(listed)) if listed else b""  # without entries the list MUST be absent
        size = len(head) + len(length) + len(listed) + len(tail)
        # One join of all: it lets other threads run while it copies megabytes, and copies them once.
        return b"".join((_sequence_header(size), head, length, listed, tail))

    def _frame(self, crl: CrlRecord, extension: bytes) -> tuple[bytes, bytes]:
        """What stands before and after the list in a TBSCertList."""
        number = encode_extension(_OID_CRL_NUMBER, der.encode_integer(crl.number))
        tail = der.explicit(0, der.seq(self.aki, _SCOPE if self.has_scope else b"", number, extension))
        times = der.encode_time(crl.this_update) + der.encode_time(crl.next_update)
        return _VERSION_2 + self.algorithm + self.issuer + times, tail

    def _freshest_crl(self, crl: CrlRecord) -> bytes:
        if self.delta_url is None or crl.base is None:
            return b""
        name = der.tlv(0x86, self.delta_url.encode("ascii"))  # uniformResourceIdentifier
        point = der.seq(der.explicit(0, der.explicit(0, name)))  # distributionPoint [0] { fullName [0] }
        return encode_extension(_OID_FRESHEST_CRL, der.seq(point))


def _is_within(octets: bytes, head: bytes, tail: bytes) -> bool:
    """Whether the TBSCertList of a CRL begins and ends so."""
    start, stop = der.expect(octets, 0, len(octets), der.SEQUENCE, "CertificateList")
    at, end = der.expect(octets, start, stop, der.SEQUENCE, "tbsCertList")
    return octets.startswith(head, at, end) and octets.endswith(tail, at + len(head), end)


def _indicator(crl: CrlRecord) -> bytes:
    if crl.base is None:
        raise ValueError("a delta CRL starts from a base")
    return encode_extension(_OID_DELTA_CRL_INDICATOR, der.encode_integer(crl.base), critical=True)


def _sequence_header(size: int) -> bytes:
    """Identifier and length octets of a SEQUENCE with `size` octets of contents."""
    if size < 0x80:
        return bytes((der.SEQUENCE, size))
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((der.SEQUENCE, 0x80 | len(octets))) + octets


# --- reading one's own back ------------------------------------------------------------------------------------------


@frozen
class CrlHead:
    """What says which CRL it is. `base`: BaseCRLNumber of a delta CRL, None in a full one. `scope`: contents of the
    IssuingDistributionPoint.
    """

    issuer: bytes
    this_update: int
    number: int
    base: int | None
    scope: bytes | None = None


def read_head(octets: bytes) -> CrlHead:
    """Which CRL these octets are; entries and signature are not looked at. DerError if it is none like ours."""
    start, stop = der.expect(octets, 0, len(octets), der.SEQUENCE, "CertificateList")
    at, end = der.expect(octets, start, stop, der.SEQUENCE, "tbsCertList")
    fields = der.children(octets, at, end, 7)
    if stop != len(octets) or len(fields) < 6 or fields[-1][0] != 0xA0:
        raise DerError("CertificateList: want a CRL of version 2 with extensions and nothing after it")
    _, _, issuer, this_update, *_, last = fields
    extensions = read_extensions(octets, *der.expect(octets, *last[2:], der.SEQUENCE, "crlExtensions"))
    values = {extension.oid: extension.value for extension in extensions}
    if _OID_CRL_NUMBER not in values:
        raise DerError("CertificateList: cRLNumber is missing")
    base = values.get(_OID_DELTA_CRL_INDICATOR)
    return CrlHead(
        issuer=octets[issuer[1] : issuer[3]],
        this_update=read_time(octets, this_update[1], this_update[3], "thisUpdate"),
        number=_integer(values[_OID_CRL_NUMBER]),
        base=None if base is None else _integer(base),
        scope=values.get(_OID_ISSUING_DISTRIBUTION_POINT),
    )


def _integer(value: bytes) -> int:
    start, stop = der.expect(value, 0, len(value), der.INTEGER, "CRLNumber")
    return int.from_bytes(value[start:stop], "big", signed=True)
