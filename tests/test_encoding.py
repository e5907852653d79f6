"""Encoded examples are those that TRL makes of the same rows."""

import pytest
from conftest import make_model
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from genrec_hf import SidVocabulary
from genrec_hf.tasks import GROUNDING, Mixture, encode_examples, make_subjects


def test_rows_are_tokenized_as_trl_does(toy_data, toy_sids, tokenizer, tmp_path):
    vocabulary = SidVocabulary(toy_sids).extend(tokenizer)
    dataset = Mixture([*GROUNDING, "next_item"], make_subjects(toy_data, vocabulary, tokenizer)).dataset()
    model = make_model(vocabulary=len(tokenizer))
    config = SFTConfig(
        str(tmp_path), use_cpu=True, bf16=False, report_to="none", max_length=None, disable_tqdm=True,
        activation_checkpointing=False,
    )  # fmt: skip
    theirs = SFTTrainer(model, config, train_dataset=dataset, processing_class=tokenizer).train_dataset
    ours = encode_examples(dataset, tokenizer)
    assert ours.column_names == ["input_ids", "labels"] and len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert (one["input_ids"], one["labels"]) == (other["input_ids"], other["labels"])


def test_a_completion_that_shares_a_token_with_its_prompt_is_refused(tokenizer):
    rows = Dataset.from_list([{"prompt": "The ite", "completion": "m"}])
    assert (
        tokenizer("The item")["input_ids"][: len(tokenizer("The ite")["input_ids"])]
        != tokenizer("The ite")["input_ids"]
    )
    with pytest.raises(ValueError, match="'The ite' ends inside a token of its completion"):
        encode_examples(rows, tokenizer)
