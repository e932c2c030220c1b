"""Pickles that would do harm if Python opened them, or that are broken: each is refused in one line, and nothing in it runs."""

import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from distill.config.errors import UserError
from distill.networks.edm.published import read_network
from distill.publishing.convert import main as convert

ORACLES = Path(__file__).parents[1] / "oracles"
COMMAND = "touch executed"
DANGEROUS = {
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "subprocess.Popen",
    "exec",
    "compile",
    "import",
    "pickle.find_class",
    "socket.connect",
}
watched: list[str] | None = None


def watch(event: str, arguments: tuple) -> None:
    if watched is not None and event in DANGEROUS:
        watched.append(event)


sys.addaudithook(watch)


# What an attacker writes: opcodes of protocol 4.


def text(value: str) -> bytes:
    data = value.encode()
    return b"\x8c" + bytes([len(data)]) + data


def name(module: str, attribute: str) -> bytes:
    return text(module) + text(attribute) + b"\x93"


def call(module: str, attribute: str, *arguments: bytes) -> bytes:
    return name(module, attribute) + b"(" + b"".join(arguments) + b"tR"


def long(value: bytes) -> bytes:
    """Bytes of any length."""
    return b"B" + struct.pack("<I", len(value)) + value


def whole(body: bytes) -> bytes:
    return b"\x80\x04" + body + b"."


class Reduced:
    """An object whose pickle is whatever this says."""

    def __init__(self, *reduction: object) -> None:
        self.reduction = reduction

    def __reduce__(self) -> tuple:
        return self.reduction


def storage(numbers: int, old: bytes = b"", new: bytes = b"") -> bytes:
    """A call that loads torch's own bytes of so many zeros, some of the bytes replaced."""
    (data,) = torch.zeros(numbers)._typed_storage().__reduce__()[1]
    assert not old or old in data
    return call("torch.storage", "_load_from_bytes", long(data.replace(old, new)))


def tensor(stored: bytes, offset: int, size: int, stride: int) -> bytes:
    numbers = b"K" + bytes([offset]) + b"K" + bytes([size]) + b"\x85" + b"K" + bytes([stride]) + b"\x85"
    return call("torch._utils", "_rebuild_tensor_v2", stored, numbers, b"\x89", b"}")


EMPTY_ARRAY = call("numpy.core.multiarray", "_reconstruct", name("numpy", "ndarray"), b"K\x00\x85", b"C\x01b")
FLOAT = call("numpy", "dtype", text("f4"), b"\x89\x88")
SYSTEM = call("os", "system", text(COMMAND))
PERSISTENT = ("torch_utils.persistence", "_reconstruct_persistent_obj")
META = (
    text("type")
    + text("class")
    + text("version")
    + b"K\x06"
    + text("module_src")
    + text(f"import os; os.system('{COMMAND}')")
)
MODULE = (
    text("_init_args") + b")" + text("_parameters") + b"}" + text("_buffers") + b"}" + text("_modules") + b"}"
)


def network(class_name: str, *arguments: bytes) -> bytes:
    """{"ema": an object of this class, made with these arguments, without weights}."""
    state = text("state") + b"}(" + MODULE + text("_init_kwargs") + b"}(" + b"".join(arguments) + b"uu"
    return whole(
        b"}"
        + text("ema")
        + call(*PERSISTENT, b"}(" + META + text("class_name") + text(class_name) + state + b"u")
        + b"s"
    )


