"""What everybody may read, put together: CRLs, OCSP, and the door to both.

A part of the composition root (daemon.py): it makes the objects for [crl], [ocsp] and [publish], starts them in the
order in which they need each other, and keeps them going while the daemon ticks. Nothing here may keep CMP from being
served: CRLs and the OCSP signer repair themselves later, with a line in the log.
"""

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Final

from cmpd.ca import CertificateAuthority
from cmpd.config import Config
from cmpd.config_values import listen_address
from cmpd.env import Env
from cmpd.errors import ConfigError
from cmpd.ocsp import OcspResponder
from cmpd.ocsp_signer import SignerKeeper
from cmpd.profiles.extensions import encode_locations
from cmpd.publisher import Publisher
from cmpd.signing.file import pem
from cmpd.store.base import Store
from cmpd.threads import Offloader
from cmpd.transport.publish import PublishLimits, PublishServer, Sources

_MAX_WAITING: Final = 64
_FINISH_SECONDS: Final = 5.0
"""How long the CRL that is being issued is waited for at the end."""
_MAX_OCSP_SIGNATURES: Final = 256


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The CRLs that are out, as the door shows them. `this_update`: when they came out, which is what caches must know
    (Last-Modified); what they say themselves is some time before.
    """

    number: int
    this_update: int
    next_update: int
    full: bytes | None
    delta: bytes | None


def locations(config: Config) -> bytes:
    """The Extensions of issued certificates that say where their status is published; empty without a base URL."""
    base_url = config.publish.base_url
    if base_url is None:
        return b""
    return encode_locations(base_url, crl=True, delta=config.crl.delta, ocsp=_has_ocsp(config))


def _has_ocsp(config: Config) -> bool:
    return config.ocsp.signer is not None and config.publish.listen is not None


class Publishing:
    """CRLs, OCSP and their door. `publisher.wake` is to be called when a status has changed."""

    def __init__(
        self,
        config: Config,
        ca: CertificateAuthority,
        store: Store,
        env: Env,
        passphrase: bytes,
    ) -> None:
        self._listen = config.publish.listen
        self._background = Offloader("publish", threads=1, waiting=_MAX_WAITING)
        # Anybody may ask for answers of OCSP: they do not stand in front of the CA's own signatures, nor of this work.
        self._ocsp_signing = Offloader("ocsp", threads=1, waiting=_MAX_OCSP_SIGNATURES)
        self.publisher = Publisher(
            store, ca, env, config.crl, base_url=config.publish.base_url, offload=self._background
        )
        self._keeper: SignerKeeper | None = None
        self._responder: OcspResponder | None = None
        if config.ocsp.signer is not None and _has_ocsp(config):
            self._keeper = SignerKeeper(
                config.ocsp.signer,
                passphrase,
                ca,
                store,
                config.ocsp,
                env,
                self._background,
                signing=self._ocsp_signing,
            )
            self._responder = OcspResponder(store, ca, env, config.ocsp, event=asyncio.Event)
        ask = None if self._responder is None else self._responder.respond
        chain = b"".join(pem("CERTIFICATE", one) for one in (ca.certificate, *ca.chain))
        limits = PublishLimits(
            max_connections=config.publish.max_connections,
            max_connections_per_address=config.publish.max_connections_per_address,
            request_seconds=config.publish.request_timeout,
            idle_seconds=config.publish.idle_timeout,
            ocsp_max_age=config.ocsp.max_age,
        )
        self._server = PublishServer(Sources(ca.certificate, chain, self._snapshot, ask), limits, env=env)
        self._task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Where the door is, empty if it is closed."""
        return next((f"http://[{h}]:{p}" if ":" in h else f"http://{h}:{p}" for h, p in self._server.addresses), "")

    @property
    def connections(self) -> int:
        """How many connections there are."""
        return self._server.connections

    async def start(self) -> None:
        """Have CRLs and an OCSP signer, and open the door. ConfigError if that address cannot be had."""
        await self.publisher.start()
        await self._renew()
        self._task = asyncio.create_task(self.publisher.run(), name="cmpd publisher")
        if self._listen is None:
            return
        try:
            await self._server.start([listen_address(self._listen) or ("", 0)])
        except OSError as error:
            raise ConfigError(f"publish.listen = {self._listen!r}: {error.strerror or error}") from error

    async def tick(self) -> None:
        """What has to happen every minute: the OCSP signer is renewed if it is due."""
        await self._renew()

    async def stop(self, seconds: float) -> None:
        """Close the door, wait for answers at most so long, and end the making of CRLs, but finish the one in hand: the
        store can be closed afterwards.
        """
        await self._server.drain(seconds)
        await self.publisher.close(_FINISH_SECONDS)
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._background.close()
        self._ocsp_signing.close()

    async def _renew(self) -> None:
        if self._keeper is None or self._responder is None:
            return
        first = self._responder.signer is None
        self._responder.signer = await (self._keeper.load_or_make() if first else self._keeper.renew_if_due())

    def _snapshot(self) -> Snapshot | None:
        record = self.publisher.record
        if record is None:
            return None
        out_at = record.this_update if record.published_at is None else record.published_at
        return Snapshot(record.number, out_at, record.next_update, self.publisher.full, self.publisher.delta)
