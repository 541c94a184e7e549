"""The encoder sizes of the paper's Table 7, for the recipe (which may not import torch) and the model alike."""

SIZES: dict[str, dict[str, int]] = {
    "TINY": {"layers": 2, "hidden": 128, "heads": 2, "intermediate": 512},  # for tests and the quickstart
    "SMALL": {"layers": 4, "hidden": 512, "heads": 8, "intermediate": 2048},
    "BASE": {"layers": 12, "hidden": 768, "heads": 12, "intermediate": 3072},
    "LARGE": {"layers": 24, "hidden": 1024, "heads": 16, "intermediate": 4096},
}
