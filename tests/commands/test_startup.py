import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module", ["cli", "commands.sweep", "commands.run_folder", "evaluation.summary", "data"]
)
def test_what_every_command_imports_does_not_bring_torch(module):
    """Help, typos and refused commands must not wait for it."""
    code = f"import sys, mpoxcv.{module}; print({{'torch', 'lightning'}} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
