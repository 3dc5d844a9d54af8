"""The example of a language model with LoRA, in a short form."""

import re
import runpy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

peft = pytest.importorskip("peft")

EXAMPLE = Path(__file__).parent.parent / "examples" / "language_model.py"
ROLES = 9


def test_messages_hold_the_adapters_alone_and_the_base_stays(in_folder, monkeypatch, capsys):
    text = re.sub(r"^ROUNDS = \d+", "ROUNDS = 2", EXAMPLE.read_text(), flags=re.M)
    assert len(text.splitlines()) <= 120
    speech = "To be, or not to be, that is the question.\n" * 8
    (in_folder / "shakespeare").mkdir()
    (in_folder / "shakespeare" / "input.txt").write_text("\n\n".join(f"Role {one}:\n{speech}" for one in range(ROLES)))
    monkeypatch.setenv("COVEY_DATA", str(in_folder))
    Path("language_model.py").write_text(text)
    found = runpy.run_path("language_model.py", run_name="__main__")
    run, base = found["second"], load_file("base.safetensors")
    tensors = run.state_dict(3)
    trained = {name: tensor for name, tensor in tensors.items() if "lora_" in name}
    plain = {name.replace("base_model.model.", "").replace(".base_layer", ""): one for name, one in tensors.items()}
    assert all(torch.equal(plain[name], tensor) for name, tensor in base.items())
    assert all(tensor.abs().max() > 0 for tensor in trained.values())
    numbers = sum(tensor.numel() for tensor in trained.values())
    sent = run.summary()["totals"]["bytes_out"]
    assert 1.0 < sent / (2 * 8 * 2 * 4 * numbers) < 1.1  # Two rounds, eight nodes, two neighbours, four bytes a number.
    out = capsys.readouterr().out
    perplexity = [float(one) for one in re.findall(r"perplexity (\S+),", out)]
    assert perplexity[1] < perplexity[0] < len(found["CHARACTERS"])
