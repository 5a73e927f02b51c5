"""TLS on the raw TCP door: who is let in, what is known of them, files that change, and every limit again."""

import asyncio
import contextlib
import errno
import logging
import os
import resource
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from cmpd.errors import ConfigError
from cmpd.transport.base import Door, Origin
from cmpd.transport.tls import TlsContext, TlsSettings
from cmpd.wire import tcpmsg
from cmpd.wire.tcpmsg import Frame, Framing, PkiRep
from tests.chains import DAY, Node, issue, leaf
from tests.transport.test_tcp import Client, Site, running, serving, until

PASSPHRASE = b"tls passphrase"
TODAY = int(time.time())
DATES: dict[str, Any] = {"not_before": TODAY - DAY, "not_after": TODAY + DAY}
GONE: dict[str, Any] = {"not_before": TODAY - 2 * DAY, "not_after": TODAY - DAY}
NAMES = [(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)]

ROOT = issue(None, "server root", **DATES)
SERVER = leaf(ROOT, "server", extensions=NAMES, **DATES)
DEVICE_ROOT = issue(None, "device root", **DATES)
DEVICE_CA = issue(DEVICE_ROOT, "device ca", **DATES)
DEVICE = leaf(DEVICE_CA, "device", **DATES)


def pem(*nodes: Node) -> bytes:
    return b"".join(node.certificate.public_bytes(Encoding.PEM) for node in nodes)


def ed25519_pem() -> bytes:
    key = ed25519.Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def key_pem(node: Node, passphrase: bytes | None = PASSPHRASE) -> bytes:
    encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    octets: bytes = node.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    return octets


class Files:
    """The files of one door, and of its clients."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.certificate, self.key, self.client_ca = (directory / name for name in ("tls.pem", "tls.key", "ca.pem"))
        self.certificate.write_bytes(pem(SERVER))
        self.key.write_bytes(key_pem(SERVER))
        self.client_ca.write_bytes(pem(DEVICE_CA, DEVICE_ROOT))

    def settings(self, *, client_ca: bool = False, **more: Any) -> TlsSettings:
        return TlsSettings(self.certificate, self.key, client_ca=self.client_ca if client_ca else None, **more)

    def context(self, *anchors: Node, client_ca: bool = False, **more: Any) -> TlsContext:
        return TlsContext(self.settings(client_ca=client_ca, **more), PASSPHRASE, [one.der for one in anchors])

    def replace(self, path: Path, octets: bytes) -> None:
        new = path.with_suffix(".new")
        new.write_bytes(octets)
        new.rename(path)

    def client(self, *chain: Node, root: Node = ROOT, **options: Any) -> ssl.SSLContext:
        """A client that trusts `root` and has the first of `chain` with its key, and sends all of it."""
        context = ssl.create_default_context(cadata=pem(root).decode())
        for name, value in options.items():
            setattr(context, name, value)
        if chain:
            own = self.directory / "client.pem"
            own.write_bytes(pem(*chain) + key_pem(chain[0], None))
            context.load_cert_chain(own)
        return context


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


class TlsSite(Site):
    """A Site with TLS; `client` is what its clients connect with unless they say otherwise."""

    def __init__(self, client: ssl.SSLContext, limits: dict[str, Any], **options: Any) -> None:
        super().__init__(limits, **options)
        self.client = client

    async def connect(self, **options: Any) -> Client:
        return await super().connect(**{"ssl": self.client, "server_hostname": "localhost", **options})

    async def raw(self) -> Client:
        """Without TLS."""
        return await super().connect()


def secured(
    tls: TlsContext, client: ssl.SSLContext, limits: dict[str, Any] | None = None, **options: Any
) -> contextlib.AbstractAsyncContextManager[TlsSite]:
    return running(TlsSite(client, limits or {}, tls=tls, **options))


async def refused(site: TlsSite, client: ssl.SSLContext) -> None:
    """In TLS 1.3 a client that is refused learns of it with its first octets."""

    async def ask() -> None:
        one = await site.connect(ssl=client)
        one.send(tcpmsg.pki_req(b"x"))
        await one.answer()

    with pytest.raises((OSError, AssertionError)):
        await ask()
    assert site.responder.seen == []


def session_of(client: Client) -> ssl.SSLObject:
    session = client.writer.get_extra_info("ssl_object")
    assert isinstance(session, ssl.SSLObject)
    return session


# --- messages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_requests_are_answered_over_tls(files: Files, version: ssl.TLSVersion) -> None:
    async with secured(files.context(), files.client(maximum_version=version)) as site:
        client = await site.connect()
        for framing in Framing:
            for octets in (b"x", b"y" * 100_000):
                client.send(tcpmsg.pki_req(octets, framing))
                assert await client.frame() == Frame(framing, 5, False, b"answer to " + octets)
        host, port = client.writer.get_extra_info("sockname")
        assert site.responder.origins == {Origin(f"{host}:{port}", Door("tls"), polls=True)}
        assert session_of(client).version() == version.name.replace("v1_", "v1.")


async def test_request_in_the_same_flight_as_the_handshake_is_answered(files: Files) -> None:
    """Octets that are there when the handshake ends reach the server's protocol, none twice, in order."""
    async with secured(files.context(), files.client()) as site:
        loop = asyncio.get_running_loop()

        def exchange() -> bytes:
            """Finished and data leave in one segment: the client's own BIOs, and one send."""
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            session = site.client.wrap_bio(incoming, outgoing, server_hostname="localhost")
            with socket.create_connection(site.server.addresses[0], timeout=5) as sock:
                while True:
                    try:
                        session.do_handshake()
                        break
                    except ssl.SSLWantReadError:
                        sock.sendall(outgoing.read())
                        incoming.write(sock.recv(65536))
                for part in (b"early", b"bird"):
                    session.write(tcpmsg.pki_req(part, close=part == b"bird"))
                sock.sendall(outgoing.read())
                found = b""
                while data := sock.recv(65536):
                    incoming.write(data)
                    with contextlib.suppress(ssl.SSLWantReadError):
                        while piece := session.read(65536):
                            found += piece
                        return found  # close_notify
                raise EOFError

        for _ in range(5):
            found = await loop.run_in_executor(None, exchange)
            assert found == tcpmsg.pki_rep(Framing.V10, b"answer to early") + tcpmsg.pki_rep(
                Framing.V10, b"answer to bird", close=True
            )


