# SPDX-License-Identifier: Apache-2.0
"""Models trained here load in transformers without missing names and give the same features there: the exported
folder at native and other sizes, the checkpoint (whose positions are resampled as in training) at the native one."""

import os
import tempfile

from common import SHARE, compare_features, make_pictures, our_features, run, sides_of, transformers_features
from transformers import AutoModel

VARIANTS = {"mlp": [], "swiglu": ["--ffn", "swiglu"], "registers": ["--registers", "4"]}


def main():
    lowest, largest, models = 1.0, 0.0, 0
    with tempfile.TemporaryDirectory() as work:
        data = os.path.join(work, "train")
        make_pictures(data, 48, 24, seed=1)
        for name, flags in VARIANTS.items():
            trained, exported = os.path.join(work, name), os.path.join(work, name + "-hf")
            run("dino-pretrain", "train", "--config", os.path.join(SHARE, "recipes/tiny.cfg"), "--data", data,
                "--output", trained, "--steps", 6, "--warmup", 2, "--batch", 8, *flags)  # fmt: skip
            for which in ("teacher", "student"):
                folder = f"{exported}-{which}"
                run("dino-pretrain", "export", "--checkpoint", trained, "--format", "hf", "--which", which,
                    "--output", folder)  # fmt: skip
                model, report = AutoModel.from_pretrained(folder, output_loading_info=True)
                for problem in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
                    if report.get(problem):
                        raise SystemExit(f"{name} {which}: {problem}: {sorted(report[problem])[:5]}")
                for side in sides_of(model.config):
                    shown = f"{folder}-{side}"
                    pictures = make_pictures(shown, side, 6, seed=2)
                    theirs = transformers_features(model.eval(), pictures)
                    ours = our_features(folder, shown, side, shown + ".h5")
                    cosine, difference = compare_features(f"{name} {which} at {side} px", ours, theirs)
                    lowest, largest = min(lowest, cosine), max(largest, difference)
                    if which == "teacher" and side == model.config.image_size:
                        # The checkpoint itself, not only the weights that were read back.
                        direct = our_features(trained, shown, side, shown + "-direct.h5")
                        compare_features(f"{name} checkpoint", direct, theirs)
                models += 1
    print(f"{models} exported models in transformers at 3 sizes: lowest cosine {lowest:.8f}, largest difference {largest:.1e}")


if __name__ == "__main__":
    main()
