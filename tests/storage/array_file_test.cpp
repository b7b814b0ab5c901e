// SPDX-License-Identifier: Apache-2.0
#include "storage/array_file.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>

#include "storage/scratch.hpp"

namespace dino {
namespace {

using testing::expect_error;
using testing::Scratch;

std::string npy(const std::string& header, size_t data_bytes, char version = 1) {
  std::string text = "\x93NUMPY";
  text += version;
  text += '\0';
  text += static_cast<char>(header.size() & 0xff);
  text += static_cast<char>(header.size() >> 8 & 0xff);
  if (version > 1) text += std::string(2, '\0');
  return text + header + std::string(data_bytes, '\1');
}

std::string header_of(const std::string& descr, const std::string& order, const std::string& shape) {
  return "{'descr': '" + descr + "', 'fortran_order': " + order + ", 'shape': " + shape + ", }\n";
}

TEST(Npy, RoundTripsAndReadsRows) {
  const Scratch scratch;
  Tensor x(Shape{5, 3});
  for (int64_t i = 0; i < 15; ++i) x.f32()[static_cast<size_t>(i)] = static_cast<float>(i) / 4;
  write_npy(scratch / "x.npy", x.view());
  const NpyInfo info = read_npy_info(scratch / "x.npy");
  EXPECT_EQ(info.shape, (std::vector<int64_t>{5, 3}));
  EXPECT_EQ(info.dtype, "<f4");
  EXPECT_EQ(info.data_offset % 64, 0);
  float rows[6];
  read_npy_rows(scratch / "x.npy", info, 2, 2, rows);
  EXPECT_EQ(0, std::memcmp(rows, x.as<float>() + 6, sizeof rows));
  read_npy_rows(scratch / "x.npy", info, 5, 0, rows);
  expect_error<DataError>([&] { read_npy_rows(scratch / "x.npy", info, 4, 2, rows); }, "rows 4 to 6",
                          "it has 5");
}

TEST(Npy, ReadsHalfPrecision) {
  const Scratch scratch;
  std::string content = npy(header_of("<f2", "False", "(2, 2)"), 0);
  for (const uint16_t bits : {0x3c00, 0xc000, 0x0001, 0x7bff}) {  // 1, -2, the smallest, the largest
    content += static_cast<char>(bits & 0xff);
    content += static_cast<char>(bits >> 8);
  }
  scratch.put("h.npy", content);
  float out[4];
  read_npy_rows(scratch / "h.npy", read_npy_info(scratch / "h.npy"), 0, 2, out);
  EXPECT_EQ(out[0], 1.0F);
  EXPECT_EQ(out[1], -2.0F);
  EXPECT_EQ(out[2], std::ldexp(1.0F, -24));
  EXPECT_EQ(out[3], 65504.0F);
  Tensor half(Shape{2, 1}, DType::f16);
  half.as<f16>()[1] = f16(-2.5F);
  write_npy(scratch / "w.npy", half.view());
  read_npy_rows(scratch / "w.npy", read_npy_info(scratch / "w.npy"), 0, 2, out);
  EXPECT_EQ(out[0], 0.0F);
  EXPECT_EQ(out[1], -2.5F);
}

TEST(Npy, NumpyReadsWhatWeWriteAndTheReverse) {
  const char* python = std::getenv("DINO_PYTHON");
  if (python == nullptr) GTEST_SKIP() << "no python3 with numpy";
  const Scratch scratch;
  Tensor x(Shape{4}, DType::i64);
  for (int i = 0; i < 4; ++i) x.as<int64_t>()[i] = i * 7;
  write_npy(scratch / "x.npy", x.view());
  const std::string script = "import numpy as np; x=np.load('" + (scratch / "x.npy") +
                             "'); assert x.dtype==np.int64 and x.tolist()==[0,7,14,21]; np.save('" +
                             (scratch / "y.npy") + "', np.arange(6, dtype=np.float32).reshape(3,2))";
  ASSERT_EQ(std::system((std::string(python) + " -c \"" + script + "\"").c_str()), 0);
  float out[6];
  read_npy_rows(scratch / "y.npy", read_npy_info(scratch / "y.npy"), 0, 3, out);
  for (int i = 0; i < 6; ++i) EXPECT_EQ(out[i], static_cast<float>(i));
}

TEST(Npy, BrokenFilesAreNamedWithTheirFault) {
  const Scratch scratch;
  const auto good = [](const std::string& shape) { return header_of("<f4", "False", shape); };
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "magic"},
      {"\x93NUMPX\1\0 and more", "magic"},
      {std::string("\x93NUMPY\1", 7), "cut off"},
      {npy(good("(2, 2)"), 16, 9), "version 9"},
      {npy(good("(2, 2)"), 15), "needs 16 bytes"},
      {npy(good("(2, 2)"), 16).substr(0, 30), "does not fit"},
      {npy(header_of("<f4", "True", "(2, 2)"), 16), "Fortran"},
      {npy(good("(-2, 2)"), 16), "negative"},
      {npy(good("(4611686018427387904, 4)"), 16), "over 2^63"},
      {npy(good("(99999999999999999999, 1)"), 16), "malformed"},
      {npy(good("(2, 2"), 16), "malformed"},
      {npy(good("[2, 2]"), 16), "malformed"},
      {npy(header_of("<q", "False", "(2, 2)"), 16), "dtype"},
      {npy(header_of("<f0", "False", "(2, 2)"), 16), "dtype"},
      {npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }", 16), "records"},
      {npy("{'descr': '<f4', 'shape': (1,), }", 16), "lacks"},
      {npy("import os", 16), "malformed"},
  };
  for (const auto& [content, what] : cases) {
    scratch.put("x.npy", content);
    expect_error<DataError>([&] { (void)read_npy_info(scratch / "x.npy"); }, scratch / "x.npy", what);
  }
  expect_error<MissingInputError>([&] { (void)read_npy_info(scratch / "none.npy"); }, scratch / "none.npy");
  float out[4];
  scratch.put("i.npy", npy(header_of("<i4", "False", "(2, 2)"), 16));
  expect_error<DataError>(
      [&] { read_npy_rows(scratch / "i.npy", read_npy_info(scratch / "i.npy"), 0, 1, out); },
      "float32 or float16");
}

