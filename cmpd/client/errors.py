"""What can go wrong for a client, one class per thing that its user does about it.

TransportError: nothing authenticated came (the server cannot be reached, hung up, or spoke below CMP).
VerificationError: a CMP answer came that must not be believed. CmpClientError: the server said no.
"""

from cmpd.errors import CmpdError


class ClientError(CmpdError):
    """Root of the client's errors; str() is one line for the user."""


class TransportError(ClientError):
    """No CMP answer. Nothing in it is authenticated (neither tcp-messages nor HTTP carry protection).

    `type`: the error type of an errorMsgRep (0x0101 ...), None if none came. `data`, `text`: its Data and its text.
    """

    def __init__(self, message: str, *, type: int | None = None, data: bytes = b"", text: str = "") -> None:
        super().__init__(message)
        self.type = type
        self.data = data
        self.text = text


class ConnectError(TransportError):
    """No connection could be made; the request was not sent."""


class ConnectionLost(TransportError):
    """The connection ended inside an answer, or before it and more often than a request is repeated."""


class AnswerTimeout(TransportError):
    """The connection stood, but no answer came in time. Whether the server acted on the request is not known."""


class StillWaiting(AnswerTimeout):
    """The server said, by whatever kind of polling, that it has no answer yet, for longer than wanted."""


class ProtocolError(TransportError):
    """The server sent what no tcp-message may be, or a type that a client cannot take; the connection was ended.

    Or what is no HTTP, or an answer that is too long.
    """


class VerificationError(ClientError):
    """An answer that must not be believed: wrong transactionID, nonce, protection, signer, certificate ..."""


class CmpClientError(ClientError):
    """The server refused (`error` body, or a CertResponse without certificate).

    `status`: PKIStatus as spelt in RFC 9810 section 5.2.3. `fail_info`: names of the bits of PKIFailureInfo that are
    set. `status_string`: the server's text. `protected_by`: who vouches for it ("shared secret", or the subject of the
    certificate), None if the answer was not protected and anybody on the way may have made it.
    """

    def __init__(self, status: str, fail_info: tuple[str, ...], status_string: str, protected_by: str | None) -> None:
        said = " ".join(part for part in (status, f"({', '.join(fail_info)})" if fail_info else "") if part)
        vouched = f"protected by {protected_by}" if protected_by else "not authenticated: anybody may have sent it"
        super().__init__(f"the server answered {said}{': ' + status_string if status_string else ''} [{vouched}]")
        self.status = status
        self.fail_info = fail_info
        self.status_string = status_string
        self.protected_by = protected_by


class KemCiphertextWanted(CmpClientError):
    """The server protects its answers with a KEM key, and wants a ciphertext for it (RFC 9810 appendix E, figure 5).

    Anybody may have sent that; `certificates` (DER): extraCerts, with the KEM certificate first.
    """

    def __init__(self, refusal: CmpClientError, certificates: tuple[bytes, ...]) -> None:
        super().__init__(refusal.status, refusal.fail_info, refusal.status_string, None)
        self.certificates = certificates
