# SPDX-License-Identifier: Apache-2.0
"""Golden sets of CLIP models (tests/golden/clip): small models with random weights as transformers and OpenCLIP save
them, a small vocabulary, and what they make of pictures and texts.

  clip_oracle.py FOLDER [SEED]   writes FOLDER/transformers and FOLDER/open_clip
"""

import collections
import gzip
import json
import os
import sys

import h5py
import numpy as np
import open_clip
import regex
import torch
from open_clip.tokenizer import SimpleTokenizer, bytes_to_unicode
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel, CLIPTokenizerFast

CORPUS = """a photo of a cat on the street in the morning light, the photographer's best photo of the year
a photo of a dog that is running over the grass; they've been there for 1234 days and it's still raining
two emoji faces, one is smiling and the other one isn't: the picture of the night sky over the mountains"""
TEXTS = [
    "a photo of a cat",
    "A Photo   of\ta DOG!",
    "it's the photographer's: they've, I'm, we'll, he'd, isn't; 'stuff' ''s",
    "1234 days, 5 o'clock... (what?!) #tag @you 100%",
    "Ünïcödé naïve",
    "ÉCOLE Straße",
    "ΣΊΣΥΦΟΣ Σ ὈΔΥ",
    "İstanbul ǅ",
    "漢字 🎉🎉",
    "a\u00a0\u2003b\u2028c\x85d\x1ee",
    "Ⅷ ½ x² ٣",
    "cafe\u0301 decomposed, n\u0303",
    "the street the street the street the street the street the street the street the street",
    "",
    "pneumonoultramicroscopicsilicovolcanoconiosis" * 2,
    "a<b & c>d_e-f/g\\h`i~j",
]
# OpenCLIP repairs text first (ftfy), and lower-cases a last sigma as Python does.
OTHERWISE_IN_OPEN_CLIP = set("Σ\u01c5\x85\x1e")
SIDE, PATCH, CONTEXT = 32, 8, 24
SPECIAL = ["<|startoftext|>", "<|endoftext|>"]


