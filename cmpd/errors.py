"""Every error that cmpd raises on purpose.

CmpError is what a peer gets to see: each subclass names its PKIFailureInfo bit (RFC 9810 appendix F), `text` is written
for the peer (noun, wanted, found), `detail` is for the log alone. The responder has the only ladder that turns
exceptions into answers; what is not a CmpError becomes a fixed text there.
"""

from typing import ClassVar, Literal

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


class CmpError(CmpdError):
    """A fault of a CMP message. `text` goes to the peer, `detail` to the log."""

    failure: ClassVar[FailInfo] = "systemFailure"

    def __init__(self, text: str, *, detail: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.detail = detail


class BadAlg(CmpError):
    """Unknown, unsupported or refused algorithm."""

    failure = "badAlg"


class BadMessageCheck(CmpError):
    """The protection is missing or does not verify, or the sender does not fit it."""

    failure = "badMessageCheck"


class BadRequest(CmpError):
    """A body type that is not supported, or not allowed in this state of the transaction."""

    failure = "badRequest"


class BadTime(CmpError):
    """messageTime is too far from our clock."""

    failure = "badTime"


class BadCertId(CmpError):
    """A certificate is named that we do not know."""

    failure = "badCertId"


class BadDataFormat(CmpError):
    """The octets are not the DER of what they should be."""

    failure = "badDataFormat"


class WrongAuthority(CmpError):
    """The request addresses another CA."""

    failure = "wrongAuthority"


class BadPop(CmpError):
    """Proof-of-possession is missing, wrong or of a kind that is not supported."""

    failure = "badPOP"


class CertRevoked(CmpError):
    """The certificate is revoked already."""

    failure = "certRevoked"


class CertConfirmed(CmpError):
    """The certificate was confirmed already."""

    failure = "certConfirmed"


class WrongIntegrity(CmpError):
    """A kind of protection (MAC, signature) that is not allowed here."""

    failure = "wrongIntegrity"


class BadRecipientNonce(CmpError):
    """recipNonce is missing or is not the senderNonce that we sent."""

    failure = "badRecipientNonce"


class BadSenderNonce(CmpError):
    """senderNonce is missing or shorter than 128 bits."""

    failure = "badSenderNonce"


class BadCertTemplate(CmpError):
    """The CertTemplate asks for what the profile does not grant."""

    failure = "badCertTemplate"


class SignerNotTrusted(CmpError):
    """The protection certificate has no valid path to a trust anchor."""

    failure = "signerNotTrusted"


class TransactionIdInUse(CmpError):
    """A first message with a transactionID that another transaction has."""

    failure = "transactionIdInUse"


class UnsupportedVersion(CmpError):
    """pvno is neither 2 nor 3."""

    failure = "unsupportedVersion"


class NotAuthorized(CmpError):
    """The requester is known but may not have this."""

    failure = "notAuthorized"


class SystemUnavail(CmpError):
    """Something behind the server is not there now; the same request may work later."""

    failure = "systemUnavail"


class SystemFailure(CmpError):
    """A fault of ours."""

    failure = "systemFailure"


class DuplicateCertReq(CmpError):
    """A certificate that excludes this one exists already."""

    failure = "duplicateCertReq"
