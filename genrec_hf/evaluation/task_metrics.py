"""Evaluation of instruction tasks: ranking of items, rating prediction, text generation, instruction following."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from genrec_hf.evaluation.bootstrap import bootstrap_intervals, paired_bootstrap
from genrec_hf.evaluation.metrics import per_case_metrics
from genrec_hf.generation import Recommender
from genrec_hf.generation.answers import answer_log_probs
from genrec_hf.markdown import markdown_table, with_interval
from genrec_hf.tasks import Events, Mixture, Task, TaskSource, encode_pairs, instruction_following
from genrec_hf.tasks.prompts import refuse_long_prompt
from genrec_hf.tasks.turns import chat_turns

# Completions that are the SID of one item, which is ranked by beam search.
ONE_ITEM = ("{sid}", "{rest}", "{other}")


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
    """Evaluate a model on examples of one task, with metrics that depend on the kind of answer.

    - An item: `recall@k` and `ndcg@k` of a beam search over the catalogue; for a task with candidates, `hit@1` of a
      beam search over the candidates.
    - A list of next items: `recall@k` and `ndcg@k` of its first item.
    - A rating in stars: `rmse` and `mae` of the answers that are numbers, and `unparsed`, the share of the others.
    - Yes or no: `accuracy`.
    - A title among candidates (LLaRA's protocol): `hit@1` of the most probable title of the candidates, with its 95 %
      interval (`low`, `high`); and for unconstrained answers `exact`, the share that are the target's title, and
      `valid_ratio`, the share that are the title of a candidate.
    - Other text: `exact`, `bleu` (sacrebleu, corpus level, 0 to 100) and `rouge_l` (rouge-score, mean F1).

    Unconstrained answers come from greedy decoding, with up to 64 tokens.

    Args:
        recommender (`Recommender`): a recommender that was trained on tasks.
        task (`Task`): the task.
        sources (`dict[str, TaskSource]`): from `make_sources`, for the split to evaluate.
        examples (`int`, defaults to 1000): number of examples, which are sampled; all if there are fewer.
        k (`int`, defaults to 10): length of the lists.
        unseen (`bool`, defaults to `False`): use the paraphrases that are not used in training.
        batch_size (`int`, defaults to 32): number of prompts in a batch.
        seed (`int`, defaults to 0): seed of the examples and paraphrases.
        progress (`bool`, defaults to `True`): show a progress bar.

    Returns:
        `dict[str, float]`: `examples`, the number of examples, and the metrics.

    Raises:
        ImportError: sacrebleu or rouge-score is missing, for a task whose answer is other text.
    """
    mixture = Mixture([task], sources, {task.name: 1.0}, seed=seed, form=recommender.form, unseen=unseen)
    sampled = mixture[:examples]
    entries = [int(entry) for entry in mixture.plan[: len(sampled), 1]]
    prompts = [_prompt(recommender, example, task) for example in sampled]
    bar = tqdm(total=len(sampled), desc=task.name, unit="prompt", disable=not progress)
    if task.completion in ONE_ITEM or task.completion == "{next_sids}":
        targets = np.array([example["target"] for example in sampled])
        allow = _candidates(task, sources[task.source], entries)
        ranks = 1 if allow else k
        lists = [
            recommender.complete(
                [prompts[row] for row in rows], ranks, allow=allow and [allow[row] for row in rows]
            ).items
            for rows in _batches(prompts, batch_size, bar)
        ]
        ranked = _restore_order(np.concatenate(lists), prompts)
        per_case = per_case_metrics(ranked, targets, ks=(ranks,))
        metrics = {name: float(per_case[name].mean()) for name in (f"recall@{ranks}", f"ndcg@{ranks}")}
        metrics = {"hit@1": metrics["recall@1"]} if allow else metrics
    else:
        answers = [
            answer for rows in _batches(prompts, batch_size, bar) for answer in _generate(recommender, prompts, rows)
        ]
        answers = list(_restore_order(np.array(answers, dtype=object), prompts))
        expected = [_text(example["completion"]) for example in sampled]
        titles = _candidate_titles(task, sources[task.source], entries)
        if titles:
            prompt_texts = [_text(example["prompt"], strip=False) for example in sampled]
            chosen = _choose_titles(recommender, prompt_texts, titles, task.name, progress)
            metrics = title_metrics(chosen, answers, expected, titles=titles)
        else:
            metrics = text_metrics(task, answers, expected)
    bar.close()
    return {"examples": len(sampled), **metrics}


def text_metrics(task: Task, answers: Sequence[str], expected: Sequence[str]) -> dict[str, float]:
    """Compute the metrics of text answers, see `evaluate_task`.

    Args:
        task (`Task`): the task, whose completion determines the metrics.
        answers (`Sequence[str]`): answers of the model.
        expected (`Sequence[str]`): expected answers, in the same order.

    Returns:
        `dict[str, float]`: metric name to value; `rmse` and `mae` are NaN if no answer is a number.

    Raises:
        ImportError: sacrebleu or rouge-score is missing.
    """
    exact = float(np.mean([answer == text for answer, text in zip(answers, expected, strict=True)]))
    if task.completion.strip() == "{liked}":
        return {"accuracy": exact}
    if task.completion.strip() == "{stars}":
        pairs = [(_number(answer), float(text)) for answer, text in zip(answers, expected, strict=True)]
        errors = np.array([rating - truth for rating, truth in pairs if rating is not None])
        parsed = len(errors) / len(pairs)
        rmse, mae = (
            (float(np.sqrt((errors**2).mean())), float(np.abs(errors).mean())) if len(errors) else (np.nan,) * 2
        )
        return {"rmse": rmse, "mae": mae, "unparsed": 1 - parsed}
    try:
        from rouge_score.rouge_scorer import RougeScorer
        from sacrebleu import corpus_bleu
    except ImportError as error:
        raise ImportError(
            "sacrebleu or rouge-score is not installed, which BLEU and ROUGE-L need: pip install genrec_hf[text]"
        ) from error

    scorer = RougeScorer(["rougeL"])
    rouge = [scorer.score(text, answer)["rougeL"].fmeasure for answer, text in zip(answers, expected, strict=True)]
    bleu = corpus_bleu(list(answers), [list(expected)]).score
    return {"exact": exact, "bleu": float(bleu), "rouge_l": float(np.mean(rouge))}


def title_metrics(
    chosen: Sequence[str], answers: Sequence[str], expected: Sequence[str], *, titles: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Compute the metrics of titles chosen among candidates, see `evaluate_task`.

    Args:
        chosen (`Sequence[str]`): for each prompt, the most probable title of a candidate.
        answers (`Sequence[str]`): for each prompt, the unconstrained answer of the model.
        expected (`Sequence[str]`): for each prompt, the title of the target.
        titles (`Sequence[Sequence[str]]`): for each prompt, the titles of its candidates.

    Returns:
        `dict[str, float]`: `hit@1` with `low` and `high`, `exact` and `valid_ratio`.
    """
    hits = np.array([title == text for title, text in zip(chosen, expected, strict=True)], dtype=float)
    low, high = bootstrap_intervals({"hit@1": hits}, np.arange(len(hits)))["hit@1"]
    exact = np.mean([answer == text for answer, text in zip(answers, expected, strict=True)])
    valid = np.mean([answer in candidates for answer, candidates in zip(answers, titles, strict=True)])
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
    """Measure the share of recommended items that fulfil an instruction, with the instruction and without it.

    Every user gets one instruction, which is made from the history and not from the target
    (`Instructions.for_history`), so that following it does not amount to predicting the next item. The same users are
    ranked without an instruction for comparison. Recall is measured in both cases; with these instructions it may be
    lower, because they are not the users' own.

    Args:
        recommender (`Recommender`): any recommender, whether or not it was trained on `instructed_next_item`.
        events (`Events`): events of the split to evaluate.
        k (`int`, defaults to 10): length of the lists, with seen items filtered.
        seed (`int`, defaults to 0): seed of the instructions.
        batch_size (`int`, defaults to 32): number of users in a batch.
        progress (`bool`, defaults to `True`): show a progress bar.

    Returns:
        `dict`: `with_instruction` and `without_instruction`, each with `instruction_following`, the share in [0, 1]
        for `all` and by kind of instruction, and `recall@k`; `difference`, by kind, between the two shares as
        `paired_bootstrap` returns it; and `users`, the number of users by kind.
    """
    rng = np.random.default_rng(seed)
    histories = [events.history(entry) for entry in range(len(events))]
    targets = np.array([events.target(entry) for entry in range(len(events))])
    instructions = [events.instructions.for_history(history, rng) for history in histories]
    kinds = np.array([instruction.kind for instruction in instructions])
    is_kind = {"all": np.ones(len(kinds), dtype=bool)} | {kind: kinds == kind for kind in sorted(set(kinds.tolist()))}
    result: dict[str, Any] = {"users": {kind: int(users.sum()) for kind, users in is_kind.items()}}
    shares = {}
    search = replace(recommender.search, batch_size=batch_size)
    texts = [instruction.text for instruction in instructions]
    for name, instruction in (("with_instruction", texts), ("without_instruction", None)):
        lists = recommender.rank(histories, k, instruction=instruction, search=search, progress=progress).items
        shares[name] = instruction_following(events.instructions, instructions, histories, recommended=lists)
        means = {kind: float(shares[name][users].mean()) for kind, users in is_kind.items()}
        recall = float(per_case_metrics(lists, targets, ks=(k,))[f"recall@{k}"].mean())
        result[name] = {"instruction_following": means, f"recall@{k}": recall}
    result["difference"] = {
        kind: paired_bootstrap(shares["with_instruction"][users], shares["without_instruction"][users])
        for kind, users in is_kind.items()
    }
    return result


def tasks_markdown(report: Mapping[str, Any]) -> str:
    """Render the results of `evaluate_tasks.py` as Markdown tables.

    Args:
        report (`Mapping`): `dataset`, `split`, `unseen` and `tasks` (task name to metrics), and optionally
            `instructions`, from `evaluate_instruction_following`.

    Returns:
        `str`: Markdown that ends with a newline.
    """
    wording = "paraphrases that are not used in training" if report["unseen"] else "the paraphrases of training"
    rows = []
    for name, metrics in report["tasks"].items():
        shown = ", ".join(f"{metric} {value:.4g}" for metric, value in metrics.items() if metric != "examples")
        rows.append([name, metrics["examples"], shown])
    blocks = [f"# Tasks on {report['dataset']}", f"Split {report['split']}, with {wording}."]
    blocks.append(markdown_table(["task", "examples", "metrics"], rows))
    if "instructions" in report:
        instructions = report["instructions"]
        rows = []
        for kind, users in instructions["users"].items():
            names = ("with_instruction", "without_instruction")
            shares = [f"{instructions[name]['instruction_following'][kind]:.3f}" for name in names]
            gain, low, high = (instructions["difference"][kind][name] for name in ("difference", "low", "high"))
            rows.append([kind, users, *shares, with_interval(gain, low, high, form="+.3f")])
        blocks.append("Share of recommended items that fulfil an instruction, with and without the instruction:")
        blocks.append(markdown_table(["instruction", "users", "with", "without", "difference [95 %]"], rows))
    return "\n\n".join(blocks) + "\n"


def _prompt(recommender: Recommender, example: dict[str, Any], task: Task) -> list[int]:
    """Return the token ids of a prompt, with the begin marker of the SID if the answer is one."""
    texts = ([_text(example[name], strip=False)] for name in ("prompt", "completion"))
    ((prompt, answer),) = _pairs(recommender, *texts)
    if recommender.vocabulary.markers and task.completion in ("{sid}", "{other}", "{next_sids}"):
        prompt = [*prompt, answer[0]]
    refuse_long_prompt(prompt, recommender.max_prompt)
    return prompt


def _pairs(
    recommender: Recommender, prompts: Sequence[str], completions: Sequence[str]
) -> list[tuple[list[int], list[int]]]:
    """Tokenize prompts and completions as in training."""
    return encode_pairs(
        prompts, completions, recommender.tokenizer, form=recommender.form, first_vector=recommender.first_vector
    )


def _text(turns: Any, strip: bool = True) -> str:
    """Return a text, or that of the first turn of a chat."""
    text = turns if isinstance(turns, str) else turns[0]["content"]
    return text.strip() if strip else text


def _candidates(task: Task, events: TaskSource, entries: Sequence[int]) -> list[np.ndarray] | None:
    """Return the candidate items of each prompt; `None` for a task without candidates."""
    if not task.answer_in_prompt or not isinstance(events, Events):
        return None
    return [events.candidates(entry, 2 if "pair" in task.fields else None) for entry in entries]


def _candidate_titles(task: Task, events: TaskSource, entries: Sequence[int]) -> list[list[str]] | None:
    """Return the titles of the candidates of each prompt; `None` for a task without titles to choose from."""
    if "candidate_titles" not in task.fields or not isinstance(events, Events):
        return None
    return [events.candidate_titles(entry) for entry in entries]


def _choose_titles(
    recommender: Recommender,
    prompts: Sequence[str],
    titles: Sequence[Sequence[str]],
    name: str,
    progress: bool,
) -> list[str]:
    """Return the most probable of the titles of each prompt's candidates."""
    chosen = []
    for prompt, candidates in zip(
        tqdm(prompts, desc=f"{name}, candidates", disable=not progress), titles, strict=True
    ):
        pairs = _pairs(recommender, [prompt] * len(candidates), [f" {title}" for title in candidates])
        answers = [answer for _, answer in pairs]
        chosen.append(candidates[int(answer_log_probs(recommender.model, pairs[0][0], answers).argmax())])
    return chosen


def _batches(prompts: Sequence[Sequence[int]], size: int, bar: tqdm) -> Iterator[list[int]]:
    """Yield batches of indices of `prompts`, in the order of their length, so that there is little padding."""
    order = _order(prompts)
    for start in range(0, len(order), size):
        rows = order[start : start + size].tolist()
        yield rows
        bar.update(len(rows))


def _order(prompts: Sequence[Sequence[int]]) -> np.ndarray:
    """Return the indices of `prompts` in the order of their length."""
    return np.argsort([len(prompt) for prompt in prompts], kind="stable")


def _restore_order(values: np.ndarray, prompts: Sequence[Sequence[int]]) -> np.ndarray:
    """Return values that are in the order of `_order` in the order of `prompts`."""
    restored = np.empty_like(values)
    restored[_order(prompts)] = values
    return restored


@torch.no_grad()
def _generate(recommender: Recommender, prompts: Sequence[Sequence[int]], rows: Sequence[int]) -> list[str]:
    """Generate text answers to the prompts at `rows`, by greedy decoding."""
    tokenizer = recommender.tokenizer
    batch = tokenizer.pad(
        {"input_ids": [list(prompts[row]) for row in rows]}, padding_side="left", return_tensors="pt"
    )
    batch = batch.to(recommender.model.device)
    end_tokens = [tokenizer.eos_token_id]
    if recommender.form == "chat":  # a chat turn may end with another token
        end_of_turn = tokenizer(chat_turns(tokenizer).after, add_special_tokens=False)["input_ids"]
        end_tokens += [token for token in end_of_turn if token in tokenizer.added_tokens_decoder][:1]
    output = recommender.model.generate(
        **batch, do_sample=False, num_beams=1, max_new_tokens=64, eos_token_id=end_tokens
    )
    generated = output[:, batch["input_ids"].shape[1] :].tolist()
    answers = [list(takewhile(lambda token: token not in end_tokens, row)) for row in generated]
    return [text.strip() for text in tokenizer.batch_decode(answers, skip_special_tokens=True)]


def _number(answer: str) -> float | None:
    """Return the number that an answer begins with; `None` if it does not begin with one."""
    try:
        return float(answer.split()[0])
    except (ValueError, IndexError):
        return None