async def test_close_bit_ends_the_connection_after_a_large_answer(files: Files) -> None:
    async with secured(files.context(), files.client()) as site:
        client = await site.connect(limit=1000)
        client.send(*[tcpmsg.pki_req(b"big")] * 30, tcpmsg.pki_req(b"big end", close=True))
        for _ in range(30):
            assert (await client.answer())[1] is False
        reply, close = await client.answer()
        assert isinstance(reply, PkiRep)
        assert reply.der.endswith(b"big end")
        assert close
        assert await client.ended()
        await until(lambda: site.server.connections == 0)


async def test_peer_that_closes_ends_the_connection_and_its_requests_are_finished(files: Files) -> None:
    async with secured(files.context(), files.client()) as site:
        client = await site.connect()
        client.send(tcpmsg.pki_req(b"wait"))
        await until(lambda: site.responder.running == 1)
        client.writer.close()
        await client.writer.wait_closed()
        assert site.server.connections == 1
        site.responder.gates[b"wait"].set()
        await until(lambda: site.server.connections == 0)
        assert site.responder.cancelled == []


async def test_drain_ends_tls_connections_and_cuts_handshakes(files: Files) -> None:
    async with secured(files.context(), files.client()) as site:
        idle, busy, begun = await site.connect(), await site.connect(), await site.raw()
        busy.send(tcpmsg.pki_req(b"wait a"))
        await until(lambda: site.responder.running == 1 and site.server.connections == 3)
        drain = asyncio.create_task(site.server.drain(5))
        assert await idle.ended()
        with contextlib.suppress(ConnectionError):
            assert await begun.reader.read() == b""
        site.responder.gates[b"wait a"].set()
        assert await busy.answer() == (PkiRep(b"answer to wait a"), True)
        assert await busy.ended()
        await asyncio.wait_for(drain, 4)
        assert site.server.connections == 0


