# SPDX-License-Identifier: Apache-2.0
"""Heads of dense tasks in PyTorch, their losses by autograd, and the scores of maps by scikit-learn, in fp64.

  dense_oracle.py               recomputes tests/golden/dense.h5 from its inputs and compares
  dense_oracle.py --write       writes it anew
"""

import os
import sys

import h5py
import numpy as np
import torch
import torch.nn.functional as F

FILE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "golden", "dense.h5")
WIDTH, FUSION, GRID, IMAGES, LEAST = 8, 6, (3, 4), 2, 1e-3


def conv(w, name, x, **more):
    """A convolution whose weight is stored [out, ky, kx, in], or [out, in]."""
    weight = w[name + ".weight"]
    weight = weight[:, :, None, None] if weight.ndim == 2 else weight.permute(0, 3, 1, 2)
    return F.conv2d(x, weight, w.get(name + ".bias"), padding=weight.shape[-1] // 2, **more)


def residual(w, name, x):
    return x + conv(w, name + ".1", F.relu(conv(w, name + ".0", F.relu(x))))


def double(x):
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


def level(w, i, tokens):
    """tokens [B, 2 width, h, w]: patches beside the class token."""
    x = F.gelu(conv(w, f"dpt.level.{i}.readout", tokens))
    x = conv(w, f"dpt.level.{i}.project", x)
    if i < 2:
        weight = w[f"dpt.level.{i}.resize.weight"].permute(3, 2, 0, 1)
        x = F.conv_transpose2d(x, weight, w[f"dpt.level.{i}.resize.bias"], stride=weight.shape[-1])
    if i == 3:
        x = conv(w, f"dpt.level.{i}.resize", x, stride=2)
    return conv(w, f"dpt.level.{i}.out", x)


def dpt(w, layers):
    levels = [level(w, i, x) for i, x in enumerate(layers)]
    x = None
    for i in range(4):
        at = levels[3 - i]
        if x is not None:
            if at.shape[2:] != x.shape[2:]:
                at = F.interpolate(at, size=x.shape[2:], mode="bilinear", align_corners=False)
            at = x + residual(w, f"dpt.fusion.{i}.skip", at)
        x = conv(w, f"dpt.fusion.{i}.project", double(residual(w, f"dpt.fusion.{i}.through", at)))
    x = F.relu(conv(w, "dpt.project", x))
    x = F.relu(conv(w, "dpt.depth.1", double(conv(w, "dpt.depth.0", x))))
    return F.relu(conv(w, "dpt.depth.2", x)) + LEAST


def binned(w, x, centres):
    """The published order: features four times as fine, then onto bins."""
    a = F.relu(conv(w, "depth.conv_depth", F.interpolate(x, scale_factor=4, mode="bilinear", align_corners=False))) + 0.1
    return torch.einsum("bkhw,k->bhw", a / a.sum(1, keepdim=True), centres)[:, None]


def log_error(predicted, truth):
    return torch.where(truth > 0, torch.log(predicted + 1e-3) - torch.log(truth + 1e-3), torch.zeros_like(truth))


def scale_invariant(predicted, truth):
    g = log_error(predicted, truth)[truth > 0]
    return torch.sqrt(torch.var(g) + 0.15 * g.mean() ** 2)


def gradient_term(predicted, truth):
    loss = 0
    for stride in (1, 2, 4, 6):
        g, valid = log_error(predicted, truth)[:, ::stride, ::stride], (truth > 0)[:, ::stride, ::stride]
        down = ((g[:, :-2] - g[:, 2:]).abs() * (valid[:, :-2] & valid[:, 2:])).sum()
        across = ((g[:, :, :-2] - g[:, :, 2:]).abs() * (valid[:, :, :-2] & valid[:, :, 2:])).sum()
        loss = loss + (down + across) / valid.sum()
    return loss


def layout():
    shapes = {}
    for i in range(4):
        c = WIDTH >> (3 - i)
        name = f"dpt.level.{i}"
        shapes |= {f"{name}.readout.weight": (WIDTH, 2 * WIDTH), f"{name}.readout.bias": (WIDTH,)}
        shapes |= {f"{name}.project.weight": (c, WIDTH), f"{name}.project.bias": (c,)}
        if i < 2:
            k = 4 if i == 0 else 2
            shapes |= {f"{name}.resize.weight": (k, k, c, c), f"{name}.resize.bias": (c,)}
        if i == 3:
            shapes |= {f"{name}.resize.weight": (c, 3, 3, c), f"{name}.resize.bias": (c,)}
        shapes |= {f"{name}.out.weight": (FUSION, 3, 3, c)}
        for unit in ("skip", "through") if i > 0 else ("through",):
            shapes |= {f"dpt.fusion.{i}.{unit}.{j}.weight": (FUSION, 3, 3, FUSION) for j in (0, 1)}
        shapes |= {f"dpt.fusion.{i}.project.weight": (FUSION, FUSION), f"dpt.fusion.{i}.project.bias": (FUSION,)}
    for name, shape in {"project": (FUSION, 3, 3, FUSION), "depth.0": (FUSION // 2, 3, 3, FUSION),
                        "depth.1": (32, 3, 3, FUSION // 2), "depth.2": (1, 32)}.items():
        shapes |= {f"dpt.{name}.weight": shape, f"dpt.{name}.bias": shape[:1]}
    return shapes | {"depth.conv_depth.weight": (7, 2 * WIDTH), "depth.conv_depth.bias": (7,)}


def draw():
    rng = np.random.default_rng(7)
    inputs = {f"/weights/{name}": rng.normal(size=shape) * (0.3 if len(shape) == 1 else 0.9 / np.sqrt(np.prod(shape[1:])))
              for name, shape in layout().items()}
    inputs["/weights/dpt.depth.2.bias"] = np.array([1.0])
    for i in range(4):
        inputs[f"/layers/{i}"] = rng.normal(size=(IMAGES, *GRID, 2 * WIDTH))
    inputs["/centres"] = np.linspace(0.5, 8, 7)
    truth = rng.uniform(1, 6, size=(IMAGES, 15, 14))
    truth[rng.uniform(size=truth.shape) < 0.2] = 0
    inputs["/truth"] = truth
    inputs["/predicted"] = rng.uniform(1, 6, size=truth.shape)
    inputs["/labels"] = rng.integers(-1, 6, size=(40, 50)).astype(np.int32)
    near = rng.integers(0, 7, size=(40, 50)).astype(np.int32)
    inputs["/classes"] = np.where(rng.uniform(size=near.shape) < 0.6, np.maximum(inputs["/labels"], 0), near).astype(np.int32)
    # What is stored is what is computed from.
    return {name: value.astype(np.float32) if value.dtype == np.float64 else value for name, value in inputs.items()}


def compute(inputs):
    from sklearn import metrics
    tensors = {name: torch.from_numpy(np.asarray(value, dtype=np.float64)) for name, value in inputs.items()}
    w = {name[9:]: value for name, value in tensors.items() if name.startswith("/weights/")}
    layers = [tensors[f"/layers/{i}"].permute(0, 3, 1, 2) for i in range(4)]
    out = {"/dpt": dpt(w, layers).permute(0, 2, 3, 1).numpy(),
           "/binned": binned(w, layers[0], tensors["/centres"]).permute(0, 2, 3, 1).numpy()}
    predicted, truth = tensors["/predicted"].clone().requires_grad_(), tensors["/truth"]
    loss = scale_invariant(predicted, truth) + 0.5 * gradient_term(predicted, truth)
    loss.backward()
    out |= {"/loss": np.array([loss.item()]), "/gradient": predicted.grad.numpy()}
    counted = inputs["/labels"] >= 0
    t, p = inputs["/labels"][counted], inputs["/classes"][counted]
    out["/segmentation"] = np.array([metrics.jaccard_score(t, p, average="macro", zero_division=0),
                                     metrics.recall_score(t, p, average="macro", labels=np.unique(t)),
                                     metrics.accuracy_score(t, p)])
    valid = inputs["/truth"] > 0
    t, p = inputs["/truth"][valid].astype(np.float64), inputs["/predicted"][valid].astype(np.float64)
    ratio, e = np.maximum(p / t, t / p), np.log(p) - np.log(t)
    out["/depth"] = np.array([metrics.root_mean_squared_error(t, p), metrics.mean_absolute_percentage_error(t, p),
                              np.mean((p - t) ** 2 / t), metrics.root_mean_squared_error(np.log(t), np.log(p)),
                              metrics.mean_absolute_error(np.log10(t), np.log10(p)), 100 * np.std(e),
                              *(np.mean(ratio < 1.25**n) for n in (1, 2, 3))])
    return out


def main():
    if "--write" in sys.argv:
        inputs = draw()
        with h5py.File(FILE, "w", track_order=False) as f:
            for name, value in (inputs | compute(inputs)).items():
                f.create_dataset(name, data=value, track_times=False)
        print(f"written: {FILE}")
        return
    with h5py.File(FILE) as f:
        held = {}
        f.visititems(lambda name, item: held.update({"/" + name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    made = compute(held)
    for name, value in made.items():
        np.testing.assert_allclose(held[name], value, rtol=1e-9, atol=1e-12, err_msg=name)
    print(f"{len(made)} records of tests/golden/dense.h5 equal PyTorch's and scikit-learn's")


if __name__ == "__main__":
    main()
