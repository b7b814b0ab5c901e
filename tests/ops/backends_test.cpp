// SPDX-License-Identifier: Apache-2.0
// The list of backends, and that the guards around the tensors of these tests notice what they are there for.
#include "ops/support.hpp"

namespace dino::ops::testing {
namespace {

TEST(BackendsTest, ListedAndFoundByName) {
  std::vector<std::string> names;
  for (Backend* backend : backends()) {
    names.emplace_back(backend->name());
    EXPECT_EQ(&backend_named(backend->name()), backend);
    EXPECT_EQ(backend->new_stream()->device(), backend->memory().device());
  }
  EXPECT_EQ(names, (std::vector<std::string>{"cpu", "reference"}));
  EXPECT_THROW((void)backend_named("abacus"), InternalError);
}

class GuardsTest : public OperatorTest {
 protected:
  void add_one(TensorView byte) {
    Tensor host = host_copy(byte);
    host.as<uint8_t>()[0] = static_cast<uint8_t>(host.as<uint8_t>()[0] + 1);
    copy(stream(), byte, host);
    stream().synchronize();
  }
  /// One byte, `offset` from the beginning of the tensor.
  static TensorView byte_of(ConstTensorView tensor, int64_t offset) {
    auto* data = static_cast<uint8_t*>(const_cast<void*>(tensor.data)) + offset;
    return {data, Shape{1}, DType::u8, tensor.device};
  }
};
INSTANTIATE_TEST_SUITE_P(Backends, GuardsTest, ::testing::ValuesIn(variants(false)), variant_name);

TEST_P(GuardsTest, NoticeEveryByteBesideATensor) {
  const TensorView result = output({3, 5}, DType::bf16);
  const ConstTensorView given = random({3}, DType::f32, 1);
  ASSERT_EQ(damage(), "");
  add_one(byte_of(result, 0));
  add_one(byte_of(result, 29));
  EXPECT_EQ(damage(), "");
  const auto wrap = [&](TensorView byte, const std::string& found) {
    add_one(byte);
    EXPECT_EQ(damage(), found);
    for (int i = 0; i < 255; ++i) add_one(byte);
    EXPECT_EQ(damage(), "");
  };
  wrap(byte_of(result, -1), " before #0 bf16[3, 5]");
  wrap(byte_of(result, 30), " behind #0 bf16[3, 5]");
  wrap(byte_of(given, -64), " before #1 f32[3]");
  wrap(byte_of(given, 12), " behind #1 f32[3]");
  wrap(byte_of(given, 5), " the input #1 f32[3]");
}

TEST(BackendTest, DescribesItself) {
  EXPECT_NE(describe_backend().find("oneDNN "), std::string::npos);
  EXPECT_NE(describe_backend().find(cpu_level_name(cpu_level())), std::string::npos);
  EXPECT_THROW(set_threads(0), InternalError);
}

}  // namespace
}  // namespace dino::ops::testing
