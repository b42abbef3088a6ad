"""Reading JSON of any size piece by piece; what cannot be read names the file, the line and the column."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from smp_ray.errors import DataError
from smp_ray.sources.location import Location, reading

_CHUNK = 2**20
#: A single record or line is not longer than this many characters or bytes.
_LONGEST_VALUE = 2**26
#: Characters that the decoder may still need behind the position of its error to see that the text goes on.
_LOOK_AHEAD = 16
_SPACE = re.compile(r"[ \t\r\n]*")


class JsonText:
    """The text of one JSON file, decoded value by value; invalid UTF-8 becomes U+FFFD.

    Raises:
        DataError: from every method, where the text is not JSON.
    """

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._stream = stream
        self._name = name
        self._bytes = codecs.getincrementaldecoder("utf-8-sig")(errors="replace")
        self._json = json.JSONDecoder()
        self._buffer = ""
        self._at = 0
        self._line = 1
        self._column = 1
        self._ended = False

    def peek(self) -> str:
        """The next character that is not white space; "" at the end."""
        while True:
            space = _SPACE.match(self._buffer, self._at)
            self._at = space.end() if space else self._at
            if self._at < len(self._buffer) or self._ended:
                return self._buffer[self._at : self._at + 1]
            self._fill()

    def take(self, allowed: str) -> str:
        """Go past one of the `allowed` characters and return it."""
        found = self.peek()
        if not found or found not in allowed:
            raise self.failure(f"found {found!r}, allowed: {' or '.join(allowed)}" if found else "the file ends here")
        self._at += 1
        return found

    def value(self) -> tuple[Any, str]:
        """The next value and its own text."""
        while True:
            self.peek()
            try:
                value, end = self._json.raw_decode(self._buffer, self._at)
            except json.JSONDecodeError as error:
                open_quote = error.msg.startswith("Unterminated string")
                if self._ended or not (open_quote or error.pos + _LOOK_AHEAD >= len(self._buffer)):
                    raise self.failure(error.msg, error.pos) from None
            except (ValueError, RecursionError) as error:  # a number of thousands of digits, deep nesting
                raise self.failure(str(error)) from None
            else:
                # "1" may go on as "1e+5": three more characters tell.
                if end + 3 <= len(self._buffer) or self._ended:
                    text = self._buffer[self._at : end]
                    self._at = end
                    return value, text
            if len(self._buffer) - self._at > _LONGEST_VALUE:
                raise self.failure("a value of more than 64 MiB, or a quote or bracket that is not closed")
            self._fill()

    def records(self) -> Iterator[tuple[Any, str]]:
        """The elements of a list and their texts."""
        self.take("[")
        if self.peek() == "]":
            self.take("]")
        else:
            while True:
                yield self.value()
                if self.take(",]") == "]":
                    break
        self._end()

    def cells(self) -> Iterator[tuple[str, str, str]]:
        """Column, row and JSON text of each cell of an object of columns: `{"Uid": {"0": …, "1": …}, …}`."""
        for column in self._members("{"):
            if self.peek() not in ("{", "["):
                raise self.failure(f"column '{column}' is no object of rows; allowed: a list of records or of columns")
            for row in self._members(self.peek()):
                yield column, row, self.value()[1]
        self._end()

    def failure(self, message: str, at: int | None = None) -> DataError:
        """The error for a position of the buffer (default: where reading is)."""
        line, column = self._position(self._at if at is None else at)
        return DataError(f"{self._name}: line {line} column {column}: not readable as JSON: {message}")

    def _members(self, opening: str) -> Iterator[str]:
        """Keys of an object, or positions in a list; the caller reads each value."""
        closing = "}" if opening == "{" else "]"
        self.take(opening)
        number = 0
        while self.peek() != closing or number:
            if opening == "{":
                key, _ = self.value()
                if not isinstance(key, str):
                    raise self.failure("a key that is no string")
                self.take(":")
            yield key if opening == "{" else str(number)
            number += 1
            if self.take("," + closing) == closing:
                return
        self.take(closing)

    def _end(self) -> None:
        if self.peek():
            raise self.failure("text behind the end")

    def _fill(self) -> None:
        self._line, self._column = self._position(self._at)
        self._buffer = self._buffer[self._at :]
        self._at = 0
        # Reading as much again as is held keeps a long value from being decoded over and over.
        with reading(self._name):
            data = self._stream.read(max(_CHUNK, len(self._buffer)))
        self._ended = not data
        self._buffer += self._bytes.decode(data, final=self._ended)

    def _position(self, at: int) -> tuple[int, int]:
        lines = self._buffer.count("\n", 0, at)
        if not lines:
            return self._line, self._column + at
        return self._line + lines, at - self._buffer.rindex("\n", 0, at)


def json_lines(location: Location, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers and objects of a JSON-lines file; empty lines are passed over.

    Raises:
        DataError: a line is not a JSON object, or the file has none.
    """
    shown = location.path(name)
    number = found = 0
    for number, line in _lines(location, name):
        if not line.strip():
            continue
        try:
            record = json.loads(line.rstrip("\r\n"))
        except (ValueError, RecursionError) as error:
            where = f" column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
            message = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise DataError(f"{shown}: line {number}{where}: not readable as JSON: {message}") from None
        if not isinstance(record, dict):
            raise DataError(f"{shown}: line {number}: found {line.strip()[:40]!r}, allowed: one JSON object a line")
        found += 1
        yield number, record
    if not found:
        raise DataError(f"{shown}: an empty file ({number} lines), allowed: one JSON object a line")


def text_lines(location: Location, name: str) -> Iterator[str]:
    """Lines of a text file without their ends, without a byte-order mark and without empty lines at the end."""
    empty = 0
    for _, line in _lines(location, name):
        if not line.strip():
            empty += 1
            continue
        for _ in range(empty):
            yield ""
        empty = 0
        yield line.strip()


def _lines(location: Location, name: str) -> Iterator[tuple[int, str]]:
    shown = location.path(name)
    with location.stream(name) as stream:
        number = 0
        while True:
            with reading(shown):
                line = stream.readline(_LONGEST_VALUE)
            if not line:
                return
            number += 1
            if len(line) == _LONGEST_VALUE:
                raise DataError(f"{shown}: line {number}: more than 64 MiB long")
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8", "replace")
