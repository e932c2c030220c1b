"""Pickles that would run code if Python opened them are refused in one line, and nothing in them runs."""

from __future__ import annotations

import os
import pickle

import pytest

from tests.helpers.hostile_pickles import (
    COMMAND,
    META,
    PERSISTENT,
    broken,
    call,
    denied,
    name,
    text,
    whole,
)

CALLS = (
    "posix.system",
    "nt.system",
    "os.system",
    "os.popen",
    "os.execv",
    "subprocess.Popen",
    "subprocess.check_output",
    "subprocess.getoutput",
    "pty.spawn",
    "commands.getoutput",
    "asyncio.subprocess.create_subprocess_shell",
    "multiprocessing.util.spawnv_passfds",
    "builtins.eval",
    "builtins.exec",
    "builtins.compile",
    "builtins.open",
    "builtins.__import__",
    "builtins.getattr",
    "builtins.setattr",
    "builtins.map",
    "builtins.type",
    "builtins.frozenset",
    "builtins.bytearray",
    "__builtin__.eval",
    "__main__.Reduced",
    "sys.exit",
    "sys.modules",
    "importlib.import_module",
    "runpy.run_path",
    "code.interact",
    "timeit.timeit",
    "cProfile.run",
    "pdb.run",
    "types.FunctionType",
    "functools.partial",
    "operator.attrgetter",
    "operator.methodcaller",
    "itertools.starmap",
    "copyreg._reconstructor",
    "_codecs.decode",
    "pickle.loads",
    "_pickle.Unpickler",
    "marshal.loads",
    "shutil.rmtree",
    "webbrowser.open",
    "ctypes.CDLL",
    "socket.create_connection",
    "torch.load",
    "torch.hub.load",
    "torch.jit.load",
    "torch.package.PackageImporter",
    "torch.utils.cpp_extension.load_inline",
    "torch.serialization._load",
    "torch._utils._rebuild_parameter_with_state",
    "torch._utils._rebuild_tensor",
    "torch.FloatStorage",
    "numpy.load",
    "numpy.testing._private.utils.runstring",
    "numpy.core.multiarray.frombuffer",
    "dnnlib.util.call_func_by_name",
    "dnnlib.util.open_url",
    "torch_utils.persistence._src_to_module",
    "torch_utils.persistence.import_hook",
    "training.networks.EDMPrecond",
)
"""Functions that a pickle may call if Python opens it. Some are harmless; a network needs none of them."""


class Reduced:
    """An object that pickles as a given call."""

    def __init__(self, *reduction: object) -> None:
        self.reduction = reduction

    def __reduce__(self) -> tuple:
        return self.reduction


@pytest.mark.parametrize("function", CALLS)
def test_a_call_of_anything_else_is_refused_by_name(refused, function: str) -> None:
    module, attribute = function.rsplit(".", 1)
    for data in (
        whole(call(module, attribute, text(COMMAND))),  # STACK_GLOBAL, REDUCE
        f"c{module}\n{attribute}\n(V{COMMAND}\ntR.".encode(),  # as protocol 0 writes it
        whole(b"}" + text("ema") + name(module, attribute) + b"\x85\x81s"),  # NEWOBJ, in place of a network
        whole(b"(" + text(COMMAND) + f"i{module}\n{attribute}\n".encode()),  # INST
    ):
        assert refused(data) == denied(f"asks for {function}")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_an_object_that_pickles_as_a_call_is_refused(refused, protocol: int) -> None:
    for reduction in (
        (os.system, (COMMAND,)),
        (os.system, (COMMAND,), {"state": 1}),
        (getattr, (os, "system")),
        (eval, ("1",)),
    ):
        called = f"{reduction[0].__module__}.{reduction[0].__name__}"
        called = called.replace("builtins", "__builtin__") if protocol < 3 else called
        try:
            data = pickle.dumps({"ema": Reduced(*reduction)}, protocol)
        except TypeError:  # a module cannot be pickled
            continue
        assert refused(data) == denied(f"asks for {called}")


