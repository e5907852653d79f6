"""`search_sids` against Hugging Face's beam search at widths that prune, and which models it serves."""

import numpy as np
import pytest
from conftest import make_model, make_tokenizer
from transformers import Qwen2Config, Qwen2ForCausalLM

from genrec_hf import Recommender, SidVocabulary
from genrec_hf.generation.beam_search import shares_prefixes


@pytest.mark.parametrize("score", ["full", "level", "trie"])
@pytest.mark.parametrize("width", [2, 3, 5])
def test_narrow_beams_equal_those_of_plain_generate(tiny_model, toy_sids, score, width):
    tokenizer = make_tokenizer()
    vocabulary = SidVocabulary(toy_sids).extend(tokenizer, tiny_model, init="random")
    recommender = Recommender(tiny_model, tokenizer, toy_sids, score=score)
    histories = [[0, 1, 2], [7], [], [20, 3]]
    prompts = [recommender._prompt(np.array(history, dtype=np.int64), None) for history in histories]
    batch = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
    denied = [np.array(history, dtype=np.int64) for history in histories]
    arguments = (batch["input_ids"], batch["attention_mask"], denied, width, width)
    assert vocabulary.semantic_ids is toy_sids and shares_prefixes(tiny_model)
    np.testing.assert_array_equal(recommender._search_shared(*arguments), recommender._search_plain(*arguments))


def test_a_sliding_window_does_not_share_prefixes():
    config = Qwen2Config(
        vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, use_sliding_window=True, sliding_window=8, max_window_layers=0,
    )  # fmt: skip
    assert not shares_prefixes(Qwen2ForCausalLM(config))
    assert shares_prefixes(make_model("qwen2"))
