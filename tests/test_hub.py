"""Saving, loading and pushing a recommender, against a Hub on 127.0.0.1; the model card and its snippets."""

import json
import re
import shutil
import subprocess
import sys
from ast import literal_eval
from pathlib import Path

import numpy as np
import pytest
import torch
from chat_templates import LLAMA3
from conftest import make_model, make_tokenizer
from hub_server import HubServer, running_hub
from huggingface_hub import ModelCard
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import load_file
from test_turns import Clock
from transformers import AutoTokenizer, GenerationConfig
from transformers.utils import chat_template_utils
from trl import ModelConfig

from genrec_hf import Recommender, SemanticIds, SidVocabulary, load_recommender
from genrec_hf.evaluation import build_report, evaluate_recommendations, write_report
from genrec_hf.generation import clean_generation_config
from genrec_hf.hub import merge_recommender, push_recommender, refuse_other_dataset, save_recommender
from genrec_hf.model_card import write_model_card
from genrec_hf.models import load_base, load_for_training, start_adapter

DATASET = {"name": "toy", "fingerprint": "f" * 16, "source": "not kept"}
HOW = {"max_history": 5, "normalization": "level", "dataset": DATASET}
HISTORIES = [["i0", "i1"], ["i7", "i8", "i9", "i10", "i11", "i6"], []]


def make_base(path: Path, family: str = "llama", tied: bool = True) -> Path:
    tokenizer = make_tokenizer()
    make_model(family, tied, len(tokenizer)).save_pretrained(
        path
    )  # no row to reserved_codes: new tokens resize the embedding
    tokenizer.save_pretrained(path)
    return path


def make_adapter(base: Path, sids: SemanticIds, markers: bool = False):
    """An adapter whose LoRA and SID rows are far from their start, and its tokenizer."""
    model, tokenizer = load_base(str(base))
    vocabulary = SidVocabulary(sids, markers).extend(tokenizer, model, init="random")
    model = start_adapter(model, vocabulary, LoraConfig(r=2, task_type="CAUSAL_LM"))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.add_(torch.randn_like(parameter))
    return model.eval(), tokenizer


def toy_report(sids: SemanticIds, name: str = "toy", model: bool = True) -> dict:
    targets, users = np.arange(6), np.arange(6)
    ranked = np.arange(10)[None, :].repeat(6, axis=0)
    good = evaluate_recommendations(ranked, users, targets, items=len(sids), ks=(1, 5, 10))
    poor = evaluate_recommendations(ranked[:, ::-1], users, targets, items=len(sids), ks=(1, 5, 10))
    return build_report(
        dataset=name,
        split="leave_one_out",
        tie_break="file order",
        items=len(sids),
        baselines={"popularity": poor},
        model=good if model else None,
        info={"fingerprint": DATASET["fingerprint"]},
    )


def assert_same(loaded: Recommender, recommender: Recommender, atol: float = 0.0) -> None:
    tokens = torch.as_tensor([[5, 6, 7, *recommender.vocabulary.all_token_ids]])
    with torch.no_grad():
        logits = [each.model.eval()(tokens).logits for each in (loaded, recommender)]
    torch.testing.assert_close(*logits, atol=atol, rtol=atol)
    assert loaded.recommend(HISTORIES, k=4) == recommender.recommend(HISTORIES, k=4)


@pytest.fixture
def adapter(tmp_path: Path, toy_sids: SemanticIds):
    """A saved adapter: its directory, and the recommender in memory."""
    model, tokenizer = make_adapter(make_base(tmp_path / "base"), toy_sids)
    save_recommender(tmp_path / "out", model, tokenizer, semantic_ids=toy_sids, **HOW)
    return tmp_path / "out", Recommender(model, tokenizer, toy_sids, max_history=5, normalization="level")


@pytest.fixture
def hub():
    with running_hub() as server:
        yield server


