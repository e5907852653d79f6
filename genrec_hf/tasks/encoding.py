"""Examples of a mixture as token ids with labels, so that they can stand beside dense sequences in one data set."""

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from genrec_hf.tasks.sequential import IGNORED


def encode_examples(dataset: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """Plain prompt-completion rows as TRL tokenizes them: the loss on the completion and an end-of-sequence token.

    Args:
        dataset (`Dataset`): `prompt` and `completion`, text, from `Mixture.dataset`.
        tokenizer (`PreTrainedTokenizerBase`): extended with the SID tokens.

    Returns:
        `Dataset`: `input_ids` and `labels`, -100 on the prompt; other columns are gone.

    Raises:
        ValueError: when a prompt and its completion share a token, so that the loss could not tell them apart.
    """

    def encode(rows: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        texts = [prompt + completion for prompt, completion in zip(rows["prompt"], rows["completion"], strict=True)]
        encoded: dict[str, list[list[int]]] = {"input_ids": [], "labels": []}
        for prompt, ids in zip(tokenizer(rows["prompt"])["input_ids"], tokenizer(texts)["input_ids"], strict=True):
            if ids[: len(prompt)] != prompt:
                raise ValueError(
                    f"the prompt {tokenizer.decode(prompt)[-40:]!r} ends inside a token of its completion: end the "
                    "prompt with a space, or start the completion with one"
                )
            ids = [*ids, tokenizer.eos_token_id]
            encoded["input_ids"].append(ids)
            encoded["labels"].append([IGNORED] * len(prompt) + ids[len(prompt) :])
        return encoded

    return dataset.map(encode, batched=True, remove_columns=dataset.column_names)
