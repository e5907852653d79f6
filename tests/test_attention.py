"""The decoder of hypotheses: the same numbers and weights, another attention, and a model that nothing changed."""

import copy

import pytest
import torch
from conftest import make_model

from genrec_hf.generation.attention import GROUPED, hypothesis_decoder

TOKENS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
POSITIONS = torch.arange(4).expand(2, -1)
MASK = torch.zeros(2, 1, 4, 4).masked_fill(torch.ones(4, 4).triu(1).bool(), float("-inf"))


def states(decoder):
    return decoder(input_ids=TOKENS, attention_mask=MASK, position_ids=POSITIONS).last_hidden_state


def test_the_decoder_gives_the_same_states_from_the_same_weights(tiny_model):
    before = copy.deepcopy(tiny_model.config.to_dict())
    decoder = hypothesis_decoder(tiny_model)
    torch.testing.assert_close(states(decoder), states(tiny_model.base_model))
    pairs = zip(decoder.named_parameters(), tiny_model.base_model.named_parameters(), strict=True)
    assert all(name == other and own is theirs for (name, own), (other, theirs) in pairs)
    assert {type(module) for module in decoder.modules()} == {type(each) for each in tiny_model.base_model.modules()}
    assert decoder.layers[0].self_attn.config._attn_implementation == GROUPED
    assert all(layer.self_attn.config is decoder.config for layer in decoder.layers)
    # The model stays as it is.
    assert tiny_model.config._attn_implementation == "sdpa" and tiny_model.config.to_dict() == before
    assert all(layer.self_attn.config is tiny_model.config for layer in tiny_model.base_model.layers)


def test_keys_of_a_group_are_read_in_place(monkeypatch):
    heads, whole = [], torch.nn.functional.scaled_dot_product_attention

    def watched(query, key, *arguments, **kwargs):
        heads.append((query.shape[1], key.shape[1]))
        return whole(query, key, *arguments, **kwargs)

    monkeypatch.setattr("torch.nn.functional.scaled_dot_product_attention", watched)
    model = make_model()
    states(hypothesis_decoder(model))
    assert heads == [(4, 2)] * 2
    states(model.base_model)
    assert heads[2:] == [(4, 4)] * 2


def test_what_is_done_to_the_model_later_is_done_to_the_decoder():
    model = make_model()
    decoder = hypothesis_decoder(model)
    with torch.no_grad():
        model.base_model.layers[0].self_attn.q_proj.weight.mul_(2)
    model.base_model.layers[1].mlp.register_forward_hook(lambda module, inputs, output: output + 1)
    model.base_model.layers[1].register_forward_hook(lambda module, inputs, output: output + 1)
    torch.testing.assert_close(states(decoder), states(model.base_model))
    states(decoder).sum().backward()
    assert all(parameter.grad is not None for parameter in model.base_model.parameters())


def test_classes_that_are_not_made_to_be_copied_are_copied():
    model = make_model()
    layer = model.base_model.layers[0]

    class Sharded(type(layer)):  # as FSDP2 makes them
        def __new__(cls, *arguments, **kwargs):
            made = object.__new__(type(layer))
            made.__init__(*arguments, **kwargs)
            return made

    layer.__class__ = Sharded
    torch.testing.assert_close(states(hypothesis_decoder(model)), states(model.base_model))


@pytest.mark.parametrize("attention", ["eager", "flash_attention_2"])
def test_other_attention_stays(attention):
    model = make_model()
    model.config._attn_implementation_internal = attention
    assert hypothesis_decoder(model) is model.base_model
