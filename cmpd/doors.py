"""Where CMP comes in: every door of the configuration, put together, opened and drained.

A part of the composition root (daemon.py). All doors have the same responder behind them and differ in frames alone;
what a door allows travels with each request (origin.py). TLS contexts are looked at with every tick: new certificates
are used without a restart, and whoever is registered meanwhile may connect.
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cmpd.config import Config
from cmpd.config_doors import EntranceConfig, HttpConfig, ListenerConfig, LocalConfig, SpoolConfig, TcpConfig
from cmpd.config_values import listen_address, socket_name
from cmpd.env import Env
from cmpd.errors import ConfigError
from cmpd.origin import Door, Responds
from cmpd.store.base import Store
from cmpd.transport.base import Transport
from cmpd.transport.http import CmpHttpLimits, CmpHttpServer
from cmpd.transport.spool import Spool
from cmpd.transport.tcp import TcpLimits, TcpServer
from cmpd.transport.tls import TlsContext, TlsSettings

_log = logging.getLogger("cmpd")

_LOCAL_CONNECTIONS: Final = 256
_LOCAL_IDLE_SECONDS: Final = 600.0

Place = tuple[str, int] | socket.socket


@dataclass(frozen=True, slots=True)
class _Row:
    """One door. `key`: where it stands in the configuration. `scheme`: of the URLs that lead to it."""

    key: str
    scheme: str
    server: Transport
    start: Callable[["_Passed"], Awaitable[None]]


class Doors:
    """All doors of a server. `own`: DER of the CA's certificates, to which TLS client certificates may chain."""

    def __init__(
        self, config: Config, responds: Responds, store: Store, env: Env, passphrase: bytes, own: Sequence[bytes]
    ) -> None:
        """ConfigError if a TLS certificate or its key cannot be used."""
        self._config, self._responds, self._store, self._env = config, responds, store, env
        self._passphrase, self._own = passphrase, own
        self._tls: list[TlsContext] = []
        self._trusted_at = -1  # generation of the store whose registered certificates the contexts know
        self._rows = [
            *(self._tcp(f"tcp[{i}]", table) for i, table in enumerate(config.tcp) if table.enabled),
            *(self._http(f"http[{i}]", table) for i, table in enumerate(config.http) if table.enabled),
            *(self._spool(f"spool[{i}]", table) for i, table in enumerate(config.spool) if table.enabled),
            *([self._local(config.local)] if config.local.enabled else []),
        ]

    # --- what the daemon does with them

    async def start(self, passed: Mapping[str, Sequence[socket.socket]]) -> None:
        """Open all of them. `passed`: sockets from the service manager, by name. ConfigError says which one cannot."""
        await self._trust_registered()
        sockets = _Passed(self._config, passed)
        for row in self._rows:
            await row.start(sockets)
        sockets.close_unused()

    @property
    def connections(self) -> int:
        """How many connections there are."""
        return sum(row.server.connections for row in self._rows)

    @property
    def addresses(self) -> dict[str, list[str]]:
        """Where it listens, "HOST:PORT" by the scheme of the URL: tcp, tls, http, https."""
        found: dict[str, list[str]] = {}
        for row in self._rows:
            for host, port in row.server.addresses:
                found.setdefault(row.scheme, []).append(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        return found

    async def tick(self) -> None:
        """What has to happen every second: new TLS certificates are noticed, and who was registered meanwhile."""
        for tls in self._tls:
            tls.reload_if_changed()
        await self._trust_registered()

    async def drain(self, seconds: float) -> None:
        """Close them all, and wait for answers that are due, at most so long."""
        await asyncio.gather(*(row.server.drain(seconds) for row in self._rows))

    async def _trust_registered(self) -> None:
        generation = self._store.generation
        if not self._tls or generation == self._trusted_at:
            return
        entities = await self._store.list_entities(with_certificate=True)
        found = [one.certificate for one in entities if one.certificate is not None and not one.disabled]
        for tls in self._tls:
            tls.trust(found)
        self._trusted_at = generation

    # --- the kinds of doors

    def _tcp(self, key: str, table: TcpConfig) -> _Row:
        scheme = "tls" if table.has_tls else "tcp"
        limits = TcpLimits(
            max_message_octets=table.max_message_octets,
            partial_frame_seconds=table.partial_frame_timeout,
            idle_seconds=table.idle_timeout,
            send_seconds=table.send_timeout,
            max_connections=table.max_connections,
            max_connections_per_address=table.max_connections_per_address,
            max_in_flight=table.max_in_flight,
            write_high_water=table.write_high_water,
            rfc2510=table.rfc2510,
            transport_polling=table.transport_polling,
        )
        server = TcpServer(
            self._responds,
            limits,
            door=_door(scheme, table),
            tls=self._context(key, table),
            handshake_seconds=table.tls_handshake_timeout,
            env=self._env,
        )
        return _Row(key, scheme, server, _listening(key, table, server.start))

    def _http(self, key: str, table: HttpConfig) -> _Row:
        scheme = "https" if table.has_tls else "http"
        limits = CmpHttpLimits(
            max_message_octets=table.max_message_octets,
            request_seconds=table.request_timeout,
            idle_seconds=table.idle_timeout,
            max_connections=table.max_connections,
            max_connections_per_address=table.max_connections_per_address,
        )
        server = CmpHttpServer(
            self._responds,
            limits,
            door=_door(scheme, table),
            path=table.path,
            profiles=self._config.profile.keys(),
            tls=self._context(key, table),
            handshake_seconds=table.tls_handshake_timeout,
            tcp_messages=table.tcp_messages,
            transport_polling=table.transport_polling,
            env=self._env,
        )
        return _Row(key, scheme, server, _listening(key, table, server.start))

    def _spool(self, key: str, table: SpoolConfig) -> _Row:
        spool = Spool(
            self._responds,
            table.directory,
            _door("spool", table),
            interval=table.interval,
            max_message_octets=table.max_message_octets,
            env=self._env,
        )

        async def start(_: "_Passed") -> None:
            try:
                await spool.start()
            except OSError as error:
                raise ConfigError(f"{key}.directory = {str(table.directory)!r}: {error.strerror or error}") from error

        return _Row(key, "file", spool, start)

    def _local(self, table: LocalConfig) -> _Row:
        path = self._config.local_socket
        limits = TcpLimits(
            max_message_octets=table.max_message_octets,
            idle_seconds=_LOCAL_IDLE_SECONDS,
            max_connections=_LOCAL_CONNECTIONS,
            max_connections_per_address=_LOCAL_CONNECTIONS,
            transport_polling=False,
        )
        server = TcpServer(self._responds, limits, door=_door("local", table), env=self._env)

        async def start(_: "_Passed") -> None:
            try:
                await server.start([path])
            except OSError as error:
                raise ConfigError(f"local.socket = {str(path)!r}: {error.strerror or error}") from error

        return _Row("local", "unix", server, start)

    def _context(self, key: str, table: ListenerConfig) -> TlsContext | None:
        if table.tls_certificate is None or table.tls_key is None:
            return None
        settings = TlsSettings(
            table.tls_certificate, table.tls_key, table.tls_minimum, table.tls_client, table.tls_client_ca
        )
        try:
            context = TlsContext(settings, self._passphrase, self._own)
        except ConfigError as error:
            raise ConfigError(f"{key}: {error}") from error
        self._tls.append(context)
        return context


def _door(name: str, table: EntranceConfig) -> Door:
    bodies = None if table.bodies is None else frozenset[str](table.bodies)
    listens, strict = isinstance(table, ListenerConfig), table.mode == "strict"
    authenticates = isinstance(table, ListenerConfig) and table.tls_authenticates
    return Door(name, bodies, table.default_profile or "", authenticates, strict=strict, slow=not listens)


class _Passed:
    """The sockets of the service manager: each is used once."""

    def __init__(self, config: Config, passed: Mapping[str, Sequence[socket.socket]]) -> None:
        named = {socket_name(table.listen) for table in (*config.tcp, *config.http)}
        self._by_name = {name: list(group) for name, group in passed.items()}
        self._unnamed = [name for name in self._by_name if name not in named]

    def take(self, listen: str) -> list[socket.socket]:
        """The sockets for "systemd:NAME", or for "systemd" those whose name nobody else has; ConfigError if none."""
        name = socket_name(listen)
        found = [sock for each in ([name] if name else self._unnamed) for sock in self._by_name.pop(each, [])]
        if not found:
            hint = f"none with FileDescriptorName={name}" if name else "none (cmpd.socket)"
            raise ConfigError(f"listen = {listen!r}: want a socket from the service manager, have {hint}")
        if any(sock.type != socket.SOCK_STREAM for sock in found):
            raise ConfigError(f"listen = {listen!r}: want stream sockets (ListenStream=) from the service manager")
        return found

    def close_unused(self) -> None:
        """Nobody is to wait at a door behind which nobody is."""
        for name, group in self._by_name.items():
            _log.warning("the service manager passed %d sockets called %r that no door uses", len(group), name)
            for sock in group:
                sock.close()


def _listening(
    key: str, table: ListenerConfig, start: Callable[[Sequence[Place]], Awaitable[None]]
) -> Callable[[_Passed], Awaitable[None]]:
    async def open_it(passed: _Passed) -> None:
        address = listen_address(table.listen)
        try:
            places: Sequence[Place] = [address] if address is not None else passed.take(table.listen)
            await start(places)
        except ConfigError as error:
            raise ConfigError(f"{key}: {error}") from error
        except OSError as error:
            raise ConfigError(_cannot_listen(key, table.listen, error)) from error

    return open_it


def _cannot_listen(key: str, listen: str, error: OSError) -> str:
    hint = ""
    if isinstance(error, PermissionError):
        hint = "; ports below 1024 need cmpd.socket of systemd, or CAP_NET_BIND_SERVICE"
    return f"{key}.listen = {listen!r}: {error.strerror or error}{hint}"
