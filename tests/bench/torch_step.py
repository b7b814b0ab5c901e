#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Times the work of dino-pretrain bench and dino-eval bench in PyTorch, as the peer of tests/bench/run.sh.

    torch_step.py step    [--preset vits14] [--batch 8] [--precision fp32] [--threads N] [--steps 5] [--warmup 2]
                          [--device cuda] [--compile]
    torch_step.py forward [--preset vits14] [--batch 8] [--precision fp32] [--size 224] [--threads N] [--steps 5]
                          [--device cuda] [--compile]
    torch_step.py attention --kernel math|flash|cudnn [--batch 64] [--tokens 257] [--heads 16] [--steps 5] [--device cuda]

A step is the one of DINOv2 (arXiv 2304.07193) with drop path 0: the teacher on two global crops, the student on these
(half of them masked) and on the local crops; heads D-2048-2048-256-65536 with weight normalisation, one for class tokens
and one for masked patches; DINO and iBOT cross-entropies against Sinkhorn-Knopp targets, KoLeo; clipping per module,
fused AdamW, EMA of the teacher. PyTorch gets what is fastest for it: scaled_dot_product_attention per crop size, foreach
updates, and two parameter groups instead of one per layer. bf16 by autocast, with losses and Sinkhorn in f32. Eager, or
with --compile, which compiles blocks, heads and losses (blocks are alike, so that this takes a minute). On a GPU fp32
products are TF32's. Prints one line of JSON; fails when the losses of the first step are not those of an untrained network.
"""

import argparse
import json
import math
import resource
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn

PRESETS = {"vits14": (384, 12, 6), "vitb14": (768, 12, 12), "vitl14": (1024, 24, 16)}
PATCH, GRID, PROTOTYPES, HIDDEN, BOTTLENECK = 14, 37, 65536, 2048, 256
STUDENT_T, TEACHER_T, KOLEO_WEIGHT, CLIP = 0.1, 0.04, 0.1, 3.0


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.gamma1, self.gamma2 = (nn.Parameter(torch.full((width,), 1e-5)) for _ in range(2))

    def forward(self, x):
        n, tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(n, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(*qkv.unbind(0)).transpose(1, 2).reshape(n, tokens, width)
        x = x + self.gamma1 * self.proj(attended)
        return x + self.gamma2 * self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Vit(nn.Module):
    """Tokens [n, 1 + patches, width] after the final norm."""

    def __init__(self, width, depth, heads):
        super().__init__()
        self.patches = nn.Conv2d(3, width, PATCH, PATCH)
        self.cls_token = nn.Parameter(1e-6 * torch.randn(1, 1, width))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 1 + GRID * GRID, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        init_linear(self)

    def positions_for(self, side):
        table = self.positions[:, 1:].reshape(1, GRID, GRID, -1).permute(0, 3, 1, 2)
        scale = (side + 0.1) / GRID
        table = F.interpolate(table, scale_factor=(scale, scale), mode="bicubic", antialias=False)
        assert table.shape[-2:] == (side, side)
        return self.positions[:, :1], table.flatten(2).transpose(1, 2)

    def forward(self, images, masks=None):
        x = self.patches(images).flatten(2).transpose(1, 2)
        if masks is not None:
            x = torch.where(masks[..., None], self.mask_token, x)
        first, rest = self.positions_for(images.shape[-1] // PATCH)
        x = torch.cat([(self.cls_token + first).expand(len(x), -1, -1), x + rest], 1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class Head(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, BOTTLENECK)
        )
        init_linear(self)
        self.last = nn.utils.parametrizations.weight_norm(nn.Linear(BOTTLENECK, PROTOTYPES, bias=False))
        self.last.parametrizations.weight.original0.data.fill_(1)

    def forward(self, x):
        return self.last(F.normalize(self.mlp(x), dim=-1))


def init_linear(module):
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=0.02)
            nn.init.zeros_(part.bias)


class Network(nn.ModuleDict):
    def __init__(self, shape):
        super().__init__({"backbone": Vit(*shape), "dino": Head(shape[0]), "ibot": Head(shape[0])})


def sinkhorn(logits):
    """Rows sum to 1, columns (over the batch) to the same; three alternating normalisations."""
    q = ((logits - logits.max()) / TEACHER_T).exp_()
    for _ in range(3):
        q /= q.sum(0)
        q /= q.sum(1, keepdim=True)
    return q


def cross_entropy(targets, logits):
    return -(targets * F.log_softmax(logits / STUDENT_T, -1)).sum(-1)


def koleo(tokens):
    x = F.normalize(tokens, eps=1e-8, dim=-1)
    with torch.no_grad():
        nearest = (x @ x.T).fill_diagonal_(-1).argmax(1)
    return -(F.pairwise_distance(x, x[nearest], eps=1e-8) + 1e-8).log().mean()


def in_precision(options):
    return torch.autocast(options.device, dtype=torch.bfloat16, enabled=options.precision == "bf16")


def now(options):
    """After all that the device was given to do."""
    if options.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def compile_network(network):
    for part in network.modules():
        if isinstance(part, (Block, Head)):
            part.compile(dynamic=False)


def draw_masks(views, patches):
    """Half of the views, with the middles of equal strata of ratios in [0.1, 0.5]."""
    masks = torch.zeros(views, patches, dtype=torch.bool)
    count = views // 2
    for i, view in enumerate(torch.randperm(views)[:count]):
        masks[view, torch.randperm(patches)[: int(patches * (0.1 + 0.4 * (i + 0.5) / count))]] = True
    return masks


class Step:
    def __init__(self, options):
        shape = PRESETS[options.preset]
        self.images, self.locals, self.options = options.batch, 8, options
        self.student, self.teacher = Network(shape), Network(shape)
        self.teacher.load_state_dict(self.student.state_dict())
        self.teacher.requires_grad_(False)
        self.sinkhorn, self.cross_entropy = sinkhorn, cross_entropy
        if options.compile:
            compile_network(self.student), compile_network(self.teacher)
            self.sinkhorn, self.cross_entropy = (
                torch.compile(f, dynamic=False) for f in (sinkhorn, cross_entropy)
            )
        decayed = [p for name, p in self.student.named_parameters() if p.ndim > 1]
        others = [p for name, p in self.student.named_parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": 0.04}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-4, fused=True)
        self.student_list, self.teacher_list = list(self.student.parameters()), list(self.teacher.parameters())
        self.globals = torch.empty(2 * self.images, 3, 224, 224).uniform_(-1.73, 1.73)
        self.smalls = torch.empty(self.locals * self.images, 3, 98, 98).uniform_(-1.73, 1.73)

    def losses(self, masks):
        n, pairs = self.images, 2 * self.locals + 2
        chosen = masks.flatten().nonzero().flatten()
        with torch.no_grad():
            tokens = self.teacher["backbone"](self.globals)
            cls_targets = self.sinkhorn(self.teacher["dino"](tokens[:, 0]).float())
            patch_targets = self.sinkhorn(self.teacher["ibot"](tokens[:, 1:].flatten(0, 1)[chosen]).float())
        big, small = self.student["backbone"](self.globals, masks), self.student["backbone"](self.smalls)
        logits = self.student["dino"](torch.cat([small[:, 0], big[:, 0]])).float()
        views = cls_targets.view(2, n, -1)
        # A local crop learns from both views, CE(s, t1) + CE(s, t2) = CE(s, t1 + t2), a global one from the other view.
        both = self.cross_entropy(views.sum(0).expand(self.locals, -1, -1).flatten(0, 1), logits[: self.locals * n])
        other = self.cross_entropy(views.flip(0).flatten(0, 1), logits[self.locals * n :])
        dino = (both.sum() + other.sum()) / (n * pairs)
        per_patch = self.cross_entropy(patch_targets, self.student["ibot"](big[:, 1:].flatten(0, 1)[chosen]).float())
        weight = (masks / masks.sum(1, keepdim=True).clamp(min=1)).flatten()[chosen]
        ibot = (per_patch * weight).sum() / (2 * n)
        spread = KOLEO_WEIGHT * sum(koleo(view) for view in big[:, 0].float().chunk(2))
        return dino, ibot, spread

    def run(self, masks):
        with in_precision(self.options):
            dino, ibot, spread = self.losses(masks)
        (dino + ibot + spread).backward()
        for module in self.student.values():
            nn.utils.clip_grad_norm_(module.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_lerp_(self.teacher_list, self.student_list, 1 - 0.992)
        return dino.item(), ibot.item(), spread.item()


def check_start(dino, ibot, spread):
    """Prototypes are unit vectors: logits have the variance 1 / (bottleneck T^2), and an untrained student's mean
    cross-entropy against nearly uniform targets is ln K + half of it. Half of the views have an iBOT loss."""
    expected = math.log(PROTOTYPES) + 0.5 / (BOTTLENECK * STUDENT_T**2)
    for name, value, start in (("DINO", dino, expected), ("iBOT", ibot, expected / 2)):
        if not abs(value - start) < 0.05 * start:
            raise SystemExit(f"{name} loss starts at {value:.3f}, not near {start:.3f}: not the same graph")
    if not math.isfinite(spread):
        raise SystemExit("KoLeo is not finite")


def time_steps(options):
    step = Step(options)
    seconds, losses = [], []
    for _ in range(options.warmup + options.steps):
        masks = draw_masks(2 * options.batch, (224 // PATCH) ** 2)
        start = now(options)
        losses.append(step.run(masks))
        seconds.append(now(options) - start)
    check_start(*losses[0])
    if not all(map(math.isfinite, losses[-1])):
        raise SystemExit("the losses are not finite")
    names = ("dino", "ibot", "koleo")
    return seconds[options.warmup :], {"first": dict(zip(names, losses[0])), "last": dict(zip(names, losses[-1]))}


def time_forward(options):
    vit = Vit(*PRESETS[options.preset]).eval()
    if options.compile:
        compile_network(vit)
    images = torch.randn(options.batch, 3, options.size, options.size)
    seconds = []
    with torch.inference_mode(), in_precision(options):
        for _ in range(options.warmup + options.steps):
            start = now(options)
            tokens = vit(images)
            seconds.append(now(options) - start)
    if not torch.isfinite(tokens).all():
        raise SystemExit("the tokens are not finite")
    return seconds[options.warmup :], {}


def time_attention(options):
    """scaled_dot_product_attention alone, heads of 64, forward and then backward, in bf16. `math` is the naive one: two
    products around a softmax, with the matrix of scores in memory."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    kernels = {"math": SDPBackend.MATH, "flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
    shape = (options.batch, options.heads, options.tokens, 64)
    q, k, v = (torch.randn(shape, dtype=torch.bfloat16).requires_grad_() for _ in range(3))
    given = torch.randn(shape, dtype=torch.bfloat16)
    is_cuda = options.device == "cuda"
    before = torch.cuda.memory_allocated() if is_cuda else 0
    forward, backward, calls = [], [], 10 if is_cuda else 1
    with sdpa_kernel([kernels[options.kernel]]):
        for _ in range(options.warmup + options.steps):
            start = now(options)
            with torch.no_grad():
                for _ in range(calls):
                    F.scaled_dot_product_attention(q, k, v)
            forward.append((now(options) - start) / calls)
            out = F.scaled_dot_product_attention(q, k, v)
            start = now(options)
            for _ in range(calls):
                torch.autograd.grad(out, (q, k, v), given, retain_graph=True)
            backward.append((now(options) - start) / calls)
    if not torch.isfinite(out).all():
        raise SystemExit("the tokens are not finite")
    peak = torch.cuda.max_memory_allocated() - before if is_cuda else 0
    return {
        "forward_ms": 1e3 * min(forward[options.warmup :]),
        "backward_ms": 1e3 * min(backward[options.warmup :]),
        "peak_bytes": peak,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("step", "forward", "attention"))
    parser.add_argument("--preset", default="vits14", choices=PRESETS)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--kernel", default="math", choices=("math", "flash", "cudnn"))
    parser.add_argument("--tokens", type=int, default=257)
    parser.add_argument("--heads", type=int, default=16)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.set_default_device(options.device)
    if options.device == "cuda":
        torch.set_float32_matmul_precision("high")
    torch.manual_seed(0)
    if options.what == "attention":
        print(json.dumps({"torch": torch.__version__, "kernel": options.kernel, **time_attention(options)}))
        return
    seconds, losses = (time_steps if options.what == "step" else time_forward)(options)
    median = statistics.median(seconds)
    print(
        json.dumps(
            {
                "torch": torch.__version__,
                "threads": torch.get_num_threads(),
                "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
                "compiled": options.compile,
                "batch": options.batch,
                "images_per_second": options.batch / median,
                "seconds": median,
                "seconds_all": seconds,
                "losses": losses,
                "peak_device_bytes": torch.cuda.max_memory_allocated() if options.device == "cuda" else 0,
                "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            }
        )
    )


if __name__ == "__main__":
    main()
