"""How well a model answers the tasks of the table: items ranked, ratings predicted, words written, instructions heeded."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from genrec_hf.evaluation.comparison import with_interval
from genrec_hf.evaluation.metrics import bootstrap_intervals, paired_bootstrap, per_case_metrics
from genrec_hf.generation import Recommender
from genrec_hf.generation.answers import answer_log_probs
from genrec_hf.markdown import markdown_table
from genrec_hf.tasks import Events, Mixture, Task, TaskSource, encode_pairs, instruction_following
from genrec_hf.tasks.prompts import refuse_long_prompt
from genrec_hf.tasks.turns import chat_turns

# Completions that are the SID of one item: ranked by beam search over the catalogue, or over candidates.
RANKED = ("{sid}", "{rest}", "{other}")


def evaluate_task(
    recommender: Recommender,
    task: Task,
    sources: dict[str, TaskSource],
    *,
    examples: int = 1000,
    k: int = 10,
    unseen: bool = False,
    batch_size: int = 32,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, float]:
    """Metrics of one task over its examples; which ones follows from what the answer is.

    An item: `recall@k` and `ndcg@k` of beams over the catalogue; with candidates, `hit@1` of beams over these alone.
    Stars: `rmse` and `mae` of the answers that are numbers, and `unread`, the share that are none. Yes or no:
    `accuracy`. A title among candidates (LLaRA's protocol): `hit@1` of the likeliest of their titles with its 95 %
    interval (`low`, `high`); `exact`, the share of free answers that are the target's title, and `valid_ratio`, of
    those that are any candidate's. Other words: `exact`, `bleu` (sacrebleu, corpus level, 0 to 100)
    and `rouge_l` (rouge-score, F1, mean). A list of next items: `recall@k` of its first. Words come from greedy
    decoding, up to 64 tokens.

    Args:
        recommender (`Recommender`): trained on tasks.
        task (`Task`): a row of the table.
        sources (`dict`): of the split to evaluate, from `make_sources(split="test")`.
        examples (`int`, defaults to 1000): drawn among those there are; all where there are fewer.
        k (`int`, defaults to 10): length of a list.
        unseen (`bool`, defaults to `False`): ask in the paraphrases that no training example uses.
        batch_size (`int`, defaults to 32): prompts a batch.
        seed (`int`, defaults to 0): of the draw and of the words.
        progress (`bool`, defaults to `True`): show a bar.

    Returns:
        `dict[str, float]`: the metrics, and `examples`, how many were asked.
    """
    mixture = Mixture([task], sources, {task.name: 1.0}, seed=seed, form=recommender.form, unseen=unseen)
    asked = mixture[:examples]
    about = [int(entry) for entry in mixture.plan[: len(asked), 1]]
    prompts = [_prompt(recommender, example, task) for example in asked]
    bar = tqdm(total=len(asked), desc=task.name, unit="prompt", disable=not progress)
    if task.completion in RANKED or task.completion == "{next_sids}":
        targets = np.array([example["target"] for example in asked])
        events = sources[task.source]
        allow = _candidates(task, events, about)
        ranks = 1 if allow else k
        lists = [
            recommender.complete(
                [prompts[row] for row in rows], ranks, allow=allow and [allow[row] for row in rows]
            ).items
            for rows in _batches(prompts, batch_size, bar)
        ]
        ranked = _in_order(np.concatenate(lists), prompts)
        found = per_case_metrics(ranked, targets, ks=(ranks,))
        metrics = {name: float(found[name].mean()) for name in (f"recall@{ranks}", f"ndcg@{ranks}")}
        metrics = {"hit@1": metrics["recall@1"]} if allow else metrics
    else:
        answers = [
            answer for rows in _batches(prompts, batch_size, bar) for answer in _write(recommender, prompts, rows)
        ]
        answers = list(_in_order(np.array(answers, dtype=object), prompts))
        wanted = [_text(example["completion"]) for example in asked]
        titles = _candidate_titles(task, sources[task.source], about)
        if titles:
            asked_texts = [_text(example["prompt"], strip=False) for example in asked]
            chosen = _choices(recommender, asked_texts, titles, task.name, progress)
            metrics = title_metrics(chosen, answers, wanted, titles=titles)
        else:
            metrics = text_metrics(task, answers, wanted)
    bar.close()
    return {"examples": len(asked), **metrics}


def text_metrics(task: Task, answers: Sequence[str], wanted: Sequence[str]) -> dict[str, float]:
    """Metrics of answers in words, see `evaluate_task`.

    Args:
        task (`Task`): whose completion tells what kind of words they are.
        answers (`Sequence[str]`): what the model wrote.
        wanted (`Sequence[str]`): what the data says.

    Returns:
        `dict[str, float]`: by name.
    """
    exact = float(np.mean([answer == text for answer, text in zip(answers, wanted, strict=True)]))
    if task.completion.strip() == "{liked}":
        return {"accuracy": exact}
    if task.completion.strip() == "{stars}":
        pairs = [(_number(answer), float(text)) for answer, text in zip(answers, wanted, strict=True)]
        errors = np.array([guess - truth for guess, truth in pairs if guess is not None])
        read = len(errors) / len(pairs)
        rmse, mae = (
            (float(np.sqrt((errors**2).mean())), float(np.abs(errors).mean())) if len(errors) else (np.nan,) * 2
        )
        return {"rmse": rmse, "mae": mae, "unread": 1 - read}
    try:
        from rouge_score.rouge_scorer import RougeScorer
        from sacrebleu import corpus_bleu
    except ImportError as error:
        raise ImportError("BLEU and ROUGE-L of answers in words need: pip install genrec_hf[text]") from error

    scorer = RougeScorer(["rougeL"])
    overlap = [scorer.score(text, answer)["rougeL"].fmeasure for answer, text in zip(answers, wanted, strict=True)]
    bleu = corpus_bleu(list(answers), [list(wanted)]).score
    return {"exact": exact, "bleu": float(bleu), "rouge_l": float(np.mean(overlap))}


def title_metrics(
    chosen: Sequence[str], answers: Sequence[str], wanted: Sequence[str], *, titles: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Metrics of titles chosen among candidates, see `evaluate_task`.

    Args:
        chosen (`Sequence[str]`): the candidate's title that the model finds likeliest.
        answers (`Sequence[str]`): what it wrote when nothing held it.
        wanted (`Sequence[str]`): titles of the targets.
        titles (`Sequence[Sequence[str]]`): titles of each prompt's candidates.

    Returns:
        `dict[str, float]`: by name.
    """
    hits = np.array([title == text for title, text in zip(chosen, wanted, strict=True)], dtype=float)
    low, high = bootstrap_intervals({"hit@1": hits}, np.arange(len(hits)))["hit@1"]
    exact = np.mean([answer == text for answer, text in zip(answers, wanted, strict=True)])
    valid = np.mean([answer in among for answer, among in zip(answers, titles, strict=True)])
    return {"hit@1": float(hits.mean()), "low": low, "high": high, "exact": float(exact), "valid_ratio": float(valid)}


def evaluate_instruction_following(
    recommender: Recommender,
    events: Events,
    k: int = 10,
    *,
    seed: int = 0,
    batch_size: int = 32,
    progress: bool = True,
) -> dict[str, Any]:
    """How far lists do what users say, beside the lists of the same users when they say nothing.

    Every user gets one instruction that knows the history alone (`Instructions.for_history`), so that heeding it is not the same as
    guessing the next item; what is counted is the share of the ten items that fulfil it. Recall is measured too: with
    these instructions it may fall, since they are not the users' own.

    Args:
        recommender (`Recommender`): trained on `instructed_next_item` or not.
        events (`Events`): of the split to evaluate.
        k (`int`, defaults to 10): length of the lists; seen items are left out.
        seed (`int`, defaults to 0): of the instructions.
        batch_size (`int`, defaults to 32): users a batch.
        progress (`bool`, defaults to `True`): show a bar.

    Returns:
        `dict`: `asked` and `silent`, each with `instruction_following`, in all and by kind of instruction, and `recall@k`; `difference`,
        of the two obediences, with its 95 % interval over users (`low`, `high`); `users`, by kind.
    """
    rng = np.random.default_rng(seed)
    histories = [events.history(entry) for entry in range(len(events))]
    targets = np.array([events.target(entry) for entry in range(len(events))])
    instructions = [events.instructions.for_history(history, rng) for history in histories]
    kinds = np.array([instruction.kind for instruction in instructions])
    of_kind = {"all": np.ones(len(kinds), dtype=bool)} | {kind: kinds == kind for kind in sorted(set(kinds.tolist()))}
    result: dict[str, Any] = {"users": {kind: int(users.sum()) for kind, users in of_kind.items()}}
    shares = {}
    search = replace(recommender.search, batch_size=batch_size)
    for name, words in (("asked", [instruction.text for instruction in instructions]), ("silent", None)):
        lists = recommender.rank(histories, k, instruction=words, search=search, progress=progress).items
        shares[name] = instruction_following(events.instructions, instructions, histories, recommended=lists)
        means = {kind: float(shares[name][users].mean()) for kind, users in of_kind.items()}
        recall = float(per_case_metrics(lists, targets, ks=(k,))[f"recall@{k}"].mean())
        result[name] = {"instruction_following": means, f"recall@{k}": recall}
    result["difference"] = {
        kind: paired_bootstrap(shares["asked"][users], shares["silent"][users]) for kind, users in of_kind.items()
    }
    return result


def tasks_markdown(report: Mapping[str, Any]) -> str:
    """A report as tables: `tasks`, name to metrics, and `instructions` where they were asked.

    Args:
        report (`Mapping`): `dataset`, `split`, `unseen`, `tasks`, perhaps `instructions`.
    """
    words = "paraphrases that training leaves out" if report["unseen"] else "words of training"
    rows = []
    for name, metrics in report["tasks"].items():
        shown = ", ".join(f"{metric} {value:.4g}" for metric, value in metrics.items() if metric != "examples")
        rows.append([name, metrics["examples"], shown])
    blocks = [f"# Tasks on {report['dataset']}", f"Split {report['split']}, in {words}."]
    blocks.append(markdown_table(["task", "examples", "metrics"], rows))
    if "instructions" in report:
        instructions = report["instructions"]
        rows = []
        for kind, users in instructions["users"].items():
            asked, silent = (instructions[name]["instruction_following"][kind] for name in ("asked", "silent"))
            gain, low, high = (instructions["difference"][kind][name] for name in ("difference", "low", "high"))
            rows.append([kind, users, f"{asked:.3f}", f"{silent:.3f}", with_interval(gain, low, high, form="+.3f")])
        blocks.append("Share of recommended items that fulfil an instruction, said and not said:")
        blocks.append(markdown_table(["instruction", "users", "said", "not said", "difference [95 %]"], rows))
    return "\n\n".join(blocks) + "\n"


def _prompt(recommender: Recommender, example: dict[str, Any], task: Task) -> list[int]:
    """Token ids up to the answer, as in training, or to the codes of a SID to be searched."""
    texts = ([_text(example[name], strip=False)] for name in ("prompt", "completion"))
    ((prompt, answer),) = _pairs(recommender, *texts)
    if recommender.vocabulary.markers and task.completion in ("{sid}", "{other}", "{next_sids}"):
        prompt = [*prompt, answer[0]]
    refuse_long_prompt(prompt, recommender.max_prompt)
    return prompt


def _pairs(
    recommender: Recommender, prompts: Sequence[str], completions: Sequence[str]
) -> list[tuple[list[int], list[int]]]:
    return encode_pairs(
        prompts, completions, recommender.tokenizer, form=recommender.form, first_vector=recommender.first_vector
    )


def _text(turns: Any, strip: bool = True) -> str:
    text = turns if isinstance(turns, str) else turns[0]["content"]
    return text.strip() if strip else text


def _candidates(task: Task, events: TaskSource, about: Sequence[int]) -> list[np.ndarray] | None:
    """The items that each prompt names, where the task has the model choose among them."""
    if not task.answer_in_prompt or not isinstance(events, Events):
        return None
    return [events.candidates(entry, 2 if "pair" in task.fields else None) for entry in about]


def _candidate_titles(task: Task, events: TaskSource, about: Sequence[int]) -> list[list[str]] | None:
    """The titles that each prompt names, where the task has the model choose among them."""
    if "candidate_titles" not in task.fields or not isinstance(events, Events):
        return None
    return [events.candidate_titles(entry) for entry in about]


def _choices(
    recommender: Recommender,
    prompts: Sequence[str],
    titles: Sequence[Sequence[str]],
    name: str,
    progress: bool,
) -> list[str]:
    """Of each prompt's titles the likeliest to be written, to its end."""
    chosen = []
    for prompt, among in zip(tqdm(prompts, desc=f"{name}, held", disable=not progress), titles, strict=True):
        pairs = _pairs(recommender, [prompt] * len(among), [f" {title}" for title in among])
        answers = [answer for _, answer in pairs]
        chosen.append(among[int(answer_log_probs(recommender.model, pairs[0][0], answers).argmax())])
    return chosen


def _batches(prompts: Sequence[Sequence[int]], size: int, bar: tqdm) -> Iterator[list[int]]:
    """Rows of `prompts`, the short ones first, so that little is padded."""
    order = _order(prompts)
    for start in range(0, len(order), size):
        rows = order[start : start + size].tolist()
        yield rows
        bar.update(len(rows))


def _order(prompts: Sequence[Sequence[int]]) -> np.ndarray:
    return np.argsort([len(prompt) for prompt in prompts], kind="stable")


def _in_order(values: np.ndarray, prompts: Sequence[Sequence[int]]) -> np.ndarray:
    back = np.empty_like(values)
    back[_order(prompts)] = values
    return back


@torch.no_grad()
def _write(recommender: Recommender, prompts: Sequence[Sequence[int]], rows: Sequence[int]) -> list[str]:
    """Greedy answers in words."""
    tokenizer = recommender.tokenizer
    batch = tokenizer.pad(
        {"input_ids": [list(prompts[row]) for row in rows]}, padding_side="left", return_tensors="pt"
    )
    batch = batch.to(recommender.model.device)
    ends = [tokenizer.eos_token_id]
    if recommender.form == "chat":  # a turn may end in another token than a text
        behind = tokenizer(chat_turns(tokenizer).after, add_special_tokens=False)["input_ids"]
        ends += [token for token in behind if token in tokenizer.added_tokens_decoder][:1]
    output = recommender.model.generate(**batch, do_sample=False, num_beams=1, max_new_tokens=64, eos_token_id=ends)
    written = output[:, batch["input_ids"].shape[1] :].tolist()
    answers = [list(takewhile(lambda token: token not in ends, row)) for row in written]
    return [text.strip() for text in tokenizer.batch_decode(answers, skip_special_tokens=True)]


def _number(answer: str) -> float | None:
    try:
        return float(answer.split()[0])
    except (ValueError, IndexError):
        return None
