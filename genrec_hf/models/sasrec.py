"""SASRec and GRU4Rec: sequential recommenders on item ids, a baseline and the source of collaborative vectors."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from genrec_hf.checks import check_choice, check_least
from genrec_hf.directories import as_directory
from genrec_hf.internals.torch import linear_cross_entropy
from genrec_hf.item_scores import ItemScorer
from genrec_hf.models.sequence_models import load_sequence_model
from genrec_hf.ranking import Histories

ENCODERS = ("attention", "gru")
LOSSES = ("cross_entropy", "sampled_softmax", "bce", "gbce")
IGNORED = -100
NEGATIVES_SHARED_BY = 64


class SasRecConfig(PreTrainedConfig):
    """Configuration of a `SasRec`.

    Args:
        items (`int`, defaults to 1): number of items in the catalogue; the id of an item is its row, and the id
            `items` is padding.
        hidden_size (`int`, defaults to 64): dimension of item vectors and hidden states.
        num_hidden_layers (`int`, defaults to 2): number of layers of the encoder.
        num_attention_heads (`int`, defaults to 2): number of attention heads of a layer.
        intermediate_size (`int`, defaults to 256): dimension of a layer's feed-forward part.
        dropout (`float`, defaults to 0.2): dropout probability in `[0, 1)`, on embeddings, attention and layers.
        max_history (`int`, defaults to 50): maximum number of most recent items that the model reads.
        encoder (`str`, defaults to `"attention"`): causal self-attention (SASRec), or `"gru"` (GRU4Rec).
        loss (`str`, defaults to `"cross_entropy"`): see `SasRec`.
        negatives (`int`, defaults to 256): number of sampled items of the losses with sampling.
        calibration (`float`, defaults to 0.75): `t` of `"gbce"`, from 0 (as `"bce"`) to 1.
        catalogue (`str`, *optional*): `catalogue_fingerprint` of the item ids, checked when the model is loaded.
        dataset (`str`, *optional*): fingerprint of the training data set, checked when the model is loaded.
        kwargs: keyword arguments of `PreTrainedConfig`.

    Raises:
        ValueError: `encoder` or `loss` is unknown, or a number is out of range.
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
            raise ValueError(
                f"got hidden_size={hidden_size}, which is not divisible by num_attention_heads={num_attention_heads}"
            )
        check_least(1, items=items, num_hidden_layers=num_hidden_layers, max_history=max_history, negatives=negatives)
        if not (0 <= dropout < 1 and 0 <= calibration <= 1):
            raise ValueError(
                f"got dropout={dropout}, calibration={calibration}: dropout must be from 0 to below 1, calibration "
                "from 0 to 1"
            )
        self.items, self.hidden_size, self.num_hidden_layers = items, hidden_size, num_hidden_layers
        self.num_attention_heads, self.intermediate_size = num_attention_heads, intermediate_size
        self.dropout, self.max_history, self.encoder, self.loss = dropout, max_history, encoder, loss
        self.negatives, self.calibration, self.catalogue, self.dataset = negatives, calibration, catalogue, dataset
        super().__init__(**kwargs)


@dataclass
class SasRecOutput(ModelOutput):
    """Output of `SasRec`.

    Args:
        loss (`torch.Tensor`, *optional*): a scalar, the mean over the labels; `None` without labels.
        last_hidden_state (`torch.Tensor`): `[batch, length, hidden_size]`.
    """

    loss: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None


