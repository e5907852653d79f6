"""`WrappedLM`: a causal language model with a module around it, that trains, generates and saves as any other."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.generation import GenerationMixin

from genrec_hf.data.dataset import catalogue_fingerprint
from genrec_hf.digests import hex_digest
from genrec_hf.directories import as_directory
from genrec_hf.internals.transformers import attention_of, mark_initialized
from genrec_hf.models.wrapping import Wrapping
from genrec_hf.repositories import as_loaded, find_folder

# What a model keeps on itself about how its weights are quantized.
_QUANTIZATION = ("quantization_method", "is_quantized", "is_loaded_in_4bit", "is_loaded_in_8bit", "hf_quantizer")


class WrappedConfig(PreTrainedConfig):
    """What a `WrappedLM` is.

    A subclass needs an `__init__` of its own, or transformers makes a dataclass of it, which does not call this one.

    Args:
        text_config (`PreTrainedConfig` or `dict`, *optional*): of the language model.
        items (`int`, *optional*): size of the catalogue, where something is held for each item.
        catalogue (`str`, *optional*): `catalogue_fingerprint` of the item ids.
        fingerprint (`str`, *optional*): of the saved tensors.
    """

    sub_configs: ClassVar = {"text_config": AutoConfig}

    def __init__(
        self,
        text_config: Any = None,
        *,
        items: int | None = None,
        catalogue: str | None = None,
        fingerprint: str | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(text_config, dict):
            text_config = CONFIG_MAPPING[text_config["model_type"]](**text_config)
        self.text_config = CONFIG_MAPPING["llama"]() if text_config is None else text_config
        self.items, self.catalogue, self.fingerprint = items, catalogue, fingerprint
        kwargs["tie_word_embeddings"] = self.text_config.tie_word_embeddings
        # Of both: a composite config would take the language model's away.
        kwargs.setdefault("attn_implementation", attention_of(self.text_config))
        super().__init__(**kwargs)


class WrappedLM(Wrapping, PreTrainedModel, GenerationMixin):
    """A causal language model with a module around it, for `get_peft_model` to go around both.

    A subclass makes its modules in `__init__`, then calls `post_init`, and overrides what it changes: `embed` for what
    the language model reads, `forward` or `hidden_states` for what comes out, `take_rows` for what it holds for each
    item. A file beside the adapter keeps its tensors, and settings that the language model's config does not have.

    Attributes:
        contents (`str`): what the tensors are, in messages.
        saved_file (`str`): name of the file beside an adapter.
        saved_tensors (`tuple`): buffers that the file holds, the main one first.
        saved_settings (`tuple`): names in the config that it holds, among them that of the fingerprint.
        settings_key (`str`): of what the settings of a recommender say.
    """

    config_class: type[WrappedConfig] = WrappedConfig
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = True
    _tied_weights_keys = {}  # noqa: RUF012  # those of the language model; PEFT asks for a dict

    contents: ClassVar[str]
    saved_file: ClassVar[str]
    saved_tensors: ClassVar[tuple[str, ...]]
    saved_settings: ClassVar[tuple[str, ...]]
    settings_key: ClassVar[str]

    def __init__(self, config: WrappedConfig, language_model: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        if language_model is None:
            language_model = AutoModelForCausalLM.from_config(config.text_config)
        else:
            mark_initialized(language_model)
        self.language_model = language_model

    @classmethod
    def wrap(cls, language_model: PreTrainedModel, tensors: Mapping[str, torch.Tensor], **settings: Any) -> Self:
        """One around a language model, which is kept and not copied.

        Args:
            language_model (`PreTrainedModel`): with its SID rows, before any adapter.
            tensors (`Mapping`): name of a buffer -> its values.
            settings: of the config.
        """
        config: Any = cls.config_class(language_model.config, **settings)
        config.name_or_path = language_model.name_or_path
        model = cls(config, language_model)
        for name in _QUANTIZATION:
            if hasattr(language_model, name):
                setattr(model, name, getattr(language_model, name))
        model.generation_config = language_model.generation_config
        device = language_model.get_input_embeddings().get_parameter("weight").device
        for name in cls.saved_modules:
            model.get_submodule(name).to(device, torch.float32)
        for name, tensor in tensors.items():
            setattr(model, name, tensor.to(device))
        config.fingerprint = model.compute_fingerprint()
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
        """The language model's own, of what `embed` makes of ids.

        Args:
            input_ids (`torch.Tensor`, *optional*): `[batch, length]`, as `embed` reads them; or `inputs_embeds`, as it
                gives them.
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
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            labels=labels,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )

    def embed(self, input_ids: torch.Tensor) -> torch.Tensor:
        """What the language model reads for ids `[batch, length]`: `[batch, length, hidden_size]`."""
        return self.get_input_embeddings()(input_ids)

    def prompt_inputs(self, input_ids: torch.Tensor) -> tuple[PreTrainedModel, dict[str, torch.Tensor]]:
        """See `Wrapping`."""
        return self.language_model, {"inputs_embeds": self.embed(input_ids)}

    def hidden_states(
        self, input_ids: torch.Tensor | None = None, inputs_embeds: torch.Tensor | None = None, **kwargs: Any
    ) -> Any:
        """See `Wrapping`."""
        if inputs_embeds is None:
            inputs_embeds = self.embed(cast(torch.Tensor, input_ids))
        return self.language_model.base_model(inputs_embeds=inputs_embeds, **kwargs)

    @property
    def base_model(self) -> Any:
        """`hidden_states`, which TRL's losses call by this name, as the decoder that a head is put on."""
        return self.hidden_states

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

    @property
    def holds_items(self) -> bool:
        """See `Wrapping`."""
        return self.config.items is not None

    def compute_fingerprint(self) -> str:
        """Sixteen hex digits of the saved tensors as they are now."""
        tensors = [self.get_buffer(name).detach().cpu() for name in sorted(self.saved_tensors)]
        return hex_digest((each.float() if each.is_floating_point() else each).numpy() for each in tensors)

    def refuse_other_items(self, item_ids: Sequence[str]) -> None:
        """See `Wrapping`."""
        ours = catalogue_fingerprint(item_ids)
        items, catalogue = self.config.items, self.config.catalogue
        if self.holds_items and (len(item_ids) != items or catalogue not in (None, ours)):
            raise ValueError(
                f"the {self.contents} are of {items} items (fingerprint {catalogue}), not of these {len(item_ids)} "
                f"({ours}): they would stand for other items; make them of this catalogue"
            )

    def reindex(self, before: Sequence[str], now: Sequence[str]) -> None:
        """See `Wrapping`."""
        self.refuse_other_items(before)
        if not self.holds_items or list(before) == list(now):
            return
        place = {item_id: row for row, item_id in enumerate(before)}
        self.take_rows(torch.tensor([place.get(item_id, -1) for item_id in now], device=self.device))
        self.config.items, self.config.catalogue = len(now), catalogue_fingerprint(now)
        self.config.fingerprint = self.compute_fingerprint()

    def take_rows(self, rows: torch.Tensor) -> None:
        """Hold for each item what is held now at `rows [items]`, and what new items start with where that is -1."""
        raise NotImplementedError(f"{type(self).__name__} holds something for each item: it needs `take_rows`")

    @classmethod
    def card_rows(cls, described: Mapping[str, Any]) -> dict[str, str]:
        """Rows of the model card, of what the settings say at `settings_key`."""
        return {}

    def save_beside(self, directory: str | Path) -> None:
        """See `Wrapping`."""
        settings = {name: getattr(self.config, name) for name in self.saved_settings}
        tensors = {name: self.get_buffer(name).cpu().contiguous() for name in self.saved_tensors}
        save_file(tensors, Path(directory) / self.saved_file, {self.config.model_type: json.dumps(settings)})

    @classmethod
    def restore_around(cls, language_model: PreTrainedModel, directory: str | Path) -> Self:
        """The one that `save_beside` wrote, for its adapter to be loaded on.

        Raises:
            ValueError: the tensors there are not those that were saved, or stand without settings.
        """
        path, main = Path(directory) / cls.saved_file, cls.saved_tensors[0]
        try:
            with safe_open(path, "pt") as file:
                settings = json.loads(file.metadata()[cls.config_class.model_type])
                tensors = {name: file.get_tensor(name) for name in cls.saved_tensors}
            saved = cls.config_class(language_model.config, **settings).fingerprint
            model = cls.wrap(language_model, tensors, **settings)
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{str(path)!r} holds no {main} with their settings: copy it from where it was saved"
            ) from error
        if model.config.fingerprint != saved:
            raise ValueError(
                f"{str(path)!r} holds other {main} than were saved: the {' and '.join(cls.saved_modules)} beside it "
                "was trained on those; load both from one output directory"
            )
        return model

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """`PreTrainedModel.save_pretrained`, of tensors that a dtype may have rounded; raises if nothing is saved."""
        self.config.fingerprint = self.compute_fingerprint()
        super().save_pretrained(as_directory(save_directory, "save_directory"), *args, **kwargs)

    @classmethod
    def from_pretrained(cls, directory_or_repo: str | Path, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """A whole checkpoint, as `merge_adapter.py` and `save_pretrained` write it.

        Args:
            directory_or_repo (`str` or `Path`): directory, or Hub id.
            *args: of `PreTrainedModel.from_pretrained`.
            **kwargs: likewise; with `use_safetensors=None` pickles are read as well.

        Raises:
            ValueError: it holds an adapter, which `load_recommender` and `load_adapter` put on its base model; or
                other tensors than those that the saved modules were trained on.
        """
        folder = find_folder(as_loaded(str(directory_or_repo)), kwargs.get("revision"), [cls.saved_file])
        if (folder / cls.saved_file).is_file():
            why = "holds an adapter and no whole model: use genrec_hf.load_recommender, or recipes/merge_adapter.py"
            raise ValueError(f"{str(directory_or_repo)!r} {why}")
        loaded = super().from_pretrained(directory_or_repo, *args, **{"use_safetensors": True} | kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        main = cls.saved_tensors[0]
        if model.get_buffer(main).dtype == torch.float32 and model.compute_fingerprint() != model.config.fingerprint:
            raise ValueError(
                f"{str(directory_or_repo)!r} holds other {main} than its config names: the "
                f"{' and '.join(cls.saved_modules)} was trained on those; load the files of one output directory"
            )
        return loaded
