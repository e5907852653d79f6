"""`LlaraForCausalLM`: a causal language model that also reads items as projected collaborative vectors."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.generation import GenerationMixin

from genrec_hf.data.dataset import catalogue_fingerprint
from genrec_hf.directories import as_directory
from genrec_hf.internals.transformers import attention_of, mark_initialized
from genrec_hf.models.collaborative import check_vectors, vectors_fingerprint
from genrec_hf.repositories import as_loaded, find_folder

# Vectors and settings, beside the adapter that holds the projector.
VECTORS_FILE = "collaborative.safetensors"
_SETTINGS = ("first_vector", "projector_size", "vector_dropout", "catalogue", "vectors")


class LlaraConfig(PreTrainedConfig):
    """What a `LlaraForCausalLM` is.

    Args:
        text_config (`PreTrainedConfig` or `dict`, *optional*): of the language model.
        items (`int`, defaults to 1): size of the catalogue.
        vector_size (`int`, defaults to 64): width of a collaborative vector.
        projector_size (`int`, *optional*): width between the two layers of the projector; the language model's own.
        first_vector (`int`, *optional*): id that stands for the vector of item 0; `first_vector + item` for another.
        vector_dropout (`float`, defaults to 0.05): share of the vectors that training replaces by the learned fallback
            of items without one; with 0 it is learnt only where such items are trained on.
        catalogue (`str`, *optional*): `catalogue_fingerprint` of the item ids.
        vectors (`str`, *optional*): `vectors_fingerprint` of the matrix.
    """

    model_type = "llara"
    sub_configs: ClassVar = {"text_config": AutoConfig}

    def __init__(
        self,
        text_config: Any = None,
        items: int = 1,
        vector_size: int = 64,
        projector_size: int | None = None,
        first_vector: int | None = None,
        vector_dropout: float = 0.05,
        catalogue: str | None = None,
        vectors: str | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(text_config, dict):
            text_config = CONFIG_MAPPING[text_config["model_type"]](**text_config)
        self.text_config = CONFIG_MAPPING["llama"]() if text_config is None else text_config
        if not 0 <= vector_dropout < 1:
            raise ValueError(f"got vector_dropout={vector_dropout}; give a share from 0 to below 1")
        if projector_size is not None and projector_size < 1:
            raise ValueError(f"got projector_size={projector_size}; give 1 or more")
        self.items, self.vector_size = items, vector_size
        self.projector_size = projector_size or self.text_config.hidden_size
        self.first_vector = self.text_config.vocab_size if first_vector is None else first_vector
        self.vector_dropout = vector_dropout
        self.catalogue, self.vectors = catalogue, vectors
        kwargs["tie_word_embeddings"] = self.text_config.tie_word_embeddings
        # Of both: a composite config would take the language model's away.
        kwargs.setdefault("attn_implementation", attention_of(self.text_config))
        super().__init__(**kwargs)


class Projector(nn.Module):
    """Collaborative vectors in, embeddings of the language model out: `Linear-GELU-Linear`, and the fallback.

    The fallback is a learned collaborative vector, for items that have none.
    """

    def __init__(self, vector_size: int, projector_size: int, hidden_size: int) -> None:
        super().__init__()
        self.fallback = nn.Parameter(torch.zeros(vector_size))
        self.layers = nn.Sequential(
            nn.Linear(vector_size, projector_size), nn.GELU(), nn.Linear(projector_size, hidden_size)
        )

    def forward(self, vectors: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """`[n, hidden_size]` of `vectors [n, vector_size]`, the fallback where not `known [n]`."""
        return self.layers(torch.where(known[:, None], vectors, self.fallback))


class LlaraForCausalLM(PreTrainedModel, GenerationMixin):
    """A causal language model whose sequences may hold collaborative vectors of items (LLaRA, arXiv:2312.02445).

    The id `config.first_vector + item`, above every token, is the place of an item's vector: projected, it stands in
    its `inputs_embeds`. Masks, padding, collation, packing and `generate` stay those of ordinary token ids, and every
    place names its own item. It works with any causal language model, and `get_peft_model` goes around it.

    What differs from LLaRA: the projector's widths, SID tokens beside the vectors, a learned fallback for items that
    have none, and vectors scaled to a mean square of 1 before the projector, whose first output has the spread of the
    token embeddings.

    Args:
        config (`LlaraConfig`): its shape.
        language_model (`PreTrainedModel`, *optional*): made from `config.text_config` unless given.
    """

    config_class = LlaraConfig
    base_model_prefix = "llara"
    main_input_name = "input_ids"
    vectors: torch.Tensor
    known: torch.Tensor
    supports_gradient_checkpointing = True
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = True
    _tied_weights_keys = {}  # noqa: RUF012  # those of the language model; PEFT asks for a dict

    def __init__(self, config: LlaraConfig, language_model: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        if language_model is None:
            language_model = AutoModelForCausalLM.from_config(config.text_config)
        else:
            mark_initialized(language_model)
        self.language_model = language_model
        self.projector = Projector(config.vector_size, config.projector_size, config.text_config.hidden_size)
        self.register_buffer("vectors", torch.zeros(config.items, config.vector_size))
        self.register_buffer("known", torch.zeros(config.items, dtype=torch.bool))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            nn.init.zeros_(module.bias)
        elif isinstance(module, Projector):
            nn.init.zeros_(module.fallback)

    @classmethod
    def around(
        cls,
        language_model: PreTrainedModel,
        vectors: np.ndarray | torch.Tensor,
        known: np.ndarray | None = None,
        **settings: Any,
    ) -> "LlaraForCausalLM":
        """A new one: a language model, a matrix of collaborative vectors, and a projector to be trained.

        Args:
            language_model (`PreTrainedModel`): with its SID rows, before any adapter; kept, not copied.
            vectors (`np.ndarray` or `torch.Tensor`): `[items, vector_size]`, of any dtype and device, in row order.
            known (`np.ndarray`, *optional*): `[items]`, which of them have a vector; the rows of others are not read.
            settings: `projector_size`, `vector_dropout`, `catalogue` of `LlaraConfig`.

        Raises:
            ValueError: on a matrix of another shape, one with NaN or zeros where a vector is known, or none known.
        """
        matrix, mask = check_vectors(vectors, known)
        matrix = matrix / matrix[mask].pow(2).mean().sqrt()
        model = cls._built(language_model, matrix, mask, vectors=vectors_fingerprint(matrix, mask), **settings)
        with torch.no_grad():
            last = cast(nn.Linear, model.projector.layers[-1])
            spread = model.project(mask.nonzero()[:, 0].to(model.vectors.device)).std()
            last.weight *= model.get_input_embeddings().get_parameter("weight").float().std() / spread
        return model

    @classmethod
    def _built(
        cls, language_model: PreTrainedModel, matrix: torch.Tensor, mask: torch.Tensor, **settings: Any
    ) -> "LlaraForCausalLM":
        rows = language_model.get_input_embeddings().get_parameter("weight")
        settings = {"first_vector": len(rows)} | settings
        config = LlaraConfig(language_model.config, len(matrix), matrix.shape[1], **settings)
        config.name_or_path = language_model.name_or_path
        model = cls(config, language_model)
        for name in ("quantization_method", "is_quantized", "is_loaded_in_4bit", "is_loaded_in_8bit", "hf_quantizer"):
            if hasattr(language_model, name):
                setattr(model, name, getattr(language_model, name))
        model.generation_config = language_model.generation_config
        model.projector.to(rows.device, torch.float32)
        model.vectors, model.known = matrix.to(rows.device), mask.to(rows.device)
        return model.train(language_model.training)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> Any:
        """The language model's own, of tokens and projected vectors.

        Args:
            input_ids (`torch.Tensor`, *optional*): `[batch, length]`, tokens, and `first_vector + item` as the place
                of a vector; or `inputs_embeds`, as `embed` gives them.
            labels (`torch.Tensor`, *optional*): `[batch, length]`, -100 at the places of vectors.
            attention_mask (`torch.Tensor`, *optional*): `[batch, length]`, 0 on padding.
            position_ids (`torch.Tensor`, *optional*): `[batch, length]`.
            inputs_embeds (`torch.Tensor`, *optional*): `[batch, length, hidden_size]`.
            use_cache (`bool`, *optional*): as the language model has it.
            logits_to_keep (`int`, defaults to 0): likewise.
            **kwargs: likewise, the key-value cache among them.
        """
        if inputs_embeds is None:
            inputs_embeds = self.embed(cast(torch.Tensor, input_ids))
        return self.language_model(
            inputs_embeds=inputs_embeds, attention_mask=attention_mask, position_ids=position_ids,
            labels=labels, use_cache=use_cache, logits_to_keep=logits_to_keep, **kwargs,
        )  # fmt: skip

    def embed(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Embeddings `[batch, length, hidden_size]` of tokens and, projected, of vectors.

        Raises:
            ValueError: on an id that is neither a token nor the place of an item's vector.
        """
        first, count = self.config.first_vector, self.config.items
        place = input_ids >= first
        embedded = self.get_input_embeddings()(input_ids.masked_fill(place, 0))
        items = input_ids[place] - first
        if len(items) and int(items.max()) >= count:
            raise ValueError(
                f"got id {int(items.max()) + first}: tokens end at {first}, and the vectors of {count} items at "
                f"{first + count}; prompts and model are of different catalogues"
            )
        if len(items):
            return embedded.masked_scatter(place[..., None], self.project(items).to(embedded.dtype))
        # Without a vector in the batch the projector still has a zero to send back, which several processes wait for.
        return embedded + 0 * self.project(items.new_zeros(1)).sum().to(embedded.dtype) if self.training else embedded

    def project(self, items: torch.Tensor) -> torch.Tensor:
        """Projected vectors `[n, hidden_size]` of item rows `[n]`; in training some are the fallback's."""
        known = self.known[items]
        if self.training and self.config.vector_dropout:
            known = known & (torch.rand(len(items), device=items.device) >= self.config.vector_dropout)
        return self.projector(self.vectors[items], known)

    def alignment(self, input_ids: torch.Tensor, text_vectors: torch.Tensor) -> torch.Tensor:
        """How far projected vectors are from the mean embedding of their items' text, one number.

        The mean over the items of a batch, each counted once, of `||p_i - t_i||^2 / mean_j ||t_j||^2`, `j` over the
        catalogue: 1 for projections that are 0, 0 for equal ones.

        Args:
            input_ids (`torch.Tensor`): `[batch, length]`; the places of vectors name the items.
            text_vectors (`torch.Tensor`): `[items, hidden_size]`, from `text_vectors`; zeros do not count.
        """
        items = torch.unique(input_ids[input_ids >= self.config.first_vector] - self.config.first_vector)
        items = items[self.known[items] & text_vectors[items].any(dim=1)]
        if not len(items):
            return 0 * self.projector(self.vectors[:1], self.known[:1]).sum()
        projected = self.projector(self.vectors[items], self.known[items]).float()
        distance = (projected - text_vectors[items]).pow(2).sum(dim=1).mean()
        return distance / text_vectors.pow(2).sum(dim=1).mean()

    @torch.no_grad()
    def text_vectors(self, texts: Sequence[Sequence[int]]) -> torch.Tensor:
        """`[items, hidden_size]` float32, the mean embedding of each item's text, of token ids; zeros without text."""
        rows, device = self.get_input_embeddings(), self.vectors.device
        means = [rows(torch.tensor(ids or [0], device=device)).float().mean(dim=0) * bool(ids) for ids in texts]
        return torch.stack(means)

    @property
    def base_model(self) -> Any:
        """Reads ids or embeddings as the decoder does that a head is put on: TRL's losses call it."""
        return self._states

    def _states(self, input_ids: Any = None, inputs_embeds: torch.Tensor | None = None, **kwargs: Any) -> Any:
        if inputs_embeds is None:
            inputs_embeds = self.embed(input_ids)
        return self.language_model.base_model(inputs_embeds=inputs_embeds, **kwargs)

    def get_input_embeddings(self) -> nn.Module:
        """The language model's."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """The language model's."""
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The language model's."""
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """The language model's."""
        self.language_model.set_output_embeddings(new_embeddings)

    def refuse_other_items(self, item_ids: Sequence[str]) -> None:
        """Raise where the vectors are not of these items.

        Raises:
            ValueError: the catalogue has another size, other items, or another order.
        """
        ours = catalogue_fingerprint(item_ids)
        if len(item_ids) != self.config.items or self.config.catalogue not in (None, ours):
            raise ValueError(
                f"the collaborative vectors are of {self.config.items} items (fingerprint {self.config.catalogue}), "
                f"not of these {len(item_ids)} ({ours}): they would stand for other items; make them of this catalogue"
            )

    def rearrange(self, before: Sequence[str], now: Sequence[str]) -> None:
        """Put the vectors in the order of another catalogue; items that were not there have the fallback.

        Args:
            before (`Sequence[str]`): outside ids of the rows as they are.
            now (`Sequence[str]`): outside ids of the rows as they are to be.

        Raises:
            ValueError: as `refuse_other_items`, of the ids before.
        """
        self.refuse_other_items(before)
        if list(before) == list(now):
            return
        place = {item_id: row for row, item_id in enumerate(before)}
        rows = torch.tensor([place.get(item_id, -1) for item_id in now], device=self.vectors.device)
        self.known = self.known[rows] & (rows >= 0)
        self.vectors = torch.where(self.known[:, None], self.vectors[rows], 0)
        self.config.items, self.config.catalogue = len(now), catalogue_fingerprint(now)
        self.config.vectors = vectors_fingerprint(self.vectors.cpu(), self.known.cpu())

    def save_vectors(self, directory: str | Path) -> None:
        """Write matrix and settings beside the adapter that holds the projector."""
        settings = {name: getattr(self.config, name) for name in _SETTINGS}
        tensors = {"vectors": self.vectors.cpu().contiguous(), "known": self.known.cpu()}
        save_file(tensors, Path(directory) / VECTORS_FILE, {"llara": json.dumps(settings)})

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """`PreTrainedModel.save_pretrained`, of vectors that a dtype may have rounded; raises if nothing is saved."""
        self.config.vectors = vectors_fingerprint(self.vectors.cpu(), self.known.cpu())
        super().save_pretrained(as_directory(save_directory, "save_directory"), *args, **kwargs)

    @classmethod
    def restore_around(cls, language_model: PreTrainedModel, directory: str | Path) -> "LlaraForCausalLM":
        """The one whose vectors `save_vectors` wrote, for its adapter to be loaded on.

        Raises:
            ValueError: the matrix there is not the one that was saved.
        """
        with safe_open(Path(directory) / VECTORS_FILE, "pt") as file:
            settings = json.loads(file.metadata()["llara"])
            matrix, mask = file.get_tensor("vectors"), file.get_tensor("known")
        if vectors_fingerprint(matrix, mask) != settings["vectors"]:
            raise ValueError(
                f"{str(Path(directory) / VECTORS_FILE)!r} holds other vectors than were saved: the projector beside "
                "it was trained on those; load both from one output directory"
            )
        return cls._built(language_model, matrix, mask, **settings)

    @classmethod
    def from_pretrained(cls, directory_or_repo: str | Path, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """A whole checkpoint, as `merge_adapter.py` and `save_pretrained` write it.

        Args:
            directory_or_repo (`str` or `Path`): directory, or Hub id.
            *args: of `PreTrainedModel.from_pretrained`.
            **kwargs: likewise; with `use_safetensors=None` pickles are read as well.

        Raises:
            ValueError: it holds an adapter, which `load_recommender` and `load_adapter` put on its base model; or
                another matrix of vectors than the one that the projector was trained on.
        """
        folder = find_folder(as_loaded(str(directory_or_repo)), kwargs.get("revision"), [VECTORS_FILE])
        if (folder / VECTORS_FILE).is_file():
            why = "holds an adapter and no whole model: use genrec_hf.load_recommender, or recipes/merge_adapter.py"
            raise ValueError(f"{str(directory_or_repo)!r} {why}")
        loaded = super().from_pretrained(directory_or_repo, *args, **{"use_safetensors": True} | kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        matrix, mask = model.vectors.cpu(), model.known.cpu()
        if matrix.dtype == torch.float32 and vectors_fingerprint(matrix, mask) != model.config.vectors:
            raise ValueError(
                f"{str(directory_or_repo)!r} holds other vectors than its config names: the projector was trained on "
                "those; load the files of one output directory"
            )
        return loaded


def plain_prompt(model: PreTrainedModel, input_ids: torch.Tensor) -> tuple[PreTrainedModel, dict[str, torch.Tensor]]:
    """The model that reads what is generated, where no vector stands any more, and its prompt.

    Args:
        model (`PreTrainedModel`): any causal language model, `LlaraForCausalLM` or not.
        input_ids (`torch.Tensor`): `[batch, length]`, as that model reads them.

    Returns:
        `tuple`: the language model, and `input_ids`, or `inputs_embeds` where they hold vectors.
    """
    if not isinstance(model, LlaraForCausalLM):
        return model, {"input_ids": input_ids}
    return model.language_model, {"inputs_embeds": model.embed(input_ids)}


AutoConfig.register("llara", LlaraConfig)
AutoModelForCausalLM.register(LlaraConfig, LlaraForCausalLM)
