"""What users name: folders and Hub repositories, found at once or refused at once, on a Hub on 127.0.0.1."""

import json
import time

import pytest

from genrec_hf.repositories import (
    cached_repository,
    find_folder,
    name_broken_files,
    name_to_load,
    read_json,
    split_hub_id,
)


@pytest.fixture
def repository(hub, tmp_path):
    folder = tmp_path / "pushed"
    for name, text in {
        "genrec_hf.json": '{"max_history": 1}',
        "adapter_model.bin": "pickle",
        "training_args.bin": "pickle",
        "checkpoint-7/config.json": "{}",
        "model.safetensors": "weights",
        "README.md": "card",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    hub.put("someone/toy", folder)
    hub.tag("someone/toy", "v1")
    hub.repos["someone/toy"]["genrec_hf.json"] = b'{"max_history": 2}'
    return hub


def read(folder):
    return json.loads((folder / "genrec_hf.json").read_text())["max_history"]


def test_a_repository_is_found_by_id_at_any_revision_and_gives_no_pickle(repository):
    folder = find_folder("someone/toy")
    assert sorted(path.name for path in folder.iterdir()) == ["genrec_hf.json", "model.safetensors"]
    assert read(folder) == read(find_folder("someone/toy", "main")) == read(find_folder("hf://someone/toy")) == 2
    assert read(find_folder("someone/toy", "v1")) == read(find_folder("someone/toy@v1")) == 1
    assert read(find_folder("someone/toy", find_folder("someone/toy@v1").name)) == 1, "a commit"
    with pytest.raises(FileNotFoundError, match=r"'someone/toy' has no revision 'v2': check branch, tag or commit"):
        find_folder("someone/toy", "v2")
    with pytest.raises(ValueError, match="two revisions"):
        find_folder("someone/toy@v1", "v2")


def test_what_is_in_the_cache_is_read_without_the_hub(repository, monkeypatch):
    folder = find_folder("someone/toy")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert find_folder("someone/toy") == folder
    message = (
        r"^'someone/other' is neither a folder here nor complete in the Hub cache, and HF_HUB_OFFLINE is set: [^.]*$"
    )
    with pytest.raises(FileNotFoundError, match=message):
        find_folder("someone/other")


def test_a_hub_out_of_reach_is_told_in_one_sentence_and_at_once(repository, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(
        FileNotFoundError, match=r"^'someone/toy' is neither .*, and the Hub cannot be reached: [^.]*$"
    ):
        find_folder("someone/toy")
    assert time.monotonic() - start < 5


def test_an_unknown_and_a_gated_repository_are_told(repository):
    with pytest.raises(FileNotFoundError, match=r"^'someone/toi' is neither a folder here nor a Hub repository"):
        find_folder("someone/toi")
    repository.gated.add("someone/toy")
    with pytest.raises(FileNotFoundError, match=r"^'someone/toy' is a gated repository: accept its terms on the Hub"):
        find_folder("someone/toy")


@pytest.mark.parametrize(
    "name", ["./mine", "/no/such/place", "outputs/grpo/mine", "~/no such", "../mine/", "a\\b", "mine/"]
)
def test_an_absent_path_is_refused_without_asking_the_hub(hub, name):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        find_folder(name)
    assert hub.requests == []


def test_a_name_below_a_folder_that_exists_is_a_path_unless_marked_as_an_id(repository, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "someone" / "toys").mkdir(parents=True)
    with pytest.raises(FileNotFoundError) as raised:
        find_folder("someone/toy")
    assert str(raised.value) == (
        "there is no folder 'someone/toy': did you mean 'someone/toys'? (for the Hub repository of this name, write "
        "hf://someone/toy)"
    )
    assert repository.requests == []
    assert read(find_folder("hf://someone/toy")) == 2 and name_to_load("someone/toy") == "hf://someone/toy"
    (tmp_path / "someone" / "toy").mkdir()
    assert str(find_folder("someone/toy")) == "someone/toy", "a folder comes first"
    assert name_to_load("someone/toy") == "someone/toy"


def test_names_of_nothing(tmp_path):
    with pytest.raises(ValueError, match="got None: give a folder, or the id of a Hub repository"):
        find_folder(None)
    for name in ("", "  "):
        with pytest.raises(ValueError, match="got an empty name"):
            find_folder(name)
    (tmp_path / "weights.safetensors").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="is a file: name the folder that it is in"):
        find_folder(tmp_path / "weights.safetensors")
    assert find_folder(tmp_path, "main") == tmp_path
    with pytest.raises(ValueError, match="got revision='v1' with the folder"):
        find_folder(tmp_path, "v1")


def test_ids_and_revisions():
    assert split_hub_id("hf://someone/toy@v1") == ("someone/toy", "v1")
    assert split_hub_id("someone/toy", "main") == ("someone/toy", "main")
    assert split_hub_id("someone/toy@v1", "v1") == ("someone/toy", "v1")
    assert cached_repository("/home/a/hub/models--someone--toy/snapshots/0f1e") == ("someone/toy", "0f1e")
    assert cached_repository("outputs/mine") is None


@pytest.mark.parametrize("text", ["", '{"a": ', "\x00", "[1]", "{}"])
def test_a_broken_json_file_is_named(tmp_path, text):
    (tmp_path / "some.json").write_text(text)
    message = r"'.*some\.json' (is not a complete JSON file|holds no JSON object|holds no 'a')"
    with pytest.raises(ValueError, match=message):
        read_json(tmp_path / "some.json", "a")
    (tmp_path / "some.json").write_text('{"a": "' + "\u00e9" * 3 + '"}', encoding="latin-1")
    with pytest.raises(ValueError, match=r"some\.json' is not a complete JSON file"):
        read_json(tmp_path / "some.json")


def test_the_file_that_is_broken_is_named_and_other_errors_stay(tmp_path):
    (tmp_path / "good.json").write_text("[]")
    (tmp_path / "weights.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ")

    def fail():
        with name_broken_files(tmp_path):
            raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        fail()
    (tmp_path / "weights.safetensors").write_bytes(b"\x08\x00\x00\x00")
    with pytest.raises(ValueError, match=r"weights\.safetensors' is not a complete safetensors file"):
        fail()
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match=r"broken\.json' is not a complete JSON file"):
        fail()
