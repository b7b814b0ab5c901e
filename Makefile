# Thin front over CMake; every target can be typed as it stands.
PREFIX ?= /usr/local
BUILD  ?= build/release
PACKAGES = build-essential cmake ninja-build ccache lld git pkg-config \
  openmpi-bin libopenmpi-dev libhdf5-dev libdnnl-dev libfaiss-dev libopenblas-dev \
  libjpeg-dev libpng-dev libwebp-dev libtiff-dev libjxl-dev libvips-dev libarchive-dev libssl-dev zlib1g-dev \
  nlohmann-json3-dev libfmt-dev libxxhash-dev libutf8proc-dev libboost-program-options-dev
TEST_PACKAGES = libgtest-dev libboost-context-dev clang-format python3-h5py python3-numpy
SLURM_PACKAGES = slurm-wlm slurmctld slurmd slurm-client
BROWSER_PACKAGES = chromium
SUDO := $(shell [ "$$(id -u)" = 0 ] || command -v sudo)

# $(call install_packages,LIST): those that are missing; asks for root through sudo where needed.
define install_packages
@dpkg -s $(1) >/dev/null 2>&1 || { \
  missing=$$(for p in $(1); do dpkg -s $$p >/dev/null 2>&1 || echo $$p; done); \
  echo "installing:" $$missing; \
  $(SUDO) apt-get update -qq && DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -y --no-install-recommends $$missing; \
}
endef

.PHONY: gpu-checks gpu-check gpu-bundle deps test-deps slurm-deps browser-deps build cuda all demo demo-short showcase test test-release test-dev test-long peers bench learning-curve format lint install package clean

deps: ## Debian packages for the programs (asks for root through sudo where needed)
	$(call install_packages,$(PACKAGES))

test-deps: deps ## and those of the tests
	$(call install_packages,$(TEST_PACKAGES))

slurm-deps: ## Slurm, for the test that runs the chain under it
	$(call install_packages,$(SLURM_PACKAGES))

browser-deps: ## chromium, for the test that opens a report in it; without one that test is skipped
	$(call install_packages,$(BROWSER_PACKAGES))

build: deps ## the programs
	cmake --preset release
	cmake --build --preset release --target programs

cuda: deps ## the programs in build/cuda, for NVIDIA GPUs too; without the CUDA toolkit they are those of `make build`
	cmake --preset cuda
	cmake --build --preset cuda

all: test-deps ## the programs and the tests
	cmake --preset release -DDINO_TESTS=ON
	cmake --build --preset release

demo: build ## the whole chain on real images; prints where the report is
	share/demo/run.sh

demo-short: build ## the same chain, minutes shorter (what CI runs)
	share/demo/run.sh --short

showcase: build ## the same chain with a longer training; some twenty minutes on two quiet cores
	share/demo/run.sh --showcase

test: test-release test-dev

test-release: all
	ctest --preset release -j2

test-dev: test-deps ## the same tests, but for those labelled release, under the address and undefined-behaviour sanitizers
	cmake --preset dev -DDINO_TESTS=ON
	cmake --build --preset dev
	ctest --preset dev -j2

test-long: all ## what make test has no time for: label long, 20,000 damaged files per reader of another seed, every file compiled alone
	cmake --build $(BUILD) --target files_self_contained
	DINO_MUTATIONS=20000 DINO_MUTATION_SEED=$${DINO_MUTATION_SEED:-$$(date +%s)} ctest --test-dir $(BUILD) -R mutation --output-on-failure -V -j2
	ctest --test-dir $(BUILD) -L long --output-on-failure --no-tests=ignore

peers: all ## checks against PyTorch, transformers and FAISS in a virtual environment
	tests/peers/run.sh

bench: all
	tests/bench/run.sh

# The cuda preset's tree, with what runs on a GPU alone and without libvips.
gpu-checks: test-deps
	cmake --preset cuda -DDINO_GPU_CHECKS=ON
	cmake --build build/cuda --target gpu_checks

gpu-check: gpu-checks ## tests and benchmarks on this machine's NVIDIA GPU; one table, 8 minutes at most
	share/datasets/fetch.sh emoji
	tests/gpu/gpu-check --build build/cuda

gpu-bundle: gpu-checks ## the same to be copied to a machine with a GPU: build/gpu-bundle, run ./gpu-check there
	tests/gpu/pack.sh build/cuda build/gpu-bundle

learning-curve: build ## trains a tiny model on 40,960 pictures, twice, and compares with a learning curve of the reference
	tests/bench/learning_curve.sh

format:
	git ls-files '*.cpp' '*.hpp' '*.cu' | xargs clang-format -i

lint: all
	git ls-files '*.cpp' '*.hpp' '*.cu' | xargs clang-format --dry-run -Werror
	cmake --build $(BUILD) --target headers_self_contained
	! git grep -n '<nlohmann/json.hpp>' -- '*.cpp' '*.hpp' ':!src/base/json.hpp' # take base/json.hpp, which is compiled once
	tests/lint_arrows.sh

install: build
	cmake --install $(BUILD) --prefix $(PREFIX)

package: build ## build/dinohpc-VERSION-x86_64.tar.gz: the same prefix, to be unpacked anywhere
	cmake --build $(BUILD) --target package_tarball

clean:
	rm -rf build
