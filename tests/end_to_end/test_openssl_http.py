"""`openssl cmp` straight over HTTP and HTTPS, with nothing in between: what it was made for.

One server, made by `cmpd init --http`; the doors with TLS are added to its configuration as an operator would.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.end_to_end.doors import wait_until
from tests.end_to_end.ways import make_tls
from tests.support import Installation, Server, cmpd, needs_openssl, new_key, run, verify

pytestmark = needs_openssl

TLS = 'listen = "127.0.0.1:0"\ntls_certificate = "tls.pem"\ntls_key = "tls.key"\n'
CONFIGURATION = f"""
[[http]]
{TLS}tls_client = "optional"

[[http]]
{TLS}tls_client = "required"
tls_authenticates = true
default_profile = "legacy"

[profile.short]
validity = "1d"

[profile.legacy]
await_confirmation = false
validity = "2d"

[profile.secret]
"""
OPEN, STRICT = 0, 1
"""The doors with TLS: a client certificate is optional, or required and the protection of what has none."""

ROUTES = ["http", "https", "https with client certificate"]


@dataclass
class Holder:
    """A certificate and its key."""

    certificate: Path
    key: Path


@dataclass
class Site:
    installation: Installation
    server: Server
    directory: Path
    secret: Path
    made: int = 0

    def command(self, *arguments: str | Path, path: str = ".well-known/cmp") -> list[str | Path]:
        return ["openssl", "cmp", "-config", "", "-path", path, *arguments]

    def openssl(self, *arguments: str | Path, path: str = ".well-known/cmp", ok: bool = True) -> str:
        """Run `openssl cmp`; returns what it printed. Without `ok` it must fail."""
        done = run(self.command(*arguments, path=path), ok=False)
        printed = done.stdout + done.stderr
        assert (done.returncode == 0) is ok, f"{arguments}\n{printed}\n{self.server.log_text()[-3000:]}"
        return printed

    def http(self) -> list[str | Path]:
        return ["-server", self.server.places["http"][0]]

    def https(self, number: int = OPEN, client: Holder | None = None) -> list[str | Path]:
        """The server's certificate is verified, its address too."""
        place = self.server.places["https"][number]
        options = ["-server", place, "-tls_used", "-tls_trusted", self.installation.directory / "tls-ca.pem"]
        shown = [] if client is None else ["-tls_cert", client.certificate, "-tls_key", client.key]
        return [*options, *shown]

    def route(self, name: str) -> list[str | Path]:
        return {
            "http": self.http,
            "https": self.https,
            "https with client certificate": lambda: self.https(OPEN, self.enrol()),
        }[name]()

    def mac(self) -> list[str | Path]:
        return ["-ref", "device", "-secret", f"file:{self.secret}"]

    def signed(self, holder: Holder) -> list[str | Path]:
        return ["-cert", holder.certificate, "-key", holder.key, "-trusted", self.installation.anchor]

    def new(self) -> Holder:
        """A new key, and where its certificate goes."""
        self.made += 1
        return Holder(self.directory / f"{self.made}.pem", new_key(self.directory / f"{self.made}.key", "p256"))

    def wish(self, holder: Holder, subject: str = "/O=Test/CN=device") -> list[str | Path]:
        return ["-newkey", holder.key, "-subject", subject, "-certout", holder.certificate]

    def enrol(self, *options: str) -> Holder:
        """By ir over HTTP."""
        holder = self.new()
        self.openssl("-cmd", "ir", *self.wish(holder), *self.mac(), *self.http(), *options)
        return holder

    def days(self, holder: Holder) -> int:
        """How long a certificate is valid: by this one sees its profile."""
        begins, ends = (
            run(["openssl", "x509", "-in", holder.certificate, "-noout", f"-{end}date", "-dateopt", "iso_8601"])
            .stdout.strip()
            .partition("=")[2]
            for end in ("start", "end")
        )
        seconds = [run(["date", "-u", "-d", text, "+%s"]).stdout for text in (begins, ends)]
        return round((int(seconds[1]) - int(seconds[0])) / 86_400)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    installation = Installation.make(tmp_path_factory.mktemp("ca") / "var", "--http", "127.0.0.1:0")
    make_tls(installation.directory)
    installation.config.write_text(installation.config.read_text() + CONFIGURATION)
    profiles = ["--profile", "default", "--profile", "short", "--profile", "legacy"]
    secret = installation.add_secret(
        "device", "a secret of the tests", "--uses", "unlimited", "--may-revoke", *profiles
    )
    with installation.serving() as server:
        yield Site(installation, server, tmp_path_factory.mktemp("holders"), secret)
    assert "Traceback" not in server.log_text()
    assert " ERROR " not in server.log_text()


