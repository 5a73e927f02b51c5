"""What is published, held against the records: CRLs over HTTP and as files, and OCSP answers.

The records are read from the database with SQL, the CRLs with cryptography.
"""

import sqlite3
import time
from contextlib import closing
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from cmpd.client.certificates import Certificate
from cmpd.client.responses import Trust
from tests.end_to_end.asking import fetch, ocsp_status
from tests.end_to_end.forked import Server, Site

SECONDS = 20
"""How long a CRL is waited for; on a quiet machine it is there after milliseconds, or a second if nobody is woken."""


def query(site: Site, sql: str, *values: object) -> list[tuple[Any, ...]]:
    """Look into the database without changing anything in it."""
    with closing(sqlite3.connect(f"{site.database.as_uri()}?mode=ro", uri=True)) as database:
        return database.execute(sql, values).fetchall()


Entry = tuple[int, str | None]  # revocationDate, and reasonCode as spelt in RFC 5280


def entries(crl: x509.CertificateRevocationList) -> dict[int, Entry]:
    """What it says, by serial number."""
    found = {}
    for one in crl:
        reasons = [ext.value.reason.value for ext in one.extensions if isinstance(ext.value, x509.CRLReason)]
        found[one.serial_number] = (int(one.revocation_date_utc.timestamp()), reasons[0] if reasons else None)
    assert len(found) == len(crl)
    return found


def number(crl: x509.CertificateRevocationList) -> int:
    return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


def base(crl: x509.CertificateRevocationList) -> int | None:
    found = [ext.value.crl_number for ext in crl.extensions if isinstance(ext.value, x509.DeltaCRLIndicator)]
    return found[0] if found else None


def whole(octets: bytes, trust: Trust) -> x509.CertificateRevocationList:
    """A CRL that can be read, with the CA's signature."""
    crl = x509.load_der_x509_crl(octets)
    key = trust.anchors[0].parsed.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert crl.is_signature_valid(key)
    return crl


def check_files(site: Site, trust: Trust) -> tuple[int, int | None]:
    """Both files are whole and go together, whenever the process ended; their numbers."""
    full = whole((site.directory / "crl" / "ca.crl").read_bytes(), trust)
    delta = whole((site.directory / "crl" / "delta.crl").read_bytes(), trust)
    start = base(delta)
    assert start is not None
    assert start <= number(full) <= number(delta)
    return number(full), number(delta)


def check_numbers(site: Site, trust: Trust, *published: bytes) -> None:
    """No number was ever given to two full CRLs or to two delta CRLs, and all that was signed under was recorded."""
    with site.crls.open("a") as file:
        file.writelines(f"{octets.hex()}\n" for octets in published)
    known: dict[tuple[int, bool], bytes] = {}
    for octets in signed(site):
        crl = whole(octets, trust)
        assert known.setdefault((number(crl), base(crl) is not None), octets) == octets
    taken = {number for (number,) in query(site, "SELECT number FROM crl")}
    assert {number for number, _ in known} <= taken


def signed(site: Site) -> list[bytes]:
    """Every CRL that a server that was to die has signed, and every one that was seen."""
    lines = site.crls.read_text().splitlines() if site.crls.exists() else []
    return [bytes.fromhex(line) for line in dict.fromkeys(lines)]


def highest_signed(site: Site, trust: Trust) -> int:
    """The highest number that ever stood in a signed CRL, whether anybody got it or not."""
    return max((number(whole(octets, trust)) for octets in signed(site)), default=0)


def check_published(site: Site, server: Server, trust: Trust, *certificates: Certificate, at_once: bool = False) -> int:
    """OCSP says at once what the records say of these certificates, and the CRL of all; returns the CRL's number.

    `at_once`: the CRL does so already.
    """
    rows = {
        int.from_bytes(serial, "big"): (state, revoked_at, reason)
        for serial, state, revoked_at, reason in query(
            site, "SELECT serial, state, revoked_at, reason FROM certificate"
        )
    }
    named = {"confirmed": "good", "issued": "good", "suspended": "on hold", "revoked": "revoked"}
    for certificate in certificates:
        state, revoked_at, reason = rows[certificate.serial]
        for get in (False, True):
            said = ocsp_status(server.publish, certificate, trust, get=get)
            assert (said.state, said.since, said.reason) == (named[state], revoked_at, reason)

    deadline = time.monotonic() + (0 if at_once else SECONDS)
    while True:
        octets = fetch(f"{server.publish}/ca.crl")
        full = whole(octets, trust)
        [(last_change, wanted)] = query(
            site,
            "SELECT last_change, (SELECT coalesce(max(id), 0) FROM status_change) FROM crl WHERE number = ?",
            number(full),
        )
        if last_change == wanted:
            break
        assert time.monotonic() < deadline, f"CRL {number(full)} has changes up to {last_change} of {wanted}"
        time.sleep(0.01)
    revoked = {
        serial: (at, reason) for serial, (state, at, reason) in rows.items() if state in ("suspended", "revoked")
    }
    assert entries(full) == revoked
    delta = check_delta(site, server, full, trust, revoked)
    check_numbers(site, trust, octets, *([] if delta is None else [delta]))
    files = {path.name: path.read_bytes() for path in (site.directory / "crl").iterdir()}
    assert files == {"ca.crl": octets} | ({} if delta is None else {"delta.crl": delta})
    return number(full)


def check_delta(
    site: Site, server: Server, full: x509.CertificateRevocationList, trust: Trust, revoked: dict[int, Entry]
) -> bytes | None:
    """The delta CRL beside a full one: all that has changed since its base, with what became of it."""
    [(start,)] = query(site, "SELECT base FROM crl WHERE number = ?", number(full))
    if start is None:
        return None
    octets = fetch(f"{server.publish}/delta.crl")
    delta = whole(octets, trust)
    assert (number(delta), base(delta)) == (number(full), start)
    changed = query(
        site, "SELECT serial FROM status_change WHERE id > (SELECT last_change FROM crl WHERE number = ?)", start
    )
    found = entries(delta)
    assert set(found) == {int.from_bytes(serial, "big") for (serial,) in changed}
    for serial, entry in found.items():
        assert entry == revoked[serial] if serial in revoked else entry[1] == "removeFromCRL"
    return octets
