"""`head_logits` equals the slice of the whole head's output, whatever is wrapped around the head."""

import pytest
import torch
from conftest import make_model, make_tokenizer
from peft import LoraConfig, get_peft_model
from torch import nn

from genrec_hf import SemanticIds, SidVocabulary
from genrec_hf.models import head_logits, start_adapter

SIDS = SemanticIds([[0, 1], [2, 0], [1, 1]], (3, 2), ["a", "b", "c"])
SOME = [torch.tensor([5]), torch.tensor([7, 3, 3, 11]), torch.arange(20)]


def check(head, tokens, hidden=None):
    hidden = torch.randn(4, 32) if hidden is None else hidden
    for ids in tokens:
        torch.testing.assert_close(head_logits(head, hidden, ids), head(hidden)[:, ids])


def adapted(tied, dtype=torch.float32):
    """A model whose SID rows have moved away from the base weights, and token ids: SIDs alone, mixed, and ordinary."""
    tokenizer, model = make_tokenizer(), make_model(tied=tied)
    vocabulary = SidVocabulary(SIDS).extend(tokenizer, model, init="random")
    peft_model = start_adapter(model.to(dtype), vocabulary, LoraConfig(r=2))
    with torch.no_grad():
        for name, parameter in peft_model.named_parameters():
            if "trainable_tokens_delta" in name:
                parameter.add_(torch.randn_like(parameter))
    sids = torch.as_tensor(vocabulary.all_token_ids)
    tokens = [sids, sids.flip(0), sids[[1, 1, 0]], torch.cat([sids[:2], torch.tensor([4])]), *SOME]
    return peft_model, peft_model.get_base_model().get_output_embeddings(), tokens


@pytest.mark.parametrize("bias", [False, True])
def test_plain_linear(bias):
    check(nn.Linear(32, 40, bias=bias), SOME)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_trainable_rows(tied, dtype):
    model, head, tokens = adapted(tied, dtype)
    hidden = torch.randn(4, 32, dtype=dtype)
    check(head, tokens, hidden)
    trained = head_logits(head, hidden, tokens[0])
    with model.disable_adapter():
        check(head, tokens, hidden)
        assert not torch.allclose(head_logits(head, hidden, tokens[0]), trained)
    check(head, tokens, hidden)
    model.merge_adapter()
    check(head, tokens, hidden)
    torch.testing.assert_close(head_logits(head, hidden, tokens[0]), trained)
    model.unmerge_adapter()
    check(head, tokens, hidden)


@pytest.mark.parametrize("tied", [True, False])
def test_disabled_while_merged(tied):
    model, head, tokens = adapted(tied)
    plain = head.token_adapter.base_layer.weight.detach().clone()
    model.merge_adapter()
    hidden = torch.randn(4, 32)
    with model.disable_adapter():
        for ids in tokens:
            torch.testing.assert_close(head_logits(head, hidden, ids), hidden @ plain[ids].T)


@pytest.mark.parametrize("tied", [True, False])
def test_gradients_reach_the_trainable_rows(tied):
    _, head, tokens = adapted(tied)
    hidden = torch.randn(4, 32)
    delta = head.token_adapter.trainable_tokens_delta["default"]
    for ids in tokens[:4]:
        (found,) = torch.autograd.grad(head_logits(head, hidden, ids).square().sum(), delta)
        (expected,) = torch.autograd.grad(head(hidden)[:, ids].square().sum(), delta)
        torch.testing.assert_close(found, expected)


def test_lora_on_the_head():
    model = get_peft_model(
        make_model(tied=False), LoraConfig(r=2, target_modules=["lm_head"], init_lora_weights=False)
    )
    head = model.get_base_model().get_output_embeddings()
    hidden = torch.randn(4, 32)
    check(head, SOME, hidden)
    assert not torch.allclose(head_logits(head, hidden, SOME[2]), hidden @ head.weight[SOME[2]].T)
    with model.disable_adapter():
        check(head, SOME, hidden)
    model.merge_adapter()
    check(head, SOME, hidden)
