#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What can be said of the GPU's kernels without a GPU: docs/kernels.md, from nvcc's own reports and from
shapes. Needs nvcc (NVCC, PATH or /usr/local/cuda/bin), mpicxx for mpi.h and c++filt.

  kernel_table.py           writes docs/kernels.md
  kernel_table.py --check   compares; 1 where a kernel spills registers or the file is stale, 77 without nvcc
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "kernels.md"
ARCHITECTURES = ("sm_80", "sm_90")


# ---- what the compiler says


def find_nvcc():
    for candidate in (os.environ.get("NVCC"), shutil.which("nvcc"), "/usr/local/cuda/bin/nvcc"):
        if candidate and Path(candidate).exists():
            return candidate
    return None


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def version_of(nvcc):
    return re.search(r"release [\d.]+, V([\d.]+)", run([nvcc, "--version"])).group(1)


def demangled(names):
    text = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True).stdout
    return dict(zip(names, (short_name(line) for line in text.splitlines())))


def short_name(name):
    """cross_entropy_rows<4> of the whole signature."""
    name = re.sub(r"\(anonymous namespace\)::|\bdino::(cuda::)?|\battention::", "", name)
    name = re.sub(r"\((int|bool|unsigned int|Part)\)", "", name)
    name = re.sub(r"^void ", "", name)
    depth = 0
    for i, c in enumerate(name):
        depth += {"<": 1, ">": -1}.get(c, 0)
        if c == "(" and depth == 0:
            return name[:i]
    return name


def counts_of_ptx(text):
    """By mangled kernel: loads from global memory, those of 16 bytes among them, and the like."""
    whole = r"(v4\.[fubs]32|v2\.[fubs]64|v8\.[fubs]16)\s"  # 16 bytes
    patterns = {
        "loads": r"\bld\.(global|v\d)\S*\s",
        "wide_loads": rf"\bld\.(global\S*\.)?{whole}",
        "stores": r"\bst\.(global|v\d)\S*\s",
        "wide_stores": rf"\bst\.(global\S*\.)?{whole}",
        "mma": r"\bmma\.sync\S*\s",
        "ldmatrix": r"\bldmatrix\S*\s",
        "cp_async": r"\bcp\.async\.c[ag]\S*\s",
    }
    found = {}
    for entry in re.finditer(r"\.entry (\w+)\((.*?)^}", text, re.S | re.M):
        found[entry.group(1)] = {key: len(re.findall(p, entry.group(2))) for key, p in patterns.items()}
    return found


def compile_one(nvcc, includes, source, architecture):
    """By mangled kernel, what nvcc says."""
    with tempfile.TemporaryDirectory() as folder:
        report = run([nvcc, "-std=c++20", "--expt-relaxed-constexpr", f"-arch={architecture}", "-Xptxas", "-v",
                      "-I", str(ROOT / "src"), *includes, "-cubin", "--keep", "--keep-dir", folder, "-o",
                      f"{folder}/out.cubin", str(source)])
        ptx = "".join(p.read_text() for p in Path(folder).glob("*.ptx"))
    kernels = counts_of_ptx(ptx)
    name = None
    for line in report.splitlines():
        if m := re.search(r"Compiling entry function '(\w+)'", line):
            name = m.group(1)
        elif (m := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line)) \
                and name:
            kernels[name] |= dict(zip(("stack", "spill_stores", "spill_loads"), map(int, m.groups())))
        elif (m := re.search(r"Used (\d+) registers", line)) and name:
            shared = re.search(r"(\d+) bytes smem", line)
            kernels[name] |= {"registers": int(m.group(1)), "shared": int(shared.group(1)) if shared else 0}
    return kernels


def compiled():
    """{source name: {short kernel name: {architecture: facts}}} and nvcc's version."""
    nvcc = find_nvcc()
    if nvcc is None:
        print("no nvcc: nothing is compared")
        sys.exit(77)
    directories = run(["mpicxx", "--showme:incdirs"]).split()
    includes = [word for d in directories for word in ("-isystem", d)]
    sources = sorted((ROOT / "src" / "ops" / "cuda").glob("*.cu"))
    jobs = [(s, a) for s in sources for a in ARCHITECTURES]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(lambda job: compile_one(nvcc, includes, *job), jobs))
    names = demangled(sorted({name for kernels in results for name in kernels}))
    table = {}
    for (source, architecture), kernels in zip(jobs, results):
        for name, facts in kernels.items():
            table.setdefault(source.name, {}).setdefault(names[name], {})[architecture] = facts
    return table, version_of(nvcc)


