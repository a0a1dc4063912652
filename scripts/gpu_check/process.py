"""process.py: one program with a time limit; its whole process group ends with it."""
import os
import signal
import subprocess
import time

TIMED_OUT = 124
NOT_STARTED = 127


def run(command, seconds, env, log):
    """Output goes behind what is in `log` -> (exit code, seconds). 124: the limit was reached, 127: it could not be started, below 0: a signal."""
    start = time.monotonic()
    with open(log, "ab") as file:
        try:
            process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=env, process_group=0)
        except OSError as error:
            file.write(f"{error}\n".encode())
            return NOT_STARTED, 0.0
        try:
            code = process.wait(timeout=max(seconds, 0.1))
        except subprocess.TimeoutExpired:
            code = TIMED_OUT
        finally:  # also when this program is ended: nothing of the group stays on the device
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
    return code, time.monotonic() - start


def tail(log, start=0, lines=3):
    """The last lines of a log, from byte `start` on."""
    with open(log, "rb") as file:
        file.seek(start)
        return file.read().decode(errors="replace").strip().splitlines()[-lines:]
