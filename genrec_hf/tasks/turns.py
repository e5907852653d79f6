"""The text of a model's chat template around a question and its answer, rendered once and saved with the tokenizer."""

import json
from pathlib import Path
from typing import NamedTuple, cast

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.trainer_utils import get_last_checkpoint

from genrec_hf.digests import hex_digest

# Key in `tokenizer_config.json` of the rendered turns and the digest of their template.
TURNS_KEY = "genrec_hf_turns"
_QUESTION, _ANSWER = "genrec_hf_question", "genrec_hf_answer"


class Turns(NamedTuple):
    """The text of a conversation without its question and its answer.

    Args:
        before (`str`): text before the question, such as a system prompt.
        between (`str`): text from the end of the question to the start of the answer.
        after (`str`): text after the answer.
    """

    before: str
    between: str
    after: str


def chat_turns(tokenizer: PreTrainedTokenizerBase) -> Turns:
    """Return the text that the chat template puts around one question and its answer.

    The template renders a whole conversation, not a prompt with `add_generation_prompt=True`: some templates insert
    text before an answer that such a prompt lacks (Qwen3 an empty think block, Mistral a space), and the model is
    trained on answers. The result is kept and saved with the tokenizer, so that a date or a default system prompt that
    the template inserts is the same as in training.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): keeps the turns in its `init_kwargs`.

    Returns:
        `Turns`: text before, between and after question and answer.

    Raises:
        ValueError: the tokenizer has no chat template, another one than its turns were rendered from, one that raises,
            or one that does not render question and answer once each, in this order.
    """
    if not tokenizer.chat_template:
        raise ValueError(
            "got form='chat' and the tokenizer has no chat template: the model was not trained on turns; use an "
            "instruct model, or form='plain'"
        )
    template = hex_digest([tokenizer.get_chat_template()])
    saved = tokenizer.init_kwargs.get(TURNS_KEY)
    if saved is None:
        saved = {"template": template, **_render(tokenizer)._asdict()}
        tokenizer.init_kwargs[TURNS_KEY] = saved
    if saved["template"] != template:
        raise ValueError(
            f"the chat template (fingerprint {template}) is not the one that the model was trained with "
            f"({saved['template']}): restore that one, or train again from the tokenizer of the base model"
        )
    return Turns(*(saved[name] for name in Turns._fields))


def keep_turns(tokenizer: PreTrainedTokenizerBase, output_dir: str | Path) -> None:
    """Load the turns of an interrupted run, which a template with a date would render differently on another day.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): of the base model; one that already has turns keeps them.
        output_dir (`str` or `Path`): output directory of the run; without a checkpoint, nothing is loaded.
    """
    checkpoint = get_last_checkpoint(str(output_dir)) if Path(output_dir).is_dir() else None
    config = Path(checkpoint or output_dir) / "tokenizer_config.json"
    if checkpoint is not None and config.is_file():
        saved = json.loads(config.read_text(encoding="utf-8")).get(TURNS_KEY)
        if saved is not None:
            tokenizer.init_kwargs.setdefault(TURNS_KEY, saved)


def _render(tokenizer: PreTrainedTokenizerBase) -> Turns:
    turns = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}]
    try:
        text = cast(str, tokenizer.apply_chat_template(turns, tokenize=False))
    except TemplateError as error:
        raise ValueError(
            f"the chat template cannot render a question with its answer ({error}): use form='plain'"
        ) from error
    before, *tails = text.split(_QUESTION)
    between, *ends = tails[0].split(_ANSWER) if len(tails) == 1 else [""]
    if len(ends) != 1:
        raise ValueError(
            f"the chat template renders a question and its answer as {text!r}, which does not hold each once, in this "
            "order: use form='plain'"
        )
    # Some templates put nothing after an answer; then the end-of-sequence token teaches the model to stop.
    return Turns(before, between, ends[0] or tokenizer.eos_token or "")
