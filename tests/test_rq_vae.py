"""The residual-quantized autoencoder: what it finds, what every setting does, and that runs repeat bit for bit."""

import json

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from genrec_hf.semantic_ids.isolation import isolated
from genrec_hf.semantic_ids.rq_vae import RqVae
from genrec_hf.semantic_ids.rq_vae_losses import (
    code_clusters,
    diversity_loss,
    info_nce,
    sample_partners,
    sinkhorn_codes,
)
from genrec_hf.semantic_ids.rq_vae_training import Behaviour, RqVaeModel, Trainer

RNG = np.random.default_rng(0)
COARSE, FINE = RNG.normal(size=(4, 8)) * 20, RNG.normal(size=(3, 8)) * 5
PLANTED = np.array([(a, b) for a in range(4) for b in range(3)] * 20)
POINTS = (COARSE[PLANTED[:, 0]] + FINE[PLANTED[:, 1]] + RNG.normal(size=(240, 8)) * 0.05).astype(np.float32)
CLOUD = RNG.normal(size=(400, 6)).astype(np.float32)
SMALL = {"hidden_sizes": (16,), "latent_size": 4, "batch_size": 64, "learning_rate": 5e-3, "epochs": 3}


def small(**settings):
    return RqVae(**{"level_sizes": (8, 8), **SMALL, **settings})


def trainer(points=CLOUD, behaviour=None, **settings):
    torch.manual_seed(0)
    return Trainer(small(**settings), points, behaviour or Behaviour())


def used(codes, level):
    return len(np.unique(codes[:, level]))


def test_planted_clusters_are_found_and_reconstructed():
    quantizer = RqVae((4, 3), **{**SMALL, "epochs": 60, "learning_rate": 0.02}).fit(POINTS, progress=False)
    codes = quantizer.encode(POINTS)
    assert codes.shape == (240, 2) and codes.dtype == np.int64 and (codes.max(axis=0) < (4, 3)).all()
    # Items of one planted cluster share their codes, and the clusters use most codes there are.
    assert len({(*planted, *code) for planted, code in zip(PLANTED.tolist(), codes.tolist(), strict=True)}) <= 14
    left = np.square(POINTS - quantizer.reconstruct(codes)).sum() / np.square(POINTS - POINTS.mean(axis=0)).sum()
    assert left < 0.05


def test_levels_have_their_own_sizes():
    quantizer = small(level_sizes=(16, 8, 4)).fit(CLOUD, progress=False)
    assert [book.shape for book in quantizer.codebooks] == [(16, 4), (8, 4), (4, 4)]
    assert (quantizer.encode(CLOUD).max(axis=0) < (16, 8, 4)).all()


def test_codes_are_the_nearest_rows_and_reconstruct_through_the_decoder():
    quantizer = small(epochs=2).fit(CLOUD, progress=False)
    codes, tensors = quantizer.encode(CLOUD), quantizer.tensors
    model = RqVaeModel(quantizer, 6, 400).eval()
    for part in ("encoder", "decoder"):
        layers = {n.removeprefix(f"{part}."): torch.from_numpy(v) for n, v in tensors.items() if n.startswith(part)}
        getattr(model, part).load_state_dict(layers)
    with torch.no_grad():
        left = model.encoder(torch.from_numpy(((CLOUD - tensors["mean"]) / tensors["scale"]).astype(np.float32)))
        total = torch.zeros(400, 4)
        for level, book in enumerate(map(torch.from_numpy, quantizer.codebooks)):
            distances, row = torch.cdist(left, book), torch.from_numpy(codes[:, level])
            torch.testing.assert_close(distances[torch.arange(400), row], distances.min(dim=1).values)
            left, total = left - book[row], total + book[row]
        expected = model.decoder(total).numpy() * tensors["scale"] + tensors["mean"]
    np.testing.assert_allclose(quantizer.reconstruct(codes), expected, atol=1e-5)


# Settings


@pytest.mark.parametrize("gradient", ["straight_through", "rotation"])
@pytest.mark.parametrize("ema", [True, False])
def test_every_part_is_trained(gradient, ema):
    run = trainer(gradient=gradient, ema=ema, reset=False, epochs=1)
    run.initialize_codebooks()
    before = run.model.arrays()
    run.train_epoch()
    after = run.model.arrays()
    assert all((before[name] != after[name]).any() for name in before)
    learnt = {name.split(".")[0] for name, each in run.model.named_parameters() if each.grad is not None}
    assert learnt == ({"encoder", "decoder"} if ema else {"encoder", "decoder", "levels"})


