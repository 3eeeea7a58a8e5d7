"""Reads pickles that hold plain data only, without Python's unpickler.

`pickletools` decodes the opcodes, executing nothing, and a small machine interprets them. It has no
way to import, to look up an attribute or to set one; a global is a mere name, and a call reaches
only the functions it was given.
"""

import pickletools
from collections.abc import Callable, Mapping
from typing import Any

VALUES = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
FIXED_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
MAX_OPCODES = 5_000_000
MAX_NAME = 1024


class Refused(ValueError):
    """The pickle asks for something else than plain data."""


class Damaged(ValueError):
    """The bytes are not a whole pickle."""


class Global(str):
    """The dotted name of a global that a pickle mentions; nothing is imported."""


def load(
    stream: Any,
    calls: Mapping[str, Callable[..., Any]],
    names: frozenset[str],
    persistent: Callable[[Any], Any],
) -> Any:
    """One pickle from a stream (bytes, or a file read exactly up to the end of the pickle).

    calls: what the pickle may call, by dotted name; names: what it may mention but not call;
    persistent: gives the object of a persistent id.
    """
    machine = _Machine(calls, names, persistent)
    opcodes = pickletools.genops(stream)
    for _ in range(MAX_OPCODES):
        try:
            opcode, argument, _ = next(opcodes)
        except ValueError as error:
            raise Damaged(f"the pickle is cut short or damaged ({error})") from None
        machine.opcodes += 1
        if opcode.name == "STOP":
            return machine.result()
        machine.step(opcode.name, argument)
    raise Refused(f"refused a pickle of more than {MAX_OPCODES} opcodes")


def shown(value: Any) -> str:
    """A value in an error. Containers by type alone: they may nest so that printing never ends."""
    if isinstance(value, str):
        return repr(str(value[:80]))
    if isinstance(value, int) and value.bit_length() < 128:
        return repr(value)
    return f"a {type(value).__name__}"


def check_key(key: Any) -> None:
    """Names and small numbers only: a nested tuple as key could take forever to hash."""
    if isinstance(key, str) and len(key) <= MAX_NAME:
        return
    if isinstance(key, int) and key.bit_length() < 64:
        return
    raise Refused(f"refused the dictionary key {shown(key)}")


