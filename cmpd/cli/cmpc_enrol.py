"""cmpc ir, cr, kur, p10cr: a certificate is asked for, and written with what belongs to it.

A new private key is on disk before the request is sent; nothing is ever overwritten that could be a key. A request that
has to wait for the CA's operator is kept beside the certificate's file, and the same command goes on with it.
"""

import argparse
import json
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cmpd.asn1 import names
from cmpd.cli.cmpc_session import Session, UsageError, check_signature_algorithm, complain, read_secret
from cmpd.client import keys, messages, polling
from cmpd.client.agreeing import agree_mac
from cmpd.client.certificates import Certificate, load_certificates
from cmpd.client.credentials import Credential, SharedSecret, own_certificate
from cmpd.client.errors import ClientError, CmpClientError, StillWaiting
from cmpd.client.flows import Client, Enrolment, Options
from cmpd.env import Env

DAY: Final = 86400
_AGREE_MAC: Final = "agreeMAC"

Job = Callable[[Client], Awaitable[Enrolment]]


@dataclass(frozen=True, slots=True)
class Paths:
    """Where what goes; None is not written."""

    key: Path | None
    certificate: Path | None
    chain: Path | None
    ca_certs: Path | None

    @property
    def pending(self) -> Path | None:
        """Where a request is kept that waits."""
        return None if self.certificate is None else self.certificate.with_name(self.certificate.name + ".pending")


class Pending:
    """The request that was sent, for its file at `path` if the server lets it wait."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.octets = path.read_bytes() if path is not None and path.exists() else b""
        self.kept = bool(self.octets)

    def remember(self, octets: bytes) -> None:
        """Take the request that is about to be sent."""
        self.octets = octets

    def keep(self) -> str | None:
        """Write the file if it is not there; what a user is to know then, once. With a KEM there is nothing to keep."""
        if self.kept or self.path is None or not self.octets:
            return None
        self.kept = True
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(self.octets)
        except OSError as error:
            return f"the request cannot be kept in {self.path}: {error.strerror or error}"
        return f"the request is kept in {self.path}, the same command goes on with it"

    def forget(self) -> None:
        """Remove the file: the server has decided."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


_UNDECIDED: Final = frozenset(
    {
        "systemUnavail",
        "systemFailure",
        "badTime",
        "badRecipientNonce",
        "badMessageCheck",
        "signerNotTrusted",
        "wrongIntegrity",
    }
)
"""Refusals of a message, not of what was asked for: the request that waits can be gone on with."""


def enrol(args: argparse.Namespace, env: Env) -> int:
    """Run `cmpc ir`, `cmpc cr`, `cmpc kur` or `cmpc p10cr`."""
    _check_standard_input(args)
    session = Session.of(args)
    if args.command == "kur" and own_certificate(session.credential) is None:
        raise UsageError("kur needs --cert and --key: the certificate that is to be updated")
    paths = _paths(args)
    _check_writable(paths)
    pending = Pending(paths.pending)
    result = _run(session, _job(args, session.credential, paths, pending, env), pending)
    _write(result, paths)
    pending.forget()
    _report(args, result, paths, bool(session.trust.anchors))
    return 0


def _run(session: Session, job: Job, pending: Pending) -> Enrolment:
    """Run it, and keep the request if it waits when this ends."""
    try:
        return session.run(job, pending.keep)
    except StillWaiting:
        if (note := pending.keep()) is not None:
            complain(note)
        raise
    except CmpClientError as error:
        if error.protected_by is not None and not _UNDECIDED & set(error.fail_info):
            pending.forget()
        elif pending.kept:
            complain(f"the request is still in {pending.path}; remove that file to begin anew")
        raise
    except KeyboardInterrupt:
        if not pending.kept:
            raise
        text = f"stopped by the user; the request waits at the CA; the same command goes on with it ({pending.path})"
        raise KeyboardInterrupt(text) from None


