# SPDX-License-Identifier: Apache-2.0
"""The files of a golden set that hold tables and pictures: schedules, parameter groups, block-mask statistics,
augmentation (torchvision on Pillow), and models of transformers with their outputs."""

import json
import math
import os
import re

import numpy as np
import oracle_model as model
import torch
from oracle_files import Contents, backbone_shapes, f32, head_shapes
from PIL import Image
from torchvision.transforms import functional as tv
from transformers import CLIPModel

BICUBIC = tv.InterpolationMode.BICUBIC
# ---- schedules.h5


def cosine(base, final, total, warmup=0):
    i = np.arange(total - warmup)
    decay = final + 0.5 * (base - final) * (1 + np.cos(np.pi * i / len(i)))
    return np.concatenate([np.linspace(0, base, warmup), decay]), final


def linear(start, end, warmup):
    return np.linspace(start, end, warmup), end


def schedule_inputs(groups):
    """groups: {name: settings as the attributes}, completed here by what follows from them."""
    c = Contents()
    for name, s in groups.items():
        s = dict(s, world_batch=s["ranks"] * s["batch_per_rank"], total_iterations=s["epochs"] * s["epoch_length"])
        s["scaled_lr"] = s["base_lr"] * math.sqrt(s["world_batch"] / 1024)
        c.attributes["/" + name] = s
        total = s["total_iterations"]
        some = {*range(0, total, 10), *range(min(200, total)), *range(max(total - 200, 0), total)}
        c.data[f"/{name}/iteration"] = np.array(sorted(some), np.int32)
        for short, last in (("teacher_temp", "warmup_teacher_temp_epochs"), ("last_layer_lr", "freeze_last_layer_epochs")):
            limit = min((s[last] + 2) * s["epoch_length"], total)
            c.data[f"/{name}/{short}_iteration"] = np.array(sorted(i for i in some if i < limit), np.int32)
    return c


def schedule_outputs(c):
    result = {}
    for name in c.groups(""):
        s, total = c.attributes["/" + name], int(c.attributes["/" + name]["total_iterations"])
        epoch = int(s["epoch_length"])
        lr, end = cosine(s["scaled_lr"], s["min_lr"], total, int(s["warmup_epochs"]) * epoch)
        last = lr.copy()
        last[: int(s["freeze_last_layer_epochs"]) * epoch] = 0
        warmup = int(s["warmup_teacher_temp_epochs"]) * epoch
        curves = {
            "lr": (lr, end),
            "last_layer_lr": (last, end),
            "weight_decay": cosine(s["weight_decay"], s["weight_decay_end"], total),
            "teacher_momentum": cosine(s["momentum_teacher"], s["final_momentum_teacher"], total),
            "teacher_temp": linear(s["warmup_teacher_temp"], s["teacher_temp"], warmup),
        }
        for key, (values, end) in curves.items():
            own = f"/{name}/{key}_iteration"
            at = c.data[own if own in c.data else f"/{name}/iteration"]
            result[f"/{name}/{key}"] = np.where(at < len(values), values[np.minimum(at, len(values) - 1)], end)
            result[f"/{name}/value_at_total_iters/{key}"] = np.array([end])
    return result


# ---- param_groups.csv


def parameter_rows(configs):
    """configs: {name: {"backbone": settings, "<head>": sizes, "layerwise_decay", "patch_embed_lr_mult"}}."""
    header = "config,module,name,shape,numel,lr_multiplier,wd_multiplier,is_last_layer,layerwise_decay,patch_embed_lr_mult"
    rows = [header]
    for config, s in configs.items():
        decay, patch = s["layerwise_decay"], s["patch_embed_lr_mult"]
        modules = {"backbone": backbone_shapes(s["backbone"])}
        modules |= {h: head_shapes(s["backbone"]["embed_dim"], *s[h]) for h in ("dino_head", "ibot_head") if h in s}
        for module, shapes in modules.items():
            for name, shape in shapes.items():
                lr, wd, last = model.group_of(f"{module}.{name}", s["backbone"]["depth"], decay, patch)
                text = "x".join(map(str, shape))
                rows.append(f"{config},{module},{name},{text},{np.prod(shape)},{lr},{wd},{int(last)},{decay},{patch}")
    return "\n".join(rows) + "\n"


