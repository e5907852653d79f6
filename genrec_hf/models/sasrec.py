"""SASRec and its kin: models of item sequences, the collaborative vectors of an LLM recommender and its baseline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from tqdm.auto import tqdm
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from genrec_hf.checks import check_choice, check_least
from genrec_hf.directories import as_directory
from genrec_hf.models.sequence_models import load_sequence_model
from genrec_hf.ranking import Histories, Ranking, Rows
from genrec_hf.user_filters import filter_scores, user_filters

ENCODERS = ("attention", "gru")
LOSSES = ("cross_entropy", "sampled_softmax", "bce", "gbce")
IGNORED = -100


class SasRecConfig(PreTrainedConfig):
    """What a `SasRec` is.

    Args:
        items (`int`): size of the catalogue; items are its rows, and `items` itself is padding.
        hidden_size (`int`, defaults to 64): width of item vectors and states.
        num_hidden_layers (`int`, defaults to 2): layers of the encoder.
        num_attention_heads (`int`, defaults to 2): heads of a layer.
        intermediate_size (`int`, defaults to 256): width of a layer's feed-forward part.
        dropout (`float`, defaults to 0.2): on embeddings, attention and layers.
        max_history (`int`, defaults to 50): items that it reads; the last ones of a longer history.
        encoder (`str`, defaults to `"attention"`): causal self-attention (SASRec), or `"gru"` (GRU4Rec).
        loss (`str`, defaults to `"cross_entropy"`): see `SasRec`.
        negatives (`int`, defaults to 256): drawn items of the losses that draw some.
        calibration (`float`, defaults to 0.75): `t` of `"gbce"`, from 0 (as `"bce"`) to 1.
        catalogue (`str`, *optional*): `catalogue_fingerprint` of the item ids, so that other items are noticed.
        dataset (`str`, *optional*): fingerprint of the data set that it is trained on, so that another split is.

    Raises:
        ValueError: on a name that is not known, or a number out of range.
    """

    model_type = "sasrec"

    def __init__(
        self,
        items: int = 1,
        *,
        hidden_size: int = 64,
        num_hidden_layers: int = 2,
        num_attention_heads: int = 2,
        intermediate_size: int = 256,
        dropout: float = 0.2,
        max_history: int = 50,
        encoder: str = "attention",
        loss: str = "cross_entropy",
        negatives: int = 256,
        calibration: float = 0.75,
        catalogue: str | None = None,
        dataset: str | None = None,
        **kwargs: Any,
    ) -> None:
        check_choice("encoder", encoder, ENCODERS)
        check_choice("loss", loss, LOSSES)
        if hidden_size % num_attention_heads:
            raise ValueError(f"got hidden_size={hidden_size}, which {num_attention_heads} heads do not share evenly")
        check_least(1, items=items, num_hidden_layers=num_hidden_layers, max_history=max_history, negatives=negatives)
        if not (0 <= dropout < 1 and 0 <= calibration <= 1):
            raise ValueError(f"got dropout={dropout}, calibration={calibration}; give shares from 0 to 1")
        self.items, self.hidden_size, self.num_hidden_layers = items, hidden_size, num_hidden_layers
        self.num_attention_heads, self.intermediate_size = num_attention_heads, intermediate_size
        self.dropout, self.max_history, self.encoder, self.loss = dropout, max_history, encoder, loss
        self.negatives, self.calibration, self.catalogue, self.dataset = negatives, calibration, catalogue, dataset
        super().__init__(**kwargs)


@dataclass
class SasRecOutput(ModelOutput):
    """`loss` (with labels, a mean over them) and `last_hidden_state` `[batch, length, hidden_size]`."""

    loss: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None


class SasRec(PreTrainedModel):
    """Scores the next item of a sequence by the product of its state and the item's vector.

    Self-attentive sequential recommendation (SASRec, arXiv:1808.09781), or with `encoder="gru"` its elder GRU4Rec
    (arXiv:1511.06939). What differs: the layers are torch's (GELU, norm first, no dropout inside the feed-forward
    part); positions count from the first item that is read; the default loss is the full cross-entropy over the
    catalogue, which trains better than the paper's binary one with one negative (arXiv:2309.07602).

    Losses, with the score `s_j` of item `j` in a state and its target `t`:

    - `"cross_entropy"`: `-s_t + log sum_j exp(s_j)`;
    - `"sampled_softmax"`: the sum over `negatives` uniformly drawn items that a batch shares, each counted
      `items / negatives` times, and the target;
    - `"bce"`: the mean over the target and `negatives` drawn others of the binary cross-entropy (SASRec: one);
    - `"gbce"`: the same with `sigmoid(s_t)` to the power `b = a (calibration (1 - 1 / a) + 1 / a)`,
      `a = negatives / (items - 1)` (gSASRec, arXiv:2308.07192, section 5).

    Args:
        config (`SasRecConfig`): its shape.
    """

    config_class = SasRecConfig
    base_model_prefix = "sasrec"
    main_input_name = "input_ids"

    def __init__(self, config: SasRecConfig) -> None:
        super().__init__(config)
        width, layers = config.hidden_size, config.num_hidden_layers
        self.item_embedding = nn.Embedding(config.items + 1, width, padding_idx=config.items)
        self.dropout = nn.Dropout(config.dropout)
        self.encoder: nn.Module
        if config.encoder == "gru":
            self.encoder = nn.GRU(width, width, layers, batch_first=True, dropout=config.dropout if layers > 1 else 0)
        else:
            self.position_embedding = nn.Embedding(config.max_history, width)
            layer = nn.TransformerEncoderLayer(
                width,
                config.num_attention_heads,
                config.intermediate_size,
                config.dropout,
                "gelu",
                batch_first=True,
                norm_first=True,
            )
            layer.dropout = nn.Dropout(0.0)  # as in RecBole; random numbers for the widest layer are slow to draw
            self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.post_init()

    @classmethod
    def from_pretrained(cls, directory_or_repo: str | Path, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """`PreTrainedModel.from_pretrained` of safetensors; with `use_safetensors=None`, of pickles as well."""
        return super().from_pretrained(directory_or_repo, *args, **{"use_safetensors": True} | kwargs)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            nn.init.zeros_(module.weight[module.padding_idx])
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def forward(
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> SasRecOutput:
        """States after every item of a history, and the loss of predicting the labels from them.

        Args:
            input_ids (`torch.Tensor`): `[batch, length]`, item rows, oldest first, at most `max_history` of them;
                shorter ones end in padding, the row `config.items`.
            labels (`torch.Tensor`, *optional*): `[batch, length]`, the item row that comes next; -100 for none.
            num_items_in_batch (`torch.Tensor` or `int`, *optional*): labels that the sum is divided by, where a step
                has several batches or processes; those of this batch unless given.
            kwargs: what trainers pass to any model; not read.
        """
        hidden = self.item_embedding(input_ids)
        length = input_ids.shape[1]
        if isinstance(self.encoder, nn.GRU):
            hidden = self.encoder(self.dropout(hidden))[0]
        else:
            hidden = hidden + self.position_embedding.weight[:length]
            mask = nn.Transformer.generate_square_subsequent_mask(length, hidden.device, hidden.dtype)
            # What is padded stands last, so that no item's state sees it.
            hidden = self.encoder(self.dropout(hidden), mask=mask, is_causal=True)
        hidden = self.norm(hidden)
        loss = None
        if labels is not None:
            known = labels != IGNORED
            summed = self._loss(hidden[known], labels[known])
            loss = summed / (known.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch)
        return SasRecOutput(loss=loss, last_hidden_state=hidden)

    def _loss(self, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The sum over `states [n, hidden_size]` and their `targets [n]`."""
        config, vectors = cast(SasRecConfig, self.config), self.item_embedding.weight
        if config.loss == "cross_entropy":
            return F.cross_entropy(states @ vectors[: config.items].T, targets, reduction="sum")
        wanted = (states * vectors[targets]).sum(dim=-1, keepdim=True)
        if config.loss == "sampled_softmax":
            drawn = torch.randint(config.items, (config.negatives,), device=targets.device)
            others = states @ vectors[drawn].T + float(np.log(config.items / config.negatives))
            others = others.masked_fill(drawn == targets[:, None], -torch.inf)
            return F.cross_entropy(torch.cat([wanted, others], dim=1), torch.zeros_like(targets), reduction="sum")
        drawn = torch.randint(max(1, config.items - 1), (len(targets), config.negatives), device=targets.device)
        drawn = drawn + (drawn >= targets[:, None])  # the target's place is left out
        others = torch.einsum("nd,nkd->nk", states, vectors[drawn])
        share = config.negatives / max(1, config.items - 1)
        calibration = config.calibration if config.loss == "gbce" else 0.0
        power = share * (calibration * (1 - 1 / share) + 1 / share)
        summed = -power * F.logsigmoid(wanted).sum() - F.logsigmoid(-others).sum()
        return summed / (1 + config.negatives)

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """`PreTrainedModel.save_pretrained`, which raises where nothing could be saved."""
        super().save_pretrained(as_directory(save_directory, "save_directory"), *args, **kwargs)

    @property
    def item_vectors(self) -> np.ndarray:
        """`[items, hidden_size]` float32, in row order."""
        return self.item_embedding.weight.detach()[: self.config.items].float().cpu().numpy()

    @torch.no_grad()
    def user_vectors(self, histories: Sequence[np.ndarray]) -> torch.Tensor:
        """`[users, hidden_size]`, the states after histories of item rows, oldest first; zeros after an empty one."""
        recent = [np.asarray(history)[-self.config.max_history :] for history in histories]
        ends = torch.tensor([len(history) for history in recent], device=self.device)
        batch = pad_items([torch.from_numpy(history.astype(np.int64)) for history in recent], self.config.items)
        hidden = self(batch.to(self.device)).last_hidden_state
        last = hidden[torch.arange(len(recent), device=self.device), (ends - 1).clamp(min=0)]
        return last * (ends > 0)[:, None]

    @torch.no_grad()
    def rank(
        self,
        histories: Histories | Sequence[Rows],
        k: int,
        *,
        filter_seen: bool = True,
        allow: Sequence[Rows | None] | None = None,
        deny: Sequence[Rows | None] | None = None,
        progress: bool = False,
        batch_size: int = 256,
    ) -> Ranking:
        """The best `k` items for each user, see `genrec_hf.ranking.Ranker`.

        Args:
            histories (`Histories` or `Sequence`): item rows, oldest first: everything before the target.
            k (`int`): ranks.
            filter_seen (`bool`, defaults to `True`): leave out the items of the history, also those not read.
            allow (`Sequence`, *optional*): for each user, the only item rows that may come out, or `None` for all.
            deny (`Sequence`, *optional*): for each user, item rows that may not come out.
            progress (`bool`, defaults to `False`): show a progress bar.
            batch_size (`int`, defaults to 256): users a batch; batches are formed by length.

        Returns:
            `Ranking`: `[users, k]`, equal scores by row.

        Raises:
            ValueError: on what is no item row, or filters for another number of users.
        """
        training = self.training
        self.eval()
        items = self.config.items
        histories = Histories.of(histories, items)
        denied, allowed = (
            user_filters(each, users=len(histories), items=items, name=name)
            for each, name in ((deny, "deny"), (allow, "allow"))
        )
        listed = np.full((len(histories), k), -1, dtype=np.int64)
        listed_scores = np.full((len(histories), k), -np.inf, dtype=np.float32)
        order = np.argsort(histories.lengths, kind="stable")
        for start in tqdm(range(0, len(order), batch_size), desc="SASRec", unit="batch", disable=not progress):
            users = order[start : start + batch_size]
            batch = histories.select(users)
            scores = (self.user_vectors(batch) @ self.item_embedding.weight[:items].T).float().cpu()
            filter_scores(
                scores.numpy(),
                batch,
                filter_seen=filter_seen,
                allow=[allowed[user] for user in users],
                deny=[denied[user] for user in users],
            )
            values, best = _first(scores, min(k, items))
            listed[users, : best.shape[1]] = best.masked_fill(values == -torch.inf, -1).numpy()
            listed_scores[users, : best.shape[1]] = values.numpy()
        self.train(training)
        return Ranking(listed, listed_scores)


