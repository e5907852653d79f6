"""Metrics of tasks: by hand for text, by brute force for items, and with and without instructions."""

import numpy as np
import pytest
import torch
from chat_templates import TEMPLATES
from conftest import make_model
from test_mixture import told_world

from genrec_hf import SidVocabulary
from genrec_hf.evaluation.task_metrics import (
    _generate,
    _prompt,
    evaluate_instruction_following,
    evaluate_task,
    tasks_markdown,
    text_metrics,
    title_metrics,
)
from genrec_hf.generation import Recommender
from genrec_hf.models import LlaraForCausalLM
from genrec_hf.tasks import TASKS, TITLE_CHOICE, Mixture, encode_examples, encode_prompt, make_sources


@pytest.fixture(scope="module")
def world():
    data, vocabulary, tokenizer, limits = told_world()
    model = make_model(vocabulary=len(tokenizer))
    recommender = Recommender(model, tokenizer, vocabulary.semantic_ids)
    return recommender, make_sources(data, vocabulary, tokenizer, split="test", limits=limits)


def test_words_by_hand():
    stars = text_metrics(TASKS["rating_stars"], ["4", "2 stars", "many", ""], ["5", "2", "3", "1"])
    assert stars == {"rmse": pytest.approx(np.sqrt(0.5)), "mae": 0.5, "unparsed": 0.5}
    assert np.isnan(text_metrics(TASKS["rating_stars"], ["none"], ["5"])["rmse"])
    assert text_metrics(TASKS["rating_liked"], ["yes", "no"], ["yes", "yes"]) == {"accuracy": 0.5}
    words = text_metrics(TASKS["sid_to_title"], ["the green tea pot", "cup"], ["the green tea pot", "iron jar"])
    assert words["exact"] == 0.5 and words["rouge_l"] == 0.5 and 0 < words["bleu"] < 100
    assert text_metrics(TASKS["sid_to_title"], ["a b c d e"], ["a b c d e"])["bleu"] == pytest.approx(100)


@pytest.mark.parametrize("name", ["next_item", "title_to_sid", "similar_items", "query_to_sid"])
def test_ranks_equal_scoring_every_item(world, name):
    recommender, sources = world
    found = evaluate_task(recommender, TASKS[name], sources, k=3, batch_size=2, progress=False)
    mixture = Mixture([name], sources, {name: 1.0})
    hits = []
    for example in mixture:
        ids = recommender.tokenizer(example["prompt"])["input_ids"]
        sids = recommender.vocabulary.token_ids(np.arange(6))
        with torch.no_grad():
            scores = []
            for sid in sids.tolist():
                logits = recommender.model(torch.tensor([ids + sid])).logits[0].log_softmax(dim=-1)
                scores.append(sum(float(logits[len(ids) - 1 + place, token]) for place, token in enumerate(sid)))
        hits.append(example["target"] in np.argsort(scores)[::-1][:3])
    assert found["recall@3"] == pytest.approx(np.mean(hits)) and found["examples"] == len(mixture)


def test_candidates_are_chosen_among_themselves(world):
    recommender, sources = world
    for name in ("candidates_to_next_item", "better_of_two"):
        found = evaluate_task(recommender, TASKS[name], sources, progress=False)
        assert set(found) == {"examples", "hit@1"} and 0 <= found["hit@1"] <= 1
    events = sources["events"]
    count = sum(len(events.candidates(entry)) for entry in range(len(events)))
    assert count < 6 * len(events), "fewer candidates than items, so that a model without sense hits more often"


