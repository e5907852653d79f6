"""LLaRA: vectors where their ids stand, trained with LoRA and nothing else, saved, loaded, and generated from."""

import hashlib
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from conftest import make_model, make_tokenizer
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import BitsAndBytesConfig
from trl import ModelConfig

from genrec_hf.data.dataset import catalogue_fingerprint
from genrec_hf.generation import SearchSettings as Search
from genrec_hf.generation import SidLogitsProcessor, sid_beam_search
from genrec_hf.generation.prompt_cache import SharedPromptCache, start_prompt_cache
from genrec_hf.hub import load_recommender, merge_recommender, save_recommender
from genrec_hf.models import LlaraConfig, LlaraForCausalLM, load_for_training, start_adapter, wrapping_of
from genrec_hf.vocabulary import SidVocabulary

needs_bitsandbytes = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed: pip install genrec_hf[quantization]"
)
WIDTH, ITEMS, UNKNOWN = 6, 24, 5
FIRST = 329  # behind 319 tokens and 10 of the SIDs
VECTORS = np.random.default_rng(0).normal(2.0, 3.0, (ITEMS, WIDTH))
KNOWN = np.arange(ITEMS) != UNKNOWN


def wrap(language_model, vectors=VECTORS, known=KNOWN, **settings):
    torch.manual_seed(0)
    return LlaraForCausalLM.from_language_model(language_model, vectors, known, **settings)