std::string safetensors(const std::string& header, size_t data_bytes) {
  const uint64_t size = header.size();
  return std::string(reinterpret_cast<const char*>(&size), 8) + header + std::string(data_bytes, '\0');
}

TEST(Safetensors, RoundTripsInNameOrderAndIsAligned) {
  const Scratch scratch;
  Tensor a(Shape{2, 3}), b(Shape{1});
  for (size_t i = 0; i < 6; ++i) a.f32()[i] = static_cast<float>(i);
  b.f32()[0] = -1.5F;
  write_safetensors(scratch / "w.safetensors", {{"z", a.view()}, {"a", b.view()}});
  const auto file = SafetensorsFile::open(scratch / "w.safetensors");
  ASSERT_EQ(file.entries().size(), 2u);
  EXPECT_EQ(file.entries().at("a").begin % 8, 0);
  EXPECT_LT(file.entries().at("a").begin, file.entries().at("z").begin);
  const Tensor z = file.read_f32("z");
  EXPECT_EQ(z.shape(), (Shape{2, 3}));
  EXPECT_EQ(z.f32()[5], 5.0F);
  EXPECT_EQ(file.read_f32("a").f32()[0], -1.5F);
  expect_error<DataError>([&] { (void)file.read_f32("none"); }, "has no tensor", "none");
  EXPECT_NE(read_text(scratch / "w.safetensors").find(R"("__metadata__":{"format":"pt"})"),
            std::string::npos);
}