def test_the_straight_through_gradient_is_the_decoders_and_the_rotated_one_is_turned():
    latent = torch.tensor([[3.0, 0.0]], requires_grad=True)
    gradients = {}
    for gradient in ("straight_through", "rotation"):
        model = RqVaeModel(small(level_sizes=(2,), latent_size=2, gradient=gradient), 2, 64)
        model.levels[0]._codebook.embed.data.copy_(torch.tensor([[[0.0, 1.5], [0.0, -9.0]]]))
        model.levels[0]._codebook.initted.fill_(True)
        vectors = model.quantize(latent, frozen=True).vectors
        torch.testing.assert_close(vectors, torch.tensor([[0.0, 1.5]]))
        (gradients[gradient],) = torch.autograd.grad((vectors * torch.tensor([[0.0, 2.0]])).sum(), latent)
    # (3, 0) becomes (0, 1.5) by a quarter turn and a factor of a half: the gradient (0, 2) turns back to (1, 0).
    torch.testing.assert_close(gradients["straight_through"], torch.tensor([[0.0, 2.0]]))
    torch.testing.assert_close(gradients["rotation"], torch.tensor([[1.0, 0.0]]), atol=1e-5, rtol=0)


def test_commitment_and_codebook_losses_are_those_of_the_paper():
    model = RqVaeModel(small(level_sizes=(2, 2), latent_size=2, ema=False, kmeans_init=False), 2, 64)
    for level, rows in zip(model.levels, ([[4.0, 0.0], [-9.0, 0.0]], [[1.0, 1.0], [9.0, 9.0]]), strict=True):
        level._codebook.embed.data.copy_(torch.tensor([rows]))
    latent = torch.tensor([[5.0, 2.0]], requires_grad=True)
    quantized = model.quantize(latent)
    # Residuals (5, 2) and (1, 2); codes 0 and 0; left over (1, 2) and (0, 1).
    assert quantized.codes.tolist() == [[0, 0]]
    assert quantized.commitment.item() == quantized.codebook.item() == (1 + 4) + (0 + 1)
    (to_latent,) = torch.autograd.grad(quantized.commitment, latent)
    torch.testing.assert_close(to_latent, torch.tensor([[2.0 * (1 + 0), 2.0 * (2 + 1)]]))
    to_rows = torch.autograd.grad(quantized.codebook, [level._codebook.embed for level in model.levels])
    assert [rows[0, 0].tolist() for rows in to_rows] == [[-2.0, -4.0], [0.0, -2.0]]
    assert (
        quantized.codebook.requires_grad
        and not torch.autograd.grad(model.quantize(latent).codebook, latent, allow_unused=True)[0]
    )


def test_kmeans_init_starts_from_the_data():
    run = trainer(POINTS, level_sizes=(4,), validation_share=0, seed=1)
    run.initialize_codebooks()
    with torch.no_grad():
        latents, rows = run.model.encoder(run.inputs), run.model.levels[0].codebook
        spread = (latents - latents.mean(dim=0)).square().sum(dim=1).mean()
        assert torch.cdist(latents, rows).min(dim=1).values.square().mean() < 0.3 * spread
        # Every row is the mean of the latents nearest to it.
        nearest = torch.cdist(latents, rows).argmin(dim=1)
        means = torch.stack([latents[nearest == code].mean(dim=0) for code in range(4)])
    torch.testing.assert_close(rows, means, atol=1e-2, rtol=1e-2)
    assert not trainer(kmeans_init=False).model.levels[0].codebook.any(dim=1).logical_not().any()


def test_reset_revives_dead_codes():
    codes = {}
    for reset in (True, False):
        run = trainer(kmeans_init=False, reset=reset, ema_decay=0.8, level_sizes=(32,))
        # Far from everything: only a reset can bring these codes back.
        run.model.levels[0]._codebook.embed.data[:, 4:] += 1000
        run.model.levels[0]._codebook.embed_avg.data[:, 4:] += 1000
        for _ in range(3):
            figures = run.train_epoch()
        codes[reset] = figures["used_codes"][0]
    assert codes[False] <= 4 < 24 <= codes[True]


