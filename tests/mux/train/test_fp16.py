"""Dynamic loss scaling on the CPU, which DeepSpeed only does where the accelerator is told that it can."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.processes

TRAIN = """
import json, sys
import torch
from deepspeed.accelerator import get_accelerator
type(get_accelerator()).is_fp16_supported = lambda self: True  # tests only
from mux.model import MuxConfig, MuxForPreTraining
from mux.train.engine import Engine, Ranks

ranks = Ranks(60)
torch.manual_seed(0)
model = MuxForPreTraining(MuxConfig(num_instances=2, vocab_size=50, hidden_size=32, num_hidden_layers=1,
                                    num_attention_heads=2, intermediate_size=64, max_position_embeddings=16))
config = {"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1, "gradient_clipping": 1.0,
          "zero_optimization": {"stage": int(sys.argv[1])}, "zero_allow_untested_optimizer": True,
          "fp16": {"enabled": True, "loss_scale": 0, "initial_scale_power": 24, "hysteresis": 1}}
engine = Engine(model, config, weight_decay=0.0, betas=(0.9, 0.999), epsilon=1e-6)
ids = torch.randint(5, 50, (4, 8))
before = {name: tensor.clone() for name, tensor in engine.whole_weights().items()}
steps = []
for index in range(60):
    out = engine.forward(ids, retrieval_labels=ids, retrieval_slots=torch.zeros(2, 8, dtype=torch.long))
    engine.backward(out.loss)
    step = engine.step(1e-3)
    weights = engine.whole_weights()
    steps.append([float(out.loss), step.loss_scale, step.skipped,
                  any(not torch.equal(before[name], weights[name]) for name in before)])
    before = {name: tensor.clone() for name, tensor in weights.items()}
print("RESULT" + json.dumps(steps), flush=True)
ranks.leave(0)
"""


@pytest.mark.parametrize("zero_stage", [1, 2, 3])  # the recipe refuses fp16 at ZeRO 0
def test_overflow_skips_the_step_and_halves_the_scale(zero_stage):
    environment = os.environ | {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1",
                                "MASTER_PORT": str(29_400 + zero_stage), "DS_ACCELERATOR": "cpu"}
    done = subprocess.run([sys.executable, "-c", TRAIN, str(zero_stage)], env=environment, capture_output=True,
                          text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    steps = json.loads(done.stdout.split("RESULT")[1].splitlines()[0])
    losses, scales, skipped, moved = zip(*steps, strict=True)
    assert skipped[0] == 1 and not moved[0]  # 2^24 overflows fp16: the first step is skipped, the weights stay
    assert scales[0] < 2.0**24
    assert skipped[-1] < 30 and moved[-1]
    assert [now > before for before, now in zip((0, *skipped), skipped, strict=False)] == [not m for m in moved]
    assert losses[-1] < losses[0] - 0.5
