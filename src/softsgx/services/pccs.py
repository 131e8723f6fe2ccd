"""The collateral over HTTP, as a provisioning certificate caching service (PCCS) answers.

Paths, parameters, headers and status numbers are those of DCAP's (QuoteGeneration/pccs, routes,
controllers and services, DCAP 1.23), version 4 of the interface, for SGX. It knows one platform,
and nothing is registered or cached: the documents are made when they are asked for.

The standard library's server, a thread a connection: it serves a developer's verifiers, and a
framework for eight paths would be a dependency of everybody's.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Callable
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import time
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from softsgx.attest.certificates import ROOT_CRL_URL, Certificates, pem
from softsgx.attest.collateral import Collateral, Conditions
from softsgx.errors import UsageError

__all__ = ["Server"]

_PREFIX = "/sgx/certification/v4/"
_TIMEOUT_SECONDS = 10
_HOUR = 3600
_JSON, _PEM, _CRL = "application/json", "application/x-pem-file", "application/pkix-crl"


class _Refused(Exception):
    """A status of PCCS (constants/pccs_status_code.js) and its text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


def _invalid() -> _Refused:
    return _Refused(400, "Invalid request parameters.")


class _Answer:
    def __init__(self, kind: str, body: bytes, **headers: str) -> None:
        self.kind, self.body = kind, body
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


_Query = dict[str, str]


def _hex(query: _Query, name: str, digits: int) -> bytes:
    text = query.get(name, "")
    try:
        if len(text) == digits:
            return bytes.fromhex(text)
    except ValueError:
        pass
    raise _invalid()


def _update(query: _Query) -> None:
    if query.get("update", "standard").lower() not in ("standard", "early"):
        raise _invalid()


def _pckcert(c: Collateral, query: _Query) -> _Answer:
    """getPckCert(): for this platform whatever names it, at its TCB or one above."""
    if not 0 < len(query.get("qeid", "")) <= 260:
        raise _invalid()
    cpusvn, pcesvn = _hex(query, "cpusvn", 32), _hex(query, "pcesvn", 4)
    pceid = _hex(query, "pceid", 4)
    if "encrypted_ppid" in query:
        _hex(query, "encrypted_ppid", 768)
    platform = c.certificates.platform
    below = any(a < b for a, b in zip(cpusvn, platform.cpusvn, strict=True))
    if pceid != platform.pceid or below or int.from_bytes(pcesvn, "little") < platform.pcesvn:
        raise _Refused(462, "Certificates are not available for certain TCBs.")
    pck, chain = c.certificates.pck, c.certificates.platform_ca.chain
    return _Answer(
        _PEM,
        pem(pck.certificate).encode(),
        SGX_TCBm=(platform.cpusvn + platform.pcesvn.to_bytes(2, "little")).hex().upper(),
        SGX_FMSPC=platform.fmspc.hex().upper(),
        SGX_PCK_Certificate_CA_Type="platform",
        SGX_PCK_Certificate_Issuer_Chain=quote(chain, safe=""),
    )


def _pckcrl(c: Collateral, query: _Query) -> _Answer:
    """getPckCrl(): of the platform's CA; there is no CA of processors.

    PEM unless DER is asked for, as Intel's own service (a PCCS has hex; DCAP takes either).
    """
    ca = query.get("ca", "").lower()
    if ca not in ("platform", "processor"):
        raise _invalid()
    if ca == "processor":
        raise _Refused(404, "No cache data for this platform.")
    chain = quote(c.certificates.platform_ca.chain, safe="")
    if query.get("encoding", "").lower() == "der":
        return _Answer(_CRL, c.pck_crl, SGX_PCK_CRL_Issuer_Chain=chain)
    text = x509.load_der_x509_crl(c.pck_crl).public_bytes(Encoding.PEM)
    return _Answer(_PEM, text, SGX_PCK_CRL_Issuer_Chain=chain)


