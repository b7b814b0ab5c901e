# SPDX-License-Identifier: Apache-2.0
"""The backbone, head, losses and training step of DINOv2 as plain PyTorch functions of named weights (autograd gives
the gradients). Written from the papers and from the description of the stored tensors, for any sizes and dtype."""

import math

import numpy as np
import torch
import torch.nn.functional as F


# ---- positions


def cubic(x, a):
    x = abs(x)
    if x < 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a if x < 2 else 0.0


def resample_matrix(table, size, offset, antialias):
    """Bicubic weights [size, table]. With an offset the scale (size + offset) / table enters the coordinates."""
    scale = (size + offset) / table
    matrix = np.zeros((size, table))
    for i in range(size):
        if antialias:  # a = -0.5, support widened when shrinking, weights renormalised
            stretch = max(1 / scale, 1.0)
            centre = (i + 0.5) / scale
            first = max(int(centre - 2 * stretch + 0.5), 0)
            last = min(int(centre + 2 * stretch + 0.5), table)
            taps = [cubic((j - centre + 0.5) / stretch, -0.5) for j in range(first, last)]
            matrix[i, first:last] = np.array(taps) / sum(taps)
        else:  # a = -0.75, borders clamped
            source = (i + 0.5) / scale - 0.5
            for tap in range(math.floor(source) - 1, math.floor(source) + 3):
                matrix[i, min(max(tap, 0), table - 1)] += cubic(source - tap, -0.75)
    return matrix


def positions(table, grid_h, grid_w, offset, antialias):
    """[1, 1 + M*M, D] -> [1, 1 + h*w, D]; unchanged on the table's own grid only."""
    side = math.isqrt(table.shape[1] - 1)
    if grid_h == side and grid_w == side:
        return table
    rows, columns = (
        torch.from_numpy(resample_matrix(side, n, offset, antialias)).to(table.dtype) for n in (grid_h, grid_w)
    )
    grid = table[0, 1:].reshape(side, side, -1)
    grid = torch.einsum("ia,jb,abd->ijd", rows, columns, grid)
    return torch.cat([table[:, :1], grid.reshape(1, grid_h * grid_w, -1)], 1)


# ---- backbone


def depth_of(w):
    return 1 + max(int(name.split(".")[1]) for name in w if name.startswith("blocks."))


def embed(w, cfg, images, mask):
    p = cfg["patch_size"]
    grid_h, grid_w = images.shape[2] // p, images.shape[3] // p
    tokens = F.conv2d(images, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=p)
    tokens = tokens.flatten(2).transpose(1, 2)
    if mask is not None:
        tokens = torch.where(mask.bool()[..., None], w["mask_token"], tokens)
    batch = tokens.shape[0]
    tokens = torch.cat([w["cls_token"].expand(batch, -1, -1), tokens], 1)
    offset, antialias = cfg["interpolate_offset"], bool(cfg["interpolate_antialias"])
    tokens = tokens + positions(w["pos_embed"], grid_h, grid_w, offset, antialias)
    if "register_tokens" in w:  # they get no position
        tokens = torch.cat([tokens[:, :1], w["register_tokens"].expand(batch, -1, -1), tokens[:, 1:]], 1)
    return tokens, (grid_h, grid_w)