class SasRec(ItemScorer, PreTrainedModel):
    """Sequential recommender that scores items by the dot product of a sequence's hidden state and the item's vector.

    It is SASRec (self-attentive sequential recommendation, arXiv:1808.09781), or GRU4Rec (arXiv:1511.06939) with
    `encoder="gru"`. What differs from SASRec: the layers are those of torch (GELU, norm first), their residual
    branches start at zero, positions count from the end of the sequence, as with the paper's padding on the left, and
    the default loss is the full cross-entropy over the catalogue, which trains better than the paper's binary
    cross-entropy with one negative (arXiv:2309.07602).

    Losses, with the score `s_j` of item `j` and the target `t`:

    - `"cross_entropy"`: `-s_t + log sum_j exp(s_j)`;
    - `"sampled_softmax"`: the same with the sum over the target, with weight 1, and over `negatives` uniformly sampled
      items, with weight `items / negatives`; `NEGATIVES_SHARED_BY` states of a batch share them. Shared by the whole
      batch, an item would be sampled in few steps, and Adam would learn twice as slowly;
    - `"bce"`: the binary cross-entropy, as the mean over the target and `negatives` sampled other items (SASRec: one);
    - `"gbce"`: the same with `sigmoid(s_t)` to the power `b = a (calibration (1 - 1 / a) + 1 / a)`,
      `a = negatives / (items - 1)` (gSASRec, arXiv:2308.07192, section 5).

    Args:
        config (`SasRecConfig`): configuration of the model.
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
            layer.dropout1 = nn.Dropout(0.0)  # attention weights are dropped out, their sums are not
            # Residual branches of ordinary size are larger than the item vectors that they are added to, and training
            # takes twice as many epochs.
            for last in (layer.self_attn.out_proj, layer.linear2):
                nn.init.zeros_(last.weight)
                nn.init.zeros_(last.bias)
            self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.post_init()

    @classmethod
    def from_pretrained(cls, directory_or_repo: str | Path, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Load a checkpoint in safetensors, see `PreTrainedModel.from_pretrained`.

        Args:
            directory_or_repo (`str` or `Path`): folder or Hub id.
            *args: arguments of `PreTrainedModel.from_pretrained`.
            **kwargs: keyword arguments of `PreTrainedModel.from_pretrained`; with `use_safetensors=None`, pickles are
                read as well.

        Returns:
            `SasRec`: the model; with `output_loading_info=True`, a tuple of the model and the report.
        """
        return super().from_pretrained(directory_or_repo, *args, **{"use_safetensors": True} | kwargs)

    def _init_weights(self, module: nn.Module) -> None:
        """Initialize the embeddings by Xavier's rule; the layers keep the initialization of torch."""
        if isinstance(module, nn.Embedding):
            nn.init.xavier_normal_(module.weight)
            if module.padding_idx is not None:
                nn.init.zeros_(module.weight[module.padding_idx])

    def forward(
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> SasRecOutput:
        """Compute the hidden state after every item of a history, and the loss of the labels.

        Args:
            input_ids (`torch.Tensor`): `[batch, length]`, item rows, oldest first, at most `max_history`; shorter
                histories end in padding, the id `config.items`.
            labels (`torch.Tensor`, *optional*): `[batch, length]`, row of the next item; `-100` for none.
            num_items_in_batch (`torch.Tensor` or `int`, *optional*): number of labels that the summed loss is divided
                by, for steps of several batches or processes; the labels of this batch when not given.
            kwargs: other arguments of trainers, which are ignored.

        Returns:
            `SasRecOutput`: loss and last hidden states.
        """
        lengths = (input_ids != cast(SasRecConfig, self.config).items).sum(dim=1)
        weight = self.item_embedding.weight
        hidden = torch.zeros(*input_ids.shape, weight.shape[1], dtype=weight.dtype, device=weight.device)
        # Most histories are short: each group is read at the length of its longest, not of the longest of the batch.
        for rows in _length_groups(lengths):
            longest = max(1, int(lengths[rows].max()))
            hidden[rows, :longest] = self._encode(input_ids[rows, :longest], lengths[rows])
        loss = None
        if labels is not None:
            known = labels != IGNORED
            summed = self._loss(hidden[known], labels[known])
            loss = summed / (known.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch)
        return SasRecOutput(loss=loss, last_hidden_state=hidden)

    def _encode(self, input_ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Return the states `[rows, length, hidden_size]` of histories that end in padding."""
        hidden = self.item_embedding(input_ids) * self.item_embedding.embedding_dim**0.5
        if isinstance(self.encoder, nn.GRU):
            return self.norm(self.encoder(self.dropout(hidden))[0])
        length = input_ids.shape[1]
        from_end = (lengths[:, None] - 1 - torch.arange(length, device=lengths.device)).clamp(min=0)
        hidden = hidden + self.position_embedding(from_end)
        mask = nn.Transformer.generate_square_subsequent_mask(length, hidden.device, hidden.dtype)
        # Padding is last, so that causal attention hides it from the state of every item.
        return self.norm(self.encoder(self.dropout(hidden), mask=mask, is_causal=True))

    def _loss(self, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the loss summed over `states [n, hidden_size]` and their `targets [n]`."""
        config, vectors = cast(SasRecConfig, self.config), self.item_embedding.weight
        if config.loss == "cross_entropy":
            return linear_cross_entropy(states, vectors[: config.items], targets)
        target_scores = (states * vectors[targets]).sum(dim=-1, keepdim=True)
        if config.loss == "sampled_softmax":
            return self._sampled_softmax(states, targets, target_scores)
        sampled = torch.randint(max(1, config.items - 1), (len(targets), config.negatives), device=targets.device)
        sampled = sampled + (sampled >= targets[:, None])  # skip the target's row
        scores = torch.einsum("nd,nkd->nk", states, vectors[sampled])
        rate = config.negatives / max(1, config.items - 1)
        calibration = config.calibration if config.loss == "gbce" else 0.0
        power = rate * (calibration * (1 - 1 / rate) + 1 / rate)
        summed = -power * F.logsigmoid(target_scores).sum() - F.logsigmoid(-scores).sum()
        return summed / (1 + config.negatives)

    def _sampled_softmax(
        self, states: torch.Tensor, targets: torch.Tensor, target_scores: torch.Tensor
    ) -> torch.Tensor:
        """Return the summed loss of states, each group of which shares its sampled items."""
        config = cast(SasRecConfig, self.config)
        size = max(1, min(NEGATIVES_SHARED_BY, len(states)))
        groups = -(-len(states) // size)
        padding = groups * size - len(states)
        sampled = torch.randint(config.items, (groups, config.negatives), device=targets.device)
        negatives = self.item_embedding(sampled)
        grouped = F.pad(states, (0, 0, 0, padding)).view(groups, size, states.shape[1])
        scores = grouped @ negatives.transpose(1, 2) + math.log(config.items / config.negatives)
        known = F.pad(targets, (0, padding)).view(groups, size, 1)
        scores = scores.masked_fill(sampled[:, None] == known, -torch.inf).flatten(0, 1)[: len(states)]
        logits = torch.cat([target_scores, scores], dim=1)
        return F.cross_entropy(logits, torch.zeros_like(targets), reduction="sum")

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Save a checkpoint, see `PreTrainedModel.save_pretrained`.

        Args:
            save_directory (`str` or `Path`): folder to write.
            *args: arguments of `PreTrainedModel.save_pretrained`.
            **kwargs: keyword arguments of `PreTrainedModel.save_pretrained`.

        Raises:
            ValueError: `save_directory` is empty or a file.
        """
        super().save_pretrained(as_directory(save_directory, "save_directory"), *args, **kwargs)

    @property
    def item_vectors(self) -> np.ndarray:
        """Item vectors `[items, hidden_size]`, float32, in row order."""
        return self.item_embedding.weight.detach()[: self.config.items].float().cpu().numpy()

    @torch.no_grad()
    def user_vectors(self, histories: Sequence[np.ndarray]) -> torch.Tensor:
        """Compute the hidden states after the last items of histories.

        Args:
            histories (`Sequence[np.ndarray]`): `[users]`, item rows, oldest first; the last `max_history` are read.

        Returns:
            `torch.Tensor`: `[users, hidden_size]`; zeros for an empty history.
        """
        recent = [np.asarray(history)[-self.config.max_history :] for history in histories]
        ends = torch.tensor([len(history) for history in recent], device=self.device)
        batch = pad_items([torch.from_numpy(history.astype(np.int64)) for history in recent], self.config.items)
        hidden = self(batch.to(self.device)).last_hidden_state
        last = hidden[torch.arange(len(recent), device=self.device), (ends - 1).clamp(min=0)]
        return last * (ends > 0)[:, None]

    @property
    def num_items(self) -> int:
        """Size of the catalogue."""
        return cast(SasRecConfig, self.config).items

    @torch.no_grad()
    def score_batch(self, histories: Histories) -> np.ndarray:
        """Return the logits `[users, num_items]` of the next item, 0 for all after an empty history, without dropout.

        See `ItemScorer.score_batch`.

        Args:
            histories (`Histories`): item rows of each user, oldest first; the last `max_history` are read.

        Returns:
            `np.ndarray`: `[users, num_items]`, float32.
        """
        training = self.training
        self.eval()
        scores = self.user_vectors(histories) @ self.item_embedding.weight[: self.num_items].T
        self.train(training)
        return scores.float().cpu().numpy()


def _length_groups(lengths: torch.Tensor) -> list[torch.Tensor]:
    """Return rows `[n]` of histories of similar length, each group within a factor of two."""
    exponents = torch.log2(lengths.clamp(min=1).float()).ceil().long()
    return [torch.nonzero(exponents == exponent).squeeze(1) for exponent in exponents.unique()]


def load_sasrec(
    directory_or_repo: str | Path,
    item_ids: Sequence[str],
    revision: str | None = None,
    *,
    dataset: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> SasRec:
    """Load a trained `SasRec` in evaluation mode, and check its items and data, see `load_sequence_model`.

    Args:
        directory_or_repo (`str` or `Path`): output directory of `train_sasrec.py`, or a Hub repository of one.
        item_ids (`Sequence[str]`): item ids in row order, such as `InteractionData.item_ids`.
        revision (`str`, *optional*): branch, tag or commit of the Hub repository.
        dataset (`Mapping[str, Any]`, *optional*): `InteractionData.info` of the data that the model must be trained
            on.
        kwargs: keyword arguments of `from_pretrained`.

    Returns:
        `SasRec`: the model.

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: it was trained on other items or data, or its files are broken.
    """
    return load_sequence_model(SasRec, directory_or_repo, item_ids, revision=revision, dataset=dataset, **kwargs)


def pad_items(sequences: Sequence[torch.Tensor], padding: int) -> torch.Tensor:
    """Pad sequences of item rows at the end.

    Args:
        sequences (`Sequence[torch.Tensor]`): `[batch]`, item rows.
        padding (`int`): the id to pad with.

    Returns:
        `torch.Tensor`: `[batch, longest]`, with at least one column.
    """
    batch = nn.utils.rnn.pad_sequence(list(sequences), batch_first=True, padding_value=padding)
    return batch if batch.shape[1] else torch.full((len(sequences), 1), padding)
