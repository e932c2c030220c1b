"""Interpret the opcodes of a pickle that write containers, numbers and named objects; import and call
nothing.

Python's own unpickler runs whatever a file asks for. Here a name in the file is only a key into a table of
our constructors. A name that is not in the table, or an opcode that data does not need, ends the reading.
"""

from __future__ import annotations

import dataclasses
import io
import mmap
import pickletools
from collections.abc import Callable, Mapping
from typing import IO, Any, cast

MAX_STEPS = 2_000_000
"""Maximum number of opcodes in a pickle.

A network's has a few hundred for each layer. One opcode may cost 200 bytes, those of an empty set.
"""


@dataclasses.dataclass(frozen=True)
class Name:
    """A name that a pickle may use; the object that it names is never imported."""

    text: str


Constructors = Mapping[str, Callable[..., Any] | None]
"""Names that a pickle may use, with the function to call in place of each; None if it may not be called."""


class Refused(Exception):
    """The pickle asks for something that data does not need; the message continues the file's name."""


class Machine:
    """Interpreter of one pickle, from the current position of its source.

    `give_state` fills an object that a constructor made with the state that follows it. `persistent` returns
    the object for an id; if it is None, the pickle may have no ids.
    """

    def __init__(
        self,
        source: io.BytesIO | mmap.mmap,
        constructors: Constructors,
        give_state: Callable[[Any, Any], None],
        persistent: Callable[[Any], Any] | None = None,
    ) -> None:
        self.source = source
        self.constructors = constructors
        self.give_state = give_state
        self.persistent = persistent
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the part of the stack under each mark
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Return the value that the pickle builds.

        Raise Refused, or any of the errors that broken data leads to.
        """
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
        if not isinstance(called, Name):
            raise Refused(f"calls a {type(called).__name__}")
        constructor = self.constructors[called.text]
        if constructor is None:
            raise Refused(f"calls {called.text}")
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

    def _pop_to_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.below.pop()
        return items

    def _pop(self, count: int) -> list[Any]:
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
    """Escape and shorten untrusted text, or an error, for a message; name the type of any other value."""
    text = str(value) if isinstance(value, (str, Exception)) else f"a {type(value).__name__}"
    return ascii(text)[1:-1][:120]


def keys(items: Any) -> set[str | int]:
    """Return the set of a list of keys; anything but a list of keys raises TypeError."""
    if not isinstance(items, list):
        raise TypeError(f"a {type(items).__name__} stands where a list should")
    return {_key(item) for item in items}


def _key(value: Any) -> str | int:
    # Networks have no other keys; hashing a tuple of a million levels would overflow the interpreter's stack.
    if not isinstance(value, (str, int)):
        raise TypeError(f"a {type(value).__name__} is a key")
    return value


NUMBERS = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT")
TEXTS = ("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
BYTES = ("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8")
LITERALS = frozenset((*NUMBERS, *TEXTS, *BYTES))
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
"""Opcodes that push a fixed value."""
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
    "TUPLE": lambda machine, _: machine._tuple(machine._pop_to_mark()),
    "TUPLE1": lambda machine, _: machine._tuple(machine._pop(1)),
    "TUPLE2": lambda machine, _: machine._tuple(machine._pop(2)),
    "TUPLE3": lambda machine, _: machine._tuple(machine._pop(3)),
    "APPEND": lambda machine, _: machine._append(machine._pop(1)),
    "APPENDS": lambda machine, _: machine._append(machine._pop_to_mark()),
    "ADDITEMS": lambda machine, _: machine._add(machine._pop_to_mark()),
    "SETITEM": lambda machine, _: machine._set(machine._pop(2)),
    "SETITEMS": lambda machine, _: machine._set(machine._pop_to_mark()),
}
"""Opcodes that change the stack."""
IGNORED = frozenset(["PROTO", "FRAME", "STOP", "GLOBAL"])
"""Opcodes that need no action, or none after `Machine.run` has looked up their name."""
