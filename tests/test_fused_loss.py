"""The replaced forward: calls of TRL's trainers are scored by a function, every other one is the model's own."""

from inspect import signature
from pathlib import Path

import torch
from conftest import make_model

from genrec_hf.training.fused_loss import answer_fused_calls, fused_output

SOURCE = Path(__file__).parent.parent / "genrec_hf"


def test_fused_calls_are_scored_and_others_are_the_models_own():
    model, ids = make_model(), torch.tensor([[4, 5, 6]])
    parameters, logits = signature(model.forward), model(input_ids=ids, labels=ids).logits
    calls = []
    answer_fused_calls(model, lambda *args, **kwargs: calls.append((args, kwargs)) or "scored")
    assert model(input_ids=ids, labels=ids, fused_lm_head=True) == "scored"
    assert calls == [((model,), {"input_ids": ids, "labels": ids})]
    assert torch.equal(model(input_ids=ids, labels=ids).logits, logits) and len(calls) == 1
    assert signature(model.forward) == parameters, "`generate` reads the names of what a model takes off it"


def test_the_loss_is_the_mean_over_labels_and_a_batch_of_none_is_zero():
    log_probs = torch.tensor([[-1.0, -2.0, 0.0]], requires_grad=True)
    mask = torch.tensor([[True, True, False]])
    output = fused_output(log_probs, log_probs.exp(), torch.ones(1, 3), label_mask=mask)
    assert output.loss.item() == (1 + 2) / 2 and output.loss.requires_grad and not output.entropy.requires_grad
    empty = fused_output(0 * log_probs, log_probs, torch.ones(1, 3), label_mask=torch.zeros_like(mask))
    assert empty.loss.item() == 0


def test_no_other_file_replaces_a_forward():
    files = [path.name for path in SOURCE.rglob("*.py") if ".forward = " in path.read_text()]
    assert files == ["fused_loss.py"], "pass a scoring function to answer_fused_calls"
