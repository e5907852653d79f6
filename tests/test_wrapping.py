"""The protocol of modules that wrap a language model, tested with a module that is defined here."""

import json
import re
from pathlib import Path

import pytest
import torch
from conftest import make_model, make_tokenizer
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from trl import ModelConfig

from genrec_hf.data.dataset import catalogue_fingerprint
from genrec_hf.generation import SearchSettings
from genrec_hf.hub import load_recommender, merge_recommender, save_recommender
from genrec_hf.internals.peft import no_deprecations
from genrec_hf.models import (
    WRAPPINGS,
    WrappedConfig,
    WrappedLM,
    Wrapping,
    load_base,
    load_for_training,
    start_adapter,
    unwrap,
    wrapping_of,
)
from genrec_hf.vocabulary import SidVocabulary

ITEMS = 24
WEIGHTS = torch.arange(ITEMS) / ITEMS  # of item 0 it is 0
ROOT = Path(__file__).parent.parent
HISTORIES = [["i8", "i9"], ["i20"], []]


class NudgedConfig(WrappedConfig):
    model_type = "nudged"

    def __init__(self, text_config=None, **kwargs):
        super().__init__(text_config, **kwargs)


class Nudge(nn.Module):
    """A learned vector."""

    def __init__(self, size):
        super().__init__()
        self.vector = nn.Parameter(torch.zeros(size))

    def forward(self, weights):
        return weights.sum() * self.vector


class NudgedLM(WrappedLM):
    """Adds a learned vector to what the language model reads, as often as the weights of all items add up to."""

    config_class = NudgedConfig
    contents = "item weights"
    saved_modules = ("nudge",)
    saved_file = "nudge.safetensors"
    saved_tensors = ("weights",)
    saved_settings = ("items", "catalogue", "fingerprint")
    settings_key = "item_weights"

    def __init__(self, config, language_model=None):
        super().__init__(config, language_model)
        self.nudge = Nudge(config.text_config.hidden_size)
        self.register_buffer("weights", torch.zeros(config.items or 1))
        self.post_init()

    def embed(self, input_ids):
        return super().embed(input_ids) + self.nudge(self.weights)

    def take_rows(self, rows):
        self.weights = torch.where(rows >= 0, self.weights[rows], 0)

    def settings(self):
        return {self.settings_key: {"total": float(self.weights.sum())}}

    @classmethod
    def card_rows(cls, described):
        return {"Item weights": f"{described['total']:.2f} in all"}


AutoConfig.register("nudged", NudgedConfig)
AutoModelForCausalLM.register(NudgedConfig, NudgedLM)


@pytest.fixture(autouse=True)
def known_wrapper(monkeypatch):
    """Named where the library names its own."""
    for module in ("genrec_hf.models", "genrec_hf.hub", "genrec_hf.model_card"):
        monkeypatch.setattr(f"{module}.WRAPPINGS", (*WRAPPINGS, NudgedLM))


def nudged(language_model, sids, weights=WEIGHTS):
    catalogue = catalogue_fingerprint(sids.item_ids)
    return NudgedLM.wrap(language_model, {"weights": weights}, items=len(weights), catalogue=catalogue)


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor(ids)).logits


@pytest.fixture
def base(tmp_path):
    make_model().save_pretrained(tmp_path / "base")
    make_tokenizer().save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


@pytest.fixture
def trained(base, toy_sids):
    """One step in training mode, far enough that every part of it matters to the lists."""
    model, tokenizer = load_base(base)
    vocabulary = SidVocabulary(toy_sids).extend(tokenizer, model, init="random")
    torch.manual_seed(0)
    model = start_adapter(nudged(model, toy_sids), vocabulary, LoraConfig(r=4, init_lora_weights=False)).train()
    ids = torch.from_numpy(vocabulary.token_ids(range(ITEMS))).reshape(2, -1)
    model(input_ids=ids, labels=ids).loss.backward()
    kinds = {"lora_": 0, "trainable_tokens_delta": 0, "nudge.modules_to_save": 0}
    for name, parameter in model.named_parameters():
        (kind,) = [kind for kind in kinds if kind in name] or [None]
        assert parameter.requires_grad == (kind is not None), name
        if kind is not None:
            assert parameter.grad.any(), name
            kinds[kind] += 1
    assert kinds == {"lora_": 28, "trainable_tokens_delta": 1, "nudge.modules_to_save": 1}
    torch.optim.SGD([each for each in model.parameters() if each.requires_grad], 1.0).step()
    assert unwrap(model).nudge.modules_to_save["default"].vector.abs().max() > 1e-3
    return model.eval(), tokenizer


