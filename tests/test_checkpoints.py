"""What is read from folders and repositories: no code, no pickles, no random rows; errors that name files."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from conftest import make_model, make_tokenizer
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from transformers import AutoConfig
from trl import ModelConfig

from genrec_hf import LlaraForCausalLM, SasRec, SemanticIds, SidVocabulary, load_recommender
from genrec_hf.hub import save_recommender
from genrec_hf.models import (
    SasRecConfig,
    is_adapter,
    load_adapter,
    load_base,
    load_for_training,
    load_sasrec,
    start_adapter,
)
from genrec_hf.models.export import export_checkpoint
from genrec_hf.settings import read_prompting

SIDS = SemanticIds([[0, 1], [2, 0], [1, 1]], (3, 2), ["tea", "cup", "pot"])
HOW = {"max_history": 3, "normalization": "full"}
# Written where it can be seen whether it was run.
HOSTILE = "from pathlib import Path\nPath({mark!r}).touch()\nraise SystemExit('ran')\n"


def save_base(path, tied=True, rows=None, **added):
    """A base checkpoint whose tokenizer may have tokens that it has no rows for."""
    tokenizer = make_tokenizer()
    model = make_model(tied=tied, vocabulary=rows or len(tokenizer))
    tokenizer.add_special_tokens(added)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def train(base, stage="lora", **changes):
    """A model of a training recipe with everything that trains pushed away from where it started."""
    settings = ModelConfig(str(base), **{"use_peft": stage != "full", "lora_r": 2, "dtype": "float32", **changes})
    model, tokenizer = load_for_training(settings, SidVocabulary(SIDS), init="mean", stage=stage)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in (each for each in model.parameters() if each.requires_grad):
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval(), tokenizer


def save(path, model, tokenizer):
    save_recommender(path, model, tokenizer, semantic_ids=SIDS, **HOW)
    return path


@pytest.fixture
def adapter(tmp_path):
    return save(tmp_path / "out", *train(save_base(tmp_path / "base")))


def logits(model, tokenizer):
    """Over every token that there is."""
    with torch.no_grad():
        return model(torch.arange(len(tokenizer))[None]).logits


def edit(file, **changes):
    content = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps(content | changes))


# Nobody's code


@pytest.fixture
def mark(tmp_path, monkeypatch):
    """The file that hostile code would make; whoever is asked for leave says yes."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    yield tmp_path / "mark"
    assert not (tmp_path / "mark").exists(), "code of the checkpoint was run"


def with_code(path, mark, model=True, tokenizer=True):
    (path / "own.py").write_text(HOSTILE.format(mark=str(mark)))
    if model:
        auto_map = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
        edit(path / "config.json", auto_map=auto_map, model_type="own", architectures=["OwnModel"])
    if tokenizer:
        auto_map = {"AutoTokenizer": ["own.OwnTokenizer", None]}
        edit(path / "tokenizer_config.json", auto_map=auto_map, tokenizer_class="OwnTokenizer")


@pytest.mark.parametrize(("model", "tokenizer"), [(True, False), (False, True)])
def test_a_base_that_needs_code_of_its_own_is_refused_in_one_sentence(tmp_path, mark, model, tokenizer):
    with_code(save_base(tmp_path / "base"), mark, model, tokenizer)
    for read in (load_base, lambda name: export_checkpoint(name, tmp_path / "exported"), train):
        with pytest.raises(ValueError, match=r"^'.*base' needs custom code .*, which would be run [^.]*$"):
            read(str(tmp_path / "base"))


def test_a_recommender_whose_tokenizer_or_base_needs_code_is_refused(adapter, mark):
    with_code(adapter, mark, model=False)
    with pytest.raises(ValueError, match=r"^'.*out' needs custom code"):
        load_recommender(adapter)
    shutil.copy(adapter.parent / "base" / "tokenizer_config.json", adapter)
    with_code(adapter.parent / "base", mark, tokenizer=False)
    with pytest.raises(ValueError, match=r"^'.*base' needs custom code"):
        load_recommender(adapter)


def test_code_beside_a_known_model_is_left_alone(tmp_path, mark):
    base = save_base(tmp_path / "base")
    (base / "own.py").write_text(HOSTILE.format(mark=str(mark)))
    edit(base / "config.json", auto_map={"AutoModelForCausalLM": "own.OwnModel"})
    assert type(load_base(str(base))[0]).__name__ == "LlamaForCausalLM"


def test_a_setting_that_asks_for_code_is_refused(tmp_path):
    @dataclass
    class Trusting(ModelConfig):
        trust_remote_code: bool = False

    settings = Trusting(str(save_base(tmp_path / "base")), use_peft=True, trust_remote_code=True)
    with pytest.raises(
        ValueError, match="trust_remote_code=True: genrec_hf runs no code of a checkpoint; leave it out"
    ):
        load_for_training(settings, SidVocabulary(SIDS), init="mean")


