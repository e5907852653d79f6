"""`sid_sample` against probabilities by brute force: draws with and without replacement, and what they report."""

import copy
import itertools

import numpy as np
import pytest
import torch
from conftest import make_model
from scipy.stats import chisquare
from test_beam_search import BATCHES, CODES, brute_force, encode, graphs, tokens_of, world  # noqa: F401

from genrec_hf.generation import SidLogitsProcessor, SidTrie, sid_sample

FEW = np.array([[0, 0], [0, 1], [0, 2], [1, 1], [2, 0], [2, 2]])
PROMPT = "The red thing: "


def draw(here, prompts=(PROMPT,), model=None, **kwargs):
    options = {"custom_generate": sid_sample, "trie": here.trie, "return_dict_in_generate": True} | kwargs
    return (model or here.model).generate(**encode(here, list(prompts)), **options)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def cooled(here, temperature):
    """The same with logits divided by `temperature`."""
    head = copy.deepcopy(here.model)
    with torch.no_grad():
        head.get_output_embeddings().weight.div_(temperature)
    return head


def expected_log_probs(here, prompt=PROMPT, temperature=1.0):
    """Log-probability `[leaves]` of each SID, each token among its legal siblings."""
    return brute_force(here, prompt, "trie", cooled(here, temperature)).float()


def assert_drawn_by(counts, probabilities):
    """A chi-square test, with cells that are hardly ever hit taken together; seeds are fixed, so it never flickers."""
    counts, expected = np.asarray(counts, dtype=float), np.asarray(probabilities, dtype=float)
    assert counts.sum() >= 2000 and expected.sum() == pytest.approx(1, abs=1e-4)
    assert counts[expected == 0].sum() == 0
    expected = expected * (counts.sum() / expected.sum())
    rare = expected < 8
    if rare.any():
        counts, expected = (np.append(each[~rare], each[rare].sum()) for each in (counts, expected))
    counts, expected = counts[expected > 0], expected[expected > 0]
    assert len(counts) == 1 or chisquare(counts, expected).pvalue > 1e-4


@pytest.fixture
def few():
    return world(make_model(tied=False), FEW)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_draws_with_replacement_follow_the_model(few, temperature):
    expected = expected_log_probs(few, temperature=temperature)
    assert expected.exp().sum() == pytest.approx(1, abs=1e-5) and expected.std() > 0.2
    found = draw(few, num_return_sequences=5000, temperature=temperature, generator=seeded())
    assert_drawn_by(torch.bincount(found.leaves, minlength=6), expected.exp())
    torch.testing.assert_close(found.sequences_scores, expected[found.leaves], atol=1e-4, rtol=0)
    torch.testing.assert_close(found.token_log_probs.sum(dim=1), found.sequences_scores)
    assert torch.equal(found.sequences[:, -2:], tokens_of(few)[found.leaves])
    # The first token alone: the items below each first code together.
    first = torch.as_tensor(FEW[:, 0])
    by_code = torch.zeros(3).index_add_(0, first, expected.exp()).log()
    torch.testing.assert_close(found.token_log_probs[:, 0], by_code[first[found.leaves]], atol=1e-4, rtol=0)


@pytest.mark.parametrize("replacement", [True, False])
def test_every_prompt_of_a_batch_has_its_own_draws(tiny_model, replacement):
    here = world(tiny_model)
    prompts = BATCHES["left padding"]
    found = draw(here, prompts, num_return_sequences=16, replacement=replacement, generator=seeded())
    scores, leaves = found.sequences_scores.view(3, -1), found.leaves.view(3, -1)
    for row, prompt in enumerate(prompts):
        expected = expected_log_probs(here, prompt)
        torch.testing.assert_close(scores[row], expected[leaves[row]], atol=1e-4, rtol=0)
    copies = draw(here, [prompts[0]] * 3, num_return_sequences=16, generator=seeded()).leaves.view(3, -1)
    assert not torch.equal(copies[0], copies[1]) and not torch.equal(copies[1], copies[2])


