"""Weights in fp32 out of the shards of fp16 training, of every ZeRO stage; other precisions: tests/launcher."""

import json
import os
import socket
import subprocess
import sys

import pytest

pytestmark = pytest.mark.processes

TRAIN = """
import json, sys
from pathlib import Path
import torch
from deepspeed.accelerator import get_accelerator
type(get_accelerator()).is_fp16_supported = lambda self: True  # tests only
from mux import manifest as manifests
from mux.manifest import Identity
from mux.model import MuxConfig, MuxForPreTraining
from mux.train.checkpoint import Checkpoints
from mux.train.engine import Engine, Ranks, load_weights

ranks, equal = Ranks(60), {}
shape = MuxConfig(num_instances=2, vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
                  intermediate_size=64, max_position_embeddings=16)
ids = torch.randint(5, 50, (4, 8))
for zero_stage in (1, 2, 3):
    config = {"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1,
              "zero_optimization": {"stage": zero_stage}, "zero_allow_untested_optimizer": True,
              "fp16": {"enabled": True, "loss_scale": 0, "initial_scale_power": 8}}
    engine = Engine(MuxForPreTraining(shape), config, weight_decay=0.0, betas=(0.9, 0.999), epsilon=1e-6)
    for index in range(3):
        out = engine.forward(ids, retrieval_labels=ids, retrieval_slots=torch.zeros(2, 8, dtype=torch.long))
        engine.backward(out.loss)
        engine.step(1e-3)
    made = Checkpoints(Path(sys.argv[1]) / str(zero_stage), ranks, Identity("d", "s", 1, zero_stage, "fp16"), keep=1)
    made.save(engine, 3, {})
    made.wait()
    model = MuxForPreTraining(shape)
    load_weights(model, manifests.newest(made.folder), zero_stage)
    theirs = engine.whole_weights()
    equal[zero_stage] = all(torch.equal(tensor, theirs[name]) for name, tensor in model.state_dict().items())
    assert any(not torch.equal(tensor, tensor.half().float()) for tensor in theirs.values())
    try:
        load_weights(MuxForPreTraining(MuxConfig(**shape.to_diff_dict() | {"vocab_size": 60})),
                     manifests.newest(made.folder), zero_stage)
    except ValueError as error:
        assert "is not of this model" in str(error)
    else:
        raise AssertionError("another vocabulary was taken")
    engine.close()
print("RESULT" + json.dumps(equal), flush=True)
ranks.leave(0)
"""


def test_the_weights_are_those_of_the_optimizer(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1",
                                "MASTER_PORT": str(port), "DS_ACCELERATOR": "cpu"}
    done = subprocess.run([sys.executable, "-c", TRAIN, str(tmp_path)], env=environment, capture_output=True, text=True,
                          timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.split("RESULT")[1].splitlines()[0]) == {"1": True, "2": True, "3": True}
