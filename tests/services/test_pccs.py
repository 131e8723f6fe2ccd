"""The PCCS as clients ask it: dcap-qvl's own, and raw requests that are wrong."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import unquote

import dcap_qvl
import pytest
from cryptography import x509

from softsgx.attest.collateral import Conditions
from softsgx.errors import UsageError
from softsgx.services import pccs as service
from softsgx.services.pccs import Server
from tests.attest.quoted import device, quote
from tests.command import PATIENCE

V4 = "/sgx/certification/v4/"


@contextmanager
def serving(*, tls: bool = False, **conditions: Any) -> Iterator[Server]:
    certificates = device().quoting.certificates

    def when(at: int) -> Conditions:
        return Conditions(at, **conditions)

    with Server("127.0.0.1", 0, certificates, when, tls=tls) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends no connection of itself while anybody waits here."""
    monkeypatch.setattr(service, "_TIMEOUT_SECONDS", 2 * PATIENCE)
    monkeypatch.setattr(service._Handler, "timeout", 2 * PATIENCE)


@pytest.fixture(scope="module")
def pccs() -> Iterator[Server]:
    with serving() as server:
        yield server


def get(server: Server, path: str) -> tuple[HTTPResponse, bytes]:
    connection = HTTPConnection("127.0.0.1", server.server_port, timeout=PATIENCE)
    connection.request("GET", path)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response, body


def _fetched(server: Server) -> str:
    collateral = asyncio.run(_fetch(server.url))
    root = device().quoting.certificates.root.der
    report = dcap_qvl.verify_with_root_ca(quote(), collateral, root, int(time.time()))
    return str(report.status)


async def _fetch(url: str) -> dcap_qvl.QuoteCollateralV3:
    return await dcap_qvl.get_collateral(url, quote())


def test_dcap_qvl_gets_all_that_it_needs_and_accepts(pccs: Server) -> None:
    assert _fetched(pccs) == "UpToDate"


def test_conditions_reach_who_asks() -> None:
    with serving(tcb_status="OutOfDate") as server:
        assert _fetched(server) == "OutOfDate"
    with serving(revoked=frozenset({"pck"})) as server, pytest.raises(ValueError, match="Revoked"):
        _fetched(server)


def test_the_pck_certificate_is_as_the_quotes(pccs: Server) -> None:
    query = f"qeid={'0' * 32}&cpusvn=0101{'0' * 28}&pcesvn=0100&pceid=0000"
    query += "&encrypted_ppid=" + "0" * 768
    response, body = get(pccs, f"{V4}pckcert?{query}")
    assert response.status == 200
    chain = body.decode() + unquote(response.headers["SGX-PCK-Certificate-Issuer-Chain"])
    quoted = dcap_qvl.parse_quote(quote()).cert_chain_pem_bytes()
    assert x509.load_pem_x509_certificates(chain.encode()) == x509.load_pem_x509_certificates(
        quoted
    )
    assert response.headers["SGX-FMSPC"] == dcap_qvl.parse_quote(quote()).fmspc()
    assert response.headers["SGX-TCBm"] == "0101" + "0" * 28 + "0100"
    lower = query.replace("cpusvn=0101", "cpusvn=0001")
    assert get(pccs, f"{V4}pckcert?{lower}")[0].status == 462


def test_the_root_signs_what_is_served(pccs: Server) -> None:
    crl = x509.load_der_x509_crl(bytes.fromhex(get(pccs, f"{V4}rootcacrl")[1].decode()))
    root = device().quoting.certificates.root.certificate
    assert crl.is_signature_valid(root.public_key())  # type: ignore[arg-type]
    points = root.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    (uri,) = list(points[0].full_name or [])
    assert get(pccs, f"{V4}crl?uri={uri.value}")[1] == bytes.fromhex(
        get(pccs, f"{V4}rootcacrl")[1].decode()
    )
    der = x509.load_der_x509_crl(get(pccs, f"{V4}pckcrl?ca=platform&encoding=der")[1])
    assert x509.load_pem_x509_crl(get(pccs, f"{V4}pckcrl?ca=platform")[1]) == der
    identity = json.loads(get(pccs, f"{V4}qve/identity")[1])["enclaveIdentity"]
    assert (identity["id"], identity["version"]) == ("QVE", 2)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"{V4}tcb", 400),
        (f"{V4}tcb?fmspc=12", 400),
        (f"{V4}tcb?fmspc=zzzzzzzzzzzz", 400),
        (f"{V4}tcb?fmspc=000000000000", 404),
        (f"{V4}pckcrl", 400),
        (f"{V4}pckcrl?ca=other", 400),
        (f"{V4}pckcrl?ca=processor", 404),
        (f"{V4}pckcert", 400),
        (f"{V4}qe/identity?update=never", 400),
        (f"{V4}crl?uri=https://example.org/x", 400),
        (f"{V4}nothing", 404),
        ("/sgx/certification/v3/rootcacrl", 404),
        (f"/tdx{V4}rootcacrl", 404),
        ("/", 404),
        ("//", 404),
    ],
)
def test_mistakes_have_the_numbers_of_a_pccs(pccs: Server, path: str, status: int) -> None:
    assert get(pccs, path)[0].status == status


@pytest.mark.usefixtures("patient")
def test_clients_that_say_nothing_or_nonsense_hold_up_nobody(pccs: Server) -> None:
    silent = [socket.create_connection(("127.0.0.1", pccs.server_port)) for _ in range(20)]
    silent[0].sendall(b"GET")
    silent[1].sendall(b"\0\xff" * 100 + b"\r\n\r\n")
    silent[2].sendall(b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 1000)
    silent[3].close()
    assert get(pccs, f"{V4}rootcacrl")[0].status == 200
    for sock in silent:
        sock.close()


@pytest.mark.usefixtures("patient")
def test_tls_is_under_the_same_root() -> None:
    root = device().quoting.certificates.root
    with serving(tls=True) as server:
        assert server.url.startswith("https://127.0.0.1:")
        # One that never begins its handshake holds up nobody.
        silent = socket.create_connection(("127.0.0.1", server.server_port))
        trusting = ssl.create_default_context(cadata=root.chain)
        connection = HTTPSConnection(
            "127.0.0.1", server.server_port, timeout=PATIENCE, context=trusting
        )
        connection.request("GET", f"{V4}rootcacrl")
        assert connection.getresponse().status == 200
        connection.close()
        stranger = HTTPSConnection("127.0.0.1", server.server_port, timeout=PATIENCE)
        with pytest.raises(ssl.SSLCertVerificationError):
            stranger.request("GET", "/")
        silent.close()


def test_an_address_that_is_taken_is_told(pccs: Server) -> None:
    certificates = device().quoting.certificates
    with pytest.raises(UsageError, match="in use"):
        Server("127.0.0.1", pccs.server_port, certificates, Conditions)
    with pytest.raises(UsageError, match=r"--listen nowhere\.invalid:1"):
        Server("nowhere.invalid", 1, certificates, Conditions)
