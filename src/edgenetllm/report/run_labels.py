"""Labels of groups of runs: the settings in which their identities differ, written as they are typed.

An identity maps dotted keys to values: settings (`adapter.rank`: 8) and facts whose names have no dot (`code`: a hash).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from hashlib import sha256

from pydantic import JsonValue

Identity = Mapping[str, JsonValue]

SPARSITY = "sparsity"
PRUNING_GROUPS = ("pruning", "recovery", "export", SPARSITY)  # groups of settings that leave the dense model as it is
MODEL_GROUPS = ("model", "backbone")  # what the name of the model stands for
ABSENT = "(absent)"
LONG_VALUE = 28  # characters
LONG_LABEL = 90


def group_of(key: str) -> str:
    """`pruning` of `pruning.method.windows`."""
    return key.partition(".")[0]


def is_fact(key: str) -> bool:
    """True where a key of an identity is a fact, and nothing that can be typed."""
    return "." not in key and key != SPARSITY


def without(identity: Identity, groups: Sequence[str]) -> dict[str, JsonValue]:
    """The identity without the keys of these groups."""
    return {key: value for key, value in identity.items() if group_of(key) not in groups}


def canonical(identity: Identity) -> str:
    """The same text for equal identities."""
    return json.dumps(identity, sort_keys=True, separators=(",", ":"))


def digest(identity: Identity) -> str:
    """12 hex digits, the same for equal identities."""
    return sha256(canonical(identity).encode()).hexdigest()[:12]


def differing(identities: Sequence[Identity], left_out: Sequence[str] = ()) -> list[str]:
    """Keys whose values are not the same in all identities, settings before facts; none of the groups `left_out`."""
    keys = [key for key in dict.fromkeys(key for one in identities for key in one) if group_of(key) not in left_out]
    return _settings_first([key for key in keys if len({_text(one, key) for one in identities}) > 1])


def labels(identities: Sequence[Identity], keys: Sequence[Sequence[str]]) -> list[str]:
    """A label for each identity from the values of its own `keys`: `adapter.rank=8, code 3fa9c1`.

    Where labels are long, only the keys are kept that tell them apart, with an ellipsis for the others.
    """
    columns: dict[str, list[str]] = {}  # key -> a text per identity, empty where it is not among the keys
    for key in _settings_first([key for own in keys for key in own]):
        shown = [_text(one, key) if key in own else None for one, own in zip(identities, keys, strict=True)]
        short = iter(_shortened([text for text in shown if text is not None]))
        mark = " " if is_fact(key) else "="
        columns[key] = ["" if text is None else f"{key}{mark}{next(short)}" for text in shown]
    whole = _joined(columns, len(identities))
    if max(map(len, whole), default=0) <= LONG_LABEL:
        return whole
    distinguishing: dict[str, list[str]] = {}
    for key, column in columns.items():
        if len(set(_joined({**distinguishing, key: column}, len(identities)))) > len(
            set(_joined(distinguishing, len(identities)))
        ):
            distinguishing[key] = column
    ends = _joined({key: column for key, column in columns.items() if key not in distinguishing}, len(identities))
    return [
        f"{label}, …" if end else label
        for label, end in zip(_joined(distinguishing, len(identities)), ends, strict=True)
    ]


def describe_differences(identities: Sequence[Identity], keys: Sequence[str]) -> str:
    """`adapter.rank: 2 or 8; code: 3fa9c1 or 88ab01`, for an error."""
    texts = {key: list(dict.fromkeys(_shortened([_text(one, key) for one in identities]))) for key in keys}
    return "; ".join(f"{key}: {' or '.join(values)}" for key, values in texts.items())


def _settings_first(keys: Sequence[str]) -> list[str]:
    """Each key once, facts last."""
    return sorted(dict.fromkeys(keys), key=is_fact)


def _joined(columns: Mapping[str, Sequence[str]], count: int) -> list[str]:
    return [", ".join(column[number] for column in columns.values() if column[number]) for number in range(count)]


def _text(identity: Identity, key: str) -> str:
    """A value as it is typed."""
    return _typed(identity[key]) if key in identity else ABSENT


def _typed(value: JsonValue) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return f"[{','.join(map(_typed, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{_typed(one)}' for key, one in value.items())}}}"
    return json.dumps(value)


def _shortened(texts: Sequence[str]) -> list[str]:
    """Hashes cut to as many digits as tell them apart, other long texts to both ends and a digest: different ones differ."""
    hashes = [text for text in texts if re.fullmatch("[0-9a-f]{12,}", text)]
    digits = next(
        n
        for n in range(6, 1 + max(map(len, hashes), default=6))
        if len({text[:n] for text in hashes}) == len(set(hashes))
    )

    def short(text: str) -> str:
        if text in hashes:
            return text[:digits]
        return text if len(text) <= LONG_VALUE else f"{text[:8]}…{text[-12:]}#{sha256(text.encode()).hexdigest()[:6]}"

    return list(map(short, texts))
