from __future__ import annotations

import hashlib
import io
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import platformdirs
import pytest
import torchvision.datasets

from pfstudy.data import downloading, fingerprint
from pfstudy.data.published import load
from pfstudy.data.versions import VERSIONS
from pfstudy.errors import PfstudyError
from pfstudy.schema.config import Data
from published_files import WRITERS, files_of

KINDS = {
    "cifar10": torchvision.datasets.CIFAR10,
    "cifar100": torchvision.datasets.CIFAR100,
    "stl10": torchvision.datasets.STL10,
}
Serve = Callable[..., Data]
every_dataset = pytest.mark.parametrize("name", [*KINDS, "svhn"])


@dataclass
class Server:
    """Serves files on the loopback interface, and counts what is asked for.

    Attributes:
        url: Address, without a slash at its end.
        files: Content of each file, by name.
        asked: Names, in the order in which they were asked for.
        seconds: How long it takes over a file, half of which it sends at once.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    seconds: float = 0


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.removeprefix("/")
            state.asked.append(name)
            content = state.files.get(name)
            if content is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            half = len(content) // 2
            try:
                self.wfile.write(content[:half])
                time.sleep(state.seconds)
                self.wfile.write(content[half:])
            except OSError:
                pass  # whoever asked is gone

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setenv("no_proxy", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True  # one may be in the middle of a file
        state.url = f"http://127.0.0.1:{http.server_address[1]}"
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield state
        http.shutdown()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the user."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return platformdirs.user_cache_path("pfstudy")


def describe(name: str, path: Path | None = None) -> Data:
    size, classes = 96 if name == "stl10" else 32, 100 if name == "cifar100" else 10
    where = None if path is None else str(path)
    return Data(name, size, 3, classes, 0, path=where, download=True, verify=False)


@pytest.fixture
def serve(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Serve a small dataset as its authors do, and have torchvision look for it here."""

    def serve(name: str, url: str = server.url) -> Data:
        folder = WRITERS[name](tmp_path / "served")
        if name == "svhn":
            listed: dict[str, list[str]] = {}
            for part in ("train", "test"):
                file = f"{part}_32x32.mat"
                server.files[file] = (folder / file).read_bytes()
                md5 = hashlib.md5(server.files[file]).hexdigest()
                listed[part] = [f"{url}/{file}", file, md5]
            monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", listed)
            return describe(name, folder)
        (inner,) = folder.iterdir()
        (inner / "readme.html").write_text("not needed")
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            archive.add(inner, inner.name)
        kind, content = KINDS[name], packed.getvalue()
        server.files[kind.filename] = content
        monkeypatch.setattr(kind, "url", f"{url}/{kind.filename}")
        monkeypatch.setattr(kind, "tgz_md5", hashlib.md5(content).hexdigest())
        return describe(name, folder)

    return serve


def start(data: Data, output: Path) -> BaseProcess:
    """Identify a dataset in a process of its own, which writes to a file."""

    def identify() -> None:
        with output.open("w") as sys.stdout, redirect_stderr(sys.stdout):
            print(fingerprint(data))

    process = get_context("fork").Process(target=identify)
    process.start()
    return process


def seen(folder: Path) -> list[str]:
    """What is in a folder but a lock."""
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


@every_dataset
def test_what_is_not_there_is_downloaded_to_the_cache(
    name: str,
    server: Server,
    cache: Path,
    serve: Serve,
    capsys: pytest.CaptureFixture[str],
) -> None:
    served = serve(name)
    data = describe(name)
    assert fingerprint(data) == fingerprint(served)
    said = capsys.readouterr().err
    assert f"pfstudy: downloading {name} from {server.url}/" in said
    assert f" to {cache / name}\n" in said
    version = VERSIONS[name][0]
    kept = {path.name for path in (cache / name / version.folder).iterdir()}
    assert kept - {".lock"} == set(version.digests)
    asked = list(server.asked)
    assert len(load(data).labels_N) == len(load(served).labels_N)
    assert server.asked == asked
    assert not capsys.readouterr().err


def test_an_empty_folder_is_filled(serve: Serve, tmp_path: Path, cache: Path) -> None:
    served = serve("cifar10")
    folder = tmp_path / "mine"
    folder.mkdir()
    assert fingerprint(describe("cifar10", folder)) == fingerprint(served)
    assert seen(folder) == ["cifar-10-batches-py"]
    assert not cache.exists()


