# SPDX-License-Identifier: Apache-2.0
"""Models trained here load in transformers without missing names and give the same features there."""

import os
import tempfile

from common import SHARE, compare_features, make_pictures, our_features, run, transformers_features
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
                side = model.config.image_size
                pictures = make_pictures(f"{folder}-pictures", side, 6, seed=2)
                theirs = transformers_features(model.eval(), pictures)
                ours = our_features(folder, f"{folder}-pictures", side, folder + ".h5")
                cosine, difference = compare_features(f"{name} {which}", ours, theirs)
                if which == "teacher":
                    # The checkpoint itself, not only the weights that were read back.
                    direct = our_features(trained, f"{folder}-pictures", side, folder + "-direct.h5")
                    compare_features(f"{name} checkpoint", direct, theirs)
                lowest, largest, models = min(lowest, cosine), max(largest, difference), models + 1
    print(f"{models} exported models in transformers: lowest cosine {lowest:.8f}, largest difference {largest:.1e}")


if __name__ == "__main__":
    main()
