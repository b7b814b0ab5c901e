# SPDX-License-Identifier: Apache-2.0
"""formats.py PAGE FOLDER: runs every Python example of docs/formats.md in FOLDER, and looks in the page for the name of every dataset,
attribute and field of every file below FOLDER."""
import glob
import json
import os
import re
import subprocess
import sys

import h5py

page = open(sys.argv[1]).read()
os.chdir(sys.argv[2])
faults = []

examples = re.findall(r"```python\n(.*?)```", page, re.S)
for code in examples:
    lines = [line for line in code.splitlines() if not line.startswith("import ")]
    if len(lines) > 5:
        faults.append(f"more than five lines: {code}")
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if ran.returncode != 0 or not ran.stdout.strip():
        faults.append(f"an example fails or prints nothing: {code}{ran.stderr}")
if len(examples) < 10:
    faults.append(f"only {len(examples)} examples")

named = set(re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", page, flags=re.S)))
seen = {}


def want(name, where):
    seen.setdefault(name, where)


def general(path):  # level2/centroids -> level1/centroids, the parameters' units -> UNIT
    path = re.sub(r"^level\d+/", "level1/", path)
    path = re.sub(r"^(teacher|student|adam_m|adam_v)/.*", r"\1/UNIT", path)
    return re.sub(r"^cluster/level\d+$", "cluster/level1", path)


def look_hdf5(path):
    with h5py.File(path) as file:
        def visit(name, node):
            if isinstance(node, h5py.Dataset):
                want("/" + general(name), path)
            for attribute in node.attrs:
                want(attribute, path)
        for attribute in file.attrs:
            want(attribute, path)
        file.visititems(visit)


# Below these the names are values: reasons, settings, the protocol of a task.
OPEN = {"dropped", "filters", "settings", "card", "model", "integers", "vectors", "units", "bytes"}


def look_json(value, path):
    if isinstance(value, list):
        for item in value:
            look_json(item, path)
    elif isinstance(value, dict):
        for key, item in value.items():
            want(key, path)
            if key not in OPEN:
                look_json(item, path)


for path in sorted(glob.glob("**/*", recursive=True)):
    if path.startswith(("pool/", "lab/", "hf/")):
        continue
    if path.endswith(".h5"):
        look_hdf5(path)
    elif path.endswith(".json"):
        if os.path.basename(path) != "galleries.json":
            look_json(json.load(open(path)), path)
    elif path.endswith(".jsonl"):
        for line in open(path):
            row = json.loads(line)
            if "event" in row:
                want(row["event"], path)
            look_json(row, path)
for name, where in seen.items():
    if name not in named:
        faults.append(f"not in the page: {name} of {where}")
print(f"{len(examples)} examples run, {len(seen)} names are in the page" if not faults else "\n".join(faults))
sys.exit(1 if faults else 0)