TEST(Safetensors, ConvertsTheOtherFloats) {
  const Scratch scratch;
  std::string content = safetensors(
      R"({"h":{"dtype":"F16","shape":[1],"data_offsets":[0,2]},"b":{"dtype":"BF16","shape":[1],"data_offsets":[2,4]},)"
      R"("d":{"dtype":"F64","shape":[1],"data_offsets":[4,12]},"s":{"dtype":"F32","shape":[],"data_offsets":[12,16]},)"
      R"("e":{"dtype":"F32","shape":[0,5],"data_offsets":[16,16]},"f":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[16,17]}})",
      17);
  char* data = content.data() + content.size() - 17;
  const uint16_t half = 0x3e00, brain = 0xc040;
  const double wide = 0.1;
  const float single = 7.0F;
  std::memcpy(data, &half, 2);
  std::memcpy(data + 2, &brain, 2);
  std::memcpy(data + 4, &wide, 8);
  std::memcpy(data + 12, &single, 4);
  scratch.put("m.safetensors", content);
  const auto file = SafetensorsFile::open(scratch / "m.safetensors");
  EXPECT_EQ(file.read_f32("h").f32()[0], 1.5F);
  EXPECT_EQ(file.read_f32("b").f32()[0], -3.0F);
  EXPECT_EQ(file.read_f32("d").f32()[0], 0.1F);
  EXPECT_EQ(file.read_f32("s").shape().rank(), 0);
  EXPECT_EQ(file.read_f32("s").f32()[0], 7.0F);
  EXPECT_EQ(file.read_f32("e").numel(), 0);
  expect_error<DataError>([&] { (void)file.read_f32("f"); }, "F8_E4M3", "cannot be converted");
}

TEST(Safetensors, HostileFilesAreNamedWithTheirFault) {
  const Scratch scratch;
  const auto one = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return safetensors(
        R"({"w":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}", 16);
  };
  std::string huge = one("F32", "[4]", "[0,16]");
  huge.replace(0, 8, 8, '\xff');
  std::string large = one("F32", "[4]", "[0,16]");
  large[3] = 1;  // a header of 16 MiB
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "8-byte prefix"},
      {huge, "does not fit"},
      {large, "does not fit"},
      {safetensors("not json", 0), "not JSON"},
      {safetensors("[1]", 0), "not a JSON object"},
      {safetensors(std::string(100000, '['), 0), "nested too deeply"},
      {safetensors(R"({"w":1})", 0), "lacks"},
      {safetensors(R"({"w":{"dtype":"F32","shape":[1]}})", 4), "lacks"},
      {one("F31", "[4]", "[0,16]"), "unknown dtype"},
      {one("F32", "[-4]", "[0,16]"), "not a size"},
      {one("F32", "[4.0]", "[0,16]"), "not a size"},
      {one("F32", "[18446744073709551615]", "[0,16]"), "not a size"},
      {one("F32", "[4611686018427387904,4]", "[0,16]"), "over 2^63"},
      {one("F32", "[5]", "[0,20]"), "outside the file"},
      {one("F32", "[4]", "[16,0]"), "outside the file"},
      {one("F32", "[4]", "[-16,0]"), "outside the file"},
      {one("F32", "[3]", "[0,16]"), "its shape and dtype need 12"},
      {one("F32", "[4]", "[0,16]").substr(0, 70), "outside the file"},
      {safetensors(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                   R"("b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
                   12),
       "overlap"},
      {safetensors(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                   R"("a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
                   8),
       "listed twice"},
  };
  for (const auto& [content, what] : cases) {
    scratch.put("x.safetensors", content);
    expect_error<DataError>([&] { (void)SafetensorsFile::open(scratch / "x.safetensors"); },
                            scratch / "x.safetensors", what);
  }
  expect_error<MissingInputError>([] { (void)SafetensorsFile::open("/no/such"); }, "/no/such");
}

}  // namespace
}  // namespace dino