def learn_merges(count):
    """Byte pairs by how often they stand in the corpus."""
    symbol = bytes_to_unicode()
    words = collections.Counter(regex.findall(r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", CORPUS.lower()))
    words = {tuple([symbol[b] for b in w.encode()][:-1] + [symbol[w.encode()[-1]] + "</w>"]): n for w, n in words.items()}
    merges = []
    while len(merges) < count:
        pairs = collections.Counter()
        for word, n in words.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += n
        best = max(sorted(pairs), key=lambda p: pairs[p])
        merges.append(best)
        merged = {}
        for word, n in words.items():
            out, i = [], 0
            while i < len(word):
                if word[i : i + 2] == best:
                    out.append(word[i] + word[i + 1])
                    i += 2
                else:
                    out.append(word[i])
                    i += 1
            merged[tuple(out)] = n
        words = merged
    return merges


def write_vocabulary(folder, merges, with_numbers):
    symbols = list(bytes_to_unicode().values())
    tokens = symbols + [s + "</w>" for s in symbols] + ["".join(m) for m in merges] + SPECIAL
    with open(os.path.join(folder, "merges.txt"), "w", encoding="utf-8") as f:
        f.write("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    if with_numbers:
        with open(os.path.join(folder, "vocab.json"), "w", encoding="utf-8") as f:
            json.dump({t: i for i, t in enumerate(tokens)}, f, ensure_ascii=False)
    return tokens


def randomise(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "logit_scale" not in name:
                parameter.add_(0.08 * torch.randn(parameter.shape, generator=generator))


def pictures_of(seed, side, count=3):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def write_outputs(folder, sizes, texts, ids, text):
    with h5py.File(os.path.join(folder, "outputs.h5"), "w") as f:
        for name, (pixels, embeds, tokens) in sizes.items():
            f[f"{name}/pixel_values"], f[f"{name}/image_embeds"] = pixels.numpy(), embeds.numpy()
            if tokens is not None:
                f[f"{name}/last_hidden_state"] = tokens.numpy()
        f.create_dataset("texts", data=texts, dtype=h5py.string_dtype("utf-8"))
        f["input_ids"], f["text_embeds"] = ids.numpy().astype(np.int32), text.numpy()


def with_transformers(folder, seed):
    os.makedirs(folder, exist_ok=True)
    merges = learn_merges(60)
    tokens = write_vocabulary(folder, merges, True)
    start, end = len(tokens) - 2, len(tokens) - 1
    config = CLIPConfig(
        vision_config={"hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
                       "image_size": SIDE, "patch_size": PATCH},
        text_config={"vocab_size": len(tokens), "hidden_size": 24, "intermediate_size": 64, "num_hidden_layers": 2,
                     "num_attention_heads": 3, "max_position_embeddings": CONTEXT, "bos_token_id": start,
                     "eos_token_id": end, "pad_token_id": end},
        projection_dim=16)  # fmt: skip
    model = CLIPModel(config).eval()
    randomise(model, seed)
    model.save_pretrained(folder)
    tokenizer = CLIPTokenizerFast(vocab=os.path.join(folder, "vocab.json"), merges=os.path.join(folder, "merges.txt"))
    ids = tokenizer(TEXTS, padding="max_length", max_length=CONTEXT, truncation=True, return_tensors="pt")
    sizes = {}
    with torch.inference_mode():
        for name, side in (("native", SIDE), ("larger", SIDE + 2 * PATCH)):
            pixels = pictures_of(seed, side)
            vision = model.vision_model(pixels, interpolate_pos_encoding=side != SIDE)
            embeds = model.visual_projection(vision.pooler_output)
            sizes[name] = pixels, embeds, model.vision_model.post_layernorm(vision.last_hidden_state)
        text = model.text_projection(model.text_model(**ids).pooler_output)
    write_outputs(folder, sizes, TEXTS, ids["input_ids"], text)
    return tokenizer


def with_open_clip(folder, seed):
    os.makedirs(folder, exist_ok=True)
    merges = learn_merges(40)
    tokens = write_vocabulary(folder, merges, False)
    packed = os.path.join(folder, "merges.txt.gz")
    with open(os.path.join(folder, "merges.txt"), "rb") as plain, gzip.open(packed, "wb") as f:
        f.write(plain.read().rstrip())  # a last empty line would count as a merge
    tokenizer = SimpleTokenizer(packed, context_length=CONTEXT)
    os.remove(packed)
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": SIDE, "layers": 2, "width": 32, "head_width": 16, "patch_size": PATCH,
                       "mlp_ratio": 2, "ls_init_value": 0.5},
        "text_cfg": {"context_length": CONTEXT, "vocab_size": len(tokens), "width": 24, "heads": 3, "layers": 2},
    }  # fmt: skip
    model = open_clip.CLIP(**{k: dict(v) if isinstance(v, dict) else v for k, v in config.items()}).eval()
    randomise(model, seed + 1)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, os.path.join(folder, "open_clip_model.safetensors"))
    with open(os.path.join(folder, "open_clip_config.json"), "w") as f:
        json.dump({"model_cfg": config, "preprocess_cfg": {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25]}}, f)
    texts = [t for t in TEXTS if not OTHERWISE_IN_OPEN_CLIP & set(t)]
    ids, pixels = tokenizer(texts), pictures_of(seed, SIDE)
    with torch.inference_mode():
        images = {"native": (pixels, model.encode_image(pixels), None)}
        write_outputs(folder, images, texts, ids, model.encode_text(ids))


def main():
    folder, seed = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0
    with_transformers(os.path.join(folder, "transformers"), seed)
    with_open_clip(os.path.join(folder, "open_clip"), seed)


if __name__ == "__main__":
    main()