# ---- masking_stats.csv


def block_mask(rng, grid, target, largest, smallest=4):
    """Blocks of log-uniform aspect until `target` cells are masked or ten tries add nothing; (mask, blocks)."""
    height, width = grid
    mask, blocks, masked = np.zeros(grid, np.uint8), [], 0
    while masked < target:
        room, added = min(target - masked, largest), 0
        for _ in range(10):
            area = smallest + (room - smallest) * rng.random()
            aspect = math.exp(math.log(0.3) * (1 - 2 * rng.random()))
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if w >= width or h >= height:
                continue
            top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
            part = mask[top : top + h, left : left + w]
            added = int(h * w - part.sum())
            if 0 < added <= room:
                part[:] = 1
                blocks.append((h, w))
                break
            added = 0
        if not added:
            break
        masked += added
    return mask, blocks


def generator_row(rng, grid, largest, percent, draws):
    target = int(grid[0] * grid[1] * percent / 100)
    total, blocks, counts, reached = np.zeros(grid), [], [], 0
    for _ in range(draws):
        mask, accepted = block_mask(rng, grid, target, largest)
        total += mask
        blocks += accepted
        counts.append(int(mask.sum()))
        reached += counts[-1] == target
    rate, aspect = total / draws, np.array([h / w for h, w in blocks])
    corners = rate[[0, 0, -1, -1], [0, -1, 0, -1]].mean()
    values = [np.mean(counts), np.std(counts), min(counts), max(counts), len(blocks) / draws, aspect.mean(),
              np.log(aspect).mean(), np.abs(np.log(aspect)).mean(), reached / draws,
              rate[grid[0] // 2, grid[1] // 2], corners, rate[[0, -1]].mean()]  # fmt: skip
    texts = [f"{v}" if isinstance(v, int) else f"{v:.4f}" for v in values]
    return f"generator,{grid[0]}x{grid[1]},{float(largest)},{percent}%,{draws},{target}," + ",".join(texts)


def collate_rows(rng, grid, largest, batch, draws):
    """Half of the views, one stratum of the ratios 0.1 ... 0.5 each, in random order."""
    views, patches = 2 * batch, grid[0] * grid[1]
    masked = int(views * 0.5)
    edges = torch.linspace(0.1, 0.5, masked + 1)
    bound = sum(int(patches * e) for e in edges[1:])
    share, counts = [], []
    for _ in range(draws):
        count = 0
        for low, high in zip(edges, edges[1:]):
            target = int(patches * (float(low) + float(high - low) * rng.random()))
            count += int(block_mask(rng, grid, target, largest)[0].sum())
        places = rng.permutation(views)[:masked]
        share.append(np.mean(places < views // 2))
        counts.append(count)
    head, tail = f"{grid[0]}x{grid[1]},{float(largest)},batch{batch}(views{views}),{draws},", ",,,,,,,,"
    fraction = masked / views
    return [f"collate_fraction_of_views_masked,{head}0.5,{fraction:.6f},0.000000,{fraction:.6f},{fraction:.6f}{tail}",
            f"collate_fraction_masked_in_first_view_half,{head}0.5,{np.mean(share):.6f},{np.std(share):.6f},"
            f"{min(share):.6f},{max(share):.6f}{tail}",
            f"collate_n_masked_tokens,{head},{np.mean(counts):.4f},{np.std(counts):.4f},{min(counts)},{max(counts)}{tail}",
            f"collate_upperbound,{head}{bound},{bound:.4f},0.0000,{bound},{bound}{tail}"]  # fmt: skip


def masking_rows(rng, s):
    header = ("kind,grid,max_num_patches,param,draws,target,mean,std,min,max,mean_blocks,mean_aspect_h_over_w,"
              "mean_log_aspect,mean_abs_log_aspect,fraction_reaching_target,centre_cell_rate,corner_cell_rate,"
              "edge_rows_rate")  # fmt: skip
    rows = [header]
    for grid, largest in s["grids"]:
        rows += [generator_row(rng, grid, largest, percent, s["draws"]) for percent in s["percents"]]
    for grid, largest in s["grids"]:
        for batch in s["batches"]:
            rows += collate_rows(rng, grid, largest, batch, s["collate_draws"])
    return "\n".join(rows) + "\n"


# ---- augment.h5


def draw_picture(rng, height, width, grey):
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    a, b, phase = rng.uniform(-30, 30, (3, 1 if grey else 3, 1, 1))
    waves = 128 + 90 * np.sin(a * x + b * y + phase) + 12 * rng.standard_normal((1 if grey else 3, height, width))
    waves[:, height // 3 : height // 2, width // 4 : width // 2] = rng.uniform(0, 255, (len(waves), 1, 1))
    return np.broadcast_to(waves.clip(0, 255), (3, height, width)).transpose(1, 2, 0).astype(np.uint8)


def augment_inputs(rng, s):
    """s: images {name: (height, width, grey)}, crop sizes, operations {name: values}, kernel, sequences, eval."""
    c = Contents(attributes={"/": {"normalize_mean": s["mean"], "normalize_std": s["std"]}, "plan": s})
    for name, picture in s["images"].items():
        c.data[f"/{name}/original"] = draw_picture(rng, *picture)
        height, width = picture[:2]
        boxes = [(0, 0, height, width), (1, 1, 9, 8), (height // 5, 0, height // 4, width)]
        for _ in range(s["boxes"]):
            h, w = rng.integers(8, height + 1), rng.integers(8, width + 1)
            boxes.append((rng.integers(0, height - h + 1), rng.integers(0, width - w + 1), h, w))
        for i, box in enumerate(boxes):
            c.attributes[f"/{name}/crop{i}"] = {"box_top_left_height_width": [int(n) for n in box]}
        for label, (order, params) in s["sequences"].items():
            c.attributes[f"/{name}/seq{label}"] = {
                "box_top_left_height_width": c.attributes[f"/{name}/crop{len(boxes) - 1}"]["box_top_left_height_width"],
                "order": order, "params": params}  # fmt: skip
    return c


def operate(image, operation, value, kernel):
    if operation == "blur":
        return tv.gaussian_blur(image, [kernel, kernel], [value, value])
    if operation == "solarize":
        return tv.solarize(image, int(value))
    if operation == "grayscale":
        return tv.rgb_to_grayscale(image, 3)
    if operation == "hflip":
        return tv.hflip(image)
    return getattr(tv, "adjust_" + operation)(image, value)


def normalized(image, s):
    return tv.normalize(tv.to_tensor(image), list(s["mean"]), list(s["std"])).numpy()


def crop(image, box, side):
    top, left, height, width = (int(n) for n in box)
    return tv.resized_crop(image, top, left, height, width, [side, side], BICUBIC)


def sequence(image, path, c, s):
    a = c.attributes[path]
    current = crop(image, a["box_top_left_height_width"], s["sequence_size"])
    result = {f"{path}/0_crop": current}
    if path.rsplit("seq", 1)[1] in s["flipped"]:
        current = result[f"{path}/0_hflip"] = tv.hflip(current)
    for i, (operation, value) in enumerate(zip(a["order"].split(), a["params"])):
        current = result[f"{path}/{i + 1}_{operation}"] = operate(current, operation, value, s["kernel"])
    return result | {f"{path}/normalized": normalized(current, s)}


def pictures_of(c):
    return [name for name in c.groups("") if f"/{name}/original" in c.data]


def augment_outputs(c):
    s, result = c.attributes["plan"], {}
    for name in pictures_of(c):
        image = Image.fromarray(c.data[f"/{name}/original"])
        boxes = [path for path in c.attributes if re.fullmatch(f"/{name}/crop[^/]*", path)]
        for path in boxes:
            for side in s["sizes"]:
                result[f"{path}/size{side}"] = crop(image, c.attributes[path]["box_top_left_height_width"], side)
        # A stored file does not say which of its crops its base is.
        stored = c.data.get(f"/{name}/base")
        base = result[f"{boxes[-1]}/size{s['sizes'][0]}"] if stored is None else Image.fromarray(stored)
        result |= {f"/{name}/base": base, f"/{name}/base_normalized": normalized(base, s)}
        for operation, values in s["operations"].items():
            for value in values:
                path = f"/{name}/{operation}" + (f"_{value:g}" if operation not in ("hflip", "grayscale") else "")
                result[path] = operate(base, operation, value, s["kernel"])
                if operation == "blur":
                    c.attributes[path] = {"kernel_size": s["kernel"], "sigma": value}
                elif "_" in path.rsplit("/", 1)[1] and operation != "solarize":
                    c.attributes[path] = {"factor": value}
        for path in [p for p in c.attributes if re.fullmatch(f"/{name}/seq[^/]*", p)]:
            result |= sequence(image, path, c, s)
        shorter, side = s["eval"]
        result[f"/{name}/eval_resize{shorter}_crop{side}"] = tv.center_crop(tv.resize(image, shorter, BICUBIC), side)
    for sigma in s["operations"]["blur"]:
        x = np.arange(s["kernel"]) - s["kernel"] // 2
        kernel = np.exp(-0.5 * (x / sigma) ** 2)
        result[f"/gaussian_kernel1d/sigma_{sigma:g}"] = f32(kernel / kernel.sum())
    return {path: np.asarray(value) for path, value in result.items()}


def augment_plan(c):
    """The plan that a stored file's names and attributes tell."""
    below = c.below("/" + pictures_of(c)[0])
    kernels = c.below("/gaussian_kernel1d")
    operations = {}
    for path in sorted(below):
        operation, _, value = path.partition("_")
        if "/" not in path and operation not in ("original", "base", "eval"):
            operations.setdefault(operation, []).append(float(value or 0))
    shorter, side = next(p for p in below if p.startswith("eval_")).removeprefix("eval_resize").split("_crop")
    sequences = {p.split("/")[0] for p in below if p.startswith("seq")}
    return {"mean": c.settings["normalize_mean"], "std": c.settings["normalize_std"],
            "kernel": len(next(iter(kernels.values()))), "operations": operations, "eval": (int(shorter), int(side)),
            "sizes": sorted({int(p.rsplit("size", 1)[1]) for p in below if p.startswith("crop")}),
            "sequence_size": len(below[sorted(sequences)[0] + "/0_crop"]),
            "flipped": {q.removeprefix("seq") for q in sequences if q + "/0_hflip" in below}}  # fmt: skip


# ---- hf/


def random_model(kind, config, seed):
    """A model of transformers with noise in every parameter: fresh ones have zero biases and tokens."""
    torch.manual_seed(seed)
    made = kind(config).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return made


def write_transformers(folder, models, clip, seed, save):
    """models: {name: (class, config, {input: (batch, height, width)}, native input)}; and one that is no backbone."""
    random_model(CLIPModel, clip, seed).save_pretrained(os.path.join(folder, "clip"))
    for i, (name, (kind, config, inputs, native)) in enumerate(models.items()):
        made, path = random_model(kind, config, seed + i), os.path.join(folder, name)
        made.save_pretrained(path)
        c = Contents(attributes={"/": {"model_class": kind.__name__}})
        generator = torch.Generator().manual_seed(seed + i)
        for label, (batch, height, width) in inputs.items():
            pixels = torch.randn(batch, 3, height, width, generator=generator)
            c.data[f"/{label}/pixel_values"] = pixels.numpy()
            for root, dtype in {"": torch.float32, **({"/fp64": torch.float64} if label == native else {})}.items():
                with torch.inference_mode():
                    out = made.to(dtype)(pixel_values=pixels.to(dtype))
                c.data[f"{root}/{label}/last_hidden_state"] = out.last_hidden_state.numpy()
                c.data[f"{root}/{label}/pooler_output"] = out.pooler_output.numpy()
            made.to(torch.float32)
        save(os.path.join(path, "outputs.h5"), c)
    with open(os.path.join(folder, "clip_tokens.json"), "w") as f:
        json.dump({"tokenizer": "none", "strings": []}, f)
