"""The verbs that work on an engine, with one that `build` has made."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgellama.cli.__main__ import main

BOS = 256
PROMPT = (BOS, 72, 101, 108, 108, 111)
IDS = ",".join(map(str, PROMPT))


def run(*arguments: str, text: str | None = None) -> Result:
    return CliRunner().invoke(main, list(arguments), input=text)


def document(*arguments: str, text: str | None = None) -> dict[str, Any]:
    done = run(*arguments, "--json", text=text)
    assert done.exit_code == 0, done.output
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Any:
    """transformers' own model: what every number here is compared with."""
    transformers = pytest.importorskip("transformers")
    return transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype="float32").eval()


def test_the_report_of_a_build(built: dict[str, Any], engine: str) -> None:
    assert set(built) >= {"engine", "seconds", "peak_rss_bytes", "bytes", "verify"}
    assert built["skipped"] is False
    files = [path for path in Path(engine).iterdir() if path.name != "engine.json"]
    assert built["bytes"] == sum(path.stat().st_size for path in files)


def test_an_unchanged_build_is_skipped(engine: str, checkpoint: Path) -> None:
    options = ("--precision", "fp32", "--slots", "4", "--capacity", "96", "--out", engine)
    report = document("build", "cpu-tiny", "--model", str(checkpoint), *options)
    assert report["skipped"] is True


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The portable model."""
    out = tmp_path_factory.mktemp("exported") / "model"
    report = document("export", str(checkpoint), "--out", str(out))
    assert Path(report["model"]) == out
    return str(out)


def test_export_and_optimize_are_build(exported: str, engine: str, tmp_path: Path) -> None:
    options = ("--precision", "fp32", "--slots", "4", "--capacity", "96")
    out = str(tmp_path / "engine")
    arguments = ("optimize", exported, "--profile", "cpu-tiny", "--out", out, *options)
    assert document(*arguments)["skipped"] is False
    drawing = ("--token-ids", IDS, "--max-new-tokens", "24", "--temperature", "0")
    assert document("generate", out, *drawing) == document("generate", engine, *drawing)
    again = run(*arguments)
    assert again.exit_code == 0 and "unchanged" in again.stdout


def test_generate_draws_the_tokens_of_transformers(engine: str, model: Any) -> None:
    import torch

    with torch.no_grad():
        wanted = model.generate(
            torch.tensor([PROMPT]), max_new_tokens=24, do_sample=False, eos_token_id=-1
        )
    options = ("--max-new-tokens", "24", "--temperature", "0", "--ignore-eos")
    answer = document("generate", engine, "--token-ids", IDS, *options)
    assert set(answer) == {"token_ids", "text", "finish_reason", "usage"}
    assert answer["token_ids"] == wanted[0, len(PROMPT) :].tolist()
    assert answer["finish_reason"] == "max_tokens"
    assert answer["usage"]["prompt_tokens"] == len(PROMPT)
    assert answer["usage"]["output_tokens"] == 24


def test_the_stream_is_the_text_of_the_document(engine: str) -> None:
    options = ("--max-new-tokens", "20", "--temperature", "0", "--prompt", "Hello")
    assert (
        run("generate", engine, *options).stdout
        == document("generate", engine, *options)["text"] + "\n"
    )


def test_a_seed_repeats_a_drawn_answer(engine: str) -> None:
    options = ("--prompt", "Hello", "--max-new-tokens", "16", "--temperature", "1.5")
    first, again, other = (
        document("generate", engine, *options, "--seed", seed)["token_ids"]
        for seed in ("7", "7", "8")
    )
    assert first == again != other


def test_logprobs_are_those_of_transformers(engine: str, model: Any) -> None:
    import torch

    options = ("--max-new-tokens", "3", "--temperature", "0", "--logprobs", "2", "--ignore-eos")
    answer = document("generate", engine, "--token-ids", IDS, *options)
    with torch.no_grad():
        ids = torch.tensor([[*PROMPT, *answer["token_ids"]]])
        rows = torch.log_softmax(model(ids).logits[0].float(), dim=-1)
    assert len(answer["logprobs"]) == 3
    for position, entry in enumerate(answer["logprobs"], start=len(PROMPT) - 1):
        wanted = float(rows[position, entry["token_id"]])
        assert entry["logprob"] == pytest.approx(wanted, abs=1e-3)
        assert [top["token_id"] for top in entry["top"]] == rows[position].topk(2).indices.tolist()


def test_prompt_logprobs_are_those_of_transformers(engine: str, model: Any) -> None:
    import torch

    prompt = [BOS, *b"A prompt of more than one chunk of the engine: " * 2][:85]
    ids = ("--token-ids", ",".join(map(str, prompt)))
    options = ("--max-new-tokens", "2", "--temperature", "0", "--prompt-logprobs", "2")
    answer = document("generate", engine, *ids, *options)
    with torch.no_grad():
        rows = torch.log_softmax(model(torch.tensor([prompt])).logits[0].float(), dim=-1)
    first, *others = answer["prompt_logprobs"]
    assert first is None and len(others) == len(prompt) - 1
    for position, entry in enumerate(others):
        wanted = float(rows[position, prompt[position + 1]])
        assert entry["logprob"] == pytest.approx(wanted, abs=1e-3)
        assert [top["token_id"] for top in entry["top"]] == rows[position].topk(2).indices.tolist()
    plain = document("generate", engine, *ids, *options[:4])
    assert plain["token_ids"] == answer["token_ids"] and "prompt_logprobs" not in plain


def test_what_cannot_be_served_is_one_line(engine: str) -> None:
    too_long = run("generate", engine, "--prompt", "a", "--max-new-tokens", "5000")
    assert too_long.exit_code == 1 and "5000" in too_long.stderr
    unknown = run("generate", engine, "--token-ids", "1,999", "--json")
    assert unknown.exit_code == 1 and "999" in json.loads(unknown.stderr)["error"]["message"]
    assert unknown.stdout == ""


@pytest.mark.parametrize("verb", ["generate", "chat", "serve"])
def test_a_form_of_the_weights_is_refused_where_there_is_one(engine: str, verb: str) -> None:
    prompt = ("--prompt", "a") if verb == "generate" else ()
    done = run(verb, engine, *prompt, "--greedy-form", "first", text="a\n")
    assert done.exit_code == 1
    assert done.stderr.startswith("error: greedy_form is 'first', but engine ")
    assert done.stderr.endswith(
        "has one form of weights; leave it out, or build it with precision.batch_weights\n"
    )


def test_tools_that_the_template_would_not_show_are_refused(engine: str, tmp_path: Path) -> None:
    tools = tmp_path / "tools.json"
    tools.write_text('[{"name": "f", "parameters": {"type": "object", "properties": {}}}]')
    for verb in (("generate", engine, "--chat", "a"), ("chat", engine)):
        done = run(*verb, "--tools", str(tools), text="a\n")
        assert done.exit_code == 1 and done.stdout == ""
        assert done.stderr.startswith("error: chat.tools: is not known to the chat template")


def test_chat_remembers(engine: str) -> None:
    """The second turn's prompt holds the first turn and its answer."""
    options = ("--max-new-tokens", "5", "--temperature", "0")
    answers = document("chat", engine, *options, text="Hi\nYou\n\nnot read\n")["answers"]
    assert len(answers) == 2
    first, second = (answer["usage"]["prompt_tokens"] for answer in answers)
    assert first == 1 + len("[user]Hi[assistant]")
    assert second > first + len("[assistant][user]You")
    shown = run("chat", engine, *options, text="Hi\n").stdout
    assert shown == answers[0]["text"] + "\n"


