"""The composition root: configuration -> objects -> serve, and an orderly end.

The only file that knows all concrete classes. Three phases: `assemble` makes the objects, `Daemon.start` opens the
doors, `Daemon.stop` drains them. In between one task ticks once a second: it notices what operators' commands have
changed in the database, ends waits for confirmation, writes late answers, and tells the service manager that the loop
lives.
"""

import asyncio
import gc
import logging
import signal
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import uvloop

from cmpd import __version__, logs, notify
from cmpd.asn1 import der
from cmpd.asn1.names import read_name
from cmpd.ca import CertificateAuthority
from cmpd.config import Config
from cmpd.credentials import CredentialDirectory
from cmpd.doors import Doors
from cmpd.env import Env
from cmpd.errors import StoreError
from cmpd.handlers.base import Service
from cmpd.handlers.confirm import lapse
from cmpd.name_constraints import MatchForm, match_form
from cmpd.ocsp_signer import record_service_certificate
from cmpd.outline import outline
from cmpd.profiles import Profile
from cmpd.profiles.extensions import OID_KEY_USAGE, OID_SKI
from cmpd.protection.base import ProtectionPolicy, Protector
from cmpd.publishing import Publishing, locations
from cmpd.responder import Responder, Settings
from cmpd.signing.agreement import StaticAgreementKey, load_agreement_key
from cmpd.signing.base import SigningKey
from cmpd.signing.file import load_key, read_certificates
from cmpd.signing.kem import MlKemKey, load_kem_key
from cmpd.signing.recipient import RsaRecipient, load_recipient
from cmpd.store import open_store
from cmpd.store.base import Store
from cmpd.store.sealing import Sealer
from cmpd.threads import Derivations, Offloader

_log = logging.getLogger("cmpd")
T = TypeVar("T")

DRAIN_SECONDS: Final = 30.0
"""How long requests in flight may take after SIGTERM."""

_TICK: Final = 1.0
_TEND_EVERY: Final = 60
_PURGE_LIMIT: Final = 10_000
_MAX_SIGNATURES: Final = 4096


@dataclass(slots=True)
class Daemon:
    """The objects of a running server."""

    store: Store
    service: Service
    responder: Responder
    doors: Doors
    publishing: Publishing
    offloaders: tuple[Offloader | Derivations, ...]

    async def start(self, passed: dict[str, list[socket.socket]]) -> None:
        """Open every door, the one for what is published first. `passed`: sockets from the service manager by name."""
        await self.publishing.start()
        await self.doors.start(passed)

    @property
    def addresses(self) -> str:
        """What the line about readiness says of where it listens: "listen" is raw TCP without TLS."""
        names = {"tcp": "listen"}
        found = [f"{names.get(scheme, scheme)}={','.join(places)}" for scheme, places in self.doors.addresses.items()]
        return " ".join([*found, *([f"publish={self.publishing.url}"] if self.publishing.url else [])])

    def log_statistics(self) -> None:
        """One line of figures since the start (SIGUSR1)."""
        connections = self.doors.connections + self.publishing.connections
        figures = " ".join(f"{name}={value}" for name, value in self.store.statistics().items())
        _log.info("statistics connections=%d %s", connections, figures)

    async def tick(self) -> None:
        """What has to happen every second."""
        try:
            await self.store.refresh()
            await self.doors.tick()
            await self.responder.retry_unfinished()
            await lapse(self.service)
        except StoreError as error:
            _log.error("store: %s", error)

    async def tend(self) -> None:
        """What has to happen every minute: forget transactions that ended longer ago than the retention, renew."""
        try:
            await self.publishing.tick()
            before = int(self.service.env.now()) - self.service.enrolment.retention
            if count := await self.store.purge(before, _PURGE_LIMIT):
                _log.info("purged transactions=%d", count)
        except StoreError as error:
            _log.error("store: %s", error)

    async def stop(self) -> None:
        """Drain the doors, then let go of everything."""
        await asyncio.gather(self.doors.drain(DRAIN_SECONDS), self.publishing.stop(DRAIN_SECONDS))
        await self.responder.retry_unfinished()
        await self.store.close()
        for offloader in self.offloaders:
            offloader.close()