# --- the requests of openssl ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [".well-known/cmp", "cmp", ".well-known/cmp/"])
@pytest.mark.parametrize("route", ROUTES)
def test_each_request_with_a_shared_secret(site: Site, route: str, path: str) -> None:
    way = [*site.route(route), *site.mac()]
    for name in ("ir", "cr"):
        for confirm in ([], ["-implicit_confirm"]):
            holder = site.new()
            printed = site.openssl("-cmd", name, *site.wish(holder), *way, *confirm, path=path)
            verify(site.installation.anchor, holder.certificate)
            assert ("received PKICONF" in printed) is (not confirm)
    site.openssl("-cmd", "rr", "-oldcert", holder.certificate, "-revreason", "6", *way, path=path)
    site.openssl("-cmd", "rr", "-oldcert", holder.certificate, "-revreason", "1", *way, path=path)
    assert "certRevoked" in site.openssl("-cmd", "rr", "-oldcert", holder.certificate, *way, path=path, ok=False)
    assert "received GENP" in site.openssl("-cmd", "genm", "-infotype", "signKeyPairTypes", *way, path=path)


@pytest.mark.parametrize("route", ROUTES)
def test_each_request_with_a_signature(site: Site, route: str) -> None:
    way, old = site.route(route), site.enrol()
    for name in ("cr", "kur"):
        new = site.new()
        site.openssl("-cmd", name, *site.wish(new), *way, *site.signed(old))
        verify(site.installation.anchor, new.certificate)
        old = new
    assert "received GENP" in site.openssl("-cmd", "genm", *way, *site.signed(old))
    site.openssl("-cmd", "rr", "-oldcert", old.certificate, "-revreason", "1", *way, *site.signed(old))
    refused = site.openssl("-cmd", "cr", *site.wish(site.new()), *way, *site.signed(old), ok=False)
    assert "certRevoked" in refused or "signerNotTrusted" in refused or "badMessageCheck" in refused


@pytest.mark.parametrize("confirm", [[], ["-implicit_confirm"]], ids=["explicit", "implicit"])
@pytest.mark.parametrize("route", ROUTES)
def test_a_pkcs10_request(site: Site, tmp_path: Path, route: str, confirm: list[str]) -> None:
    holder, csr = site.new(), tmp_path / "csr.pem"
    run(["openssl", "req", "-new", "-config", "/dev/null", "-key", holder.key, "-subj", "/CN=device", "-out", csr])
    wish = ["-csr", csr, "-certout", holder.certificate]
    site.openssl("-cmd", "p10cr", *wish, *site.route(route), *site.mac(), *confirm)
    verify(site.installation.anchor, holder.certificate)


def test_a_wrong_secret_is_told_so(site: Site) -> None:
    wrong = ["-ref", "device", "-secret", "pass:wrong", "-unprotected_errors"]
    for way in (site.http(), site.https()):
        assert "badMessageCheck" in site.openssl("-cmd", "ir", *site.wish(site.new()), *wrong, *way, ok=False)


# --- connections ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep_alive", ["0", "1", "2"])
@pytest.mark.parametrize("route", ROUTES)
def test_fifty_transactions_in_a_row(site: Site, route: str, keep_alive: str) -> None:
    """With keep_alive 2 the client fails if the server does not keep the connection."""
    options = ["-repeat", "50", "-keep_alive", keep_alive, "-verbosity", "7"]
    printed = site.openssl("-cmd", "ir", *site.wish(site.new()), *site.mac(), *site.route(route), *options)
    assert len(re.findall("received PKICONF", printed)) == 50


