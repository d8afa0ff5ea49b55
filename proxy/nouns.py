"""Nouns: the decorator of the values that a call is made of, some dozens per call."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataclasses import dataclass as noun
else:
    from dataclasses import dataclass

    def noun(*, frozen: bool, slots: bool):
        """A dataclass that nobody changes, which the type checker proves.

        It is not frozen when it runs: a frozen one sets each of its fields by a call, which made
        a fifteenth of all that a row costs.
        """
        assert frozen
        return dataclass(slots=slots, unsafe_hash=True)


__all__ = ["noun"]
