"""Words of a command line: what crash's shell keeps together, and where each word stands."""

from __future__ import annotations


class Word(str):
    """One argument. ``start`` and ``end``: its place in the line, quotes included.

    ``quote``: how it was written: ``""``, ``'"'``, ``"'"`` or ``"("``. Double
    and single quotes are taken off; parentheses of an expression stay.
    A single-quoted word is a regular expression for `ps` and `foreach`.
    """

    __slots__ = ("end", "quote", "start")

    start: int
    end: int
    quote: str

    def __new__(cls, text: str, start: int = 0, end: int = 0, quote: str = "") -> Word:
        word = super().__new__(cls, text)
        word.start, word.end, word.quote = start, end, quote
        return word


def split_words(line: str) -> list[Word]:
    """The words of ``line``. Quotes and parentheses group only at the start of a word, as in crash.

    A group that never ends goes to the end of the line.
    """
    words: list[Word] = []
    at = _skip_blanks(line, 0)
    while at < len(line):
        words.append(_word_at(line, at))
        at = _skip_blanks(line, words[-1].end)
    return words


def _skip_blanks(line: str, at: int) -> int:
    while at < len(line) and line[at] in " \t\n":
        at += 1
    return at


def _word_at(line: str, start: int) -> Word:
    first = line[start]
    if first in "\"'":
        close = line.find(first, start + 1)
        close = len(line) if close < 0 else close
        return Word(line[start + 1 : close], start, min(close + 1, len(line)), first)
    end = _after_parenthesis(line, start) if first == "(" else start
    while end < len(line) and line[end] not in " \t\n":
        end += 1
    return Word(line[start:end], start, end, "(" if first == "(" else "")


def _after_parenthesis(line: str, start: int) -> int:
    depth = 0
    for at in range(start, len(line)):
        depth += {"(": 1, ")": -1}.get(line[at], 0)
        if depth == 0:
            return at + 1
    return len(line)
