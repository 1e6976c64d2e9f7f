"""The examples of docs/grpc.md run."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import json_format
from reciting_model import END

from edgellama.grpc_service import generation_pb2 as pb

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "grpc.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
BODIES = re.findall(r"-d '(.*?)'", TEXT)


@pytest.mark.parametrize("code", PYTHON)
async def test_python_example(server, tool_server, reciting, code):
    reciting.learn('{"name": "get_weather", "parameters": {"city": "Rome"}}', END)
    target = tool_server if "tools=" in code else server  # an echo has no tools
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        code.replace("127.0.0.1:50051", target.address),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 0, err.decode()
    assert out


@pytest.mark.parametrize("body", BODIES)
def test_grpcurl_body_is_a_message(body):
    assert json_format.Parse(body, pb.GenerateRequest()).spec.WhichOneof("input")


def test_the_examples_were_found():
    assert (len(PYTHON), len(BODIES)) == (3, 2)
