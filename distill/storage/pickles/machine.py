"""A machine that reads pickles as data: the few opcodes that write containers, numbers and objects by name, none of which is imported or called.

Python's own unpickler runs what a file asks for. Here a name in the file is only a key into a table of our constructors; a name that is not there,
or an opcode that data has no use for, ends the reading.
"""

from __future__ import annotations

import dataclasses
import io
import mmap
import pickletools
from collections.abc import Callable, Mapping
from typing import IO, Any, cast

MAX_STEPS = 2_000_000
"""Opcodes that a pickle may have. A network's has a few hundred for each of its layers; each may cost 200 bytes, of an empty set."""


@dataclasses.dataclass(frozen=True)
class Name:
    """A name that a pickle may use. It is not what it names."""

    text: str


Constructors = Mapping[str, Callable[..., Any] | None]
"""The names that a pickle may use, and what stands in for each when it is called; None where it may only be mentioned."""


class Refused(Exception):
    """The pickle asks for what data has no use for. The message completes a sentence that begins with the file."""


class Machine:
    """Runs one pickle from where its source stands.

    `give_state` fills an object made by a constructor with the state that follows it; `persistent` gives what an id stands for, None where the
    pickle may have no ids.
    """

    def __init__(
        self,
        source: io.BytesIO | mmap.mmap,
        constructors: Constructors,
        give_state: Callable[[Any, Any], None],
        persistent: Callable[[Any], Any] | None = None,
    ) -> None:
        self.source, self.constructors, self.give_state, self.persistent = (
            source,
            constructors,
            give_state,
            persistent,
        )
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # what stood on the stack under each mark
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """The value that the pickle builds. Raises Refused, or one of the errors that broken data leads to."""
        for step, (opcode, argument, _) in enumerate(pickletools.genops(cast(IO[bytes], self.source))):
            if step == MAX_STEPS:
                raise Refused(f"has more than {MAX_STEPS} steps")
            name = opcode.name
            if name in ("GLOBAL", "INST"):
                self._look_up(*str(argument).split(" ", 1))
            if name in LITERALS:
                self.stack.append(argument)
            elif name in CONSTANTS:
                self.stack.append(CONSTANTS[name]())
            elif name in ACTIONS:
                ACTIONS[name](self, argument)
            elif name == "BINPERSID" and self.persistent is not None:
                self.stack.append(self.persistent(self.stack.pop()))
            elif name not in IGNORED:
                raise Refused(f"uses the opcode {name}")
        if self.below:
            raise ValueError("a mark is left over")
        (value,) = self.stack
        return value

    def _look_up(self, module: str, attribute: str) -> None:
        text = f"{module}.{attribute}"
        if text not in self.constructors:
            raise Refused(f"asks for {one_line(text)}")
        self.stack.append(Name(text))

    def _look_up_from_stack(self, _: None) -> None:
        attribute, module = self.stack.pop(), self.stack.pop()
        if not isinstance(attribute, str) or not isinstance(module, str):
            raise TypeError("a name is no text")
        self._look_up(module, attribute)

    def _call(self, _: None) -> None:
        arguments, called = self.stack.pop(), self.stack.pop()
        constructor = self.constructors[called.text] if isinstance(called, Name) else None
        if constructor is None:
            raise Refused(
                f"calls {called.text if isinstance(called, Name) else f'a {type(called).__name__}'}"
            )
        if not isinstance(arguments, tuple):
            raise TypeError("arguments are no tuple")
        self.stack.append(constructor(*arguments))

    def _build(self, _: None) -> None:
        state = self.stack.pop()
        self.give_state(self.stack[-1], state)

    def _memoize(self, index: int | None) -> None:
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def _recall(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def _mark(self, _: None) -> None:
        self.below.append(self.stack)
        self.stack = []

    def _to_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def _take(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise IndexError("the stack is empty")
        items = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return items

    def _tuple(self, items: list[Any]) -> None:
        self.stack.append(tuple(items))

    def _append(self, items: list[Any]) -> None:
        self._top(list).extend(items)

    def _add(self, items: list[Any]) -> None:
        self._top(set).update(keys(items))

    def _set(self, items: list[Any]) -> None:
        self._top(dict).update(zip(map(_key, items[::2]), items[1::2], strict=True))

    def _top(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise TypeError(f"a {type(self.stack[-1]).__name__} stands where a {kind.__name__} should")
        return self.stack[-1]


def one_line(value: object) -> str:
    """Text of unknown origin, or an error about it, fit for a message; of any other value its kind."""
    return ascii(str(value) if isinstance(value, (str, Exception)) else f"a {type(value).__name__}")[1:-1][
        :120
    ]


def keys(items: Any) -> set[str | int]:
    """The set of a list of keys. Raises TypeError for items that are none."""
    if not isinstance(items, list):
        raise TypeError(f"a {type(items).__name__} stands where a list should")
    return {_key(item) for item in items}


def _key(value: Any) -> str | int:
    # Other keys than networks have are refused: to hash a tuple of a million levels overflows the interpreter's stack.
    if not isinstance(value, (str, int)):
        raise TypeError(f"a {type(value).__name__} is a key")
    return value


LITERALS = frozenset(
    [
        *[
            "BININT",
            "BININT1",
            "BININT2",
            "LONG1",
            "BINFLOAT",
            "BINUNICODE",
            "SHORT_BINUNICODE",
            "BINUNICODE8",
        ],
        *["BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"],
    ]
)
"""Opcodes that push their argument."""
CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
"""Opcodes that push a value of their own."""
ACTIONS: dict[str, Callable[[Machine, Any], None]] = {
    "STACK_GLOBAL": Machine._look_up_from_stack,
    "REDUCE": Machine._call,
    "NEWOBJ": Machine._call,
    "BUILD": Machine._build,
    "MEMOIZE": Machine._memoize,
    "BINPUT": Machine._memoize,
    "LONG_BINPUT": Machine._memoize,
    "BINGET": Machine._recall,
    "LONG_BINGET": Machine._recall,
    "MARK": Machine._mark,
    "TUPLE": lambda machine, _: machine._tuple(machine._to_mark()),
    "TUPLE1": lambda machine, _: machine._tuple(machine._take(1)),
    "TUPLE2": lambda machine, _: machine._tuple(machine._take(2)),
    "TUPLE3": lambda machine, _: machine._tuple(machine._take(3)),
    "APPEND": lambda machine, _: machine._append(machine._take(1)),
    "APPENDS": lambda machine, _: machine._append(machine._to_mark()),
    "ADDITEMS": lambda machine, _: machine._add(machine._to_mark()),
    "SETITEM": lambda machine, _: machine._set(machine._take(2)),
    "SETITEMS": lambda machine, _: machine._set(machine._to_mark()),
}
"""Opcodes that change what stands on the stack."""
IGNORED = frozenset(["PROTO", "FRAME", "STOP", "GLOBAL"])