def test_sinkhorn_makes_the_use_of_a_level_even():
    lopsided = np.concatenate([CLOUD[:200] * 0.7, CLOUD[200:] + 1]).astype(np.float32)
    shares = {}
    for levels in ((), (-1,)):
        run = trainer(
            lopsided,
            level_sizes=(4, 8),
            sinkhorn_levels=levels,
            sinkhorn_iterations=100,
            validation_share=0,
            batch_size=400,
        )
        run.initialize_codebooks()
        run.model.train()
        codes = run.model.quantize(run.model.encoder(run.inputs), frozen=True).codes.numpy()
        shares[levels] = [np.bincount(codes[:, level]).max() / 400 for level in range(2)]
    assert shares[()][1] > 1.5 / 8 and shares[(-1,)][1] < 1.1 / 8
    # Only the level that was named, and only in training.
    assert shares[()][0] == shares[(-1,)][0]
    run.model.eval()
    with torch.no_grad():
        codes = run.model.quantize(run.model.encoder(run.inputs)).codes
    assert np.bincount(codes[:, 1].numpy()).max() / 400 > 1.5 / 8


def test_ema_moves_rows_to_the_mean_of_their_items():
    rows = {}
    for decay in (0.0, 0.5):
        model = RqVaeModel(small(level_sizes=(1,), latent_size=2, ema_decay=decay, reset=False), 2, 4)
        model.levels[0]._codebook.initted.fill_(True)
        model.levels[0]._codebook.embed_avg.fill_(0)
        model.quantize(torch.tensor([[1.0, 2.0], [3.0, 6.0]]))
        rows[decay] = model.levels[0].codebook
    torch.testing.assert_close(rows[0.0], torch.tensor([[2.0, 4.0]]))
    # Half of one item at 0 (where averages start), half of two items that sum to (4, 8).
    torch.testing.assert_close(rows[0.5], torch.tensor([[2.0, 4.0]]) / 1.5)


def test_early_stopping_keeps_the_best_epoch(monkeypatch):
    run = trainer(patience=2, epochs=50)
    errors, arrays = iter([5.0, 3.0, 4.0, 3.5, 1.0]), []

    def error():
        arrays.append(run.model.arrays())
        return next(errors)

    monkeypatch.setattr(run, "validation_error", error)
    best = run.run(progress=False)
    assert [epoch["validation"] for epoch in run.history] == [5.0, 3.0, 4.0, 3.5]
    for name, value in best.items():
        np.testing.assert_array_equal(value, arrays[1][name])
    assert any((best[name] != arrays[3][name]).any() for name in best)


def test_history_tells_errors_and_codes_and_nothing_held_out_keeps_the_last():
    quantizer = small(epochs=20, validation_share=0.2).fit(CLOUD, progress=False)
    assert [epoch["epoch"] for epoch in quantizer.history] == list(range(20))
    assert quantizer.history[-1]["train"] < quantizer.history[0]["train"]
    assert all(1 <= count <= 8 for epoch in quantizer.history for count in epoch["used_codes"])
    json.dumps(quantizer.history)
    whole = small(validation_share=0)
    whole.fit(CLOUD, progress=False)
    assert [epoch["validation"] for epoch in whole.history] == [None] * 3


def test_the_validation_error_is_that_of_encode_and_reconstruct():
    with isolated(0):
        run = trainer(validation_share=0.25)
        tensors = run.run(progress=False)
    quantizer = small()
    quantizer.tensors, quantizer.embedding_size = tensors | {"mean": np.zeros(6), "scale": np.ones(1)}, 6
    held_out = run.validation.numpy()
    expected = np.square(quantizer.reconstruct(quantizer.encode(held_out)) - held_out).mean()
    assert min(epoch["validation"] for epoch in run.history) == pytest.approx(expected, rel=1e-4)


# Behaviour


