"""Generation config of a recommender's language model."""

from transformers import GenerationConfig, PreTrainedTokenizerBase


def clean_generation_config(tokenizer: PreTrainedTokenizerBase, levels: int) -> GenerationConfig:
    """Create a generation config for greedy search without sampling settings, which generates one SID.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): gives the end-of-sequence and padding tokens.
        levels (`int`): tokens of a SID.

    Returns:
        `GenerationConfig`: with `max_new_tokens=levels`.
    """
    return GenerationConfig(
        do_sample=False,
        max_new_tokens=levels,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
