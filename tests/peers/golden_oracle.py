# SPDX-License-Identifier: Apache-2.0
"""Golden sets of the layout of tests/golden, with other sizes, settings and names, computed by PyTorch in fp32 and
fp64; and the golden tests run on each.

  golden_oracle.py                              checks the oracle, writes every variant, runs ctest -L golden on each
  golden_oracle.py --check FOLDER               recomputes a set's fp64 record from its inputs and compares
  golden_oracle.py --write FOLDER --variant a   writes one set ([--seed N])
"""

import argparse
import csv
import os
import re
import subprocess
import sys
import tempfile

import h5py
import numpy as np
import oracle_files as files
import oracle_tables as tables
import oracle_variants as variants
import torch
from oracle_files import Contents

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
NAMED_WHEN_MISSING = ("vit_*.h5", "stochastic_depth.h5", "heads.h5", "losses.h5", "schedules.h5", "param_groups.csv",
                      "masking_stats.csv", "train_steps.h5", "augment.h5", "knn.h5", "/hf")  # fmt: skip
# Shared with vit_mlp.h5 by external links where equal.
LINKED = re.compile(r"/weights/|/cases/[^/]+/(input|mask|cotangent_)")


def attribute(value):
    return np.bytes_(value) if isinstance(value, str) else value


def save(path, contents, base=None):
    """`base`: (file name, its data) for external links. Repeated arrays become hard links."""
    seen = {}
    with h5py.File(path, "w") as f:
        for name, value in contents.data.items():
            if base and LINKED.match(name) and name in base[1] and np.array_equal(base[1][name], value):
                f[name] = h5py.ExternalLink(base[0], name)
            elif id(value) in seen:
                f[name] = f[seen[id(value)]]
            else:
                f.create_dataset(name, data=value)
                seen[id(value)] = name
        f.attrs["byte_order"] = np.bytes_("little")
        for group, pairs in contents.attributes.items():
            for key, value in pairs.items() if group.startswith("/") else ():
                f.require_group(group) if group not in f else None
                f[group].attrs[key] = attribute(value)


def load(path):
    contents = Contents()
    with h5py.File(path) as f:

        def walk(group):
            values = {k: v.decode() if isinstance(v, bytes) else v for k, v in group.attrs.items()}
            contents.attributes[group.name if group.name else "/"] = values
            for key in group:
                item, name = group[key], group.name.rstrip("/") + "/" + key
                if isinstance(item, h5py.Group):
                    walk(item)
                else:
                    contents.data[name] = item[()]
                    pairs = {k: v.decode() if isinstance(v, bytes) else v for k, v in item.attrs.items()}
                    contents.attributes[name] = pairs

        walk(f)
    # Externally linked datasets carry the name that they have in the other file; here only the path counts.
    return contents


def complete(contents, outputs, keep32, keep64):
    """Adds the fp32 results and, below /fp64, the fp64 results of the paths that are kept."""
    single, double = outputs(contents, torch.float32), outputs(contents, torch.float64)
    for path, value in single.items():
        if keep32(path, value):
            contents.data[path] = value if value.dtype == np.int64 else np.asarray(value, np.float32)
    for path, value in double.items():
        if value.dtype != np.int64 and keep64(path, value):
            contents.data["/fp64" + path] = value
    return contents


# ---- writing a set


def write_vit(folder, rng, s):
    shared = None
    for name, (settings, cases) in s["vit"].items():
        c = files.vit_inputs(rng, settings, cases, shared)
        limit, chosen = s["full_gradients_up_to"], f"/cases/{settings['full_grad_case']}/"

        def keep32(path, value, chosen=chosen):
            if "proj/" in path:
                return False
            return value.size <= limit if path.startswith("/grads/") else chosen not in path or "grad_input" not in path

        def keep64(path, value, chosen=chosen):
            if path.startswith("/grads/"):
                return value.size <= limit
            if "proj/" in path:
                return np.prod(c.data["/weights/" + path.split("/")[-1]].shape) > limit
            return path.startswith("/pos_embed") or chosen in path or re.search("x_norm_|scalar", path) is not None

        outputs = files.vit_outputs(c, torch.float32)
        complete(c, files.vit_outputs, keep32, keep64)
        base = ("vit_mlp.h5", shared.data) if shared else None
        save(f"{folder}/{name}.h5", c, base)
        shared = shared or c
        if name in s["vit_full"]:
            some = {p.replace(settings["full_grad_case"] + "/", ""): v for p, v in outputs.items()
                    if p.startswith(f"/grads/{settings['full_grad_case']}/") and v.size > limit
                    and (f"blocks.{s['vit_full'][name]}." in p or "patch_embed" in p)}  # fmt: skip
            save(f"{folder}/{name}_grads.h5", Contents(some, {"/": {"case": settings["full_grad_case"]}}))