def save(model, tokenizer, sids, folder):
    save_recommender(folder, model, tokenizer, semantic_ids=sids, max_history=5, normalization="full")
    return folder


def test_below_an_adapter_is_the_causal_model():
    model = make_model()
    with no_deprecations():
        adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
    assert unwrap(adapted) is model and unwrap(model) is model
    assert wrapping_of(adapted).language_model is model


def test_a_wrapper_is_named_by_its_own_file_its_exports_and_its_training_alone():
    sources = [path for folder in ("genrec_hf", "recipes") for path in (ROOT / folder).rglob("*.py")]
    name = re.compile(r"LlaraForCausalLM|\"llara\"")
    naming = {str(path.relative_to(ROOT)) for path in sources if name.search(path.read_text())}
    own = {"genrec_hf/models/llara.py", "genrec_hf/training/llara_training.py", "recipes/sft_llara.py"}
    exports = {"genrec_hf/__init__.py", "genrec_hf/models/__init__.py"}
    assert naming == own | exports, "elsewhere ask `wrapping_of(model)`"


def test_nothing_around_a_language_model_contributes_nothing(toy_sids, tmp_path):
    model = make_model()
    around, ids = wrapping_of(model), torch.tensor([[4, 5, 6]])
    network, prompt = around.prompt_inputs(ids)
    assert network is model and list(prompt) == ["input_ids"] and prompt["input_ids"] is ids
    assert torch.equal(around.hidden_states(ids).last_hidden_state, model.base_model(ids).last_hidden_state)
    assert around.saved_modules == () and around.first_vector is None and not around.holds_items
    around.save_wrapper(tmp_path)
    around.refuse_other_items(["anything"])
    around.reindex(["a"], ["b"])
    assert list(tmp_path.iterdir()) == [] and around.settings() == {} and not isinstance(model, Wrapping)


def test_prompts_and_hidden_states_are_those_of_the_wrapper(toy_sids):
    model = nudged(make_model(), toy_sids)
    with torch.no_grad():
        model.nudge.vector += 0.5
    assert wrapping_of(model) is model and unwrap(model) is model
    ids = torch.tensor([[4, 5, 6], [7, 8, 9]])
    expected = model.language_model.get_input_embeddings()(ids) + 0.5 * WEIGHTS.sum()
    network, prompt = model.prompt_inputs(ids)
    assert network is model.language_model and torch.equal(prompt["inputs_embeds"], expected)
    hidden = model.language_model.base_model(inputs_embeds=expected).last_hidden_state
    for states in (model.hidden_states(ids), model.base_model(input_ids=ids)):
        assert torch.equal(states.last_hidden_state, hidden)
    assert torch.equal(logits(model, ids.tolist()), network(inputs_embeds=expected).logits)


def test_a_recommender_with_another_wrapper_is_saved_and_loaded_with_equal_lists(trained, toy_sids, tmp_path):
    model, tokenizer = trained
    out = save(model, tokenizer, toy_sids, tmp_path / "out")
    weights = load_file(out / "adapter_model.safetensors")
    assert [name for name in weights if "nudge" in name] == ["base_model.model.nudge.vector"]
    assert torch.equal(load_file(out / "nudge.safetensors")["weights"], WEIGHTS)
    settings = json.loads((out / "genrec_hf.json").read_text())
    assert settings["item_weights"] == {"total": 11.5} and settings["collaborative_vectors"] is None
    assert "| Item weights | 11.50 in all |" in (out / "README.md").read_text()
    loaded = load_recommender(out)
    assert type(loaded.network) is NudgedLM and loaded.first_vector is None
    assert torch.equal(logits(loaded.model, [[4, 5, 321]]), logits(model, [[4, 5, 321]]))
    lists = loaded.recommend(HISTORIES, 10, search=SearchSettings(num_beams=ITEMS))
    # The wrapper's part in them.
    with torch.no_grad():
        loaded.network.nudge.modules_to_save["default"].vector.zero_()
    assert loaded.recommend(HISTORIES, 10, search=SearchSettings(num_beams=ITEMS)) != lists
    assert load_recommender(out).recommend(HISTORIES, 10, search=SearchSettings(num_beams=ITEMS)) == lists
    merge_recommender(out, tmp_path / "merged")
    merged = load_recommender(tmp_path / "merged")
    assert (
        type(merged.model) is NudgedLM
        and merged.recommend(HISTORIES, 10, search=SearchSettings(num_beams=ITEMS)) == lists
    )
    with pytest.raises(ValueError, match=r"holds an adapter and no whole model"):
        NudgedLM.from_pretrained(out)
    save(make_plain(tmp_path / "base", toy_sids), tokenizer, toy_sids, out)
    assert not (out / "nudge.safetensors").exists(), "it would be read with an adapter that was trained without"


