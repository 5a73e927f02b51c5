"""Whole transactions: request, verified answer, and certConf with its pkiconf unless implicit confirmation was granted.

A Client may run any number of transactions at once on its Connection. What takes long (deriving the key of a MAC,
RSA signatures) is done on a thread, so that the others go on. A certificate that is not what was asked for is rejected
by certConf, so that the CA can revoke it, before the error is raised.

A server that has no answer yet (status waiting) is asked by pollReq until it has, or for `poll_timeout` seconds; who
gives up before can go on later by `resume` with the octets of the request, which `Options.on_request` was told.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from cryptography import x509

from cmpd.asn1 import der
from cmpd.client import general, kem, messages, polling, responses, revocation
from cmpd.client.base import Exchange, OnWait, Patience
from cmpd.client.certificates import Certificate, build_path
from cmpd.client.credentials import Credential, Protects, SharedSecret, own_certificate
from cmpd.client.errors import ClientError, CmpClientError, KemCiphertextWanted, VerificationError
from cmpd.client.keys import AnyPrivateKey
from cmpd.client.messages import P10CR_ID, Request, Template
from cmpd.client.proofs import NO_PROOFS, Proofs
from cmpd.client.responses import Answer, CertRep, CertResponse, StatusInfo, Trust
from cmpd.client.revocation import RevDetails, RevocationResult
from cmpd.env import Env
from cmpd.message import NULL_DN, decode

Accept = Callable[[Certificate], str | None]
"""A look at an issued certificate: None accepts it, a text is the reason to reject it."""


@dataclass(frozen=True, slots=True)
class Enrolment:
    """An issued certificate. `chain`: the CA certificates above it, nearest first, as far as they are known.

    `ca_pubs`: what the server offers as trust anchors; trusting them is up to the user. `protected_by`: who vouches.
    """

    certificate: Certificate
    chain: tuple[Certificate, ...] = field(repr=False)
    ca_pubs: tuple[Certificate, ...] = field(repr=False)
    status: StatusInfo
    protected_by: str
    implicitly_confirmed: bool


@dataclass(frozen=True, slots=True)
class Options:
    """What may differ between requests. `recipient`: DER of the CA's GeneralName. `profile`: name for certProfile.

    `on_request`: told the DER of the request before it is sent, unless a KEM is in use: then nobody can go on with it.
    """

    implicit_confirm: bool = True
    profile: str | None = None
    recipient: bytes = NULL_DN
    accept: Accept | None = None
    on_request: Callable[[bytes], None] | None = None


class Client:
    """Runs transactions for one credential. All methods raise ClientError (see errors.py for its kinds).

    `poll_timeout`: how long, in seconds, the server may let one transaction wait by CMP's polling. `on_wait` is told.
    `server_kem`: the KEM certificate of the server, trusted as it is, which its answers are to be protected with. Where
    the server says that it has one, that is used, if it leads to a trust anchor (RFC 9810 appendix E, figure 5).
    """

    def __init__(
        self,
        exchange: Exchange,
        credential: Credential,
        trust: Trust | None = None,
        env: Env | None = None,
        *,
        poll_timeout: float = 600.0,
        on_wait: OnWait | None = None,
        server_kem: Certificate | None = None,
    ) -> None:
        self._exchange = exchange
        self._credential = credential
        self._trust = trust or Trust()
        self._env = env or Env()
        self._poll_timeout = poll_timeout
        self._on_wait = on_wait
        self._server_kem = server_kem
        if not isinstance(credential, SharedSecret) and not self._trust.anchors:
            raise ClientError("a trust anchor is needed: without one no signature of a server can be believed")

    async def enrol(
        self,
        body: str,
        key: AnyPrivateKey,
        subject: bytes,
        *,
        extensions: Sequence[bytes] = (),
        not_after: int | None = None,
        options: Options | None = None,
        proof: str | None = None,
    ) -> Enrolment:
        """Ask by ir or cr for a certificate for `key`. `subject`: DER of the Name; `not_after`: Unix seconds.

        `proof`: as in Template.
        """
        template = Template(key, subject, tuple(extensions), not_after=not_after, proof=proof)
        return _one(await self.enrol_all(body, [template], options))

    async def update(
        self,
        key: AnyPrivateKey,
        *,
        certificate: Certificate | None = None,
        not_after: int | None = None,
        options: Options | None = None,
        proof: str | None = None,
        agreement: Certificate | None = None,
        signature: str | None = None,
    ) -> Enrolment:
        """Ask by kur for a certificate with the same names for a new key (RFC 9483 section 4.1.3).

        `certificate`: the one to update, default the credential's own. `proof`, `agreement`, `signature`: as in
        Template; with the former two, keyUsage is asked for as such a key has it.
        """
        if certificate is None:
            certificate = own_certificate(self._credential)
            if certificate is None:
                raise ClientError("kur: want the certificate that is to be updated")
        names = _subject_alt_name(certificate)
        template = Template(key, certificate.subject, names, not_after=not_after, replaces=certificate, proof=proof)
        template = replace(template, agreement=agreement, signature=signature)
        if template.later_proof is not None or agreement is not None:
            template = replace(template, extensions=(*names, messages.encrypting_usage(key)))
        options = replace(options or Options(), recipient=der.explicit(4, certificate.issuer))
        return _one(await self.enrol_all("kur", [template], options))

    async def p10cr(self, certification_request: bytes, *, options: Options | None = None) -> Enrolment:
        """Ask for a certificate by a PKCS #10 CertificationRequest (DER)."""
        options = options or Options()
        try:
            public_key = messages.public_key_of(certification_request)
        except der.DerError as error:
            raise ClientError(f"PKCS #10: {error}") from None

        def make(protects: Protects) -> Request:
            return messages.p10_request(
                certification_request,
                protects,
                self._env,
                implicit_confirm=options.implicit_confirm,
                profile=options.profile,
                recipient=options.recipient,
            )

        return _one(await self._transact(make, {P10CR_ID: public_key}, options))

    async def enrol_all(
        self, body: str, templates: Sequence[Template], options: Options | None = None
    ) -> list[Enrolment | ClientError]:
        """Ask by ir, cr or kur for several certificates in one message (certReqId differing).

        The results are in the order of `templates`; a refused one is the error that says so. Errors of the whole
        message are raised.
        """
        options = options or Options()

        def make(protects: Protects) -> Request:
            return messages.cert_request(
                body,
                templates,
                protects,
                self._env,
                implicit_confirm=options.implicit_confirm,
                profile=options.profile,
                recipient=options.recipient,
            )

        wanted = {template.cert_req_id: template.public_key_info for template in templates}
        return await self._transact(make, wanted, options, Proofs.of(templates))

    async def resume(
        self, octets: bytes, *, options: Options | None = None, key: AnyPrivateKey | None = None
    ) -> Enrolment:
        """Send a request for one certificate again, as it was, and go on with its transaction where the server is.

        Of `options`, `implicit_confirm` is as in the request. `key`: the one to be certified, needed if it does not
        sign. ClientError if it was not made with this credential.
        """
        request, wanted = await asyncio.to_thread(polling.read_request, octets, self._credential, self._env)
        implicit = decode(octets).header.implicit_confirm
        options = replace(options or Options(), implicit_confirm=implicit)
        proofs = Proofs.of([Template(key, None, cert_req_id=number, proof="challengeResp") for number in wanted])
        if options.on_request is not None:
            options.on_request(request.der)
        patience = self._patience()
        answer = await self._ask(request, patience)
        return _one(await self._finish(request, answer, patience, wanted, options, proofs))

    async def revoke(self, details: Sequence[RevDetails]) -> list[RevocationResult]:
        """Ask by one rr that certificates be revoked, suspended or resumed; the results are in the order of `details`.

        What the server refused is told in its result; errors of the whole message are raised.
        """
        _, answer = await self._begin(lambda protects: revocation.rev_request(details, protects, self._env))
        return revocation.read_rev_rep(answer, details)

    async def set_passphrase(
        self, passphrase: bytes, *, key_id: bytes | None = None, recipient: Certificate | None = None
    ) -> str:
        """Leave a revocation passphrase with the CA (RFC 9810 appendix B); returns who vouches that it was taken.

        `key_id`: what an rr names the passphrase by, default the senderKID of this credential. `recipient`: whom it is
        encrypted to; by default it goes under the shared secret, or to the certificate that the server gives for that.
        """
        if recipient is None and not isinstance(self._credential, SharedSecret):
            recipient = await self.encryption_certificate()

        def make(protects: Protects) -> Request:
            info = general.rev_passphrase(passphrase, key_id, recipient, self._credential, self._env)
            return general.gen_message([info], protects, self._env, pvno=3)

        _, answer = await self._begin(make)
        general.check_taken(answer)
        return answer.protected_by

    async def encryption_certificate(self) -> Certificate:
        """The certificate that secrets for the server are encrypted to (caProtEncCert), with a path to an anchor."""
        asked = [general.item(general.CA_PROT_ENC_CERT)]
        _, answer = await self._begin(lambda protects: general.gen_message(asked, protects, self._env))
        octets = general.read_gen_rep(answer).get(general.CA_PROT_ENC_CERT)
        if not octets:
            raise VerificationError("answer: the server gives no encryption certificate (caProtEncCert)")
        certificate = Certificate.load(octets)
        if self._trust.anchors:
            build_path(certificate, answer.extra_certs, self._trust.anchors, self._env.now())
        return certificate

    def _patience(self) -> Patience:
        return Patience(self._poll_timeout, self._on_wait)

    async def _begin(
        self,
        make: Callable[[Protects], Request],
        patience: Patience | None = None,
        on_request: Callable[[bytes], None] | None = None,
    ) -> tuple[Request, Answer]:
        """Send the first request of a transaction; once more if the server says that it wants a KEM ciphertext."""
        while True:
            protects = await kem.prepare(self._credential, self._server_kem, self._exchange, self._env)
            request = await asyncio.to_thread(make, protects)
            if on_request is not None and protects is self._credential:
                on_request(request.der)
            try:
                return request, await self._ask(request, patience)
            except KemCiphertextWanted as wanted:
                if self._server_kem is not None:
                    raise
                self._server_kem = await asyncio.to_thread(kem.server_certificate, wanted, self._trust, self._env)

    async def _transact(
        self,
        make: Callable[[Protects], Request],
        wanted: dict[int, bytes],
        options: Options,
        proofs: Proofs = NO_PROOFS,
    ) -> list[Enrolment | ClientError]:
        patience = self._patience()
        request, answer = await self._begin(make, patience, options.on_request)
        return await self._finish(request, answer, patience, wanted, options, proofs)

    async def _finish(
        self,
        request: Request,
        answer: Answer,
        patience: Patience,
        wanted: dict[int, bytes],
        options: Options,
        proofs: Proofs,
    ) -> list[Enrolment | ClientError]:
        """Confirm; poll for what waits, and answer challenges.

        `wanted`: DER of the SubjectPublicKeyInfo by certReqId.
        """
        results: dict[int, Enrolment | ClientError] = {}
        waiting, first = list(wanted), True
        while True:
            if answer.envelope.body_name == "popdecc":
                popdecr = await asyncio.to_thread(proofs.answer, request, answer, self._env)
                answer = await self._send(popdecr, original=request)
            rep = await asyncio.to_thread(proofs.decrypt, responses.read_cert_rep(answer))
            last, settled = answer, _settled(rep, waiting, first=first)
            implicit = options.implicit_confirm and answer.envelope.header.implicit_confirm
            judged = {i: self._judge(one, wanted[i], answer, rep, options, implicit) for i, one in settled.items()}
            statuses = [_cert_status(settled[i], result) for i, result in judged.items() if settled[i].certificate]
            if statuses and not implicit:
                pvno = messages.confirm_pvno(one.certificate for one in settled.values() if one.certificate)
                last = await self._confirm(request, answer, statuses, pvno)
            results |= judged
            waiting = [i for i in waiting if i not in judged]
            if not waiting:
                return [results[i] for i in wanted]
            answer, first = await self._poll(request, last, waiting, patience), False

    def _judge(
        self, one: CertResponse, key: bytes, answer: Answer, rep: CertRep, options: Options, implicit: bool
    ) -> Enrolment | ClientError:
        if one.encrypted is not None:
            return VerificationError("answer: the certificate is encrypted, and not to the key that was asked for")
        if one.certificate is None:
            said = one.status
            return CmpClientError(said.status, said.fail_info, said.text, answer.protected_by)
        try:
            chain = responses.check_certificate(
                one.certificate, key, answer, rep.ca_pubs, self._credential, self._trust, self._env
            )
            reason = options.accept(one.certificate) if options.accept else None
            if reason is not None:
                raise VerificationError(f"the certificate was rejected: {reason}")
        except VerificationError as error:
            return error
        return Enrolment(one.certificate, chain, rep.ca_pubs, one.status, answer.protected_by, implicit)

    async def _confirm(self, request: Request, answer: Answer, statuses: Sequence[bytes], pvno: int) -> Answer:
        """Send certConf; the pkiconf."""
        header = answer.envelope.header
        confirmation = await asyncio.to_thread(
            messages.protect,
            "certConf",
            der.seq(*statuses),
            request.protector,
            self._env,
            recipient=header.sender,
            transaction_id=request.transaction_id,
            recip_nonce=header.sender_nonce,
            pvno=max(pvno, header.pvno),
        )
        return await self._ask(confirmation)

    async def _ask(self, request: Request, patience: Patience | None = None) -> Answer:
        """The answer to a request, in the end: an error with the status waiting is polled behind."""
        answer = await self._send(request)
        if answer.envelope.body_name == "error":
            patience = patience or self._patience()
            answer = await self._poll(request, answer, [polling.WHOLE_MESSAGE], patience)
        return answer

    async def _poll(self, request: Request, last: Answer, waiting: Sequence[int], patience: Patience) -> Answer:
        """Ask by pollReq until there is an answer that says more than waiting (RFC 9810 section 5.3.22)."""
        while True:
            poll = await asyncio.to_thread(polling.poll_request, request, last, waiting, self._env)
            last = await self._send(poll, original=request)
            seconds, reason = 0, ""
            if last.envelope.body_name == "pollRep":
                seconds, reason = polling.read_poll_rep(last)
            elif not _waits(last):
                return last
            await patience.wait("the server", seconds, reason)

    async def _send(self, request: Request, *, original: Request | None = None) -> Answer:
        octets = await self._exchange.request(request.der)
        if octets is None:
            raise VerificationError(f"the server has no CMP answer to {request.body}; want one")
        return await asyncio.to_thread(
            responses.verify, octets, request, self._credential, self._trust, self._env, original=original
        )