def _check_standard_input(args: argparse.Namespace) -> None:
    options = ("secret_file", "reg_token_file", "authenticator_file")
    if sum(getattr(args, option, None) == "-" for option in options) > 1:
        raise UsageError("only one of --secret-file, --reg-token-file and --authenticator-file can be standard input")


def _control(args: argparse.Namespace, name: str) -> str | None:
    """The value of a control (UTF8String), None if the option for its file is not given."""
    file: str | None = getattr(args, f"{name}_file", None)
    if file is None:
        return None
    option = f"--{name.replace('_', '-')}-file"
    try:
        return read_secret(option, file).decode()
    except UnicodeDecodeError:
        raise UsageError(f"{option} {file}: want text in UTF-8") from None


# --- keys and files ---------------------------------------------------------------------------------------------------


def _paths(args: argparse.Namespace) -> Paths:
    """Names for what will be written. With --out alone the key goes beside the certificate, with the suffix .key."""
    out: Path | None = args.out
    directory: Path | None = args.out_dir
    if directory is None and out is None:
        directory = Path()
    key: Path | None = args.new_key
    if key is None and getattr(args, "csr", None) is None:
        key = directory / "key.pem" if directory is not None else None if out is None else out.with_suffix(".key")
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
    return Paths(
        key,
        out or (directory / "cert.pem" if directory is not None else None),
        args.chain_out or (directory / "chain.pem" if directory is not None else None),
        args.cacerts_out,
    )


def _new_key(args: argparse.Namespace, paths: Paths) -> keys.AnyPrivateKey:
    """The key to be certified, written to its file if it is made now. Only --new-key takes one that is there."""
    path = paths.key
    if path is None:
        raise UsageError("want --new-key FILE or --out-dir DIR for the private key")
    if args.new_key is not None and path.exists():
        return keys.load_any_key(path)
    key = (keys.KEY_TYPES | keys.ENCRYPTION_KEY_TYPES)[args.key_type]()
    try:
        keys.save_key(path, key)
    except FileExistsError:
        raise UsageError(
            f"{path} exists and is not overwritten; give --new-key {path} to use this key, or another --out-dir"
        ) from None
    print(f"cmpc: wrote a new private key to {path}", file=sys.stderr)
    return key


def _subject(args: argparse.Namespace, credential: Credential) -> bytes:
    if args.subject is not None:
        try:
            return names.encode_name(args.subject)
        except ValueError as error:
            raise UsageError(f"--subject: {error}") from None
    if not isinstance(credential, SharedSecret) and credential.certificate is not None:
        return credential.certificate.subject
    if args.san:
        return messages.EMPTY_NAME
    raise UsageError("want --subject DN, e.g. --subject CN=device1")


def _csr(path: Path) -> bytes:
    octets = path.read_bytes()
    load = x509.load_pem_x509_csr if b"-----BEGIN" in octets else x509.load_der_x509_csr
    try:
        request = load(octets)
    except ValueError:
        raise UsageError(f"--csr {path}: want a PKCS #10 request in PEM or DER") from None
    return request.public_bytes(Encoding.DER)


# --- the run ----------------------------------------------------------------------------------------------------------