@pytest.mark.parametrize(("keep_alive", "connections"), [("0", 2), ("2", 1)])
def test_a_transaction_may_take_one_connection_or_two(site: Site, keep_alive: str, connections: int) -> None:
    """RFC 9811: transactions do not hang on connections."""
    options = ["-keep_alive", keep_alive, "-verbosity", "7"]
    printed = site.openssl("-cmd", "ir", *site.wish(site.new()), *site.mac(), *site.http(), *options)
    assert len(re.findall("connecting to CMP server", printed)) >= 1
    assert len(re.findall("disconnected from CMP server", printed)) == connections, printed


def test_ipv6(tmp_path: Path) -> None:
    installation = Installation.make(tmp_path / "ca", "--http", "[::1]:0")
    secret = installation.add_secret("device", "a secret of the tests")
    key, certificate = new_key(tmp_path / "key", "p256"), tmp_path / "cert.pem"
    with installation.serving() as server:
        [place] = server.places["http"]
        assert place.startswith("[::1]:")
        wish = ["-newkey", key, "-subject", "/CN=device", "-certout", certificate]
        way = ["-server", place, "-path", "cmp", "-ref", "device", "-secret", f"file:{secret}"]
        run(["openssl", "cmp", "-config", "", "-cmd", "ir", *wish, *way])
    verify(installation.anchor, certificate)


# --- paths ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "label"), [("ir", "initialization"), ("cr", "certification"), ("kur", "keyupdate")]
)
def test_the_label_of_an_operation_takes_it_and_no_other(site: Site, command: str, label: str) -> None:
    old = site.enrol()
    who = site.signed(old) if command == "kur" else site.mac()
    way = site.http()
    new = site.new()
    site.openssl("-cmd", command, *site.wish(new), *who, *way, path=f".well-known/cmp/{label}")
    verify(site.installation.anchor, new.certificate)
    other = "cr" if command == "ir" else "ir"
    refused = site.openssl(
        "-cmd", other, *site.wish(site.new()), *site.mac(), *way, path=f".well-known/cmp/{label}", ok=False
    )
    assert "badRequest" in refused
    assert f"body: want {command} at .../{label}, have {other} (RFC 9483 section 6.1)" in refused


def test_the_labels_of_pkcs10_and_revocation(site: Site, tmp_path: Path) -> None:
    holder, csr = site.new(), tmp_path / "csr.pem"
    run(["openssl", "req", "-new", "-config", "/dev/null", "-key", holder.key, "-subj", "/CN=device", "-out", csr])
    p10cr = ["-cmd", "p10cr", "-csr", csr, "-certout", holder.certificate, *site.mac(), *site.http()]
    site.openssl(*p10cr, path=".well-known/cmp/pkcs10")
    rr = ["-cmd", "rr", "-oldcert", holder.certificate, *site.mac(), *site.http()]
    assert "badRequest" in site.openssl(*rr, path=".well-known/cmp/pkcs10", ok=False)
    assert "badRequest" in site.openssl(*p10cr, path=".well-known/cmp/revocation", ok=False)
    site.openssl(*rr, path=".well-known/cmp/revocation")


def test_a_profile_in_the_path_counts(site: Site) -> None:
    for path, days in (
        (".well-known/cmp", 365),
        (".well-known/cmp/p/short", 1),
        (".well-known/cmp/p/short/initialization", 1),
        (".well-known/cmp/p/legacy/initialization", 2),
    ):
        holder = site.new()
        site.openssl("-cmd", "ir", *site.wish(holder), *site.mac(), *site.http(), path=path)
        assert site.days(holder) == days


def test_a_profile_in_the_path_gives_no_rights(site: Site) -> None:
    path = ".well-known/cmp/p/secret"
    refused = site.openssl("-cmd", "ir", *site.wish(site.new()), *site.mac(), *site.http(), path=path, ok=False)
    assert "notAuthorized" in refused


@pytest.mark.parametrize(
    "path", ["", "pkix", ".well-known/cmp/unheard-of", ".well-known/cmp/p/unheard-of", ".well-known/cmp/p"]
)
def test_an_unknown_path_is_not_found(site: Site, path: str) -> None:
    printed = site.openssl("-cmd", "ir", *site.wish(site.new()), *site.mac(), *site.http(), path=path, ok=False)
    assert "code=404" in printed


# --- TLS --------------------------------------------------------------------------------------------------------------


