"""Scores in the level by hand, of a bare model and of one with something around it."""

import numpy as np
import pytest
import torch
from conftest import make_model
from torch.nn import functional as F

from genrec_hf.models import LlaraForCausalLM
from genrec_hf.training.fused_loss import answer_fused_calls
from genrec_hf.training.level_loss import LevelScores

LEVELS = [torch.tensor([10, 12, 14]), torch.tensor([20, 21])]


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("vocabulary_fraction", [0.0, 1.0])
def test_a_token_is_scored_in_its_level_or_in_the_whole_vocabulary(wrapped, vocabulary_fraction):
    model = make_model()
    if wrapped:
        model = LlaraForCausalLM.from_language_model(model, np.random.default_rng(0).normal(size=(4, 6))).eval()
    ids = torch.tensor([[4, 322 if wrapped else 5, 12, 20, 7], [9, 14, 21, 5, 6]])
    labels = ids.masked_fill(ids > 300, -100)
    labels[1, 3] = -100
    logits = model(input_ids=ids).logits[:, :-1]
    answer_fused_calls(
        model, LevelScores(model.config, LEVELS, sharded=False, vocabulary_fraction=vocabulary_fraction)
    )
    output = model(input_ids=ids, labels=labels, fused_lm_head=True)
    total = 0.0
    for row, column in (labels[:, 1:] != -100).nonzero().tolist():
        label, whole = int(labels[row, column + 1]), logits[row, column]
        among = next(
            (level for level in LEVELS if label in level and not vocabulary_fraction), torch.arange(len(whole))
        )
        expected = F.log_softmax(whole[among], dim=0)[among.tolist().index(label)]
        torch.testing.assert_close(output.log_probs[row, column], expected)
        total -= expected.item()
    assert int(output.label_mask.sum()) == (6 if wrapped else 7) and (output.log_probs[~output.label_mask] == 0).all()
    assert output.loss.item() == pytest.approx(total / (6 if wrapped else 7), rel=1e-5)


def test_a_model_that_scales_its_logits_is_refused():
    config = make_model().config
    config.logit_scale = 0.5
    with pytest.raises(ValueError, match=r"got a model that scales its logits \(\{'logit_scale': 0.5\}\)"):
        LevelScores(config, LEVELS, sharded=False)
