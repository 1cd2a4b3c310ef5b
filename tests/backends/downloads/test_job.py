"""From a repository to a model: what is made of listings, pins and headers."""

from __future__ import annotations

import json
import os
import struct

import pytest

from backends import catalogue, starter
from backends.downloads import record, verifier
from backends.downloads.choice import Machine
from backends.downloads.progress import State
from backends.errors import BadRequest, Conflict, ModelFileError, RemoteProtocolError
from tests.backends import gguf_files
from tests.backends.downloads.conftest import (
    FILE,
    MODEL,
    REPOSITORY,
    Downloads,
    MakeDownloads,
    gguf,
)
from tests.backends.downloads.hub import Hub


def test_record_pins_commit_and_hashes(hub: Hub, downloads: Downloads) -> None:
    downloads.run()
    kept = record.read(downloads.folder / "coder")
    assert (kept.name, kept.repository, kept.revision) == ("coder", REPOSITORY, "main")
    assert kept.commit == hub.commit(REPOSITORY)
    assert (kept.main, kept.quantisation) == (FILE, "Q8_0")
    (file,) = kept.files
    assert (file.file, file.size, file.source) == (FILE, len(MODEL), FILE)
    assert all(one.ok for one in verifier.verify(downloads.folder / "coder", kept))


def test_verify_tells_a_flipped_bit_a_short_and_a_missing_file(downloads: Downloads) -> None:
    downloads.run()
    folder, kept = downloads.folder / "coder", record.read(downloads.folder / "coder")
    data = bytearray(MODEL)
    data[len(data) // 2] ^= 1
    reasons = []
    for damaged in (data, MODEL[:-1], None):
        if damaged is None:
            (folder / FILE).unlink()
        else:
            (folder / FILE).write_bytes(damaged)
        (verdict,) = verifier.verify(folder, kept)
        assert not verdict.ok
        reasons.append(verdict.reason)
    assert reasons[0] == "its contents have changed"
    assert reasons[1].startswith("it has ")
    assert reasons[2] == "it is missing"


def test_verify_reads_no_pipe_and_no_device(downloads: Downloads) -> None:
    downloads.run()
    folder, kept = downloads.folder / "coder", record.read(downloads.folder / "coder")
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
        (folder / FILE).unlink()
        make(folder / FILE)
        (verdict,) = verifier.verify(folder, kept)
        assert (verdict.ok, verdict.sha256, verdict.reason) == (False, "", "it is no file")


def test_model_that_is_there_is_not_fetched_again(hub: Hub, downloads: Downloads) -> None:
    downloads.run()
    hub.sent = 0
    job = downloads.run()
    assert (job.row.state, hub.sent) == (State.DONE, 0)
    assert "there already" in job.row.reason


def test_other_version_at_the_hub_is_said_and_replaces_nothing(
    hub: Hub, downloads: Downloads
) -> None:
    downloads.run()
    hub.put(REPOSITORY, FILE, gguf(seed=1))
    job = downloads.run()
    assert isinstance(job.error, Conflict)
    assert hub.commit(REPOSITORY)[:12] in str(job.error)
    assert downloads.model.read_bytes() == MODEL
    # Under another name it can be had, and that it is another file is said.
    other = downloads.run(name="other")
    assert other.row.state is State.DONE
    assert "another file than the one that was downloaded before" in other.row.reason


def test_pin_outlives_the_model(hub: Hub, downloads: Downloads) -> None:
    downloads.run()
    for file in os.listdir(downloads.folder / "coder"):
        (downloads.folder / "coder" / file).unlink()
    (downloads.folder / "coder").rmdir()
    hub.put(REPOSITORY, FILE, gguf(seed=1))
    assert "another file than the one" in downloads.run().row.reason


def test_revision_is_a_commit_that_stays(hub: Hub, downloads: Downloads) -> None:
    commit = hub.commit(REPOSITORY)
    assert downloads.run(revision=commit).row.state is State.DONE
    assert all(commit in one.path for one in hub.files())


def test_listing_of_many_pages_is_read_to_its_end(hub: Hub, downloads: Downloads) -> None:
    for number in range(7):
        hub.put(REPOSITORY, f"notes-{number}.json", b"{}")
    hub.faults.page = 3
    assert downloads.run().row.state is State.DONE
    assert sum("/tree/" in one.path for one in hub.asked) == 3


def test_several_models_need_a_choice_and_get_it(hub: Hub, downloads: Downloads) -> None:
    hub.put(REPOSITORY, "another-Q8_0.gguf", gguf(100_000, seed=2))
    job = downloads.run()
    assert isinstance(job.error, BadRequest)
    assert "another-Q8_0.gguf" in str(job.error)
    assert hub.files() == []
    assert downloads.run(file="another-Q8_0.gguf").row.state is State.DONE
    there = sorted(os.listdir(downloads.folder / "coder"))
    assert there == ["another-Q8_0.gguf", record.NAME]


def test_resume_takes_the_same_quantisation_when_memory_has_changed(
    hub: Hub, downloads: Downloads
) -> None:
    small = gguf(1_000_000, seed=3)
    hub.put(REPOSITORY, "coder-Q4_K_M.gguf", small)
    downloads.retries, hub.faults.cut_at = 0, 0.5
    downloads.run()
    assert downloads.part.exists()  # the finer one
    hub.faults.cut_at = 0.0
    needs = len(small) + 200_000_000
    downloads.machine = Machine(needs, needs, 2048)
    assert downloads.run(chosen=FILE).row.state is State.DONE
    assert downloads.model.exists()


def test_split_model_is_one_model(hub: Hub, downloads: Downloads) -> None:
    parts = [f"split-Q8_0-{n:05}-of-00002.gguf" for n in (1, 2)]
    hub.repositories[REPOSITORY] = {name: gguf(200_000, seed=n) for n, name in enumerate(parts)}
    assert downloads.run().row.state is State.DONE
    folder = downloads.folder / "coder"
    assert sorted(os.listdir(folder)) == [record.NAME, *parts]
    assert record.read(folder).main == parts[0]
    header = catalogue.read_header(folder / parts[0])
    assert header.file_bytes == sum(map(len, hub.repositories[REPOSITORY].values()))
    assert header.tensor_count == 2
    (folder / parts[1]).unlink()
    with pytest.raises(ModelFileError, match="00002-of-00002"):
        catalogue.read_header(folder / parts[0])


def safetensors(tensors: int = 1) -> bytes:
    header = {f"t{n}": {"dtype": "F32", "shape": [8], "data_offsets": [32 * n, 32 * (n + 1)]}
              for n in range(tensors)}  # fmt: skip
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(32 * tensors)


def test_folder_of_safetensors_is_one_model(hub: Hub, downloads: Downloads) -> None:
    hub.repositories[REPOSITORY] = {
        "config.json": b'{"model_type": "qwen2", "max_position_embeddings": 4096}',
        "tokenizer.json": b'{"added_tokens": []}',
        "model.safetensors": safetensors(),
        "pytorch_model.bin": b"a pickle",
        "modeling.py": b"print('code of its own')",
        ".gitattributes": b"",
    }
    hub.small = {"config.json", "tokenizer.json"}  # with git's hash alone
    assert downloads.run().row.state is State.DONE
    folder = downloads.folder / "coder"
    wanted = ["config.json", record.NAME, "model.safetensors", "tokenizer.json"]
    assert sorted(os.listdir(folder)) == sorted(wanted)
    kept = record.read(folder)
    assert kept.main == ""
    assert all(len(one.sha256) == 64 for one in kept.files)
    assert record.model_path(folder, kept) == folder


def test_small_file_is_checked_by_gits_hash(hub: Hub, downloads: Downloads) -> None:
    hub.repositories[REPOSITORY] = {
        "config.json": b'{"model_type": "qwen2"}' + b" " * 100,
        "tokenizer.json": b'{"added_tokens": []}' + b" " * 100,
        "model.safetensors": safetensors(),
    }
    hub.small = {"config.json", "tokenizer.json"}
    hub.faults.flip = 110
    job = downloads.run()
    assert isinstance(job.error, ModelFileError)
    assert "config.json is not what the hub says" in str(job.error)


BAD = {
    "no magic": gguf(100_000, magic=b"GGML"),
    "truncated": gguf(100_000)[:-4000],
    "a lying size": gguf_files.gguf(
        gguf_files.values(), [gguf_files.tensor("one", (1 << 20, 1 << 10))], bytes(4096)
    ),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_bad_header_never_becomes_a_model(hub: Hub, downloads: Downloads, data: bytes) -> None:
    hub.repositories[REPOSITORY] = {FILE: data}
    job = downloads.run()
    assert isinstance(job.error, ModelFileError)
    assert "no model" in str(job.error)
    assert os.listdir(downloads.folder) == [".downloads"]
    assert (downloads.folder / ".downloads" / ".quarantine" / "coder" / FILE).exists()


def test_folder_that_is_somebody_elses_is_left_alone(hub: Hub, downloads: Downloads) -> None:
    own = downloads.folder / "coder"
    own.mkdir(parents=True)
    (own / "mine.txt").write_text("mine")
    assert isinstance(downloads.run().error, Conflict)
    assert (own / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "path", ["../evil.gguf", "a/../../evil.gguf", "/etc/evil.gguf", "..\\evil.gguf"]
)
def test_names_that_lead_out_are_never_fetched(hub: Hub, downloads: Downloads, path: str) -> None:
    hub.put(REPOSITORY, path, MODEL)
    assert downloads.run().row.state is State.DONE  # the good one
    assert len(hub.files()) == 1
    assert not list(downloads.folder.parent.glob("evil*"))


@pytest.mark.parametrize(
    "name", ['{"main": "../x.gguf"}', "{}", "[]", "{", '{"files": [{"file": "../../x"}]}']
)
def test_record_that_was_tampered_with_is_no_model(downloads: Downloads, name: str) -> None:
    downloads.run()
    folder = downloads.folder / "coder"
    good = json.loads((folder / record.NAME).read_text())
    try:
        changed = json.dumps(good | json.loads(name))
    except (TypeError, ValueError):
        changed = name
    assert [kept.name for _, kept in record.found(downloads.folder)] == ["coder"]
    (folder / record.NAME).write_text(changed if name != "{}" else name)
    with pytest.raises(ModelFileError):
        record.read(folder)
    assert list(record.found(downloads.folder)) == []


def test_record_that_nests_without_end_hides_no_other_model(downloads: Downloads) -> None:
    downloads.run()
    deep = downloads.folder / "deep"
    deep.mkdir()
    (deep / record.NAME).write_text('{"more": ' + "[" * 100_000)
    assert [kept.name for _, kept in record.found(downloads.folder)] == ["coder"]


def test_records_that_have_not_changed_are_read_once(
    downloads: Downloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloads.run()
    before = list(record.found(downloads.folder))
    monkeypatch.setattr(record, "read", lambda _: pytest.fail("it was read before"))
    assert list(record.found(downloads.folder)) == before


@pytest.mark.parametrize(
    "rows", [{"a": 1}, [1], [{"type": "file"}], [{"type": "file", "path": FILE, "size": -1}]]
)
def test_listing_that_is_none_is_no_listing(
    downloads_from: MakeDownloads, hub: Hub, rows: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloads = downloads_from(hub)
    downloads.retries = 0
    handler = hub.server.RequestHandlerClass
    monkeypatch.setattr(handler, "_tree", lambda self, *_: self._json(rows), raising=False)
    assert isinstance(downloads.run().error, RemoteProtocolError)


def test_starter_from_a_hub_is_the_starter(hub: Hub, downloads: Downloads) -> None:
    from tests.backends.downloads.hub import add_starter

    data = add_starter(hub)
    assert downloads.run("midspan/starter-GGUF", name="copy").row.state is State.DONE
    (file,) = (downloads.folder / "copy").glob("*.gguf")
    assert file.read_bytes() == data == starter.path().read_bytes()