def _tcb(c: Collateral, query: _Query) -> _Answer:
    fmspc = _hex(query, "fmspc", 12)
    _update(query)
    if fmspc != c.certificates.platform.fmspc:
        raise _Refused(404, "No cache data for this platform.")
    body = c.signed("tcbInfo", c.tcb_info).encode()
    return _Answer(_JSON, body, TCB_Info_Issuer_Chain=_signing(c))


def _identity(which: str) -> Callable[[Collateral, _Query], _Answer]:
    def answer(c: Collateral, query: _Query) -> _Answer:
        _update(query)
        body = c.signed("enclaveIdentity", getattr(c, which)).encode()
        return _Answer(_JSON, body, SGX_Enclave_Identity_Issuer_Chain=_signing(c))

    return answer


def _signing(c: Collateral) -> str:
    return quote(c.certificates.tcb_signing.chain, safe="")


def _rootcacrl(c: Collateral, query: _Query) -> _Answer:  # noqa: ARG001
    return _Answer(_CRL, c.root_crl.hex().encode())  # rootcacrlService.js: hex, to this day


def _crl(c: Collateral, query: _Query) -> _Answer:
    """getCrl(): by the distribution point in a certificate."""
    uri = query.get("uri", "")
    if uri == ROOT_CRL_URL:
        return _Answer(_CRL, c.root_crl)
    raise _invalid()


_ROUTES: dict[str, Callable[[Collateral, _Query], _Answer]] = {
    "pckcert": _pckcert,
    "pckcrl": _pckcrl,
    "tcb": _tcb,
    "qe/identity": _identity("qe_identity"),
    "qve/identity": _identity("qve_identity"),
    "rootcacrl": _rootcacrl,
    "crl": _crl,
}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "softsgx-pccs"
    timeout = _TIMEOUT_SECONDS
    server: Server

    def do_GET(self) -> None:
        """Answer one request."""
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        route = _ROUTES.get(url.path.removeprefix(_PREFIX)) if _PREFIX in url.path else None
        try:
            if route is None or not url.path.startswith(_PREFIX):
                raise _Refused(404, "No such path; this is version 4, for SGX.")
            answer = route(self.server.collateral(), query)
            status = 200
        except _Refused as refused:
            status, answer = refused.status, _Answer("text/plain", refused.text.encode())
        self.send_response(status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Nothing: a verifier's log says what it asked."""


class Server(ThreadingHTTPServer):
    """A PCCS on an address; ``url`` is what a client is configured with.

    conditions: those of the collateral when it is issued at a time, which it is each hour anew.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(
        self,
        host: str,
        port: int,
        certificates: Certificates,
        conditions: Callable[[int], Conditions],
        *,
        tls: bool = False,
    ) -> None:
        self.certificates = certificates
        self._tls = _context(certificates, host) if tls else None
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            self.address_family = family
            super().__init__((host, port), _Handler)
        except OSError as error:
            raise UsageError(f"--listen {host}:{port}: {error.strerror}") from None
        name = f"[{host}]" if ":" in host else host
        self.url = f"http{'s' if tls else ''}://{name}:{self.server_port}{_PREFIX}"
        self._issued = lru_cache(2)(lambda at: Collateral(certificates, conditions(at)))

    def collateral(self) -> Collateral:
        """That of this hour."""
        return self._issued(int(time()) // _HOUR * _HOUR)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection, in its own thread; a TLS handshake is made there, too."""
        if self._tls is None:
            super().finish_request(request, client_address)
            return
        request.settimeout(_TIMEOUT_SECONDS)
        with self._tls.wrap_socket(request, server_side=True) as wrapped:
            super().finish_request(wrapped, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away, or speaks no HTTP, is nobody's concern."""


def _context(certificates: Certificates, host: str) -> ssl.SSLContext:
    issued = certificates.server(host)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # It takes files alone: the key lies in memory, under a name of this process.
    fd = os.memfd_create("softsgx-pccs", os.MFD_CLOEXEC)
    try:
        os.write(fd, certificates.key_pem(issued) + issued.chain.encode())
        context.load_cert_chain(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
    return context
