"""The turns of a chat: what the model's template puts around a question and its answer, rendered once and kept."""

import json
from pathlib import Path
from typing import NamedTuple, cast

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.trainer_utils import get_last_checkpoint

from genrec_hf.digests import hex_digest

# In `tokenizer_config.json`: the turns, and which template they were rendered from.
TURNS_KEY = "genrec_hf_turns"
_QUESTION, _ANSWER = "genrec_hf_question", "genrec_hf_answer"


class Turns(NamedTuple):
    """The text of a conversation without its question and its answer.

    Args:
        before (`str`): what stands before the question, such as a system prompt.
        between (`str`): from the end of the question to the start of the answer.
        after (`str`): what ends the answer.
    """

    before: str
    between: str
    after: str


def chat_turns(tokenizer: PreTrainedTokenizerBase) -> Turns:
    """What the chat template puts around one question and its answer.

    A whole conversation is rendered, not a prompt with `add_generation_prompt=True`: templates put more before an
    answer than they end such a prompt with (Qwen3 an empty think block, Mistral a space), and the model is trained on
    answers. It is rendered once and kept with the tokenizer, which saves it: a date that the template inserts, or a
    default system prompt, stays what it was in training.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): keeps the turns in its `init_kwargs`.

    Raises:
        ValueError: the tokenizer has no chat template, or another one than its turns were rendered from, or one that
            fails, or does not show question and answer once each, in this order.
    """
    if not tokenizer.chat_template:
        raise ValueError(
            "form='chat' and the tokenizer has no chat template: nobody taught this model turns; take an instruct "
            "model, or form='plain'"
        )
    template = hex_digest([tokenizer.get_chat_template()])
    kept = tokenizer.init_kwargs.get(TURNS_KEY)
    if kept is None:
        kept = {"template": template, **_render(tokenizer)._asdict()}
        tokenizer.init_kwargs[TURNS_KEY] = kept
    if kept["template"] != template:
        raise ValueError(
            f"the chat template (fingerprint {template}) is not the one that the model was trained in "
            f"({kept['template']}): put that one back, or start from the tokenizer of the base model and train anew"
        )
    return Turns(*(kept[name] for name in Turns._fields))


def keep_turns(tokenizer: PreTrainedTokenizerBase, output_dir: str | Path) -> None:
    """Take the turns of an interrupted run, which may have begun on another day, from its last checkpoint.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): of the base model; one that has turns keeps them.
        output_dir (`str` or `Path`): of the run, with checkpoints or without.
    """
    checkpoint = get_last_checkpoint(str(output_dir)) if Path(output_dir).is_dir() else None
    config = Path(checkpoint or output_dir) / "tokenizer_config.json"
    if checkpoint is not None and config.is_file():
        kept = json.loads(config.read_text(encoding="utf-8")).get(TURNS_KEY)
        if kept is not None:
            tokenizer.init_kwargs.setdefault(TURNS_KEY, kept)


def _render(tokenizer: PreTrainedTokenizerBase) -> Turns:
    turns = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}]
    try:
        text = cast(str, tokenizer.apply_chat_template(turns, tokenize=False))
    except TemplateError as error:
        raise ValueError(
            f"the chat template renders no question with its answer ({error}): use form='plain'"
        ) from error
    before, *rest = text.split(_QUESTION)
    between, *ends = rest[0].split(_ANSWER) if len(rest) == 1 else [""]
    if len(ends) != 1:
        raise ValueError(
            f"the chat template renders a question and its answer as {text!r}, which does not hold each once, in this "
            "order: use form='plain'"
        )
    # Some templates end no answer; without an end the model would never learn to stop.
    return Turns(before, between, ends[0] or tokenizer.eos_token or "")
