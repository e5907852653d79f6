"""Answers held to a list: each as likely as a forward pass over prompt and answer says."""

import numpy as np
import pytest
import torch
from conftest import make_model

from genrec_hf.generation.answers import answer_log_probs
from genrec_hf.models import LlaraForCausalLM

ANSWERS = [[5, 6, 2], [5, 6, 7, 8, 2], [9], [5, 2], [11, 12, 13, 2]]


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("vectors", [False, True])
def test_log_probs_are_those_of_whole_sequences(family, vectors):
    model = make_model(family).eval()
    prompt = [3, 1, 4, 1, 5]
    if vectors:
        model = LlaraForCausalLM.from_language_model(model, np.random.default_rng(0).normal(size=(4, 6))).eval()
        prompt = [3, model.config.first_vector + 2, 1, model.config.first_vector, 5]
    found = answer_log_probs(model, prompt, ANSWERS)
    for answer, log_prob in zip(ANSWERS, found.tolist(), strict=True):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + answer])).logits[0].log_softmax(dim=-1)
        whole = sum(float(logits[len(prompt) - 1 + place, token]) for place, token in enumerate(answer))
        assert log_prob == pytest.approx(whole, abs=1e-4)


def test_nothing_to_choose_from_is_refused():
    for answers in ([], [[5], []]):
        with pytest.raises(ValueError, match=f"got {len(answers)} answers"):
            answer_log_probs(make_model(), [1, 2], answers)
