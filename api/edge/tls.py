"""The server's certificate: read, checked against its key, tried once, and read again when it was renewed.

A reload makes a new context from files that were read whole and found good; connections that are open keep theirs, new
ones get the new one. Knows no connection.
"""

from __future__ import annotations

import logging
import ssl
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from api.errors import SettingsError
from api.server_settings import Settings

_LOG = logging.getLogger("powertrain.server")
_SOON_S = 14 * 24 * 3600
_MISMATCH = "KEY_VALUES_MISMATCH"


class ServerCertificate:
    """A certificate with its key, in PEM. ``clock`` is the time of day. Raises SettingsError when they do not serve."""

    def __init__(self, cert: Path, key: Path, clock: Callable[[], float] = time.time) -> None:
        self._cert = cert
        self._key = key
        self._clock = clock
        self.context = self._read()

    def reload(self) -> None:
        """Serve new connections with what the files hold now. Raises SettingsError and goes on as before otherwise."""
        self.context = self._read()

    def _read(self) -> ssl.SSLContext:
        for setting, path in (("tls_cert", self._cert), ("tls_key", self._key)):
            try:
                path.read_bytes()  # the library does not say which of the two it could not read
            except OSError as error:
                raise SettingsError(f"{setting}: {path} is not readable: {error.strerror}") from error
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self._cert, self._key, password=self._refuse_encrypted)
        except ssl.SSLError as error:
            if error.reason == _MISMATCH:
                raise SettingsError(
                    f"tls_key: {self._key} is not the key of the certificate in {self._cert}"
                ) from error
            raise SettingsError(f"tls_cert, tls_key: {self._cert} and {self._key} are not both PEM: {error}") from error
        return context

    def _refuse_encrypted(self) -> NoReturn:
        raise SettingsError(
            f"tls_key: {self._key} is encrypted, and nobody is there to type its password; decrypt it with "
            f"'openssl pkey -in {self._key} -out KEY.pem'"
        )

    def log_state(self) -> None:
        """Say in the log until when the certificate is valid, and what clients or the operator may not like of it."""
        if self._key.stat().st_mode & stat.S_IROTH:
            _LOG.warning("tls_key: everybody on this machine may read %s", self._key)
        try:
            ends = _valid_until(self.context, self._cert)
        except ssl.SSLError as error:  # a client will find the same
            reason = getattr(error, "verify_message", None) or error.reason
            _LOG.warning("tls_cert: clients will refuse %s: %s", self._cert, reason)
            return
        left_s = ssl.cert_time_to_seconds(ends) - self._clock()
        level = logging.WARNING if left_s < _SOON_S else logging.INFO
        _LOG.log(level, "HTTPS with the certificate in %s, valid until %s", self._cert, ends)


def _valid_until(server: ssl.SSLContext, cert: Path) -> str:
    """When the certificate ends, as OpenSSL writes it. Raises ssl.SSLError for what no client accepts: one that ended.

    A client that trusts the certificate itself is connected once, in memory.
    """
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    trusting.load_verify_locations(cert)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client_side = trusting.wrap_bio(to_client, to_server)
    server_side = server.wrap_bio(to_server, to_client, server_side=True)
    for side in (client_side, server_side, client_side):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    found = client_side.getpeercert() or {}
    return str(found["notAfter"])


def server_certificate(settings: Settings) -> ServerCertificate | None:
    """The certificate of the settings, None where plain HTTP is served. Raises SettingsError."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return ServerCertificate(Path(settings.tls_cert), Path(settings.tls_key))