def spills(table):
    return [f"{source}: {kernel} on {architecture} spills {f['spill_stores']} bytes"
            for source, kernels in table.items() for kernel, by in kernels.items()
            for architecture, f in by.items() if f["spill_stores"] or f["spill_loads"]]


def both(by, key):
    """One number where the architectures agree."""
    values = [by[a][key] if a in by else "-" for a in ARCHITECTURES]
    return str(values[0]) if len(set(values)) == 1 else " / ".join(map(str, values))


def compiler_tables(table, version):
    lines = [
        "## What the compiler says", "",
        f"nvcc {version}; two numbers are those of {ARCHITECTURES[0]} and {ARCHITECTURES[1]} where they differ. "
        "Registers are per thread; shared memory is the static part, in bytes (what a launch asks for beside it "
        "is in the code). Loads, stores and tensor-core instructions are counted in the PTX: those of 16 bytes "
        "out of all that may name global memory (addresses of either kind count, shared memory by name does not), "
        "each once, however often a loop runs.", "",
        f"{sum(map(len, table.values()))} kernels, of which "
        f"{len({line.split(' on ')[0] for line in spills(table)})} spill registers.", ""]
    for source, kernels in table.items():
        if not kernels:
            continue
        lines += [f"### {source}", "",
                  "| kernel | registers | shared | stack | spilled | 16-byte loads | 16-byte stores | mma | "
                  "ldmatrix | cp.async |",
                  "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|"]
        for kernel, by in sorted(kernels.items()):
            loads = f"{both(by, 'wide_loads')} of {both(by, 'loads')}"
            stores = f"{both(by, 'wide_stores')} of {both(by, 'stores')}"
            rest = " | ".join(both(by, key) for key in ("mma", "ldmatrix", "cp_async"))
            lines.append(f"| `{kernel}` | {both(by, 'registers')} | {both(by, 'shared')} | {both(by, 'stack')} | "
                         f"{both(by, 'spill_stores')} | {loads} | {stores} | {rest} |")
        lines.append("")
    return lines


# ---- what a step moves and computes

CARDS = {  # bytes/s, dense bf16 flop/s
    "A100 40GB": (1.555e12, 312e12),
    "A100 80GB": (2.0e12, 312e12),
    "H100": (3.35e12, 989e12),
}


