"""Kinds of option values that click does not have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from segflow.cli.operator import Option


class NumbersOrWord(click.ParamType[Any]):
    """Positive whole numbers (one, or three: z y x), or a word that stands for them."""

    def __init__(self, count: int, word: str) -> None:
        self.count, self.word = count, word
        self.name = f"{'Z Y X' if count == 3 else 'N'}|{word}"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Give what the help shows for a value."""
        return self.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Give an int, a tuple of ints, or the word."""
        given = value.replace(",", " ").split() if isinstance(value, str) else value
        parts = list(given) if isinstance(given, (list, tuple)) else [given]
        if parts == [self.word]:
            return self.word
        try:
            numbers = tuple(int(p) for p in parts)
        except (TypeError, ValueError):
            numbers = ()
        if len(numbers) != self.count or min(numbers) < 1:
            wanted = "a positive whole number" if self.count == 1 else "three positive whole numbers, z y x,"
            self.fail(f"'{' '.join(map(str, parts))}' is not {wanted} or '{self.word}'", param, ctx)
        return numbers[0] if self.count == 1 else numbers


class TripleOrWord(Option):
    """An option of three numbers or one word: after a number it takes the two that follow."""

    def values_follow(self, words: list[str]) -> int:
        """Give how many of the words after the option are its values."""
        return 3 if words[0].isdigit() else 1

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Let the parser hand on the values that follow."""
        super().add_to_parser(parser, ctx)
        mine = {id(o): o for t in (parser._long_opt, parser._short_opt) for o in t.values() if o.obj is self}
        for found in mine.values():
            found.process = self._taking(found.process)

    def _taking(self, process: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
        def take(value: Any, state: Any) -> None:
            more = self.values_follow([str(value)]) - 1
            taken, state.rargs[:more] = state.rargs[:more], []
            process((value, *taken) if taken else value, state)

        return take


def triple_or_word(*decls: str, word: str, **attributes: Any) -> Callable[..., Any]:
    """Declare an option of three whole numbers z y x, or ``word``."""
    return click.option(*decls, cls=TripleOrWord, type=NumbersOrWord(3, word), **attributes)
