"""Certificates for servers of tests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat


def write_certificates(address: str, folder: Path) -> tuple[Path, Path]:
    """Make a private authority and a server's certificate of it.

    Returns:
        Files with the authority's certificate, and with the server's and its key.
    """
    own, server = generate_private_key(SECP256R1()), generate_private_key(SECP256R1())
    authority, certificate = folder / "authority.pem", folder / "server.pem"
    authority.write_bytes(_signed("authority", own, own, x509.BasicConstraints(ca=True, path_length=None)))
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))])
    private = server.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    certificate.write_bytes(_signed("server", server, own, names) + private)
    return authority, certificate


def _signed(
    name: str, key: EllipticCurvePrivateKey, by: EllipticCurvePrivateKey, extension: x509.ExtensionType
) -> bytes:
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "authority")]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(extension, critical=False)
        .sign(by, SHA256())
    )
    return certificate.public_bytes(Encoding.PEM)