class _Machine:
    def __init__(
        self,
        calls: Mapping[str, Callable[..., Any]],
        names: frozenset[str],
        persistent: Callable[[Any], Any],
    ):
        self.calls, self.names, self.persistent = calls, names, persistent
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under each open mark
        self.memo: dict[int, Any] = {}
        self.opcodes = 0
        self.handed = 0  # to calls, in all

    def step(self, name: str, argument: Any) -> None:
        if name in VALUES:
            self.stack.append(argument)
        elif name in CONSTANTS:
            self.stack.append(CONSTANTS[name])
        elif name in FIXED_TUPLES:
            count = FIXED_TUPLES[name]
            self.stack.append(tuple(self._pop() for _ in range(count))[::-1])
        elif name in ("BINGET", "LONG_BINGET"):
            if argument not in self.memo:
                raise Damaged(f"the pickle recalls entry {argument}, which it never stored")
            self.stack.append(self.memo[argument])
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self._top()
        elif name not in ("PROTO", "FRAME"):
            if name not in ACTIONS:
                raise Refused(f"refused the pickle opcode {name}")
            ACTIONS[name](self, *([] if argument is None else [argument]))

    def result(self) -> Any:
        if len(self.stack) != 1 or self.below:
            raise Damaged("the pickle ends with its stack unbalanced")
        return self.stack[0]

    def _pop(self) -> Any:
        if not self.stack:
            raise Damaged("the pickle takes more from its stack than it put there")
        return self.stack.pop()

    def _top(self, kind: type = object) -> Any:
        if not self.stack:
            raise Damaged("the pickle takes more from its stack than it put there")
        if not isinstance(self.stack[-1], kind):
            found = type(self.stack[-1]).__name__
            raise Refused(f"refused a pickle that treats a {found} as a {kind.__name__}")
        return self.stack[-1]

    def _since_mark(self) -> list[Any]:
        if not self.below:
            raise Damaged("the pickle closes a mark it never opened")
        items, self.stack = self.stack, self.below.pop()
        return items

    def _set(self, target: dict, items: list[Any]) -> None:
        if len(items) % 2:
            raise Damaged("the pickle has a dictionary key without a value")
        for key, value in zip(items[::2], items[1::2]):
            check_key(key)
            target[key] = value

    def _mark(self):
        self.below.append(self.stack)
        self.stack = []

    def _pop_mark(self):
        self._since_mark()

    def _memoize(self):
        self.memo[len(self.memo)] = self._top()

    def _tuple(self):
        items = self._since_mark()
        self.stack.append(tuple(items))

    def _list(self):
        items = self._since_mark()
        self.stack.append(items)

    def _empty_list(self):
        self.stack.append([])

    def _append(self):
        item = self._pop()
        self._top(list).append(item)

    def _appends(self):
        items = self._since_mark()
        self._top(list).extend(items)

    def _empty_dict(self):
        self.stack.append({})

    def _dict(self):
        items = self._since_mark()
        self.stack.append({})
        self._set(self.stack[-1], items)

    def _setitem(self):
        value, key = self._pop(), self._pop()
        self._set(self._top(dict), [key, value])

    def _setitems(self):
        items = self._since_mark()
        self._set(self._top(dict), items)

    def _global(self, argument: str):
        module, _, name = argument.partition(" ")
        self._mention(module, name)

    def _stack_global(self):
        name, module = self._pop(), self._pop()
        if type(name) is not str or type(module) is not str:
            raise Refused("refused a global whose name is not a string")
        self._mention(module, name)

    def _mention(self, module: str, name: str):
        dotted = f"{module}.{name}"
        if dotted not in self.calls and dotted not in self.names:
            raise Refused(f"refused the global {shown(dotted)}")
        self.stack.append(Global(dotted))

    def _reduce(self):
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, Global) or function not in self.calls:
            raise Refused(f"refused to call {shown(function)}")
        if not isinstance(arguments, tuple):
            raise Refused(f"refused to call {function} with no tuple of arguments")
        self._count_handed(arguments)
        try:
            self.stack.append(self.calls[function](*arguments))
        except (TypeError, ValueError, OverflowError) as error:
            raise Damaged(f"{function} with arguments that do not fit ({error})") from None

    def _count_handed(self, arguments: tuple):
        """What is built takes an opcode for each of its parts, unless one part is handed over many times."""
        self.handed += len(arguments)
        self.handed += sum(len(part) for part in arguments if isinstance(part, (tuple, list, dict)))
        if self.handed > self.opcodes:
            raise Refused(
                f"refused a pickle that would grow: its calls are handed {self.handed} values, which is more"
                f" than the pickle itself has ({self.opcodes} opcodes)"
            )

    def _build(self):
        # PyTorch hangs version numbers on its ordered dictionaries; nothing here needs them.
        self._pop()
        self._top(dict)

    def _binpersid(self):
        self.stack.append(self.persistent(self._pop()))


ACTIONS: dict[str, Callable[..., None]] = {
    "MARK": _Machine._mark,
    "POP_MARK": _Machine._pop_mark,
    "MEMOIZE": _Machine._memoize,
    "TUPLE": _Machine._tuple,
    "LIST": _Machine._list,
    "EMPTY_LIST": _Machine._empty_list,
    "APPEND": _Machine._append,
    "APPENDS": _Machine._appends,
    "EMPTY_DICT": _Machine._empty_dict,
    "DICT": _Machine._dict,
    "SETITEM": _Machine._setitem,
    "SETITEMS": _Machine._setitems,
    "GLOBAL": _Machine._global,
    "STACK_GLOBAL": _Machine._stack_global,
    "REDUCE": _Machine._reduce,
    "BUILD": _Machine._build,
    "BINPERSID": _Machine._binpersid,
}