CALLS = [
    *[
        "posix.system",
        "nt.system",
        "os.system",
        "os.popen",
        "os.execv",
        "subprocess.Popen",
        "subprocess.check_output",
        "subprocess.getoutput",
    ],
    *[
        "pty.spawn",
        "commands.getoutput",
        "asyncio.subprocess.create_subprocess_shell",
        "multiprocessing.util.spawnv_passfds",
    ],
    *[
        "builtins.eval",
        "builtins.exec",
        "builtins.compile",
        "builtins.open",
        "builtins.__import__",
        "builtins.getattr",
        "builtins.setattr",
    ],
    *[
        "builtins.map",
        "builtins.type",
        "builtins.frozenset",
        "builtins.bytearray",
        "__builtin__.eval",
        "__main__.Reduced",
        "sys.exit",
        "sys.modules",
    ],
    *[
        "importlib.import_module",
        "runpy.run_path",
        "code.interact",
        "timeit.timeit",
        "cProfile.run",
        "pdb.run",
        "types.FunctionType",
    ],
    *[
        "functools.partial",
        "operator.attrgetter",
        "operator.methodcaller",
        "itertools.starmap",
        "copyreg._reconstructor",
        "_codecs.decode",
    ],
    *[
        "pickle.loads",
        "_pickle.Unpickler",
        "marshal.loads",
        "shutil.rmtree",
        "webbrowser.open",
        "ctypes.CDLL",
        "socket.create_connection",
    ],
    *[
        "torch.load",
        "torch.hub.load",
        "torch.jit.load",
        "torch.package.PackageImporter",
        "torch.utils.cpp_extension.load_inline",
    ],
    *[
        "torch.serialization._load",
        "torch._utils._rebuild_parameter_with_state",
        "torch._utils._rebuild_tensor",
        "torch.FloatStorage",
    ],
    *[
        "numpy.load",
        "numpy.testing._private.utils.runstring",
        "numpy.core.multiarray.frombuffer",
        "dnnlib.util.call_func_by_name",
    ],
    *[
        "dnnlib.util.open_url",
        "torch_utils.persistence._src_to_module",
        "torch_utils.persistence.import_hook",
        "training.networks.EDMPrecond",
    ],
]
"""Functions that a pickle may call where Python opens it; some are harmless, none is needed."""


@pytest.fixture(scope="module")
def imported() -> None:
    """What reading a network imports at the first time is imported."""
    read_network(ORACLES / "edm_tiny.pkl")