def write_training(folder, rng, s):
    def mask(rng, side, target):
        return tables.block_mask(rng, (side, side), target, target, 1)[0].reshape(-1)

    c = files.train_inputs(rng, s["train"], mask)
    weights = Contents()

    def outputs(contents, dtype):
        result = files.train_outputs(contents, dtype, s["train_weights_at"])
        prefix = "" if dtype == torch.float32 else "/fp64"
        for path in list(result):
            if path.startswith("weights:"):
                value = result.pop(path)
                if not prefix or value.size <= 256:
                    weights.data[prefix + path.removeprefix("weights:")] = value
            elif path.startswith("/param_groups/"):
                contents.data[path] = result.pop(path)  # fp64 in any run
        return result

    complete(c, outputs, lambda path, value: True, lambda path, value: "grads_step0" not in path)
    c.attributes["/param_groups"] = {"columns": "lr_multiplier wd_multiplier is_last_layer"}
    names = "dino_local_crops_loss dino_global_crops_loss koleo_loss ibot_loss total_for_backward"
    c.settings["loss_columns"] = names
    save(f"{folder}/train_steps.h5", c)
    save(f"{folder}/train_steps_weights.h5", weights)


def write_set(folder, s, seed):
    os.makedirs(f"{folder}/hf", exist_ok=True)
    rng = np.random.default_rng(seed)
    everything = lambda path, value: True  # noqa: E731
    write_vit(folder, rng, s)
    c = files.depth_inputs(rng, *s["depth"])
    small = lambda path, value: not path.startswith("/grads/") or value.size <= s["full_gradients_up_to"]  # noqa: E731
    complete(c, files.depth_outputs, lambda p, v: small(p, v) and "scalar" not in p, small)
    save(f"{folder}/stochastic_depth.h5", c)
    c = files.head_inputs(rng, s["head"])
    save(f"{folder}/heads.h5", complete(c, files.head_outputs, everything, lambda p, v: not p.endswith("mlp.2.weight")))
    c = files.loss_inputs(rng, s["losses"])
    save(f"{folder}/losses.h5", complete(c, files.loss_outputs, everything, everything))
    c = files.knn_inputs(rng, s["knn"])
    complete(c, files.knn_outputs, everything, lambda p, v: True)
    for k in s["knn"]["ks"]:
        right = float(np.mean(c.data[f"/pred_k{k}"] == c.data["/test_labels"]))
        c.attributes[f"/pred_k{k}"] = {"accuracy": right}
    save(f"{folder}/knn.h5", c)
    write_training(folder, rng, s)
    c = tables.schedule_inputs(s["schedules"])
    c.data |= tables.schedule_outputs(c)
    save(f"{folder}/schedules.h5", c)
    c = tables.augment_inputs(rng, s["augment"])
    c.data |= tables.augment_outputs(c)
    save(f"{folder}/augment.h5", c)
    for name, text in (("param_groups", tables.parameter_rows(s["param_groups"])),
                       ("masking_stats", tables.masking_rows(rng, s["masks"]))):  # fmt: skip
        with open(f"{folder}/{name}.csv", "w") as f:
            f.write(text)
    tables.write_transformers(f"{folder}/hf", s["hf"], s["clip"], seed, save)


# ---- checking against a recorded set


