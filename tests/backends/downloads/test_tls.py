"""A hub behind TLS, with a certificate of its own authority: what users with their own hub have."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from backends.downloads.progress import State
from backends.downloads.web import Options, Web
from backends.errors import BadRequest, RemoteRefused
from backends.remote.keys import Key
from tests.backends.downloads.conftest import FILE, MODEL, REPOSITORY, Downloads
from tests.backends.downloads.hub import Hub, serving


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that signs itself, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a hub for tests")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "hub.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture
def tls_hub(certificate: Path) -> Iterator[Hub]:
    with serving() as hub:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        hub.server.socket = context.wrap_socket(hub.server.socket, server_side=True)
        hub.url = hub.url.replace("http://", "https://")
        hub.put(REPOSITORY, FILE, MODEL)
        yield hub


def downloads_with(hub: Hub, folder: Path, ca_file: str = "") -> Downloads:
    place = Web(hub.url, Key("hf_secret"), Options(ca_file=ca_file, silence=5.0))
    return Downloads(folder / "models", [place])


def test_download_over_tls_with_an_own_authority(
    tls_hub: Hub, certificate: Path, tmp_path: Path
) -> None:
    downloads = downloads_with(tls_hub, tmp_path, str(certificate))
    tls_hub.faults.cut_at, tls_hub.faults.cuts = 0.5, 1
    assert downloads.run().row.state is State.DONE
    assert downloads.model.read_bytes() == MODEL
    assert tls_hub.sent == len(MODEL)
    assert all(one.headers["authorization"] == "Bearer hf_secret" for one in tls_hub.asked)


def test_unknown_authority_is_refused_with_what_to_do(tls_hub: Hub, tmp_path: Path) -> None:
    downloads = downloads_with(tls_hub, tmp_path)
    job = downloads.run()
    assert isinstance(job.error, RemoteRefused)
    assert "ca_file" in str(job.error)
    assert tls_hub.asked == []


def test_ca_file_that_is_none_is_said(tls_hub: Hub, tmp_path: Path) -> None:
    for path in (Path(__file__), tmp_path / "missing.pem"):
        job = downloads_with(tls_hub, tmp_path, str(path)).run()
        assert isinstance(job.error, BadRequest)
        assert str(path) in str(job.error)
