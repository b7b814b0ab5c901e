# SPDX-License-Identifier: Apache-2.0
"""spack_recipe.py SOURCE: the Spack recipe with stand-ins for Spack's own names: it loads, names a dependency for every Debian package
that the programs are built with, and sets only options that CMakeLists.txt has."""
import re
import sys
import types

source = sys.argv[1]
calls = []


class CMakePackage:
    def define(self, name, value):
        return name


package = types.ModuleType("spack.package")
package.CMakePackage = CMakePackage
for name in ("version", "variant", "depends_on", "conflicts", "requires", "license", "generator"):
    setattr(package, name, lambda *words, _name=name, **more: calls.append((_name, words, more)))
sys.modules["spack"], sys.modules["spack.package"] = types.ModuleType("spack"), package
path = source + "/share/packaging/spack/repo/packages/dinohpc/package.py"
names = {"__file__": path}
exec(compile(open(path).read(), path, "exec"), names)

needs = {re.split(r"[@+~% ]", words[0])[0] for kind, words, _ in calls if kind == "depends_on"}
variants = {words[0] for kind, words, _ in calls if kind == "variant"}
for kind, words, more in calls:
    assert more.get("when", "+").lstrip("+") in variants | {""}, (words, more)
same = {"openmpi": "mpi", "hdf5": "hdf5", "dnnl": "onednn", "faiss": "faiss", "openblas": "blas", "jpeg": "jpeg", "png": "libpng", "webp": "libwebp",
        "tiff": "libtiff", "jxl": "libjxl", "vips": "libvips", "archive": "libarchive", "ssl": "openssl", "nlohmann-json3": "nlohmann-json",
        "fmt": "fmt", "xxhash": "xxhash", "utf8proc": "utf8proc", "boost-program-options": "boost", "zlib1g": "zlib-api"}
packages = re.search(r"^PACKAGES = (.*?[^\\])\n", open(source + "/Makefile").read(), re.S | re.M).group(1).replace("\\", " ").split()
libraries = {re.sub(r"^lib|-dev$", "", name) for name in packages if name.endswith("-dev")}
assert len(libraries) > 15, libraries
for library in sorted(libraries):
    assert same.get(library) in needs, f"the Spack recipe has no dependency for lib{library}-dev"
options = set(re.findall(r"^option\((\w+)", open(source + "/CMakeLists.txt").read(), re.M))
for name in names["Dinohpc"]().cmake_args():
    assert name in options, f"CMakeLists.txt has no option {name}"
print(f"{len(needs)} dependencies, {len(libraries)} Debian libraries")
