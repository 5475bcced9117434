"""A `python` for tests that run many commands: torch and MONAI are imported once.

    python tests/warm_python.py --serve SOCKET
    ALIGNFLOW_WARM=SOCKET python tests/warm_python.py -m MODULE [ARGUMENT ...]

The second form has the first run the module in a child of its own, with its own arguments, working
directory, environment, input and output, and ends with the child's exit status. Each command so
starts in a fresh process, without the seconds that imports take.
"""

import json
import os
import runpy
import socket
import struct
import sys
import traceback


def ask(path, arguments):
    """Have the server run a command; its exit status."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        message = {"arguments": arguments, "cwd": os.getcwd(), "environment": dict(os.environ)}
        content = json.dumps(message).encode()
        socket.send_fds(connection, [struct.pack("!I", len(content))], [0, 1, 2])
        connection.sendall(content)
        return struct.unpack("!i", connection.recv(4, socket.MSG_WAITALL))[0]


def serve(path):
    """Answer commands, one after the other, until killed."""
    import monai.bundle  # noqa: F401
    import torch

    import alignflow.alignment.reward  # noqa: F401
    import alignflow.config  # noqa: F401
    import alignflow.networks.velocity  # noqa: F401

    torch.set_num_threads(1)  # a child has no threads of its parent's pool
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        while True:
            connection, _ = server.accept()
            with connection:
                header, files, _, _ = socket.recv_fds(connection, 4, 3)
                content = connection.recv(struct.unpack("!I", header)[0], socket.MSG_WAITALL)
                status = run_in_child(json.loads(content), files)
                connection.sendall(struct.pack("!i", status))


def run_in_child(message, files):
    """Exit status of the command."""
    child = os.fork()
    if not child:
        os._exit(run_here(message, files))
    for number in files:
        os.close(number)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run_here(message, files):
    """Become that command; its exit status."""
    for target, number in enumerate(files):
        os.dup2(number, target)
    os.chdir(message["cwd"])
    os.environ.clear()
    os.environ.update(message["environment"])
    flag, module, *arguments = message["arguments"]
    assert flag == "-m", message["arguments"]
    sys.argv = [module, *arguments]
    sys.path.insert(0, message["cwd"])
    status = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException as error:
        if sys.excepthook is sys.__excepthook__:
            traceback.print_exc()
        else:
            sys.excepthook(type(error), error, error.__traceback__)
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return status


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2])
    raise SystemExit(ask(os.environ["ALIGNFLOW_WARM"], sys.argv[1:]))
