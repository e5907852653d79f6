"""The turns of a chat: what is trained is what is asked, with the templates of many families."""

from datetime import datetime
from pathlib import Path

import pytest
import trl
from chat_templates import LLAMA3, QWEN3, SMOLLM2, TEMPLATES
from conftest import make_tokenizer
from tokenizers import AddedToken
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer
from transformers.utils import chat_template_utils

from genrec_hf import SidVocabulary
from genrec_hf.tasks import Mixture, encode_examples, encode_pairs, encode_prompt, make_sources, next_item_prompt
from genrec_hf.tasks.turns import TURNS_KEY, chat_turns, keep_turns

TASKS = ["next_item", "title_to_sid", "sid_to_title"]


def make_chat(template, sids, markers=False):
    """A tokenizer that begins every text with a token, as Llama's does."""
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"bos_token": AddedToken("<|begin|>", special=True)})
    begin = [("<|begin|>", tokenizer.bos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing("<|begin|> $A", "<|begin|> $A $B", begin)
    tokenizer.chat_template = template
    return tokenizer, SidVocabulary(sids, markers=markers).extend(tokenizer)


class Clock(datetime):
    """A clock that `strftime_now` of chat templates reads."""

    day = datetime(2026, 1, 5)

    @classmethod
    def now(cls, tz=None):
        return cls.day


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(chat_template_utils, "datetime", Clock)
    monkeypatch.setattr(Clock, "day", Clock.day)
    return Clock


@pytest.mark.parametrize("markers", [False, True])
@pytest.mark.parametrize("family", TEMPLATES)
def test_the_tokens_of_a_prompt_begin_those_of_the_conversation(toy_data, toy_sids, family, markers):
    tokenizer, vocabulary = make_chat(TEMPLATES[family], toy_sids, markers)
    sources = make_sources(toy_data, vocabulary, tokenizer)
    chat, plain = (Mixture(TASKS, sources, form=form) for form in ("chat", "plain"))
    for row, turns, example in zip(encode_examples(chat.dataset(), tokenizer), chat, plain, strict=True):
        conversation = tokenizer.apply_chat_template(turns["prompt"] + turns["completion"])["input_ids"]
        assert row["input_ids"] == conversation and conversation.count(tokenizer.bos_token_id) <= 1
        asked, answer = row["labels"].count(-100), example["completion"].strip()
        assert row["labels"][asked:] == conversation[asked:]
        assert tokenizer.decode(conversation[asked:]).lstrip(" ").startswith(answer)
        if example["task"] != "sid_to_title":
            assert conversation[:asked] == encode_prompt(example["prompt"], tokenizer, form="chat")
            sid = vocabulary.token_ids([example["target"]])[0].tolist()
            expected = sid[1:] if markers and example["task"] == "next_item" else sid
            assert conversation[asked:][: len(expected)] == expected


def test_what_stands_around_question_and_answer(toy_sids):
    tokenizer, _ = make_chat(QWEN3, toy_sids)
    between = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    assert chat_turns(tokenizer) == ("<|im_start|>user\n", between, "<|im_end|>\n")
    tokenizer, _ = make_chat(SMOLLM2, toy_sids)
    assert chat_turns(tokenizer).before.startswith(
        "<|im_start|>system\nYou are a helpful thing.<|im_end|>\n<|im_start|>u"
    )


def test_the_templates_that_trl_ships_render_as_their_turns(toy_sids):
    (tokenizer, _), held = make_chat(QWEN3, toy_sids), set()
    for file in sorted(Path(trl.__file__).parent.glob("chat_templates/*.jinja")):
        if file.stem.endswith("_training"):
            continue
        tokenizer.chat_template = file.read_text(encoding="utf-8")
        tokenizer.init_kwargs.pop(TURNS_KEY, None)
        try:
            before, between, after = chat_turns(tokenizer)
        except ValueError as error:
            assert "use form='plain'" in str(error)  # those of images take no plain text
            continue
        said = ("A user's items: <s_a_1>", "<s_a_2><s_b_0>")
        turns = [{"role": role, "content": text} for role, text in zip(("user", "assistant"), said, strict=True)]
        whole, ours = (
            tokenizer.apply_chat_template(turns, tokenize=False),
            before + said[0] + between + said[1] + after,
        )
        assert ours in (whole, whole + tokenizer.eos_token), file.name
        held.add(file.stem)
    assert held >= {"qwen2_5", "qwen3", "llama3", "gemma", "phi3", "deepseekv3", "gptoss"}


def test_words_take_the_space_before_them(toy_sids):
    tokenizer, vocabulary = make_chat(TEMPLATES["mistral"], toy_sids)
    sid = vocabulary.text([3])[0]
    pairs = encode_pairs(["Who? ", "Which? "], [" item", sid], tokenizer, form="chat")
    texts = [(tokenizer.decode(asked), tokenizer.decode(answer)) for asked, answer in pairs]
    assert texts == [
        ("<|begin|>[INST] Who? [/INST]", " item<|end|>"),
        ("<|begin|>[INST] Which? [/INST] ", f"{sid}<|end|>"),
    ]


def test_a_date_stays_that_of_the_training(toy_sids, clock, tmp_path):
    tokenizer, vocabulary = make_chat(LLAMA3, toy_sids)
    prompt = next_item_prompt([2, 7], vocabulary)
    asked = encode_prompt(prompt, tokenizer, form="chat")
    assert "Today Date: 05 Jan 2026" in tokenizer.decode(asked)
    tokenizer.save_pretrained(tmp_path)
    clock.day = datetime(2026, 3, 1)
    assert "Today Date: 01 Mar 2026" in tokenizer.apply_chat_template(
        [{"role": "user", "content": ""}], tokenize=False
    )
    for later in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        assert encode_prompt(prompt, later, form="chat") == asked
        assert encode_pairs([prompt], ["yes"], later, form="chat")[0][0][:20] == asked[:20]


def test_another_template_than_in_training_is_refused(toy_sids, tmp_path):
    tokenizer, vocabulary = make_chat(QWEN3, toy_sids)
    encode_prompt(next_item_prompt([1], vocabulary), tokenizer, form="chat")
    tokenizer.chat_template = SMOLLM2
    tokenizer.save_pretrained(tmp_path)
    for changed in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        with pytest.raises(ValueError, match="is not the one that the model was trained with"):
            encode_prompt(next_item_prompt([1], vocabulary), changed, form="chat")


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages[0].content }}:",
        "{% for turn in messages %}{{ turn.content }} {{ turn.content }}{% endfor %}",
        "{% for turn in messages | reverse %}{{ turn.content }} {% endfor %}",
        "{{ messages[0].content | upper }} {{ messages[1].content }}",
        "{{ raise_exception('Give a system prompt') }}",
    ],
)
def test_templates_that_lose_or_repeat_what_is_said_are_refused(toy_sids, template):
    tokenizer, _ = make_chat(template, toy_sids)
    with pytest.raises(ValueError, match=r"(each once, in this order|Give a system prompt\)): use form='plain'"):
        chat_turns(tokenizer)
    assert TURNS_KEY not in tokenizer.init_kwargs