def move(model, scale=0.05):
    """As if it had been trained."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(scale * torch.randn_like(parameter))
    return model


@pytest.fixture
def base(tmp_path):
    make_model().save_pretrained(tmp_path / "base")
    make_tokenizer().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def load(name, vocabulary, wrap=wrap, stage="lora"):
    settings = ModelConfig(str(name), attn_implementation="eager", use_peft=True, lora_r=4, dtype="float32")
    return load_for_training(settings, vocabulary, init="random", stage=stage, wrap=wrap)


@pytest.fixture
def trained(base, toy_sids):
    vocabulary = SidVocabulary(toy_sids)
    catalogue = catalogue_fingerprint(toy_sids.item_ids)
    model, tokenizer = load(base, vocabulary, lambda inner: wrap(inner, catalogue=catalogue))
    return move(model).eval(), tokenizer, vocabulary


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor(ids)).logits


def test_an_items_id_is_the_place_of_its_projected_vector(tiny_model):
    inner = {name: weight.clone() for name, weight in tiny_model.state_dict().items()}
    attention = tiny_model.config._attn_implementation
    model = wrap(tiny_model)
    for name, weight in model.language_model.state_dict().items():
        assert torch.equal(weight, inner[name]), "the language model stays as it is"
    assert model.config._attn_implementation == tiny_model.config._attn_implementation == attention
    first = model.config.first_vector
    assert first == 320 and (model.config.items, model.config.vector_size) == (ITEMS, WIDTH)
    ids = torch.tensor([[4, first + 3, 7], [first + UNKNOWN, 8, first]])
    scaled = VECTORS / np.sqrt((VECTORS[KNOWN] ** 2).mean())
    layers = model.projector.layers
    for row, column, vector in [(0, 1, scaled[3]), (1, 2, scaled[0]), (1, 0, model.projector.fallback.detach())]:
        expected = layers[2](F.gelu(layers[0](torch.as_tensor(vector, dtype=torch.float32))))
        torch.testing.assert_close(model.embed(ids)[row, column], expected)
    assert torch.equal(model.embed(ids)[0, [0, 2]], tiny_model.get_input_embeddings()(torch.tensor([4, 7])))
    with torch.no_grad():
        model.projector.fallback.add_(1.0)
    known = model.project(torch.arange(ITEMS)[torch.from_numpy(KNOWN)])
    spread = tiny_model.get_input_embeddings().weight.std()
    torch.testing.assert_close(known.std(), spread), "projections start with the spread of token embeddings"
    told = model(input_ids=ids).logits
    torch.testing.assert_close(told, model(inputs_embeds=model.embed(ids)).logits)
    with pytest.raises(ValueError, match=rf"got id {first + ITEMS}: token ids end at {first}"):
        model(input_ids=torch.tensor([[1, first + ITEMS]]))


def test_training_replaces_some_vectors_by_the_fallback_and_evaluation_none():
    model = wrap(make_model(), vector_dropout=0.25)
    items = torch.arange(ITEMS).repeat(100)
    fallback = model.project(torch.tensor([UNKNOWN]))
    model.train()
    replaced = (model.project(items) == fallback).all(dim=1).float().mean()
    assert replaced == pytest.approx(0.25 * 23 / 24 + 1 / 24, abs=0.03)
    model.eval()
    assert (model.project(items) == fallback).all(dim=1).sum() == 100


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_matrix_of_another_dtype_in_a_model_of_another(dtype):
    matrix = torch.from_numpy(VECTORS).to(dtype)
    model = LlaraForCausalLM.from_language_model(make_model().bfloat16(), matrix.requires_grad_(), KNOWN)
    assert model.vectors.dtype == torch.float32 and not model.vectors.requires_grad
    assert model.embed(torch.tensor([[1, 322]])).dtype == torch.bfloat16
    assert model(input_ids=torch.tensor([[1, 322]])).logits.isfinite().all()


@pytest.mark.parametrize(
    ("vectors", "known", "message"),
    [
        (VECTORS[0], None, r"got vectors of shape \(6,\)"),
        (VECTORS, KNOWN[:3], r"got known of shape \(3,\) with 3 true values for 24 vectors"),
        (VECTORS, np.zeros(ITEMS, dtype=bool), "0 true values"),
        (np.where(np.arange(ITEMS)[:, None] == 7, np.nan, VECTORS), KNOWN, "1 of 23 known vectors hold NaN.*row 7"),
        (np.where(np.arange(ITEMS)[:, None] > 20, 0.0, VECTORS), None, "3 of 24 known vectors hold NaN or are all"),
    ],
)
def test_bad_matrices_are_refused(vectors, known, message):
    with pytest.raises(ValueError, match=message):
        wrap(make_model(), vectors, known)
    with pytest.raises(ValueError, match=r"got vector_dropout=1\.0"):
        LlaraConfig(vector_dropout=1.0)
    with pytest.raises(ValueError, match="got projector_size=0; give 1 or more"):
        LlaraConfig(projector_size=0)


def test_the_rows_of_items_without_a_vector_are_not_read():
    told = np.where(np.arange(ITEMS)[:, None] == UNKNOWN, np.nan, VECTORS)
    one, other = wrap(make_model()), wrap(make_model(), told)
    assert one.config.vectors == other.config.vectors and torch.equal(one.vectors, other.vectors)


def test_the_fingerprint_is_that_of_files_written_before():
    vectors, known = np.arange(6, dtype=np.float32).reshape(3, 2), np.array([True, False, True])
    tensors = {"vectors": torch.from_numpy(vectors), "known": torch.from_numpy(known)}
    model = LlaraForCausalLM.wrap(make_model(), tensors, catalogue="of these")
    expected = hashlib.sha256(known.tobytes() + vectors.tobytes()).hexdigest()[:16]
    assert model.config.vectors == model.config.fingerprint == model.compute_fingerprint() == expected
    assert model.config.to_dict()["vectors"] == expected and "fingerprint" not in model.config.to_dict()


def test_alignment_by_hand():
    model = wrap(make_model())
    texts = [[item % 7 + 4, item + 10] for item in range(ITEMS)]
    table = model.get_input_embeddings().weight.detach()
    told = model.text_vectors(texts)
    torch.testing.assert_close(told[3], (table[7] + table[13]) / 2)
    ids = torch.tensor([[5, 320 + 3, 320 + 3], [320 + 9, 6, 320 + UNKNOWN]])
    projected = model.project(torch.tensor([3, 9]))
    apart = ((projected - told[[3, 9]]) ** 2).sum(dim=1)
    expected = (apart[0] + apart[1]) / 2 / (told**2).sum(dim=1).mean()
    torch.testing.assert_close(model.alignment(ids, told), expected)
    nothing = model.alignment(torch.tensor([[5, 6]]), told)
    assert nothing == 0 and nothing.requires_grad


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("checkpointing", [True, False])
def test_gradients_reach_projector_lora_and_sid_rows_only(tied, checkpointing, toy_sids):
    tokenizer, inner = make_tokenizer(), make_model(tied=tied)
    vocabulary = SidVocabulary(toy_sids).extend(tokenizer, inner, init="random")
    before = [parameter.clone() for parameter in inner.parameters()]
    model = start_adapter(wrap(inner), vocabulary, LoraConfig(r=4, init_lora_weights=False, task_type="CAUSAL_LM"))
    if checkpointing:
        model.enable_input_require_grads()
        model.activation_checkpointing_enable()
    sids, first = vocabulary.token_ids(np.arange(ITEMS)), model.get_base_model().config.first_vector
    ids = torch.from_numpy(np.column_stack([sids, first + np.arange(ITEMS)])).reshape(1, -1)
    model.train()(input_ids=ids, labels=ids.masked_fill(ids >= first, -100)).loss.backward()
    kinds = {"lora_": 0, "trainable_tokens_delta": 0, "projector.modules_to_save": 0}
    for name, parameter in model.named_parameters():
        kind = [kind for kind in kinds if kind in name]
        assert parameter.requires_grad == bool(kind) and len(kind) <= 1, name
        if kind:
            assert parameter.grad is not None and parameter.grad.any(), name
            kinds[kind[0]] += 1
    assert kinds == {"lora_": 28, "trainable_tokens_delta": 1 if tied else 2, "projector.modules_to_save": 5}
    torch.optim.SGD([each for each in model.parameters() if each.requires_grad], 0.1).step()
    kept = [each for name, each in inner.named_parameters() if "lora_" not in name and "delta" not in name]
    assert all(torch.equal(one, other) for one, other in zip(kept, before, strict=True))


def test_a_row_of_a_padded_batch_is_what_it_is_alone(trained):
    model, tokenizer, _ = trained
    first = model.get_base_model().config.first_vector
    rows = [[9, first + 2, 11, first + 4, 6], [first + 1], [7, 8, first + UNKNOWN]]
    batch = tokenizer.pad({"input_ids": rows}, padding_side="left", return_tensors="pt")
    positions = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    together = model(**batch, position_ids=positions).logits[:, -1]
    drawn = model.generate(**batch, max_new_tokens=4, do_sample=False, eos_token_id=None)[:, -4:]
    for row, ids in enumerate(rows):
        torch.testing.assert_close(together[row], logits(model, [ids])[0, -1], atol=1e-5, rtol=1e-5)
        alone = model.generate(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=4,
            do_sample=False,
            eos_token_id=None,
        )
        assert torch.equal(alone[0, -4:], drawn[row])


def test_what_is_generated_is_the_best_of_all_items_by_brute_force(trained, toy_sids, tmp_path):
    model, tokenizer, vocabulary = trained
    recommender = save_and_load(model, tokenizer, toy_sids, tmp_path)
    network, trie = recommender.model.get_base_model(), recommender.trie
    histories = [np.array([3, 8, 1]), np.array([UNKNOWN]), np.array([], dtype=np.int64), np.arange(9)]
    prompts = [recommender._prompt(history, None) for history in histories]
    scores = np.empty((len(prompts), ITEMS))
    for row, prompt in enumerate(prompts):
        assert [each - FIRST for each in prompt if each >= FIRST] == histories[row][-5:].tolist()
        for item, sid in enumerate(vocabulary.token_ids(np.arange(ITEMS)).tolist()):
            told = logits(recommender.model, [prompt + sid])[0].log_softmax(-1)
            scores[row, item] = sum(told[len(prompt) + place - 1, token] for place, token in enumerate(sid))
    best = np.argsort(-scores, axis=1)[:, :6]
    assert recommender.rank(histories, 6, filter_seen=False, search=Search(ITEMS)).items.tolist() == best.tolist()
    np.testing.assert_allclose(recommender.score(histories), scores, atol=1e-4)
    assert isinstance(
        start_prompt_cache(
            wrapping_of(network).prompt_inputs(torch.tensor([prompts[0]]))[0], length=20, hypotheses=6, levels=2
        ),
        SharedPromptCache,
    )
    batch = recommender.encode(histories)
    assert batch["input_ids"][2, -len(prompts[2]) :].tolist() == prompts[2] and not batch["attention_mask"][2, 0]
    fast = {"custom_generate": sid_beam_search, "trie": trie, "num_beams": ITEMS, "num_return_sequences": 6}
    embeds = network.embed(batch["input_ids"])
    ways = [
        recommender.model.generate(**batch, **fast),
        network.generate(inputs_embeds=embeds, attention_mask=batch["attention_mask"], **fast),
        recommender.model.generate(
            **batch, num_beams=ITEMS, num_return_sequences=6, max_new_tokens=2, length_penalty=0.0,
            logits_processor=[SidLogitsProcessor(trie, vocabulary)],
        ),
    ]  # fmt: skip
    for found in ways:
        assert vocabulary.items(found[:, -2:].numpy()).reshape(-1, 6).tolist() == best.tolist()


def save_and_load(model, tokenizer, toy_sids, folder):
    save_recommender(folder, model, tokenizer, semantic_ids=toy_sids, max_history=5, normalization="full")
    return load_recommender(folder, attn_implementation="eager")


def test_saved_merged_and_loaded_it_is_the_same_model(trained, toy_sids, tmp_path):
    model, tokenizer, _ = trained
    ids = [[5, FIRST + 2, 9, FIRST + UNKNOWN, FIRST + 23]]
    out = tmp_path / "out"
    recommender = save_and_load(model, tokenizer, toy_sids, out)
    assert torch.equal(logits(recommender.model, ids), logits(model, ids))
    weights = load_file(out / "adapter_model.safetensors")
    assert sum(".projector." in name for name in weights) == 5 and not any("embed_tokens.weight" in n for n in weights)
    card = (out / "README.md").read_text()
    assert (
        "| Collaborative vectors | of 23 items, dimension 6, projected, after each semantic ID of a history |" in card
    )
    merge_recommender(out, tmp_path / "merged")
    merged = load_recommender(tmp_path / "merged", attn_implementation="eager")
    assert (
        type(merged.model) is LlaraForCausalLM and merged.model.language_model.config._attn_implementation == "eager"
    )
    torch.testing.assert_close(logits(merged.model, ids), logits(model, ids), atol=1e-5, rtol=1e-5)
    again = LlaraForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(again, ids), logits(model, ids), atol=1e-5, rtol=1e-5)
    histories = [["i1", "i2"], ["i3"]]
    assert recommender.recommend(histories, 5) == merged.recommend(histories, 5)
    with pytest.raises(ValueError, match=r"holds an adapter and no whole model: use genrec_hf.load_recommender"):
        LlaraForCausalLM.from_pretrained(out)


def test_a_merged_model_in_half_precision_loads_in_any(trained, toy_sids, tmp_path):
    model, tokenizer, _ = trained
    save_and_load(model, tokenizer, toy_sids, tmp_path / "out")
    merge_recommender(tmp_path / "out", tmp_path / "half", dtype="bfloat16")
    for dtype in (torch.float32, torch.bfloat16):
        half = load_recommender(tmp_path / "half", dtype=dtype).model
        assert half.vectors.dtype == dtype
        near = (logits(half, [[5, FIRST + 2, 9]]) - logits(model, [[5, FIRST + 2, 9]])).abs().max()
        assert near < 0.05


@pytest.mark.parametrize("whole", [False, True])
def test_other_vectors_in_the_files_are_noticed(whole, trained, toy_sids, tmp_path):
    model, tokenizer, _ = trained
    save_and_load(model, tokenizer, toy_sids, tmp_path / "out")
    if whole:
        merge_recommender(tmp_path / "out", tmp_path / "merged")
    file = tmp_path / "merged" / "model.safetensors" if whole else tmp_path / "out" / "collaborative.safetensors"
    tensors = load_file(file)
    tensors["vectors"] = tensors["vectors"].roll(1, 0)
    with safe_open(file, "pt") as before:
        metadata = before.metadata()
    save_file(tensors, file, metadata)
    with pytest.raises(ValueError, match="holds other vectors than"):
        load_recommender(file.parent)


def test_vectors_of_other_items_are_refused_and_new_items_have_the_fallback(trained, toy_sids, tmp_path):
    model, tokenizer, _ = trained
    recommender = save_and_load(model, tokenizer, toy_sids, tmp_path / "out")
    network = recommender.model.get_base_model()
    with pytest.raises(ValueError, match="they would belong to other items"):
        network.refuse_other_items([*toy_sids.item_ids[1:], "other"])
    before = network.project(torch.arange(ITEMS))
    now = ["new", *reversed(toy_sids.item_ids[2:])]
    network.reindex(toy_sids.item_ids, now)
    assert network.config.items == ITEMS - 1 and network.config.catalogue == catalogue_fingerprint(now)
    after = network.project(torch.arange(ITEMS - 1))
    torch.testing.assert_close(after[1:], before[2:].flip(0))
    torch.testing.assert_close(after[0], before[UNKNOWN])


def test_an_adapter_of_text_goes_on_inside(base, toy_sids, tmp_path):
    text, tokenizer = load(base, SidVocabulary(toy_sids), wrap=None)
    save_recommender(
        tmp_path / "text", move(text), tokenizer, semantic_ids=toy_sids, max_history=5, normalization="full"
    )
    hybrid, _ = load(tmp_path / "text", SidVocabulary(toy_sids))
    ids = [[5, 6, 321, 324]]
    torch.testing.assert_close(logits(hybrid.eval(), ids), logits(text.eval(), ids))
    trained = {name for name, parameter in hybrid.named_parameters() if parameter.requires_grad}
    assert len(trained) == 28 + 1 + 5 and sum("projector" in name for name in trained) == 5
    save_recommender(
        tmp_path / "hybrid", move(hybrid), tokenizer, semantic_ids=toy_sids, max_history=5, normalization="full"
    )
    again, _ = load(tmp_path / "hybrid", SidVocabulary(toy_sids))
    assert torch.equal(logits(again.eval(), [[5, FIRST + 1]]), logits(hybrid.eval(), [[5, FIRST + 1]]))
    with pytest.raises(ValueError, match="was trained on other collaborative vectors"):
        load(tmp_path / "hybrid", SidVocabulary(toy_sids), lambda inner: wrap(inner, VECTORS + 1))


@pytest.mark.parametrize("whole", [False, True])
def test_a_model_that_reads_vectors_goes_on_with_the_same_and_with_no_others(whole, base, toy_sids, tmp_path):
    model, tokenizer = load(base, SidVocabulary(toy_sids))
    save_recommender(
        tmp_path / "hybrid", move(model).eval(), tokenizer, semantic_ids=toy_sids, max_history=5, normalization="full"
    )
    name = tmp_path / ("merged" if whole else "hybrid")
    if whole:
        merge_recommender(tmp_path / "hybrid", name)
    again, _ = load(name, SidVocabulary(toy_sids))
    assert isinstance(again.get_base_model().language_model, type(make_model()))
    expected = logits(model, [[5, FIRST + 1]])
    torch.testing.assert_close(logits(again.eval(), [[5, FIRST + 1]]), expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="was trained on other collaborative vectors"):
        load(name, SidVocabulary(toy_sids), lambda inner: wrap(inner, VECTORS + 1))
    with pytest.raises(ValueError, match=r"reads collaborative vectors, and prompts of this recipe hold none"):
        load(name, SidVocabulary(toy_sids), wrap=None)


def test_the_projector_can_be_trained_alone(base, toy_sids):
    model, _ = load(base, SidVocabulary(toy_sids), stage="projector")
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(trained) == 5 and all("projector.modules_to_save" in name for name in trained)


@needs_bitsandbytes
def test_a_quantized_base_reads_vectors_too(toy_sids, tmp_path):
    make_model(width=64).save_pretrained(tmp_path / "base")  # on a CPU, four bits run in multiples of 64 columns
    make_tokenizer().save_pretrained(tmp_path / "base")
    settings = {"use_peft": True, "lora_r": 4, "load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "dtype": "float32"}
    vocabulary = SidVocabulary(toy_sids)
    model, tokenizer = load_for_training(
        ModelConfig(str(tmp_path / "base"), **settings), vocabulary, init="random", wrap=wrap
    )
    network = model.get_base_model()
    for name in ("quantization_method", "is_quantized", "is_loaded_in_4bit", "hf_quantizer"):
        message = f"transformers no longer says {name} of a model: TRL and PEFT take a wrapped one for unquantized"
        assert getattr(network.language_model, name) and getattr(network, name), message
    assert model.is_loaded_in_4bit
    layers = {type(part).__name__ for name, part in model.named_modules() if name.endswith("proj.base_layer")}
    assert layers == {"Linear4bit"}
    move(model)
    ids = torch.tensor([[5, FIRST + 2, 7, FIRST + UNKNOWN, 9]])
    model(input_ids=ids, labels=ids.masked_fill(ids >= FIRST, -100)).loss.backward()
    for name, parameter in model.named_parameters():
        if "projector.modules_to_save" in name:
            assert parameter.dtype == torch.float32 and parameter.grad.any(), name
    save_recommender(
        tmp_path / "out", model.eval(), tokenizer, semantic_ids=toy_sids, max_history=5, normalization="full"
    )
    quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    again = load_recommender(tmp_path / "out", quantization_config=quantization)
    torch.testing.assert_close(logits(again.model, ids.tolist()), logits(model, ids.tolist()))
    assert "| Base model in training | nf4" in (tmp_path / "out" / "README.md").read_text()