class Step:
    """The calls of one training step: (part, operator, shape, calls, bytes, flops), of one call each."""

    def __init__(self):
        # ViT-L/14 as the reference trains it: 2 x 224 and 8 x 98 pixels, 131,072 prototypes for each head.
        self.batch, self.width, self.hidden, self.blocks, self.heads = 32, 1024, 4096, 24, 16
        self.drop, self.prototypes, self.bottlenecks, self.head_hidden = 0.4, 131072, (384, 256), 2048
        self.masked = round(self.batch * 2 * 256 * 0.5 * 0.3)
        self.parameters = 303e6
        self.calls = []
        self.transformer("teacher", self.batch, 2, 0, 1.0, False)
        self.transformer("student", self.batch, 2, 8, 1 - self.drop, True)
        self.heads_and_losses()
        self.optimizer()

    def add(self, part, operator, shape, calls, nbytes, flops=0.0):
        self.calls.append((part, operator, shape, calls, nbytes, flops))

    def linear(self, part, n, k, m, calls, what="linear", in_bytes=2, out_bytes=2):
        """y [n,m] = x [n,k] w [m,k]^T."""
        self.add(part, what, f"{n:,} x {k:,} -> {m:,}", calls,
                 in_bytes * n * k + 2 * m * k + out_bytes * n * m, 2 * n * k * m)

    def linear_backward(self, part, n, k, m, calls, bias=True):
        shape = f"{n:,} x {k:,} -> {m:,}"
        flops = 2 * n * k * m
        self.add(part, "linear_backward_input", shape, calls, 2 * (n * m + m * k + n * k), flops)
        self.add(part, "linear_backward_weight", shape, calls, 2 * (n * m + n * k) + 8 * m * k, flops)
        if bias:
            self.add(part, "column sums of dy (in linear_backward_weight)", f"{n:,} x {m:,}", calls, 2 * n * m)

    def transformer(self, part, batch, large, small, share, backward):
        d, h, blocks = self.width, self.hidden, self.blocks
        n = round(share * batch * (large * 257 + small * 50))
        pairs = share * batch * (large * 257**2 + small * 50**2)
        rows = f"{n:,} x {d:,}"
        joined = share == 1  # branches over all rows: the sum after one is made by the norm before the next
        if joined:
            self.add(part, "residual_layer_norm", rows, 2 * blocks - 1, 12 * n * d)
            self.add(part, "layer_norm", rows, 2, 8 * n * d)
            self.add(part, "scaled_index_add", rows, 1, 10 * n * d)
        else:
            self.add(part, "gather_layer_norm", rows, 2 * blocks, 10 * n * d)
            self.add(part, "scaled_index_add", rows, 2 * blocks, 10 * n * d)
        self.linear(part, n, d, 3 * d, blocks)
        self.add(part, "attention", f"{n:,} tokens", blocks, 8 * n * d + 4 * n * self.heads, 4 * pairs * d)
        self.linear(part, n, d, d, blocks)
        self.linear(part, n, d, h, blocks)
        self.add(part, "gelu (in linear)", f"{n:,} x {h:,}", blocks, 4 * n * h)
        self.linear(part, n, h, d, blocks)
        if not backward:
            return
        self.add(part, "layer_norm (again)", rows, 2 * blocks, 6 * n * d)
        self.add(part, "scaled_index_add_backward", rows, (1 if joined else 2) * blocks, 8 * n * d)
        self.linear_backward(part, n, h, d, blocks)
        self.add(part, "gelu_backward (with the bias)", f"{n:,} x {h:,}", blocks, 6 * n * h)
        self.linear_backward(part, n, d, h, blocks, bias=False)
        self.linear_backward(part, n, d, d, blocks)
        self.add(part, "attention_backward", f"{n:,} tokens", blocks, 16 * n * d + 8 * n * self.heads,
                 10 * pairs * d)
        self.linear_backward(part, n, d, 3 * d, blocks)
        if joined:
            self.add(part, "residual_layer_norm_backward", rows, blocks, 18 * n * d)
        self.add(part, "layer_norm_backward", rows, (1 if joined else 2) * blocks, 14 * n * d)

    def heads_and_losses(self):
        k, d, h = self.prototypes, self.width, self.head_hidden
        chunk = min(256, max(64, 2**24 // k))  # rows of student logits at a time
        for name, narrow, taught, learned in (
                ("class tokens", self.bottlenecks[0], 2 * self.batch, 10 * self.batch),
                ("masked patches", self.bottlenecks[1], self.masked, self.masked)):
            part = f"heads, {name}"
            for n in (taught, learned):
                self.linear(part, n, d, h, 1)
                self.linear(part, n, h, h, 1)
                self.linear(part, n, h, narrow, 1)
            self.linear(part, taught, narrow, k, 1, "linear (f32 logits)", out_bytes=4)
            cells, shape = taught * k, f"{taught:,} x {k:,}"
            self.add(part, "exp_rows", shape, 1, 8 * cells)
            self.add(part, "matrix_vector", shape, 3, 4 * cells, 2 * cells)
            self.add(part, "weighted_column_sums", shape, 3, 4 * cells, 2 * cells)
            self.add(part, "scale_rows_columns", shape, 1, 8 * cells)
            self.add(part, "weight_norm", f"{k:,} x {narrow:,}", 2, 6 * k * narrow)
            calls, cells, shape = learned / chunk, chunk * k, f"{chunk} x {k:,}"
            self.linear(part, chunk, narrow, k, calls, "linear (f32 logits)", out_bytes=4)
            self.add(part, "cross_entropy", shape, calls, 12 * cells)
            self.add(part, "convert", shape, calls, 6 * cells)
            self.linear_backward(part, chunk, narrow, k, calls, bias=False)
            self.add(part, "weight_norm_backward", f"{k:,} x {narrow:,}", 1, 16 * k * narrow)
            self.add(part, "gelu_backward (with the bias)", f"{learned:,} x {h:,}", 2, 6 * learned * h)
            for inner, outer in ((h, narrow), (h, h), (d, h)):
                self.linear_backward(part, learned, inner, outer, 1, bias=outer == narrow)

    def optimizer(self):
        p = self.parameters + sum(self.width * self.head_hidden + self.head_hidden**2 + self.head_hidden * narrow +
                                  narrow * self.prototypes for narrow in self.bottlenecks)
        shape = f"{p / 1e6:.0f} M"
        self.add("optimizer", "sum_of_squares", shape, 1, 4 * p)
        self.add("optimizer", "adamw (with the average)", shape, 1, 36 * p)
        self.add("optimizer", "convert (weights of student and teacher)", shape, 2, 6 * p)


def microseconds(nbytes, flops, card):
    bandwidth, rate = CARDS[card]
    return 1e6 * max(nbytes / bandwidth, flops / rate)


def prediction_tables():
    step = Step()
    lines = [
        "## What a step moves and computes: predictions", "",
        f"ViT-L/14, bf16, {step.batch} images a GPU in 2 crops of 224 and 8 of 98 pixels, drop path {step.drop}, "
        f"{step.prototypes:,} prototypes for each of two heads, {step.masked:,} masked patches, everything kept "
        "for the backward pass, one GPU. Nothing here was measured. Bytes are what an operator cannot avoid: "
        "each input once, each output once. Times are rooflines: the larger of bytes over the memory's rate ("
        + ", ".join(f"{card} {rates[0] / 1e12:g}" for card, rates in CARDS.items())
        + " TB/s) and flops over the dense bf16 rate (312 and 989 TFLOP/s), microseconds a call; no kernel "
        "reaches them, and launches, collectives and input are not in them. The last block's shortcut (queries "
        "of class tokens and masked patches alone) is left out, so that all 24 blocks are alike.", "",
        "| part | operator | shape | calls | MB | GFLOP | " + " | ".join(CARDS) + " |",
        "|---|---|---|--:|--:|--:|" + "--:|" * len(CARDS)]
    totals = dict.fromkeys(CARDS, 0.0)
    parts = {}
    for part, operator, shape, calls, nbytes, flops in step.calls:
        times = {card: microseconds(nbytes, flops, card) for card in CARDS}
        for card, time in times.items():
            totals[card] += calls * time
            parts.setdefault(part, dict.fromkeys(CARDS, 0.0))[card] += calls * time
        lines.append(f"| {part} | {operator} | {shape} | {calls:.4g} | {nbytes / 1e6:,.0f} | {flops / 1e9:,.0f} | "
                     + " | ".join(f"{time:,.0f}" for time in times.values()) + " |")
    lines += ["", "Of a step, in milliseconds:", "", "| part | " + " | ".join(CARDS) + " |",
              "|---|" + "--:|" * len(CARDS)]
    for part, sums in parts.items():
        lines.append(f"| {part} | " + " | ".join(f"{t / 1e3:,.1f}" for t in sums.values()) + " |")
    lines.append("| all | " + " | ".join(f"{t / 1e3:,.1f}" for t in totals.values()) + " |")
    lines.append("| images/s | " + " | ".join(f"{step.batch / t * 1e6:,.0f}" for t in totals.values()) + " |")
    return lines


def document(table, version):
    lines = [
        "# The GPU's kernels", "",
        "Written by `tests/simt/kernel_table.py`; do not edit. `--check` fails where a kernel spills registers or "
        "this file is not what the script would write.", ""]
    return "\n".join(lines + compiler_tables(table, version) + prediction_tables()) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    table, version = compiled()
    failures = spills(table)
    text = document(table, version)
    if not arguments.check:
        DOCUMENT.write_text(text)
    else:
        written = DOCUMENT.read_text() if DOCUMENT.exists() else ""
        other = re.search(r"^nvcc ([\d.]+);", written, re.M)
        if other and other.group(1) != version:
            print(f"{DOCUMENT.name} is of nvcc {other.group(1)}, here is {version}: spills alone are checked")
        elif written != text:
            failures.append(f"{DOCUMENT.relative_to(ROOT)} is stale: run {Path(__file__).relative_to(ROOT)}")
    for failure in failures:
        print(failure)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
