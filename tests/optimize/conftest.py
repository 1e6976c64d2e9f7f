"""What these tests share can be imported by its name; the models of the profiles too."""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS / "optimize"), str(TESTS / "profiles")]
