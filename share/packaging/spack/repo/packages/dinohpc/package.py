# SPDX-License-Identifier: Apache-2.0
try:  # Spack 1.0 and newer
    from spack_repo.builtin.build_systems.cmake import CMakePackage
except ImportError:
    pass  # older ones have it in spack.package
from spack.package import *


class Dinohpc(CMakePackage):
    """Curate image dumps, pretrain vision transformers by self-distillation and evaluate them: four MPI programs for Slurm
    clusters."""

    # The checkout that holds this recipe. For a release: url and version(..., sha256=...).
    git = "file://" + __file__.rsplit("/share/packaging/", 1)[0]

    license("Apache-2.0")

    version("main", branch="main")

    variant("webp", default=True, description="Read WebP images")
    variant("tiff", default=True, description="Read TIFF images")
    variant("jxl", default=False, description="Read JPEG XL images (not every Spack has a libjxl)")
    variant("vips", default=False, description="Read GIF, HEIC and other formats through libvips")

    depends_on("c", type="build")
    depends_on("cxx", type="build")
    depends_on("cmake@3.22:", type="build")
    depends_on("ninja", type="build")
    depends_on("pkgconfig", type="build")

    depends_on("mpi@3.1:")
    depends_on("hdf5~mpi@1.10:")
    depends_on("onednn@2.7:3")
    depends_on("faiss@1.7:~cuda~python")
    depends_on("blas")
    depends_on("lapack")
    depends_on("boost@1.74:+program_options")
    depends_on("nlohmann-json@3.11:")
    depends_on("fmt@9:10")
    depends_on("xxhash")
    depends_on("utf8proc")
    depends_on("libarchive")
    depends_on("openssl")
    depends_on("zlib-api")
    depends_on("jpeg")
    depends_on("libpng")
    depends_on("libwebp+libwebpdemux", when="+webp")
    depends_on("libtiff@4.5:", when="+tiff")
    depends_on("libjxl@0.7:", when="+jxl")
    depends_on("libvips", when="+vips")

    generator("ninja")
    conflicts("%gcc@:11", msg="C++20 needs GCC 12 or newer")
    requires("target=x86_64:", msg="the kernels are written for x86-64")

    def cmake_args(self):
        # Other compilers warn of other things; that must not stop an installation.
        return [self.define("DINO_TESTS", False), self.define("DINO_WERROR", False)]
