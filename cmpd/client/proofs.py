"""Proof-of-possession after the request, by the private key of what is asked for (RFC 9810 section 5.2.8.3).

A certificate that comes encrypted is decrypted, so that its certHash can be sent. Of a popdecc each challenge is; that
the CA asks, and nobody who passes its challenges on, is seen by the sender's name in there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Final

from cmpd.asn1 import der
from cmpd.asn1.algorithms import HASHES, read_named
from cmpd.asn1.names import read_name
from cmpd.client.certificates import Certificate
from cmpd.client.errors import ClientError, VerificationError
from cmpd.client.messages import Request, Template, protect
from cmpd.client.responses import Answer, CertRep, CertResponse, believing
from cmpd.cms import CannotDecrypt, DecryptionPrivateKey, decrypt_rsa, open_with_private_key, read_encrypted_key
from cmpd.env import Env

_MAX_CERTIFICATE: Final = 64 * 1024  # octets, encrypted
_MAX_RAND: Final = 16 * 1024
_MAX_CHALLENGES: Final = 100
_SHA256: Final = "sha256"


@dataclass(frozen=True, slots=True)
class Proofs:
    """The private keys that are asked for, by certReqId. `challenged`: of these the ones with challengeResp."""

    keys: Mapping[int, DecryptionPrivateKey] = field(repr=False)
    challenged: tuple[int, ...] = ()

    @classmethod
    def of(cls, templates: Sequence[Template]) -> "Proofs":
        """Those of a request."""
        keys = {one.cert_req_id: one.key for one in templates if isinstance(one.key, DecryptionPrivateKey)}
        return cls(keys, tuple(one.cert_req_id for one in templates if one.later_proof == "challengeResp"))

    def decrypt(self, rep: CertRep) -> CertRep:
        """A CertRepMessage with the certificates that came encrypted, where they can be decrypted."""
        return replace(rep, responses=tuple(map(self._decrypt, rep.responses)))

    def _decrypt(self, one: CertResponse) -> CertResponse:
        key = self.keys.get(one.cert_req_id)
        if one.encrypted is None or key is None:
            return one
        with believing():
            found = read_encrypted_key(one.encrypted, _MAX_CERTIFICATE, end_entity=True)
            try:
                certificate = Certificate.load(open_with_private_key(found, key))
            except (CannotDecrypt, VerificationError):
                return one
        return replace(one, certificate=certificate, encrypted=None)

    def answer(self, request: Request, popdecc: Answer, env: Env) -> Request:
        """The popdecr to a popdecc about `request`. VerificationError if it must not be answered."""
        header, body = popdecc.envelope.header, popdecc.envelope.body
        with believing():
            start, stop = der.expect(body, 0, len(body), der.SEQUENCE, "POPODecKeyChallContent")
            items = der.children(body, start, stop, _MAX_CHALLENGES)
            if not items or len(items) > len(self.challenged):
                raise VerificationError(f"popdecc: want {len(self.challenged)} Challenges, have {len(items)}")
            # A request that the server rejects has none; whose it is then, the witness tells.
            integers, owf, ids = [], "", list(self.challenged)
            for tag, _, first, after in items:
                if tag != der.SEQUENCE:
                    raise der.DerError(f"Challenge: want tag 30, have {tag:02X}")
                integer, owf = self._open_one(body[first:after], owf, ids, header.sender)
                integers.append(integer)
        return protect(
            "popdecr",
            der.seq(*integers),
            request.protector,
            env,
            recipient=header.sender,
            transaction_id=request.transaction_id,
            recip_nonce=header.sender_nonce,
            pvno=header.pvno,
        )

    def _open_one(self, data: bytes, owf: str, ids: list[int], sender: bytes) -> tuple[bytes, str]:
        """(DER of the INTEGER of a Challenge, its owf); the certReqIds up to the one that it is for leave `ids`."""
        pos, end = 0, len(data)
        if data[:1] == b"\x30":
            owf, pos = read_named(data, 0, end, HASHES, "owf")
        start, stop = der.expect(data, pos, end, der.OCTET_STRING, "witness")
        witness = data[start:stop]
        start, pos = der.expect(data, stop, end, der.OCTET_STRING, "challenge")
        raw, enveloped = data[start:pos], b""
        if pos != end:
            first, last = der.expect(data, pos, end, 0xA0, "encryptedRand")
            inner, after = der.expect(data, first, last, der.SEQUENCE, "encryptedRand")
            if last != end or after != last:
                raise der.DerError("Challenge: octets after encryptedRand")
            enveloped = der.tlv(0xA0, data[inner:after])
        if owf != _SHA256:
            raise VerificationError(f"popdecc: want owf SHA-256, have {owf or 'none'}")
        while ids:
            rand = self._decrypt_rand(ids.pop(0), raw, enveloped)
            if rand is not None and sha256(rand[0]).digest() == witness:
                _check_sender(rand[1], sender)
                return rand[0], owf
        raise VerificationError("popdecc: a challenge cannot be decrypted, or is not what its witness says")

    def _decrypt_rand(self, cert_req_id: int, raw: bytes, enveloped: bytes) -> tuple[bytes, bytes] | None:
        """(DER of int, DER of sender) of the Rand for this key; None if it is not for it."""
        key = self.keys.get(cert_req_id)
        if key is None:
            raise ClientError("popdecc: want the private key that was asked for, to answer it")
        try:
            if enveloped:
                rand = open_with_private_key(read_encrypted_key(enveloped, _MAX_RAND, end_entity=True), key)
            else:
                rand = decrypt_rsa(key, raw)
            start, stop = der.expect(rand, 0, len(rand), der.SEQUENCE, "Rand")
            last = der.expect(rand, start, stop, der.INTEGER, "int")[1]
            complete = stop == len(rand) and der.header(rand, last, stop)[2] == stop
        except (CannotDecrypt, der.DerError):  # RSA gives other octets for what is not encrypted to it
            return None
        return (rand[start:last], rand[last:stop]) if complete else None


NO_PROOFS: Final = Proofs({})


def _check_sender(said: bytes, sender: bytes) -> None:
    """The name in Rand is the header's, or what fits of it (pvno 2): at least the commonName."""
    if said == sender:
        return
    if said[:1] == sender[:1] == b"\xa4":
        own, whole = (read_name(name[der.header(name, 0, len(name))[1] :]) for name in (said, sender))
        if own and all(rdn in whole for rdn in own):
            return
    raise VerificationError("popdecc: its challenge was made by somebody else than its sender")
