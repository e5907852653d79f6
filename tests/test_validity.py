"""Free answers: how many of a model's own draws are items, with nothing that holds it to them."""

import numpy as np
import pytest
import torch
from conftest import make_model

from genrec_hf import Recommender, SidVocabulary
from genrec_hf.generation import unconstrained_validity
from genrec_hf.models import LlaraForCausalLM

HISTORIES = [np.array([3, 4]), np.array([7]), np.array([], dtype=np.int64), np.array([12, 13, 14])]


def expected(recommender, history):
    """The probability that two tokens in a row are an item, from the plain logits."""
    inputs = recommender.encode([history])
    sids = torch.from_numpy(recommender.vocabulary.token_ids(np.arange(len(recommender.semantic_ids))))
    with torch.no_grad():
        first = recommender.model(**inputs).logits[0, -1].softmax(dim=-1)
        total = 0.0
        for sid in sids:
            ids = torch.cat([inputs["input_ids"][0], sid[:1]])[None]
            total += float(first[sid[0]] * recommender.model(ids).logits[0, -1].softmax(dim=-1)[sid[1]])
    return total


@pytest.mark.parametrize("vectors", [False, True])
def test_the_share_is_the_models_own_probability_of_items(vectors, toy_sids, tokenizer):
    vocabulary = SidVocabulary(toy_sids).extend(tokenizer)
    model = make_model(tied=False, vocabulary=len(tokenizer), seed=9)
    with torch.no_grad():
        model.get_output_embeddings().weight[torch.from_numpy(vocabulary.all_token_ids)] *= 40
    if vectors:
        torch.manual_seed(0)
        model = LlaraForCausalLM.from_language_model(model, np.random.default_rng(0).normal(size=(24, 4)))
    recommender = Recommender(model, tokenizer, toy_sids)
    before = torch.get_rng_state()
    found = unconstrained_validity(recommender, HISTORIES, num_samples=2000, batch_size=3)
    assert torch.equal(before, torch.get_rng_state()) and found.shape == (4,)
    wanted = np.array([expected(recommender, history) for history in HISTORIES])
    assert wanted.max() > 0.2
    np.testing.assert_allclose(found, wanted, atol=4 * np.sqrt(0.25 / 2000))
    assert (unconstrained_validity(recommender, HISTORIES, num_samples=2000, batch_size=3) == found).all()
    other = [str(item) for item in toy_sids.item_ids][::-1]
    mirrored = [23 - history for history in HISTORIES]
    assert (
        unconstrained_validity(recommender.with_items(other), mirrored, num_samples=2000, batch_size=3) == found
    ).all()


def test_no_draws_are_refused(toy_sids, tokenizer):
    vocabulary = SidVocabulary(toy_sids).extend(tokenizer)
    recommender = Recommender(make_model(vocabulary=len(tokenizer)), vocabulary and tokenizer, toy_sids)
    for how in ({"num_samples": 0}, {"batch_size": 0}):
        with pytest.raises(ValueError, match="both must be at least 1"):
            unconstrained_validity(recommender, HISTORIES, **how)
    assert len(unconstrained_validity(recommender, [])) == 0