@pytest.mark.parametrize("number", [2, 6, 9])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_draws_without_replacement_come_in_the_order_of_one_by_one(few, number, temperature):
    p = expected_log_probs(few, temperature=temperature).exp().double().numpy()
    found = [
        draw(few, [PROMPT] * 2500, num_return_sequences=number, replacement=False, temperature=temperature,
             generator=seeded(seed)).leaves.view(2500, number)
        for seed in range(4)
    ]  # fmt: skip
    drawn = torch.cat(found)
    left = min(number, 6)
    assert all(len(set(row)) == left and min(row) >= 0 for row in drawn[:, :left].tolist())
    assert (drawn[:, left:] == -1).all()
    assert_drawn_by(torch.bincount(drawn[:, 0], minlength=6), p)
    pairs = np.outer(p, p) / (1 - p[:, None])
    np.fill_diagonal(pairs, 0)
    assert pairs.sum() == pytest.approx(1)
    assert_drawn_by(torch.bincount(drawn[:, 0] * 6 + drawn[:, 1], minlength=36), pairs.flatten())
    if left == 6:  # the last is the one that the others leave
        orders = list(itertools.permutations(range(6)))
        share = [np.prod([p[i] / (1 - p[list(order[:k])].sum()) for k, i in enumerate(order)]) for order in orders]
        last = np.bincount([order[-1] for order in orders], weights=share)
        assert_drawn_by(torch.bincount(drawn[:, 5], minlength=6), last)


def test_scores_without_replacement_are_those_of_a_single_draw(few):
    expected = expected_log_probs(few, temperature=0.7)
    found = draw(few, [PROMPT] * 5, num_return_sequences=8, replacement=False, temperature=0.7, generator=seeded())
    leaves, scores = found.leaves.view(5, 8), found.sequences_scores.view(5, 8)
    torch.testing.assert_close(scores[:, :6], expected[leaves[:, :6]], atol=1e-4, rtol=0)
    assert (scores[:, 6:] == -torch.inf).all() and (found.sequences.view(5, 8, -1)[:, 6:, -2:] == 1).all()


@pytest.mark.parametrize("replacement", [True, False])
def test_deny_and_allow_hold_and_renormalise(few, replacement):
    prompts, options = [PROMPT] * 4, {"replacement": replacement, "generator": seeded()}
    deny, allow = [[0, 3], [], [], range(6)], [None, [1, 2, 5], [4], None]
    left = [[1, 2, 4, 5], [1, 2, 5], [4], []]
    number = 3000 if replacement else 6
    found = draw(few, prompts, num_return_sequences=number, deny=deny, allow=allow, **options)
    leaves, scores = found.leaves.view(4, -1), found.sequences_scores.view(4, -1)
    for row, items in enumerate(left):
        if not items:
            assert (leaves[row] == -1).all() and (scores[row] == -torch.inf).all()
            continue
        rebuilt = few._replace(trie=SidTrie(FEW[items], few.vocabulary))
        sids = tokens_of(few)[items]
        expected = torch.full((6,), -torch.inf)
        expected[items] = brute_force_of(rebuilt, sids)
        if replacement:
            assert_drawn_by(torch.bincount(leaves[row], minlength=6), expected.exp())
        else:
            assert sorted(leaves[row, : len(items)].tolist()) == items and (leaves[row, len(items) :] == -1).all()
        real = leaves[row] >= 0
        torch.testing.assert_close(scores[row][real], expected[leaves[row][real]], atol=1e-4, rtol=0)


def brute_force_of(here, sids):
    """Log-probabilities of `sids` `[n, levels]`, each token among those of its siblings in `sids`."""
    prompt = torch.tensor(here.tokenizer(PROMPT)["input_ids"])
    with torch.no_grad():
        logits = here.model(torch.cat([prompt.expand(len(sids), -1), sids], dim=1)).logits[:, len(prompt) - 1 : -1]
    total = torch.zeros(len(sids))
    for (row, sid), level in itertools.product(enumerate(sids), range(sids.shape[1])):
        siblings = sids[(sids[:, :level] == sid[:level]).all(dim=1), level].unique()
        total[row] += logits[row, level, sid[level]] - logits[row, level, siblings].logsumexp(dim=0)
    return total


@pytest.mark.parametrize("replacement", [True, False])
def test_a_generator_makes_draws_repeat_and_leaves_torchs_own_alone(tiny_model, replacement):
    here = world(tiny_model)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    options = {"prompts": BATCHES["left padding"], "num_return_sequences": 12, "replacement": replacement}
    one, again, other = (draw(here, generator=seeded(seed), **options).leaves for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)
    unseeded = draw(here, **options).leaves
    assert not torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    assert torch.equal(draw(here, **options).leaves, unseeded)


