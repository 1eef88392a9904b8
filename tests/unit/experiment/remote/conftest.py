"""Addresses of stores: in memory, in a folder, and in a bucket of a server that speaks S3."""

from __future__ import annotations

import sys
import uuid
from pathlib import Path

import pytest

from ensemw2s.experiment import remote as remote_module
from ensemw2s.experiment import remote_locks

sys.path.insert(0, str(Path(__file__).parent))  # remotekit


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(remote_module, "PAUSE", 0.001)
    monkeypatch.setattr(remote_locks, "POLL", 0.02)
    monkeypatch.setattr(remote_locks, "SETTLE", 0.05)
    monkeypatch.setenv("ENSEMW2S_MIRROR", str(tmp_path / "mirror"))


@pytest.fixture(scope="module")
def bucket() -> str:
    """A bucket of a server that speaks S3, in this process."""
    pytest.importorskip("s3fs", reason="s3fs is not installed: pip install s3fs")
    server_module = pytest.importorskip("moto.server", reason="moto is not installed: pip install 'moto[s3,server]'")
    import logging

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    shelf = f"shelf-{uuid.uuid4().hex}"  # what one server holds, the next in this process holds too
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("KEY", "k"), ("SECRET", "s"), ("ENDPOINT_URL", f"http://{host}:{port}")):
            patch.setenv(f"FSSPEC_S3_{name}", value)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        import s3fs
        from fsspec.config import conf, set_conf_env

        set_conf_env(conf)  # as a fresh process would read it
        s3fs.S3FileSystem(key="k", secret="s", endpoint_url=f"http://{host}:{port}").mkdir(shelf)
        yield f"s3://{shelf}"
        conf.pop("s3", None)
        s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture(params=["memory", "file", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    name = uuid.uuid4().hex
    if request.param == "s3":
        return f"{request.getfixturevalue('bucket')}/{name}"
    return f"memory://{name}/store" if request.param == "memory" else (tmp_path / "far away").as_uri()


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):  # type: ignore[no-untyped-def]
    """Become another machine: one with a mirror of its own."""
    places = iter(range(100))

    def move() -> None:
        monkeypatch.setenv("ENSEMW2S_MIRROR", str(tmp_path / f"machine {next(places)}"))

    return move