# --- client certificates ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("mode", ["optional", "required"])
async def test_certificate_of_the_peer_and_its_chain_are_in_the_origin(
    files: Files, mode: str, version: ssl.TLSVersion
) -> None:
    tls = files.context(client=mode, client_ca=True)
    async with secured(tls, files.client(DEVICE, maximum_version=version)) as site:
        client = await site.connect()
        client.send(tcpmsg.pki_req(b"x"))
        await client.answer()
        (origin,) = site.responder.origins
        assert origin.certificates == (DEVICE.der, DEVICE_CA.der, DEVICE_ROOT.der)


@pytest.mark.parametrize("mode", ["none", "optional"])
async def test_client_without_a_certificate_has_none(files: Files, mode: str) -> None:
    async with secured(files.context(client=mode, client_ca=True), files.client()) as site:
        client = await site.connect()
        client.send(tcpmsg.pki_req(b"x"))
        await client.answer()
        (origin,) = site.responder.origins
        assert origin.certificates == ()


async def test_certificate_that_nobody_asked_for_is_not_in_the_origin(files: Files) -> None:
    async with secured(files.context(client_ca=True), files.client(DEVICE)) as site:
        client = await site.connect()
        client.send(tcpmsg.pki_req(b"x"))
        await client.answer()
        (origin,) = site.responder.origins
        assert origin.certificates == ()


async def test_anchor_may_be_a_subordinate_ca_or_the_certificate_itself(files: Files) -> None:
    for anchor in (DEVICE_CA, DEVICE):
        async with secured(files.context(anchor, client="required"), files.client(DEVICE)) as site:
            client = await site.connect()
            client.send(tcpmsg.pki_req(b"x"))
            await client.answer()
            (origin,) = site.responder.origins
            assert origin.certificates[0] == DEVICE.der


async def test_anchor_can_be_added_later_and_stays_after_a_reload(files: Files) -> None:
    tls = files.context(client="required")
    async with secured(tls, files.client(DEVICE)) as site:
        await refused(site, site.client)
        tls.trust([DEVICE.der])
        before = tls.context
        for _ in range(2):
            client = await site.connect()
            client.send(tcpmsg.pki_req(b"x"))
            assert await client.answer() == (PkiRep(b"answer to x"), False)
            files.replace(files.certificate, pem(SERVER, ROOT))
            tls.reload_if_changed()
            assert tls.context is not before


async def test_who_is_registered_no_more_is_trusted_no_more_and_the_anchors_stay(files: Files) -> None:
    other = leaf(DEVICE_CA, "other", **DATES)
    tls = files.context(other, client="required")
    async with secured(tls, files.client(DEVICE)) as site:
        tls.trust([DEVICE.der, SERVER.der])
        client = await site.connect()
        client.send(tcpmsg.pki_req(b"x"))
        assert await client.answer() == (PkiRep(b"answer to x"), False)
        site.responder.seen.clear()
        tls.trust([SERVER.der])
        await refused(site, site.client)
        await refused(site, files.client(DEVICE))
        client.send(tcpmsg.pki_req(b"y"))  # a connection that is there goes on
        assert await client.answer() == (PkiRep(b"answer to y"), False)
        assert tls.context.cert_store_stats()["x509"] == 2
        site.responder.seen.clear()