def compare(label, computed, contents, tolerance):
    """Every recorded fp64 quantity that is computed here; those in fp32 only at 1e-4. Returns the worst fp64 error."""
    worst, count = 0.0, 0
    for path, value in computed.items():
        double = "/fp64" + path in contents.data
        if not double and path not in contents.data:
            continue
        want = np.asarray(contents.data["/fp64" + path if double else path], np.float64)
        if want.shape != value.shape:
            raise SystemExit(f"{label}{path}: shape {value.shape}, recorded {want.shape}")
        exact = want.dtype.kind in "iu"
        error = np.abs(value - want).max() / (1 if exact else max(np.abs(want).max(), 1e-6))
        limit = tolerance if double else 1e-4
        if path.endswith("qkv.bias") and not double:
            limit = 1e-3  # the key's third is noise
        if not error <= limit:
            raise SystemExit(f"{label}{path}: error {error:.2e} above {limit:.0e}")
        worst, count = max(worst, error) if double else worst, count + 1
    if not count:
        raise SystemExit(f"{label}: nothing to compare")
    print(f"oracle  {label:24s} {count:5d} quantities agree, fp64 to {worst:.1e}")


def check_tables(folder):
    c = load(f"{folder}/schedules.h5")
    worst, computed = 0.0, tables.schedule_outputs(c)
    for path, value in computed.items():
        want = c.data[path]
        worst = max(worst, float(np.max(np.abs(value - want) / np.maximum(np.abs(want), 1e-300))))
    if not worst <= 1e-14:
        raise SystemExit(f"schedules.h5: relative error {worst:.1e}")
    print(f"oracle  {'schedules.h5':24s} {len(computed):5d} quantities agree to {worst:.1e}")
    c = load(f"{folder}/augment.h5")
    c.attributes["plan"] = tables.augment_plan(c)
    computed = {p: v for p, v in tables.augment_outputs(c).items() if p in c.data}
    for path, value in computed.items():
        if np.abs(np.subtract(value, c.data[path], dtype=np.float64)).max() > 1e-6:
            raise SystemExit(f"augment.h5{path}: torchvision gives another picture")
    pictures = sum(v.dtype == np.uint8 for p, v in c.data.items() if not p.endswith(("/original", "/base")))
    if pictures != sum(v.dtype == np.uint8 for p, v in computed.items() if not p.endswith("/base")):
        raise SystemExit("augment.h5 holds pictures that were not made here")
    print(f"oracle  {'augment.h5':24s} {len(computed):5d} pictures and kernels agree")
    with open(f"{folder}/param_groups.csv") as f:
        rows = list(csv.DictReader(f))
    depth = {}
    for row in rows:
        if row["name"].startswith("blocks."):
            depth[row["config"]] = max(depth.get(row["config"], 0), int(row["name"].split(".")[1]) + 1)
    for row in rows:
        got = tables.model.group_of(f"{row['module']}.{row['name']}", depth[row["config"]],
                                    float(row["layerwise_decay"]), float(row["patch_embed_lr_mult"]))  # fmt: skip
        want = float(row["lr_multiplier"]), float(row["wd_multiplier"]), row["is_last_layer"] == "1"
        if abs(got[0] / want[0] - 1) > 1e-14 or got[1:] != want[1:]:
            raise SystemExit(f"param_groups.csv: {row}: {got}")
    print(f"oracle  {'param_groups.csv':24s} {len(rows):5d} rows agree")