def test_a_client_that_does_not_trust_the_server_ends_it(site: Site) -> None:
    way = ["-server", site.server.places["https"][OPEN], "-tls_used", "-tls_trusted", site.installation.anchor]
    assert "certificate verify failed" in site.openssl(
        "-cmd", "ir", *site.wish(site.new()), *site.mac(), *way, ok=False
    )


def test_http_on_the_port_of_https_and_the_other_way_round(site: Site) -> None:
    http, https = site.server.places["http"][0], site.server.places["https"][OPEN]
    tls = ["-tls_used", "-tls_trusted", site.installation.directory / "tls-ca.pem"]
    for way in (["-server", https], ["-server", http, *tls]):
        site.openssl("-cmd", "ir", *site.wish(site.new()), *site.mac(), *way, "-msg_timeout", "20", ok=False)
    site.enrol()


def test_a_client_certificate_that_is_required(site: Site, tmp_path: Path) -> None:
    holder = site.enrol()
    site.openssl("-cmd", "ir", *site.wish(site.new()), *site.mac(), *site.https(STRICT, holder))
    site.openssl("-cmd", "ir", *site.wish(site.new()), *site.mac(), *site.https(STRICT), ok=False)
    stranger = Holder(tmp_path / "stranger.pem", tmp_path / "stranger.key")
    files = ["-keyout", stranger.key, "-out", stranger.certificate, "-subj", "/O=Test/CN=device"]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    run(["openssl", "req", "-x509", "-config", "/dev/null", *kind, *files])
    site.openssl("-cmd", "ir", *site.wish(site.new()), *site.mac(), *site.https(STRICT, stranger), ok=False)
    site.openssl("-cmd", "ir", *site.wish(site.new()), *site.mac(), *site.https(OPEN, stranger), ok=False)


UNPROTECTED = "-unprotected_requests"


def test_a_registered_tls_client_needs_no_protection(site: Site, tmp_path: Path) -> None:
    """The certificate is of nobody whom the CA knew before; its entity's subject and profiles are the rights."""
    client = Holder(tmp_path / "client.pem", tmp_path / "client.key")
    files = ["-keyout", client.key, "-out", client.certificate, "-subj", "/O=Elsewhere/CN=mainframe"]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    usage = ["-addext", "keyUsage=critical,digitalSignature"]
    run(["openssl", "req", "-x509", "-config", "/dev/null", *kind, *usage, *files])
    options = ["--ra", "--profile", "legacy", "--uses", "unlimited"]
    words = ["--config", site.installation.config, "--cert", client.certificate, *options]
    cmpd("entity", "add", "mainframe", *words)

    way = [*site.https(STRICT, client), UNPROTECTED, "-trusted", site.installation.anchor]
    wait_until_trusted(site, client)
    holder = site.new()
    site.openssl("-cmd", "cr", *site.wish(holder, "/CN=behind the mainframe"), "-disable_confirm", *way)
    verify(site.installation.anchor, holder.certificate)
    assert site.days(holder) == 2
    for reason in ("6", "8", "1"):
        change = ["-cmd", "rr", "-oldcert", holder.certificate, "-revreason", reason]
        site.openssl(*change, "-subject", "/O=Elsewhere/CN=mainframe", *way)
    shown = (
        run(["openssl", "x509", "-in", holder.certificate, "-noout", "-serial"])
        .stdout.partition("=")[2]
        .strip()
        .lower()
    )
    assert re.search(rf"certificate revoked serial=0*{shown} reason=keyCompromise", site.server.log_text())


def test_what_has_no_protection_is_refused_elsewhere(site: Site) -> None:
    holder = site.enrol()
    trusted = ["-trusted", site.installation.anchor]
    for way in (site.http(), site.https(OPEN), site.https(OPEN, holder)):
        wish = site.wish(site.new())
        refused = site.openssl("-cmd", "cr", *wish, UNPROTECTED, *trusted, *way, ok=False)
        assert "badMessageCheck" in refused


def wait_until_trusted(site: Site, client: Holder) -> None:
    """The server sees within a second who was registered, and lets it connect."""
    command = site.command("-cmd", "genm", *site.mac(), *site.https(STRICT, client))
    wait_until(lambda: run(command, ok=False).returncode == 0)
