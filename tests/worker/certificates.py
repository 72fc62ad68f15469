"""A certificate authority of the tests' own, and what a receiver may show of it."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime.now(UTC)  # noqa: TID251 - OpenSSL looks at the clock, too
DAY = timedelta(days=1)


class Authority:
    """Signs certificates; `file` holds its own, which a sender may trust."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
        made = self._built(self._name, self._key, NOW + DAY)
        made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.file = str(folder / "ca.pem")
        self._write("ca.pem", made.sign(self._key, hashes.SHA256()))

    def context(self, host: str, until: datetime = NOW + DAY) -> ssl.SSLContext:
        """Return TLS for a receiver whose certificate is for `host` and valid `until` then."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        names = x509.SubjectAlternativeName([x509.DNSName(host)])
        made = self._built(subject, key, until).add_extension(names, critical=False)
        chain = self._write(f"{host}.pem", made.sign(self._key, hashes.SHA256()), key)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(chain)
        return context

    def another(self) -> Path:
        """Return a folder for another authority."""
        folder = self._folder / "another"
        folder.mkdir()
        return folder

    def _built(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, until: datetime
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(until - 10 * DAY)
            .not_valid_after(until)
        )

    def _write(
        self, name: str, made: x509.Certificate, key: ec.EllipticCurvePrivateKey | None = None
    ) -> Path:
        path = self._folder / name
        path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        if key is not None:
            with path.open("ab") as file:
                file.write(
                    key.private_bytes(
                        serialization.Encoding.PEM,
                        serialization.PrivateFormat.PKCS8,
                        serialization.NoEncryption(),
                    )
                )
        return path
