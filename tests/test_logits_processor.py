"""The processor against brute force: what is legal, what it costs, and every decoding strategy of plain `generate`."""

from collections import deque
from itertools import product

import numpy as np
import pytest
import torch
from conftest import make_model, make_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_hf import SemanticIds, SidVocabulary
from genrec_hf.generation import SidLogitsProcessor, SidTrie, clean_generation_config
from genrec_hf.generation.logits_processor import _Buffer

SIZES = (3, 4, 3)
CODES = np.unique(np.random.default_rng(0).integers(SIZES, size=(24, 3)), axis=0)
PROMPTS = ["a b c: ", "The red thing, then the blue thing and the green one: ", "x"]


def world(model):
    """The model extended for `CODES`, with what decodes it."""
    sids = SemanticIds(CODES, SIZES, [f"i{item}" for item in range(len(CODES))])
    tokenizer = make_tokenizer()
    vocabulary = SidVocabulary(sids).extend(tokenizer, model, init="random")
    with torch.no_grad():  # sharper than a fresh model, so that the best is best by a margin
        model.get_input_embeddings().weight.mul_(8)
    model.generation_config = clean_generation_config(tokenizer, sids.levels)
    return tokenizer, vocabulary, SidTrie(sids)


def tokens_of(vocabulary):
    return torch.as_tensor(vocabulary.token_ids(np.arange(len(CODES))))


def brute_force(model, vocabulary, prompt, normalization="full", items=None):
    """Log-probability `[items]` of each whole SID after `prompt`, teacher-forced, under one of the three softmaxes."""
    items = np.arange(len(CODES)) if items is None else items
    tokens = tokens_of(vocabulary)[items]
    ids = torch.cat([torch.tensor([prompt]).expand(len(items), -1), tokens], dim=1)
    with torch.no_grad():
        logits = model(ids).logits[:, len(prompt) - 1 : -1].double()
    total = torch.zeros(len(items), dtype=torch.double)
    for row in range(len(items)):
        for level in range(tokens.shape[1]):
            if normalization == "full":
                rivals = torch.arange(logits.shape[-1])
            elif normalization == "level":
                rivals = torch.as_tensor(vocabulary.level_token_ids[level].copy())
            else:
                rivals = tokens[(tokens[:, :level] == tokens[row, :level]).all(dim=1), level].unique()
            here = logits[row, level]
            total[row] += here[tokens[row, level]] - here[rivals].logsumexp(dim=0)
    return total.numpy()


def generate(model, tokenizer, processor, prompts=PROMPTS, **kwargs):
    batch = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    output = model.generate(**batch, max_new_tokens=processor.levels, logits_processor=[processor], **kwargs)
    return output[:, batch["input_ids"].shape[1] :].numpy()


def legal_by_hand(row, vocabulary, allowed):
    """Legal next tokens after the tokens `row`, from the definition: the longest SID prefix that ends the row."""
    tokens = vocabulary.token_ids(np.arange(len(CODES))).tolist()
    level_of = {int(t): level for level, ids in enumerate(vocabulary.level_token_ids) for t in ids}
    depth = level_of.get(row[-1], -1) + 1 if row else 0
    depth = 0 if depth == len(SIZES) else depth
    prefix = row[len(row) - depth :]
    return {tokens[item][depth] for item in allowed if tokens[item][:depth] == prefix}


def test_legal_tokens_equal_the_definition_at_every_depth():
    _, vocabulary, trie = world(make_model())
    tokens = vocabulary.token_ids(np.arange(len(CODES))).tolist()
    rows = [sid[:depth] for sid in tokens for depth in range(4)] + [
        sid + other[:1] for sid in tokens[:5] for other in tokens
    ]
    for num_beams in (0, 3, 9):
        padded = [[7] * num_beams + [9] * (4 - len(row)) + row for row in rows]
        scores = torch.randn(len(rows), 340)
        masked = SidLogitsProcessor(trie, vocabulary)(torch.tensor(padded), scores)
        for row, before, after in zip(padded, scores, masked, strict=True):
            legal = legal_by_hand(row, vocabulary, range(len(CODES)))
            assert set(torch.isfinite(after).nonzero().flatten().tolist()) == legal
            assert torch.equal(after[list(legal)], before[list(legal)])