def attention(w, name, x, heads):
    batch, tokens, width = x.shape
    qkv = x @ w[name + "qkv.weight"].T + w[name + "qkv.bias"]
    q, k, v = qkv.reshape(batch, tokens, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    probabilities = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(width // heads), -1)
    out = (probabilities @ v).transpose(1, 2).reshape(batch, tokens, width)
    return out @ w[name + "proj.weight"].T + w[name + "proj.bias"], probabilities


def feed_forward(w, name, x):
    if name + "w12.weight" in w:
        gate, value = (x @ w[name + "w12.weight"].T + w[name + "w12.bias"]).chunk(2, -1)
        return (F.silu(gate) * value) @ w[name + "w3.weight"].T + w[name + "w3.bias"]
    return F.gelu(x @ w[name + "fc1.weight"].T + w[name + "fc1.bias"]) @ w[name + "fc2.weight"].T + w[name + "fc2.bias"]


def norm(w, name, x, eps):
    return F.layer_norm(x, x.shape[-1:], w[name + ".weight"], w[name + ".bias"], eps)


def vit(w, cfg, images, mask=None, kept=None):
    """kept[block][branch]: rows of the batch that stochastic depth keeps. Returns the quantities by name."""
    eps = cfg.get("layernorm_eps", 1e-6)
    x, grid = embed(w, cfg, images, mask)
    batch = x.shape[0]
    blocks = []
    for i in range(depth_of(w)):
        name = f"blocks.{i}."
        rows = kept[i] if kept is not None else [torch.arange(batch)] * 2
        out, probabilities = attention(w, name + "attn.", norm(w, name + "norm1", x[rows[0]], eps), cfg["num_heads"])
        x = x.index_add(0, rows[0], w.get(name + "ls1.gamma", 1.0) * out * (batch / len(rows[0])))
        out = feed_forward(w, name + "mlp.", norm(w, name + "norm2", x[rows[1]], eps))
        x = x.index_add(0, rows[1], w.get(name + "ls2.gamma", 1.0) * out * (batch / len(rows[1])))
        blocks.append(x)
    registers = w["register_tokens"].shape[1] if "register_tokens" in w else 0
    normed = [norm(w, "norm", b, eps) for b in blocks[-2:]]
    result = {
        "x_prenorm": x,
        "x_norm_clstoken": normed[-1][:, 0],
        "x_norm_patchtokens": normed[-1][:, 1 + registers :],
        "attn_probs_last": probabilities,
    }
    if registers:
        result["x_norm_regtokens"] = normed[-1][:, 1 : 1 + registers]
    for i, b in enumerate(normed):
        result[f"intermediate{i}_cls"] = b[:, 0]
        patches = b[:, 1 + registers :].transpose(1, 2)
        result[f"intermediate{i}_patch"] = patches.reshape(batch, -1, *grid)
    return result


# ---- head and losses


def head(w, x):
    """Returns (bottleneck before the norm, logits)."""
    layers = sorted({name.rsplit(".", 1)[0] for name in w if name.startswith("mlp")}, key=lambda n: (len(n), n))
    for i, name in enumerate(layers):
        x = F.gelu(x) if i else x
        x = x @ w[name + ".weight"].T + w[name + ".bias"]
    v = w["last_layer.weight_v"]
    prototypes = w["last_layer.weight_g"] * v / v.norm(dim=1, keepdim=True)
    return x, F.normalize(x, dim=-1, eps=1e-12) @ prototypes.T


def sinkhorn(logits, temperature, iterations=3):
    q = torch.exp(logits / temperature)
    q = q / q.sum()
    for _ in range(iterations):
        q = q / q.sum(0, keepdim=True) / q.shape[1]
        q = q / q.sum(1, keepdim=True) / q.shape[0]
    return q * q.shape[0]


def centred_softmax(logits, centre, temperature):
    return torch.softmax((logits - centre) / temperature, -1)


def cross_entropy(targets, logits, temperature):
    return -(targets * torch.log_softmax(logits / temperature, -1)).sum(-1)


def dino_losses(local_logits, global_logits, targets, images, temperature):
    """`targets` of view 2, then view 1; `global_logits` of view 1, then view 2. Both parts of the mean over pairs."""
    crops = len(local_logits) // images
    pairs = max(2 * crops, 1) + 2
    local = sum(
        cross_entropy(t, s, temperature).mean()
        for s in local_logits.split(images)
        for t in targets.split(images)
    ) if crops else local_logits.sum()  # fmt: skip
    return local / pairs, cross_entropy(targets, global_logits, temperature).mean() * 2 / pairs


def ibot_loss(logits, targets, weights, views, temperature):
    return (cross_entropy(targets, logits, temperature) * weights).sum() / views


def koleo(features, eps=1e-8):
    """Returns (loss, index of the nearest neighbour)."""
    unit = F.normalize(features, dim=-1, eps=eps)
    dots = (unit @ unit.T).detach().clone()
    dots.fill_diagonal_(-1)
    neighbour = dots.argmax(1)
    distance = (unit - unit[neighbour] + eps).norm(dim=-1)
    return -torch.log(distance + eps).mean(), neighbour


# ---- the training step


def group_of(name, depth, decay, patch_factor):
    """(lr multiplier, wd multiplier, last layer?) of <module>.<parameter>."""
    lr = 1.0
    module, parameter = name.split(".", 1)
    if module == "backbone":
        block = parameter.split(".")[1] if parameter.startswith("blocks.") else None
        if block is not None:
            lr = decay ** (depth - int(block))
        elif parameter.startswith(("pos_embed", "patch_embed", "mask_token", "cls_token", "register_tokens")):
            lr = decay ** (depth + 1)
        lr *= patch_factor if "patch_embed" in parameter else 1.0
    undecayed = parameter.endswith(".bias") or "norm" in parameter or "gamma" in parameter
    return lr, 0.0 if undecayed else 1.0, "last_layer" in parameter


def sub(weights, module):
    return {name[len(module) + 1 :]: value for name, value in weights.items() if name.startswith(module + ".")}


class Trainer:
    """SSLMetaArch's step with AdamW, clipping per module and the EMA teacher."""

    def __init__(self, settings, weights, mode, dtype):
        self.s, self.mode, self.dtype = settings, mode, dtype
        self.student = {k: torch.tensor(v, dtype=dtype).requires_grad_() for k, v in weights.items()}
        self.teacher = {k: torch.tensor(v, dtype=dtype) for k, v in weights.items()}
        self.m = {k: torch.zeros_like(v) for k, v in self.teacher.items()}
        self.v = {k: torch.zeros_like(v) for k, v in self.teacher.items()}
        self.modules = list(dict.fromkeys(name.split(".")[0] for name in weights))
        self.centres, self.pending, self.steps = {}, {}, 0

    def targets(self, which, logits, temperature):
        if self.mode == "sinkhorn_knopp":
            return sinkhorn(logits, temperature)
        centre = self.centres.setdefault(which, torch.zeros(1, logits.shape[1], dtype=self.dtype))
        if which in self.pending:
            momentum = self.s["center_momentum"]
            centre = self.centres[which] = centre * momentum + self.pending[which] * (1 - momentum)
        self.pending[which] = logits.mean(0, keepdim=True)
        return centred_softmax(logits, centre, temperature)

    def losses(self, data, temperature):
        s, images = self.s, int(self.s["batch"])
        crops, masks = torch.tensor(data["global_crops"], dtype=self.dtype), torch.tensor(data["masks"])
        rows = torch.tensor(data["mask_indices"])
        weights = torch.tensor(data["masks_weight"]).to(self.dtype)
        patch_head = "ibot_head" if s["separate_ibot_head"] else "dino_head"
        with torch.no_grad():
            out = vit(sub(self.teacher, "backbone"), s, crops)
            cls = out["x_norm_clstoken"].roll(images, 0)  # view 2 first
            dino_targets = self.targets("dino", head(sub(self.teacher, "dino_head"), cls)[1], temperature)
            patches = out["x_norm_patchtokens"].flatten(0, 1)[rows]
            ibot_targets = self.targets("ibot", head(sub(self.teacher, patch_head), patches)[1], temperature)
        student = sub(self.student, "backbone")
        out = vit(student, s, crops, masks)
        cls = out["x_norm_clstoken"]
        local_logits = torch.zeros(0, dino_targets.shape[1], dtype=self.dtype)
        if s["n_local"]:
            small = vit(student, s, torch.tensor(data["local_crops"], dtype=self.dtype))
            local_logits = head(sub(self.student, "dino_head"), small["x_norm_clstoken"])[1]
        global_logits = head(sub(self.student, "dino_head"), cls)[1]
        local, both = dino_losses(local_logits, global_logits, dino_targets, images, s["student_temp"])
        spread = s["koleo_weight"] * sum(koleo(view)[0] for view in cls.split(images))
        patches = out["x_norm_patchtokens"].flatten(0, 1)[rows]
        logits = head(sub(self.student, patch_head), patches)[1]
        ibot = ibot_loss(logits, ibot_targets, weights, len(masks), s["student_temp"])
        total = s["dino_weight"] * (local + both) + spread + s["ibot_weight"] * ibot
        return local, both, spread / 2, ibot / 2, total

    def step(self, data, at):
        """Returns (the losses, gradient norms per module, gradients before clipping)."""
        values = self.losses(data, at["teacher_temp"])
        names = list(self.student)
        grads = dict(zip(names, torch.autograd.grad(values[-1], list(self.student.values()), allow_unused=True)))
        grads = {k: torch.zeros_like(self.student[k]) if g is None else g for k, g in grads.items()}
        norms = [math.sqrt(sum(float((g.double() ** 2).sum()) for k, g in grads.items() if k.startswith(m + ".")))
                 for m in self.modules]  # fmt: skip
        factor = {m: min(1.0, self.s["clip_grad"] / (n + self.s["clip_eps"])) for m, n in zip(self.modules, norms)}
        self.update({k: g * factor[k.split(".")[0]] for k, g in grads.items()}, at)
        return [float(v.detach()) for v in values], norms, grads

    def update(self, grads, at):
        s = self.s
        self.steps += 1
        depth = depth_of(sub(self.student, "backbone"))
        with torch.no_grad():
            for name, p in self.student.items():
                lr_mult, wd_mult, last = group_of(name, depth, s["layerwise_decay"], s["patch_embed_lr_mult"])
                lr = lr_mult * (at["last_layer_lr"] if last else at["lr"])
                p.mul_(1 - lr * at["weight_decay"] * wd_mult)
                self.m[name].mul_(s["beta1"]).add_(grads[name], alpha=1 - s["beta1"])
                self.v[name].mul_(s["beta2"]).addcmul_(grads[name], grads[name], value=1 - s["beta2"])
                root = (self.v[name] / (1 - s["beta2"] ** self.steps)).sqrt() + s["adam_eps"]
                p.sub_(lr * (self.m[name] / (1 - s["beta1"] ** self.steps)) / root)
                momentum = at["ema_momentum"]
                self.teacher[name].mul_(momentum).add_(p, alpha=1 - momentum)