def test_info_nce_by_hand():
    anchors, positives = torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([[5.0, 0.0], [1.0, 1.0]])
    # Cosines: [1, 1/sqrt 2] and [0, 1/sqrt 2], over a temperature of one half.
    cos = 2 / np.sqrt(2)
    first, second = -np.log(np.exp(2) / (np.exp(2) + np.exp(cos))), -np.log(np.exp(cos) / (1 + np.exp(cos)))
    assert info_nce(anchors, positives, 0.5).item() == pytest.approx((first + second) / 2, rel=1e-5)
    excluded = torch.tensor([[True, True], [False, False]])
    assert info_nce(anchors, positives, 0.5, excluded=excluded).item() == pytest.approx((0 + second) / 2, rel=1e-5)


def test_diversity_by_hand():
    codebook = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0], [-1.0, 0.0]])
    clusters = torch.tensor([0, 1, 0, 2])
    # Code 0 has one mate, code 2; its cosines to 1, 2, 3 are 0, 1/sqrt 2, -1. Code 3 is alone: left out.
    near = np.exp(1 / np.sqrt(2))
    loss = diversity_loss(codebook, torch.tensor([0, 3]), clusters, temperature=1.0)
    assert loss.item() == pytest.approx(-np.log(near / (1 + near + np.exp(-1))), rel=1e-5)
    assert diversity_loss(codebook, torch.tensor([3]), clusters, temperature=1.0).item() == 0
    groups = code_clusters(POINTS[:120], 4, seed=0)
    assert np.bincount(groups).tolist() == [30] * 4


def test_sinkhorn_shares_items_out():
    # Three of four items are nearest to code 0, and the cheapest way to even up sends item 2 to code 1.
    distances = torch.tensor([[0.0, 9.0], [1.0, 9.0], [2.0, 3.0], [9.0, 0.0]])
    assert distances.argmin(dim=1).tolist() == [0, 0, 0, 1]
    assert sinkhorn_codes(distances, epsilon=0.05, iterations=100).tolist() == [0, 0, 1, 1]
    assert sinkhorn_codes(torch.zeros(3, 2), 0.003, 50).shape == (3,)
    many = torch.cdist(torch.from_numpy(CLOUD), torch.from_numpy(CLOUD[:8] + 0.5)).square()
    counts = np.bincount(sinkhorn_codes(many, epsilon=0.01, iterations=500), minlength=8)
    assert counts.min() > 40 and counts.max() < 60 and np.bincount(many.argmin(dim=1)).max() > 75


def test_partners_are_drawn_by_their_counts():
    counts = csr_matrix(np.array([[0, 3, 1], [3, 0, 0], [1, 0, 0], [0, 0, 0]])[:, :3])
    has, partners = sample_partners(counts, np.array([3] + [0] * 4000 + [1]), np.random.default_rng(0))
    assert 0 not in has and len(has) == 4001 and partners[-1] == 0
    assert np.bincount(partners[:-1])[0] == 0
    assert np.mean(partners[:-1] == 1) == pytest.approx(3 / 4, abs=0.03)


# Four groups of items, chosen together; little of an embedding tells them apart, and the codes follow the rest.
GROUPS = np.arange(400) % 4
FAINT = np.concatenate([CLOUD, np.eye(4)[GROUPS] * 0.7], axis=1).astype(np.float32)
TOGETHER = csr_matrix(GROUPS[:, None] == GROUPS)


def purity(codes):
    """Share of items that are of the commonest group of their first code."""
    return sum(np.bincount(GROUPS[codes[:, 0] == code]).max() for code in np.unique(codes[:, 0])) / len(codes)


FOLLOW = {"level_sizes": (8,), "hidden_sizes": (32,), "epochs": 40}


def test_the_contrastive_loss_gives_items_chosen_together_codes_in_common():
    text = small(**FOLLOW).fit(FAINT, progress=False).encode(FAINT)
    quantizer = small(**FOLLOW, contrastive_weight=100.0).fit(FAINT, progress=False, cooccurrence=TOGETHER)
    assert purity(text) < 0.4 < 0.45 < purity(quantizer.encode(FAINT))


@pytest.mark.parametrize("width", [4, 6], ids=["as wide as the latent", "through a map"])
def test_alignment_gives_items_of_like_collaborative_vectors_codes_in_common(width):
    collaborative = np.eye(width)[GROUPS]
    collaborative[:4] = 0
    quantizer = small(**FOLLOW, alignment_weight=10.0).fit(FAINT, progress=False, collaborative=collaborative)
    assert purity(quantizer.encode(FAINT)) > 0.6
    assert not [name for name in quantizer.tensors if "alignment" in name]


