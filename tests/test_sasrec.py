"""SASRec: states that see the past alone, losses as by hand, rankings as by brute force, a world learnt by heart."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from genrec_hf import SasRec
from genrec_hf.internals.torch import linear_cross_entropy
from genrec_hf.item_scores import top_items
from genrec_hf.models import SasRecConfig, load_sasrec
from genrec_hf.models.sasrec import pad_items
from genrec_hf.models.sequence_models import model_type_of

HISTORIES = [np.array([1, 2, 3]), np.array([4]), np.arange(12), np.array([], dtype=np.int64), np.array([7, 7, 1])]


def make(seed=0, **settings):
    torch.manual_seed(seed)
    model = SasRec(
        SasRecConfig(**{"items": 20, "hidden_size": 8, "intermediate_size": 16, "max_history": 6, **settings})
    )
    with torch.no_grad():  # far from a start at which all items score alike
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize("encoder", ["attention", "gru"])
def test_a_state_depends_on_the_items_before_it_and_not_on_padding_or_other_rows(encoder):
    model = make(encoder=encoder)
    history = [3, 1, 4, 1, 5, 9]
    states = model(torch.tensor([history])).last_hidden_state[0]
    for length in range(1, 6):
        changed = history[:length] + [item + 1 for item in history[length:]]
        torch.testing.assert_close(model(torch.tensor([changed])).last_hidden_state[0, :length], states[:length])
        alone = model(torch.tensor([history[:length]])).last_hidden_state[0]
        batch = model(torch.tensor([history, history[:length] + [20] * (6 - length), [20] * 6])).last_hidden_state
        torch.testing.assert_close(batch[0], states)
        torch.testing.assert_close(batch[1, :length], alone)


def test_positions_count_from_the_end():
    model = make(num_hidden_layers=1)
    with torch.no_grad():  # attention and feed-forward part without effect: the state is that of one item
        for layer in model.encoder.layers:
            for last in (layer.self_attn.out_proj, layer.linear2):
                last.weight.zero_()
                last.bias.zero_()
    for history in ([4], [7, 4], [1, 2, 3, 4]):
        states = model(torch.tensor([history])).last_hidden_state[0]
        for index, item in enumerate(history):
            position = model.position_embedding.weight[len(history) - 1 - index]
            expected = model.norm(model.item_embedding.weight[item] * 8**0.5 + position)
            torch.testing.assert_close(states[index], expected)


def test_a_new_model_starts_at_the_last_item_and_its_embeddings_alone():
    torch.manual_seed(0)
    config = SasRecConfig(items=400, hidden_size=32, num_attention_heads=1, intermediate_size=32)
    model = SasRec(config).eval()
    assert model.item_embedding.weight[:400].std().item() == pytest.approx((2 / 433) ** 0.5, rel=0.05)
    assert (model.item_embedding.weight[400] == 0).all()
    states = model(torch.tensor([[5, 6]])).last_hidden_state[0]
    expected = model.item_embedding.weight[[5, 6]] * 32**0.5 + model.position_embedding.weight[[1, 0]]
    torch.testing.assert_close(states, model.norm(expected))


def test_the_full_cross_entropy_by_hand_over_what_has_a_label():
    model = make()
    ids, labels = torch.tensor([[3, 1, 4], [5, 20, 20]]), torch.tensor([[1, -100, 9], [2, -100, -100]])
    output = model(ids, labels)
    vectors = torch.from_numpy(model.item_vectors)
    expected = [
        -(output.last_hidden_state[row, place] @ vectors.T).log_softmax(0)[item]
        for row, place, item in [(0, 0, 1), (0, 2, 9), (1, 0, 2)]
    ]
    torch.testing.assert_close(output.loss, torch.stack(expected).mean())


@pytest.mark.parametrize("loss", ["cross_entropy", "sampled_softmax", "bce", "gbce"])
def test_a_batch_without_labels_has_no_loss(loss):
    model = make(loss=loss).train()
    loss = model(torch.tensor([[3, 1, 20]]), torch.full((1, 3), -100)).loss
    loss.backward()
    assert loss.item() == 0


def test_the_cross_entropy_in_chunks_has_the_gradients_of_the_plain_one():
    torch.manual_seed(0)
    states, weight, targets = torch.randn(9, 8), torch.randn(20, 8), torch.randint(20, (9,))
    results = []
    for loss in (linear_cross_entropy, lambda s, w, t: F.cross_entropy(s @ w.T, t, reduction="sum")):
        leaves = states.clone().requires_grad_(), weight.clone().requires_grad_()
        value = loss(*leaves, targets)
        results.append((value, *torch.autograd.grad(3 * value, leaves)))
    for chunked, plain in zip(*results, strict=True):
        torch.testing.assert_close(chunked, plain)


def test_groups_of_similar_length_change_no_gradient():
    model = make(dropout=0.0).train()
    ids = pad_items([torch.from_numpy(history[:6].astype(np.int64)) for history in HISTORIES], 20)
    labels = torch.where(ids == 20, -100, (ids + 1) % 20)
    lengths = (ids != 20).sum(dim=1)
    grouped, together = model(ids, labels).loss, model._encode(ids, lengths)[labels != -100]
    plain = F.cross_entropy(together @ model.item_embedding.weight[:20].T, labels[labels != -100])
    torch.testing.assert_close(grouped, plain)
    weights = list(model.parameters())
    for one, other in zip(torch.autograd.grad(grouped, weights), torch.autograd.grad(plain, weights), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def drawing(monkeypatch, drawn):
    monkeypatch.setattr(torch, "randint", lambda *_, **__: torch.tensor(drawn))


def test_a_sampled_softmax_of_every_item_is_the_full_one(monkeypatch):
    model, full = make(loss="sampled_softmax", negatives=20), make()
    drawing(monkeypatch, [list(range(20))])
    ids, labels = torch.tensor([[3, 1, 4]]), torch.tensor([[1, 4, 9]])
    torch.testing.assert_close(model(ids, labels).loss, full(ids, labels).loss)


def test_a_sampled_softmax_is_near_the_full_one_on_average():
    model, full = make(loss="sampled_softmax", negatives=10), make()
    ids = torch.tensor([[3, 1, 4]])
    with torch.no_grad():
        sums = []
        for _ in range(400):
            states = model(ids).last_hidden_state[0, -1:]
            sums.append((states @ model.item_embedding.weight[9] + model._loss(states, torch.tensor([9]))).exp())
        # The sum over items is estimated without bias, but that the target is never counted twice.
        expected = (full(ids).last_hidden_state[0, -1] @ full.item_embedding.weight[:20].T).exp().sum()
    assert torch.stack(sums).mean().item() == pytest.approx(expected.item(), rel=0.1)


@pytest.mark.parametrize(("loss", "calibration"), [("bce", 0.75), ("gbce", 0.0), ("gbce", 0.75), ("gbce", 1.0)])
def test_binary_losses_by_hand(loss, calibration, monkeypatch):
    model = make(loss=loss, negatives=2, calibration=calibration)
    drawing(monkeypatch, [[0, 9], [4, 18]])  # from 19 places without the target: 9 stands for 10 behind target 9
    ids, labels = torch.tensor([[3, 1]]), torch.tensor([[9, 2]])
    states, vectors = model(ids).last_hidden_state[0], model.item_embedding.weight
    share = 2 / 19
    power = 1.0 if loss == "bce" else share * (calibration * (1 - 1 / share) + 1 / share)
    expected = 0.0
    for place, target, others in ((0, 9, (0, 10)), (1, 2, (5, 19))):
        wanted = torch.sigmoid(states[place] @ vectors[target]) ** power
        expected -= torch.log(wanted) + sum(torch.log(1 - torch.sigmoid(states[place] @ vectors[o])) for o in others)
    torch.testing.assert_close(model(ids, labels).loss, expected / 6)
    assert power == pytest.approx(
        {0.0: 1.0, 0.75: 1 - 0.75 * (1 - share), 1.0: share}[calibration if loss == "gbce" else 0.0]
    )


@pytest.mark.parametrize("encoder", ["attention", "gru"])
@pytest.mark.parametrize("filter_seen", [True, False])
def test_rankings_are_those_of_brute_force_in_any_batch(encoder, filter_seen):
    model = make(encoder=encoder)
    ranked = model.rank(HISTORIES, 20, filter_seen=filter_seen).items
    assert (
        ranked == np.concatenate([model.rank([each], 20, filter_seen=filter_seen).items for each in HISTORIES])
    ).all()
    for history, items in zip(HISTORIES, ranked, strict=True):
        scores = np.zeros(20)
        if len(history):
            state = model(torch.from_numpy(history[-6:])[None]).last_hidden_state[0, -1].detach().numpy()
            scores = model.item_vectors @ state
        left = [item for item in range(20) if not (filter_seen and item in history)]
        expected = sorted(left, key=lambda item: -scores[item])
        assert items.tolist() == expected + [-1] * (20 - len(left))


def test_what_is_loaded_is_what_was_saved_and_of_the_items_that_are_meant(tmp_path):
    ids = [f"i{item}" for item in range(20)]
    model = make(catalogue="not these")
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    loaded = SasRec.from_pretrained(tmp_path)
    assert (loaded.rank(HISTORIES, 5).items == model.rank(HISTORIES, 5).items).all() and loaded.config.max_history == 6
    with pytest.raises(ValueError, match="its rows would belong to other items"):
        load_sasrec(tmp_path, ids)
    with pytest.raises(ValueError, match="knows 20 items"):
        load_sasrec(tmp_path, ids[:-1])
    make().save_pretrained(tmp_path)
    assert not load_sasrec(tmp_path, ids).training


def test_a_model_of_another_split_is_refused_where_it_is_to_be_evaluated(tmp_path):
    ids, dataset = [f"i{item}" for item in range(20)], {"fingerprint": "f" * 16}
    make(dataset="f" * 16).save_pretrained(tmp_path / "same")
    make(dataset="0" * 16).save_pretrained(tmp_path / "other")
    make().save_pretrained(tmp_path / "unknown")
    assert load_sasrec(tmp_path / "same", ids, dataset=dataset).config.dataset == "f" * 16
    with pytest.raises(ValueError, match="was trained on another data set, or on another split of this one"):
        load_sasrec(tmp_path / "other", ids, dataset=dataset)
    load_sasrec(tmp_path / "other", ids)
    with pytest.warns(UserWarning, match="does not say which data it was trained on"):
        load_sasrec(tmp_path / "unknown", ids, dataset=dataset)


def test_files_that_are_cut_short_and_weights_that_are_missing_are_told(tmp_path):
    ids = [f"i{item}" for item in range(20)]
    for name in ("config.json", "model.safetensors"):
        make().save_pretrained(tmp_path)
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(ValueError, match=rf"{name}' is not a complete (JSON|safetensors) file"):
            load_sasrec(tmp_path, ids)
    make().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["norm.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks weights, such as 'norm\.weight'"):
        load_sasrec(tmp_path, ids)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        load_sasrec(tmp_path / "nothing", ids)


def test_a_repository_of_the_hub_at_any_revision(tmp_path, hub):
    ids = [f"i{item}" for item in range(20)]
    model = make()
    model.save_pretrained(tmp_path)
    hub.put("someone/sasrec", tmp_path)
    hub.tag("someone/sasrec", "v1")
    make(seed=1).save_pretrained(tmp_path)
    hub.put("someone/sasrec", tmp_path)
    assert model_type_of(tmp_path) == "sasrec"
    for loaded in (load_sasrec("someone/sasrec", ids, "v1"), load_sasrec("someone/sasrec@v1", ids)):
        assert (loaded.item_vectors == model.item_vectors).all()
    assert (load_sasrec("someone/sasrec", ids).item_vectors != model.item_vectors).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"encoder": "lstm"}, "got encoder='lstm'; use one of attention, gru"),
        ({"loss": "mse"}, "got loss='mse'"),
        ({"hidden_size": 9}, "got hidden_size=9, which is not divisible by num_attention_heads=2"),
        ({"items": 0}, "got items=0; give 1 or more"),
        ({"dropout": 1.0}, r"got dropout=1\.0"),
        ({"calibration": 2}, "calibration=2: dropout must"),
    ],
)
def test_shapes_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SasRecConfig(**settings)


def test_padding():
    assert pad_items([torch.tensor([1, 2]), torch.tensor([3])], 9).tolist() == [[1, 2], [3, 9]]
    assert pad_items([torch.empty(0, dtype=torch.long)], 9).tolist() == [[9]]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0]), min_size=7, max_size=7), min_size=1), st.data()
)
def test_the_first_of_many_are_those_of_a_whole_stable_sort(rows, data):
    scores, k = torch.tensor(rows), data.draw(st.integers(1, 7))
    columns, values = map(torch.from_numpy, top_items(scores.numpy(), k))
    whole = scores.sort(dim=1, descending=True, stable=True)
    assert (values == whole.values[:, :k]).all() and (columns == whole.indices[:, :k]).all()