def test_evaluate_is_the_perplexity_of_transformers(
    engine: str, model: Any, tmp_path: Path
) -> None:
    import torch

    from edgellama.runtime.text import TextCodec

    stories = ["Once upon a time.", "x" * 200, "The end."]
    text = tmp_path / "text"
    text.write_text("\n<|endoftext|>\n".join(stories), encoding="utf-8")
    options = ("--text", str(text), "--split", "<|endoftext|>")
    result = document("evaluate", engine, *options)
    codec = TextCodec.load(Path(engine))
    nll, tokens = 0.0, 0
    for story in stories:
        ids = torch.tensor([BOS, *codec.encode(story, add_special_tokens=False)][:96])
        with torch.no_grad():
            logits = model(ids[None]).logits[0, :-1].double()
        loss = torch.nn.functional.cross_entropy(logits, ids[1:], reduction="sum")
        nll, tokens = nll + float(loss), tokens + len(ids) - 1
    assert result["tokens"] == tokens == len(stories[0]) + 95 + len(stories[2])
    assert result["perplexity"] == pytest.approx(math.exp(nll / tokens), rel=1e-4)
    assert result["bits_per_byte"] == pytest.approx(nll / math.log(2) / tokens, rel=1e-4)
    few = document("evaluate", engine, *options, "--limit-documents", "1")
    assert few["tokens"] == len(stories[0])


def test_inspect_finds_an_altered_file(engine: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(engine, copy)
    whole = document("inspect", str(copy))
    assert whole["intact"] is True and whole["kv"]["slots"] == 4
    assert "4 slots x 96 tokens" in run("inspect", str(copy)).stdout
    with (copy / "tokenizer.json").open("a") as stream:
        stream.write(" ")
    done = run("inspect", str(copy))
    assert done.exit_code == 1 and "tokenizer.json" in done.stderr


def test_bench_latency(engine: str) -> None:
    options = ("--prompt-tokens", "8", "--output-tokens", "8", "--contexts", "16", "--rounds", "1")
    result = document("bench", "latency", engine, "--rows", "1,4", *options)
    one, four = result["requests"]
    assert (one["rows"], four["rows"]) == (1, 4)
    assert one["ttft_ms"]["n"] == 1 and four["ttft_ms"]["n"] == 4
    assert four["itl_ms"]["n"] == 4 * 7
    assert one["tokens_per_s"]["median"] > 0
    assert result["environment"]["packages"]["onnxruntime"]
    shown = run("bench", "latency", engine, "--rows", "2", "--no-ceilings", *options)
    assert shown.exit_code == 0 and "of memory" in shown.stdout and "ceilings" not in shown.stdout
    refused = run("bench", "latency", engine, "--rows", "5", *options)
    assert refused.exit_code == 1 and "4 slots" in refused.stderr


def test_evaluate_against_itself_finds_no_divergence(engine: str, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("Two foxes and a hen.", encoding="utf-8")
    result = document("evaluate", engine, "--text", str(text), "--reference", engine)
    assert result["kl_mean"] == result["kl_max"] == 0.0
    assert result["top1_agreement"] == 1.0


def test_evaluate_names_a_missing_text(engine: str) -> None:
    done = run("evaluate", engine, "--text", "/no/such/text")
    assert done.exit_code == 1
    assert done.stderr == "error: /no/such/text: No such file or directory\n"