def run_python(code: str, server: HubServer, home: Path, cwd: Path) -> str:
    command, environment = [sys.executable, "-W", "ignore", "-c", code], server.environment(home)
    done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


# Save and load


MODELS = [("llama", True, False), ("llama", False, True), ("qwen3", False, False)]


@pytest.mark.parametrize(("family", "tied", "markers"), MODELS)
def test_a_loaded_adapter_is_the_saved_one(tmp_path, toy_sids, family, tied, markers):
    model, tokenizer = make_adapter(make_base(tmp_path / "base", family, tied), toy_sids, markers)
    save_recommender(tmp_path / "out", model, tokenizer, semantic_ids=toy_sids, markers=markers, **HOW)
    loaded = load_recommender(tmp_path / "out")
    assert (loaded.max_history, loaded.normalization, loaded.vocabulary.markers) == (5, "level", markers)
    assert loaded.semantic_ids.fingerprint == toy_sids.fingerprint and loaded.semantic_ids.info == {"made_by": "hand"}
    assert_same(loaded, Recommender(model, tokenizer, toy_sids, max_history=5, normalization="level", markers=markers))


def test_a_loaded_full_model_is_the_saved_one(tmp_path, toy_sids):
    model, tokenizer = load_base(str(make_base(tmp_path / "base", "qwen2")))
    SidVocabulary(toy_sids).extend(tokenizer, model, init="random")
    model.generation_config = GenerationConfig(do_sample=True, top_k=20, temperature=0.7, repetition_penalty=1.05)
    save_recommender(tmp_path / "out", model, tokenizer, semantic_ids=toy_sids, max_history=5, normalization="full")
    assert_same(load_recommender(tmp_path / "out"), Recommender(model, tokenizer, toy_sids, max_history=5))
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.library_name == "transformers" and card.data.base_model is None and card.data.datasets is None
    assert "The base model is a local checkpoint" not in card.text


