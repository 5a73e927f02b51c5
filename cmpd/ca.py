"""The CA: a Grant becomes an Intent (recorded), then a certificate (recorded).

Certificates are put together from fragments: what is constant for the CA is encoded once, a profile brings the
extensions, the request brings subject and key as received. The octets that are recorded in the Intent are the octets
that are signed.
"""

from dataclasses import replace
from hashlib import sha256
from typing import Final

from cmpd.asn1 import der
from cmpd.env import Env
from cmpd.errors import BadCertTemplate, SystemFailure, SystemUnavail
from cmpd.name_constraints import issuing_limits
from cmpd.outline import outline
from cmpd.profiles import Grant, Issuer
from cmpd.profiles.extensions import OID_AKI, OID_SKI, key_identifier
from cmpd.profiles.prepared import encode_extension
from cmpd.records import Intent
from cmpd.requests import read_extensions
from cmpd.signing.base import SigningKey

_VERSION_3 = b"\xa0\x03\x02\x01\x02"
_SERIAL_MARK: Final = 1 << 46
"""Keeps the first octet of every serial number between 40 and 7F: positive, and always 16 octets."""


class SigningError(SystemFailure):
    """The key did not sign; the log has the reason."""


class CertificateAuthority:
    """One CA certificate with its key. `chain`: the certificates above it, its issuer first, the root perhaps last."""

    def __init__(
        self, certificate: bytes, chain: tuple[bytes, ...], key: SigningKey, env: Env, *, locations: bytes = b""
    ) -> None:
        """`certificate` and `chain` are DER. `locations`: DER of the Extensions of every certificate that say where its
        status is published (profiles/extensions.py). Raises DerError.
        """
        own = outline(certificate)
        self.certificate = certificate
        self.chain = chain
        self.name = own.subject
        # What goes into extraCerts for an issued certificate (RFC 9483 section 3.3): this CA's certificate and those
        # above it, the self-signed root only where it is the issuer itself.
        self.issuing_chain = (certificate, *(upper for upper in chain if not _is_self_issued(upper)))
        self._key = key
        self._env = env
        self._not_before = own.not_before
        self._not_after = own.not_after
        self._issuer = key.algorithm + own.subject  # what stands between serialNumber and validity
        ski = own.value(OID_SKI)
        identifier = key_identifier(own.public_key)
        if ski is not None:
            start, stop = der.expect(ski, 0, len(ski), der.OCTET_STRING, "subjectKeyIdentifier")
            identifier = ski[start:stop]
        self.public_key = own.public_key
        self.algorithm = key.algorithm
        self.aki = encode_extension(OID_AKI, der.seq(der.tlv(0x80, identifier)))
        self._locations = locations
        self._limits = limits = issuing_limits((certificate, *chain))
        added = self.aki + locations
        below = None if limits is None or limits.path_length is None else max(0, limits.path_length - 1)
        self.issuer = Issuer(read_extensions(added, 0, len(added)), below)

    @property
    def trust_anchor(self) -> bytes | None:
        """The root (DER), None if it is not known: an intermediate is nothing to be trusted by itself."""
        return next((known for known in (*self.chain, self.certificate) if _is_self_issued(known)), None)

    def next_serial(self, now: float) -> bytes:
        """A serial number, contents octets: 48 bits of mark and time in ms, then 80 random bits.

        The time prefix puts new rows at the right edge of every index; 64 random bits would do (RFC 5280 wants unique).
        """
        return (_SERIAL_MARK | int(now * 1000) & (_SERIAL_MARK - 1)).to_bytes(6, "big") + self._env.random(10)

    def bound(self, grant: Grant) -> Grant:
        """The grant with a validity that is within the CA's own, and a note if the requester chose more.

        BadCertTemplate if nothing is left of it, or if name constraints or path lengths exclude the certificate;
        SystemUnavail if the CA's certificate is not valid now.
        """
        if not self._not_before <= self._env.now() <= self._not_after:
            raise SystemUnavail("server: the CA's own certificate is not valid at this time; ask its operator")
        if self._limits is not None or grant.is_ca:
            self._check_limits(grant)
        not_before = max(grant.not_before, self._not_before)
        not_after = min(grant.not_after, self._not_after)
        if (not_before, not_after) == (grant.not_before, grant.not_after):
            return grant
        if not_before >= not_after:
            raise BadCertTemplate("validity: want a beginning before the CA's certificate ends, have a later one")
        if not_after - not_before < grant.min_validity:
            raise BadCertTemplate(
                "validity: want what the profile wants at least, the CA's certificate ends before that"
            )
        note = ("validity within that of the CA's certificate",) if grant.validity_asked else ()
        return replace(grant, not_before=not_before, not_after=not_after, changes=(*grant.changes, *note))

    def _check_limits(self, grant: Grant) -> None:
        """What the CA's certificate and those above it say of others below (RFC 5280 sections 4.2.1.9, 4.2.1.10)."""
        limits = self._limits
        if limits is None:
            return
        if grant.is_ca and limits.path_length == 0:
            raise BadCertTemplate(
                "basicConstraints: the CA's own certificate allows no CA below it (pathLenConstraint)"
            )
        fault = limits.fault(grant.subject, grant.san)
        if fault:
            raise BadCertTemplate(f"CertTemplate: for a certificate under this CA the {fault}")

    def prepare(
        self, grant: Grant, *, transaction_id: bytes, cert_req_id: int, entity_id: int, replaces: bytes | None
    ) -> Intent:
        """The Intent of a certificate; nothing is signed. Raises what `bound` raises."""
        grant = self.bound(grant)
        now = self._env.now()
        serial = grant.serial or self.next_serial(now)
        locations = self._locations if grant.locations is None else grant.locations
        tbs = der.seq(
            _VERSION_3,
            der.tlv(der.INTEGER, serial),
            self._issuer,
            der.seq(der.encode_time(grant.not_before), der.encode_time(grant.not_after)),
            grant.subject,
            grant.public_key,
            der.explicit(3, der.seq(self.aki, grant.extensions, locations)),
        )
        return Intent(
            serial=serial,
            transaction_id=transaction_id,
            cert_req_id=cert_req_id,
            entity_id=entity_id,
            profile=grant.profile,
            subject=grant.subject,
            subject_text=grant.subject_text,
            key_id=sha256(grant.public_key).digest(),
            not_before=grant.not_before,
            not_after=grant.not_after,
            tbs=tbs,
            created_at=int(now),
            replaces=replaces,
        )

    async def sign(self, intent: Intent) -> bytes:
        """The certificate (DER) of an Intent that is durable. SigningError if the key fails."""
        return await self.sign_tbs(intent.tbs)

    async def sign_tbs(self, tbs: bytes) -> bytes:
        """SEQUENCE { tbs, signatureAlgorithm, signature }: a certificate or a CRL (DER); `tbs` names the algorithm too.

        Only for what is recorded as intended already. SigningError if the key fails.
        """
        try:
            signature = await self._key.sign(tbs)
        except SystemUnavail:  # too many wait for it
            raise
        except Exception as error:  # whatever a key's home (file, HSM) raises
            text = "the CA could not sign; try again later in a new transaction"
            raise SigningError(text, detail=f"{type(error).__name__}: {error}") from error
        return der.seq(tbs, self.algorithm, der.encode_bits(signature))


def _is_self_issued(certificate: bytes) -> bool:
    seen = outline(certificate)
    return seen.subject == seen.issuer