@pytest.mark.parametrize("replacement", [True, False])
def test_static_mode_draws_from_the_same_distribution(few, graphs, replacement):  # noqa: F811
    expected = expected_log_probs(few)
    number = 5 if replacement else 2
    options = {"num_return_sequences": number, "replacement": replacement, "static": True}
    runs = [draw(few, [PROMPT] * 1000, generator=seeded(seed), **options) for seed in range(3)]
    leaves = torch.cat([run.leaves.view(1000, number) for run in runs])
    assert graphs
    first = leaves.flatten() if replacement else leaves[:, 0]
    assert_drawn_by(torch.bincount(first, minlength=6), expected.exp())
    assert replacement or (leaves[:, 0] != leaves[:, 1]).all()
    torch.testing.assert_close(runs[0].sequences_scores, expected[runs[0].leaves], atol=1e-4, rtol=0)


def test_one_draw_one_level_and_shared_sids():
    here = world(make_model(), np.array([[0], [2], [3]]))
    found = draw(here, BATCHES["left padding"], num_return_sequences=4, replacement=False)
    assert all(sorted(row) == [-1, 0, 1, 2] for row in found.leaves.view(3, 4).tolist())
    here = world(make_model(), CODES[[0, 5, 0, 3]])
    found = draw(here, BATCHES["left padding"])
    assert found.leaves.shape == (3,) and set(here.trie.items(found.leaves).tolist()) <= {0, 1, 3}
    only = draw(
        here,
        BATCHES["left padding"],
        return_dict_in_generate=False,
        deny=[[0], [1], [3]],
        replacement=False,
        num_return_sequences=3,
    ).view(3, 3, -1)[..., -3:]
    # One of two items of a SID is denied: the SID stays.
    for rows, size in zip(only, (3, 2, 2), strict=True):
        assert len({tuple(row) for row in rows.tolist() if 1 not in row}) == size


def test_a_temperature_near_0_takes_the_best_child_and_a_high_one_any():
    here = world(make_model(tied=False))
    best = here.model.generate(
        **encode(here), logits_processor=[SidLogitsProcessor(here.trie, here.vocabulary)], do_sample=False
    )
    cold = draw(here, BATCHES["left padding"], num_return_sequences=5, temperature=1e-4)
    assert torch.equal(cold.sequences, best.repeat_interleave(5, dim=0))
    cold = draw(here, BATCHES["left padding"], num_return_sequences=16, temperature=1e-3, replacement=False)
    assert torch.equal(cold.sequences.view(3, 16, -1)[:, 0], best) and (cold.leaves >= 0).all()
    assert all(len(set(row)) == 16 for row in cold.leaves.view(3, 16).tolist())
    hot = draw(here, num_return_sequences=3000, temperature=1e6, generator=seeded())
    uniform = [
        1 / 3 / len(set(CODES[CODES[:, 0] == a, 1])) / (CODES[:, :2] == (a, b)).all(axis=1).sum() for a, b, _ in CODES
    ]
    assert_drawn_by(torch.bincount(hot.leaves, minlength=len(CODES)), uniform)


def test_a_checkpoints_sampling_defaults_change_nothing(few):
    clean = draw(few, num_return_sequences=50, generator=seeded())
    few.model.generation_config.update(do_sample=True, top_k=1, temperature=0.1, repetition_penalty=2.0)
    assert torch.equal(draw(few, num_return_sequences=50, generator=seeded()).sequences, clean.sequences)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"num_return_sequences": 0}, "got num_return_sequences=0; give 1 or more"),
        ({"temperature": 0.0}, "got temperature=0.0: it must be above 0"),
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"trie": None}, "got no trie"),
        ({"num_beams": 2}, "num_beams=2"),
        ({"max_new_tokens": 1}, "max_new_tokens=1 for SIDs of 2 tokens"),
        ({"deny": [[], []]}, "2 deny lists for 1 prompts"),
        (
            {"logits_processor": [SidLogitsProcessor(SidTrie(FEW), world(make_model(), FEW).vocabulary)]},
            "would not be",
        ),
        ({"normalization": "full"}, "'normalization'"),
        ({"hypotheses": 5}, "'hypotheses'"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_would_not_be_done_is_refused(few, kwargs, message):
    with pytest.raises(ValueError, match=message):
        draw(few, **kwargs)


@pytest.mark.parametrize("replacement", [True, False])
def test_nan_raises(few, replacement):
    with torch.no_grad():
        few.model.lm_head.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="logits that hold NaN"):
        draw(few, num_return_sequences=3, replacement=replacement)