def _job(args: argparse.Namespace, credential: Credential, paths: Paths, pending: Pending, env: Env) -> Job:
    """What to run on the client. A new key is on disk when this returns."""
    options = Options(implicit_confirm=not args.explicit_confirm, profile=args.profile, on_request=pending.remember)
    if pending.kept:
        octets = pending.octets
        _check_pending(octets, credential, _public_key(args, paths), args.command, pending, env)
        complain(f"going on with the request in {pending.path} (remove that file to ask for something else)")
        asked = None if paths.key is None else keys.load_any_key(paths.key)
        return lambda client: client.resume(octets, options=options, key=asked)
    if args.command == "p10cr" and args.csr is not None:
        if args.popo_algorithm is not None:
            raise UsageError("--popo-algorithm: the request in --csr is signed already")
        request = _csr(args.csr)
        return lambda client: client.p10cr(request, options=options)
    days = getattr(args, "days", None)
    not_after = None if days is None else int(env.now()) + days * DAY
    subject, extensions = b"", []
    if args.command != "kur":
        subject = _subject(args, credential)
        if args.san:
            extensions = [messages.subject_alt_name(args.san, critical=subject == messages.EMPTY_NAME)]
    reg_token, authenticator = _control(args, "reg_token"), _control(args, "authenticator")
    agreement = _agreement(args)
    key = _new_key(args, paths)  # last: whatever is wrong with the arguments is known by now
    popo = _popo(args, key, agreement)
    if args.command == "kur":
        return lambda client: client.update(
            key,
            not_after=not_after,
            options=options,
            proof=popo.later,
            agreement=agreement,
            signature=popo.signature,
        )
    if args.command == "p10cr":
        if isinstance(key, keys.EncryptionPrivateKey):
            raise UsageError("p10cr: want a key that can sign; cmpc ir asks for others")
        template = messages.Template(key, subject, tuple(extensions), signature=popo.signature)
        request = messages.certification_request(template)
        return lambda client: client.p10cr(request, options=options)
    if popo.later is not None or agreement is not None:
        extensions.append(messages.encrypting_usage(key))
    template = messages.Template(
        key,
        subject,
        tuple(extensions),
        not_after=not_after,
        reg_token=reg_token,
        authenticator=authenticator,
        proof=popo.later,
        agreement=agreement,
        signature=popo.signature,
    )
    return lambda client: _enrol(client, args.command, template, options)


@dataclass(frozen=True, slots=True)
class _Popo:
    """How possession is proven. `later`: after the request, None = at once; `signature`: its algorithm, None = the
    usual one, or there is none.
    """

    later: str | None
    signature: str | None


def _popo(args: argparse.Namespace, key: keys.AnyPrivateKey, agreement: Certificate | None) -> _Popo:
    """What the arguments say, if the key can do it; `agreement`: of _agreement."""
    later = _proof(args, key)
    if agreement is not None:
        try:
            agree_mac(key, agreement, b"")
        except ClientError as error:
            raise UsageError(f"--popo {error}") from None
    return _Popo(later, _popo_algorithm(args, key, later))


def _agreement(args: argparse.Namespace) -> Certificate | None:
    """The certificate for --popo agreeMAC, None without it."""
    file: Path | None = getattr(args, "popo_dh", None)
    if getattr(args, "popo", None) != _AGREE_MAC:
        if file is not None:
            raise UsageError(f"--popo-dh: want it with --popo {_AGREE_MAC} alone")
        return None
    if file is None and args.dh is None:
        raise UsageError(f"--popo {_AGREE_MAC} needs --popo-dh FILE: the server's agreement certificate")
    return load_certificates(file or args.dh)[0]


def _proof(args: argparse.Namespace, key: keys.AnyPrivateKey) -> str | None:
    """What proves possession of the key after the request, None = something does at once."""
    asked: str | None = getattr(args, "popo", None)
    if asked == _AGREE_MAC:
        return None
    if isinstance(key, keys.EncryptionPrivateKey):
        if asked == "signature":
            raise UsageError(f"--popo signature: the key cannot sign; want encrCert, challengeResp or {_AGREE_MAC}")
        return asked or "encrCert"
    if asked in messages.PROOFS and not messages.encrypts(key):
        raise UsageError(f"--popo {asked}: the key does nothing but sign")
    return None if asked == "signature" else asked


def _popo_algorithm(args: argparse.Namespace, key: keys.AnyPrivateKey, proof: str | None) -> str | None:
    """What the key signs its proof with, None = the usual algorithm, or it does not sign."""
    asked: str | None = args.popo_algorithm
    if asked is None:
        return None
    if proof is not None or isinstance(key, keys.EncryptionPrivateKey) or getattr(args, "popo", None) == _AGREE_MAC:
        raise UsageError("--popo-algorithm: want it for a key that signs its proof")
    check_signature_algorithm("--popo-algorithm", key, asked)
    return asked


