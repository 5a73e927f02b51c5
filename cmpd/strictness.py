"""What a door that is strict refuses, and one that is lenient does not: the one table of it.

A strict door takes what RFC 9483 allows a client to send; a lenient one what RFC 9810, its predecessor RFC 4210 and
clients in the field do besides. All other checks are the same at every door. `Rule.hold` is the only place that asks
for the mode, so what differs is what is in RULES; TOLERATED has what RFC 9483 forbids a client to send, and does not
have the server refuse, and is taken by both: because it says nothing wrong, or because OpenSSL 3.0 sends it.
"""

from typing import Final, Literal

from cmpd.errors import (
    BadCertTemplate,
    BadDataFormat,
    BadMessageCheck,
    BadPop,
    BadRecipientNonce,
    BadRequest,
    BadSenderNonce,
    CmpError,
    SignerNotTrusted,
    WrongIntegrity,
)
from cmpd.frozen import frozen


@frozen
class Rule:
    """One difference. `section` of RFC 9483; `fault`: what a strict door answers with, in `carrier`; `lenient`: what
    the other one does.
    """

    section: str
    carrier: Literal["error", "rejection"]
    fault: type[CmpError]
    lenient: str

    def hold(self, strict: bool, kept: bool, text: str) -> None:
        """Raise the fault if the door is strict and the rule is not kept. `text`: noun, wanted, found."""
        if strict and not kept:
            detail = f'at a door with mode = "lenient": {self.lenient}'  # for an operator whose clients cannot change
            raise self.fault(f"{text} (RFC 9483 section {self.section})", detail=detail)


RULES: Final[dict[str, Rule]] = {
    "the transactionID of a first message has 16 octets": Rule(
        "3.1", "error", BadDataFormat, "1 to 512 octets; if it is absent, one is made of the message and returned"
    ),
    "senderNonce is there and has 16 octets or more": Rule("3.5", "error", BadSenderNonce, "any, or none"),
    "a first message has no recipNonce": Rule("3.1", "error", BadRecipientNonce, "ignored"),
    "messageTime is a GeneralizedTime YYYYMMDDHHMMSSZ": Rule(
        "3.5",
        "error",
        BadDataFormat,
        "also a UTCTime, with fractions or an offset, or without minutes, seconds or zone",
    ),
    "all extraCerts are certificates": Rule("3.5", "error", BadDataFormat, "what cannot be read is ignored"),
    "the value of implicitConfirm is there": Rule("3.1", "error", BadDataFormat, "may be absent"),
    "implicitConfirm is in ir, cr, p10cr and kur alone": Rule("3.1", "error", BadRequest, "ignored elsewhere"),
    "confirmWaitTime is in no request": Rule("3.1", "error", BadRequest, "ignored"),
    "certProfile is in ir, cr, p10cr, kur and a genm of certReqTemplate alone": Rule(
        "3.1", "error", BadRequest, "ignored elsewhere"
    ),
    "certProfile has one name, which is not empty": Rule(
        "3.1", "error", BadDataFormat, "up to one for each request; an empty one is none"
    ),
    "implicitConfirm, confirmWaitTime and certProfile are there once": Rule(
        "3.1", "error", BadDataFormat, "the first one counts"
    ),
    "an rr is signed, or its secret was given the right to revoke": Rule(
        "4.2", "error", WrongIntegrity, "rejection notAuthorized in rp"
    ),
    "CertReqMessages has one CertReqMsg": Rule(
        "4.1.1", "rejection", BadRequest, "up to `enrolment.max_requests_per_message`"
    ),
    "certReqId is 0": Rule("4.1.1", "rejection", BadCertTemplate, "any, each once"),
    "subject is there": Rule(
        "4.1.1", "rejection", BadCertTemplate, "the registered one is taken, in a kur that of the old certificate"
    ),
    "a subject that is the NULL-DN comes with subjectAltName": Rule(
        "4.1.1", "rejection", BadCertTemplate, "the registered subject is taken, in a kur that of the old certificate"
    ),
    "extensions are at least one, if they are there": Rule("3.5", "rejection", BadDataFormat, "an empty list is none"),
    "there is no poposkInput": Rule("4.1.1", "rejection", BadPop, "RFC 4211 section 4.1 cases 1 and 2"),
    "certConf has one CertStatus": Rule(
        "4.1.1", "error", BadDataFormat, "one for each certificate; one that is missing rejects its certificate"
    ),
    "the status in a CertStatus is accepted or rejection": Rule(
        "4.1.1", "error", BadDataFormat, "grantedWithMods accepts too"
    ),
    "a CertStatus that accepts has no failInfo": Rule("4.1.1", "error", BadDataFormat, "ignored"),
    "no pkiconf comes from a client": Rule("4.1.1", "error", BadRequest, "it accepts all certificates"),
    "pollReq has one certReqId": Rule("4.4", "error", BadRequest, "several, each once"),
    "an rr has one RevDetails": Rule("4.2", "rejection", BadRequest, "up to `revocation.max_per_message`"),
    "senderKID of a MAC is the reference value, if it is there": Rule(
        "3.5", "error", BadMessageCheck, "another one is ignored, and the commonName of sender taken"
    ),
    "the parameters of PasswordBasedMac are there": Rule(
        "3.1", "error", BadDataFormat, "NULL or absent in what continues a transaction: those of its first message"
    ),
    "the protection certificate is in extraCerts": Rule(
        "3.3", "error", SignerNotTrusted, "else a registered one with this sender and senderKID"
    ),
    "a genm has at most one infoType": Rule("4.3", "error", BadRequest, "up to 16"),
    "crlStatusList has one source": Rule("4.3.4", "error", BadRequest, "up to 16"),
}
"""By what a strict door demands."""