# No pickles


def as_pickle(folder, name, pickle):
    torch.save(load_file(folder / name), folder / pickle)
    (folder / name).unlink()


def test_pickles_of_a_base_are_read_by_request_alone_and_converted(tmp_path):
    base = save_base(tmp_path / "base")
    expected = load_base(str(base))[0].state_dict()
    as_pickle(base, "model.safetensors", "pytorch_model.bin")
    for read in (load_base, lambda name: export_checkpoint(name, tmp_path / "safe"), train):
        with pytest.raises(FileNotFoundError, match=r"holds no complete safetensors weights: .*export --allow_pickle"):
            read(str(base))
    assert not (tmp_path / "safe").exists()
    export_checkpoint(str(base), tmp_path / "safe", allow_pickle=True)
    for model in (load_base(str(base), allow_pickle=True)[0], load_base(str(tmp_path / "safe"))[0]):
        assert all(torch.equal(expected[name], weight) for name, weight in model.state_dict().items())


def test_pickles_that_settings_name_are_no_way_around(tmp_path):
    base = save_base(tmp_path / "base")
    as_pickle(base, "model.safetensors", "weights.bin")
    edit(base / "config.json", transformers_weights="weights.bin")
    with pytest.raises(
        FileNotFoundError, match=r"config\.json' names weights in 'weights\.bin': weights in other files"
    ):
        load_base(str(base))
    edit(base / "config.json", transformers_weights=None)
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"lm_head.weight": "weights.bin"}}))
    with pytest.raises(FileNotFoundError, match=r"index\.json' names weights in 'weights\.bin'"):
        load_base(str(base))