def test_the_directory_holds_a_repository_and_no_more(adapter):
    out, recommender = adapter
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert files == {
        "README.md", "adapter_config.json", "adapter_model.safetensors", "generation_config.json", "genrec_hf.json",
        "semantic_ids/codes.safetensors", "semantic_ids/semantic_ids.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert [path.name for path in out.parent.iterdir() if path.name.startswith(".")] == []
    settings = json.loads((out / "genrec_hf.json").read_text())
    assert settings == {
        "format_version": 1, "base_model": str(out.parent / "base"), "base_model_is_local": True,
        "base_quantization": None, "max_history": 5, "normalization": "level", "markers": False, "form": "plain",
        "collaborative_vectors": None, "titles": False,
        "dataset": {"name": "toy", "fingerprint": "f" * 16},
    }  # fmt: skip
    clean = clean_generation_config(recommender.tokenizer, recommender.trie.levels)
    assert GenerationConfig.from_pretrained(out).to_diff_dict() == clean.to_diff_dict()
    with safe_open(out / "adapter_model.safetensors", "pt") as weights:
        rows = [weights.get_slice(key).get_shape()[0] for key in weights.keys() if "embed" in key or "lm_head" in key]  # noqa: SIM118
    assert rows == [len(recommender.vocabulary.tokens)]  # the trained rows, not the 330 of the embedding


def test_a_chat_is_asked_on_the_date_of_its_training(toy_sids, tmp_path, monkeypatch):
    monkeypatch.setattr(chat_template_utils, "datetime", Clock)
    model, tokenizer = make_adapter(make_base(tmp_path / "base"), toy_sids)
    tokenizer.chat_template = LLAMA3
    history = [np.array([3, 4])]
    asked = Recommender(model, tokenizer, toy_sids, form="chat").encode(history)["input_ids"]
    assert "Today Date: 05 Jan 2026" in tokenizer.decode(asked[0])
    save_recommender(
        tmp_path / "out", model, tokenizer, semantic_ids=toy_sids, max_history=5, normalization="level", form="chat"
    )
    monkeypatch.setattr(Clock, "day", Clock(2026, 3, 1))
    merge_recommender(tmp_path / "out", tmp_path / "merged")
    for folder in ("out", "merged"):
        assert load_recommender(tmp_path / folder).encode(history)["input_ids"].equal(asked)


def test_titles_are_kept_with_their_items_and_new_items_have_none(adapter, toy_sids, tmp_path):
    _, recommender = adapter
    titles = [f"Title {item_id}" for item_id in toy_sids.item_ids]
    save_recommender(
        tmp_path / "out",
        recommender.model,
        recommender.tokenizer,
        semantic_ids=toy_sids,
        max_history=5,
        normalization="level",
        titles=titles,
    )
    assert "| Titles | after the semantic IDs" in (tmp_path / "out" / "README.md").read_text()
    loaded = load_recommender(tmp_path / "out")
    assert loaded.titles == titles and recommender.titles is None
    one = loaded.encode([np.array([3])])["input_ids"][0].tolist()
    assert loaded.tokenizer.decode(one).endswith(f"Title {toy_sids.item_ids[3]}")
    fewer = toy_sids.remove(toy_sids.item_ids[:2])
    assert load_recommender(tmp_path / "out", semantic_ids=fewer).titles == titles[2:]
    with pytest.raises(ValueError, match="got 1 titles for 24 items"):
        Recommender(recommender.model, recommender.tokenizer, toy_sids, titles=["one"])
    (tmp_path / "out" / "item_titles.json").unlink()
    with pytest.raises(FileNotFoundError):
        load_recommender(tmp_path / "out")


def test_saving_again_replaces_weights_and_drops_their_metrics_but_keeps_checkpoints(adapter, toy_sids):
    out, recommender = adapter
    write_report(toy_report(toy_sids), out)
    (out / "checkpoint-7").mkdir()
    (out / "checkpoint-7" / "trainer_state.json").write_text("{}")
    (out / "README.md").write_text("a trainer's card")
    full = recommender.model.merge_and_unload()
    save_recommender(out, full, recommender.tokenizer, semantic_ids=toy_sids, **HOW)
    assert not list(out.glob("adapter_*")) and not list(out.glob("metrics.*")) and (out / "checkpoint-7").is_dir()
    assert "genrec_hf" in ModelCard.load(out / "README.md").data.tags
    expected = Recommender(full, recommender.tokenizer, toy_sids, max_history=5, normalization="level")
    assert_same(load_recommender(out), expected)


def test_a_merged_adapter_answers_alike_and_carries_a_new_one(adapter, tmp_path, toy_sids):
    out, _ = adapter
    merge_recommender(out, tmp_path / "merged")
    there, merged = (load_recommender(path) for path in (out, tmp_path / "merged"))
    assert_same(merged, there, atol=1e-5)
    assert not list((tmp_path / "merged").glob("adapter_*"))
    settings = [json.loads((path / "genrec_hf.json").read_text()) for path in (out, tmp_path / "merged")]
    assert settings[0] == settings[1]
    vocabulary = SidVocabulary(toy_sids)
    given = ModelConfig(model_name_or_path=str(tmp_path / "merged"), use_peft=True, lora_r=3)
    model, tokenizer = load_for_training(given, vocabulary)
    assert model.peft_config["default"].r == 3 != there.model.peft_config["default"].r
    assert_same(Recommender(model, tokenizer, toy_sids, max_history=5, normalization="level"), there, atol=1e-5)
    with torch.no_grad():
        for parameter in (each for each in model.parameters() if each.requires_grad):
            parameter.add_(0.1)
    save_recommender(tmp_path / "new", model, tokenizer, semantic_ids=toy_sids, **HOW)
    assert_same(
        load_recommender(tmp_path / "new"),
        Recommender(model, tokenizer, toy_sids, max_history=5, normalization="level"),
    )
    merge_recommender(out, tmp_path / "half", dtype="bfloat16")
    assert load_recommender(tmp_path / "half").model.dtype == torch.bfloat16
    before = snapshot(out)
    with pytest.raises(ValueError, match="the merged model would replace its adapter"):
        merge_recommender(out, out)
    with pytest.raises(ValueError, match="nothing to merge"):
        merge_recommender(tmp_path / "merged", tmp_path / "again")
    assert snapshot(out) == before and not (tmp_path / "again").exists()


def test_a_trainers_reference_adapter_is_left_out_and_gathered_weights_are_taken(adapter, tmp_path, toy_sids):
    out, recommender = adapter
    model, gathered = recommender.model, recommender.model.state_dict()
    model.add_adapter("ref", LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    gathered = {name: tensor.clone() for name, tensor in gathered.items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    save_recommender(tmp_path / "new", model, recommender.tokenizer, semantic_ids=toy_sids, **HOW, state_dict=gathered)
    assert not (tmp_path / "new" / "ref").exists()
    before, after = (load_file(path / "adapter_model.safetensors") for path in (out, tmp_path / "new"))
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)


# Refusals


def other_sids(sids: SemanticIds) -> SemanticIds:
    return SemanticIds(sids.codes[::-1], sids.level_sizes, sids.item_ids)


def snapshot(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_another_data_set_or_other_semantic_ids_are_refused_before_anything_is_written(adapter, tmp_path, toy_sids):
    out, recommender = adapter
    before = snapshot(out)
    with pytest.raises(ValueError, match="another data set"):
        save_recommender(
            out,
            recommender.model,
            recommender.tokenizer,
            semantic_ids=toy_sids,
            **HOW | {"dataset": {"fingerprint": "0" * 16}},
        )
    model, tokenizer = make_adapter(tmp_path / "base", other_sids(toy_sids))
    with pytest.raises(ValueError, match="of other semantic ids"):
        save_recommender(out, model, tokenizer, semantic_ids=other_sids(toy_sids), **HOW)
    assert snapshot(out) == before
    refuse_other_dataset(out, DATASET["fingerprint"], toy_sids)
    refuse_other_dataset(out, None, toy_sids)
    refuse_other_dataset(tmp_path / "absent", DATASET["fingerprint"], toy_sids)


def test_what_would_not_load_is_not_written(adapter, tmp_path, toy_sids):
    _, recommender = adapter
    new = tmp_path / "new"
    with pytest.raises(ValueError, match="extended for semantic ids"):
        save_recommender(new, recommender.model, recommender.tokenizer, semantic_ids=other_sids(toy_sids), **HOW)
    with pytest.raises(ValueError, match="got max_history=0; give 1 or more"):
        save_recommender(
            new, recommender.model, recommender.tokenizer, semantic_ids=toy_sids, **HOW | {"max_history": 0}
        )
    with pytest.raises(ValueError, match="got normalization='best'; use one of full, level, trie"):
        save_recommender(
            new, recommender.model, recommender.tokenizer, semantic_ids=toy_sids, **HOW | {"normalization": "best"}
        )
    recommender.model.peft_config["default"].base_model_name_or_path = ""
    with pytest.raises(ValueError, match="whose base model has no path"):
        save_recommender(new, recommender.model, recommender.tokenizer, semantic_ids=toy_sids, **HOW)
    assert not new.exists()


def test_what_a_recommender_was_made_from_and_what_others_wrote_is_not_replaced(adapter, tmp_path, toy_sids):
    out, recommender = adapter
    base, before = tmp_path / "base", snapshot(tmp_path / "base")
    trained = (recommender.model, recommender.tokenizer)
    with pytest.raises(ValueError, match=r"base' is '.*base', which the run reads and would replace"):
        save_recommender(base, *trained, semantic_ids=toy_sids, **HOW)
    with pytest.raises(ValueError, match=r"base' is '.*base', which the run reads and would replace"):
        merge_recommender(out, base)
    (base / "genrec_hf.json").write_text("{}")  # a merged recommender, which is ours
    with pytest.raises(ValueError, match=r"base' is '.*base', which the run reads and would replace"):
        merge_recommender(out, base)
    (base / "genrec_hf.json").unlink()
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "README.md").write_text("the user's")
    with pytest.raises(ValueError, match=r"project' holds README\.md, which genrec_hf did not write"):
        save_recommender(tmp_path / "project", *trained, semantic_ids=toy_sids, **HOW)
    assert snapshot(base) == before and snapshot(tmp_path / "project") == {"README.md": b"the user's"}
    (out / ".genrec_hf.lock").write_text("")
    assert load_recommender(out).recommend([["i0"]], k=1), "a lock that was left does not matter"


def test_an_interrupted_save_leaves_what_was_there(adapter, toy_sids, monkeypatch):
    out, recommender = adapter
    before = snapshot(out)
    monkeypatch.setattr(SemanticIds, "save_pretrained", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_recommender(out, recommender.model, recommender.tokenizer, semantic_ids=toy_sids, **HOW)
    assert snapshot(out) == before and not [path for path in out.parent.iterdir() if path.name.startswith(".")]


def test_an_interrupted_move_leaves_nothing_that_loads(adapter, toy_sids, monkeypatch):
    out, recommender = adapter
    move = shutil.move

    def unplugged(source: Path, target: Path) -> None:
        if target.parent == out and target.name.startswith("t"):
            raise OSError("unplugged")
        move(source, target)

    monkeypatch.setattr(shutil, "move", unplugged)
    with pytest.raises(OSError, match="unplugged"):
        save_recommender(out, recommender.model, recommender.tokenizer, semantic_ids=toy_sids, **HOW)
    with pytest.raises(FileNotFoundError, match=r"holds no genrec_hf\.json"):
        load_recommender(out)


def test_loading_refuses_what_does_not_belong_together_or_is_not_there(adapter, tmp_path, toy_sids):
    out, _ = adapter
    other_sids(toy_sids).save_pretrained(out / "semantic_ids")
    with pytest.raises(ValueError, match="extended for semantic ids"):
        load_recommender(out)
    with pytest.raises(FileNotFoundError, match=r"holds no genrec_hf\.json"):
        load_recommender(tmp_path / "base")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        load_recommender(tmp_path / "no" / "such" / "place")
    settings = json.loads((out / "genrec_hf.json").read_text())
    (out / "genrec_hf.json").write_text(json.dumps(settings | {"format_version": 2}))
    with pytest.raises(ValueError, match="upgrade genrec_hf"):
        load_recommender(out)


def test_a_missing_local_base_is_named(adapter):
    out, _ = adapter
    (out.parent / "base").rename(out.parent / "moved")
    with pytest.raises(FileNotFoundError, match=r"local checkpoint .*base"):
        load_recommender(out)
    config = json.loads((out / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(out.parent / "moved")
    (out / "adapter_config.json").write_text(json.dumps(config))
    load_recommender(out)


# The card


def edit_settings(out: Path, **changes: object) -> None:
    settings = json.loads((out / "genrec_hf.json").read_text())
    (out / "genrec_hf.json").write_text(json.dumps(settings | changes))


def test_the_card_has_the_metrics_of_the_report(adapter, toy_sids):
    out, _ = adapter
    write_report(toy_report(toy_sids), out)
    write_model_card(out, "someone/toy-recommender")
    card = ModelCard.load(out / "README.md")
    results = {result.metric_type: result for result in card.data.eval_results}
    assert list(results)[:2] == ["recall@10", "ndcg@10"] and "mrr@5" in results and "sid_recall@10" not in results
    # Targets 0 to 5 stand at ranks 0 to 5 of one list of ten.
    assert results["recall@10"].metric_value == 1.0 and results["recall@5"].metric_value == 5 / 6
    assert results["ndcg@10"].metric_value == pytest.approx((1 / np.log2(np.arange(6) + 2)).mean())
    assert results["ndcg@10"].dataset_args == {
        "split": "leave_one_out",
        "tie_break": "file order",
        "filter_seen": True,
        "users": 6,
        "cases": 6,
        "items": 24,
    }
    assert card.data.model_name == "toy-recommender" and results["ndcg@10"].dataset_name == "toy"
    assert "| popularity |" in card.text and "| model |" in card.text
    assert "filter_seen true, 6 users, 24 items" in card.text
    assert "](metrics.png)" in card.text


def test_a_card_without_metrics_or_with_baselines_alone_claims_none(adapter, toy_sids):
    out, _ = adapter
    assert ModelCard.load(out / "README.md").data.eval_results is None
    write_report(toy_report(toy_sids, model=False), out)
    write_model_card(out)
    assert ModelCard.load(out / "README.md").data.eval_results is None


def test_only_hub_ids_become_links(adapter):
    out, _ = adapter
    card = ModelCard.load(out / "README.md")
    assert card.data.base_model is None and card.data.datasets is None and "huggingface.co" not in card.text
    assert "The base model is a local checkpoint" in card.text and card.data.license is None
    dataset = {"name": "org/toy", "fingerprint": None}
    edit_settings(out, base_model="org/base", base_model_is_local=False, dataset=dataset)
    write_model_card(out, "someone/toy")
    card = ModelCard.load(out / "README.md")
    assert card.data.base_model == "org/base" and card.data.datasets == ["org/toy"]
    assert card.data.library_name == "peft"
    assert "local checkpoint" not in card.text
    edit_settings(out, base_model="org/base", base_model_is_local=True)  # a relative path that looks like a Hub id
    write_model_card(out, "someone/toy")
    assert ModelCard.load(out / "README.md").data.base_model is None


def test_the_card_says_how_to_load_and_why_not_by_a_pipeline(adapter, tmp_path, toy_sids):
    out, recommender = adapter
    text = ModelCard.load(out / "README.md").text
    assert f"Load it with `load_recommender`, and not with `pipeline(\"text-generation\", '{out}')`" in text
    assert "which has no tokens for semantic IDs" in text
    # That is so: the tokenizer of the base, which a pipeline takes, has no token of it.
    sid = recommender.vocabulary.text([3])[0]
    base = AutoTokenizer.from_pretrained(out.parent / "base")
    assert len(recommender.tokenizer(sid)["input_ids"]) == 2 < len(base(sid)["input_ids"])
    save_recommender(out, recommender.model.merge_and_unload(), recommender.tokenizer, semantic_ids=toy_sids, **HOW)
    text = ModelCard.load(out / "README.md").text
    assert 'not with `pipeline("text-generation"' in text and "no tokens for semantic IDs" not in text


def test_hostile_ids_and_names_stay_text(tmp_path, toy_sids):
    ids = ["```\n# out", "'); raise SystemExit('hit'); ('", "a\\`b\u202e", *[f"i{item}" for item in range(21)]]
    sids = SemanticIds(toy_sids.codes, toy_sids.level_sizes, ids)
    name = "x\n---\nlicense: mit\n# [y](http://z) <b>|"
    model, tokenizer = make_adapter(make_base(tmp_path / "base"), sids)
    save_recommender(
        tmp_path / "out", model, tokenizer, semantic_ids=sids, **HOW | {"dataset": {"name": name, "fingerprint": "0"}}
    )
    write_report(toy_report(sids, name), tmp_path / "out")
    write_model_card(tmp_path / "out", "someone/toy")
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.license is None and card.data.datasets is None and card.data.eval_results[0].dataset_name == name
    blocks = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    assert card.text.count("```") == 2 * len(blocks) == 4
    assert literal_eval(re.search(r"^history = (.*)  # item ids", blocks[0], re.MULTILINE)[1]) == ids[:3]
    assert "[y](http" not in card.text and "<b>" not in card.text.replace("\\<b\\>", "") and "\n# out" not in card.text


def test_the_snippets_run_as_they_stand(adapter, capsys):
    out, recommender = adapter
    blocks = re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(), re.DOTALL)
    exec("\n".join(blocks), {})
    ranked, generated = capsys.readouterr().out.strip().splitlines()[-2:]
    assert literal_eval(ranked) == recommender.recommend([["i0", "i1", "i2"]], k=5)
    assert literal_eval(generated)[0] in recommender.semantic_ids.item_ids


# The Hub


PUSH = """
from genrec_hf import SemanticIds
from genrec_hf.hub import push_recommender
print(push_recommender({out!r}, "someone/toy", private=True))
SemanticIds.from_pretrained({out!r}).push_to_hub("someone/sids")
try:
    push_recommender({out!r}, "someone/sids", private=True)
except ValueError as error:
    print(error)
"""
LOAD = """
print(recommender.recommend({histories!r}, k=4))
print(recommender.normalization, recommender.max_history)
from genrec_hf import SemanticIds
print(SemanticIds.from_pretrained("someone/sids").fingerprint)
try:
    load_recommender("someone/sids")
except FileNotFoundError as error:
    print(error)
"""


def test_what_is_pushed_loads_in_a_clean_process(adapter, toy_sids, hub, tmp_path):
    out, recommender = adapter
    write_report(toy_report(toy_sids), out)
    left = (
        "checkpoint-7/optimizer.pt",
        "checkpoint-7/adapter_model.safetensors",
        "training_args.bin",
        "runs/events.1",
        ".genrec_hf.lock",
        ".genrec_hf-left/adapter_model.safetensors",
    )
    for name in left:
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_bytes(b"pickle")
    (out / "trainer_state.json").write_text("{}")
    printed = run_python(PUSH.format(out=str(out)), hub, tmp_path / "writer", tmp_path).strip().splitlines()[-2:]
    assert (
        printed[0] == f"{hub.url}/someone/toy" and "which exists and is public, so nothing was uploaded" in printed[1]
    )
    files = hub.repos["someone/toy"]
    assert hub.private == {"someone/toy": True, "someone/sids": False}
    assert set(files) == {
        "README.md", "adapter_config.json", "adapter_model.safetensors", "generation_config.json", "genrec_hf.json",
        "metrics.json", "metrics.md", "metrics.png", "semantic_ids/codes.safetensors",
        "semantic_ids/semantic_ids.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert files["adapter_model.safetensors"] == (out / "adapter_model.safetensors").read_bytes()
    assert set(hub.repos["someone/sids"]) == {"semantic_ids/codes.safetensors", "semantic_ids/semantic_ids.json"}
    # The card that was pushed, run as it stands where nothing of this process is known.
    text = files["README.md"].decode()
    assert "load_recommender('someone/toy')" in text and str(out) not in text
    assert ModelCard(text).data.eval_results[0].metric_value == 1.0
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)) + LOAD.format(histories=HISTORIES)
    first, _, ranked, how, sids, nothing = run_python(code, hub, tmp_path / "reader", tmp_path).strip().splitlines()
    assert literal_eval(first) == recommender.recommend([["i0", "i1", "i2"]], k=5)
    assert literal_eval(ranked) == recommender.recommend(HISTORIES, k=4) and how == "level 5"
    assert sids == toy_sids.fingerprint and "holds no genrec_hf.json" in nothing
    cached = [path.name for path in (tmp_path / "reader").rglob("*") if path.suffix in (".md", ".png")]
    assert cached == []  # loading takes what it needs


def test_a_directory_without_a_recommender_is_not_pushed(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no genrec_hf\.json"):
        push_recommender(tmp_path, "someone/toy")
