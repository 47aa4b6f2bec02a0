"""Our pretraining step beside a plain eager one of the same mathematics.

    python benchmarks/yardstick.py --batch_size 16 --pairs 3 --json FILE

The plain model is what one would write: `nn.Linear`, attention whose weights are all
there, the whole batch at once, autocast to bfloat16. It takes our weights, and must
give our loss. Its allocator is tamed as ours is. Each lives in a process of its own, so
that the memory of each is known, and they take steps in turn, so that whatever else the
machine does falls on both; where others share it, processor time is what counts.
`--profile` says where the time of each goes.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from spectralgpt.benchmarks.measurement import describe_machine, git_commit
from spectralgpt.building import build_autoencoder
from spectralgpt.models.cpu import keep_freed_memory, peak_rss_bytes
from spectralgpt.models.mae import MaskedAutoencoder
from spectralgpt.models.tokens import TokenGrid, patchify

KINDS = ("ours", "plain")
TIMES = ("seconds", "processor_seconds")
RATIO = 0.9
GIGA = 1e9
LISTED = 12


def plain_linear(ours: nn.Linear) -> nn.Linear:
    """Give our weights to PyTorch's own map."""
    made = nn.Linear(ours.in_features, ours.out_features)
    made.load_state_dict(ours.state_dict())
    return made


class PlainBlock(nn.Module):
    """A transformer block that keeps all it computes."""

    def __init__(self, ours: Any) -> None:
        super().__init__()
        self.heads = ours.attn.num_heads
        self.norm1, self.norm2 = ours.norm1, ours.norm2
        self.qkv, self.proj = (
            plain_linear(each) for each in (ours.attn.qkv, ours.attn.proj)
        )
        self.mlp = nn.Sequential(
            plain_linear(ours.mlp.fc1), nn.GELU(), plain_linear(ours.mlp.fc2)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, D) to the same shape."""
        B, N, D = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(B, N, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()
        weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1)
        mixed = (weights @ v).transpose(1, 2).reshape(B, N, D)
        x = x + self.proj(mixed)
        mapped: Tensor = self.mlp(self.norm2(x))
        return x + mapped


class Plain(nn.Module):
    """The masked autoencoder and both of its losses, as plainly as can be."""

    def __init__(self, ours: MaskedAutoencoder) -> None:
        super().__init__()
        encoder, decoder = ours.encoder, ours.decoder
        self.places = nn.ModuleList([encoder.positions, decoder.positions])
        self.embedding, self.into = encoder.embedding, plain_linear(decoder.embedding)
        self.mask_token = decoder.mask_token
        self.encoder, self.decoder = (
            nn.Sequential(*map(PlainBlock, each.blocks)) for each in (encoder, decoder)
        )
        self.norms = nn.ModuleList([encoder.norm, decoder.norm])
        self.prediction = plain_linear(decoder.prediction)

    def forward(self, images: Tensor, noise: Tensor) -> Tensor:
        """Give the loss of images (B, C, H, W), masked by noise (B, N)."""
        grid = TokenGrid.of(images, patch_size=8, bands_per_token=3)
        tokens = patchify(images, grid)  # (B, N, S * P * P)
        order = noise.argsort(dim=1)
        visible = order[:, : int(grid.num_tokens * (1 - RATIO))]
        rows = torch.arange(len(images))[:, None]
        x = self.embedding(tokens[rows, visible]) + self.places[0](grid)[visible]
        known = self.into(self.norms[0](self.encoder(x)))
        x = self.mask_token.expand(len(images), grid.num_tokens, -1)
        index = visible[..., None].expand_as(known)
        x = x.to(known.dtype).scatter(1, index, known) + self.places[1](grid)
        predicted = self.prediction(self.norms[1](self.decoder(x)))
        is_masked = torch.ones_like(noise).scatter(1, visible, 0.0)
        by_token = ((predicted - tokens) ** 2).mean(dim=-1)
        apart = (predicted - tokens).unflatten(1, (grid.groups, -1)).sum(dim=1)
        return (by_token * is_masked).sum() / is_masked.sum() + (apart**2).mean()


class Trainer:
    """Steps of one of the two, on random images."""

    def __init__(self, kind: str, size: str, batch_size: int) -> None:
        keep_freed_memory()
        torch.manual_seed(0)
        ours = build_autoencoder(size, image_size=96, num_bands=12)
        self.model = ours if kind == "ours" else Plain(ours)
        self.is_ours = kind == "ours"
        self.images = torch.rand(batch_size, 12, 96, 96)
        self.noise = torch.rand(batch_size, 576)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), fused=True)

    def step(self) -> dict[str, Any]:
        """Take a step of training; returns its time, its loss and the memory so far."""
        start, worked = time.perf_counter(), time.process_time()
        with torch.autocast("cpu", torch.bfloat16):
            if self.is_ours:
                loss = self.model(self.images, RATIO, self.noise).loss
            else:
                loss = self.model(self.images, self.noise)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return {
            "seconds": time.perf_counter() - start,
            "processor_seconds": time.process_time() - worked,
            "loss": float(loss.detach()),
            "peak_rss_bytes": peak_rss_bytes(),
        }

    def profile(self) -> list[tuple[str, float]]:
        """Give the operators that a step's own time goes to, seconds each."""
        with profile(activities=[ProfilerActivity.CPU]) as found:
            self.step()
        events = sorted(
            found.key_averages(), key=lambda e: e.self_cpu_time_total, reverse=True
        )
        return [(e.key, e.self_cpu_time_total / 1e6) for e in events[:LISTED]]


def serve(kind: str, size: str, batch_size: int) -> None:
    """Take a step for each line that comes in, or write a profile."""
    trainer = Trainer(kind, size, batch_size)
    for line in sys.stdin:
        wanted = line.strip()
        answer = trainer.profile() if wanted == "profile" else trainer.step()
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def ask(process: "subprocess.Popen[str]", what: str = "step") -> Any:
    """Ask a process for a step."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(what + "\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--size", default="base")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.kind:
        serve(given.kind, given.size, given.batch_size)
        return
    options = ["--size", given.size, "--batch_size", str(given.batch_size)]
    processes = {
        kind: subprocess.Popen(
            [sys.executable, __file__, "--kind", kind, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for kind in KINDS
    }
    first = {kind: ask(each) for kind, each in processes.items()}  # Warms up.
    pairs = [{k: ask(p) for k, p in processes.items()} for _ in range(given.pairs)]
    result = {
        "settings": {"size": given.size, "batch_size": given.batch_size},
        "threads": torch.get_num_threads(),
        "losses": {kind: first[kind]["loss"] for kind in KINDS},
        **{
            name: {kind: [p[kind][name] for p in pairs] for kind in KINDS}
            for name in TIMES
        },
        "plain_over_ours": {
            name: statistics.median(p["plain"][name] / p["ours"][name] for p in pairs)
            for name in TIMES
        },
        "peak_rss_gb": {k: pairs[-1][k]["peak_rss_bytes"] / GIGA for k in KINDS},
        "machine": describe_machine(torch.device("cpu")),
        "git_commit": git_commit(),
    }
    if given.profile:
        result["profile"] = {k: ask(p, "profile") for k, p in processes.items()}
    for each in processes.values():
        assert each.stdin is not None
        each.stdin.close()
        each.wait()
    text = json.dumps(result, indent=1)
    sys.stdout.write(text + "\n")
    if given.json:
        given.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
