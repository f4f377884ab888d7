"""Organ sentences by a local instruction model: the better option than rules, where one lies on the disk.

Any causal language model in a transformers folder; nothing is downloaded and no code of the folder runs. Only
the organs are asked of it: sentences, sections and statements stay the rules'. An answer that names no known
organ is not used, and that sentence keeps what the rules say.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from core_model.anatomy import organs
from training.mining.organ_sentences import MinedSentence

BATCH = 12  # sentences per question; our choice
TOKENS_PER_SENTENCE = 24  # of an answer

Ask = Callable[[str], str]

_ANSWER = re.compile(r"^\W*(\d+)\s*[:.)-]\s*(.+?)\s*$", re.M)


@dataclass(frozen=True)
class ModelIdentity:
    """Which model decided: its folder's name, and a digest of its configuration and its files' sizes."""

    name: str
    digest: str


def question(sentences: Sequence[str]) -> str:
    """What the model is asked about some sentences of one report."""
    names = ", ".join(o.name for o in organs())
    numbered = "\n".join(f"{k}. {text}" for k, text in enumerate(sentences, start=1))
    return (
        "These are sentences of a CT report. Say for each which organs it describes. An organ that only says "
        "where something else lies does not count.\n"
        f"Known organs: {names}.\n"
        "Answer with one line per sentence: its number, a colon, and the organs with commas, or none.\n\n"
        f"{numbered}\n"
    )


def answers(text: str, count: int) -> dict[int, tuple[str, ...]]:
    """What a model answered about sentences 1 to `count`; lines with other words than organs are left out.

    >>> answers("1: liver, spleen\\n2: none\\n3: flux", 3)
    {1: ('liver', 'spleen'), 2: ()}
    """
    known = {o.name for o in organs()}
    found: dict[int, tuple[str, ...]] = {}
    for match in _ANSWER.finditer(text):
        number, words = (
            int(match[1]),
            [w.strip().lower().replace(" ", "_") for w in match[2].strip(". ").split(",")],
        )
        named = [] if words == ["none"] else words
        if 1 <= number <= count and number not in found and set(named) <= known:
            found[number] = tuple(dict.fromkeys(named))
    return found


def by_model(mined: Sequence[MinedSentence], ask: Ask) -> tuple[MinedSentence, ...]:
    """The sentences of one report with the organs that a model gives them; `decision` says who decided."""
    decided: list[MinedSentence] = []
    for first in range(0, len(mined), BATCH):
        part = mined[first : first + BATCH]
        given = answers(ask(question([s.text for s in part])), len(part))
        for k, sentence in enumerate(part, start=1):
            decided.append(replace(sentence, organs=given[k], decision="model") if k in given else sentence)
    return tuple(decided)


def load(folder: Path, device: str = "cpu") -> tuple[Ask, ModelIdentity]:
    """A model from a folder on the disk, as a function from a question to its answer.

    Raises
    ------
    ValueError: if the folder holds no causal language model with its tokenizer.
    """
    # Imported here: rules need neither, and they take seconds to load.
    import torch  # noqa: PLC0415
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} holds no config.json; name the folder of a local transformers model")
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, torch_dtype="auto"
        )
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{folder} is no causal language model with its tokenizer: {error}") from error
    model.to(device).train(False)
    chats = bool(tokenizer.chat_template)

    def ask(text: str) -> str:
        if chats:
            messages = [{"role": "user", "content": text}]
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        encoded = tokenizer(text, return_tensors="pt", add_special_tokens=not chats).to(device)
        asked = encoded["input_ids"]  # (1, T)
        with torch.inference_mode():
            made = model.generate(
                input_ids=asked,
                attention_mask=encoded["attention_mask"],
                max_new_tokens=BATCH * TOKENS_PER_SENTENCE,
                do_sample=False,
                pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id or 0,
            )
        return str(tokenizer.decode(made[0, asked.shape[1] :], skip_special_tokens=True))

    return ask, ModelIdentity(folder.resolve().name, _digest(folder))


def _digest(folder: Path) -> str:
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for file in sorted(folder.iterdir()):
        digest.update(f"{file.name}:{file.stat().st_size}\n".encode())
    return digest.hexdigest()[:16]