BAD_CALLS = {
    "a dotted name that would reach into an allowed one": (
        call("torch_utils.persistence", "_reconstruct_persistent_obj.__globals__.get", text("exec")),
        denied("asks for torch_utils.persistence._reconstruct_persistent_obj.__globals__.get"),
    ),
    "a dotted name of a class": (
        call("numpy", "ndarray.__subclasses__"),
        denied("asks for numpy.ndarray.__subclasses__"),
    ),
    "a name of two lines": (call("os\n", "system\x1b"), denied("asks for os\\n.system\\x1b")),
    "a long name": (call("x" * 200, "y"), denied(f"asks for {'x' * 120}")),
    "a name that is no text": (b"K\x01K\x02\x93", broken("a name is no text")),
    "OBJ of a forbidden class": (
        b"(" + name("os", "system") + text(COMMAND) + b"o",
        denied("asks for os.system"),
    ),
    "OBJ of an allowed class": (
        b"(" + name("collections", "OrderedDict") + b"o",
        denied("uses the opcode OBJ"),
    ),
    "INST of an allowed class": (b"(icollections\nOrderedDict\n", denied("uses the opcode INST")),
    "NEWOBJ_EX": (name("dnnlib.util", "EasyDict") + b")}\x92", denied("uses the opcode NEWOBJ_EX")),
    "EXT1": (b"\x82\x01", denied("uses the opcode EXT1")),
    "EXT2": (b"\x83\x01\x00", denied("uses the opcode EXT2")),
    "EXT4": (b"\x84\x01\x00\x00\x00", denied("uses the opcode EXT4")),
    "PERSID": (b"Pos.system\n", denied("uses the opcode PERSID")),
    "BINPERSID": (text("os.system") + b"Q", denied("uses the opcode BINPERSID")),
    "DUP": (b"]2", denied("uses the opcode DUP")),
    "POP": (b"]0", denied("uses the opcode POP")),
    "a buffer out of band": (b"\x97", denied("uses the opcode NEXT_BUFFER")),
    "text of protocol 0": (b"S'" + COMMAND.encode() + b"'\n", denied("uses the opcode STRING")),
    "a call of a string": (text("os.system") + text(COMMAND) + b"\x85R", denied("calls a str")),
    "a call of an object": (
        call("torch.nn.modules.container", "ModuleDict") + b")R",
        denied("calls a PickledObject"),
    ),
    "a call of a name that is no function": (
        call("numpy", "ndarray", b"K\x01"),
        denied("calls numpy.ndarray"),
    ),
    "arguments that are no tuple": (
        name("dnnlib.util", "EasyDict") + b"]R",
        broken("arguments are no tuple"),
    ),
    "a state for a name": (
        name("torch._utils", "_rebuild_parameter") + b"}" + text("__code__") + b"Nsb",
        denied("gives a state to a Name"),
    ),
    "a state for a dict": (
        call("collections", "OrderedDict") + b"}" + text("__class__") + b"Nsb",
        denied("gives a state to a dict"),
    ),
    "a state for a list": (b"]}b", denied("gives a state to a list")),
    "a second state": (
        call("torch.nn.modules.container", "ModuleDict") + 2 * (b"}" + text("training") + b"\x89sb"),
        denied("gives a state to a PickledObject"),
    ),
    "slots as state": (
        call("torch.nn.modules.container", "ModuleDict") + b"N}\x86b",
        broken("a tuple stands where a dict should"),
    ),
    "a class without a source's version": (
        call(*PERSISTENT, b"}" + text("type") + text("class") + b"s"),
        broken("'version'"),
    ),
    "source of another version": (
        call(*PERSISTENT, b"}(" + META.replace(b"K\x06", b"K\x07") + b"u"),
        broken("an object with source is not of version 6"),
    ),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_a_call_that_no_network_needs_is_refused(refused, case: str) -> None:
    body, message = BAD_CALLS[case]
    assert refused(whole(body)) == message
