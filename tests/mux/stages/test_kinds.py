"""Every kind of stage has its file, and a rank imports no more than it needs."""

import subprocess
import sys
from importlib import import_module

import pytest

from mux.recipe.keys import KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_runs(kind):
    assert callable(import_module(f"mux.stages.{kind}").run)


def test_pre_training_does_without_tables_of_data():
    code = "import sys, mux.worker, mux.stages.pretrain; print({'pandas', 'pyarrow', 'sklearn'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n")
