#!/usr/bin/env bash
# dino-render: a catalogue of one cube, and broken catalogues.
. "$(dirname "$0")/lib.sh"
"$DINO_PYTHON" - <<'PY'
import zipfile
vertices = "\n".join(f"v {x} {y} {z}" for x in (0, 1) for y in (0, 1) for z in (0, 1))
faces = "f 1 2 4 3\nf 5 7 8 6\nf 1 5 6 2\nf 3 4 8 7\nf 1 3 7 5\nf 2 6 8 4\n"
catalogue = "id#1=cube\ncategory#1=Living room\nmodel#1=/m/cube.obj\n"
with zipfile.ZipFile("good.sh3f", "w") as z:
    z.writestr("PluginFurnitureCatalog.properties", catalogue)
    z.writestr("m/cube.obj", "mtllib cube.mtl\n" + vertices + "\nusemtl red\n" + faces)
    z.writestr("m/cube.mtl", "newmtl red\nKd 1 0 0\n")
with zipfile.ZipFile("bad.sh3f", "w") as z:
    z.writestr("PluginFurnitureCatalog.properties", catalogue)
    z.writestr("m/cube.obj", vertices + "\nf 1 2 99\n")
open("garbage.sh3f", "wb").write(b"PK\x03\x04 not a zip" * 9)
PY
expect 0 "4 pictures of 1 models" dino-render furniture good.sh3f --output out --views 4 --side 32
[ "$(find out/living-room -name 'cube_*.png' | wc -l)" = 4 ] || fail "pictures"
expect 0 "face index 99 of 8" dino-render furniture bad.sh3f --output out2
expect 65 "garbage.sh3f" dino-render furniture garbage.sh3f --output out3
expect 66 "nowhere.sh3f" dino-render furniture nowhere.sh3f --output out4
expect 64 "--output" dino-render furniture good.sh3f
finish