# --- assembling ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Keys:
    """What is read with the passphrase. `own`: purpose and DER of the certificates that the CA has made for itself."""

    passphrase: bytes
    ca: CertificateAuthority
    signer: Protector
    sealer: Sealer
    recipient: RsaRecipient | None
    agreement: StaticAgreementKey | None
    kem: MlKemKey | None
    own: tuple[tuple[str, bytes], ...]


async def assemble(config: Config, env: Env) -> Daemon:
    """Every object of a server that does not listen yet. Raises ConfigError or StoreError, and leaves nothing open."""
    signing = Offloader("sign", threads=2, waiting=_MAX_SIGNATURES)
    deriving = Derivations()
    keys = _load_keys(config, env, signing)
    store = await open_store(config.store.path, serving=True)
    try:
        return await _assemble_on(store, keys, config, env, (signing, deriving))
    except BaseException:
        await store.close()
        signing.close()
        deriving.close()
        raise


def _load_keys(config: Config, env: Env, offload: Offloader) -> _Keys:
    passphrase = config.ca.passphrase()
    (certificate, *_) = read_certificates(config.ca.certificate)
    chain = read_certificates(config.ca.chain) if config.ca.chain is not None else ()
    ca_key = load_key(config.ca.key, passphrase, certificate, offload=offload, signature=config.ca.signature)
    ca = CertificateAuthority(certificate, chain, ca_key, env, locations=locations(config))
    (cmp_certificate, *_) = read_certificates(config.cmp.certificate)
    cmp_key = load_key(config.cmp.key, passphrase, cmp_certificate, offload=offload, signature=config.cmp.signature)
    signer = make_signer(cmp_key, cmp_certificate, ca)
    sealer = Sealer.load(config.store.secrets_key, passphrase, env)
    recipient = _pair(
        config.cmp.encryption_certificate,
        config.cmp.encryption_key,
        lambda path, one: load_recipient(path, passphrase, one, env, offload=offload),
    )
    agreement = _pair(
        config.cmp.agreement_certificate,
        config.cmp.agreement_key,
        lambda path, one: load_agreement_key(path, passphrase, one, offload=offload),
    )
    kem = _pair(config.cmp.kem_certificate, config.cmp.kem_key, lambda path, one: load_kem_key(path, passphrase, one))
    if not may_sign_crls(certificate):
        _log.warning("ca.certificate: its keyUsage has no cRLSign: nobody may accept the CRLs that it signs")
    optional = {"encryption": recipient, "agreement": agreement, "kem": kem}
    own = (("cmp", cmp_certificate), *((name, key.certificate) for name, key in optional.items() if key is not None))
    return _Keys(passphrase, ca, signer, sealer, recipient, agreement, kem, own)


async def _assemble_on(
    store: Store, keys: _Keys, config: Config, env: Env, threads: tuple[Offloader, Derivations]
) -> Daemon:
    abandoned = await store.recover(int(env.now()))
    if abandoned:
        _log.warning("recovered from an unclean end: abandoned certificates=%d", abandoned)
    for purpose, one in keys.own:
        await record_service_certificate(store, one, purpose)
    ca = keys.ca
    await _record_root(store, ca.certificate)
    publishing = Publishing(config, ca, store, env, keys.passphrase)
    service = Service(
        env=env,
        store=store,
        ca=ca,
        profiles={name: Profile(name, rules) for name, rules in config.profile.items()},
        enrolment=config.enrolment,
        reserved_names=reserved_names((ca.certificate, *ca.chain, *(one for _, one in keys.own))),
        revocation=config.revocation,
        status_changed=publishing.publisher.wake,
        crls=publishing.publisher,
        sealer=keys.sealer,
        recipient=keys.recipient,
        agreement=keys.agreement,
        kem=keys.kem,
        kem_only=config.cmp.protection == "kem",
        protection=_policy(config),
        offload=threads[1],
    )
    credentials = CredentialDirectory(store, keys.sealer, (ca.certificate,), env)
    settings = Settings(config.protection.message_time_window, asyncio.Event)
    responder = Responder(service, credentials, keys.signer, settings)

    doors = Doors(config, responder, store, env, keys.passphrase, (ca.certificate, *ca.chain))
    return Daemon(store, service, responder, doors, publishing, threads)


