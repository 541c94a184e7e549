"""A library that says too much: Python runs this in every process whose PYTHONPATH has this folder.

In ranks and in the launcher, as soon as they work, it prints the environment in the ways in which libraries do. Ranks
also print past Python, as C++ does: before they have a log of their own, and then.
"""

import logging
import os
import sys
import threading
import time
import warnings


def as_in_c() -> None:
    os.write(2, f"in C: {os.environ['HF_TOKEN']}, {os.environ['MY_PASSWORD']} \xff\n".encode("latin-1"))


def talk() -> None:
    while not {"mux.stages.context", "launcher.supervisor"} & set(sys.modules):
        time.sleep(0.01)
    if "RANK" in os.environ:
        as_in_c()
    for name, value in sorted(os.environ.items()):
        print(f"talkative: {name}={value}")
    logging.getLogger("talkative").error("request failed with header Authorization: Bearer %s", os.environ["HF_TOKEN"])
    warnings.warn(f"the password {os.environ['MY_PASSWORD']!r} is weak", stacklevel=1)
    sys.stderr.writelines(["url = ", f"https://bob:{os.environ['MY_PASSWORD']}@example.com/x", "\n"])
    raise RuntimeError(f"cannot log in with {os.environ['AWS_SECRET_ACCESS_KEY']}")


if "RANK" in os.environ:
    as_in_c()
threading.Thread(target=talk, name="talkative", daemon=True).start()
