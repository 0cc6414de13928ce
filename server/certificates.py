"""The consortium's own certificate authority, and the server's certificate that it signs.

The authority is made once and stays for ten years: hospitals keep its certificate, so the server's
can be renewed without any of them noticing.
"""

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.errors import SettingsError
from common.kit import load_certificate
from common.whole_file import PRIVATE, PUBLIC, write_whole

AUTHORITY_DAYS, SERVER_DAYS = 3650, 397
# A hospital's clock may be a day behind; a certificate must not be of its future.
BACKDATED = timedelta(days=1)
LOOPBACK = ("localhost", "127.0.0.1")


def make_authority(consortium: str, key_file: Path, certificate_file: Path, now: datetime) -> None:
    """A new authority: its key (readable by its owner only) and its certificate.

    Args:
        consortium: is in the authority's name.
        key_file: where the key goes.
        certificate_file: where the certificate goes; this one hospitals get.
        now: the moment, UTC.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    name = _name(f"{consortium} OneSlice authority")
    usage = _key_usage(key_cert_sign=True, crl_sign=True)
    certificate = (
        _builder(name, name, key.public_key(), now, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(_authority_id(key.public_key()), critical=False)
        .sign(key, hashes.SHA384())
    )
    write_whole(key_file, _key_text(key), PRIVATE)
    write_whole(certificate_file, _certificate_text(certificate), PUBLIC)


def issue_server_certificate(
    authority: tuple[Path, Path],
    key_file: Path,
    certificate_file: Path,
    addresses: Sequence[str],
    now: datetime,
) -> None:
    """A new key and certificate for the server, signed by the authority.

    Args:
        authority: files of its key and its certificate.
        key_file: where the server's key goes, replaced if it exists.
        certificate_file: where its certificate goes, likewise.
        addresses: names and IP addresses that hospitals use; loopback is added.
        now: the moment, UTC.

    Raises:
        SettingsError: the authority cannot be read, or is over.
    """
    authority_key, authority_certificate = _load_authority(*authority, now)
    key = ec.generate_private_key(ec.SECP384R1())
    alternatives = [_host(address) for address in dict.fromkeys((*addresses, *LOOPBACK))]
    certificate = (
        _builder(
            _name(addresses[0][:64]),
            authority_certificate.subject,
            key.public_key(),
            now,
            SERVER_DAYS,
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(_authority_id(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA384())
    )
    write_whole(key_file, _key_text(key), PRIVATE)
    write_whole(certificate_file, _certificate_text(certificate), PUBLIC)


def read_certificate(path: Path) -> x509.Certificate:
    """The certificate in a file.

    Raises:
        SettingsError: there is none.
    """
    try:
        return load_certificate(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from None


def expiry(path: Path) -> datetime:
    """When the certificate in a file ends, UTC."""
    return read_certificate(path).not_valid_after_utc


def addresses_in(path: Path) -> tuple[str, ...]:
    """The names and IP addresses that a server's certificate in a file is good for."""
    found = read_certificate(path).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return tuple(str(one.value) for one in found.value)


def check_address(path: Path, address: str) -> None:
    """Refuses an address that hospitals would be told but the certificate is not good for.

    Raises:
        SettingsError: names the address and those in the certificate.
    """
    known = addresses_in(path)
    if str(_host(address).value) not in known:
        raise SettingsError(
            f"{path.name} is good for {', '.join(known)}, not for {address}: add it to `addresses` "
            "in consortium.toml, then `oneslice coordinator renew`"
        )


def load_key_of(key_file: Path, certificate_file: Path) -> ec.EllipticCurvePrivateKey:
    """The private key of a certificate.

    Raises:
        SettingsError: one of the files cannot be read, or they do not belong together.
    """
    try:
        key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise SettingsError(f"the key {key_file} cannot be read: {error}") from None
    certificate = read_certificate(certificate_file)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != (
        certificate.public_key()
    ):
        raise SettingsError(f"{key_file} is not the key of {certificate_file}")
    return key


def _load_authority(
    key_file: Path, certificate_file: Path, now: datetime
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    try:
        key = load_key_of(key_file, certificate_file)
    except SettingsError as error:
        raise SettingsError(f"{error}: restore both files of the authority") from None
    certificate = read_certificate(certificate_file)
    if certificate.not_valid_after_utc <= now:
        raise SettingsError(
            f"the authority ended on {certificate.not_valid_after_utc:%Y-%m-%d}: make a new "
            "consortium and invite all hospitals again"
        )
    return key, certificate


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    now: datetime,
    days: int,
) -> x509.CertificateBuilder:
    start = now.astimezone(UTC) - BACKDATED
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _authority_id(public_key: ec.EllipticCurvePublicKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(public_key)


def _host(address: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(address))
    except ValueError:
        return x509.DNSName(address.lower())


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _key_text(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _certificate_text(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
