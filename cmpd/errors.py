"""Every error that cmpd raises on purpose.

CmpError is what a peer gets to see: each subclass names its PKIFailureInfo bit (RFC 9810 appendix F), `text` is written
for the peer (noun, wanted, found), `detail` is for the log alone; `cited` is the section of the RFCs that goes with it.
The responder has the only ladder that turns exceptions into answers; what is not a CmpError becomes a fixed text there.
"""

import re
from typing import ClassVar, Final, Literal

FailInfo = Literal[
    "badAlg",
    "badMessageCheck",
    "badRequest",
    "badTime",
    "badCertId",
    "badDataFormat",
    "wrongAuthority",
    "incorrectData",
    "missingTimeStamp",
    "badPOP",
    "certRevoked",
    "certConfirmed",
    "wrongIntegrity",
    "badRecipientNonce",
    "timeNotAvailable",
    "unacceptedPolicy",
    "unacceptedExtension",
    "addInfoNotAvailable",
    "badSenderNonce",
    "badCertTemplate",
    "signerNotTrusted",
    "transactionIdInUse",
    "unsupportedVersion",
    "notAuthorized",
    "systemUnavail",
    "systemFailure",
    "duplicateCertReq",
]


class CmpdError(Exception):
    """Root of the tree; never raised itself."""


class ConfigError(CmpdError):
    """The configuration or a command's arguments cannot be used; str() is one line or more for the operator."""


class StoreError(CmpdError):
    """The database did not do what was asked; the peer is told systemUnavail and nothing more."""


class StoreConflict(StoreError):
    """A change found its precondition gone (`reason` says which); nothing of its unit was written."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class StaleRead(StoreError):
    """The decision behind a write rested on records that another process has changed since; decide again."""


_CITED: Final = re.compile(r"RFC \d{4} (section|appendix) |X\.\d+")

SECTIONS: Final[dict[str, str]] = {
    "body": "RFC 9483 section 3.5",
    "transaction": "RFC 9483 section 3.5",
    "header": "RFC 9810 section 5.1.1",
    "generalInfo": "RFC 9483 section 3.1",
    "certProfile": "RFC 9810 section 5.1.1.4",
    "messageTime": "RFC 9483 section 3.5",
    "senderKID": "RFC 9483 section 3.5",
    "sender": "RFC 9483 section 3.5",
    "PKIMessage": "RFC 9810 section 5.1",
    "protection": "RFC 9483 section 3.5",
    "extraCerts": "RFC 9483 section 3.3",
    "PasswordBasedMac": "RFC 9810 section 5.1.3.1",
    "PBMParameter": "RFC 9810 section 5.1.3.1",
    "PBMAC1": "RFC 8018 section 7.1",
    "PBKDF2": "RFC 8018 section 5.2",
    "KEM certificate": "RFC 9810 section 5.1.3.4",
    "KemCiphertextInfo": "RFC 9810 section 5.1.3.4",
    "KemBMParameter": "RFC 9810 section 5.1.3.4",
    "kemContext": "RFC 9810 section 5.1.3.4",
    "RSASSA-PSS": "RFC 4055 section 3.1",
    "CertReqMessages": "RFC 4211 section 3",
    "CertReqMsg": "RFC 4211 section 3",
    "certReqId": "RFC 9483 section 4.1.1",
    "CertTemplate": "RFC 4211 section 5",
    "validity": "RFC 4211 section 5",
    "subject": "RFC 9483 section 4.1.1",
    "popo": "RFC 4211 section 4",
    "poposkInput": "RFC 4211 section 4.1",
    "popdecr": "RFC 9810 section 5.2.8.3.3",
    "controls": "RFC 4211 section 6",
    "regToken": "RFC 4211 section 6.1",
    "authenticator": "RFC 4211 section 6.2",
    "oldCertId": "RFC 9483 section 4.1.3",
    "kur": "RFC 9483 section 4.1.3",
    "p10cr": "RFC 9483 section 4.1.4",
    "CertificationRequest": "RFC 2986 section 4",
    "extension": "RFC 5280 section 4.2",
    "keyUsage": "RFC 5280 section 4.2.1.3",
    "subjectAltName": "RFC 5280 section 4.2.1.6",
    "basicConstraints": "RFC 5280 section 4.2.1.9",
    "extKeyUsage": "RFC 5280 section 4.2.1.12",
    "certificatePolicies": "RFC 5280 section 4.2.1.4",
    "CertConfirmContent": "RFC 9810 section 5.3.18",
    "CertStatus": "RFC 9810 section 5.3.18",
    "certConf": "RFC 9483 section 4.1.1",
    "PKIConfirmContent": "RFC 9810 section 5.3.17",
    "pkiconf": "RFC 9810 section 5.3.17",
    "error": "RFC 9810 section 5.3.21",
    "ErrorMsgContent": "RFC 9810 section 5.3.21",
    "pollReq": "RFC 9483 section 4.4",
    "PollReqContent": "RFC 9810 section 5.3.22",
    "GenMsgContent": "RFC 9810 section 5.3.19",
    "genm": "RFC 9810 section 5.3.19",
    "caProtEncCert": "RFC 9810 section 5.3.19.1",
    "currentCRL": "RFC 9810 section 5.3.19.6",
    "crlStatusList": "RFC 9810 section 5.3.19.17",
    "revPassphrase": "RFC 9810 appendix B",
    "EncryptedKey": "RFC 9810 section 5.2.2",
    "RevReqContent": "RFC 9810 section 5.3.9",
    "RevDetails": "RFC 9810 section 5.3.9",
    "certDetails": "RFC 9483 section 4.2",
    "crlEntryDetails": "RFC 9483 section 4.2",
    "certificateIssuer": "RFC 5280 section 5.3.3",
    "reasonCode": "RFC 5280 section 5.3.1",
    "invalidityDate": "RFC 5280 section 5.3.2",
}
"""Where the RFCs speak of what an error's text begins with: its noun, or the first word or the first part of it."""