def test_pickles_of_whole_models_are_read_by_request_alone(tmp_path):
    whole = save(tmp_path / "whole", *train(save_base(tmp_path / "base"), "full"))
    as_pickle(whole, "model.safetensors", "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="holds no complete safetensors weights"):
        load_recommender(whole)
    assert load_recommender(whole, allow_pickle=True).max_history == 3
    llara = LlaraForCausalLM.from_language_model(make_model(), torch.randn(3, 4))
    for model, path in ((SasRec(SasRecConfig(items=3)), tmp_path / "sasrec"), (llara, tmp_path / "llara")):
        model.save_pretrained(path)
        as_pickle(path, "model.safetensors", "pytorch_model.bin")
        with pytest.raises(OSError, match=r"no file named model\.safetensors"):
            type(model).from_pretrained(path)
        type(model).from_pretrained(path, use_safetensors=None)


# Rows that were made but neither trained nor saved


@pytest.mark.parametrize("tied", [True, False])
def test_tokens_without_a_row_in_the_base_get_one_that_is_saved(tmp_path, tied):
    base = save_base(tmp_path / "base", tied, pad_token="<pad>", additional_special_tokens=["<new>"])
    model, tokenizer = train(base)
    new = tokenizer.convert_tokens_to_ids(["<pad>", "<new>"])
    rows = load_base(str(base))[0].get_input_embeddings().weight
    assert new == [len(rows), len(rows) + 1]
    started, _ = load_for_training(ModelConfig(str(base), use_peft=True, lora_r=2), SidVocabulary(SIDS), init="mean")
    assert torch.allclose(started.get_input_embeddings()(torch.tensor(new)), rows.mean(dim=0), atol=1e-6)
    expected = logits(model, tokenizer)
    for path in (save(tmp_path / "out", model, tokenizer), save(tmp_path / "again", *load_adapter(tmp_path / "out"))):
        loaded = load_recommender(path)
        assert (logits(loaded.model, tokenizer) - expected).abs().max() == 0.0
    whole, tokenizer = train(base, "full")
    loaded = load_recommender(save(tmp_path / "whole", whole, tokenizer))
    assert (logits(loaded.model, tokenizer) - logits(whole, tokenizer)).abs().max() == 0.0


@pytest.mark.parametrize(("tied", "more"), [(True, 3), (False, 3), (True, 64), (False, 64)])
def test_rows_that_a_user_added_to_the_model_are_saved(tmp_path, tied, more):
    model, tokenizer = load_base(str(save_base(tmp_path / "base", tied)))
    tokenizer.add_tokens(["<mine>"])
    model.resize_token_embeddings(len(tokenizer) + more, mean_resizing=False)  # fewer or more than SID tokens
    vocabulary = SidVocabulary(SIDS).extend(tokenizer, model, init="mean")
    model = start_adapter(model, vocabulary, LoraConfig(r=2, task_type="CAUSAL_LM")).eval()
    loaded = load_recommender(save(tmp_path / "out", model, tokenizer))
    expected = logits(model, tokenizer)
    assert expected.shape[-1] == len(tokenizer) + max(0, more - 5)
    assert (logits(loaded.model, tokenizer) - expected).abs().max() == 0.0


def test_spare_rows_of_a_base_are_used_as_they_are(tmp_path):
    model, tokenizer = train(save_base(tmp_path / "base", rows=400, pad_token="<pad>"))
    assert model.get_input_embeddings().weight.shape[0] == 400
    out = save(tmp_path / "out", model, tokenizer)
    assert (logits(load_recommender(out).model, tokenizer) - logits(model, tokenizer)).abs().max() == 0.0
    assert len(json.loads((out / "adapter_config.json").read_text())["trainable_token_indices"]["embed_tokens"]) == 5


def test_a_model_that_was_cut_is_refused_before_training(tmp_path):
    model, tokenizer = load_base(str(save_base(tmp_path / "base", rows=400)))
    model.resize_token_embeddings(len(tokenizer))
    vocabulary = SidVocabulary(SIDS).extend(tokenizer, model, init="mean")
    with pytest.raises(ValueError, match=r"the model has \d+ embedding rows and its checkpoint .* has 400"):
        start_adapter(model, vocabulary, LoraConfig(r=2))


def test_a_base_without_a_head_is_refused(tmp_path):
    base = save_base(tmp_path / "base", tied=False)
    weights = load_file(base / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        ValueError, match=r"lacks 1 weights of a LlamaForCausalLM, such as 'lm_head\.weight': they would be random"
    ):
        load_base(str(base))


# Hub ids


def test_every_argument_that_takes_a_folder_takes_a_repository_at_any_revision(adapter, tmp_path, hub, monkeypatch):
    base = adapter.parent / "base"
    hub.put("someone/base", base)
    hub.tag("someone/base", "v1")
    model, tokenizer = train("someone/base", model_revision="v1")
    first = logits(model, tokenizer)
    save(tmp_path / "first", model, tokenizer)
    hub.put("someone/toy", tmp_path / "first")
    hub.tag("someone/toy", "v1")
    hub.repos["someone/base"].pop("model.safetensors")  # main goes on; the adapter names the commit of its base
    hub.put("someone/toy", adapter)
    settings = json.loads((tmp_path / "first" / "genrec_hf.json").read_text())
    assert (settings["base_model"], settings["base_model_is_local"]) == ("someone/base", False)

    loaded = load_recommender("someone/toy", "v1")
    assert (logits(loaded.model, tokenizer) - first).abs().max() == 0.0
    assert (logits(load_adapter("someone/toy@v1")[0], tokenizer) - first).abs().max() == 0.0
    assert is_adapter("someone/toy") and not is_adapter("someone/base")
    assert read_prompting("someone/toy", SIDS, "v1")["max_history"] == 3
    # A recipe goes on training it, and what it saves names the base and no adapter.
    given = ModelConfig("someone/toy", model_revision="v1", use_peft=True, lora_r=7, dtype="float32")
    going_on, _ = load_for_training(given, SidVocabulary(SIDS))
    assert (logits(going_on.eval(), tokenizer) - first).abs().max() == 0.0
    assert going_on.peft_config["default"].r == 2 and any(each.requires_grad for each in going_on.parameters())
    config = json.loads((save(tmp_path / "next", going_on, tokenizer) / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "someone/base" and len(config["revision"]) == 40
    inside = load_for_training(
        given, SidVocabulary(SIDS), wrap=lambda lm: LlaraForCausalLM.from_language_model(lm, torch.ones(3, 4))
    )
    assert (logits(inside[0].eval(), tokenizer) - first).abs().max() == 0.0
    with pytest.raises(ValueError, match="holds an adapter and no whole model"):
        load_base("someone/toy")
    # Without the Hub the same comes from the cache.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    count, loaded = len(hub.requests), load_recommender("someone/toy", "v1")
    assert (logits(loaded.model, tokenizer) - first).abs().max() == 0.0 and len(hub.requests) == count


def test_whole_models_of_the_hub(tmp_path, hub):
    whole, tokenizer = train(save_base(tmp_path / "base"), "full")
    hub.put("someone/whole", save(tmp_path / "whole", whole, tokenizer))
    adapted, _ = train("someone/whole")
    loaded = load_recommender(save(tmp_path / "adapted", adapted, tokenizer))
    assert (logits(loaded.model, tokenizer) - logits(adapted, tokenizer)).abs().max() == 0.0
    assert (logits(load_recommender("someone/whole").model, tokenizer) - logits(whole, tokenizer)).abs().max() == 0.0
    LlaraForCausalLM.from_language_model(make_model(), torch.randn(3, 4)).save_pretrained(tmp_path / "llara")
    SasRec(SasRecConfig(items=3)).save_pretrained(tmp_path / "sasrec")
    for name in ("llara", "sasrec"):
        hub.put(f"someone/{name}", tmp_path / name)
    assert LlaraForCausalLM.from_pretrained("someone/llara").config.items == 3
    assert load_sasrec("someone/sasrec", SIDS.item_ids).config.items == 3
    hub.repos["someone/llara"]["collaborative.safetensors"] = b""
    with pytest.raises(ValueError, match="holds an adapter and no whole model"):
        LlaraForCausalLM.from_pretrained("someone/llara")


def test_a_pickle_in_a_repository_is_not_even_downloaded(tmp_path, hub):
    base = save_base(tmp_path / "base")
    as_pickle(base, "model.safetensors", "pytorch_model.bin")
    hub.put("someone/base", base)
    with pytest.raises(FileNotFoundError, match=r"'someone/base' holds no complete safetensors weights"):
        load_base("someone/base")
    assert not list((tmp_path / "hub").rglob("*.bin")) and not any(".bin" in path for path in hub.requests)


# Broken files


@pytest.mark.parametrize(
    "name",
    ["adapter_config.json", "adapter_model.safetensors", "genrec_hf.json", "tokenizer.json", "tokenizer_config.json",
     "semantic_ids/codes.safetensors", "semantic_ids/semantic_ids.json", "../base/model.safetensors",
     "../base/config.json"],
)  # fmt: skip
@pytest.mark.parametrize("length", [0, 0.5])
def test_a_file_that_is_cut_short_is_named(adapter, name, length):
    content = (adapter / name).read_bytes()
    (adapter / name).write_bytes(content[: int(length * len(content))])
    with pytest.raises(
        ValueError, match=rf"^'.*{Path(name).name}' is not a complete (JSON|safetensors) file \(.*\): copy"
    ):
        load_recommender(adapter)


def test_a_recommender_without_the_settings_of_its_tokenizer_is_refused(adapter):
    (adapter / "tokenizer_config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"out' holds no tokenizer_config\.json"):
        load_recommender(adapter)


@pytest.mark.parametrize("text", ["{}", None])
def test_a_tokenizer_that_is_none_or_absent_is_named(adapter, text):
    if text is None:
        (adapter / "tokenizer.json").unlink()
    else:
        (adapter / "tokenizer.json").write_text(text)
    with pytest.raises(ValueError, match=r"^the tokenizer of '.*out' cannot be read \([^\n]*\): check its files"):
        load_recommender(adapter)


def test_a_base_of_other_files_is_told(adapter):
    base = adapter.parent / "base"
    edit(base / "config.json", hidden_size=64)
    with pytest.raises(ValueError, match=r"^the model of '.*base' cannot be read \([^\n]*\): check its files"):
        load_recommender(adapter)
    edit(base / "config.json", model_type="nonsense")
    with pytest.raises(ValueError, match=r"^the model of '.*base' cannot be read \(.*`nonsense`"):
        load_recommender(adapter)
    (base / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"base' holds no config\.json: it is not a whole model"):
        load_recommender(adapter)
    (adapter / "adapter_config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"out' holds no config\.json: it is not a whole model"):
        load_recommender(adapter)


def test_vectors_that_are_cut_short_or_none_are_named(tmp_path):
    given = ModelConfig(str(save_base(tmp_path / "base")), use_peft=True, lora_r=2)
    model, tokenizer = load_for_training(
        given,
        SidVocabulary(SIDS),
        init="mean",
        wrap=lambda inner: LlaraForCausalLM.from_language_model(inner, torch.ones(3, 4)),
    )
    file = save(tmp_path / "out", model, tokenizer) / "collaborative.safetensors"
    vectors, content = load_file(file), file.read_bytes()
    file.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=r"collaborative\.safetensors' is not a complete safetensors file"):
        load_recommender(tmp_path / "out")
    save_file(vectors, file)
    with pytest.raises(ValueError, match=r"collaborative\.safetensors' holds no vectors with their settings"):
        load_recommender(tmp_path / "out")


def test_the_configuration_that_is_read_is_the_checkpoints(tmp_path):
    """The rows that a checkpoint holds are those of its configuration, which a resize in memory does not change."""
    model, _ = load_base(str(save_base(tmp_path / "base")))
    rows = model.get_input_embeddings().weight.shape[0]
    model.resize_token_embeddings(rows + 9)
    assert AutoConfig.from_pretrained(tmp_path / "base").vocab_size == rows != model.config.vocab_size