def _waits(answer: Answer) -> bool:
    """Whether an answer to a pollReq only repeats that nothing is ready."""
    body = answer.envelope.body_name
    if body in ("ip", "cp", "kup"):
        return all(one.status.status == "waiting" for one in responses.read_cert_rep(answer).responses)
    return body == "error"


def _settled(rep: CertRep, waiting: Sequence[int], *, first: bool) -> dict[int, CertResponse]:
    """The responses that are no longer waiting, by certReqId; what a later answer leaves out still waits."""
    by_id = {one.cert_req_id: one for one in rep.responses}
    fits = sorted(by_id) == sorted(waiting) if first else by_id.keys() <= set(waiting)
    if not fits or len(rep.responses) != len(by_id):
        have = ", ".join(str(one.cert_req_id) for one in rep.responses) or "none"
        raise VerificationError(f"answer: want certReqId {', '.join(map(str, waiting))}, have {have}")
    return {i: by_id[i] for i in waiting if i in by_id and by_id[i].status.status != "waiting"}


def _one(results: Sequence[Enrolment | ClientError]) -> Enrolment:
    result = results[0]
    if isinstance(result, ClientError):
        raise result
    return result


def _cert_status(one: CertResponse, result: Enrolment | ClientError) -> bytes:
    assert one.certificate is not None  # noqa: S101 -- for the type checker; the caller has looked
    reject = str(result) if isinstance(result, ClientError) else None
    return messages.cert_status(one.certificate, one.cert_req_id, reject)


def _subject_alt_name(certificate: Certificate) -> tuple[bytes, ...]:
    """The subjectAltName Extension of a certificate as it is there, () if it has none."""
    try:
        found = certificate.parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    return (messages.extension("2.5.29.17", found.value.public_bytes(), critical=found.critical),)