def test_anchor_that_is_no_certificate_closes_no_door(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    tls = files.context(client="required")
    tls.trust([b"rubbish", b"", DEVICE_CA.der])
    assert tls.context.get_ca_certs(binary_form=True) == [DEVICE_CA.der]
    assert len(caplog.records) == 2


REFUSED = [
    ("none at all", None, "has no certificate"),
    ("another CA's", leaf(issue(None, "stranger", **DATES), **DATES), "unable to get local issuer certificate"),
    ("expired", leaf(DEVICE_CA, **GONE), "certificate has expired"),
    ("not yet valid", leaf(DEVICE_CA, not_before=TODAY + DAY, not_after=TODAY + 2 * DAY), "not yet valid"),
    (
        "for servers only",
        leaf(DEVICE_CA, extensions=[(x509.ExtendedKeyUsage([x509.OID_SERVER_AUTH]), False)], **DATES),
        "unsuitable certificate purpose",
    ),
    (
        "of no CA",
        leaf(Node(DEVICE.certificate, DEVICE.key), "below a device", **DATES),
        "invalid CA certificate|unable to get local issuer",
    ),
]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(("node", "words"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
async def test_client_certificate_that_is_not_good_is_refused_by_the_handshake(
    files: Files, node: Node | None, words: str, version: ssl.TLSVersion, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "cmpd")
    chain = (node, DEVICE) if node is not None else ()
    async with secured(files.context(client="required", client_ca=True), files.client()) as site:
        await refused(site, files.client(*chain, maximum_version=version))
        await until(lambda: site.server.connections == 0)
    (record,) = caplog.records
    assert (record.levelno, record.exc_info) == (logging.INFO, None)
    text = record.getMessage()
    assert text.startswith("127.0.0.1:")
    assert "TLS handshake failed" in text
    assert any(word in text for word in words.split("|")), text


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_resumed_session_shows_the_certificate_too_and_tls13_resumes_none(
    files: Files, version: ssl.TLSVersion
) -> None:
    tls = files.context(client="required", client_ca=True)
    async with secured(tls, files.client(DEVICE, maximum_version=version)) as site:
        address = site.server.addresses[0]

        def exchange(session: ssl.SSLSession | None) -> tuple[ssl.SSLSession | None, bool | None]:
            with (
                socket.create_connection(address, timeout=5) as sock,
                site.client.wrap_socket(sock, server_hostname="localhost", session=session) as secure,
            ):
                secure.sendall(tcpmsg.pki_req(b"x"))
                assert secure.recv(65536) == tcpmsg.pki_rep(Framing.V10, b"answer to x")
                return secure.session, secure.session_reused

        first, _ = await asyncio.to_thread(exchange, None)
        _, reused = await asyncio.to_thread(exchange, first)
        assert reused is (version is ssl.TLSVersion.TLSv1_2)
        assert len(site.responder.origins) == 2
        assert {origin.certificates[0] for origin in site.responder.origins} == {DEVICE.der}


# --- the context ------------------------------------------------------------------------------------------------------


async def test_minimum_version_is_kept(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "cmpd")
    old = files.client(maximum_version=ssl.TLSVersion.TLSv1_2)
    async with secured(files.context(minimum="1.3"), files.client()) as site:
        await refused(site, old)
        client = await site.connect()
        client.send(tcpmsg.pki_req(b"x"))
        await client.answer()
        assert session_of(client).version() == "TLSv1.3"
        assert session_of(client).compression() is None
    assert "tls_minimum" in caplog.text
    options = files.context().context.options
    assert options & ssl.OP_NO_RENEGOTIATION
    assert options & ssl.OP_NO_COMPRESSION


def test_key_without_a_passphrase_and_a_passphrase_that_is_asked_for_are_taken(files: Files) -> None:
    asked: list[int] = []

    def passphrase() -> bytes:
        asked.append(1)
        return PASSPHRASE

    TlsContext(files.settings(), passphrase, ())
    assert asked == [1]
    files.replace(files.key, key_pem(SERVER, None))
    TlsContext(files.settings(), passphrase, ())
    assert asked == [1]


MISTAKES = [
    ("no certificate file", lambda f: f.certificate.unlink(), "tls.pem: cannot be read: No such file"),
    ("no key file", lambda f: f.key.unlink(), "tls.key: cannot be read: No such file"),
    ("no CA file", lambda f: f.client_ca.unlink(), "ca.pem: cannot be read: No such file"),
    ("no certificate in it", lambda f: f.certificate.write_bytes(key_pem(SERVER)), "tls.pem: want certificates in PEM"),
    ("no CA in it", lambda f: f.client_ca.write_bytes(b""), "ca.pem: want certificates in PEM"),
    ("no key in it", lambda f: f.key.write_bytes(pem(SERVER)), "tls.key: cannot be opened, wrong passphrase or no"),
    ("wrong passphrase", lambda f: f.key.write_bytes(key_pem(SERVER, b"other")), "tls.key: cannot be opened, wrong"),
    ("another key", lambda f: f.key.write_bytes(key_pem(DEVICE)), "tls.key: is not the key of the first certificate"),
    ("another type", lambda f: f.key.write_bytes(ed25519_pem()), "tls.key: is not the key of the first certificate"),
]


@pytest.mark.parametrize(("mistake", "words"), [row[1:] for row in MISTAKES], ids=[row[0] for row in MISTAKES])
def test_files_that_cannot_be_used_are_named(files: Files, mistake: Any, words: str) -> None:
    mistake(files)
    with pytest.raises(ConfigError) as caught:
        files.context(client="required", client_ca=True)
    assert words in str(caught.value)
    assert PASSPHRASE.decode() not in str(caught.value)


def test_passphrase_that_is_too_long_is_a_mistake_of_the_configuration(files: Files) -> None:
    with pytest.raises(ConfigError, match=r"tls\.key: cannot be opened"):
        TlsContext(files.settings(), b"x" * 5000, ())


def serial_of(client: Client) -> int:
    der = session_of(client).getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).serial_number


async def test_renewed_certificate_is_used_by_new_connections_and_old_ones_go_on(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "cmpd")
    tls = files.context()
    renewed = leaf(ROOT, "server", extensions=NAMES, **DATES)
    async with secured(tls, files.client()) as site:
        old = await site.connect()
        context = tls.context
        tls.reload_if_changed()
        assert tls.context is context
        files.replace(files.certificate, pem(renewed))  # half of a renewal
        tls.reload_if_changed()
        tls.reload_if_changed()
        assert tls.context is context
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert "is not the key of the first certificate" in record.getMessage()
        assert serial_of(await site.connect()) == SERVER.certificate.serial_number
        files.replace(files.key, key_pem(renewed))
        tls.reload_if_changed()
        assert "read anew" in caplog.records[-1].getMessage()
        new = await site.connect()
        assert serial_of(new) == renewed.certificate.serial_number
        for client in (old, new):
            client.send(tcpmsg.pki_req(b"x"))
            assert await client.answer() == (PkiRep(b"answer to x"), False)


@pytest.mark.parametrize("change", ["rights", "a copy that keeps date and size"])
def test_what_leaves_the_date_of_a_file_as_it_was_is_a_change_all_the_same(files: Files, change: str) -> None:
    """Who cannot read the key of a renewal does not have to be told to touch it when its rights are set right."""
    tls = files.context()
    context, found = tls.context, files.key.stat()
    time.sleep(0.02)  # the clock of a file system is coarse
    if change == "rights":
        files.key.chmod(0o640)
    else:
        files.key.write_bytes(files.key.read_bytes())
        os.utime(files.key, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert files.key.stat().st_mtime_ns == found.st_mtime_ns
    tls.reload_if_changed()
    assert tls.context is not context
    context = tls.context
    tls.reload_if_changed()
    assert tls.context is context


async def test_file_that_goes_away_and_comes_back_changes_nothing(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    tls = files.context(client="required", client_ca=True)
    context = tls.context
    octets = files.client_ca.read_bytes()
    files.client_ca.unlink()
    for _ in range(3):
        tls.reload_if_changed()
    assert tls.context is context
    assert len(caplog.records) == 1
    files.client_ca.write_bytes(octets)
    tls.reload_if_changed()
    assert tls.context is not context


async def test_client_ca_that_is_taken_away_is_trusted_no_more(files: Files) -> None:
    tls = files.context(client="required", client_ca=True)
    async with secured(tls, files.client(DEVICE)) as site:
        client = await site.connect()
        client.send(tcpmsg.pki_req(b"x"))
        await client.answer()
        site.responder.seen.clear()
        files.replace(files.client_ca, pem(ROOT))
        tls.reload_if_changed()
        await refused(site, site.client)


def test_chain_follows_names_and_ends(files: Files) -> None:
    other_root = issue(None, "device root", **DATES)
    loop_a = issue(Node(issue(None, "b", **DATES).certificate, DEVICE.key), "a", key=DEVICE.key, **DATES)
    loop_b = issue(loop_a, "b", key=DEVICE.key, **DATES)
    files.client_ca.write_bytes(pem(loop_a, loop_b, other_root, DEVICE_ROOT, DEVICE_CA, ROOT))
    tls = files.context(client="required", client_ca=True)
    assert tls.known_chain(DEVICE.der) == (DEVICE_CA.der, other_root.der, DEVICE_ROOT.der)
    assert tls.known_chain(leaf(loop_b, **DATES).der) == (loop_b.der, loop_a.der)
    assert tls.known_chain(SERVER.der) == (ROOT.der,)
    assert tls.known_chain(leaf(None, "alone", **DATES).der) == ()
    assert tls.known_chain(b"rubbish") == ()


# --- the wrong door ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (tcpmsg.pki_req(b"x" * 100), "the peer does not speak TLS"),
        (tcpmsg.pki_req(b"x" * 100, Framing.RFC2510), "the peer does not speak TLS"),
        (b"POST /pkix/ HTTP/1.0\r\nContent-Length: 4\r\n\r\nabcd", "the peer speaks HTTP without TLS"),
        (bytes.fromhex("30820612 3082012f 020102") + bytes(1500), "the peer does not speak TLS"),
        (b"\x16\x03\x01\x00\x05hello", "TLS handshake failed"),
    ],
)
async def test_plain_client_on_the_tls_port_is_closed_with_a_log_line(
    files: Files, start: bytes, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "cmpd")
    async with secured(files.context(), files.client()) as site:
        client = await site.raw()
        client.send(start)
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(5):
                await client.reader.read()
        await until(lambda: site.server.connections == 0)
        assert site.responder.seen == []
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert words in record.getMessage()


async def test_tls_client_on_the_plain_port_is_closed_with_a_log_line(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "cmpd")
    async with serving() as site:
        with pytest.raises(OSError):  # the end of the stream within the handshake
            await asyncio.wait_for(site.connect(ssl=files.client(), server_hostname="localhost"), 5)
    (record,) = caplog.records
    assert "the peer speaks TLS" in record.getMessage()
    assert "without TLS" in record.getMessage()


async def test_many_failed_handshakes_are_one_line(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "cmpd")
    async with secured(files.context(), files.client()) as site:
        for _ in range(30):
            client = await site.raw()
            client.send(b"GET / HTTP/1.1\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                await client.reader.read()
        await until(lambda: site.server.connections == 0)
    assert len(caplog.records) == 1


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [b"", b"\x16", b"\x16\x03\x01", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"])
async def test_handshake_that_does_not_end_in_time_is_cut(
    files: Files, start: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "cmpd")
    async with secured(files.context(), files.client(), handshake_seconds=0.3) as site:
        slow, other = await site.raw(), await site.connect()
        slow.send(start)
        begin = time.monotonic()
        try:
            async with asyncio.timeout(3):
                while not slow.reader.at_eof():  # a trickle does not help
                    if len(start) > 5:
                        slow.send(b"\0")
                    other.send(tcpmsg.pki_req(b"x"))
                    assert await other.answer() == (PkiRep(b"answer to x"), False)
                    await asyncio.sleep(0.02)
        except (ConnectionError, RuntimeError):  # RuntimeError: uvloop, writing to what is closed
            pass
        assert 0.2 < time.monotonic() - begin < 2
        await until(lambda: site.server.connections == 1)
    assert "not complete after 0.3 seconds" in caplog.text


async def test_handshakes_count_as_connections(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    async with secured(files.context(), files.client(), {"max_connections": 3}) as site:
        held = await site.connect()
        begun = [await site.raw() for _ in range(2)]
        await until(lambda: site.server.connections == 3)
        for _ in range(3):
            late = await site.raw()
            with contextlib.suppress(ConnectionError):
                assert await late.reader.read() == b""
        assert site.server.connections == 3
        for client in begun:
            client.writer.close()
        await until(lambda: site.server.connections == 1)
        again = [await site.connect() for _ in range(2)]
        for client in (held, *again):
            client.send(tcpmsg.pki_req(b"x"))
            assert await client.answer() == (PkiRep(b"answer to x"), False)
        assert site.server.connections == 3
    assert "max_connections" in caplog.text


async def test_peer_that_is_reset_within_the_handshake_gives_its_place_back(files: Files) -> None:
    async with secured(files.context(), files.client(), handshake_seconds=60) as site:
        for start in (b"", b"\x16\x03\x01\x02\x00\x01"):
            client = await site.raw()
            client.send(start)
            await until(lambda: site.server.connections == 1)
            sock = client.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.writer.transport.abort()
            await until(lambda: site.server.connections == 0)


async def test_frame_octet_by_octet_is_read_and_one_that_is_not_whole_in_time_is_cut(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "cmpd")
    async with secured(files.context(), files.client(), {"partial_frame_seconds": 0.4}) as site:
        client, other = await site.connect(), await site.connect()
        for octet in tcpmsg.pki_req(b"slow"):
            client.send(bytes([octet]))
            await asyncio.sleep(0)
        assert await client.answer() == (PkiRep(b"answer to slow"), False)
        client.send(b"\0\0\x10\0\x0a\0\0half")
        with contextlib.suppress(ConnectionError, RuntimeError):
            async with asyncio.timeout(4):
                while not client.reader.at_eof():
                    client.send(b"\1")
                    other.send(tcpmsg.pki_req(b"x"))
                    assert await other.answer() == (PkiRep(b"answer to x"), False)
                    await asyncio.sleep(0.02)
        await until(lambda: site.server.connections == 1)
    assert "a frame was not whole after 0.4 seconds" in caplog.text


async def slow_reader(site: TlsSite) -> Client:
    """A client whose socket takes little, and that reads nothing unless it is asked to."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, site.server.addresses[0])
    client = Client(*await asyncio.open_connection(sock=sock, ssl=site.client, server_hostname="localhost", limit=4096))
    site.clients.append(client)
    return client


@pytest.mark.parametrize(("high", "closing"), [(1000, False), (10_000_000, True)])
async def test_peer_that_does_not_read_is_cut(
    files: Files, high: int, closing: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "cmpd")
    limits = {"write_high_water": high, "send_seconds": 0.3, "max_in_flight": 200}
    async with secured(files.context(), files.client(), limits) as site:
        client = await slow_reader(site)
        client.send(*[tcpmsg.pki_req(b"big")] * 120, tcpmsg.pki_req(b"big", close=closing))
        await until(lambda: site.server.connections == 1)
        await until(lambda: site.server.connections == 0)
    assert "octets unread for 0.3 seconds" in caplog.text


async def test_answers_to_a_slow_reader_are_bounded_and_none_is_lost(files: Files) -> None:
    limits = {"write_high_water": 100_000, "max_in_flight": 8, "send_seconds": 5}
    async with secured(files.context(), files.client(), limits) as site:
        client = await slow_reader(site)
        names = [b"big %d" % number for number in range(200)]
        for name in names[:-1]:
            client.send(tcpmsg.pki_req(name + bytes(2000)))
        client.send(tcpmsg.pki_req(names[-1] + bytes(2000), close=True))
        await until(lambda: len(site.server._admission.connections) == 1)
        await until(lambda: site.connection()._write_paused)
        await asyncio.sleep(0.1)
        connection = site.connection()
        worked_on = len(site.responder.seen)
        assert connection._held
        assert not connection._transport.is_reading()
        transport = connection._transport
        assert transport.get_write_buffer_size() <= 100_000 + 65_536 + 2 * 70_000
        assert transport.get_write_buffer_size() > transport._tls.get_write_buffer_size()  # some wait below TLS
        assert worked_on < 100
        await asyncio.sleep(0.1)
        assert len(site.responder.seen) == worked_on
        for name in names:
            reply, _ = await client.answer()
            assert isinstance(reply, PkiRep)
            assert reply.der[60_000:].startswith(name + b"\0")
        assert await client.ended()


async def test_idle_connection_is_closed_and_a_working_one_is_not(files: Files) -> None:
    async with secured(files.context(), files.client(), {"idle_seconds": 0.3}) as site:
        idle, used, waiting = await site.connect(), await site.connect(), await site.connect()
        waiting.send(tcpmsg.pki_req(b"wait"))
        end = asyncio.create_task(idle.ended())
        begin = time.monotonic()
        while not end.done() or time.monotonic() - begin < 0.6:
            used.send(tcpmsg.pki_req(b"x"))
            assert await used.answer() == (PkiRep(b"answer to x"), False)
            await asyncio.sleep(0.02)
        assert await end
        site.responder.gates[b"wait"].set()
        assert await waiting.answer() == (PkiRep(b"answer to wait"), False)


async def test_peer_that_never_answers_close_notify_is_gone_all_the_same(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cmpd.transport.listener.SHUTDOWN_SECONDS", 0.3)
    async with secured(files.context(), files.client(), {"idle_seconds": 0.2}) as site:
        sock = socket.socket()
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, site.server.addresses[0])
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        session = site.client.wrap_bio(incoming, outgoing, server_hostname="localhost")
        while True:
            try:
                session.do_handshake()
                break
            except ssl.SSLWantReadError:
                await loop.sock_sendall(sock, outgoing.read())
                incoming.write(await loop.sock_recv(sock, 65536))
        await loop.sock_sendall(sock, outgoing.read())
        await until(lambda: len(site.server._admission.connections) == 1)
        await until(lambda: site.server.connections == 0)
        sock.close()


async def test_random_octets_under_tls_and_instead_of_it_keep_no_connection(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    async with secured(files.context(), files.client(), {"max_message_octets": 500}) as site:
        for number in range(30):
            client = await (site.connect() if number % 2 else site.raw())
            head = (b"", b"\x16\x03\x01\x01\x00\x01", b"\x16\x03\x03\x00\x40\x01\x00\x00\x3c")[number % 3]
            client.send(head + os.urandom(300))
            with contextlib.suppress(OSError, AssertionError):
                while await client.frame() is not None:
                    pass
            client.writer.close()
        await until(lambda: site.server.connections == 0)
        client = await site.connect()
        client.send(tcpmsg.pki_req(b"x"))
        assert await client.answer() == (PkiRep(b"answer to x"), False)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


# --- many -------------------------------------------------------------------------------------------------------------

MANY = 250  # a thousand, at each door: tests/end_to_end/test_many_connections.py


@pytest.fixture
def descriptors() -> Iterator[None]:
    """Both ends are in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    want = 2 * MANY + 300
    if hard != resource.RLIM_INFINITY and hard < want:
        pytest.fail(f"RLIMIT_NOFILE: want {want}, have {hard} (errno {errno.EMFILE} would follow)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, want), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("descriptors")
async def test_many_connections_are_held_while_others_are_served(files: Files) -> None:
    def opened() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = opened()
    limits = {"max_connections": MANY + 10, "max_connections_per_address": MANY + 10}
    async with secured(files.context(), files.client(), limits, handshake_seconds=60) as site:
        for _ in range(MANY // 50):
            await asyncio.gather(*[site.connect() for _ in range(50)])
        assert site.server.connections == MANY
        assert opened() - before >= 2 * MANY
        held = list(site.clients)
        other = await site.connect()
        for number in range(50):
            other.send(tcpmsg.pki_req(b"%d" % number))
            assert await other.answer() == (PkiRep(b"answer to %d" % number), False)
        for client in held[:: MANY // 20]:
            client.send(tcpmsg.pki_req(b"held"))
            assert await client.answer() == (PkiRep(b"answer to held"), False)
        assert site.server.connections == MANY + 1
    await until(lambda: opened() <= before + 10)
