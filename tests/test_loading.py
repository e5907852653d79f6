"""Base models and adapters: what trains, what is written, and that what is read back is the same model."""

import json

import pytest
import torch
from conftest import make_model, make_tokenizer
from peft import LoraConfig
from safetensors.torch import load_file
from trl import ModelConfig

from genrec_hf import SemanticIds, SidVocabulary, load_recommender
from genrec_hf.hub import save_recommender
from genrec_hf.models import is_adapter, load_adapter, load_base, load_for_training, start_adapter

SIDS = SemanticIds([[0, 1], [2, 0], [1, 1]], (3, 2), ["tea", "cup", "pot"])
PROMPT = "The item <s_a_2><s_b_0> thing comes next: <s_a_0><s_b_1>"


def save_base(model, directory):
    model.save_pretrained(directory)
    make_tokenizer().save_pretrained(directory)
    return str(directory)


def moved(model):
    """The model with everything that trains pushed away from where it started."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def trained_adapter(base_dir, markers=False):
    model, tokenizer = load_base(base_dir)
    vocabulary = SidVocabulary(SIDS, markers=markers).extend(tokenizer, model, init="random")
    return moved(start_adapter(model, vocabulary, LoraConfig(r=4))), tokenizer, vocabulary


def logits(model, tokenizer):
    with torch.no_grad():
        return model(**tokenizer(PROMPT, return_tensors="pt")).logits


@pytest.mark.parametrize("extra_rows", [0, 40])
def test_an_adapter_read_back_is_the_same_model(tiny_model, tmp_path, extra_rows):
    if extra_rows:
        tiny_model.resize_token_embeddings(tiny_model.config.vocab_size + extra_rows)
    model, tokenizer, vocabulary = trained_adapter(save_base(tiny_model, tmp_path / "base"), markers=True)
    model.save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    loaded, loaded_tokenizer = load_adapter(tmp_path / "adapter")
    assert not loaded.training and not any(parameter.requires_grad for parameter in loaded.parameters())
    assert (logits(loaded, loaded_tokenizer) - logits(model, tokenizer)).abs().max().item() == 0.0
    assert (
        SidVocabulary(SIDS, markers=True).bind(loaded_tokenizer).all_token_ids.tolist()
        == vocabulary.all_token_ids.tolist()
    )
    loaded.save_pretrained(tmp_path / "again")
    first, second = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("adapter", "again"))
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_an_adapter_holds_lora_and_the_sid_rows_and_no_whole_embedding(tiny_model, tmp_path):
    model, _, vocabulary = trained_adapter(save_base(tiny_model, tmp_path / "base"))
    model.save_pretrained(tmp_path / "adapter")
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    rows = [value for key, value in saved.items() if ".lora_" not in key]
    tied = tiny_model.config.tie_word_embeddings
    assert [tuple(value.shape) for value in rows] == [(len(vocabulary.tokens), 32)] * (1 if tied else 2)
    assert sum(".lora_" in key for key in saved) == 2 * 7 * 2  # A and B, seven linear layers, two blocks
    assert sum(value.numel() for value in saved.values()) == sum(
        p.numel() for p in model.parameters() if p.requires_grad
    )
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert set(config["trainable_token_indices"]) == ({"embed_tokens"} if tied else {"embed_tokens", "lm_head"})


@pytest.mark.parametrize("tied", [True, False])
def test_merging_gives_a_plain_model_with_the_same_logits(tmp_path, tied):
    model, tokenizer, _ = trained_adapter(save_base(make_model(tied=tied), tmp_path / "base"))
    before = logits(model, tokenizer)
    merged = model.merge_and_unload()
    torch.testing.assert_close(logits(merged, tokenizer), before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_a_read_adapter_goes_on_training(tmp_path, tied):
    model, tokenizer, _ = trained_adapter(save_base(make_model(tied=tied), tmp_path / "base"))
    model.save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    loaded, _ = load_adapter(tmp_path / "adapter", is_trainable=True)
    names = [{name for name, p in m.named_parameters() if p.requires_grad} for m in (model, loaded)]
    assert names[0] == names[1] != set()
    ids = tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    loaded(input_ids=ids, labels=ids).loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in loaded.parameters() if p.requires_grad)


def test_lora_targets_that_were_asked_for_are_kept():
    tokenizer, model = make_tokenizer(), make_model()
    vocabulary = SidVocabulary(SIDS).extend(tokenizer, model, init="mean")
    adapted = start_adapter(model, vocabulary, LoraConfig(r=2, target_modules=["q_proj"]))
    lora = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name, _ in adapted.named_parameters() if ".lora_" in name}
    assert lora == {"q_proj"}


def test_a_base_without_a_padding_token_pads_with_the_end_token(tmp_path):
    tokenizer = make_tokenizer()
    save_base(make_model(), tmp_path)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    model, loaded = load_base(str(tmp_path), dtype=torch.bfloat16)
    assert loaded.pad_token == "<|end|>" and model.dtype == torch.bfloat16


def test_four_bits_need_a_dtype_to_compute_in(tmp_path):
    settings = ModelConfig(save_base(make_model(), tmp_path), use_peft=True, load_in_4bit=True, dtype="auto")
    with pytest.raises(ValueError, match="dtype='auto' with load_in_4bit"):
        load_for_training(settings, SidVocabulary(SIDS))


def test_what_is_no_adapter_is_told(tmp_path):
    base = save_base(make_model(), tmp_path / "base")
    assert not is_adapter(base)
    with pytest.raises(FileNotFoundError, match=r"holds no adapter_config\.json"):
        load_adapter(base)
    trained_adapter(base)[0].save_pretrained(tmp_path / "adapter")
    assert is_adapter(str(tmp_path / "adapter"))


# What trains in each stage


def settings(path, **changes):
    return ModelConfig(model_name_or_path=str(path), **{"use_peft": True, "lora_r": 4, "dtype": "float32", **changes})


def load_stage(path, stage, **changes):
    return load_for_training(settings(path, **changes), SidVocabulary(SIDS), init="random", stage=stage)


def step(model, tokenizer):
    """One step on a prompt with some of the SID tokens; names of the parameters that changed."""
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    ids = tokenizer("The item " + "".join(SidVocabulary(SIDS).tokens), return_tensors="pt")["input_ids"]
    model(input_ids=ids, labels=ids).loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad
    return {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}


@pytest.mark.parametrize("tied", [True, False])
def test_a_stage_trains_what_it_names_and_nothing_else(tmp_path, tied):
    base = save_base(make_model(tied=tied), tmp_path / "base")
    heads = 1 if tied else 2
    for stage in ("rows", "lora"):
        model, tokenizer = load_stage(base, stage)
        changed = step(model, tokenizer)
        # A new LoRA's A does not move at the first step, where B is 0.
        assert sum("trainable_tokens_delta" in name for name in changed) == heads
        assert sum(".lora_B." in name for name in changed) == (14 if stage == "lora" else 0)
        assert len(changed) == heads + (14 if stage == "lora" else 0)
        trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert len(trainable) == heads + (28 if stage == "lora" else 0)
    model, tokenizer = load_stage(base, "full", use_peft=False)
    assert step(model, tokenizer) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("stage", ["rows", "lora"])
def test_every_stage_goes_on_from_every_other_where_it_ended(tmp_path, tied, stage):
    base = save_base(make_model(tied=tied), tmp_path / "base")
    model, tokenizer = load_stage(base, stage)
    expected = logits(moved(model), tokenizer)
    save_recommender(tmp_path / stage, model, tokenizer, semantic_ids=SIDS, max_history=3, normalization="full")
    for following in ("rows", "lora", "full"):
        loaded, _ = load_stage(tmp_path / stage, following, use_peft=following != "full")
        # Merging an adapter into the weights rounds; nothing else may differ.
        tolerance = 1e-5 if following == "full" else 0
        torch.testing.assert_close(logits(loaded.eval(), tokenizer), expected, atol=tolerance, rtol=tolerance)
        count = sum(parameter.requires_grad for parameter in loaded.parameters())
        assert count == {"rows": 2 - tied, "lora": 30 - tied, "full": len(list(loaded.parameters()))}[following]
    # The whole model, trained on and saved, is read as it was: by the recommender, and as a base of an adapter.
    expected = logits(moved(loaded), tokenizer)
    save_recommender(tmp_path / "full", loaded, tokenizer, semantic_ids=SIDS, max_history=3, normalization="full")
    assert not is_adapter(str(tmp_path / "full"))
    assert torch.equal(logits(load_recommender(tmp_path / "full").model, tokenizer), expected)
    for following in ("rows", "lora"):
        adapted, _ = load_stage(tmp_path / "full", following)
        assert torch.equal(logits(adapted.eval(), tokenizer), expected), "its rows are not made anew"
        save_recommender(
            tmp_path / following, moved(adapted), tokenizer, semantic_ids=SIDS, max_history=3, normalization="full"
        )
        again = load_recommender(tmp_path / following).model
        assert torch.equal(logits(again, tokenizer), logits(adapted, tokenizer))


def test_what_a_stage_cannot_train_is_told(tmp_path):
    base = save_base(make_model(), tmp_path / "base")
    for stage in ("rows", "lora"):
        with pytest.raises(ValueError, match="set use_peft: true"):
            load_stage(base, stage, use_peft=False)
    with pytest.raises(ValueError, match=r"stage='full'.*set use_peft: false"):
        load_stage(base, "full")
    with pytest.raises(ValueError, match=r"stage='full'.*leave out load_in_4bit"):
        load_stage(base, "full", use_peft=False, load_in_8bit=True)
    model, tokenizer = load_stage(base, "full", use_peft=False)
    save_recommender(tmp_path / "full", model, tokenizer, semantic_ids=SIDS, max_history=3, normalization="full")
    other = SemanticIds([[1, 1], [2, 0], [0, 1]], (3, 2), ["tea", "cup", "pot"])
    with pytest.raises(ValueError, match="their codes have other meanings"):
        load_for_training(settings(tmp_path / "full"), SidVocabulary(other), init="random")