@pytest.fixture
def refused(imported: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Reads a file's bytes and returns the one line that refuses it, without its path, once nothing has run."""
    monkeypatch.chdir(tmp_path)

    def read(data: bytes) -> str:
        global watched
        path = tmp_path / "network.pkl"
        path.write_bytes(data)
        watched = []
        with pytest.raises(UserError) as error:
            read_network(path)
        events, watched = watched, None
        assert events == []
        assert [file.name for file in tmp_path.iterdir()] == ["network.pkl"]
        message = str(error.value)
        assert message.isprintable()
        assert message.startswith(f"{path}: ")
        assert len(message) < len(str(path)) + 250
        return message.removeprefix(f"{path}: ")

    return read


@pytest.mark.parametrize("function", CALLS)
def test_a_call_of_anything_else_is_refused_by_name(refused, function: str) -> None:
    module, attribute = function.rsplit(".", 1)
    for data in (
        whole(call(module, attribute, text(COMMAND))),  # STACK_GLOBAL, REDUCE
        f"c{module}\n{attribute}\n(V{COMMAND}\ntR.".encode(),  # as protocol 0 writes it
        whole(
            b"}" + text("ema") + name(module, attribute) + b"\x85\x81s"
        ),  # NEWOBJ, inside what would be a network
        whole(b"(" + text(COMMAND) + f"i{module}\n{attribute}\n".encode()),  # INST
    ):
        assert refused(data) == f"asks for {function}, which no network pickle does"


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_objects_that_say_how_they_are_made_are_refused(refused, protocol: int) -> None:
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
        except TypeError:  # a module is no argument that pickles
            continue
        assert refused(data) == f"asks for {called}, which no network pickle does"


BROKEN = "is broken or no network pickle"
BAD = {
    "a dotted name that would reach into an allowed one": (
        call("torch_utils.persistence", "_reconstruct_persistent_obj.__globals__.get", text("exec")),
        "asks for torch_utils.persistence._reconstruct_persistent_obj.__globals__.get, which no network pickle does",
    ),
    "a dotted name of a class": (
        call("numpy", "ndarray.__subclasses__"),
        "asks for numpy.ndarray.__subclasses__, which no network pickle does",
    ),
    "a name of two lines": (
        call("os\n", "system\x1b"),
        "asks for os\\n.system\\x1b, which no network pickle does",
    ),
    "a long name": (call("x" * 200, "y"), f"asks for {'x' * 120}, which no network pickle does"),
    "a name that is no text": (b"K\x01K\x02\x93", f"{BROKEN} (a name is no text)"),
    "OBJ of a forbidden class": (
        b"(" + name("os", "system") + text(COMMAND) + b"o",
        "asks for os.system, which no network pickle does",
    ),
    "OBJ of an allowed class": (
        b"(" + name("collections", "OrderedDict") + b"o",
        "uses the opcode OBJ, which no network pickle does",
    ),
    "INST of an allowed class": (
        b"(icollections\nOrderedDict\n",
        "uses the opcode INST, which no network pickle does",
    ),
    "NEWOBJ_EX": (
        name("dnnlib.util", "EasyDict") + b")}\x92",
        "uses the opcode NEWOBJ_EX, which no network pickle does",
    ),
    "EXT1": (b"\x82\x01", "uses the opcode EXT1, which no network pickle does"),
    "EXT2": (b"\x83\x01\x00", "uses the opcode EXT2, which no network pickle does"),
    "EXT4": (b"\x84\x01\x00\x00\x00", "uses the opcode EXT4, which no network pickle does"),
    "PERSID": (b"Pos.system\n", "uses the opcode PERSID, which no network pickle does"),
    "BINPERSID": (text("os.system") + b"Q", "uses the opcode BINPERSID, which no network pickle does"),
    "DUP": (b"]2", "uses the opcode DUP, which no network pickle does"),
    "POP": (b"]0", "uses the opcode POP, which no network pickle does"),
    "a buffer out of band": (b"\x97", "uses the opcode NEXT_BUFFER, which no network pickle does"),
    "text of protocol 0": (
        b"S'" + COMMAND.encode() + b"'\n",
        "uses the opcode STRING, which no network pickle does",
    ),
    "a call of a string": (
        text("os.system") + text(COMMAND) + b"\x85R",
        "calls a str, which no network pickle does",
    ),
    "a call of an object": (
        call("torch.nn.modules.container", "ModuleDict") + b")R",
        "calls a PickledObject, which no network pickle does",
    ),
    "a call of a name that is no function": (
        call("numpy", "ndarray", b"K\x01"),
        "calls numpy.ndarray, which no network pickle does",
    ),
    "arguments that are no tuple": (
        name("dnnlib.util", "EasyDict") + b"]R",
        f"{BROKEN} (arguments are no tuple)",
    ),
    "a state for a name": (
        name("torch._utils", "_rebuild_parameter") + b"}" + text("__code__") + b"Nsb",
        "gives a state to a Name, which no network pickle does",
    ),
    "a state for a dict": (
        call("collections", "OrderedDict") + b"}" + text("__class__") + b"Nsb",
        "gives a state to a dict, which no network pickle does",
    ),
    "a state for a list": (b"]}b", "gives a state to a list, which no network pickle does"),
    "a second state": (
        call("torch.nn.modules.container", "ModuleDict") + 2 * (b"}" + text("training") + b"\x89sb"),
        "gives a state to a PickledObject, which no network pickle does",
    ),
    "slots as state": (
        call("torch.nn.modules.container", "ModuleDict") + b"N}\x86b",
        f"{BROKEN} (a tuple stands where a dict should)",
    ),
    "a class without a source's version": (
        call(*PERSISTENT, b"}" + text("type") + text("class") + b"s"),
        f"{BROKEN} ('version')",
    ),
    "source of another version": (
        call(*PERSISTENT, b"}(" + META.replace(b"K\x06", b"K\x07") + b"u"),
        f"{BROKEN} (an object with source is not of version 6)",
    ),
    "a storage of no class": (
        storage(3, b"ctorch\nFloatStorage\n", b"X\x01\x00\x00\x00x"),
        f"{BROKEN} (a str stands where a Name should)",
    ),
    "an array of objects": (
        call("numpy", "dtype", text("O8"), b"\x89\x88"),
        "has an array of O8, which no network pickle does",
    ),
    "an array of structures": (
        FLOAT + b"(K\x03" + text("<") + b"N)}t" + b"b",
        "has an array of structures, or not a little-endian one, which no network pickle does",
    ),
    "an array larger than its data": (
        EMPTY_ARRAY + b"(K\x01J\xff\xff\xff\x7f\x85" + FLOAT + b"\x89C\x04\x00\x00\x00\x00tb",
        f"{BROKEN} (cannot reshape array of size 1 into shape (2147483647,))",
    ),
    "a number of two numbers": (
        call("numpy.core.multiarray", "scalar", FLOAT, b"C\x08" + bytes(8)),
        f"{BROKEN} (too many values to unpack (expected 1))",
    ),
    "a storage that is a pickle with code": (
        call("torch.storage", "_load_from_bytes", long(whole(SYSTEM))),
        "asks for os.system, which no network pickle does",
    ),
    "a storage of a hostile class": (
        storage(3, b"ctorch\nFloatStorage\n", b"cposix\nsystem\n"),
        "asks for posix.system, which no network pickle does",
    ),
    "a module instead of a storage": (
        storage(3, b"X\x07\x00\x00\x00storage", b"X\x07\x00\x00\x00modules"),
        f"{BROKEN} (a storage is not of the size that it says)",
    ),
    "a storage in a zip file": (
        call("torch.storage", "_load_from_bytes", long(b"PK\x03\x04\n")),
        "uses the opcode PERSID, which no network pickle does",
    ),
    "a storage with something after it": (
        storage(1, bytes(4), bytes(4) + SYSTEM),
        f"{BROKEN} (a storage is not of the size that it says)",
    ),
    "a storage within a storage": (
        call("torch.storage", "_load_from_bytes", long(whole(storage(1)))),
        "asks for torch.storage._load_from_bytes, which no network pickle does",
    ),
    "a set of lists": (call("builtins", "set", b"]]a"), f"{BROKEN} (a list is a key)"),
    "a set of a number": (call("builtins", "set", b"K\x01"), f"{BROKEN} (a int stands where a list should)"),
    "bytes of another encoding": (
        call("_codecs", "encode", text("aaaa"), text("zlib")),
        "calls _codecs.encode with zlib, which no network pickle does",
    ),
    "bytes beyond latin1": (
        call("_codecs", "encode", text("\u0100"), text("latin1")),
        f"{BROKEN} ('latin-1' codec can't encode character '\\\\u0100' in position 0: ordinal not in range(256))",
    ),
    "a tensor larger than its storage": (
        tensor(storage(3), 0, 200, 0),
        f"{BROKEN} (a tensor has more numbers than its storage)",
    ),
    "an array of a buffer larger than the buffer": (
        call(
            "numpy.core.numeric",
            "_frombuffer",
            b"C\x04\x00\x00\x00\x00",
            FLOAT,
            b"J\xff\xff\xff\x7f\x85",
            text("C"),
        ),
        f"{BROKEN} (cannot reshape array of size 1 into shape (2147483647,))",
    ),
    "a tensor beyond its storage": (
        tensor(storage(3), 1, 3, 1),
        f"{BROKEN} (a tensor reaches beyond its storage)",
    ),
    "a tensor without a storage": (
        tensor(text("x"), 0, 1, 1),
        f"{BROKEN} (a str stands where a Tensor should)",
    ),
    "bytes of 4 EiB": (
        b"\x8e" + struct.pack("<Q", 2**62) + b"x",
        f"{BROKEN} (expected {2**62} bytes in a bytes8, but only 2 remain)",
    ),
    "text of 4 GiB": (
        b"X\xff\xff\xff\xff" + b"x",
        f"{BROKEN} (expected 4294967295 bytes in a unicodestring4, but only 2 remain)",
    ),
    "a key that is a list": (b"}]Ns", f"{BROKEN} (a list is a key)"),
    "a key of very many levels": (b"})" + b"\x85" * 10_000 + b"Ns", f"{BROKEN} (a tuple is a key)"),
    "a key without a value": (
        b"}(" + text("ema") + b"u",
        f"{BROKEN} (zip() argument 2 is shorter than argument 1)",
    ),
    "items for what is no list": (b"}(Ne", f"{BROKEN} (a dict stands where a list should)"),
    "a memory that nothing is in": (b"h\x07", f"{BROKEN} (7)"),
    "a mark left over": (b"(N", f"{BROKEN} (a mark is left over)"),
    "an empty stack": (b"", f"{BROKEN} (not enough values to unpack (expected 1, got 0))"),
    "a stack that is too low": (b"\x87", f"{BROKEN} (the stack is empty)"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_no_network_needs_is_refused(refused, case: str) -> None:
    body, message = BAD[case]
    assert refused(whole(body)) == message


SIZES = text("img_resolution") + b"K\x08" + text("img_channels") + b"K\x03"
NOT_A_NETWORK = {
    "an empty file": (b"", f"{BROKEN} (cannot mmap an empty file)"),
    "text": (b"hello\n", f"{BROKEN} (101)"),
    "a second pickle behind the first": (
        whole(b"}") + whole(SYSTEM),
        "goes on after its end, which no network pickle does",
    ),
    "no dict": (whole(b"]"), "holds no network under 'ema'"),
    "a dict without a network": (whole(b"}" + text("ema") + b"Ns"), "holds no network under 'ema'"),
    "a dict that holds itself": (whole(b"}\x94" + text("ema") + b"h\x00s"), "holds no network under 'ema'"),
    "an object without weights": (
        whole(b"}" + text("ema") + call("torch.nn.modules.container", "ModuleDict") + b"s"),
        "'ModuleDict' under 'ema' is no network with its arguments",
    ),
    "a module within itself": (
        whole(
            b"}"
            + text("ema")
            + call("torch.nn.modules.container", "ModuleDict")
            + b"\x94}("
            + MODULE
            + text("x")
            + b"h\x00subs"
        ),
        "'ModuleDict' under 'ema' is no network with its arguments",
    ),
    "an unknown class": (
        network("Evil", SIZES),
        "network class 'Evil' is unknown; expected one of EDMPrecond, VPPrecond, VEPrecond, iDDPMPrecond, EDMPrecond_EncoderDecoder, Precond, "
        "EDM_2_Precond_EncoderDecoder, EDM_2_Precond_Generator",
    ),
    "an unknown backbone": (
        network("EDMPrecond", SIZES, text("model_type"), text("os.system")),
        "model_type 'os.system' is unknown; expected one of DhariwalUNet, SongUNet",
    ),
    "an unknown argument": (
        network("VEPrecond", SIZES, text("hook"), text("x")),
        "VEPrecond has an argument 'hook', which is unknown",
    ),
    "a preconditioning without numbers": (
        network("EDMPrecond", SIZES, text("sigma_data"), b"]"),
        "sigma_data: expected numbers",
    ),
    "a backbone that is no name": (
        network("EDMPrecond", SIZES, text("model_type"), b"]"),
        "model_type 'a list' is unknown; expected one of DhariwalUNet, SongUNet",
    ),
    "an unknown decoder": (
        network("VPPrecond", SIZES, text("decoder_type"), text("skip")),
        "decoder_type is not standard, the only one known",
    ),
    "an unknown filter": (
        network("Precond", SIZES, text("resample_filter"), b"]"),
        "resample_filter is not [1, 1], the only one known",
    ),
    "a network too large to build": (
        network("EDMPrecond", SIZES, text("model_channels"), b"J\xff\xff\xff\x7f"),
        "width: expected whole numbers from 1 to 65536",
    ),
    "a network too deep to build": (
        network("EDMPrecond", SIZES, text("num_blocks"), b"J\xff\xff\xff\x7f"),
        "blocks: expected whole numbers from 1 to 64",
    ),
    "an embedding too large to build": (
        network("EDMPrecond", SIZES, text("channel_mult_emb"), b"M\xff\xff"),
        "embedding_multiplier: expected whole numbers from 1 to 64",
    ),
    "a large network without its weights": (
        network("EDMPrecond", SIZES, text("model_channels"), b"M\x00\x40"),
        "weights of another architecture: model.map_layer0.weight is nothing; expected (65536, 16384)",
    ),
}


@pytest.mark.parametrize("case", NOT_A_NETWORK)
def test_a_file_without_a_network_that_we_know_is_refused(refused, case: str) -> None:
    data, message = NOT_A_NETWORK[case]
    assert refused(data) == message


@pytest.mark.parametrize("kind", ["a storage", "bytes as text"])
def test_what_is_held_once_is_not_copied_without_end(refused, kind: str) -> None:
    """64 KiB that are mentioned 60 times would take 4 MiB; of a larger file it would be any amount."""
    held = (
        long(torch.zeros(16_384)._typed_storage().__reduce__()[1][0])
        if kind == "a storage"
        else b"X" + struct.pack("<I", 65_536) + b"x" * 65_536
    )
    called = ("torch.storage", "_load_from_bytes") if kind == "a storage" else ("_codecs", "encode")
    further = b"" if kind == "a storage" else text("latin1")
    body = b"](" + held + b"\x94" + b"".join(call(*called, b"h\x00", further) for _ in range(60)) + b"e"
    assert refused(whole(body)) == "unpacks to many times its size, which no network pickle does"


def test_a_pickle_of_very_many_steps_is_refused(refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill.storage.pickles.machine.MAX_STEPS", 1000)
    assert refused(whole(b"N" * 1000)) == "has more than 1000 steps, which no network pickle does"


@pytest.mark.parametrize("length", [1, 2, 10, 100, 5_000, 50_000, 124_605])
def test_a_truncated_network_is_refused(refused, length: int) -> None:
    data = (ORACLES / "edm2_tiny.pkl").read_bytes()
    assert len(data) == 124_606
    assert refused(data[:length]).startswith(f"{BROKEN} (")


@pytest.mark.parametrize("place", range(0, 124_606, 6_007))
def test_a_damaged_network_is_refused_or_read_but_never_run(tmp_path: Path, place: int) -> None:
    data = bytearray((ORACLES / "edm2_tiny.pkl").read_bytes())
    data[place] ^= 0xFF
    path, messages = tmp_path / "network.pkl", []
    path.write_bytes(data)
    try:
        read_network(path)
    except UserError as error:
        messages.append(str(error))
    assert all(message.isprintable() for message in messages)


def test_a_hostile_file_ends_the_command_with_nothing_written(refused, tmp_path: Path) -> None:
    refused(whole(SYSTEM))
    with pytest.raises(UserError, match=r"asks for os\.system"):
        convert([str(tmp_path / "network.pkl"), str(tmp_path / "out")])
    assert [file.name for file in tmp_path.iterdir()] == ["network.pkl"]


def test_the_command_refuses_a_network_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "network.pkl"
    path.write_bytes(network("Precond", SIZES, text("clip_act"), text("none")))
    command = [sys.executable, "-m", "distill", "convert", str(path), str(tmp_path / "out")]
    run = subprocess.run(command, cwd=ORACLES.parents[1], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (
        2,
        "",
        f"error: {path}: largest_activation: expected a number\n",
    )
