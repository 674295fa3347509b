"""What SIGHUP reads again: keys and the certificate. What is broken changes nothing and is one line in the log.

Knows no signal and no request.
"""

from __future__ import annotations

import logging

from api.clients.client import Clients
from api.edge.keys import KeyRing, admin_key_ring, key_ring
from api.edge.tls import ServerCertificate, server_certificate
from api.errors import SettingsError
from api.server_settings import Settings

_LOG = logging.getLogger("powertrain.server")


def has_files(settings: Settings) -> bool:
    """True when there is anything to read again."""
    files = (settings.keys_file, settings.api_key_file, settings.admin_key_file, settings.tls_cert)
    return any(file is not None for file in files)


class Reloading:
    """The keys and the certificate of one server. Raises SettingsError when they are not usable at the start."""

    def __init__(self, settings: Settings, clients: Clients) -> None:
        self._settings = settings
        self._clients = clients
        self.keys = KeyRing()
        self.admin_keys = KeyRing()
        self._read_keys()
        self.certificate: ServerCertificate | None = server_certificate(settings)
        if self.certificate is not None:
            self.certificate.log_state()

    def reload(self) -> None:
        """Read the files again; each is taken whole or not at all. Call on the event loop."""
        try:
            self._read_keys()
        except SettingsError as error:
            _LOG.error("the keys stay as they were: %s", error)
        else:
            _LOG.info("keys read again; the keys are %s", ", ".join(self.keys.names) or "none")
        if self.certificate is None:
            return
        try:
            self.certificate.reload()
        except SettingsError as error:
            _LOG.error("the certificate stays as it was: %s", error)
        else:
            self.certificate.log_state()

    def _read_keys(self) -> None:
        keys = key_ring(self._settings)
        admin_keys = admin_key_ring(self._settings, keys)
        self._clients.limit(keys.limits)
        self.keys.replace(keys)
        self.admin_keys.replace(admin_keys)
