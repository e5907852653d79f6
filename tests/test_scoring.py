"""Given SIDs: scored as sequences of their own would be, gradients included, and as they were drawn."""

import numpy as np
import pytest
import torch
from conftest import make_model

from genrec_hf.generation import SidTrie
from genrec_hf.generation.decoding import decode
from genrec_hf.generation.prompt_cache import CopiedPromptCache, SharedPromptCache
from genrec_hf.generation.sampling import IndependentSamples
from genrec_hf.generation.scoring import score_sids

CODES = np.array([[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 2], [1, 2, 0], [2, 1, 1]])
LEVEL_TOKENS = [np.array([300, 301, 302]), np.array([303, 304, 305]), np.array([306, 307, 308])]
PROMPTS = torch.tensor([[0, 0, 5, 6, 7], [8, 9, 10, 11, 12]])
MASK = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])


class Tokens:
    level_token_ids = LEVEL_TOKENS


@pytest.fixture(scope="module")
def trie():
    return SidTrie(CODES).bind(Tokens())  # type: ignore[arg-type]


def tokens_of(items):
    return torch.tensor([[LEVEL_TOKENS[level][code] for level, code in enumerate(CODES[item])] for item in items])


def by_hand(model, row, sid, trie, normalization, temperature):
    """A sequence of its own, without padding, and the softmax over what is legal."""
    prompt = PROMPTS[row][MASK[row].bool()]
    logits = model(torch.cat([prompt, sid])[None]).logits[0].float() / temperature
    found = []
    for level, token in enumerate(sid.tolist()):
        at = logits[len(prompt) - 1 + level]
        before = sid[:level].tolist()
        legal = sorted(
            {int(LEVEL_TOKENS[level][code[level]]) for code in CODES if tokens_before(code, level) == before}
        )
        norm = at.logsumexp(0) if normalization == "full" else at[legal].logsumexp(0)
        found.append(at[token] - norm)
    return torch.stack(found)


def tokens_before(code, level):
    return [int(LEVEL_TOKENS[place][code[place]]) for place in range(level)]


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("kind", [SharedPromptCache, CopiedPromptCache])
@pytest.mark.parametrize("normalization", ["trie", "full"])
def test_scores_and_gradients_are_those_of_sequences_of_their_own(family, kind, normalization, trie):
    model = make_model(family).eval()
    items = [[0, 3, 0, 5], [1, 2, 4, 4]]
    tokens = torch.stack([tokens_of(row) for row in items])
    found = score_sids(
        kind(model),
        {"input_ids": PROMPTS},
        MASK,
        trie=trie,
        tokens=tokens,
        normalization=normalization,
        temperature=0.7,
    )
    weights = torch.randn(found.log_probs.shape, generator=torch.Generator().manual_seed(0))
    (found.log_probs * weights).sum().backward()
    ours = {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}
    model.zero_grad()
    expected = torch.stack(
        [torch.stack([by_hand(model, row, sid, trie, normalization, 0.7) for sid in tokens[row]]) for row in range(2)]
    )
    torch.testing.assert_close(found.log_probs, expected, atol=1e-5, rtol=1e-5)
    (expected * weights).sum().backward()
    for name, each in model.named_parameters():
        torch.testing.assert_close(ours[name], each.grad, atol=1e-4, rtol=1e-3)
    assert (found.entropy >= 0).all() and not found.entropy.requires_grad


def test_what_is_drawn_has_the_probability_that_it_was_drawn_with(trie):
    model = make_model().eval()
    drawn = decode(
        SharedPromptCache(model),
        {"input_ids": PROMPTS},
        MASK,
        trie=trie,
        select=IndependentSamples(9),
        normalization="trie",
        temperature=1.3,
    )
    scored = score_sids(
        SharedPromptCache(model),
        {"input_ids": PROMPTS},
        MASK,
        trie=trie,
        tokens=drawn.tokens,
        normalization="trie",
        temperature=1.3,
    )
    torch.testing.assert_close(scored.log_probs, drawn.token_log_probs, atol=1e-5, rtol=1e-5)


def test_what_is_no_item_has_no_probability_among_items(trie):
    tokens = torch.tensor([[[300, 305, 306]], [[300, 303, 306]]])
    with pytest.raises(ValueError, match="tokens that are not SIDs of items"):
        score_sids(SharedPromptCache(make_model()), {"input_ids": PROMPTS}, MASK, trie=trie, tokens=tokens)
    score_sids(
        SharedPromptCache(make_model()), {"input_ids": PROMPTS}, MASK, trie=trie, tokens=tokens, normalization="full"
    )
    with pytest.raises(ValueError, match="got normalization='level'; use one of trie, full"):
        score_sids(
            SharedPromptCache(make_model()),
            {"input_ids": PROMPTS},
            MASK,
            trie=trie,
            tokens=tokens,
            normalization="level",
        )