@given(st.lists(st.integers(0, len(CODES) - 1), max_size=2 * len(CODES)), st.integers(0, 2), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_deny_equals_a_trie_without_those_items(denied, depth, seed):
    vocabulary, trie = WORLD[1:]
    left = np.setdiff1d(np.arange(len(CODES)), denied)
    if len(left) == 0:
        return
    prefixes = vocabulary.token_ids(left)[:, :depth]
    rows = torch.as_tensor(np.hstack([np.full((len(left), 1), 5), prefixes]))
    scores = torch.randn(len(left), 340, generator=torch.Generator().manual_seed(seed))
    for normalization in ("full", "level", "trie"):
        one = SidLogitsProcessor(
            trie, vocabulary, deny=[np.array(denied, dtype=np.int64)], normalization=normalization
        )
        other = SidLogitsProcessor(SidTrie(CODES[left]), vocabulary, normalization=normalization)
        assert torch.equal(one(rows, scores), other(rows, scores))


def test_each_request_has_its_own_deny_list():
    tokenizer, vocabulary, trie = world(model := make_model())
    deny = [np.arange(0, len(CODES), 2), np.array([], dtype=np.int64), np.arange(1, len(CODES))]
    processor = SidLogitsProcessor(trie, vocabulary, deny=deny)
    items = vocabulary.items(generate(model, tokenizer, processor, num_beams=4, num_return_sequences=4)).reshape(3, 4)
    assert (items[0] % 2 == 1).all() and items[2, 0] == 0
    with pytest.raises(ValueError, match="3 deny or allow lists for 4 rows"):
        processor(torch.ones(4, 2, dtype=torch.long), torch.zeros(4, 340))


@pytest.mark.parametrize("normalization", ["full", "level", "trie"])
def test_scores_are_the_softmax_that_was_asked_for(normalization):
    _, vocabulary, trie = world(make_model())
    first = vocabulary.token_ids([0, 7])[:, :1]
    rows = torch.as_tensor(np.hstack([np.full((2, 1), 5), first]))
    logits = torch.randn(2, 340)
    masked = SidLogitsProcessor(trie, vocabulary, normalization=normalization)(rows, logits.log_softmax(dim=-1))
    for row in range(2):
        legal = sorted(legal_by_hand(rows[row].tolist(), vocabulary, range(len(CODES))))
        rivals = {"full": range(340), "level": vocabulary.level_token_ids[1].tolist(), "trie": legal}[normalization]
        expected = logits[row, legal] - logits[row, list(rivals)].logsumexp(dim=0)
        torch.testing.assert_close(masked[row, legal], expected)


@pytest.mark.parametrize("normalization", ["full", "level", "trie"])
def test_wide_beams_equal_scoring_every_item(tiny_model, normalization):
    tokenizer, vocabulary, trie = world(tiny_model)
    processor = SidLogitsProcessor(trie, vocabulary, normalization=normalization)
    tokens = generate(tiny_model, tokenizer, processor, num_beams=len(CODES), num_return_sequences=len(CODES))
    found = vocabulary.items(tokens).reshape(len(PROMPTS), len(CODES))
    for row, prompt in zip(found, PROMPTS, strict=True):
        expected = brute_force(tiny_model, vocabulary, tokenizer(prompt)["input_ids"], normalization)
        assert sorted(row) == list(range(len(CODES)))
        np.testing.assert_allclose(expected[row], np.sort(expected)[::-1], atol=1e-4)


def test_greedy_takes_the_best_legal_token_each_step(tiny_model):
    tokenizer, vocabulary, trie = world(tiny_model)
    found = generate(tiny_model, tokenizer, SidLogitsProcessor(trie, vocabulary), do_sample=False)
    for prompt, tokens in zip(PROMPTS, found.tolist(), strict=True):
        row = tokenizer(prompt)["input_ids"]
        for token in tokens:
            legal = sorted(legal_by_hand(row, vocabulary, range(len(CODES))))
            logits = tiny_model(torch.tensor([row])).logits[0, -1]
            assert token == legal[int(logits[legal].argmax())]
            row = [*row, token]


def test_left_padding_and_a_second_call_change_nothing(tiny_model):
    tokenizer, vocabulary, trie = world(tiny_model)
    processor = SidLogitsProcessor(trie, vocabulary, normalization="level")
    for settings_ in ({}, {"num_beams": 6, "num_return_sequences": 6}):
        batch = generate(tiny_model, tokenizer, processor, **settings_)
        again = generate(tiny_model, tokenizer, processor, **settings_)
        alone = [generate(tiny_model, tokenizer, processor, [prompt], **settings_) for prompt in PROMPTS]
        np.testing.assert_array_equal(batch, again)
        np.testing.assert_array_equal(batch, np.concatenate(alone))


def test_inputs_embeds_give_what_input_ids_give(tiny_model):
    tokenizer, vocabulary, trie = world(tiny_model)
    processor = SidLogitsProcessor(trie, vocabulary)
    ids = torch.tensor([tokenizer(PROMPTS[1])["input_ids"]])
    for beams in (1, 5):
        kwargs = {
            "max_new_tokens": 3,
            "num_beams": beams,
            "num_return_sequences": beams,
            "logits_processor": [processor],
        }
        embedded = tiny_model.generate(inputs_embeds=tiny_model.get_input_embeddings()(ids), **kwargs)
        assert torch.equal(embedded, tiny_model.generate(input_ids=ids, **kwargs)[:, ids.shape[1] :])


def test_samples_follow_the_softmax_over_legal_tokens():
    tokenizer, vocabulary, trie = world(model := make_model())
    torch.manual_seed(0)
    processor = SidLogitsProcessor(trie, vocabulary)
    tokens = generate(model, tokenizer, processor, PROMPTS[:1], do_sample=True, num_return_sequences=4000)
    share = np.bincount(vocabulary.items(tokens), minlength=len(CODES)) / 4000
    expected = np.exp(brute_force(model, vocabulary, tokenizer(PROMPTS[0])["input_ids"], "trie"))
    assert expected.sum() == pytest.approx(1)
    assert np.abs(share - expected).max() < 5 * np.sqrt(0.25 / 4000)


def test_history_in_the_prompt_starts_a_new_sid_and_a_forced_prefix_goes_on():
    tokenizer, vocabulary, trie = world(model := make_model())
    processor = SidLogitsProcessor(trie, vocabulary)
    history = "bought: " + "".join(vocabulary.text([3, 8]))
    assert (
        vocabulary.items(generate(model, tokenizer, processor, [history], num_beams=4, num_return_sequences=4)) >= 0
    ).all()
    batch = tokenizer([history + "<s_a_1>"], return_tensors="pt")
    output = model.generate(
        **batch, max_new_tokens=2, num_beams=3, num_return_sequences=3, logits_processor=[processor]
    )
    assert (CODES[vocabulary.items(output[:, -3:].numpy())][:, 0] == 1).all()


def test_broken_scores_and_stuck_rows_raise():
    _, vocabulary, trie = world(make_model())
    rows = torch.full((2, 3), 5)
    with pytest.raises(ValueError, match="NaN"):
        SidLogitsProcessor(trie, vocabulary)(rows, torch.tensor([[0.0] * 340, [float("nan")] * 340]))
    with pytest.raises(ValueError, match="every item is denied"):
        SidLogitsProcessor(trie, vocabulary, deny=[np.arange(len(CODES))])(rows, torch.zeros(2, 340))
    # A token of the second level with nothing before it is no prefix of any SID.
    second = int(vocabulary.level_token_ids[1][0])
    with pytest.raises(ValueError, match="row 1 has no allowed token"):
        SidLogitsProcessor(trie, vocabulary)(torch.tensor([[5, 5, 5], [5, 5, second]]), torch.zeros(2, 340))
    with pytest.raises(ValueError, match="got normalization='best'; use one of full, level, trie"):
        SidLogitsProcessor(trie, vocabulary, normalization="best")


@given(
    st.lists(st.lists(st.integers(0, len(CODES) - 1), max_size=len(CODES)), min_size=3, max_size=3) | st.none(),
    st.lists(st.lists(st.integers(0, len(CODES) - 1), max_size=len(CODES)) | st.none(), min_size=3, max_size=3),
    st.integers(0, 2),
    st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_allow_alone_and_with_deny_equals_a_trie_rebuilt_for_each_request(deny, allow, depth, seed):
    vocabulary, trie = WORLD[1:]
    everything = np.arange(len(CODES))
    left = [
        np.setdiff1d(everything if only is None else only, denied).astype(np.int64)
        for denied, only in zip(deny or [[]] * 3, allow, strict=True)
    ]
    if not all(map(len, left)):
        return
    rows = [np.resize(vocabulary.token_ids(items)[:, :depth], (4, depth)) for items in left]  # four beams each
    rows = [torch.as_tensor(np.hstack([np.full((4, 1), 5), prefixes])) for prefixes in rows]
    scores = torch.randn(12, 340, generator=torch.Generator().manual_seed(seed))
    for normalization in ("full", "level", "trie"):
        together = SidLogitsProcessor(trie, vocabulary, deny=deny, allow=allow, normalization=normalization)(
            torch.cat(rows), scores
        )
        rebuilt = [
            SidLogitsProcessor(SidTrie(CODES[items]), vocabulary, normalization=normalization) for items in left
        ]
        alone = [one(*each) for one, *each in zip(rebuilt, rows, scores.split(4), strict=True)]
        assert torch.equal(together, torch.cat(alone))


def test_each_request_has_its_own_allow_list():
    tokenizer, vocabulary, trie = world(model := make_model())
    allow = [[3], None, np.arange(0, len(CODES), 2)]
    for deny, rest in ((None, set(range(len(CODES)))), ([[], range(8), [0]], {*range(8, len(CODES))})):
        processor = SidLogitsProcessor(trie, vocabulary, deny=deny, allow=allow)
        items = vocabulary.items(generate(model, tokenizer, processor, num_beams=4, num_return_sequences=4))
        items = items.reshape(3, 4)
        assert items[0, 0] == 3 and set(items[1].tolist()) <= rest and (items[2] % 2 == 0).all()
        assert deny is None or 0 not in items[2]
    with pytest.raises(ValueError, match="2 deny lists and 3 allow lists"):
        SidLogitsProcessor(trie, vocabulary, deny=[[], []], allow=allow)
    with pytest.raises(ValueError, match="item rows 99 to 99"):
        SidLogitsProcessor(trie, vocabulary, allow=[[99]])
    with pytest.raises(ValueError, match="row 1 has no allowed token"):
        SidLogitsProcessor(trie, vocabulary, allow=[None, []])(torch.full((2, 1), 5), torch.zeros(2, 340))


@pytest.mark.parametrize("normalization", ["full", "level", "trie"])
def test_a_mask_of_everything_legal_raises_and_of_a_part_of_it_does_not(normalization):
    vocabulary, trie = WORLD[1:]
    processor = SidLogitsProcessor(trie, vocabulary, normalization=normalization)
    first = torch.as_tensor(vocabulary.level_token_ids[0].copy())
    rows, scores = torch.full((2, 3), 5), torch.randn(2, 340)
    scores[1, first] = float("-inf")
    with pytest.raises(ValueError, match="-inf for every allowed token"):
        processor(rows, scores)
    scores[1, first[0]] = 0.5
    masked = processor(rows, scores)
    assert masked[1].isfinite().nonzero().flatten().tolist() == [int(first[0])]
    assert masked[0].isfinite().nonzero().flatten().tolist() == first.tolist()


# The buffer. A processor that is asked again and again has to give what one that was never asked before gives.


def call(number, rows=4, num_beams=340, dtype=torch.float32):
    """Token ids and scores of the `number`th call: what is legal differs from the calls before and after."""
    tokens = tokens_of(WORLD[1])[(number + 5 * torch.arange(rows)) % len(CODES), : number % 3]
    ids = torch.cat([torch.full((rows, 1), 5), tokens], dim=1)
    return ids, torch.randn(rows, num_beams, generator=torch.Generator().manual_seed(number)).to(dtype)


def processor_and_fresh(**kwargs):
    """A processor, and what does the same with a new processor for every call."""
    _, vocabulary, trie = WORLD

    def fresh(ids, scores):
        return SidLogitsProcessor(trie, vocabulary, **kwargs)(ids, scores)

    return SidLogitsProcessor(trie, vocabulary, **kwargs), fresh


@pytest.fixture
def made(monkeypatch):
    """The buffers made from now on, one entry each."""
    made, make = [], _Buffer.__init__

    def counted(buffer, like):
        make(buffer, like)
        made.append(tuple(like.shape))

    monkeypatch.setattr(_Buffer, "__init__", counted)
    return made


@pytest.mark.parametrize("normalization", ["full", "level", "trie"])
def test_later_calls_equal_those_of_a_fresh_processor_and_leave_their_scores_alone(normalization):
    processor, fresh = processor_and_fresh(normalization=normalization)
    for number in range(9):
        ids, scores = call(number)
        before = ids.clone(), scores.clone()
        assert torch.equal(processor(ids, scores), fresh(*before))
        assert torch.equal(ids, before[0]) and torch.equal(scores, before[1])
    # What it gave out, given back to it.
    once = processor(*call(1))
    kept = once.clone()
    again = processor(call(1)[0], once)
    assert torch.equal(once, kept) and torch.equal(again, fresh(call(1)[0], kept))


HOLDS = {
    "itself": lambda out: out,
    "row": lambda out: out[0],
    "columns": lambda out: out[:, 318:330],
    "view": lambda out: out.view(-1),
    "transposed": lambda out: out.T,
    "detached": lambda out: out.detach(),
    "data": lambda out: out.data,
    "numpy": lambda out: out.numpy(),
    "tuple": lambda out: out.unbind(),
}


@pytest.mark.parametrize("number", [1, 2, 5])
@pytest.mark.parametrize("hold", HOLDS.values(), ids=HOLDS)
def test_what_the_caller_still_holds_never_changes(hold, number):
    processor, fresh = processor_and_fresh()
    held = deque(maxlen=number)
    for step in range(3 * number + 4):
        out = processor(*call(step))
        assert torch.equal(out, fresh(*call(step)))
        held.append((hold(out), hold(out.clone())))
        del out
        for mine, copied in held:
            pairs = zip(mine, copied, strict=True) if isinstance(mine, tuple) else [(mine, copied)]
            assert all(np.array_equal(one, other) for one, other in pairs)


def test_what_autograd_has_saved_never_changes():
    processor, fresh = processor_and_fresh()
    weight = torch.ones(340, requires_grad=True)
    products = [weight * processor(*call(step))[0] for step in range(5)]  # autograd keeps the factor, we do not
    for step, each in enumerate(products):
        (gradient,) = torch.autograd.grad(each.sum(), weight)
        assert torch.equal(gradient, fresh(*call(step))[0])


def test_with_nothing_held_the_storage_is_used_again(made):
    processor, _ = processor_and_fresh()
    places = [processor(*call(step)).data_ptr() for step in range(9)]
    assert len(made) == 1 and len(set(places)) == 1
    out, places = None, []
    for step in range(9):  # as `generate` does, which holds its last scores while it asks for the next
        out = processor(*call(step))
        places.append(out.data_ptr())
    assert len(made) == 2 and len(set(places)) == 2 and places[2:] == places[:-2]
    held = [processor(*call(step)) for step in range(6)]
    assert len({each.data_ptr() for each in [*held, out]}) == 7
    del held, out
    before = len(made)
    assert len({processor(*call(step)).data_ptr() for step in range(9)}) == 1 and len(made) == before


def test_batch_size_width_dtype_and_layout_may_change_between_calls():
    processor, fresh = processor_and_fresh(normalization="level")
    shapes = list(product((4, 1, 12), (340, 512), (torch.float32, torch.bfloat16, torch.float16, torch.float64)))
    order = np.random.default_rng(0).permutation(2 * len(shapes)) % len(shapes)
    out = None
    for number, (rows, num_beams, dtype) in enumerate(shapes[at] for at in order):
        ids, scores = call(number, rows, num_beams, dtype)
        for layout in (scores, scores.T.contiguous().T, torch.cat([scores, scores], dim=1)[:, :num_beams]):
            expected = fresh(ids, scores)
            kept = None if out is None else out.clone()
            later = processor(ids, layout)
            assert later.dtype == dtype and torch.equal(later, expected)
            assert out is None or torch.equal(out, kept)
            out = later if number % 3 else None


STRATEGIES = {
    "greedy": {},
    "sampling": {"do_sample": True, "num_return_sequences": 3},
    "beams": {"num_beams": 5, "num_return_sequences": 5},
    "beams, sampling": {"num_beams": 4, "num_return_sequences": 2, "do_sample": True},
}


@pytest.mark.parametrize("normalization", ["full", "level", "trie"])
@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_output_scores_and_logits_are_those_without_reuse(strategy, normalization, monkeypatch):
    tokenizer, vocabulary, trie = world(model := make_model())
    batch = tokenizer(PROMPTS, return_tensors="pt", padding=True, padding_side="left")
    processor = SidLogitsProcessor(trie, vocabulary, normalization=normalization, deny=[[0, 1], [], [5]])

    def outputs(**kwargs):
        torch.manual_seed(0)
        return model.generate(
            **batch,
            **strategy,
            **kwargs,
            max_new_tokens=3,
            output_scores=True,
            output_logits=True,
            return_dict_in_generate=True,
        )

    twice = [outputs(logits_processor=[processor]) for _ in range(2)]
    monkeypatch.setattr(_Buffer, "is_free", lambda buffer: False)
    expected = outputs(logits_processor=[processor])
    for found in twice:
        assert torch.equal(found.sequences, expected.sequences)
        assert len(found.scores) == len(found.logits) == 3
        for mine, other in zip(found.scores + found.logits, expected.scores + expected.logits, strict=True):
            assert torch.equal(mine, other)
    assert torch.equal(twice[0].logits[0], outputs().logits[0])


def test_without_a_count_of_holders_nothing_is_used_twice(monkeypatch, made):
    monkeypatch.delattr(torch._C, "_storage_Use_Count")
    processor, fresh = processor_and_fresh(normalization="trie")
    held = []
    for step in range(9):
        out = processor(*call(step))
        assert torch.equal(out, fresh(*call(step)))
        if step % 2:
            held.append((out[1], out[1].clone()))
        del out
    assert all(torch.equal(row, before) for row, before in held)
    assert len(made) == 2 * 9  # the fresh ones' too


def test_an_exception_in_between_leaves_the_buffer_right():
    processor, fresh = processor_and_fresh(deny=[[]] * 4)
    lonely = torch.full((4, 1), int(WORLD[1].level_token_ids[1][0]))  # a second code with no first
    nan, masked = (torch.full((4, 340), float(value)) for value in ("nan", "-inf"))
    wrong = {
        "NaN": (call(0)[0], nan),
        "-inf for every allowed token": (call(3)[0], masked),
        "no allowed token": (lonely, nan),
        "4 deny or allow lists for 3 rows": call(0, rows=3),
        "out of bounds": call(0, num_beams=300),
    }
    held = processor(*call(0))
    kept = held.clone()
    for step, (message, arguments) in enumerate(wrong.items()):
        with pytest.raises((ValueError, IndexError), match=message):
            processor(*arguments)
        for each in (step, step + 1):
            assert torch.equal(processor(*call(each)), fresh(*call(each)))
        assert torch.equal(held, kept)


def test_inference_mode_and_no_grad_may_take_turns():
    processor, fresh = processor_and_fresh()
    for step in range(6):
        with torch.inference_mode(step % 2 == 0):
            assert torch.equal(processor(*call(step)), fresh(*call(step)))


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_a_caller_who_writes_into_the_result_does_not_open_the_catalogue(mode):
    processor, fresh = processor_and_fresh()
    for step in range(6):
        with mode():
            out = processor(*call(step))
            assert torch.equal(out, fresh(*call(step)))
            out[:, 0] = 1.0  # as a processor after this one may do
            out[:, 330:].zero_()
            del out


def test_two_threads_may_share_a_processor(monkeypatch):
    processor, fresh = processor_and_fresh()
    processor(*call(0))
    fill, other = _Buffer.fill, []

    def filled(buffer, *arguments):
        monkeypatch.setattr(_Buffer, "fill", fill)
        other.append(processor(*call(1)))  # what the other thread does meanwhile
        return fill(buffer, *arguments)

    monkeypatch.setattr(_Buffer, "fill", filled)
    mine = processor(*call(2))
    assert torch.equal(mine, fresh(*call(2))) and torch.equal(other[0], fresh(*call(1)))


def test_another_thread_may_take_the_buffers_that_were_counted(monkeypatch):
    processor, fresh = processor_and_fresh()
    held, fits = processor(*call(0)), _Buffer.fits
    processor(*call(1))

    def fits_and_the_rest_is_taken(buffer, like):
        processor._buffers.clear()
        return fits(buffer, like)

    monkeypatch.setattr(_Buffer, "fits", fits_and_the_rest_is_taken)
    assert torch.equal(processor(*call(2)), fresh(*call(2))) and torch.equal(held, fresh(*call(0)))


def test_gradients_flow_to_the_scores():
    processor, _ = processor_and_fresh()
    for step in range(3):
        ids, scores = call(step)
        out = processor(ids, scores.requires_grad_())
        out[out.isfinite()].sum().backward()
        assert torch.equal(scores.grad, out.isfinite().float())


WORLD = world(make_model())