class CmpError(CmpdError):
    """A fault of a CMP message. `text` goes to the peer, `detail` to the log.

    `text`: noun, colon, what was wanted and what was found. `section`: where the RFCs speak of such faults, for texts
    that neither cite one themselves nor begin with one of SECTIONS.
    """

    failure: ClassVar[FailInfo] = "systemFailure"
    section: ClassVar[str] = "RFC 9483 section 3.6.4"

    def __init__(self, text: str, *, detail: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.detail = detail

    @property
    def cited(self) -> str:
        """The section that statusString ends with, "" if the text has one."""
        if _CITED.search(self.text):
            return ""
        noun = self.text.partition(":")[0]
        names = (noun, noun.partition(".")[0], noun.partition(" ")[0], noun.partition(" ")[0].partition(".")[0])
        return next((SECTIONS[name] for name in names if name in SECTIONS), self.section)


class BadAlg(CmpError):
    """Unknown, unsupported or refused algorithm."""

    failure = "badAlg"
    section = "RFC 9483 section 3.5"


class BadMessageCheck(CmpError):
    """The protection is missing or does not verify, or the sender does not fit it."""

    failure = "badMessageCheck"
    section = "RFC 9483 section 3.5"


class BadRequest(CmpError):
    """A body type that is not supported, or not allowed in this state of the transaction."""

    failure = "badRequest"
    section = "RFC 9483 section 3.5"


class BadTime(CmpError):
    """messageTime is too far from our clock."""

    failure = "badTime"
    section = "RFC 9483 section 3.5"


class BadCertId(CmpError):
    """A certificate is named that we do not know."""

    failure = "badCertId"


class BadDataFormat(CmpError):
    """The octets are not the DER of what they should be."""

    failure = "badDataFormat"
    section = "RFC 9483 section 3.5"


class WrongAuthority(CmpError):
    """The request addresses another CA."""

    failure = "wrongAuthority"
    section = "RFC 9810 appendix F"


class BadPop(CmpError):
    """Proof-of-possession is missing, wrong or of a kind that is not supported."""

    failure = "badPOP"
    section = "RFC 9483 section 5.1.1"


class CertRevoked(CmpError):
    """The certificate is revoked already."""

    failure = "certRevoked"
    section = "RFC 9483 section 5.1.3"


class CertConfirmed(CmpError):
    """The certificate was confirmed already."""

    failure = "certConfirmed"
    section = "RFC 9810 appendix F"


class WrongIntegrity(CmpError):
    """A kind of protection (MAC, signature) that is not allowed here."""

    failure = "wrongIntegrity"
    section = "RFC 9483 section 3.5"


class BadRecipientNonce(CmpError):
    """recipNonce is missing or is not the senderNonce that we sent."""

    failure = "badRecipientNonce"
    section = "RFC 9483 section 3.5"


class BadSenderNonce(CmpError):
    """senderNonce is missing or shorter than 128 bits."""

    failure = "badSenderNonce"
    section = "RFC 9483 section 3.5"


class BadCertTemplate(CmpError):
    """The CertTemplate asks for what the profile does not grant."""

    failure = "badCertTemplate"
    section = "RFC 9483 section 5.1.1"


class UnacceptedPolicy(CmpError):
    """The CertTemplate insists on certificate policies that the profile does not have."""

    failure = "unacceptedPolicy"
    section = "RFC 9810 appendix F"


class SignerNotTrusted(CmpError):
    """The protection certificate has no valid path to a trust anchor."""

    failure = "signerNotTrusted"
    section = "RFC 9483 section 3.5"


class TransactionIdInUse(CmpError):
    """A first message with a transactionID that another transaction has."""

    failure = "transactionIdInUse"
    section = "RFC 9483 section 5.1"


class UnsupportedVersion(CmpError):
    """pvno is neither 2 nor 3."""

    failure = "unsupportedVersion"
    section = "RFC 9810 section 7"


class NotAuthorized(CmpError):
    """The requester is known but may not have this."""

    failure = "notAuthorized"
    section = "RFC 9483 section 3.5"


class SystemUnavail(CmpError):
    """Something behind the server is not there now; the same request may work later."""

    failure = "systemUnavail"


class SystemFailure(CmpError):
    """A fault of ours."""

    failure = "systemFailure"


class DuplicateCertReq(CmpError):
    """A certificate that excludes this one exists already."""

    failure = "duplicateCertReq"
    section = "RFC 9810 appendix F"
