"""What pages speak to that is no file: a hub, and a server of an ensemble."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dockit.pages import ROOT

sys.path.insert(0, str(ROOT / "tests/unit/ensemble"))  # pushkit


@contextlib.contextmanager
def hub(cache: Path) -> Iterator[Any]:
    """A hub on this machine that takes uploads."""
    from pushkit import serving

    with serving(cache) as found:
        yield found


@contextlib.contextmanager
def server(folder: Path) -> Iterator[str]:
    """The address of a server of this ensemble, as ``ensemw2s serve`` makes it, in a thread."""
    from ensemw2s.ensemble.model import Ensemble
    from ensemw2s.server.app import create_app
    from ensemw2s.server.running import Server

    found = Server(create_app(Ensemble.from_pretrained(folder), folder.name), "127.0.0.1", 0)
    thread = threading.Thread(target=found.run, daemon=True)
    thread.start()
    while not found.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield f"http://127.0.0.1:{found.servers[0].sockets[0].getsockname()[1]}"
    found.should_exit = True
    thread.join()