@pytest.mark.parametrize("vectors", [False, True])
def test_a_title_is_chosen_by_how_likely_it_is_whole(vectors):
    data, vocabulary, tokenizer, limits = told_world()
    model = make_model(vocabulary=len(tokenizer))
    if vectors:
        model = LlaraForCausalLM.from_language_model(model, np.random.default_rng(0).normal(size=(6, 4)))
    recommender = Recommender(model, tokenizer, vocabulary.semantic_ids)
    assert (recommender.first_vector is not None) == vectors
    sources = make_sources(data, vocabulary, tokenizer, split="test", limits=limits, vectors=vectors)
    found = evaluate_task(recommender, TASKS[TITLE_CHOICE], sources, progress=False)
    mixture, events, hits = Mixture([TITLE_CHOICE], sources), sources["events"], []
    for example, (_, entry, *_rest) in zip(mixture, mixture.plan.tolist(), strict=True):
        prompt = encode_prompt(example["prompt"], tokenizer, first_vector=recommender.first_vector)
        count = len(events.history(entry, limits.max_titles)) + len(events.candidates(entry))
        assert sum(token >= len(tokenizer) for token in prompt) == (count if vectors else 0)
        scores = []
        for title in events.candidate_titles(entry):
            answer = [*tokenizer(" " + title)["input_ids"], tokenizer.eos_token_id]
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([prompt + answer])).logits[0].log_softmax(dim=-1)
            scores.append(sum(float(logits[len(prompt) - 1 + at, token]) for at, token in enumerate(answer)))
        hits.append(events.candidates(entry)[np.argmax(scores)] == example["target"])
    assert found["hit@1"] == pytest.approx(np.mean(hits)) and found["low"] <= found["hit@1"] <= found["high"]
    assert found["examples"] == len(mixture) and found["valid_ratio"] == found["exact"] == 0


def test_titles_by_hand():
    found = title_metrics(
        ["a", "b", "c"], ["a", "c", "?"], ["a", "c", "d"], titles=[["a", "b"], ["b", "c"], ["c", "d"]]
    )
    assert (found["hit@1"], found["exact"], found["valid_ratio"]) == pytest.approx((1 / 3, 2 / 3, 2 / 3))


@pytest.mark.parametrize("name", ["sid_to_title", "rating_stars", "rating_liked", "review_headline", "next_items"])
def test_every_kind_of_answer_is_scored(world, name):
    recommender, sources = world
    if name == "next_items":
        data, vocabulary, tokenizer, limits = told_world()
        sources = make_sources(data, vocabulary, tokenizer, limits=limits)
    found = evaluate_task(recommender, TASKS[name], sources, examples=3, unseen=True, progress=False)
    assert found["examples"] == 3 and len(found) > 1
    assert found == evaluate_task(recommender, TASKS[name], sources, examples=3, unseen=True, progress=False)


def test_instructions_are_counted_said_and_not_said(world):
    recommender, sources = world
    found = evaluate_instruction_following(recommender, sources["events"], k=2, progress=False)
    assert set(found) == {"with_instruction", "without_instruction", "difference", "users"}
    assert set(found["with_instruction"]) == {"instruction_following", "recall@2"}
    assert sum(found["users"].values()) == 2 * found["users"]["all"] == 2 * len(sources["events"])
    for kind, gain in found["difference"].items():
        asked, silent = (
            found[name]["instruction_following"][kind] for name in ("with_instruction", "without_instruction")
        )
        assert gain["difference"] == pytest.approx(asked - silent) and gain["low"] <= asked - silent <= gain["high"]
    assert all(0 <= share <= 1 for share in found["with_instruction"]["instruction_following"].values())
    report = {"dataset": "toy", "split": "test", "unseen": False, "tasks": {"x": {"examples": 3, "rmse": 0.5}}}
    text = tasks_markdown(report | {"instructions": found})
    assert "| x | 3 | rmse 0.5 |" in text and "| all |" in text