def _public_key(args: argparse.Namespace, paths: Paths) -> tuple[Path | None, bytes]:
    """The file that says which key is to be certified, and the DER of its SubjectPublicKeyInfo."""
    if args.command == "p10cr" and args.csr is not None:
        return args.csr, messages.public_key_of(_csr(args.csr))
    return paths.key, b"" if paths.key is None else keys.public_key_info(keys.load_any_key(paths.key))


def _check_pending(
    octets: bytes, credential: Credential, key: tuple[Path | None, bytes], command: str, pending: Pending, env: Env
) -> None:
    """UsageError unless the request of before was made by this command with this credential, and for this key."""
    anew = "remove it to begin anew"
    try:
        request, wanted = polling.read_request(octets, credential, env)
    except ClientError as error:
        raise UsageError(f"{pending.path}: no request to go on with: {error}; {anew}") from None
    if request.body != command:
        raise UsageError(f"{pending.path}: the request that waits is one of cmpc {request.body}; {anew}")
    if key[1] not in wanted.values():
        raise UsageError(f"{pending.path}: the request is not for the key in {key[0]}; {anew}")


async def _enrol(client: Client, body: str, template: messages.Template, options: Options) -> Enrolment:
    [result] = await client.enrol_all(body, [template], options)
    if isinstance(result, ClientError):
        raise result
    return result


def _check_writable(paths: Paths) -> None:
    """Say before anything is asked for that a result could not be written, or would replace a private key."""
    for path in (paths.certificate, paths.chain, paths.ca_certs):
        if path is None:
            continue
        if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
            raise UsageError(f"{path}: the directory is not there or not writable")
        if path == paths.key or (path.is_file() and b"PRIVATE KEY-----" in path.read_bytes()):
            raise UsageError(f"{path} is a private key and is not overwritten; choose another name")


def _write(result: Enrolment, paths: Paths) -> None:
    above = [one for one in result.chain if one.subject != one.issuer]
    for path, certificates in (
        (paths.certificate, [result.certificate]),
        (paths.chain, above),
        (paths.ca_certs, result.ca_pubs),
    ):
        if path is not None:
            temporary = path.with_name(path.name + ".new")
            temporary.write_bytes(b"".join(one.pem for one in certificates))
            temporary.replace(path)


def _report(args: argparse.Namespace, result: Enrolment, paths: Paths, anchored: bool) -> None:
    """Say what was issued, where it is, and what it was verified with."""
    leaf = result.certificate.parsed
    lines: dict[str, str | None] = {
        "status": result.status.status,
        "status_string": result.status.text or None,
        "subject": result.certificate.subject_text,
        "issuer": leaf.issuer.rfc4514_string(),
        "serial": f"{result.certificate.serial:x}",
        "not_before": leaf.not_valid_before_utc.isoformat(),
        "not_after": leaf.not_valid_after_utc.isoformat(),
        "confirmed": "implicitly" if result.implicitly_confirmed else "by certConf",
        "protected_by": result.protected_by,
        "key_file": str(paths.key) if paths.key else None,
        "certificate_file": str(paths.certificate) if paths.certificate else None,
        "chain_file": str(paths.chain) if paths.chain else None,
        "cacerts_file": str(paths.ca_certs) if paths.ca_certs else None,
    }
    if args.json:
        print(json.dumps(lines | {"path_verified": anchored}))
        return
    for name, value in lines.items():
        if value is not None:
            print(f"{name.replace('_', ' '):16} {value}")
    if not anchored:
        print(
            "note             without --trusted the shared secret alone vouches for the certificate;"
            " --cacerts-out FILE keeps the server's trust anchors (trust them only if you trust the secret)"
        )