def _first(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The best `k` scores of each row and their columns, equal ones by column, without sorting all of them."""
    columns = scores.topk(k, dim=1).indices.sort(dim=1).values
    values, order = scores.gather(1, columns).sort(dim=1, descending=True, stable=True)
    columns = columns.gather(1, order)
    # Where scores are equal at the end of a list, topk takes any of them.
    tied = (scores >= values[:, -1:]).sum(dim=1) > k
    if tied.any():
        whole = scores[tied].sort(dim=1, descending=True, stable=True)
        values[tied], columns[tied] = whole.values[:, :k], whole.indices[:, :k]
    return values, columns


def load_sasrec(
    directory_or_repo: str | Path,
    item_ids: Sequence[str],
    revision: str | None = None,
    *,
    dataset: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> SasRec:
    """A trained model for the items that are meant; see `load_sequence_model`."""
    return load_sequence_model(SasRec, directory_or_repo, item_ids, revision=revision, dataset=dataset, **kwargs)


def pad_items(sequences: Sequence[torch.Tensor], padding: int) -> torch.Tensor:
    """Sequences of item rows as `[batch, longest]`, what is shorter ending in `padding`; at least one column."""
    batch = nn.utils.rnn.pad_sequence(list(sequences), batch_first=True, padding_value=padding)
    return batch if batch.shape[1] else torch.full((len(sequences), 1), padding)