def check_masks(folder, draws=400):
    """The tables' means against fresh draws, within 5 standard errors."""
    rng, count = np.random.default_rng(5), 0
    with open(f"{folder}/masking_stats.csv") as f:
        rows = [row for row in csv.DictReader(f) if row["kind"] == "generator"]
    for row in rows:
        grid = tuple(int(n) for n in row["grid"].split("x"))
        target, largest = int(row["target"]), float(row["max_num_patches"])
        values = [tables.block_mask(rng, grid, target, largest) for _ in range(draws)]
        for name, mine in (("mean", [m.sum() for m, _ in values]), ("mean_blocks", [len(b) for _, b in values]),
                           ("centre_cell_rate", [m[grid[0] // 2, grid[1] // 2] for m, _ in values]),
                           ("edge_rows_rate", [m[[0, -1]].mean() for m, _ in values])):  # fmt: skip
            spread = np.std(mine) * np.sqrt(1 / draws + 1 / int(row["draws"])) + 1e-4
            error = abs(np.mean(mine) - float(row[name])) / spread
            if not error <= 5:
                raise SystemExit(f"masking_stats.csv: {row['grid']} {row['param']} {name}: {error:.1f} standard errors")
            count += 1
    print(f"oracle  {'masking_stats.csv':24s} {count:5d} means agree")


def check(folder):
    for name in sorted(n for n in os.listdir(folder) if re.fullmatch(r"vit_.*\.h5", n) and not n.endswith("_grads.h5")):
        c = load(f"{folder}/{name}")
        compare(name, files.vit_outputs(c, torch.float64), c, 1e-10)
    for name, outputs in (("stochastic_depth", files.depth_outputs), ("heads", files.head_outputs),
                          ("losses", files.loss_outputs), ("knn", files.knn_outputs)):  # fmt: skip
        c = load(f"{folder}/{name}.h5")
        compare(name + ".h5", outputs(c, torch.float64), c, 1e-10)
    c, w = load(f"{folder}/train_steps.h5"), load(f"{folder}/train_steps_weights.h5")
    at = {(g.split("_")[0], int(g.rsplit("step")[1])) for g in w.groups("") if g != "fp64"}
    computed = files.train_outputs(c, torch.float64, at)
    weights = {p.removeprefix("weights:"): computed.pop(p) for p in [p for p in computed if p.startswith("weights:")]}
    compare("train_steps.h5", computed, c, 1e-10)
    compare("train_steps_weights.h5", {p: v for p, v in weights.items() if "/fp64" + p in w.data}, w, 1e-10)
    check_tables(folder)
    check_masks(folder)


# ---- the golden tests on every variant


def run_tests(folder, build):
    """ctest -L golden on a set; returns its table of errors and tolerances."""
    done = subprocess.run(["ctest", "--test-dir", build, "-L", "golden", "-V", "-j", str(os.cpu_count())],
                          env={**os.environ, "DINO_GOLDEN_DIR": folder}, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
    lines = re.findall(r"golden  (\S+)  error (\S+)  tolerance (\S+)", done.stdout)
    if done.returncode != 0 or not lines:
        print(done.stdout[-6000:])
        raise SystemExit(f"ctest -L golden fails on {folder}")
    return lines


def check_refusals(folder, build):
    """An empty folder fails every golden test, each with the name of what it misses."""
    done = subprocess.run(["ctest", "--test-dir", build, "-L", "golden", "-V"], text=True,
                          env={**os.environ, "DINO_GOLDEN_DIR": folder},
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
    missing = [name for name in NAMED_WHEN_MISSING if name not in done.stdout]
    if "\n0% tests passed" not in done.stdout or missing:
        print(done.stdout[-6000:])
        raise SystemExit(f"golden tests pass in an empty folder, or do not name {missing}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", metavar="FOLDER")
    parser.add_argument("--write", metavar="FOLDER")
    parser.add_argument("--variant", choices=sorted(variants.VARIANTS), default="a")
    parser.add_argument("--seed", type=int, default=1)
    binaries = os.environ.get("DINO_BIN", os.path.join(ROOT, "build/release/bin"))
    parser.add_argument("--build", default=os.path.dirname(binaries), help="the build folder that ctest runs in")
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    if arguments.check:
        check(arguments.check)
    if arguments.write:
        write_set(arguments.write, variants.VARIANTS[arguments.variant](), arguments.seed)
    if arguments.check or arguments.write:
        return
    check(os.path.join(ROOT, "tests/golden"))
    quantities = 0
    with tempfile.TemporaryDirectory() as work:
        check_refusals(work, arguments.build)
        for i, (name, make) in enumerate(sorted(variants.VARIANTS.items())):
            folder = os.path.join(work, name)
            write_set(folder, make(), arguments.seed + i)
            quantities += len(run_tests(folder, arguments.build))
    print(f"oracle of PyTorch: agrees with tests/golden; {len(variants.VARIANTS)} sets of other sizes pass the golden "
          f"tests, {quantities} quantities within tolerance")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