def test_the_diversity_loss_reaches_the_codebooks():
    plain = small(ema=False).fit(CLOUD, progress=False)
    diverse = small(ema=False, diversity_weight=1.0, diversity_clusters=2).fit(CLOUD, progress=False)
    assert all((one != other).any() for one, other in zip(plain.codebooks, diverse.codebooks, strict=True))
    run = trainer(ema=False, diversity_weight=1.0, diversity_clusters=2)
    run.initialize_codebooks()
    loss = run.diversity(torch.zeros(4, 2, dtype=torch.long), run._cluster_codes())
    gradients = torch.autograd.grad(loss, [level._codebook.embed for level in run.model.levels])
    assert all(gradient.any() for gradient in gradients)


def test_behaviour_without_weight_and_weight_without_behaviour_raise():
    with pytest.raises(ValueError, match=r"contrastive_weight=1.0 without cooccurrence: pass fit"):
        small(contrastive_weight=1.0).fit(CLOUD)
    with pytest.raises(ValueError, match=r"alignment_weight=0.5 without collaborative"):
        small(alignment_weight=0.5).fit(CLOUD)
    with pytest.raises(ValueError, match=r"got cooccurrence with contrastive_weight=0, which leaves it unused"):
        small().fit(CLOUD, cooccurrence=TOGETHER)
    with pytest.raises(ValueError, match=r"got collaborative with alignment_weight=0"):
        small().fit(CLOUD, collaborative=CLOUD)
    contrastive, aligned = small(contrastive_weight=1.0), small(alignment_weight=1.0)
    with pytest.raises(ValueError, match=r"got cooccurrence of shape \[3, 3\] for 400 items"):
        contrastive.fit(CLOUD, cooccurrence=csr_matrix(np.ones((3, 3))))
    with pytest.raises(ValueError, match="without any pair of items"):
        contrastive.fit(CLOUD, cooccurrence=csr_matrix(np.eye(400)))
    with pytest.raises(ValueError, match="values below 0, NaN or infinite"):
        contrastive.fit(CLOUD, cooccurrence=TOGETHER * -1.0)
    with pytest.raises(ValueError, match="got 7 collaborative vectors for 400 items"):
        aligned.fit(CLOUD, collaborative=CLOUD[:7])


# Repeatability


@pytest.mark.parametrize(
    "settings",
    [{}, {"ema": False, "gradient": "rotation", "diversity_weight": 0.1}, {"sinkhorn_levels": (-1,)}],
    ids=["defaults", "learnt codebooks", "sinkhorn"],
)
def test_a_seed_gives_the_same_bits_on_one_thread_and_two(settings):
    threads, wide = torch.get_num_threads(), np.tile(CLOUD, (1, 40))
    try:
        fitted = []
        for count in (1, 2):
            torch.set_num_threads(count)
            fitted.append(small(hidden_sizes=(128,), batch_size=400, **settings).fit(wide, progress=False))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    assert fitted[0].history == fitted[1].history
    for name, value in fitted[0].tensors.items():
        np.testing.assert_array_equal(value, fitted[1].tensors[name])
    np.testing.assert_array_equal(fitted[0].encode(wide), fitted[1].encode(wide))


def test_another_seed_gives_other_codes():
    codes = [small(seed=seed).fit(CLOUD, progress=False).encode(CLOUD) for seed in (0, 1)]
    assert (codes[0] != codes[1]).any()


def test_random_states_are_left_alone():
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    small(contrastive_weight=1.0, ema=False, diversity_weight=1.0).fit(CLOUD, progress=False, cooccurrence=TOGETHER)
    drawn = torch.rand(4), np.random.random(4)  # noqa: NPY002
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    torch.testing.assert_close(drawn[0], torch.rand(4), atol=0, rtol=0)
    np.testing.assert_array_equal(drawn[1], np.random.random(4))  # noqa: NPY002
    with pytest.raises(RuntimeError, match="stop"), isolated(7):
        torch.rand(4)
        raise RuntimeError("stop")