def test_a_chat_is_asked_in_turns(world):
    recommender, sources = world
    tokenizer = recommender.tokenizer
    with pytest.raises(ValueError, match="the tokenizer has no chat template"):
        Recommender(recommender.model, tokenizer, recommender.semantic_ids, form="chat")
    tokenizer.chat_template = (
        "{% for turn in messages %}<|im_start|>{{ turn.role }}\n{{ turn.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    chat = Recommender(recommender.model, tokenizer, recommender.semantic_ids, form="chat")
    prompt = tokenizer.decode(chat._prompt(np.array([1]), None))
    sid = SidVocabulary(recommender.semantic_ids).text([1])[0]
    assert prompt.startswith("<|im_start|>user\nA user's items") and prompt.endswith(
        f"{sid}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert evaluate_task(chat, TASKS["next_item"], sources, k=3, progress=False)["examples"] == 4
    assert evaluate_task(chat, TASKS["sid_to_title"], sources, progress=False)["examples"] == 6
    tokenizer.chat_template = None


@pytest.mark.parametrize("markers", [False, True])
@pytest.mark.parametrize(("form", "family"), [("plain", "qwen3"), *(("chat", name) for name in TEMPLATES)])
def test_every_task_is_asked_in_the_tokens_of_training(form, family, markers):
    data, vocabulary, tokenizer, limits = told_world(markers)
    tokenizer.chat_template = TEMPLATES[family]
    recommender = Recommender(
        make_model(vocabulary=len(tokenizer)), tokenizer, vocabulary.semantic_ids, markers=markers, form=form
    )
    sources = make_sources(data, vocabulary, tokenizer, limits=limits)
    mixture = Mixture(list(TASKS), sources, form=form)
    for example, row in zip(mixture, encode_examples(mixture.dataset(), tokenizer), strict=True):
        task, start = TASKS[example["task"]], row["labels"].count(-100)
        prompt = _prompt(recommender, example, task)
        begun = markers and task.completion in ("{sid}", "{other}", "{next_sids}")
        assert prompt == row["input_ids"][: start + begun]
        if begun:
            assert prompt[-1] == vocabulary.all_token_ids[-2]


@pytest.mark.parametrize("family", TEMPLATES)
def test_a_title_is_chosen_by_the_tokens_of_its_turn(family):
    data, vocabulary, tokenizer, limits = told_world()
    tokenizer.chat_template = TEMPLATES[family]
    model = make_model(vocabulary=len(tokenizer))
    recommender = Recommender(model, tokenizer, vocabulary.semantic_ids, form="chat")
    sources = make_sources(data, vocabulary, tokenizer, split="test", limits=limits)
    found = evaluate_task(recommender, TASKS[TITLE_CHOICE], sources, progress=False)
    mixture, events, hits = Mixture([TITLE_CHOICE], sources, form="chat"), sources["events"], []
    for example, (_, entry, *_rest) in zip(mixture, mixture.plan.tolist(), strict=True):
        start, scores = len(_prompt(recommender, example, TASKS[TITLE_CHOICE])), []
        for title in events.candidate_titles(entry):
            turns = [*example["prompt"], {"role": "assistant", "content": title}]
            ids = tokenizer.apply_chat_template(turns, return_tensors="pt")["input_ids"]
            with torch.no_grad():
                log_probs = model(input_ids=ids).logits[0, start - 1 : -1].log_softmax(dim=-1)
            scores.append(float(log_probs.gather(1, ids[0, start:, None]).sum()))
        hits.append(events.candidates(entry)[np.argmax(scores)] == example["target"])
    assert found["hit@1"] == pytest.approx(np.mean(hits))


def test_an_answer_ends_with_its_turn(monkeypatch):
    _, vocabulary, tokenizer, _ = told_world()
    tokenizer.chat_template = TEMPLATES["qwen3"]
    chat = Recommender(make_model(vocabulary=len(tokenizer)), tokenizer, vocabulary.semantic_ids, form="chat")

    def generate(input_ids, eos_token_id, **kwargs):
        assert eos_token_id == [tokenizer.eos_token_id, tokenizer.vocab["<|im_end|>"]]
        answer = tokenizer("Iron pot<|im_end|>\nmore<|end|>", return_tensors="pt")["input_ids"]
        return torch.cat([input_ids, answer.expand(len(input_ids), -1)], dim=1)

    monkeypatch.setattr(chat.model, "generate", generate)
    assert _generate(chat, [[5, 6], [7]], [0, 1]) == ["Iron pot", "Iron pot"]