TOLERATED: Final[dict[str, tuple[str, str]]] = {
    "sender of a MAC without the reference value as its commonName, if senderKID has it": (
        "3.1",
        "OpenSSL puts the subject that it asks for there; RFC 9810 section 5.1.1 has the NULL-DN",
    ),
    "no senderKID": ("3.1", "section 3.5 has it checked if it is present"),
    "pvno 3 where 2 would do": ("3.1", "section 3.5 allows 2 and 3"),
    "any recipient": ("3.1", "to be handled gracefully"),
    "types of generalInfo that are not in section 3.1": ("3.1", "to be handled gracefully"),
    "extraCerts in another order, with others among them, or beside a MAC": ("3.3", "receivers should handle them"),
    "extraCerts without CA certificates that this CA knows": ("3.3", "the path is found all the same"),
    "no protection, from a TLS client that is known": ("3.2", "only where `tls_authenticates` says so"),
    "cr and p10cr with a certificate of another PKI": ("4.1.2", "who may ask for what is the operator's to say"),
    "issuer, validity and other fields of the CertTemplate": (
        "4.1.1",
        "RFC 4211 section 5 has them; OpenSSL sends issuer",
    ),
    "keyEncipherment or keyAgreement for a key of a kind that can sign, if its certificate does not": (
        "4.1.1",
        "whether this key can, its holder knows; RFC 9810 section 5.2.8.4",
    ),
    "controls and regInfo": ("4.1.1", "RFC 4211 sections 6 and 7 have them"),
    "certReqId 0 in certConf and pollReq for a p10cr": ("4.1.4", "0 by section 4.1.1, -1 by the cp; both occur"),
    "error from a client": ("3.6.1", "RFC 9810 section 5.3.21; OpenSSL sends it"),
    "rr without reasonCode, or with invalidityDate": ("4.2", "OpenSSL sends none unless told to"),
    "rr protected by a revocation passphrase, or a secret that may revoke": ("4.2", "RFC 9810 appendix B"),
    "genm protected by a MAC": ("3.5", "section 4.3 has protection as in 3.2; OpenSSL does so"),
    "an empty genm": ("4.3", "RFC 9810 appendix D.5; OpenSSL sends it"),
}
"""What a client must not send by a section of RFC 9483, and why it is taken: (section, why)."""
