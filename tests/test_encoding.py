"""Encoded examples are those that TRL makes of the same rows."""

import pytest
from conftest import make_model
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from genrec_hf import SidVocabulary
from genrec_hf.tasks import GROUNDING, Mixture, encode_examples, encode_prompt, make_subjects


def sft_trainer(dataset, tokenizer, folder):
    config = SFTConfig(
        str(folder), use_cpu=True, bf16=False, report_to="none", max_length=None, disable_tqdm=True,
        activation_checkpointing=False,
    )  # fmt: skip
    model = make_model(vocabulary=len(tokenizer))
    return SFTTrainer(model, config, train_dataset=dataset, processing_class=tokenizer)


def test_rows_are_tokenized_as_trl_does(toy_data, toy_sids, tokenizer, tmp_path):
    vocabulary = SidVocabulary(toy_sids).extend(tokenizer)
    dataset = Mixture([*GROUNDING, "next_item"], make_subjects(toy_data, vocabulary, tokenizer)).dataset()
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
    subjects = make_subjects(toy_data, vocabulary, tokenizer)
    chat, plain = (Mixture(["next_item", "sid_to_title"], subjects, form=form) for form in ("chat", "plain"))
    theirs = sft_trainer(chat.dataset(), tokenizer, tmp_path).train_dataset
    for row, example in zip(theirs, plain, strict=True):
        asked = encode_prompt(example["prompt"], tokenizer, form="chat")
        assert row["input_ids"][: len(asked)] == asked and set(row["labels"][: len(asked)]) == {-100}
        answer = tokenizer(example["completion"].strip() + "<|im_end|>")["input_ids"]
        assert row["labels"][len(asked) : len(asked) + len(answer)] == answer


def test_a_completion_that_shares_a_token_with_its_prompt_is_refused(tokenizer):
    rows = Dataset.from_list([{"prompt": "The ite", "completion": "m"}])
    assert (
        tokenizer("The item")["input_ids"][: len(tokenizer("The ite")["input_ids"])]
        != tokenizer("The ite")["input_ids"]
    )
    with pytest.raises(ValueError, match="'The ite' ends inside a token of its completion"):
        encode_examples(rows, tokenizer)
