"""Encoded examples are those that TRL makes of the same rows."""

import pytest
from conftest import make_model
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from genrec_hf import SidVocabulary
from genrec_hf.tasks import (
    GROUNDING,
    EventLimits,
    Mixture,
    dense_dataset,
    encode_examples,
    encode_prompt,
    instruction_dataset,
    make_sources,
    title_choice_dataset,
)


def sft_trainer(dataset, tokenizer, folder):
    config = SFTConfig(
        str(folder),
        use_cpu=True,
        bf16=False,
        report_to="none",
        max_length=None,
        disable_tqdm=True,
        activation_checkpointing=False,
    )
    model = make_model(vocabulary=len(tokenizer))
    return SFTTrainer(model, config, train_dataset=dataset, processing_class=tokenizer)


def test_rows_are_tokenized_as_trl_does(toy_data, toy_sids, tokenizer, tmp_path):
    vocabulary = SidVocabulary(toy_sids).extend(tokenizer)
    dataset = Mixture([*GROUNDING, "next_item"], make_sources(toy_data, vocabulary, tokenizer)).dataset()
    theirs = sft_trainer(dataset, tokenizer, tmp_path).train_dataset
    ours = encode_examples(dataset, tokenizer)
    assert ours.column_names == ["input_ids", "labels"] and len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert (one["input_ids"], one["labels"]) == (other["input_ids"], other["labels"])


def test_a_chat_is_tokenized_by_trl_as_the_recommender_asks(toy_data, toy_sids, tokenizer, tmp_path):
    tokenizer.chat_template = (
        "{% for turn in messages %}<|im_start|>{{ turn.role }}\n{{ turn.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    vocabulary = SidVocabulary(toy_sids).extend(tokenizer)
    sources = make_sources(toy_data, vocabulary, tokenizer)
    chat, plain = (Mixture(["next_item", "sid_to_title"], sources, form=form) for form in ("chat", "plain"))
    theirs = sft_trainer(chat.dataset(), tokenizer, tmp_path).train_dataset
    for row, example in zip(theirs, plain, strict=True):
        asked = encode_prompt(example["prompt"], tokenizer, form="chat")
        assert row["input_ids"][: len(asked)] == asked and set(row["labels"][: len(asked)]) == {-100}
        answer = tokenizer(example["completion"].strip() + "<|im_end|>")["input_ids"]
        assert row["labels"][len(asked) : len(asked) + len(answer)] == answer


def test_titles_to_choose_from_with_their_vectors(toy_data, toy_sids, tokenizer):
    vocabulary = SidVocabulary(toy_sids).extend(tokenizer)
    first = len(tokenizer) + 3
    plain, hybrid = (
        title_choice_dataset(
            make_sources(toy_data, vocabulary, tokenizer, vectors=vectors), tokenizer, first, passes=2, seed=5
        )
        for vectors in (False, True)
    )
    events = toy_data.interactions["split"].eq("train").sum() - toy_data.interactions["user_id"].nunique()
    assert len(plain) == len(hybrid) == 2 * events
    for one, other in zip(plain, hybrid, strict=True):
        tokens = [(token, label) for token, label in zip(*other.values(), strict=True) if token < first]
        assert [token for token, _ in tokens] == one["input_ids"] and [label for _, label in tokens] == one["labels"]
        vectors = [label for token, label in zip(*other.values(), strict=True) if token >= first]
        assert set(vectors) == {-100} and len(vectors) > 20
        assert one["labels"][-1] == tokenizer.eos_token_id


def test_a_completion_that_shares_a_token_with_its_prompt_is_refused(tokenizer):
    rows = Dataset.from_list([{"prompt": "The ite", "completion": "m"}])
    assert (
        tokenizer("The item")["input_ids"][: len(tokenizer("The ite")["input_ids"])]
        != tokenizer("The ite")["input_ids"]
    )
    with pytest.raises(ValueError, match="'The ite' ends inside a token of its completion"):
        encode_examples(rows, tokenizer)


def test_a_conversation_of_more_turns_than_the_recommender_has_is_refused(tokenizer):
    tokenizer.chat_template = "{% for turn in messages %}<|im_start|>{{ turn.content }}<|im_end|>{% endfor %}"
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Who?"}]
    rows = Dataset.from_list([{"prompt": turns, "completion": [{"role": "assistant", "content": "You"}]}])
    with pytest.raises(ValueError, match=r"got a prompt with turns of \['system', 'user'\]"):
        encode_examples(rows, tokenizer)


def test_a_data_set_of_instructions_is_its_parts(toy_data, toy_sids, tokenizer):
    vocabulary, sequences = SidVocabulary(toy_sids).extend(tokenizer), toy_data.training_sequences()
    sources = make_sources(toy_data, vocabulary, tokenizer, limits=EventLimits(max_history=3))
    common = {"vocabulary": vocabulary, "tokenizer": tokenizer, "seed": 5}

    def make(*tasks, **options):
        return instruction_dataset(tasks, sources, sequences, **common, **options)

    titles = Mixture(["sid_to_title"], sources, {"sid_to_title": 2}, seed=5)
    parts = [
        encode_examples(titles.dataset(), tokenizer),
        dense_dataset(sequences, vocabulary, tokenizer, max_history=3, passes=3, seed=5),
        dense_dataset(
            sequences,
            vocabulary,
            tokenizer,
            max_history=3,
            passes=1,
            seed=5,
            instructions=sources["events"].instructions,
        ),
    ]
    found, described = make(
        "next_item", "sid_to_title", "instructed_next_item", weights={"next_item": 3.0, "sid_to_title": 2.0}
    )
    assert sorted(map(str, found)) == sorted(str(row) for part in parts for row in part)
    assert titles.describe() in described
    for part, task in zip(parts[1:], ("next_item", "instructed_next_item"), strict=True):
        assert f"{len(part)} windows of up to 4 items: {task}" in described
    assert (
        found.to_list()
        == make("next_item", "sid_to_title", "instructed_next_item", weights={"next_item": 3.0, "sid_to_title": 2.0})[
            0
        ].to_list()
    )
    single = Mixture(["next_item", "sid_to_title"], sources, seed=5, form="chat")
    for stream in (False, True):
        rows, described = make("next_item", "sid_to_title", dense=False, form="chat", stream=stream)
        assert list(rows) == list(single) and described == single.describe()


@pytest.mark.parametrize(
    ("tasks", "options", "message"),
    [
        (
            ["next_item"],
            {"weights": {"next_item": 0.5}},
            r"got next_item=0\.5, the number of passes over dense sequences",
        ),
        (["next_item"], {"weights": {"next_item": 0}}, "got next_item=0, the number of passes"),
        (["next_item"], {"weights": {"sid_to_title": 1}}, "'sid_to_title', which is not among the tasks next_item"),
        (["next_item", "sid_to_title"], {"stream": True}, "got next_item as dense sequences, which can be neither"),
        (
            ["instructed_next_item"],
            {"form": "chat"},
            "got instructed_next_item as dense sequences, which can be neither",
        ),
    ],
)
def test_instructions_that_cannot_be_are_refused(tasks, options, message, toy_data, toy_sids, tokenizer):
    vocabulary = SidVocabulary(toy_sids).extend(tokenizer)
    sources = make_sources(toy_data, vocabulary, tokenizer)
    with pytest.raises(ValueError, match=message):
        instruction_dataset(
            tasks, sources, toy_data.training_sequences(), vocabulary=vocabulary, tokenizer=tokenizer, **options
        )
