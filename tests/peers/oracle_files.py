# SPDX-License-Identifier: Apache-2.0
"""What each file of a golden set holds: `<file>_inputs` draws inputs, weights and settings, `<file>_outputs` computes
the quantities from them in one dtype. Both work on {path: array} with the settings in {path: attributes}."""

import math

import numpy as np
import oracle_model as model
import torch


class Contents:
    """Datasets and attributes of one file."""

    def __init__(self, data=None, attributes=None):
        self.data, self.attributes = data or {}, attributes or {}

    def below(self, group):
        """{rest of the path: array} of a group's datasets."""
        return {path[len(group) + 1 :]: value for path, value in self.data.items() if path.startswith(group + "/")}

    def groups(self, group):
        """Names one level below a group, in order."""
        return sorted({rest.split("/")[0] for rest in self.below(group) if "/" in rest})

    @property
    def settings(self):
        return self.attributes["/"]


def tensors(arrays, dtype):
    return {name: torch.tensor(value, dtype=dtype) for name, value in arrays.items()}


def f32(x):
    return np.asarray(x, np.float32)


# ---- shapes and weights


def backbone_shapes(cfg):
    d, p, h = cfg["embed_dim"], cfg["patch_size"], cfg["ffn_hidden"]
    shapes = {"cls_token": (1, 1, d), "pos_embed": (1, 1 + (cfg["img_size"] // p) ** 2, d)}
    if cfg.get("num_register_tokens", 0):
        shapes["register_tokens"] = (1, cfg["num_register_tokens"], d)
    shapes |= {"mask_token": (1, d), "patch_embed.proj.weight": (d, 3, p, p), "patch_embed.proj.bias": (d,)}
    linears = {"attn.qkv": (3 * d, d), "attn.proj": (d, d)}
    if cfg["ffn"] == "mlp":
        linears |= {"mlp.fc1": (h, d), "mlp.fc2": (d, h)}
    else:
        linears |= {"mlp.w12": (2 * h, d), "mlp.w3": (d, h)}
    for i in range(cfg["depth"]):
        for name, shape in linears.items():
            shapes |= {f"blocks.{i}.{name}.weight": shape, f"blocks.{i}.{name}.bias": shape[:1]}
        shapes |= {f"blocks.{i}.{name}": (d,) for name in
                   ("norm1.weight", "norm1.bias", "ls1.gamma", "norm2.weight", "norm2.bias", "ls2.gamma")}  # fmt: skip
    return shapes | {"norm.weight": (d,), "norm.bias": (d,)}


def head_shapes(width, hidden, layers, bottleneck, prototypes):
    sizes = [width] + [hidden] * (layers - 1) + [bottleneck]
    names = ["mlp"] if layers == 1 else [f"mlp.{2 * i}" for i in range(layers)]
    shapes = {}
    for name, narrow, wide in zip(names, sizes, sizes[1:]):
        shapes |= {name + ".weight": (wide, narrow), name + ".bias": (wide,)}
    return shapes | {"last_layer.weight_g": (prototypes, 1), "last_layer.weight_v": (prototypes, bottleneck)}


def draw_weight(rng, name, shape):
    noise = rng.standard_normal(shape)
    if name.endswith("weight_g"):
        return f32(rng.uniform(0.8, 1.2, shape))
    if name.endswith("gamma"):
        return f32(0.3 + 0.08 * noise)
    if name.endswith("bias"):
        return f32(0.1 * noise)
    if "norm" in name:
        return f32(1 + 0.2 * noise)
    if "token" in name or "pos_embed" in name:
        return f32(0.5 * noise)
    return f32(noise / math.sqrt(np.prod(shape[1:])))


def draw_weights(rng, shapes, prefix=""):
    return {prefix + name: draw_weight(rng, name, shape) for name, shape in shapes.items()}


# ---- vit_*.h5


def vit_inputs(rng, s, cases, shared=None):
    """`cases`: {name: (batch, height, width, masked)}. What `shared` has in the same shape is taken from there."""
    c = Contents(attributes={"/": dict(s)})
    p, d = s["patch_size"], s["embed_dim"]
    shapes = backbone_shapes(s)
    c.data = draw_weights(rng, shapes, "/weights/")
    for name, (batch, height, width, masked) in cases.items():
        path, patches = f"/cases/{name}/", height * width // p**2
        c.attributes[path[:-1]] = {"batch": batch, "height": height, "width": width, "masked": int(masked)}
        c.data[path + "input"] = f32(rng.standard_normal((batch, 3, height, width)))
        if masked:
            c.data[path + "mask"] = (rng.random((batch, patches)) < 0.4).astype(np.uint8)
        sizes = {"cls": (d,), "patch": (patches, d)}
        if s["num_register_tokens"]:
            sizes["reg"] = (s["num_register_tokens"], d)
        for kind, size in sizes.items():
            c.data[path + "cotangent_" + kind] = f32(rng.standard_normal((batch, *size)))
    if s.get("pos_sizes"):
        for name, sizes in s["pos_sizes"].items():
            for size in sizes:
                c.attributes.setdefault("wanted", {})[f"/pos_embed_interp/{name}/{size}"] = name
        del c.attributes["/"]["pos_sizes"]
    for path, value in (shared.data if shared else {}).items():
        if path in c.data and c.data[path].shape == value.shape:
            c.data[path] = value
    lengths = {n for s_ in shapes.values() for n in (s_[0], int(np.prod(s_[1:])))}
    c.data |= {f"/proj/{n}": projection(n) for n in sorted(lengths)}
    return c


def projection(n):
    j = np.arange(n)
    return np.cos(0.37 * (j + 1) + 0.011 * (j % 7))


def vit_case(c, name, dtype):
    path = f"/cases/{name}/"
    w = {k: v.requires_grad_() for k, v in tensors(c.below("/weights"), dtype).items()}
    images = torch.tensor(c.data[path + "input"], dtype=dtype).requires_grad_()
    mask = torch.tensor(c.data[path + "mask"]) if path + "mask" in c.data else None
    out = model.vit(w, c.settings, images, mask)
    parts = {"cls": "x_norm_clstoken", "patch": "x_norm_patchtokens", "reg": "x_norm_regtokens"}
    scalar = sum(
        (torch.tensor(c.data[path + "cotangent_" + kind], dtype=dtype) * out[key]).sum()
        for kind, key in parts.items()
        if path + "cotangent_" + kind in c.data
    )
    grads = torch.autograd.grad(scalar, [images, *w.values()], allow_unused=True)
    result = {path + key: value.detach().numpy() for key, value in out.items() if mask is None or "inter" not in key}
    result |= {path + "scalar": scalar.detach().numpy().reshape(1), path + "grad_input": grads[0].numpy()}
    for (key, value), grad in zip(w.items(), grads[1:]):
        full = np.zeros(value.shape) if grad is None else grad.numpy()
        result[f"/grads/{name}/{key}"] = full
        rows = full.reshape(full.shape[0], -1)
        result[f"/grads_rowproj/{name}/{key}"] = rows @ projection(rows.shape[1])
        result[f"/grads_colproj/{name}/{key}"] = projection(rows.shape[0]) @ rows
    return result


def vit_outputs(c, dtype):
    result = {}
    for name in c.groups("/cases"):
        result |= vit_case(c, name, dtype)
    wanted = list(c.attributes.get("wanted", {})) or [p for p in c.data if p.startswith("/pos_embed_interp/")]
    table = torch.tensor(c.data["/weights/pos_embed"], dtype=dtype)
    for path in wanted:
        kernel, size = path.split("/")[2:]
        height, width = (int(n) // c.settings["patch_size"] for n in size.split("x"))
        offset = 0.0 if kernel == "antialias" else float(kernel.removeprefix("offset"))
        out = model.positions(table, height, width, offset, kernel == "antialias").numpy()
        result[path] = out[..., :32]
    return result


# ---- stochastic_depth.h5


def depth_inputs(rng, s, cases):
    """`cases`: {name: [(batch, side), ...]}."""
    c = Contents(attributes={"/": {k: v for k, v in s.items() if k != "ffn_hidden"}})
    c.data = draw_weights(rng, backbone_shapes(s), "/weights/")
    for name, entries in cases.items():
        for e, (batch, side) in enumerate(entries):
            path = f"/cases/{name}/"
            keep = max(int(batch * (1 - s["drop_rate"])), 1)
            tokens = 1 + (side // s["patch_size"]) ** 2
            c.data[f"{path}input{e}"] = f32(rng.standard_normal((batch, 3, side, side)))
            c.data[f"{path}cotangent{e}"] = f32(rng.standard_normal((batch, tokens, s["embed_dim"])))
            settings = {"batch": batch, "keep": keep, "residual_scale": batch / keep, "size": side}
            c.attributes[f"{path}input{e}"] = settings
            for b in range(s["depth"]):
                for branch in ("attn", "ffn"):
                    c.data[f"{path}indices/block{b}/{branch}/entry{e}"] = rng.permutation(batch)[:keep].astype(np.int64)
    return c


def depth_outputs(c, dtype):
    result = {}
    for name in c.groups("/cases"):
        path = f"/cases/{name}/"
        w = {k: v.requires_grad_() for k, v in tensors(c.below("/weights"), dtype).items()}
        scalar, e = 0, 0
        while f"{path}input{e}" in c.data:
            kept = [
                [torch.tensor(c.data[f"{path}indices/block{b}/{branch}/entry{e}"]) for branch in ("attn", "ffn")]
                for b in range(model.depth_of(w))
            ]
            images = torch.tensor(c.data[f"{path}input{e}"], dtype=dtype)
            out = model.vit(w, c.settings, images, None, kept)["x_prenorm"]
            scalar = scalar + (torch.tensor(c.data[f"{path}cotangent{e}"], dtype=dtype) * out).sum()
            result[f"{path}x_prenorm{e}"] = out.detach().numpy()
            e += 1
        result[path + "scalar"] = scalar.detach().numpy().reshape(1)
        grads = torch.autograd.grad(scalar, list(w.values()), allow_unused=True)
        for (key, value), grad in zip(w.items(), grads):
            result[f"/grads/{name}/{key}"] = np.zeros(value.shape) if grad is None else grad.numpy()
    return result


# ---- heads.h5


def head_inputs(rng, s):
    s = dict(s)
    rows = s.pop("rows")
    c = Contents(attributes={"/": {**s, "normalize_eps": 1e-12}})
    shapes = head_shapes(s["in_dim"], s["hidden_dim"], s["nlayers"], s["bottleneck_dim"], s["out_dim"])
    c.data = draw_weights(rng, shapes, "/weights/")
    c.data["/input"] = f32(rng.standard_normal((rows, s["in_dim"])))
    c.data["/cotangent"] = f32(rng.standard_normal((rows, s["out_dim"])))
    return c


def head_outputs(c, dtype):
    w = {k: v.requires_grad_() for k, v in tensors(c.below("/weights"), dtype).items()}
    x = torch.tensor(c.data["/input"], dtype=dtype).requires_grad_()
    before, out = model.head(w, x)
    grads = torch.autograd.grad((out * torch.tensor(c.data["/cotangent"], dtype=dtype)).sum(), [x, *w.values()])
    result = {"/bottleneck_before_norm": before, "/output": out, "/grad_input": grads[0]}
    result |= {"/grads/" + key: grad for key, grad in zip(w, grads[1:])}
    return {path: value.detach().numpy() for path, value in result.items()}


# ---- losses.h5


def loss_inputs(rng, s):
    """s: prototypes, batch, n_local, temperatures, student_temp, momentum, sinkhorn rows, koleo (n, width) and views,
    calls, masked tokens per view, tokens."""
    k, b, n_local = s["prototypes"], s["batch"], s["n_local"]
    terms = {"n_global": 2, "n_global_terms": 2, "n_local": n_local, "n_local_terms": max(2 * n_local, 1)}
    c = Contents(attributes={"/": {"batch": b, "center_momentum": s["momentum"], **terms, "n_prototypes": k,
                                   "student_temp": s["student_temp"]}})  # fmt: skip

    def logits(rows, shift=0.0):
        return f32(np.clip(0.57 * rng.standard_normal((rows, k)) + shift, -1, 1))

    c.data |= {"/dino/student_local_logits": logits(n_local * b)} if n_local else {}
    c.data |= {"/dino/student_global_logits": logits(2 * b), "/dino/teacher_logits_swapped": logits(2 * b),
               "/dino/center_for_softmax_centering": f32(0.2 * rng.standard_normal((1, k)))}  # fmt: skip
    modes = [f"{mode}_T{t:g}" for mode in ("sinkhorn", "softmax_centering") for t in s["temperatures"]]
    c.attributes["/sinkhorn"] = {"n_iterations": 3}
    for name in modes:
        c.attributes["/dino/" + name] = {"n_iterations": 3, "teacher_temp": float(name.rsplit("T")[-1])}
    for n in s["sinkhorn_rows"]:
        c.data[f"/sinkhorn/n{n}/logits"] = logits(n)
    for which, rows in s["calls"].items():
        c.attributes["/centering_" + which] = {"teacher_temp": s["temperatures"][0]}
        shift = 0.2 * rng.standard_normal((1, k))
        c.data |= {f"/centering_{which}/call{i}/teacher_logits": logits(n, shift) for i, n in enumerate(rows)}
    masks = np.zeros((len(s["masked"]), s["tokens"]), np.uint8)
    for row, count in zip(masks, s["masked"]):
        row[rng.permutation(s["tokens"])[:count]] = 1
    count = int(masks.sum())
    c.attributes["/ibot"] = {"n_masked": count, "n_tokens": s["tokens"], "n_views": len(masks)}
    c.data |= {"/ibot/masks": masks, "/ibot/mask_indices": np.flatnonzero(masks).astype(np.int64),
               "/ibot/masks_weight": mask_weights(masks), "/ibot/student_logits": logits(count),
               "/ibot/teacher_logits": logits(count)}  # fmt: skip
    c.attributes["/koleo"] = {"eps": 1e-8, "note": f"one view; total adds {s['koleo_weight']:g}*(view1+view2); "
                                                   "logged value is half of that"}  # fmt: skip
    for n, width in s["koleo"]:
        c.data[f"/koleo/n{n}/features"] = f32(1.5 * rng.standard_normal((n, width)) + 0.4)
    c.data["/koleo/two_views/student_cls"] = f32(rng.standard_normal(s["koleo_views"]))
    return c


def mask_weights(masks):
    counts = masks.sum(1).astype(np.int64)
    return f32(np.repeat(1 / np.maximum(counts, 1).astype(np.float32), counts))


def make_targets(c, name, logits, temperature, dtype):
    if name.startswith("sinkhorn"):
        return model.sinkhorn(logits, temperature, c.attributes["/sinkhorn"]["n_iterations"])
    centre = torch.tensor(c.data["/dino/center_for_softmax_centering"], dtype=dtype)
    return model.centred_softmax(logits, centre, temperature)


def loss_outputs(c, dtype):
    def read(path):
        return torch.tensor(c.data[path], dtype=dtype)

    s, result = c.settings, {}
    modes = [path.rsplit("/", 1)[1] for path in c.attributes if path.startswith("/dino/") and c.attributes[path]]
    for name in modes:
        temperature, path = float(name.rsplit("T")[-1]), f"/dino/{name}/"
        targets = make_targets(c, name, read("/dino/teacher_logits_swapped"), temperature, dtype)
        both = read("/dino/student_global_logits").requires_grad_()
        local = read("/dino/student_local_logits") if s["n_local"] else torch.zeros(0, both.shape[1], dtype=dtype)
        local.requires_grad_()
        losses = model.dino_losses(local, both, targets, int(s["batch"]), s["student_temp"])
        grads = torch.autograd.grad(sum(losses), [local, both])
        result |= {path + "teacher_targets": targets, path + "dino_global_crops_loss": losses[1].reshape(1),
                   path + "grad_student_global_logits": grads[1]}  # fmt: skip
        if s["n_local"]:
            result |= {path + "dino_local_crops_loss": losses[0].reshape(1), path + "grad_student_local_logits": grads[0]}
        path = f"/ibot/{name}/"
        targets = make_targets(c, name, read("/ibot/teacher_logits"), temperature, dtype)
        logits, weights = read("/ibot/student_logits").requires_grad_(), read("/ibot/masks_weight")
        loss = model.ibot_loss(logits, targets, weights, c.attributes["/ibot"]["n_views"], s["student_temp"]).reshape(1)
        result |= {path + "teacher_targets": targets, path + "loss_in_total": loss, path + "forward_masked": loss,
                   path + "ibot_loss_logged": loss / 2,
                   path + "grad_student_logits": torch.autograd.grad(loss, logits)[0]}  # fmt: skip
    for name in c.groups("/sinkhorn"):
        for mode in (m for m in modes if m.startswith("sinkhorn")):
            label = mode.rsplit("T")[-1]
            q = model.sinkhorn(read(f"/sinkhorn/{name}/logits"), float(label), c.attributes["/sinkhorn"]["n_iterations"])
            result[f"/sinkhorn/{name}/Q_T{label}"] = q
    result |= centre_outputs(c, read) | koleo_outputs(c, read)
    return {path: value.detach().numpy() for path, value in result.items()}


def centre_outputs(c, read):
    result, momentum = {}, c.settings["center_momentum"]
    for group in (g for g in c.attributes if g.startswith("/centering_") and c.attributes[g]):
        calls = c.groups(group)
        centre = torch.zeros_like(read(f"{group}/{calls[0]}/teacher_logits")[:1])
        for call in calls:
            logits = read(f"{group}/{call}/teacher_logits")
            result[f"{group}/{call}/center_used"] = centre
            result[f"{group}/{call}/targets"] = model.centred_softmax(logits, centre, c.attributes[group]["teacher_temp"])
            centre = centre * momentum + logits.mean(0, keepdim=True) * (1 - momentum)
        result[f"{group}/center_after_{len(calls)}_calls"] = centre
    return result


def koleo_outputs(c, read):
    result = {}
    for name in c.groups("/koleo"):
        path = f"/koleo/{name}/"
        if path + "features" in c.data:
            x = read(path + "features").requires_grad_()
            loss, neighbour = model.koleo(x)
            result |= {path + "loss": loss.reshape(1), path + "nearest_neighbour": neighbour,
                       path + "grad_features": torch.autograd.grad(loss, x)[0]}  # fmt: skip
            continue
        weight = float(c.attributes["/koleo"]["note"].split("adds ")[1].split("*")[0])
        x = read(path + "student_cls").requires_grad_()
        loss = weight * sum(model.koleo(view)[0] for view in x.chunk(2))
        result |= {path + "loss_in_total": loss.reshape(1), path + "koleo_loss_logged": loss.reshape(1) / 2,
                   path + "grad_student_cls": torch.autograd.grad(loss, x)[0]}  # fmt: skip
    return result


# ---- train_steps.h5 and train_steps_weights.h5


def train_inputs(rng, s, draw_mask):
    """`draw_mask(rng, side, count)` gives a block mask. Crops repeat, as stored data may."""
    s = dict(s)
    modes, schedule, period = s.pop("modes"), s.pop("schedule"), s.pop("period")
    shapes = {"backbone": backbone_shapes(s)}
    for name in ["dino_head"] + ["ibot_head"] * s["separate_ibot_head"]:
        shapes[name] = head_shapes(s["embed_dim"], *s.pop(name))
    s["modules"] = " ".join(shapes)
    c = Contents(attributes={"/": s, "modes": {m: 1 for m in modes}})
    for module, names in shapes.items():
        c.data |= draw_weights(rng, names, f"/weights/{module}.")
    side, batch = s["global_size"] // s["patch_size"], s["batch"]
    crops = {}
    for step in range(s["steps"]):
        path, turn = f"/data/step{step}/", step % period
        if turn not in crops:
            crops[turn] = {"global_crops": smooth_images(rng, 2 * batch, s["global_size"])}
            if s["n_local"]:
                crops[turn]["local_crops"] = smooth_images(rng, s["n_local"] * batch, s["local_size"])
        masks, bound = draw_masks(rng, 2 * batch, side, draw_mask)
        c.data |= {path + name: value for name, value in crops[turn].items()}
        c.data |= {path + "masks": masks, path + "mask_indices": np.flatnonzero(masks).astype(np.int64),
                   path + "masks_weight": mask_weights(masks)}  # fmt: skip
        c.attributes[path[:-1]] = {"n_masked": int(masks.sum()), "upperbound": bound}
    c.data |= {"/schedule/" + name: np.asarray(values, np.float64) for name, values in schedule.items()}
    return c


def smooth_images(rng, count, side):
    """Standardised pictures: a few waves and noise, different per picture."""
    y, x = np.mgrid[0:side, 0:side] / side
    a, b, phase = rng.uniform(-8, 8, (3, count, 3, 1, 1))
    return f32(0.8 * np.sin(a * x + b * y + phase) + 0.3 * rng.standard_normal((count, 3, side, side)))


def draw_masks(rng, views, side, draw_mask):
    """Half of the views, every one of them with at least one token."""
    patches, masked = side * side, views // 2
    edges = np.linspace(0.1, 0.5, masked + 1)
    masks = np.zeros((views, patches), np.uint8)
    for i, view in enumerate(rng.permutation(views)[:masked]):
        target = max(int(patches * rng.uniform(edges[i], edges[i + 1])), 1)
        while not masks[view].any():
            masks[view] = draw_mask(rng, side, target)
    return masks, int(sum(int(patches * e) for e in edges[1:]))


def train_outputs(c, dtype, weights_at=()):
    """The runs of all modes. Quantities of train_steps_weights.h5 come with the prefix "weights:"."""
    result, initial = {}, c.below("/weights")
    depth = model.depth_of(model.sub(initial, "backbone"))
    s = c.settings
    for name in initial:
        group = model.group_of(name, depth, s["layerwise_decay"], s["patch_embed_lr_mult"])
        result["/param_groups/" + name] = np.array(group, np.float64)
    modes = list(c.attributes.get("modes", {})) or [m for m in ("sinkhorn_knopp", "centering") if c.below("/" + m)]
    for mode in modes:
        trainer, losses, norms = model.Trainer(s, initial, mode, dtype), [], []
        for step in range(int(s["steps"])):
            at = {name: float(values[step]) for name, values in c.below("/schedule").items()}
            step_losses, step_norms, grads = trainer.step(c.below(f"/data/step{step}"), at)
            losses.append(step_losses)
            norms.append(step_norms)
            if mode != modes[0]:
                continue
            if step == 0:
                result |= {f"/{mode}/grads_step0_before_clip/{k}": g.numpy() for k, g in grads.items()}
            for who, parameters in (("student", trainer.student), ("teacher", trainer.teacher)):
                if (who, step + 1) in weights_at:
                    result |= {f"weights:/{who}_after_step{step + 1}/{k}": v.detach().numpy().copy()
                               for k, v in parameters.items()}  # fmt: skip
        result |= {f"/{mode}/losses": np.array(losses), f"/{mode}/grad_norms_before_clip": np.array(norms)}
        result |= {f"/{mode}/{k}_center_end_unapplied_last": v.numpy() for k, v in trainer.centres.items()}
    return result


# ---- knn.h5


def knn_inputs(rng, s):
    c = Contents(attributes={"/": {"ks": list(s["ks"]), "n_classes": s["classes"], "temperature": s["temperature"]}})
    centres = rng.standard_normal((s["classes"], s["width"]))
    for part in ("train", "test"):
        labels = rng.integers(0, s["classes"], s[part])
        x = centres[labels] + 0.9 * rng.standard_normal((s[part], s["width"]))
        c.data[f"/{part}_features"] = f32(x / np.linalg.norm(x, axis=1, keepdims=True))
        c.data[f"/{part}_labels"] = labels.astype(np.int64)
    return c


def knn_outputs(c, dtype):
    train, test = (torch.tensor(c.data[f"/{p}_features"], dtype=dtype) for p in ("train", "test"))
    labels, ks = torch.tensor(c.data["/train_labels"]), [int(k) for k in c.settings["ks"]]
    similarity, index = (test @ train.T).topk(max(ks), 1)
    votes = torch.softmax(similarity / c.settings["temperature"], 1)
    one_hot = torch.nn.functional.one_hot(labels[index], int(c.settings["n_classes"])).to(dtype)
    result = {"/neighbour_similarities": similarity, "/neighbour_indices": index, "/neighbour_labels": labels[index]}
    for k in ks:
        scores = (votes[:, :k, None] * one_hot[:, :k]).sum(1)
        result |= {f"/scores_k{k}": scores, f"/pred_k{k}": scores.argmax(1)}
    return {path: value.numpy() for path, value in result.items()}