def test_a_cache_that_lacks_a_file_is_filled_again(serve: Serve, cache: Path) -> None:
    served = serve("svhn")
    fingerprint(describe("svhn"))
    (cache / "svhn" / "test_32x32.mat").unlink()
    assert fingerprint(describe("svhn")) == fingerprint(served)


def test_what_was_downloaded_is_verified_as_ever(serve: Serve, cache: Path) -> None:
    serve("cifar10")
    with pytest.raises(PfstudyError, match="data_batch_1 is not as it was published"):
        fingerprint(replace(describe("cifar10"), verify=True))


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
class TestTrouble:
    @pytest.mark.parametrize(
        ("trouble", "said"),
        [
            ("another file", "File not found or corrupted"),
            ("half a file", "File not found or corrupted"),
            ("no such file", "HTTP Error 404: Not Found"),
            ("no network", "Connection refused"),
        ],
    )
    def test_leaves_nothing_and_says_what_to_do(
        self, trouble: str, said: str, serve: Serve, server: Server, cache: Path
    ) -> None:
        serve("cifar10", "http://127.0.0.1:9" if trouble == "no network" else server.url)
        (name,), (content,) = server.files, server.files.values()
        if trouble == "no such file":
            server.files.clear()
        if trouble == "another file":
            server.files[name] = b"text"
        if trouble == "half a file":
            server.files[name] = content[: len(content) // 2]
        with pytest.raises(PfstudyError) as raised:
            fingerprint(describe("cifar10"))
        sentence = str(raised.value)
        assert sentence.startswith(f"cifar10 cannot be downloaded to {cache / 'cifar10'}: ")
        assert said in sentence
        assert sentence.endswith("download it elsewhere, unpack it, and give data.path=FOLDER.")
        assert seen(cache / "cifar10") == []

    def test_a_server_that_says_nothing_is_given_up(
        self,
        server: Server,
        serve: Serve,
        cache: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        serve("cifar10")
        server.seconds = 20
        monkeypatch.setattr(downloading, "_PATIENCE_SECONDS", 0.2)
        with pytest.raises(PfstudyError, match="timed out"):
            fingerprint(describe("cifar10"))
        assert seen(cache / "cifar10") == []

    def test_what_a_killed_download_left_is_no_dataset(
        self, serve: Serve, server: Server, tmp_path: Path, cache: Path
    ) -> None:
        served = serve("cifar10")
        folder = tmp_path / "mine"
        folder.mkdir()
        server.seconds = 60
        process = start(describe("cifar10", folder), tmp_path / "output")
        archive = folder / ".download" / torchvision.datasets.CIFAR10.filename
        give_up = time.monotonic() + 60
        while not (archive.exists() and archive.stat().st_size) and time.monotonic() < give_up:
            time.sleep(0.05)
        process.kill()
        process.join()
        assert 0 < archive.stat().st_size < len(server.files[archive.name])
        with pytest.raises(PfstudyError, match="does not hold cifar10"):
            fingerprint(replace(describe("cifar10", folder), download=False))
        server.seconds = 0
        assert fingerprint(describe("cifar10", folder)) == fingerprint(served)
        assert seen(folder) == ["cifar-10-batches-py"]

    def test_two_processes_download_once(
        self, serve: Serve, server: Server, tmp_path: Path, cache: Path
    ) -> None:
        served = serve("cifar10")
        server.seconds = 1
        folder = tmp_path / "mine"
        folder.mkdir()
        outputs = [tmp_path / "one", tmp_path / "other"]
        for process in [start(describe("cifar10", folder), output) for output in outputs]:
            process.join()
        said = [output.read_text().splitlines() for output in outputs]
        assert [lines[-1] for lines in said] == [fingerprint(served)] * 2
        assert sum("downloading" in line for lines in said for line in lines) == 1
        by_two = len(server.asked)
        server.asked.clear()
        fingerprint(describe("cifar10"))
        assert len(server.asked) == by_two

    def test_a_folder_that_takes_no_files_is_named(self, cache: Path) -> None:
        cache.parent.mkdir(parents=True)
        cache.write_text("no folder")
        with pytest.raises(PfstudyError, match=r"svhn/\.download cannot be written"):
            fingerprint(describe("svhn"))


def test_files_of_the_served_data_are_those_that_are_read(serve: Serve) -> None:
    served = serve("stl10")
    assert {path.name for path in files_of(served)} == set(VERSIONS["stl10"][0].digests)
