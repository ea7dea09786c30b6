"""Reads typed values from a mapping, and remembers which, so that the rest can be refused by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from membound.errors import InputError

Default = TypeVar("Default")


class Settings:
    """The settings of one model file. A value that is null counts as absent.

    Every method raises InputError, naming the key and `where`, for a value of the wrong kind.
    """

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._values = values
        self._unread = set(values)
        self.where = where

    def get(self, key: str) -> Any:
        """The value as it is, or None."""
        self._unread.discard(key)
        return self._values.get(key)

    def integer(self, key: str, default: int | None = None, *, least: int = 1, most: int = 2**62) -> int:
        """An integer from `least` to `most`; required without a default."""
        value = self._present(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            bounds = f"at least {least}" if most == 2**62 else f"from {least} to {most}"
            raise InputError(f"{self.where}: {key} must be an integer {bounds}, it is {value!r}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A positive finite number; required without a default."""
        value = self._present(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise InputError(f"{self.where}: {key} must be a positive number, it is {value!r}")
        return float(value)

    def optional_integer(self, key: str) -> int | None:
        """A positive integer, or None where it is absent."""
        return None if self.get(key) is None else self.integer(key)

    def optional_number(self, key: str) -> float | None:
        """A positive finite number, or None where it is absent."""
        return None if self.get(key) is None else self.number(key)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self._present(key, default)
        if not isinstance(value, bool):
            raise InputError(f"{self.where}: {key} must be true or false, it is {value!r}")
        return value

    def choice(self, key: str, choices: Mapping[str, Default], default: str | None = None) -> Default:
        """What `choices` gives for the text under `key`."""
        value = self._present(key, default)
        if not isinstance(value, str) or value not in choices:
            known = ", ".join(choices)
            raise InputError(f"{self.where}: {key} {_short(value)} is not supported (supported: {known})")
        return choices[value]

    def integers(self, key: str) -> list[int]:
        """The integers of a list; none where it is absent."""
        value = self.get(key)
        if not isinstance(value or [], list) or not all(type(item) is int for item in value or ()):
            raise InputError(f"{self.where}: {key} must be a list of integers, it is {_short(value)}")
        return list(value or ())

    def inside(self, key: str) -> Settings:
        """The settings of an object, which is required."""
        value = self.get(key)
        if not isinstance(value, Mapping):
            raise InputError(f"{self.where}: {key} must be an object, it is {_short(value)}")
        return Settings(value, f"{self.where}, {key}")

    def kinds(self, key: str, known: Collection[str], count: int) -> list[str] | None:
        """One of the `known` words for each of `count` layers, or None where the list is absent."""
        value = self.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != count:
            raise InputError(f"{self.where}: {key} must list {count} layers")
        strange = next((word for word in value if not isinstance(word, str) or word not in known), None)
        if strange is not None:
            raise InputError(
                f"{self.where}: layer type {strange!r} in {key} is not supported"
                f" (supported: {', '.join(known)})"
            )
        return value

    def ignore(self, keys: Collection[str]) -> None:
        """Marks keys that do not change the mathematics."""
        self._unread.difference_update(keys)

    def refuse_unread(self) -> None:
        """Refuses what nobody read, unless it is plainly off: null, false, zero or empty."""
        for key in sorted(self._unread):
            if self._values[key]:
                raise InputError(
                    f"{self.where}: {key} = {_short(self._values[key])} is not supported: "
                    "it may change what the model computes"
                )

    def _present(self, key: str, default: Any) -> Any:
        value = self.get(key)
        if value is not None:
            return value
        if default is None:
            raise InputError(f"{self.where}: {key} is missing")
        return default


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
