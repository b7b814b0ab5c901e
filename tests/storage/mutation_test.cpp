// SPDX-License-Identifier: Apache-2.0
// Readers of files from outside, on thousands of damaged copies of good ones.
#include "mutation.hpp"

#include <gtest/gtest.h>

#include "storage/array_file.hpp"
#include "storage/hdf5.hpp"
#include "storage/scratch.hpp"

namespace dino {
namespace {

using testing::MutationPlan;
using testing::run_file_mutations;
using testing::Scratch;

std::string written(const std::function<void(const std::string& path)>& write) {
  const Scratch scratch;
  write(scratch / "x");
  return read_text(scratch / "x");
}

TEST(Mutation, Npy) {
  MutationPlan plan;
  for (const Shape& shape : {Shape{40, 8}, Shape{300, 3}})
    plan.good.push_back(written([&](const std::string& path) { write_npy(path, Tensor(shape).view()); }));
  plan.stream = 1;
  const Scratch scratch;
  run_file_mutations(plan, scratch / "x.npy", [](const std::string& path) {
    const NpyInfo info = read_npy_info(path);
    if (info.shape.size() != 2) return;
    std::vector<float> rows(static_cast<size_t>(info.shape[0] * info.shape[1]));
    read_npy_rows(path, info, 0, info.shape[0], rows.data());
  });
}

TEST(Mutation, Safetensors) {
  const Tensor a(Shape{4, 5}), b(Shape{7});
  MutationPlan plan;
  plan.good = {written([&](const std::string& path) {
                 write_safetensors(path, {{"a", a.view()}, {"b", b.view()}});
               }),
               written([&](const std::string& path) {
                 write_safetensors(path, {{"c", b.view()}});
               })};
  plan.stream = 2;
  const Scratch scratch;
  run_file_mutations(plan, scratch / "x.safetensors", [](const std::string& path) {
    const auto file = SafetensorsFile::open(path);
    for (const auto& entry : file.entries()) (void)file.read_f32(entry.first);
  });
}

void read_all_of_hdf5(const std::string& path) {
  const Hdf5File file = Hdf5File::open(path);
  for (const auto& name : file.list_datasets("/")) {
    if (file.info(name).is_string)
      (void)file.read_strings(name);
    else
      (void)file.read(name);
    for (const auto& attribute : file.attributes(name)) (void)file.attribute_number(name, attribute);
  }
  (void)file.attribute_strings("/", "classes");
}

TEST(Mutation, Hdf5) {
  MutationPlan plan;
  for (const char* group : {"/g", "/other"})
    plan.good.push_back(written([&](const std::string& path) {
      Hdf5File file = Hdf5File::create(path);
      file.write(std::string(group) + "/x", Tensor(Shape{10, 4}).view());
      file.write("/n", Tensor(Shape{6}, DType::i64).view());
      file.write_strings("/keys", {"one", "three"});
      file.write_attribute(std::string(group) + "/x", "rate", 0.5);
      file.write_attribute("/", "classes", std::vector<std::string>{"cat", "dog"});
      file.close();
    }));
  plan.stream = 4;
  const Scratch scratch;
  run_file_mutations(plan, scratch / "x.h5", read_all_of_hdf5);
}

}  // namespace
}  // namespace dino