def test_an_answer_without_an_end_gets_one(toy_sids):
    tokenizer, _ = make_chat("{% for turn in messages %}{{ turn.role }}: {{ turn.content }}{% endfor %}", toy_sids)
    assert chat_turns(tokenizer) == ("user: ", "assistant: ", "<|end|>")


def test_a_run_that_goes_on_another_day_keeps_its_date(toy_sids, clock, tmp_path):
    tokenizer, _ = make_chat(LLAMA3, toy_sids)
    turns = chat_turns(tokenizer)
    tokenizer.save_pretrained(tmp_path / "run" / "checkpoint-7")
    clock.day = datetime(2026, 1, 6)
    for folder, same in (("run", True), ("other", False)):
        again, _ = make_chat(LLAMA3, toy_sids)
        keep_turns(again, tmp_path / folder)
        assert (chat_turns(again) == turns) is same
    make_chat(SMOLLM2, toy_sids)[0].save_pretrained(tmp_path / "plain" / "checkpoint-1")
    keep_turns(again, tmp_path / "plain")
    assert "06 Jan 2026" in chat_turns(again).before


def test_rows_that_were_encoded_on_another_day_are_encoded_anew(toy_data, toy_sids, clock):
    dates = []
    for clock.day in (datetime(2026, 1, 5), datetime(2026, 1, 6)):
        tokenizer, vocabulary = make_chat(LLAMA3, toy_sids)
        rows = Mixture(["next_item"], make_sources(toy_data, vocabulary, tokenizer), form="chat").dataset()
        encoded = encode_examples(rows, tokenizer)[0]["input_ids"]
        dates.append(tokenizer.decode(encoded).split("Date: ")[1][:2])
        assert f"Date: {dates[-1]} Jan" in chat_turns(tokenizer).before
    assert dates == ["05", "06"]
