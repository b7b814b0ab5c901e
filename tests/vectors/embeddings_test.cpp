// SPDX-License-Identifier: Apache-2.0
#include "vectors/embeddings.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <limits>

#include "base/error.hpp"
#include "storage/array_file.hpp"
#include "storage/hdf5.hpp"

namespace dino {
namespace {

class EmbeddingsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / ("dino_embeddings_" + std::to_string(::getpid()));
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  [[nodiscard]] std::string path(const std::string& name) const { return (folder_ / name).string(); }
  static Tensor rows(int64_t n, int64_t width, float start) {
    Tensor tensor(Shape{n, width});
    for (int64_t i = 0; i < tensor.numel(); ++i) tensor.as<float>()[i] = start + static_cast<float>(i);
    return tensor;
  }
  void write_h5(const std::string& name, const Tensor& tensor,
                const std::string& dataset = "/features") const {
    Hdf5File file = Hdf5File::create(path(name));
    file.write(dataset, tensor);
    file.close();
  }
  template <class E>
  void expect_error(const std::string& reference, const std::string& part) const {
    try {
      const auto store = EmbeddingStore::open(reference);
      std::vector<float> out(static_cast<size_t>(store.rows() * store.width()));
      store.read(0, store.rows(), out.data());
      FAIL() << reference;
    } catch (const E& error) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  }
  std::filesystem::path folder_;
};

TEST_F(EmbeddingsTest, AFolderIsReadInNameOrderAcrossFiles) {
  write_npy(path("b.npy"), rows(3, 4, 100));
  write_h5("a.h5", rows(2, 4, 0));
  write_npy(path("c.npy"), rows(1, 4, 200));
  std::ofstream(path("notes.txt")) << "not embeddings";
  const auto store = EmbeddingStore::open(folder_.string());
  EXPECT_EQ(store.rows(), 6);
  EXPECT_EQ(store.width(), 4);
  std::vector<float> out(4 * 4);
  store.read(1, 4, out.data());
  EXPECT_EQ(out,
            (std::vector<float>{4, 5, 6, 7, 100, 101, 102, 103, 104, 105, 106, 107, 108, 109, 110, 111}));
}

TEST_F(EmbeddingsTest, HalfPrecisionIsWidened) {
  std::string header = "{'descr': '<f2', 'fortran_order': False, 'shape': (1, 2), }";
  header.resize(117, ' ');
  header += '\n';
  std::ofstream out(path("half.npy"), std::ios::binary);
  out << std::string("\x93NUMPY\x01\x00\x76\x00", 10) << header
      << std::string("\x00\x3c\x00\xc0", 4);  // 1, -2
  out.close();
  const auto store = EmbeddingStore::open(path("half.npy"));
  float values[2];
  store.read(0, 1, values);
  EXPECT_EQ(values[0], 1.0f);
  EXPECT_EQ(values[1], -2.0f);
}

TEST_F(EmbeddingsTest, BrokenFilesAreNamedWithTheirFault) {
  expect_error<MissingInputError>(path("absent.npy"), "absent.npy");
  expect_error<MissingInputError>(folder_.string(), "no .npy");
  write_npy(path("short.npy"), rows(10, 4, 0));
  std::filesystem::resize_file(path("short.npy"), std::filesystem::file_size(path("short.npy")) - 8);
  expect_error<DataError>(path("short.npy"), "short.npy");
  std::ofstream(path("text.npy")) << "hello";
  expect_error<DataError>(path("text.npy"), "text.npy");
  std::ofstream(path("text.h5")) << "hello";
  expect_error<DataError>(path("text.h5"), "text.h5");
  std::ofstream(path("rows.csv")) << "1,2";
  expect_error<DataError>(path("rows.csv"), ".npy");
  write_h5("other.h5", rows(2, 2, 0), "/vectors");
  expect_error<DataError>(path("other.h5"), "/features");
  Tensor flat(Shape{8});
  write_h5("flat.h5", flat);
  expect_error<DataError>(path("flat.h5"), "N x d");
  Tensor labels(Shape{4, 2}, DType::i64);
  write_npy(path("labels.npy"), labels);
  expect_error<DataError>(path("labels.npy"), "float");
  Tensor nan = rows(5, 3, 0);
  nan.as<float>()[10] = std::numeric_limits<float>::quiet_NaN();
  write_npy(path("nan.npy"), nan);
  expect_error<DataError>(path("nan.npy"), "row 3");
}

TEST_F(EmbeddingsTest, WidthsMustAgree) {
  write_npy(path("a.npy"), rows(3, 4, 0));
  write_npy(path("b.npy"), rows(3, 5, 0));
  expect_error<DataError>(folder_.string(), "b.npy");
}

TEST_F(EmbeddingsTest, NormalisedRowsHaveUnitLengthAndZeroStaysZero) {
  Tensor x = rows(3, 4, 1);
  for (int64_t k = 0; k < 4; ++k) x.as<float>()[4 + k] = 0;
  normalize_rows(x.as<float>(), 3, 4);
  EXPECT_FLOAT_EQ(x.as<float>()[0], 1 / std::sqrt(30.0f));
  EXPECT_EQ(x.as<float>()[5], 0);
}

/// Rows in an order that no cache of blocks helps, one at a time; seconds for all.
double read_rows_one_by_one(const EmbeddingStore& store, int64_t reads, int64_t first_value_step) {
  std::vector<float> row(static_cast<size_t>(store.width()));
  const auto begin = std::chrono::steady_clock::now();
  for (int64_t i = 0; i < reads; ++i) {
    const int64_t at = i * 7919 % store.rows();
    store.read(at, 1, row.data());
    EXPECT_EQ(row[0], static_cast<float>(at * first_value_step));
  }
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

TEST_F(EmbeddingsTest, AFileIsOpenedOnceAndNotPerRow) {
  constexpr int64_t kRows = 1000, kWidth = 16, kReads = 3000;
  const Tensor all = rows(kRows, kWidth, 0);
  write_h5("contiguous.h5", all);
  {  // the library has to convert these, so that another process reads them
    Hdf5File file = Hdf5File::create(path("doubles.h5"));
    std::vector<double> wide(all.f32().begin(), all.f32().end());
    file.write("/features", view_of(std::as_const(wide).data(), Shape{kRows, kWidth}));
    file.close();
  }
  write_npy(path("rows.npy"), all);
  // An open takes milliseconds (a process is forked), a row microseconds: 3000 opens would take 10 s.
  for (const char* name : {"contiguous.h5", "doubles.h5", "rows.npy"}) {
    const double seconds = read_rows_one_by_one(EmbeddingStore::open(path(name)), kReads, kWidth);
    std::printf("%s: %.4f ms a row\n", name, 1e3 * seconds / kReads);
    EXPECT_LT(seconds, 3) << name;
  }
}

}  // namespace
}  // namespace dino