def test_files_encode_the_same(tmp_path):
    quantizer = small(level_sizes=(8, 4), sinkhorn_levels=(1,), seed=2).fit(CLOUD, progress=False)
    quantizer.save_pretrained(tmp_path)
    loaded = RqVae.from_pretrained(tmp_path)
    assert loaded == quantizer and loaded.settings == quantizer.settings
    codes = quantizer.encode(CLOUD)
    np.testing.assert_array_equal(codes, loaded.encode(CLOUD))
    np.testing.assert_array_equal(quantizer.reconstruct(codes), loaded.reconstruct(codes))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["quantizer.json", "quantizer.safetensors"]


def test_an_item_has_the_same_codes_alone_and_among_others():
    quantizer = small(epochs=2).fit(CLOUD, progress=False)
    codes = quantizer.encode(CLOUD)
    for item in (0, 7, 399):
        np.testing.assert_array_equal(quantizer.encode(CLOUD[item : item + 1])[0], codes[item])
    many = np.tile(CLOUD, (11, 1))
    assert len(many) > 4096
    np.testing.assert_array_equal(quantizer.encode(many), np.tile(codes, (11, 1)))
    assert quantizer.reconstruct(np.tile(codes, (11, 1))).shape == (4400, 6)


# Bad input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latent_size": 0}, "got latent_size=0; give 1 or more"),
        ({"epochs": 0}, "got epochs=0"),
        ({"hidden_sizes": (8, 0)}, r"got hidden_sizes=\(8, 0\)"),
        ({"learning_rate": 0.0}, "got learning_rate=0.0: it must be above 0"),
        ({"commitment_weight": -1.0}, "got commitment_weight=-1.0: it must be at least 0"),
        ({"alignment_weight": float("nan")}, "got alignment_weight=nan"),
        ({"ema_decay": 1.0}, "got ema_decay=1.0: it must be at least 0 and below 1"),
        ({"validation_share": 1.0}, "got validation_share=1.0"),
        ({"gradient": "gumbel"}, "got gradient='gumbel'; use one of straight_through, rotation"),
        ({"sinkhorn_levels": (2,)}, r"got sinkhorn_levels=\(2,\) for 2 levels: they must be from 0 to 1"),
        ({"diversity_weight": 1.0}, "got diversity_weight=1.0 with ema=True"),
        ({"diversity_clusters": 1}, "got diversity_clusters=1; give 2 or more"),
        ({"level_sizes": ()}, "every level needs at least one code"),
    ],
)
def test_bad_settings_say_what_to_do(settings, message):
    with pytest.raises(ValueError, match=message):
        small(**settings)


def test_embeddings_that_cannot_be_quantized_raise():
    broken = CLOUD.copy()
    broken[3, 0] = np.nan
    with pytest.raises(ValueError, match="item row 3 is NaN"):
        small().fit(broken)
    with pytest.raises(ValueError, match="1 distinct embeddings"):
        small().fit(np.ones((50, 4)))
    with pytest.raises(ValueError, match="1 distinct embeddings"):
        small(level_sizes=(1,)).fit(CLOUD[:1])
    with pytest.raises(ValueError, match="7 distinct embeddings for a level of 8 codes"):
        small().fit(np.repeat(CLOUD[:7], 9, axis=0))
    with pytest.raises(ValueError, match="8 distinct embeddings to train on for a level of 9 codes, after 1 items"):
        small(level_sizes=(9,), validation_share=0.1).fit(CLOUD[:9])
    small(level_sizes=(9,), validation_share=0).fit(CLOUD[:9], progress=False)
    with pytest.raises(ValueError, match="is used before fit"):
        small().encode(CLOUD)
    with pytest.raises(ValueError, match="5 wide, the quantizer was fitted on 6"):
        small().fit(CLOUD, progress=False).encode(CLOUD[:, :5])


@pytest.mark.parametrize(("items", "batch"), [(40, 40), (300, 64), (2000, 200), (20_000, 1024)])
def test_small_catalogues_are_read_in_small_batches(items, batch):
    inputs = np.random.default_rng(0).normal(size=(items, 4)).astype(np.float32)
    with isolated(0):
        trainer = Trainer(RqVae(level_sizes=(8,), validation_share=0), inputs, Behaviour())
    assert trainer.batch == batch