def make_plain(base, sids):
    model, tokenizer = load_base(str(base))
    return start_adapter(model, SidVocabulary(sids).extend(tokenizer, model, init="random"), LoraConfig(r=4))


def test_what_is_held_for_each_item_follows_the_catalogue(trained, toy_sids, tmp_path):
    model, tokenizer = trained
    out = save(model, tokenizer, toy_sids, tmp_path / "out")
    fewer = toy_sids.remove(["i0"])
    loaded = load_recommender(out, semantic_ids=fewer)
    assert torch.equal(loaded.network.weights, WEIGHTS[1:])
    whole = load_recommender(out).recommend(HISTORIES, 10, deny=["i0"], search=SearchSettings(num_beams=ITEMS))
    assert loaded.recommend(HISTORIES, 10, search=SearchSettings(num_beams=ITEMS)) == whole
    network, now = loaded.network, ["new", *reversed(fewer.item_ids)]
    network.reindex(fewer.item_ids, now)
    assert network.weights.tolist() == [0.0, *reversed(WEIGHTS[1:].tolist())]
    assert (network.config.items, network.config.catalogue) == (ITEMS, catalogue_fingerprint(now))
    assert network.config.fingerprint == network.compute_fingerprint()
    with pytest.raises(ValueError, match=r"^the item weights are of 24 items .* not of these 23 .* to other items"):
        network.reindex(fewer.item_ids, now)


def test_a_catalogue_grows_only_where_the_wrapper_says_how(toy_sids):
    class Unable(NudgedLM):
        take_rows = WrappedLM.take_rows

    model = Unable.wrap(make_model(), {"weights": WEIGHTS}, items=ITEMS)
    with pytest.raises(NotImplementedError, match="Unable has a row for each item and no method `take_rows`"):
        model.reindex(toy_sids.item_ids, [*toy_sids.item_ids, "new"])


@pytest.mark.parametrize("whole", [False, True])
def test_other_tensors_in_the_files_are_noticed(whole, trained, toy_sids, tmp_path):
    folder = save(*trained, toy_sids, tmp_path / "out")
    if whole:
        merge_recommender(folder, folder := tmp_path / "merged")
    file = folder / ("model.safetensors" if whole else "nudge.safetensors")
    tensors = load_file(file)
    tensors["weights"] = tensors["weights"].flip(0)
    metadata = {"format": "pt"}
    if not whole:
        saved = {"items": ITEMS, "catalogue": None, "fingerprint": unwrap(trained[0]).config.fingerprint}
        metadata = {"nudged": json.dumps(saved)}
    save_file(tensors, file, metadata)
    with pytest.raises(ValueError, match=r"holds other weights than .*, on which the nudge .*was trained"):
        load_recommender(folder)
    if not whole:
        save_file(tensors, file)
        with pytest.raises(ValueError, match=r"nudge\.safetensors' holds no weights with their settings: copy it"):
            load_recommender(folder)


def test_training_goes_on_with_the_same_wrapper_and_with_no_other(trained, base, toy_sids, tmp_path):
    out = str(save(*trained, toy_sids, tmp_path / "out"))
    vocabulary, expected = SidVocabulary(toy_sids), logits(trained[0], [[4, 321]])

    def load(name, around, stage="lora"):
        settings = ModelConfig(name, use_peft=True, lora_r=4, dtype="float32")
        return load_for_training(settings, vocabulary, init="random", stage=stage, wrap=around)[0].eval()

    for around in (None, lambda inner: nudged(inner, toy_sids)):
        assert torch.equal(logits(load(out, around), [[4, 321]]), expected)
    alone = load(out, None, stage="projector")
    names = [name for name, parameter in alone.named_parameters() if parameter.requires_grad]
    assert names == ["base_model.model.nudge.modules_to_save.default.vector"]
    with pytest.raises(
        ValueError, match=r"out' was trained on other item weights \(\w{16}, these are \w{16}\), so its nudge"
    ):
        load(out, lambda inner: nudged(inner, toy_sids, WEIGHTS.flip(0)))
    # An adapter of text goes on inside: what it says is the same, as the vector is zeros.
    text = load(base, None)
    save(text, trained[1], toy_sids, tmp_path / "text")
    inside = load(str(tmp_path / "text"), lambda inner: nudged(inner, toy_sids))
    assert isinstance(unwrap(inside), NudgedLM)
    assert torch.equal(logits(inside, [[4, 321]]), logits(text, [[4, 321]]))