def _pair(certificate: Path | None, key: Path | None, load: Callable[[Path, bytes], T]) -> T | None:
    """What `load` makes of the path of a key and its certificate (DER); None if they are not configured."""
    if certificate is None or key is None:
        return None
    (first, *_) = read_certificates(certificate)
    return load(key, first)


def reserved_names(certificates: Iterable[bytes]) -> frozenset[MatchForm]:
    """The subjects of these certificates (DER), for Service.reserved_names."""
    return frozenset(match_form(read_name(outline(certificate).subject)) for certificate in certificates)


def may_sign_crls(certificate: bytes) -> bool:
    """Whether the keyUsage of a certificate (DER), if there is one, has cRLSign (RFC 5280 section 6.3.3 (f))."""
    value = outline(certificate).value(OID_KEY_USAGE)
    return value is None or (len(value) > 3 and bool(value[3] & 0x02))  # behind tag, length and unused bits: bit 6


async def _record_root(store: Store, certificate: bytes) -> None:
    """Have OCSP say of a root that it is good; of a subordinate CA the CA above it has to tell."""
    own = outline(certificate)
    if own.subject != own.issuer:
        return
    try:
        await record_service_certificate(store, certificate, "ca")
    except StoreError as error:  # made elsewhere, it may have the number of another one
        _log.warning("ca.certificate: cannot be recorded, OCSP will not know it: %s", error)


def make_signer(key: SigningKey, certificate: bytes, ca: CertificateAuthority) -> Protector:
    """What signs CMP answers: the CMP certificate and, in extraCerts, the certificates above it but no root."""
    own = outline(certificate)
    ski = own.value(OID_SKI)
    uppers = (ca.certificate, *ca.chain)
    chain = tuple(upper for upper in uppers if outline(upper).subject != outline(upper).issuer)
    return Protector(
        algorithm=key.algorithm,
        sender=der.explicit(4, own.subject),
        sender_kid=ski[2:] if ski is not None else None,
        extra_certs=(certificate, *chain),
        compute=key.sign,
    )


def _policy(config: Config) -> ProtectionPolicy:
    rules = config.protection
    return ProtectionPolicy(
        allow_sha1_mac=rules.allow_sha1_mac,
        min_iterations=rules.min_iterations,
        max_iterations=rules.max_iterations,
        max_pbkdf2_iterations=rules.max_pbkdf2_iterations,
        max_salt=rules.max_salt,
    )


# --- running -------------------------------------------------------------------------------------------------------


def run(config: Config) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code. ConfigError and StoreError are the caller's to print."""
    logs.set_up(config.log)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(config))
    return 0


async def _serve(config: Config) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    passed: dict[str, list[socket.socket]] = {}
    for name, sock in notify.take_sockets():
        passed.setdefault(name, []).append(sock)
    daemon = await assemble(config, Env())
    loop.add_signal_handler(signal.SIGUSR1, daemon.log_statistics)
    try:
        await daemon.start(passed)
        _log.info("ready version=%s %s", __version__, daemon.addresses)
        _spare_the_collector()
        notify.notify(notify.READY, f"STATUS=serving {daemon.addresses}")
        await _tick_until(stopping, daemon)
        _log.info("stopping: draining")
        notify.notify(notify.STOPPING, "STATUS=draining")
    finally:
        await daemon.stop()
    _log.info("stopped")


def _spare_the_collector() -> None:
    """What is here stays, and requests leave no cycles: looking for some after every few hundred values is in vain."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


async def _tick_until(stopping: asyncio.Event, daemon: Daemon) -> None:
    watchdog = notify.watchdog_interval()
    period = _TICK if watchdog is None else min(_TICK, watchdog / 2)
    ticks = 0
    while not stopping.is_set():
        if watchdog is not None:
            notify.notify(notify.WATCHDOG)
        await daemon.tick()
        ticks += 1
        if ticks % _TEND_EVERY == 0:
            await daemon.tend()
        try:
            async with asyncio.timeout(period):
                await stopping.wait()
        except TimeoutError:
            continue
